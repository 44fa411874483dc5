"""Surrogates: closed forms, primitives, stability, scales, schedules."""

import math

import pytest
import torch
from torch import nn

import samples
import spikeloom as sl
from spikeloom import surrogate


def normal(u, mean, deviation):
    return math.exp(-((u - mean) ** 2) / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi))


def cumulative(u, mean, deviation):
    return 0.5 * math.erfc(-(u - mean) / (deviation * math.sqrt(2)))


# Written out from the formulas with math alone, for the options of the samples: name -> (derivative, primitive).
CLOSED = {
    "ATan": (
        lambda u, a: (a / 2) / (1 + (math.pi * a * u / 2) ** 2),
        lambda u, a: math.atan(math.pi * a * u / 2) / math.pi + 0.5,
    ),
    "Sigmoid": (
        lambda u, a: a * math.exp(-a * u) / (1 + math.exp(-a * u)) ** 2,
        lambda u, a: 1 / (1 + math.exp(-a * u)),
    ),
    "FastSigmoid": (
        lambda u, a: 1 / (1 + a * abs(u)) ** 2,
        lambda u, a: u / (1 + a * abs(u)),
    ),
    "PiecewiseQuadratic": (
        lambda u, a: a - a * a * abs(u) if abs(u) <= 1 / a else 0.0,
        lambda u, a: (-0.5 * a * a * abs(u) * u + a * u + 0.5) if abs(u) <= 1 / a else float(u > 0),
    ),
    "Erf": (
        lambda u, a: a / math.sqrt(math.pi) * math.exp(-((a * u) ** 2)),
        lambda u, a: 0.5 * math.erfc(-a * u),
    ),
    "StraightThrough": (
        lambda u, a: 1.0,
        lambda u, a: u,
    ),
    "SuperSpike": (
        lambda u, a: a / (1 + abs(u)) ** 2,
        lambda u, a: a * u / (1 + abs(u)),
    ),
    "SoftSign": (
        lambda u, a: 1 / (2 * a * (1 / a + abs(u)) ** 2),
        lambda u, a: 0.5 * (a * u / (1 + abs(a * u)) + 1),
    ),
    "PiecewiseExp": (
        lambda u, a: a / 2 * math.exp(-a * abs(u)),
        lambda u, a: 0.5 * math.exp(a * u) if u < 0 else 1 - 0.5 * math.exp(-a * u),
    ),
    "Gaussian": (
        lambda u, a: normal(u, 0, 1 / a),
        lambda u, a: cumulative(u, 0, 1 / a),
    ),
    "MultiGaussian": (
        lambda u, a: 0.5 * (1.15 * normal(u, 0, 1 / a) - 0.15 * (normal(u, 1 / a, 6 / a) + normal(u, -1 / a, 6 / a))),
        lambda u, a: (
            0.5 * (1.15 * cumulative(u, 0, 1 / a) - 0.15 * (cumulative(u, 1 / a, 6 / a) + cumulative(u, -1 / a, 6 / a)))
        ),
    ),
    "QPseudoSpike": (
        lambda u, a: (1 + 2 * abs(u) / (a - 1)) ** -a,
        lambda u, a: 0.5 * (1 - 2 * u / (a - 1)) ** (1 - a) if u < 0 else 1 - 0.5 * (1 + 2 * u / (a - 1)) ** (1 - a),
    ),
    "NonzeroSignLogAbs": (
        lambda u, a: 1 / (1 / a + abs(u)),
        lambda u, a: math.copysign(math.log(a * abs(u) + 1), u),
    ),
    "SquarewaveFourierSeries": (
        lambda u, a: 4 * a * sum(math.cos(k * 2 * math.pi * a * u) for k in (1, 3, 5)),
        lambda u, a: 0.5 + 2 / math.pi * sum(math.sin(k * 2 * math.pi * a * u) / k for k in (1, 3, 5)),
    ),
    "SpikeRateEscape": (
        lambda u, a: 3 * math.exp(-a * abs(u)),
        lambda u, a: 3 / a * math.exp(a * u) if u < 0 else 3 / a * (2 - math.exp(-a * u)),
    ),
    "Dspike": (
        lambda u, a: a / math.cosh(a * u) ** 2 / (2 * math.tanh(a / 2)) if abs(u) <= 0.5 else 0.0,
        lambda u, a: math.tanh(a * u) / (2 * math.tanh(a / 2)) + 0.5 if abs(u) <= 0.5 else float(u > 0),
    ),
    "Rect": (
        lambda u, a: a if abs(u) < 0.5 / a else 0.0,
        lambda u, a: min(max(a * u + 0.5, 0.0), 1.0),
    ),
    "PiecewiseLeakyReLU": (
        lambda u, a: a / 2 if abs(u) <= 1 / a else 0.1,
        lambda u, a: a * u / 2 + 0.5 if abs(u) <= 1 / a else 0.1 * (u + 1 / a) if u < 0 else 0.1 * (u - 1 / a) + 1,
    ),
    "LeakyKReLU": (
        lambda u, a: a if u >= 0 else 0.2,
        lambda u, a: a * u if u >= 0 else 0.2 * u,
    ),
    "LeakySpikeOperator": (
        lambda u, a: 1.0 if u >= 0 else a,
        lambda u, a: u if u >= 0 else a * u,
    ),
    "Heaviside": (
        lambda u, a: float(u >= 0),
        lambda u, a: max(u, 0.0),
    ),
    "S2NN": (
        lambda u, a: a * math.exp(a * u) / (1 + math.exp(a * u)) ** 2 if u < 0 else 0.7 / (u + 1),
        lambda u, a: 1 / (1 + math.exp(-a * u)) if u < 0 else 0.7 * math.log(u + 1) + 0.5,
    ),
    "LogTailedReLU": (
        lambda u, a: a if u <= 0 else 1.0 if u <= 1 else 1 / u,
        lambda u, a: a * u if u <= 0 else u if u <= 1 else 1 + math.log(u),
    ),
    "FakeNumericalGradient": (
        lambda u, a: min(1 / abs(u), a) if u else a,
        lambda u, a: a * u if abs(u) <= 1 / a else math.copysign(1 + math.log(a * abs(u)), u),
    ),
    "SparseFastSigmoid": (
        lambda u, a: 1 / (1 + a * abs(u)) ** 2 if abs(u) < 0.5 else 0.0,
        lambda u, a: min(max(u, -0.5), 0.5) / (1 + a * min(abs(u), 0.5)),
    ),
    "Custom": (
        lambda u, a: a / math.cosh(a * u) ** 2,
        lambda u, a: math.tanh(a * u),
    ),
}
NO_SCALE = {"StraightThrough", "Heaviside"}
SIGNED = {"SquarewaveFourierSeries", "MultiGaussian"}  # negative slopes are part of them
U = [-3.0, -0.7, -0.3, -1e-3, 0.0, 1e-3, 0.3, 0.7, 3.0]


def gradient(function, u):
    u = u.clone().requires_grad_()
    return torch.autograd.grad(function(u).sum(), u)[0]


@pytest.mark.parametrize("scale", [0.5, 1.5, 4.0])
@pytest.mark.parametrize("name", CLOSED)
def test_forward_is_the_step_and_backward_the_closed_form(name, scale):
    make, (derivative, primitive) = samples.SURROGATES[name].make, CLOSED[name]
    scale = scale + 1 if name == "QPseudoSpike" else scale  # which has to be above 1
    u = torch.tensor(U, dtype=torch.float64)
    function = make(scale)
    assert function(u).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert function(u, strict=True).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    wanted = torch.tensor([derivative(x, scale) for x in U], dtype=torch.float64)
    torch.testing.assert_close(gradient(function, u), wanted, atol=1e-14, rtol=1e-12)
    smooth = make(scale)
    smooth.spiking = False
    values = torch.tensor([primitive(x, scale) for x in U], dtype=torch.float64)
    torch.testing.assert_close(smooth(u), values, atol=1e-14, rtol=1e-12)


def test_slopes_of_the_peers():
    """Slopes at u = +-0.3 and 0, from the peers' formulas (snnTorch, SpikingJelly)."""
    cases = [
        (surrogate.ATan(2.0), 0.529586853, 1.0),
        (surrogate.ATan(4.0), 0.439265255, 2.0),
        (surrogate.Sigmoid(25.0), 0.0138118268, 6.25),
        (surrogate.Sigmoid(4.0), 0.711577763, 1.0),
        (surrogate.FastSigmoid(25.0), 0.0138408304, 1.0),
        (surrogate.PiecewiseQuadratic(1.0), 0.7, 1.0),
    ]
    for function, slope, at_zero in cases:
        g = gradient(function, torch.tensor([-0.3, 0.0, 0.3], dtype=torch.float64))
        torch.testing.assert_close(g, torch.tensor([slope, at_zero, slope], dtype=torch.float64), atol=1e-9, rtol=1e-8)


def test_defaults_have_the_peers_curves(golden):
    u = torch.linspace(-3, 3, 61)
    # Not SquarewaveFourierSeries (a term too few), FakeNumericalGradient and S2NN (elsewhere: NaN at 0, an epsilon).
    for name in (
        "Sigmoid", "ATan", "PiecewiseQuadratic", "Erf", "PiecewiseExp", "SoftSign", "SuperSpike", "NonzeroSignLogAbs",
        "PiecewiseLeakyReLU", "QPseudoSpike", "LeakyKReLU", "LogTailedReLU", "Rect", "S2NN",
    ):  # fmt: skip
        wanted = golden("spikingjelly")[f"surrogate-{name}"]
        inside = (u.abs() - 1).abs() > 1e-3 if name == "PiecewiseLeakyReLU" else slice(None)  # not its two steps
        found = gradient(getattr(surrogate, name)(), u)
        torch.testing.assert_close(found[inside], wanted[inside], atol=1e-6, rtol=1e-5)
    u = torch.linspace(-3, 3, 60)
    wanted = golden("spikingjelly")["surrogate-FakeNumericalGradient"]
    torch.testing.assert_close(gradient(surrogate.FakeNumericalGradient(), u), wanted)
    terms = golden("spikingjelly")["surrogate-SquarewaveFourierSeries"]  # n = 3 there is two terms
    torch.testing.assert_close(
        gradient(surrogate.SquarewaveFourierSeries(0.125, terms=2), u), terms, atol=1e-6, rtol=1e-5
    )
    heaviside = golden("snntorch")["surrogate-Heaviside"]
    torch.testing.assert_close(gradient(surrogate.Heaviside(), u), heaviside)
    escape = golden("snntorch")["surrogate-SpikeRateEscape"]  # its peak is one unit too high
    torch.testing.assert_close(gradient(surrogate.SpikeRateEscape(), u - 1), escape)
    wanted = golden("snntorch")["surrogate-FastSigmoid"]
    torch.testing.assert_close(gradient(surrogate.FastSigmoid(), torch.linspace(-3, 3, 60)), wanted)


@pytest.mark.parametrize("name", CLOSED)
def test_derivative_is_that_of_the_primitive(name):
    smooth = samples.SURROGATES[name].make(1.7)
    smooth.spiking = False
    u = torch.tensor([-2.1, -0.6, -0.21, 0.13, 0.4, 1.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(smooth, (u,))
    spiking = samples.SURROGATES[name].make(1.7)
    torch.testing.assert_close(gradient(spiking, u.detach()), gradient(smooth, u.detach()))


@pytest.mark.parametrize("name", CLOSED)
def test_derivative_is_that_of_the_primitive_at_its_corners_too(name):
    """With scale 2 they are at 0, +-1/4, +-1/2 and +-1: torch's clamp would give another gradient there by release."""
    smooth, spiking = (samples.SURROGATES[name].make(2.0) for _ in range(2))
    smooth.spiking = False
    u = torch.tensor([-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(gradient(smooth, u), gradient(spiking, u))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CLOSED)
def test_finite_and_right_far_out(name, dtype):
    u = torch.cat([torch.linspace(-1e4, 1e4, 2001, dtype=dtype), torch.tensor([-88.7, -87.0, 88.7], dtype=dtype)])
    for scale in (1.5, 25.0):
        function = samples.SURROGATES[name].make(scale)
        g = gradient(function, u)
        assert g.isfinite().all()
        assert name in SIGNED or (g >= 0).all()
        function.spiking = False
        assert function(u).isfinite().all()
    assert torch.equal(function.train()(u), function.eval()(u))


@pytest.mark.parametrize("name", [n for n in CLOSED if n not in NO_SCALE])
def test_a_learnable_scale_gets_the_primitives_gradient(name):
    u = torch.tensor([-0.6, -0.2, 0.1, 0.3], dtype=torch.float64)
    for scale in (torch.tensor(1.3), torch.tensor([1.3, 1.05, 1.1, 2.0])):
        grads = []
        for spiking in (True, False):
            function = samples.SURROGATES[name].make(nn.Parameter(scale.double()))
            function.spiking = spiking
            (g,) = torch.autograd.grad((function(u) * torch.arange(1.0, 5.0)).sum(), function.scale)
            grads.append(g)
        assert grads[0].shape == scale.shape
        torch.testing.assert_close(grads[0], grads[1])


def test_nan_gives_no_spike():
    assert surrogate.ATan()(torch.tensor([math.nan, math.inf, -math.inf])).tolist() == [0, 1, 0]


def test_a_surrogate_of_ones_own():
    class Gaussian(surrogate.Surrogate):
        def derivative(self, u, scale):
            return torch.exp(-((scale * u) ** 2))

    function = Gaussian(2.0)
    g = gradient(function, torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(g, torch.tensor([1.0, math.exp(-1.0)]))
    function.spiking = False
    with pytest.raises(NotImplementedError, match="has no primitive"):
        function(torch.zeros(1))


def test_schedules_follow_their_formulas():
    net = sl.Network(nn.Linear(1, 1), sl.LIF(), sl.IF(surrogate=surrogate.StraightThrough()))
    cases = {
        "LinearSchedule": [1, 1.5, 2, 2.5, 3, 3],
        "PolynomialSchedule": [1, 1.125, 1.5, 2.125, 3, 3],
        "ExponentialSchedule": [2, 1, 0.5, 0.25, 0.125, 0.0625],
        "StepSchedule": [1, 1, 3, 3, 9, 9],
        "CosineSchedule": [1, 2, 3, 3, 3, 3],
        "CosineSchedule restart": [1, 2, 1, 2, 1, 2],
        "EvolvedAlpha": [2, 2.75, 3.5, 4.25, 5, 5],
    }
    assert set(cases) == set(samples.SCHEDULES)
    for name, wanted in cases.items():
        schedule = samples.SCHEDULES[name](net)
        got = []
        for _ in wanted:
            got.append(float(net.body[1].surrogate.scale))
            assert schedule.scale == got[-1]
            schedule.step()
        assert got == pytest.approx(wanted), name


def test_only_near_the_threshold_where_a_peer_keeps_all_above_it(golden):
    """snnTorch's sparse fast sigmoid has a gradient where u > B, the paper's where |u| < B."""
    u = torch.linspace(-3, 3, 60)
    theirs, ours = golden("snntorch")["surrogate-SparseFastSigmoid"], gradient(surrogate.SparseFastSigmoid(), u)
    whole = gradient(surrogate.FastSigmoid(), u)
    torch.testing.assert_close(theirs, torch.where(u > 1, whole, 0.0))
    torch.testing.assert_close(ours, torch.where(u.abs() < 1, whole, 0.0))


def test_random_ones():
    u = torch.tensor([-0.5, 0.5]).repeat(20000, 1)
    g = gradient(surrogate.StochasticSpikeOperator(0.2, mean=0.25), u)
    assert (g[:, 1] == 1).all()
    assert 0.2 * (0.0 - 0.25) <= float(g[:, 0].min()) < -0.045
    assert 0.145 < float(g[:, 0].max()) <= 0.2 * 0.75
    assert float(g[:, 0].mean()) == pytest.approx(0.2 * 0.25, abs=2e-3)  # deviation 0.2 / sqrt(12 20000)
    rates = torch.tensor([-0.3, 0.0, 0.25, 1.0, 1.7]).repeat(20000, 1)
    spikes = surrogate.PoissonPass()(rates)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    assert spikes.mean(0).tolist() == pytest.approx([0, 0, 0.25, 1, 1], abs=0.015)
    assert torch.equal(gradient(surrogate.PoissonPass(), rates), torch.ones_like(rates))
    assert torch.equal(surrogate.PoissonPass(spiking=False)(rates), rates)


def test_wrong_options():
    with pytest.raises(ValueError, match="scale"):
        surrogate.QPseudoSpike(1.0)
    with pytest.raises(ValueError, match="terms must be at least 1, got 0"):
        surrogate.SquarewaveFourierSeries(terms=0)
    with pytest.raises(NotImplementedError, match="has no primitive"):
        surrogate.Custom(lambda u, a: u, spiking=False)(torch.zeros(1))


def test_a_schedule_resumes_from_its_state():
    net = sl.Network(sl.LIF())
    schedule = surrogate.LinearSchedule(net, start=1.0, end=5.0, epochs=4)
    schedule.step()
    other = sl.Network(sl.LIF())
    resumed = surrogate.LinearSchedule(other, start=1.0, end=5.0, epochs=4)
    resumed.load_state_dict(schedule.state_dict())
    assert float(other.body[0].surrogate.scale) == 2.0


def test_a_schedule_needs_something_to_drive():
    with pytest.raises(ValueError, match="found no surrogate"):
        surrogate.LinearSchedule(nn.Linear(1, 1), epochs=2)
    learnable = surrogate.ATan(nn.Parameter(torch.tensor(1.0)))
    with pytest.raises(ValueError, match="learnable"):
        surrogate.LinearSchedule([learnable], epochs=2)
    with pytest.raises(ValueError, match="start must be positive"):
        surrogate.LinearSchedule(sl.LIF(), start=0.0, epochs=2)
    with pytest.raises(ValueError, match="at least 1 epoch"):
        surrogate.CosineSchedule(sl.LIF(), epochs=0)
