"""What the docstrings of neurons and options say, sentence by sentence, where no other test holds them to it."""

import math

import pytest
import torch
from torch import nn

import samples
import spikeloom as sl

ALL = samples.IN_ONE_STEP


def run(neuron, x, **options):
    with sl.backend("eager"):
        return neuron.sequence(x, **options)


def same(one, other, x):
    """Whether two neurons have the same output, gradient and final voltage."""
    found = []
    for neuron in (one, other):
        inputs = x.clone().requires_grad_()
        y, state = run(neuron, inputs)
        found.append((y.detach(), state["v"].detach(), torch.autograd.grad(y.sum() + state["v"].sum(), inputs)[0]))
    return all(torch.allclose(a, b, atol=1e-6, rtol=1e-6) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_outputs_states_and_names(name):
    """Binary outputs are 0 or 1, may be packed, and others may not; dtypes; what can be recorded; shapes of states."""
    sample = ALL[name]
    neuron = sample.make().eval()
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int32):
        x = samples.inputs(sample).to(dtype)
        y, state, recorded = (*run(neuron, x, record=neuron.recordable), {})[:3]
        assert y.dtype == (dtype if dtype.is_floating_point else torch.float32)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        assert {s.dtype for s in state.values()} <= {wide}
        assert tuple(state) == tuple(recorded) == neuron.recordable
        assert all(
            s.shape == x.shape[1:] and r.shape == x.shape
            for s, r in zip(state.values(), recorded.values(), strict=True)
        )
        if neuron.is_binary:
            assert set(y.unique().tolist()) <= {0.0, 1.0}
    if neuron.is_binary:
        neuron.packed = True
        assert isinstance(run(neuron, x)[0], sl.SpikeTensor)
    else:
        with pytest.raises(ValueError, match="its output is not 0 or 1, and cannot be packed into bits"):
            neuron.packed = True
    net = sl.Network(sample.make().eval(), spikes="packed")
    with sl.backend("eager"):
        assert isinstance(net(samples.inputs(sample)), sl.SpikeTensor) == neuron.is_binary


@pytest.mark.parametrize("name", [n for n, s in ALL.items() if not s.random and n != "MPBN"])
def test_training_and_evaluation_are_the_same_function(name):
    sample, found = ALL[name], []
    neuron = sample.make()
    for mode in (True, False):
        x = samples.inputs(sample).requires_grad_()
        y, state = run(neuron.train(mode), x)
        loss = y.sum() + sum(s.sum() for s in state.values())
        grad = torch.autograd.grad(loss, x)[0] if loss.requires_grad else torch.zeros(())
        found.append((y, grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("name", ALL)
def test_what_a_sequence_refuses(name):
    sample = ALL[name]
    neuron = sample.make().eval()
    x = samples.inputs(sample, 4)
    for wrong in (x[:0], x[:, :0], x[0, 0, :1]):
        with pytest.raises(ValueError, match=r"expected \[T, B, \*\] with T > 0 and B > 0, got"):
            run(neuron, wrong)
    with pytest.raises(ValueError, match="cannot record 'nothing', only"):
        run(neuron, x, record=("nothing",))
    if neuron.recordable:
        state = run(neuron, x)[1]
        first = next(iter(state))
        for bad, message in (
            ({}, "expected a state with"),
            ({**state, "more": state[first]}, "expected a state with"),
            ({**state, first: state[first][:1]}, "the given state"),
            ({**state, first: state[first].double()}, "the given state"),
            (state[first], "expected a state with"),
        ):
            with pytest.raises(ValueError, match=message):
                run(neuron, x, state=bad)


DETACHED = (  # whose spikes enter v by the reset alone
    "IF", "IF soft", "LIF", "LIF leak", "PLIF", "Leaky", "Leaky hard", "Leaky now", "Synaptic", "Synaptic hard",
    "Synaptic now", "QIF", "EIF", "KLIF", "KLIF scaled", "KLIF scaled hard", "CLIF", "Lapicque", "ResonateFire",
    "ResonateFire soft", "Alpha", "LIAF", "LIAF of h", "TernaryIF", "TernaryLIF", "ActivationAwareIF",
)  # fmt: skip


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("name", DETACHED)
def test_a_detached_reset_has_no_gradient_through_the_spike(name, detach):
    """Then the gradient of the voltage does not know which surrogate there is."""
    if name == "CLIF" and detach:
        return  # m carries the spike's gradient into later voltages: that is what it is for
    sample, grads = ALL[name], []
    for surrogate in (sl.surrogate.ATan(2.0), sl.surrogate.Sigmoid(1.0)):
        neuron = sample.make().double()
        neuron.surrogate, neuron.detach_reset = surrogate, detach
        x = samples.inputs(sample, 20, dtype=torch.float64).requires_grad_()
        grads.append(torch.autograd.grad(run(neuron, x)[1]["v"].sum(), x)[0])
    assert grads[0].abs().sum() > 0
    assert torch.equal(*grads) == detach


def test_defaults_of_neurons():
    u = torch.tensor([-0.4, 0.3], requires_grad=True)
    wanted = torch.autograd.grad(sl.surrogate.ATan(2.0)(u).sum(), u)[0]
    for name, sample in samples.NEURONS.items():
        surrogate = sample.make().surrogate
        if name == "FewSpike":
            assert repr(surrogate) == repr(sl.surrogate.Sigmoid(4.0))
        else:
            assert torch.equal(torch.autograd.grad(surrogate(u).sum(), u)[0], wanted), name
    for kind in (sl.Leaky, lambda **o: sl.Synaptic(alpha=0.5, **o)):
        assert kind(beta=0.5).detach_reset  # as reset_delay
        assert not kind(beta=0.5, reset_delay=False).detach_reset
        assert not kind(beta=0.5, detach_reset=False).detach_reset
        assert kind(beta=0.5).strict
    soft = (sl.TernaryIF, sl.TernaryLIF, sl.ActivationAwareIF, sl.CLIF, sl.ALIF)
    assert [kind().reset for kind in soft] == ["soft"] * 5


def test_neurons_that_are_others():
    x = 0.5 + torch.randn(40, 2, 3, dtype=torch.float64)
    leaky = sl.Leaky(beta=0.75, reset_delay=False, strict=False)
    assert same(leaky, sl.LIF(tau=4.0, decay_input=False, reset="soft"), x)
    # Lapicque(beta) is r = 1, c = -1/ln(beta), whose decay is 1 + ln(beta)
    beta = 0.8
    decay = 1 + math.log(beta)
    circuit = sl.Lapicque(r=1.0, c=-1 / math.log(beta), v_threshold=9.0, reset="none")
    v = run(circuit, torch.tensor([[1.0], [0.0]], dtype=torch.float64), record=("v",))[2]["v"].flatten()
    assert float(v[1] / v[0]) == pytest.approx(decay)
    # PLIF begins as the LIF of its tau
    assert same(sl.PLIF(tau=3.0).double(), sl.LIF(tau=3.0), x)  # w is a float32 number
    tensor = sl.PLIF(tau=torch.tensor([2.0, 3.0, 4.0]))
    torch.testing.assert_close(tensor.w, -torch.log(torch.tensor([1.0, 2.0, 3.0])))
    torch.testing.assert_close(tensor.tau, torch.tensor([2.0, 3.0, 4.0]))
    assert [sl.PLIF(shape=s).w.shape for s in (None, 5, (5, 2, 2))] == [(), (5,), (5, 2, 2)]
    # with delta_t small an EIF is a LIF below v_rh
    lif = sl.LIF(tau=3.0, v_threshold=0.9, v_reset=-0.2, v_leak=0.1)
    sharp = sl.EIF(tau=3.0, delta_t=1e-3, v_rh=50.0, v_leak=0.1, v_threshold=0.9, v_reset=-0.2)
    assert same(lif, sharp, x)
    # an AdEx without adaptation is an EIF
    numbers = dict(tau=3.0, delta_t=0.8, v_rh=0.6, v_leak=0.1, v_threshold=0.9, v_reset=-0.2)
    assert same(sl.AdEx(a=0.0, b=0.0, **numbers), sl.EIF(**numbers), x)


def test_a_qif_fires_without_input_above_its_critical_voltage_alone():
    neuron, x = sl.QIF(tau=4.0, v_c=0.6, v_leak=0.0, v_threshold=1.0), torch.zeros(60, 1, dtype=torch.float64)
    y, _ = run(neuron, x, state={"v": torch.tensor([0.62], dtype=torch.float64)})
    assert y.sum() >= 1
    y, state = run(neuron, x, state={"v": torch.tensor([0.58], dtype=torch.float64)})
    assert y.sum() == 0
    assert abs(state["v"].item()) < 0.01


def test_an_adaptive_membrane_oscillates_where_a_is_positive():
    x = torch.zeros(200, 1, dtype=torch.float64)
    x[0] = 1.0
    for a, swings in ((40.0, True), (0.0, False)):
        v = run(sl.SEAdLIF(alpha=0.95, beta=0.98, a=a, v_threshold=9.0), x, record=("v",))[2]["v"].flatten()
        assert bool((v < -1e-3).any()) == swings


def test_an_alpha_neuron_clears_all_one_step_after_its_spike():
    x = torch.zeros(12, 1, dtype=torch.float64)
    x[0] = 5.0
    for reset in (True, False):
        y, _, seen = run(sl.Alpha(alpha=0.8, beta=0.7, reset=reset), x, record=("e", "i", "v"))
        at = int(y.flatten().nonzero()[0])
        cleared = [bool(seen[name][at + 1].abs() == 0) for name in ("e", "i", "v")]
        assert cleared == [reset] * 3
    with pytest.raises(ValueError, match="alpha must be larger than beta"):
        sl.Alpha(alpha=0.5, beta=0.5)


def test_no_gradient_where_there_is_said_to_be_none():
    x = torch.rand(5, 2, 3, requires_grad=True)
    assert not run(sl.STBIF(), x)[0].requires_grad
    level = torch.linspace(-0.5, 2.5, 7).view(1, 7).requires_grad_()
    assert torch.autograd.grad(run(sl.ILIF(levels=2), level)[0].sum(), level)[0].flatten().tolist() == [
        0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0,
    ]  # fmt: skip


def test_sigma_delta_sends_all_at_a_threshold_of_zero_and_computes_networks_on_changes():
    x = torch.randn(30, 2, 4, dtype=torch.float64)
    y = run(sl.SigmaDelta(v_threshold=0.0, activation=torch.tanh), x)[0]
    torch.testing.assert_close(y.cumsum(0), torch.tanh(x.cumsum(0)))
    layers = [nn.Linear(4, 6, bias=False).double(), nn.Linear(6, 3, bias=False).double()]
    changes = sl.Network(layers[0], sl.SigmaDelta(v_threshold=0.0, activation=torch.relu), layers[1])
    values = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    torch.testing.assert_close(changes(x).cumsum(0), values(x.cumsum(0)))
    assert run(sl.SigmaDelta(v_threshold=0.0), x)[0].allclose(x)  # None is the identity


def test_few_spikes_have_a_sign_and_a_range():
    table = sl.FewSpikeTable.relu(4, most=2.0)
    x = torch.tensor([[-3.0, -1.3, 0.0, 1.3, 3.0]])
    signed = run(sl.FewSpike(table, signed=True), x)[0].flatten()
    assert torch.equal(signed, -signed.flip(0))
    clamped = sl.FewSpike(table, clamp=(0.5, 1.0))
    assert run(clamped, x)[0].flatten().tolist() == [0.5, 0.5, 0.5, 1.0, 1.0]
    two = sl.FewSpike(table, sl.FewSpikeTable.relu(4, most=4.0), gates=(1.0,))
    assert run(two, torch.tensor([[1.0, 1.01]]))[0].flatten().tolist() == [1.0, 1.0]
    assert run(two, torch.tensor([[3.3]]))[0].item() == 3.25  # the second table, whose bits end at 1/4
    assert two.initial_state(x[0]) == {}


def test_a_refractory_neuron_takes_no_part_and_has_no_gradient_while_it_waits():
    x = torch.tensor([2.0, 0.3, 0.4, 0.5, 0.6], dtype=torch.float64).view(5, 1).requires_grad_()
    y, _, seen = run(sl.options.Refractory(sl.IF(reset="soft"), steps=2), x, record=("v", "wait"))
    assert y.flatten().tolist() == [1, 0, 0, 1, 0]
    assert seen["wait"].flatten().tolist() == [2, 1, 0, 2, 1]
    assert seen["v"].flatten().tolist() == [1.0, 1.0, 1.0, 0.5, 0.5]
    grad = torch.autograd.grad(seen["v"][3].sum(), x)[0].flatten()
    assert grad[1:3].tolist() == [0, 0]
    assert grad[3] != 0


def test_the_reset_of_graded_spikes_does_not_know_the_factor():
    x = samples.inputs(samples.OPTIONS["Graded"])
    for factor in (0.25, torch.linspace(0.1, 2.0, samples.F)):
        y, state = run(sl.options.Graded(samples.leaky(), factor=factor), x)
        plain, wanted = run(samples.leaky(), x)
        assert torch.equal(state["v"], wanted["v"])
        assert torch.equal(y, plain * factor)


def test_half_of_a_level_goes_to_the_even_level():
    neuron = sl.options.StateQuant(sl.IF(v_threshold=99.0), bits=2, low=0.0, high=3.0)  # levels 0, 1, 2, 3
    x = torch.tensor([[0.5, 1.5, 2.5, 0.51, -4.0, 9.0]])
    assert run(neuron, x)[1]["v"].flatten().tolist() == [0.0, 2.0, 2.0, 1.0, 0.0, 3.0]


def test_a_neuron_half_way_begins_at_its_fraction():
    x = torch.zeros(2, 3)
    neuron = sl.options.HalfThreshold(sl.LIF(v_threshold=torch.tensor([1.0, 2.0, 3.0])), fraction=0.25)
    assert neuron.initial_state(x)["v"].tolist() == [[0.25, 0.5, 0.75]] * 2


def test_without_gradients_over_time_a_step_keeps_nothing_of_earlier_ones():
    for option in (lambda n: n, lambda n: sl.options.Graded(n, factor=0.5)):
        for backend in ("eager", "auto"):
            stream = sl.Network(option(sl.options.SLTT(sl.LIF(v_threshold=0.3)))).stream()
            xs = [torch.rand(2, 3, requires_grad=True) for _ in range(4)]
            with sl.backend(backend):
                ys = [stream(x) for x in xs]
            for t in range(4):
                reached = torch.autograd.grad(ys[t].sum(), xs, allow_unused=True, retain_graph=True)
                assert [g is not None for g in reached] == [k == t for k in range(4)]


@pytest.mark.parametrize("place", ["input", "threshold", "output"])
@pytest.mark.parametrize("distribution", ["gaussian", "logistic", "gumbel"])
def test_the_strength_of_noise_has_its_exact_gradient(place, distribution):
    sigma = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    x = samples.inputs(samples.NEURONS["LIF"], 5, dtype=torch.float64)
    smooth = samples.smoothed(sl.LIF(v_threshold=0.4))

    def noisy(sigma):
        torch.manual_seed(0)
        neuron = sl.options.Noisy(
            smooth, **{place: nn.Parameter(torch.tensor(0.3).double())}, distribution=distribution
        )
        return torch.func.functional_call(sl.Network(neuron), {f"body.0.sigma_{place}": sigma}, (x,))

    with sl.backend("eager"):
        assert torch.autograd.gradcheck(noisy, (sigma,))


def test_states_of_an_option_follow_the_inner_neurons():
    neuron = sl.options.Refractory(sl.options.Adaptive(sl.Synaptic(alpha=0.5, beta=0.5, reset_delay=False)), steps=1)
    assert neuron.recordable == ("i", "v", "a", "wait")
    assert neuron.neuron.neuron.alpha == 0.5
    assert neuron.core() is neuron.neuron.neuron


def test_a_user_declares_states_by_number_or_by_name():
    class Rests(sl.Neuron):
        def __init__(self):
            super().__init__()
            self.numbers(low=-0.5)
            self.states(v="low", w=nn.Parameter(torch.tensor(0.25)), z=torch.tensor([1.0, 2.0]))

        def dynamics(self, x, v, w, z):
            return x, v, w, z

    rest = Rests().initial_state(torch.zeros(1, 2))
    assert {name: v.flatten().tolist() for name, v in rest.items()} == {
        "v": [-0.5, -0.5],
        "w": [0.25, 0.25],
        "z": [1.0, 2.0],
    }


def test_a_packed_neuron_that_does_not_spike_is_refused():
    """A surrogate with spiking=False gives values that no bit can hold."""
    neuron = sl.LIF(surrogate=sl.surrogate.Sigmoid(spiking=False))
    neuron.packed = True
    with pytest.raises(ValueError, match="values are neither 0 nor 1"):
        run(neuron, torch.rand(4, 2, 3))
    net = sl.Network(sl.LIF(surrogate=sl.surrogate.Sigmoid(spiking=False)), spikes="packed")
    assert type(net(torch.rand(4, 2, 3))) is torch.Tensor
