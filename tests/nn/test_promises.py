"""What the docstrings of sl.nn say, sentence by sentence, where no other test holds them to it."""

import math

import pytest
import torch
from torch import nn

import samples
import spikeloom as sl

N = sl.nn


def test_weights_begin_as_they_say():
    for make in (N.PSN, lambda T: N.MaskedPSN(T, order=2)):
        torch.manual_seed(3)
        neuron = make(7)
        torch.manual_seed(3)
        assert torch.equal(neuron.weight, nn.Linear(7, 7).weight)
        assert neuron.bias.tolist() == [-1.0] * 7
    assert N.SlidingPSN(4).weight.tolist() == [0.125, 0.25, 0.5, 1.0]
    assert N.SlidingPSN(4).bias.item() == -1.0
    assert N.OneToOne(3, weight=0.25).weight.tolist() == [0.25] * 3
    for layer in N.SpikingLSTM(3, 16, 2).layers:
        assert all(p.abs().max() <= 0.25 for p in layer.parameters())  # as nn.LSTM: 1 / sqrt(hidden_size)


def test_default_surrogates():
    slope = torch.tensor([-0.4, 0.3])
    for module, wanted in (
        (N.PSN(2), sl.surrogate.ATan(2.0)),
        (N.MaskedPSN(2, order=1), sl.surrogate.ATan(2.0)),
        (N.SlidingPSN(2), sl.surrogate.ATan(2.0)),
        (N.GLIF(2).neuron, sl.surrogate.Sigmoid(4.0)),
        (N.AssociativeLeaky(2, d_value=1, d_key=1).neuron, sl.surrogate.ATan(2.0)),
        (N.SpikingRNN(1, 1), sl.surrogate.Erf(2.0)),
        (N.SpikingGRU(1, 1), sl.surrogate.Erf(2.0)),
        (N.SpikingLSTM(1, 1), sl.surrogate.Erf(2.0)),
        (N.SpikingLSTM(1, 1, cell="membrane"), sl.surrogate.ATan(2.0)),
        (N.SConv2dLSTM(1, 1, 1), sl.surrogate.ATan(2.0)),
    ):
        grads = []
        for surrogate in (module.surrogate, wanted):
            u = slope.clone().requires_grad_()
            grads.append(torch.autograd.grad(surrogate(u).sum(), u)[0])
        assert torch.equal(*grads)
    for kind in (N.SpikingGRU, N.SpikingLSTM):
        assert kind(1, 1).candidate is kind(1, 1).surrogate or type(kind(1, 1).candidate) is sl.surrogate.Erf
        other = sl.surrogate.Sigmoid(3.0)
        assert kind(1, 1, candidate=other).candidate is other


def test_glif_begins_where_it_says():
    neuron = N.GLIF(10, 3, tau=0.3, v_threshold=0.6, conduct=0.2)
    values = {name: torch.sigmoid(p) for name, p in neuron.named_parameters()}
    for name, wanted in (
        ("neuron.tau", 0.3),
        ("neuron.v_threshold", 0.6),
        ("neuron.leak", 0.6 / 20),
        ("neuron.v_subreset", 0.6),
        ("conduct", 0.2),
    ):
        torch.testing.assert_close(values.pop(name), torch.full((10, 3) if name == "conduct" else (3,), wanted))
    assert set(values) == {"beta", "neuron.alpha", "neuron.gamma"}  # the gates
    assert all(((v - 0.5).abs() < 0.03).all() and v.unique().numel() == 3 for v in values.values())
    torch.manual_seed(5)
    first = N.GLIF(10).beta.item()
    torch.manual_seed(5)
    assert N.GLIF(10).beta.item() == first
    assert all(p.shape in ((), (10,)) for p in N.GLIF(10).parameters())  # one for all
    given = N.GLIF(10, leak=0.05, v_subreset=0.7)
    assert torch.sigmoid(given.neuron.leak).item() == pytest.approx(0.05)
    assert torch.sigmoid(given.neuron.v_subreset).item() == pytest.approx(0.7)


def test_dsr_thresholds():
    """Fires alpha v_threshold, of the height v_threshold, which is never less than least."""
    neuron = N.DSRIF(v_threshold=1.0, alpha=0.25, least=0.5)
    x = torch.tensor([0.2, 0.05, 0.0]).view(3, 1, 1)
    assert neuron.sequence(x)[0].flatten().tolist() == [0.0, 1.0, 0.0]  # at 0.25
    with torch.no_grad():
        neuron.neuron.v_threshold.fill_(0.1)
    assert neuron.sequence(x)[0].flatten().tolist() == [0.5, 0.0, 0.0]  # at 0.125, of the height 0.5
    assert [name for name, _ in neuron.named_parameters()] == ["neuron.v_threshold"]
    for name in ("DSRIF", "DSRLIF"):
        sample = samples.LAYERS[name]
        module, x = sample.make(), samples.inputs(sample)
        whole, _ = module.sequence(x)
        first, state = module.sequence(x[:5])
        second, _ = module.sequence(x[5:], state=state)
        assert torch.equal(torch.cat([first, second]), whole)  # split runs share the forward pass


def test_parallel_lif_follows_a_surrogate_that_does_not_spike():
    """The result is that of the sequential neuron, its gradient too."""
    neuron = sl.LIF(v_threshold=0.4, surrogate=sl.surrogate.Sigmoid(3.0, spiking=False)).double()
    found = []
    for module in (neuron, N.ParallelLIF(neuron)):
        x = samples.inputs(samples.NEURONS["LIF"], 30, dtype=torch.float64).requires_grad_()
        with sl.backend("eager"):
            y, _ = module.sequence(x)
        found.append((y.detach(), torch.autograd.grad((y * torch.arange(30.0).view(-1, 1, 1)).sum(), x)[0]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_parallel_lif_ends_after_as_many_iterations_as_steps():
    """A threshold that is met exactly at every step, the worst there is; states are the neuron's."""
    x = torch.full((40, 1, 1), 0.5, dtype=torch.float64)
    neuron = sl.LIF(tau=2.0, decay_input=False, v_threshold=0.5)
    parallel = N.ParallelLIF(neuron)
    y, _, recorded = parallel.sequence(x, record=("iterations",))
    assert torch.equal(y, neuron.sequence(x)[0])
    assert recorded["iterations"].max() <= 80  # T for the spikes, T for the bits
    assert parallel.recordable == neuron.recordable
    assert torch.equal(parallel.sequence(x)[1]["v"], neuron.sequence(x)[1]["v"])


def test_inhibition_lets_the_first_of_equals_win_and_runs_as_a_loop():
    x = torch.tensor([[[1.5, 2.0, 2.0, 2.0]]])
    assert N.Inhibition(sl.IF()).sequence(x)[0].flatten().tolist() == [0, 1, 0, 0]
    assert N.Inhibition(sl.IF(), among="all").sequence(x.view(1, 1, 2, 2))[0].flatten().tolist() == [0, 1, 0, 0]
    (row,) = sl.explain(sl.Network(N.Inhibition(sl.IF())), x).rows
    assert row.backend == "eager"
    _, state = N.Inhibition(sl.IF(reset="soft")).sequence(x)
    assert state["v"].flatten().tolist() == [1.5, 1.0, 2.0, 2.0]  # losers are not reset


def test_norm_neuron_is_the_norm_and_the_neuron():
    bn, neuron = nn.BatchNorm1d(8), samples.lif()
    module = N.NormNeuron(bn, neuron)
    assert list(module.state_dict()) == [
        *(f"bn.{name}" for name in bn.state_dict()),
        *(f"neuron.{name}" for name in neuron.state_dict()),
    ]
    assert module.bn is bn
    assert module.recordable == neuron.recordable
    x = samples.inputs(samples.LAYERS["NormNeuron"])
    # mean and var over T and B in training, by hand; the running ones in evaluation
    mean, var = x.mean((0, 1)), x.var((0, 1), unbiased=False)
    wanted = neuron.sequence((x - mean) / (var + bn.eps).sqrt())[0]
    with sl.backend("eager"):
        assert torch.equal(module.sequence(x)[0], wanted)
    torch.testing.assert_close(bn.running_mean, 0.1 * mean)
    module.eval()
    with sl.backend("eager"):
        evaluated = neuron.sequence((x - bn.running_mean) / (bn.running_var + bn.eps).sqrt())[0]
        assert torch.equal(module.sequence(x)[0], evaluated)
    for wrong in (lambda: N.NormNeuron(nn.LayerNorm(8), neuron), lambda: N.NormNeuron(bn, nn.ReLU())):
        with pytest.raises(TypeError, match="NormNeuron: expected"):
            wrong()


def test_norm_neuron_keeps_no_normalised_tensor():
    """With a kernel: what a neuron without a norm keeps, and what is one per channel."""
    x = torch.rand(20, 16, 32)
    kept = {}
    for name, neuron in (("norm", N.NormNeuron(nn.BatchNorm1d(32), sl.LIF())), ("plain", sl.LIF())):
        net = sl.Network(nn.Linear(32, 32), neuron, nn.Linear(32, 4))
        if {row.backend for row in sl.explain(net, x).rows} != {"c"}:
            pytest.skip("no C kernels on this machine")
        kept[name] = sl.memory.report(net, x).saved
    assert kept["plain"] <= kept["norm"] <= kept["plain"] + 10 * 32 * 8
    assert 20 * 16 * 32 * 4 > 10 * 32 * 8  # the normalised tensor would be seen


def test_feedback_is_the_last_output():
    neuron = N.Recurrent(samples.lif(), nn.Linear(8, 8))
    y, state = neuron.sequence(samples.inputs(samples.LAYERS["Recurrent"]))
    assert torch.equal(state["fed_back"], y[-1])
    x = torch.zeros(3, 8)
    assert neuron.initial_state(x)["fed_back"].eq(0).all()
    one = N.OneToOne()
    assert torch.equal(one(torch.ones(2, 5, 3)), torch.ones(2, 5, 3))  # one weight for all, 1
    with pytest.raises(TypeError, match="Recurrent: expected a neuron"):
        N.Recurrent(nn.ReLU(), nn.Linear(8, 8))


def test_ilc_feeds_back_inside_groups_alone():
    layer = N.ILC(3, 2)
    y = torch.rand(4, 6)
    other = y.clone()
    other[:, 2:4] += 1.0  # the second group
    changed = (layer(other) - layer(y)).abs().amax(0) > 1e-6
    assert changed.tolist() == [False, False, True, True, False, False]
    blocks = torch.block_diag(*layer.weight)
    torch.testing.assert_close(layer(y), y @ blocks.t() + layer.bias.flatten())


@pytest.mark.parametrize("name", ["SpikingRNN", "SpikingGRU", "SpikingLSTM"])
def test_recurrent_networks_have_the_options_of_torchs(name):
    network = getattr(N, name)(3, 5, 2, bias=False, bidirectional=True)
    assert [p.shape for p in network.layers[0].parameters()] == [(network.gates * 5, 3), (network.gates * 5, 5)]
    assert network.layers[2].linear_ih.weight.shape == (network.gates * 5, 10)  # of both directions
    y, state = network.sequence(torch.randn(4, 2, 3))
    assert y.shape == (4, 2, 10)
    assert [s.shape for layer in state for s in layer] == [(2, 5)] * 4 * network.parts
    assert all(s.eq(0).all() for layer in network.initial_state(torch.randn(2, 3)) for s in layer)


def test_the_memory_of_an_lstm_of_spikes_is_at_most_one_and_its_gradient_passes():
    """All gates fire: c = min(1 c + 1, 1). From the second step on c is cut, and the gradient passes straight."""
    network = N.SpikingLSTM(1, 1, bias=False)
    with torch.no_grad():
        network.layers[0].linear_ih.weight.fill_(1.0)
        network.layers[0].linear_hh.weight.zero_()
    x = torch.ones(3, 1, 1, requires_grad=True)
    y, state = network.sequence(x)
    assert y.flatten().tolist() == [1, 1, 1]
    assert state[0][1].item() == 1
    # c = f c + i g: each step adds g'(1)(i + g) by i and g, and g'(1) c by f; nothing is lost at the cut
    slope = 2 / math.sqrt(math.pi) * math.exp(-4)  # Erf(2) at u = 1
    (grad,) = torch.autograd.grad(state[0][1].sum(), x)
    assert grad.flatten().tolist() == pytest.approx([2 * slope, 3 * slope, 3 * slope], rel=1e-5)


def test_a_convolutional_lstm_keeps_height_and_width():
    for size in (1, 3, (5, 3)):
        y, state = N.SConv2dLSTM(2, 3, size).sequence(torch.rand(2, 2, 2, 6, 7))
        assert y.shape == (2, 2, 3, 6, 7)
        assert state["h"].shape == state["c"].shape == (2, 3, 6, 7)
    assert N.SConv2dLSTM(2, 3, 3, bias=False).conv.bias is None


@pytest.mark.parametrize("name", samples.LAYERS)
def test_layers_compute_the_same_in_training_and_evaluation(name):
    """But for batch norms and dropout, which say so."""
    sample = samples.LAYERS[name]
    module, x, found = sample.make(), samples.inputs(sample), []
    for mode in (True, False):
        net = sl.Network(module).train(mode)
        inputs = x.clone().requires_grad_()
        with sl.backend("eager"):
            y = net(inputs)
            found.append((y.detach(), torch.autograd.grad(y.square().sum(), inputs)[0]))
    assert torch.equal(found[0][0], found[1][0]) != sample.by_mode
    assert torch.equal(found[0][1], found[1][1]) != sample.by_mode


@pytest.mark.parametrize("name", [n for n, s in samples.LAYERS.items() if isinstance(s.make(), sl.TemporalModule)])
def test_layers_refuse_states_that_do_not_fit(name):
    """Another batch size or another dtype raises; it is never started anew in silence. Counts of steps have no dtype
    of the input."""
    sample = samples.LAYERS[name]
    net, x = sl.Network(sample.make()).eval(), samples.inputs(sample)
    if not sample.causal:
        return
    with sl.backend("eager"):
        state = net(x[:4], return_state=True)[1].state
        assert sl.detach(state).keys() == state.keys()
        leaves = [s for s in torch.utils._pytree.tree_leaves(state) if s is not None]
        if not leaves:
            return
        values = any(s.is_floating_point() for s in leaves)
        for wrong in (x[4:, :2], x[4:].double())[: 1 + values]:
            with pytest.raises((ValueError, RuntimeError), match=r"state|dtype"):
                net.double()(wrong, state=state) if wrong.dtype == torch.float64 else net(wrong, state=state)


@pytest.mark.parametrize("among", ["channels", "all"])
def test_nobody_wins_among_none(among):
    assert sl.nn.Inhibition(sl.IF(), among=among).sequence(torch.rand(4, 2, 0))[0].shape == (4, 2, 0)
