"""The warning of a user's neuron through which no gradient passes, and of no other."""

import warnings

import pytest
import torch
from torch import nn

import spikeloom as sl


def neuron(dynamics, states=1, **numbers):
    """A neuron of a class of its own: each is looked at once."""

    class Own(sl.Neuron):
        def __init__(self):
            super().__init__()
            self.numbers(**numbers)
            self.states(**{f"s{k}": 0.0 for k in range(states)})

    Own.dynamics = dynamics
    Own.without_u = "it may not fire"
    return Own()


def compares(self, x, v):
    v = 0.5 * v + x
    s = (v > 1).float()
    return s, v - s


def scales(self, x, v):
    v = 0.5 * v + x
    s = (v > 1).to(v.dtype)
    return s * self.gain, v - s


def detaches(self, x, v):
    v = (0.5 * v + x).detach()
    return self.fire(v - 1), v


def fires(self, x, v):
    v = 0.5 * v + x
    s = self.fire(v - 1)
    return s, v - s


def shows(self, x, v):
    v = 0.5 * v + x
    return v, v


def late(self, x, a, b):
    """Puts out the input of two steps before."""
    return b, x, a


def no_input(self, x):
    return (x > 1).float()


def gain():
    return {"gain": nn.Parameter(torch.ones(()))}


NO_GRADIENT = {
    "compares": lambda: neuron(compares),
    "detaches": lambda: neuron(detaches),
    "no state": lambda: neuron(no_input, 0),
    "in an option": lambda: sl.options.Refractory(neuron(compares), steps=1),
}
GRADIENT = {
    "fires": lambda: neuron(fires),
    "shows": lambda: neuron(shows),
    "late": lambda: neuron(late, 2),
    "STBIF": lambda: sl.STBIF(v_threshold=0.5, most=7),  # whose docstring says that it has none
}


def run(made, backend, *, step=False):
    net, x = sl.Network(nn.Linear(3, 4), made), torch.rand(5, 2, 3)
    with sl.backend(backend):
        return net.step(x[0])[0] if step else net(x)


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("make", NO_GRADIENT.values(), ids=NO_GRADIENT)
def test_no_gradient_is_said_once(make, backend):
    made = make()
    with torch.no_grad():
        run(made, backend)
    with pytest.warns(UserWarning, match="no gradient passes from its output to its input.*self.fire"):
        run(made, backend)
    with warnings.catch_warnings(record=True) as again:
        warnings.simplefilter("always")
        run(made, backend)
    assert not again


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_a_learnable_number_after_the_comparison_changes_nothing(backend):
    with pytest.warns(UserWarning, match="Own: no gradient passes"):
        run(neuron(scales, **gain()), backend)


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("step", [False, True])
@pytest.mark.parametrize("make", GRADIENT.values(), ids=GRADIENT)
def test_nothing_is_said_of_others(make, step, backend):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run(make(), backend, step=step)
    assert not said


def test_a_single_step_tells_it_too():
    with pytest.warns(UserWarning, match="Own: no gradient passes"):
        run(neuron(compares), "auto", step=True)


def test_nothing_is_said_where_nothing_before_it_learns():
    made = neuron(compares)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sl.Network(made)(torch.rand(5, 2, 3))
    assert not said
