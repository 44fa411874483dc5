"""MPBN: folding gives what the norm gives, or is refused; what a norm cannot move is refused too."""

import pytest
import torch
from torch import nn

import samples
import spikeloom as sl

F = samples.F


def inner(name):
    """Neurons with a threshold, and options around one with a hard reset, since a soft one is refused."""
    if name in samples.OPTIONS:
        return samples.OPTIONS[name].make(sl.Leaky(beta=0.6, v_threshold=0.4, reset="hard", reset_delay=False))
    return {**samples.IN_ONE_STEP, **samples.LAYERS}[name].make()


INNER = [
    *(n for n, sample in samples.NEURONS.items() if "v_threshold" in sample.make()._declared),
    *(n for n in samples.OPTIONS if n.split()[0] not in samples.OUTERMOST),
    *samples.NESTED,
    "Inhibition",
]


def around(neuron, features=F):
    """With a norm that has seen something."""
    g = torch.Generator().manual_seed(3)
    neuron = sl.options.MPBN(neuron, features)
    with torch.no_grad():
        for tensor, low, high in (
            (neuron.norm.weight, 0.3, 2.0),
            (neuron.norm.bias, -0.5, 0.5),
            (neuron.norm.running_mean, -0.1, 0.3),
            (neuron.norm.running_var, 0.3, 2.0),
        ):
            tensor.copy_(low + (high - low) * torch.rand(features, generator=g))
    return neuron.double().eval()


def assert_equal(one, other, x):
    with torch.no_grad():
        (y, state), (z, end) = one.sequence(x), other.sequence(x)
    assert 0.01 < float(y.ne(0).double().mean()) < 0.99
    assert torch.equal(y, z)
    torch.testing.assert_close(end, state, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", INNER)
def test_folding_is_equal_or_refused(name):
    neuron, sample = around(inner(name)), {**samples.IN_ONE_STEP, **samples.LAYERS}[name]
    x = samples.inputs(sample, 40, dtype=torch.float64)
    with sl.backend("eager"):
        if sample.folds:
            assert_equal(neuron, neuron.fold(), x)
        else:
            with pytest.raises(ValueError, match="folding would change more than when the neuron fires"):
                neuron.fold()


def test_the_reason_is_told():
    class Capped(sl.Neuron):  # a user's: the threshold bounds the voltage too
        def __init__(self, peek=False):
            super().__init__()
            self.numbers(v_threshold=0.5)
            self.states(v=0.0)
            self.peek = peek

        def dynamics(self, x, v):
            h = v + x
            s = self.fire(h - self.v_threshold)
            return s, h * (1 - s) if not self.peek else torch.minimum(h, 2 * self.v_threshold)

    class Doubled(sl.IF):
        def dynamics(self, x, v):
            h = v + x
            s = self.fire(2 * (h - self.v_threshold))
            return s, h * (1 - s)

    for neuron, reason in (
        (sl.options.HalfThreshold(sl.LIF()), "the state 'v' at rest depends on v_threshold"),
        (sl.LIAF(), "the output depends on v_threshold"),
        (sl.STBIF(), "STBIF does not fire where h - v_threshold is at least 0, once a step"),
        (sl.LIF(reset="soft"), "the state 'v' depends on v_threshold: a soft reset subtracts the threshold"),
        (sl.CLIF(), "the state 'v' depends on v_threshold: a soft reset subtracts"),
        (sl.Leaky(beta=0.5), "does not fire where h - v_threshold is at least 0, once a step"),
        (sl.nn.Inhibition(sl.IF()), "does not fire where h - v_threshold is at least 0"),
        (sl.LIF(surrogate=sl.surrogate.ATan(spiking=False)), "does not fire by a step function, but by ATan"),
        (sl.LIF(surrogate=sl.surrogate.PoissonPass()), "does not fire by a step function, but by PoissonPass"),
        (Capped(peek=True), "the state 'v' depends on v_threshold"),
        (Doubled(), "does not fire where h - v_threshold is at least 0, once a step"),
    ):
        with pytest.raises(ValueError, match=reason):
            around(neuron).fold()
    x = samples.inputs(samples.NEURONS["IF"], 40, dtype=torch.float64)
    with sl.backend("eager"):
        assert_equal(around(Capped()), around(Capped()).fold(), x)


def test_thresholds_of_every_shape():
    per_channel = torch.linspace(0.3, 0.9, F)
    x = samples.inputs(samples.NEURONS["LIF"], 30, dtype=torch.float64)
    for threshold in (0.4, torch.tensor([0.4]), torch.tensor([[0.4]]), per_channel, nn.Parameter(per_channel)):
        neuron = around(sl.LIF(v_threshold=threshold))
        folded = neuron.fold()
        assert_equal(neuron, folded, x)
        assert not list(folded.parameters())
    images = torch.randn(6, 2, F, 3, 3, dtype=torch.float64) + 0.5
    tau = 2 + torch.rand(F, 3, 3)
    neuron = around(sl.LIF(tau=tau, v_threshold=0.4))
    assert_equal(neuron, neuron.fold(), images)
    for shape in ((F, 1, 1), (1, F), (F, 3, 3)):  # of places, or of channels that are not those of the norm
        with pytest.raises(ValueError, match=r"v_threshold \[.*\] is not one value per channel \[8\]"):
            around(sl.LIF(v_threshold=torch.full(shape, 0.4))).fold()


def test_weights_that_no_threshold_can_stand_for():
    for at, value in (("weight", 0.0), ("weight", -0.5), ("running_var", torch.inf), ("running_mean", torch.nan)):
        neuron = around(sl.LIF())
        with torch.no_grad():
            getattr(neuron.norm, at)[2] = value
        with pytest.raises(ValueError, match="weights of the batch norm are not positive, or its statistics"):
            neuron.fold()


def test_packed_neurons_stay_packed():
    neuron = around(sl.LIF(v_threshold=0.2))
    neuron.packed = True
    folded, x = neuron.fold(), torch.rand(5, 2, F, dtype=torch.float64)
    assert isinstance(folded.sequence(x)[0], sl.SpikeTensor)
    assert torch.equal(folded.sequence(x)[0].unpack(), neuron.sequence(x)[0].unpack())


@pytest.mark.parametrize("make", [sl.ILIF, sl.STBIF, lambda: sl.options.Refractory(sl.ILIF(), steps=1)])
@pytest.mark.parametrize("training", [True, False])
def test_a_threshold_that_is_not_there_cannot_be_moved(make, training):
    """These neurons never compare with self.fire: the options would do nothing, without a word."""
    x = torch.rand(4, 3, F)
    for option in (
        lambda n: sl.options.MPBN(n, F),
        lambda n: sl.options.Adaptive(n),
        lambda n: sl.options.Noisy(n, threshold=0.1, always=True),
        sl.nn.Inhibition,
    ):
        module = option(make()).train(training)
        with sl.backend("eager"), pytest.raises(ValueError, match=r"the inner neuron never calls self\.fire"):
            module.sequence(x)


OTHERS = [nn.LayerNorm(4), nn.BatchNorm1d(4, affine=False), nn.BatchNorm1d(4, track_running_stats=False)]


@pytest.mark.parametrize("norm", [nn.Identity(), *OTHERS])
def test_a_norm_that_is_none_is_named(norm):
    neuron = sl.options.MPBN(sl.LIF(), 4).eval()
    neuron.norm = norm
    for use in (neuron.fold, lambda: neuron.sequence(torch.rand(3, 2, 4))):
        with pytest.raises(TypeError, match=r"MPBN: norm must be a batch norm with a weight and running stat.*; got "):
            use()


def test_another_batch_norm_takes_its_place():
    neuron = sl.options.MPBN(sl.LIF(v_threshold=0.4), 4)
    neuron.norm = nn.BatchNorm1d(4)
    x = torch.rand(20, 8, 4)
    neuron.sequence(x)
    neuron.eval()
    assert torch.equal(neuron.fold().sequence(x)[0], neuron.sequence(x)[0])
