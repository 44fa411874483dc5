"""Surrogates: closed forms, primitives, stability, scales, schedules."""

import math

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom import surrogate

# Written out from the formulas with math alone: name -> (object, derivative, primitive).
CLOSED = {
    "ATan": (
        lambda a: surrogate.ATan(a),
        lambda u, a: (a / 2) / (1 + (math.pi * a * u / 2) ** 2),
        lambda u, a: math.atan(math.pi * a * u / 2) / math.pi + 0.5,
    ),
    "Sigmoid": (
        lambda a: surrogate.Sigmoid(a),
        lambda u, a: a * math.exp(-a * u) / (1 + math.exp(-a * u)) ** 2,
        lambda u, a: 1 / (1 + math.exp(-a * u)),
    ),
    "FastSigmoid": (
        lambda a: surrogate.FastSigmoid(a),
        lambda u, a: 1 / (1 + a * abs(u)) ** 2,
        lambda u, a: u / (1 + a * abs(u)),
    ),
    "PiecewiseQuadratic": (
        lambda a: surrogate.PiecewiseQuadratic(a),
        lambda u, a: a - a * a * abs(u) if abs(u) <= 1 / a else 0.0,
        lambda u, a: (-0.5 * a * a * abs(u) * u + a * u + 0.5) if abs(u) <= 1 / a else float(u > 0),
    ),
    "Erf": (
        lambda a: surrogate.Erf(a),
        lambda u, a: a / math.sqrt(math.pi) * math.exp(-((a * u) ** 2)),
        lambda u, a: 0.5 * math.erfc(-a * u),
    ),
    "StraightThrough": (lambda a: surrogate.StraightThrough(), lambda u, a: 1.0, lambda u, a: u),
}
U = [-3.0, -0.7, -0.3, -1e-3, 0.0, 1e-3, 0.3, 0.7, 3.0]


def gradient(function, u):
    u = u.clone().requires_grad_()
    return torch.autograd.grad(function(u).sum(), u)[0]


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("name", CLOSED)
def test_forward_is_the_step_and_backward_the_closed_form(name, scale):
    make, derivative, primitive = CLOSED[name]
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
    for name in ("Sigmoid", "ATan", "PiecewiseQuadratic", "Erf"):
        wanted = golden("spikingjelly")[f"surrogate-{name}"]
        torch.testing.assert_close(gradient(getattr(surrogate, name)(), u), wanted, atol=1e-6, rtol=1e-5)
    wanted = golden("snntorch")["surrogate-FastSigmoid"]
    torch.testing.assert_close(gradient(surrogate.FastSigmoid(), torch.linspace(-3, 3, 60)), wanted)


@pytest.mark.parametrize("name", CLOSED)
def test_derivative_is_that_of_the_primitive(name):
    smooth = CLOSED[name][0](1.7)
    smooth.spiking = False
    u = torch.tensor([-2.1, -0.6, -0.21, 0.13, 0.4, 1.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(smooth, (u,))
    spiking = CLOSED[name][0](1.7)
    torch.testing.assert_close(gradient(spiking, u.detach()), gradient(smooth, u.detach()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CLOSED)
def test_finite_and_right_far_out(name, dtype):
    u = torch.cat([torch.linspace(-1e4, 1e4, 2001, dtype=dtype), torch.tensor([-88.7, -87.0, 88.7], dtype=dtype)])
    for scale in (1.0, 25.0):
        function = CLOSED[name][0](scale)
        g = gradient(function, u)
        assert g.isfinite().all()
        assert (g >= 0).all()
        function.spiking = False
        assert function(u).isfinite().all()
    assert torch.equal(function.train()(u), function.eval()(u))


@pytest.mark.parametrize("name", [n for n in CLOSED if n != "StraightThrough"])
def test_a_learnable_scale_gets_the_primitives_gradient(name):
    u = torch.tensor([-0.6, -0.2, 0.1, 0.3], dtype=torch.float64)
    for scale in (torch.tensor(1.3), torch.tensor([1.3, 0.9, 1.1, 2.0])):
        grads = []
        for spiking in (True, False):
            function = CLOSED[name][0](nn.Parameter(scale.double()))
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
    cases = [
        (surrogate.LinearSchedule, dict(start=1.0, end=3.0, epochs=4), [1, 1.5, 2, 2.5, 3, 3]),
        (surrogate.PolynomialSchedule, dict(start=1.0, end=3.0, epochs=4, power=2.0), [1, 1.125, 1.5, 2.125, 3, 3]),
        (surrogate.ExponentialSchedule, dict(start=2.0, gamma=0.5), [2, 1, 0.5, 0.25, 0.125, 0.0625]),
        (surrogate.StepSchedule, dict(start=1.0, gamma=3.0, step_size=2), [1, 1, 3, 3, 9, 9]),
        (surrogate.CosineSchedule, dict(start=1.0, end=3.0, epochs=2), [1, 2, 3, 3, 3, 3]),
        (surrogate.CosineSchedule, dict(start=1.0, end=3.0, epochs=2, restart=True), [1, 2, 1, 2, 1, 2]),
        (surrogate.EvolvedAlpha, dict(base=2.0, e_max=1.5, epochs=4), [2, 2.75, 3.5, 4.25, 5, 5]),
    ]
    for cls, options, wanted in cases:
        schedule = cls(net, **options)
        got = []
        for _ in wanted:
            got.append(float(net.body[1].surrogate.scale))
            assert schedule.scale == got[-1]
            schedule.step()
        assert got == pytest.approx(wanted), cls.__name__


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
