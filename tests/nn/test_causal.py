"""``causal`` is true exactly where split runs are right, through containers too, and streams of others are refused."""

import pytest
import torch
from torch import nn

import samples
import spikeloom as sl

SAMPLES = {**samples.IN_ONE_STEP, **samples.LAYERS}
TEMPORAL = [n for n, s in SAMPLES.items() if isinstance(s.make(), sl.TemporalModule)]


@pytest.mark.parametrize("name", TEMPORAL)
def test_no_step_sees_a_later_one_where_a_module_is_causal(name):
    """The last inputs are changed: the first outputs stay, and only then is the module causal."""
    sample = SAMPLES[name]
    module = sample.make()
    module.train(sample.random)  # without noise a noisy neuron is causal
    assert module.causal == sample.causal
    x = samples.inputs(sample)
    other = x.clone()
    other[8:] = -3 * x[8:]
    found = []
    with torch.no_grad(), sl.backend("eager"):
        for inputs in (x, other):
            torch.manual_seed(0)
            found.append(sl.Network(module)(inputs)[:8])
    if not sample.random:
        assert torch.equal(*found) == sample.causal


def bidirectional():
    return sl.nn.SpikingRNN(8, 4, bidirectional=True)


class Block(nn.Module):
    """A user's plain container."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({"first": nn.Linear(8, 8), "second": bidirectional()})
        self.causal = True  # as attention layers have it, of another meaning

    def forward(self, x):
        return self.parts["second"](self.parts["first"](x))


class Opaque(sl.TemporalModule):
    """A user's module that runs temporal modules by itself, and says nothing."""

    opaque = True

    def __init__(self):
        super().__init__()
        self.inside = nn.ModuleList([sl.nn.PSN(12)])

    def sequence(self, x, state=None, lengths=None, record=()):
        return self.inside[0].sequence(x)


def pink(**options):
    return sl.options.Noisy(samples.lif(), input=0.3, exponent=1.0, always=True, **options)


CONTAINERS = {
    "alone": (lambda: sl.nn.PSN(12), "0", "PSN"),
    "sequential": (lambda: nn.Sequential(nn.Sequential(nn.Linear(8, 8), bidirectional())), "0.1", "SpikingRNN"),
    "network": (lambda: sl.Network(sl.Network(nn.Linear(8, 8), sl.nn.PSN(12))), "0.0.1", "PSN"),
    "checkpoint": (lambda: sl.memory.Checkpoint(sl.nn.PSN(12)), "module", "PSN"),
    "plain container": (Block, "parts.second", "SpikingRNN"),
    "opaque container": (Opaque, "0.inside.0", "PSN"),
    "norm": (lambda: sl.nn.NormNeuron(nn.BatchNorm1d(8), pink()), "0.neuron", "Noisy"),
    "noise": (pink, "0", "Noisy"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_pass_it_on(name):
    make, path, culprit = CONTAINERS[name]
    net = sl.Network(make()).eval()
    assert not net.causal
    assert not sl.Network(nn.Sequential(net)).causal
    match = rf"{culprit}(\(.*\))? at '{path}' is not causal: it needs the whole sequence, so the network cannot"
    x = torch.rand(12, 2, 8)
    _, result = net(x, return_state=True)
    for make_stream in (net.stream, lambda: sl.Stream(net)):
        with pytest.raises(ValueError, match=f"{match} be streamed"):
            make_stream()
    with pytest.raises(ValueError, match=f"{match} continue from a state"):
        net(x, state=result.state)
    with pytest.raises(ValueError, match=f"{match} run step by step"):
        net.step(x[0])


def test_what_runs_step_by_step_refuses_parts_that_are_not_causal():
    with pytest.raises(ValueError, match=r"Loop runs step by step, but PSN\(T=4\) at 'module.1' is not causal"):
        sl.Loop(nn.Sequential(nn.Linear(2, 2), sl.nn.PSN(4)))
    recurrent = sl.nn.Recurrent(pink(), nn.Linear(8, 8))
    assert not recurrent.causal
    with pytest.raises(
        ValueError, match=r"Recurrent runs step by step, but Noisy\(.*exponent=1.0.*\) at 'neuron' is not"
    ):
        recurrent.sequence(torch.rand(5, 2, 8))
    masked = sl.nn.MaskedPSN(4, order=2, lam=1.0)
    loop = sl.Loop(masked)
    sl.Network(loop)(torch.rand(4, 2, 3))
    masked.lam = 0.5  # after the loop was made
    with pytest.raises(ValueError, match=r"Loop runs step by step, but MaskedPSN\(T=4, order=2, lam=0.5\) at 'module'"):
        sl.Network(loop)(torch.rand(4, 2, 3))


def test_a_module_may_say_it_itself():
    class Says(sl.TemporalModule):
        def __init__(self, causal):
            super().__init__()
            self.inner, self.causal = sl.nn.PSN(3), causal

    assert Says(True).causal
    assert not Says(False).causal
    assert sl.TemporalModule.causal


def test_coloured_noise_is_causal_while_there_is_none():
    neuron = sl.options.Noisy(samples.lif(), input=0.3, exponent=1.0)
    net, x = sl.Network(neuron), torch.rand(6, 2, 8)
    with pytest.raises(ValueError, match=r"Noisy.* at '0' is not causal"):
        net.stream()
    stream = net.eval().stream()
    assert torch.equal(torch.stack([stream(x_t) for x_t in x]), net(x))
    net.train()
    with pytest.raises(ValueError, match=r"Noisy.* at '0' is not causal"):
        stream(x[0])


def test_a_masked_psn_by_hand_split_streamed_and_ragged():
    """T = 6, order 3, lam 1: h[t] = 0.4 (x[t] + x[t-1] + x[t-2]) - 1 on ones, from the third step on at least 0."""
    neuron = sl.nn.MaskedPSN(6, order=3, lam=1.0)
    with torch.no_grad():
        neuron.weight.fill_(0.4)
    net, x = sl.Network(neuron), torch.ones(6, 2, 1)
    y, result = net(x[:3], return_state=True)
    assert y[:, 0].flatten().tolist() == [0, 0, 1]
    assert result.state["0"]["step"].tolist() == [3, 3]
    z, end = net(x[3:], state=result.state, return_state=True)
    assert z[:, 0].flatten().tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="has weights for T = 6 steps, this sequence goes to step 7"):
        net(x[:1], state=end.state)
    ragged, ends = net(x, lengths=torch.tensor([6, 2]), return_state=True)
    assert ragged[..., 0].t().tolist() == [[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]]
    assert ends.state["0"]["step"].tolist() == [6, 2]
    with pytest.raises(ValueError, match="goes to step 7"):
        net(x[:1], state=ends.state)
    fresh = {"0": {name: v[1:] for name, v in ends.state["0"].items()}}
    assert net(x[:4, 1:], state=fresh).flatten().tolist() == [1, 1, 1, 1]


def test_a_masked_psn_at_one_is_its_matrix():
    neuron, x = sl.nn.MaskedPSN(9, order=4, lam=1.0).double(), torch.randn(9, 2, 5, dtype=torch.float64)
    neuron.bias.data.normal_()
    smooth = sl.nn.MaskedPSN(9, order=4, lam=1.0, surrogate=sl.surrogate.Sigmoid(2.0, spiking=False)).double()
    with torch.no_grad():
        for mine, theirs in zip(smooth.parameters(), neuron.parameters(), strict=True):
            mine.copy_(theirs)
    x.requires_grad_()
    h = torch.einsum("tk,kbn->tbn", smooth.weights(), x) + smooth.bias.view(9, 1, 1)
    leaves = [x, smooth.weight, smooth.bias]
    y = smooth.sequence(x)[0]
    torch.testing.assert_close(y, torch.sigmoid(2 * h))
    g = torch.randn_like(y)
    for a, b in zip(
        torch.autograd.grad((y * g).sum(), leaves),
        torch.autograd.grad((torch.sigmoid(2 * h) * g).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_a_psn_takes_no_state():
    x = torch.rand(4, 2, 3)
    for neuron in (sl.nn.PSN(4), sl.nn.MaskedPSN(4, order=2)):
        with pytest.raises(ValueError, match="sees the whole sequence at once, and takes no state"):
            neuron.sequence(x, state={"seen": x[:1].transpose(0, 1)})
