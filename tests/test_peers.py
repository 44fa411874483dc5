"""Whoever writes a name of another framework's is told ours."""

import functools
import pickle
import re

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom import _peers

WRONG = [
    (lambda: sl.LIF(surrogate_function=sl.surrogate.ATan()), "surrogate= takes an instance, such as"),
    (lambda: sl.Leaky(beta=0.9, spike_grad=None), "surrogate= takes an instance, such as"),
    (lambda: sl.Leaky(beta=0.9, threshold=1.0), "the threshold is v_threshold="),
    (lambda: sl.LIF(step_mode="m"), r"whole sequences \[T, B, \*\] go in"),
    (lambda: sl.Leaky(beta=0.9, init_hidden=True), "nothing is reset"),
    (lambda: sl.Leaky(beta=0.9, learn_beta=True), r"nn\.Parameter\(torch\.tensor\(0\.9\)\)"),
    (lambda: sl.surrogate.ATan(alpha=2.0), r"a surrogate's sharpness is its scale"),
    (lambda: sl.surrogate.FastSigmoid(slope=25), r"a surrogate's sharpness is its scale"),
    (lambda: sl.PLIF(init_tau=2.0), "the time constant is tau="),
    (lambda: sl.Leaky(0.9), r"given by name: Leaky\(beta=0\.9\)"),
    (lambda: sl.LIF(2.0, 0.5), r"given by name: LIF\(tau=2\.0, v_threshold=0\.5\)"),
    (lambda: sl.LIF(v_treshold=1.0), r"there is no argument 'v_treshold': did you mean 'v_threshold'\?"),
    (lambda: sl.LIF(colour=1), r"there is no argument 'colour'\. It takes tau, v_threshold, "),
    (
        lambda: sl.Leaky(beta=0.9, spike_grad=None, init_hidden=True, colour=1),
        r"'spike_grad': surrogate= takes .*; nor 'init_hidden': nothing is kept .*; nor 'colour'\. It takes beta",
    ),
    (lambda: sl.LIF(v_reset=None), r'for a soft reset \(SpikingJelly.s v_reset=None\) write reset="soft"'),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message[:24] for _, message in WRONG])
def test_an_argument_of_a_peer_is_told_by_our_name(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_resets_and_names_of_peers():
    for word, ours in (("subtract", "soft"), ("zero", "hard")):
        with pytest.raises(ValueError, match=f'snnTorch\'s "{word}" is reset="{ours}"'):
            sl.Leaky(beta=0.9, reset=word)
    for name, ours in (
        ("LIFNode", "sl.LIF"),
        ("functional", "sl.loss"),
        ("spikegen", "sl.encode"),
        ("PSN", "sl.nn.PSN"),
    ):
        with pytest.raises(AttributeError, match=f"no attribute '{name}': it is {ours}.* here; docs/porting.md"):
            getattr(sl, name)
    with pytest.raises(AttributeError, match=r"no attribute 'nonsense'$"):
        _ = sl.nonsense


OPTIONS = [
    (
        lambda: sl.encode.poisson(VECTORS, num_steps=4),
        r"encode\.poisson: .* 'num_steps': the number of steps is T=\. It ",
    ),
    (lambda: sl.encode.latency(VECTORS, 4, linear=True), r"encode\.latency: .* 'linear': the code is code=\"linear\""),
    (lambda: sl.encode.phase(VECTORS, 4, num_steps=4), r"encode\.phase: .* 'num_steps': .* T="),
    (
        lambda: sl.encode.poisson(VECTORS, 4, 0.5),
        r"encode\.poisson: too many positional .*; it takes x, T, and gain, .* by",
    ),
    (lambda: sl.encode.poisson(), r"encode\.poisson: missing a required argument: 'x'; it takes x, T"),
    (
        lambda: sl.loss.count_mse(VECTORS, VECTORS, population_code=True),
        r"loss\.count_mse: .* have num_classes= classes",
    ),
    (
        lambda: sl.loss.tet(VECTORS, targets=VECTORS),
        r"loss\.tet: .* 'targets': did you mean 'target'\? It takes outputs",
    ),
    (lambda: sl.loss.van_rossum(VECTORS, VECTORS, beta=1), r"loss\.van_rossum: there is no argument 'beta'\. It takes"),
    (lambda: sl.metrics.accuracy_rate(VECTORS, VECTORS, population_code=True), r"sl\.metrics\.accuracy_population"),
    (lambda: sl.encode.poisson("abc", 3), r"^encode\.\w+: expected a"),  # a TypeError of its own is left alone
]


@pytest.mark.parametrize(("call", "message"), OPTIONS, ids=[str(i) for i in range(len(OPTIONS))])
def test_an_argument_of_an_encoder_or_a_loss_is_told_by_our_name(call, message):
    with pytest.raises(TypeError, match=message):
        call()


ELSEWHERE = [
    ("encode", "rate", "sl.encode.poisson"),
    ("encode", "PoissonEncoder", "sl.encode.poisson"),
    ("encode", "LatencyEncoder", "sl.encode.latency"),
    ("encode", "targets_rate", "sl.encode.target_rate"),
    ("loss", "ce_rate_loss", "sl.loss.rate_cross_entropy"),
    ("loss", "mse_count_loss", "sl.loss.count_mse"),
    ("loss", "TET", "sl.loss.tet"),
    ("loss", "SpikeTime", "sl.decode.first_spike"),
    ("metrics", "accuracy_temporal", "sl.metrics.accuracy_first_spike"),
    ("decode", "accuracy_rate", "sl.metrics.accuracy_rate"),
    ("surrogate", "atan", "sl.surrogate.ATan"),
    ("surrogate", "fast_sigmoid", "sl.surrogate.FastSigmoid"),
    ("surrogate", "straight_through_estimator", "sl.surrogate.StraightThrough"),
    ("neuron", "LIFNode", "sl.LIF"),
    ("neuron", "PSN", "sl.nn.PSN"),
    ("nn", "Conv2d", "torch.nn.Conv2d: plain layers go into sl.Network unchanged"),
    ("nn", "Sigmoid", "torch.nn.Sigmoid"),
    ("nn", "LIF", "sl.LIF"),
    ("nn", "TemporalWiseAttention", "sl.nn.TemporalAttention"),
    ("options", "LIFNode", "sl.LIF"),
    ("", "PoissonEncoder", "sl.encode.poisson"),
    ("", "MultiStepLIFNode", "sl.LIF"),
    ("", "CUBALIFNode", "sl.Synaptic(alpha=c_decay, beta=v_decay"),
    ("", "StateLeaky", 'sl.Leaky(beta=..., reset="none")'),
    ("", "LIFCell", 'sl.Synaptic(alpha=..., beta=..., reset="hard", reset_delay=False)'),
    ("", "LICell", 'sl.Synaptic(alpha=..., beta=..., reset="none")'),
    ("", "Conv2d", "torch.nn.Conv2d"),
    ("", "ATan", "sl.surrogate.ATan"),
    ("", "functional", "sl.loss, sl.metrics and sl.decode, and reset_net, set_step_mode and detach_net are nothing"),
]


@pytest.mark.parametrize(("shelf", "name", "ours"), ELSEWHERE)
def test_names_of_peers_are_told_at_the_modules_too(shelf, name, ours):
    module = getattr(sl, shelf) if shelf else sl
    with pytest.raises(
        AttributeError, match=f"has no attribute '{name}': it is {re.escape(ours)}.* here; docs/porting"
    ):
        getattr(module, name)
    assert not hasattr(module, name)


def test_every_name_here_that_a_peers_name_is_told_exists():
    for text in _peers.NAMES.values():
        for path in re.findall(r"\bsl((?:\.\w+)+)", text):
            functools.reduce(getattr, path[1:].split("."), sl)


def test_modules_that_tell_names_stay_as_they_were():
    for shelf in (sl.decode, sl.encode, sl.loss, sl.metrics, sl.neuron, sl.nn, sl.options, sl.surrogate):
        with pytest.raises(AttributeError, match=rf"module '{shelf.__name__}' has no attribute 'nonsense'$"):
            _ = shelf.nonsense
        taken: dict[str, object] = {}
        exec(f"from {shelf.__name__} import *", taken)
        assert {"tell", "functools", "__getattr__"}.isdisjoint(taken)
    assert pickle.loads(pickle.dumps(sl.encode.poisson)) is sl.encode.poisson
    coded = torch.compile(lambda x: sl.encode.repeat(x, 3).sum(0), backend="eager", fullgraph=True)(torch.ones(2, 2))
    assert torch.equal(coded, torch.full((2, 2), 3.0))


def test_constructors_of_subclasses_are_their_own():
    class Mine(sl.LIF):
        def __init__(self, features, *, threshold=0.5):
            super().__init__(tau=nn.Parameter(torch.full((features,), 2.0)), v_threshold=threshold)

    assert float(Mine(3, threshold=0.25).v_threshold) == 0.25
    with pytest.raises(TypeError, match="Mine: there is no argument 'treshold': did you mean 'threshold'"):
        Mine(3, treshold=1.0)

    class Any(sl.IF):
        def __init__(self, *args, **options):
            super().__init__(**options)

    assert Any(1, 2, v_threshold=2.0).v_threshold == 2.0


class ModuleStyle(nn.Module):
    """A model as SpikingJelly's users write it: the forward repeats an image and averages over time."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 2, 3), sl.LIF(), nn.Flatten(), nn.Linear(72, 4), sl.LIF())

    def forward(self, x):
        return self.net(x.unsqueeze(0).repeat(3, 1, 1, 1, 1)).mean(0)


class RepeatStyle(nn.Module):
    """A multilayer perceptron that repeats in its forward; images without time reach it as 5 steps."""

    def __init__(self, dim):
        super().__init__()
        self.fc, self.lif, self.dim = nn.Linear(16, 4), sl.LIF(), dim

    def forward(self, x):
        x = x.flatten(1)
        x = x.unsqueeze(self.dim).repeat_interleave(3, self.dim)
        return self.lif(self.fc(x.flatten(1)))


class LoopStyle(nn.Module):
    """A model as snnTorch's users write it: the forward has a loop over time and passes membranes on."""

    def __init__(self, passes):
        super().__init__()
        self.fc, self.lif, self.passes = nn.Linear(64, 4), sl.Leaky(beta=0.9), passes

    def forward(self, x):
        spikes, mem = [], None
        for _ in range(3):
            if self.passes:
                s, mem = self.lif(self.fc(x), mem)
            else:
                s = self.lif(self.fc(x))
            spikes.append(s)
        return torch.stack(spikes)


IMAGES, VECTORS = torch.rand(5, 1, 8, 8), torch.rand(5, 64)
HABITS = [
    (lambda: sl.Network(ModuleStyle())(IMAGES, repeat=3), "a forward has no dimension of time: it repeats nothing"),
    (
        lambda: sl.Network(RepeatStyle(1))(IMAGES),
        r"Linear at 'fc': input is \[5, 192\], expected \[N, 16\], .* net\(x, repeat=T\) does",
    ),
    (lambda: sl.Network(RepeatStyle(0))(IMAGES, repeat=3), r"Linear at 'fc': input is \[3, 960\], expected \[N, 16\]"),
    (
        lambda: sl.Network(nn.Linear(64, 8), sl.LIF(), nn.Linear(4, 2))(VECTORS, repeat=3),
        r"Linear at '2': input is \[15, 8\], expected \[N, 4\]",
    ),
    (lambda: sl.Network(LoopStyle(False))(VECTORS, repeat=3), r"no loop over time .*: that is net\(x, repeat=T\)"),
    (lambda: sl.Network(LoopStyle(True))(VECTORS, repeat=3), r"Leaky takes one input, got 2: .* y = lif\(x\)"),
    (lambda: LoopStyle(False)(VECTORS), "outside a Network: wrap the model in sl.Network, which takes all steps at"),
    (lambda: sl.Network(nn.Linear(64, 4), sl.LIF())(VECTORS), r"pass repeat=T for a still input, .* net\.stream\(\)"),
    (lambda: sl.Network(nn.Linear(64, 4), sl.LIF())(VECTORS, T=3), r"no argument 'T': .* net\(x, repeat=T\)"),
    (lambda: sl.Network(nn.Linear(64, 4), sl.LIF())(VECTORS, num_steps=3), r"'num_steps': .* net\(x, repeat=T\)"),
    (lambda: sl.Network(nn.Linear(64, 4), sl.LIF())(VECTORS, mem=None), r"'mem': .* net\(x, state=result\.state\)"),
    (
        lambda: sl.Network(nn.Linear(64, 4), sl.LIF())(VECTORS, colour=3),
        r"'colour': .* Sequential\.forward takes, input$",
    ),
]


@pytest.mark.parametrize(("call", "message"), HABITS, ids=[message[:24] for _, message in HABITS])
def test_a_habit_of_a_peer_is_told_the_form_that_works(call, message):
    with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
        call()


def test_neurons_of_two_inputs_take_two():
    class Gated(sl.Neuron):
        def __init__(self):
            super().__init__()
            self.numbers(v_threshold=1.0, v_reset=0.0)
            self.states(v=0.0)

        def dynamics(self, x, gate, v):
            h = v + x * gate
            s = self.fire(h - self.v_threshold)
            return s, self.reset_voltage(h, s)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.neuron = nn.Linear(3, 2), Gated()

        def forward(self, x):
            return self.neuron(self.fc(x), torch.ones(x.shape[0], 2))

    net, x = sl.Network(Model()), torch.rand(5, 4, 3) * 3
    wanted = sl.Network(net.body.fc, sl.IF())(x)
    assert torch.equal(net(x), wanted)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), wanted)


def test_what_the_page_says_of_habits_that_raise_nothing():
    """A repeat before the call, a loop in a forward whose mean is taken, state that is set, a reset by name."""
    model = ModuleStyle()
    net = sl.Network(model.net)
    y = net(IMAGES, repeat=3)
    assert torch.equal(net(IMAGES.unsqueeze(0).repeat(3, 1, 1, 1, 1)), y)

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model.net

        def forward(self, x):
            return sum(self.net(x) for _ in range(3)) / 3

    torch.testing.assert_close(sl.Network(Mean())(IMAGES, repeat=3), y)
    net.body[1].v = 0.0
    net.body[1].step_mode = "m"
    for module in net.modules():
        if callable(getattr(module, "reset", None)):  # as SpikingJelly 2.0 looks for modules to reset
            module.reset()
    assert torch.equal(net(IMAGES, repeat=3), y)


def test_the_forms_that_errors_name_work():
    model = ModuleStyle()
    y = sl.Network(model.net)(IMAGES, repeat=3)
    assert y.shape == (3, 5, 4)
    with sl.backend("eager"):  # step by step, as the peers' loops do
        stream = sl.Network(model.net).stream()
        steps = torch.stack([stream(IMAGES) for _ in range(3)])
    assert torch.equal(steps, y)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reset", "nothing is kept between calls and nothing is reset"),
        ("reset_mem", "nothing is kept between calls and nothing is reset"),
        ("init_leaky", "nothing is kept between calls and nothing is reset"),
        ("detach", r"net\(x, state=sl\.detach\(result\.state\)"),
        ("detach_hidden", r"net\(x, state=sl\.detach\(result\.state\)"),
        ("v_seq", r"record=\(\"1\.v\",\)"),
        ("step_mode", r"whole sequences \[T, B, \*\] go in"),
        ("register_memory", r"self\.states\(v=0\.0\)"),
    ],
)
def test_what_modules_of_peers_have_is_told(name, message):
    net = sl.Network(nn.Linear(2, 3), sl.Leaky(beta=0.9))
    with pytest.raises(AttributeError, match=f"'Network' object has no attribute '{name}': .*{message}"):
        getattr(net, name)
    assert not hasattr(net, name)
    with pytest.raises(AttributeError, match=r"'Leaky' object has no attribute 'nonsense'$"):
        _ = net.body[1].nonsense
