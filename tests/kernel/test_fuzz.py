"""Random neurons: kernels of arbitrary programs against the PyTorch loop, forward exactly, gradients in float64."""

import random

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom.native import build

try:
    build.ready()
except build.BuildError as missing:
    pytest.skip(f"no C kernels on this machine: {missing}", allow_module_level=True)

UNARY = ["abs", "relu", "neg", "square", "clamp", "floor_frac", "sqrt", "reciprocal"]
BINARY = ["add", "sub", "mul", "div", "minimum", "maximum", "where"]


def grow(r, depth):
    """A random expression over x, v, a and the numbers tau, rho."""
    if depth == 0 or r.random() < 0.15:
        return r.choice(["x", "v", "a", "tau", "rho", r.choice([0.25, 0.5, 1.5, -0.75])])
    if r.random() < 0.35:
        return (r.choice(UNARY), grow(r, depth - 1))
    return (r.choice(BINARY), grow(r, depth - 1), grow(r, depth - 1))


def evaluate(tree, env):
    if isinstance(tree, str):
        return env[tree]
    if isinstance(tree, float):
        return env["x"] * 0 + tree if env["fill"] else tree
    op, *args = tree
    a, *rest = (evaluate(t, {**env, "fill": True}) for t in args)
    b = rest[0] if rest else None
    return {
        "abs": lambda: a.abs(),
        "relu": lambda: torch.relu(a),
        "neg": lambda: -a,
        "square": lambda: a * a,
        "clamp": lambda: a.clamp(-1.5, 1.25),
        "floor_frac": lambda: a - torch.floor(a),
        "sqrt": lambda: torch.sqrt(a.abs() + 0.5),
        "reciprocal": lambda: 1 / (a.abs() + 1.25),
        "add": lambda: a + b,
        "sub": lambda: a - b,
        "mul": lambda: a * b,
        "div": lambda: a / (b.abs() + 1.0),
        "minimum": lambda: torch.minimum(a, b),
        "maximum": lambda: torch.maximum(a, b),
        "where": lambda: torch.where(a > b, a, b * 0.5),
    }[op]()


def random_neuron(seed):
    r = random.Random(seed)
    drive, slow, tau_kind = grow(r, 4), grow(r, 3), r.choice(["scalar", "channel", "neuron"])
    reset = r.choice(["hard", "soft", "none"])
    shape = {"scalar": (), "channel": (4,), "neuron": (4, 5)}[tau_kind]

    class Fuzzed(sl.Neuron):
        exact = "sqrt" not in repr((drive, slow))  # torch's own square root is not correctly rounded

        def __init__(self):
            super().__init__(reset=reset, detach_reset=r.random() < 0.5, surrogate=sl.surrogate.ATan(2.0))
            g = torch.Generator().manual_seed(seed)
            tau = nn.Parameter(1.5 + torch.rand(shape, generator=g, dtype=torch.float64))
            self.numbers(tau=tau, rho=0.8, v_threshold=0.6, v_reset=0.0)
            self.states(v=0.0, a=0.25)

        def dynamics(self, x, v, a):
            env = {"x": x, "v": v, "a": a, "tau": self.tau, "rho": self.rho, "fill": False}
            h = v + (x + (evaluate(drive, env) + 0 * x).clamp(-2.0, 2.0) - v) / self.tau
            s = self.fire(h - self.v_threshold)
            return s, self.reset_voltage(h, s), (a * self.rho + 0.2 * evaluate(slow, env) + 0 * x).clamp(-3.0, 3.0)

    return Fuzzed()


def results(seed, x, backend):
    neuron = random_neuron(seed).to(x.dtype)
    leaf = x.clone().requires_grad_()
    with sl.backend(backend):
        y, state, recorded = neuron.sequence(leaf, record=("v", "a"))
    g = torch.Generator().manual_seed(seed)
    loss = sum((t * torch.randn(t.shape, generator=g, dtype=x.dtype)).sum() for t in (y, *recorded.values()))
    grads = torch.autograd.grad(loss, [leaf, neuron.tau])
    return y.detach(), {k: v.detach() for k, v in state.items()}, grads


@pytest.mark.full
@pytest.mark.parametrize("part", range(25))
def test_a_thousand_random_neurons(part):
    agree(range(1000 + 40 * part, 1040 + 40 * part))


def test_forty_random_neurons():
    agree(range(40))


def agree(seeds):
    """Of these random neurons at least 60 % spike between 5 and 95 % of the time, and as many are exact."""
    spiking = exact = 0
    for seed in seeds:
        torch.manual_seed(seed)
        x = torch.randn(19, 3, 4, 5, dtype=torch.float64) + 0.5
        for dtype in (torch.float32, torch.float64):
            y, state, grads = results(seed, x.to(dtype), "eager")
            z, other, kernel_grads = results(seed, x.to(dtype), "c")
            if random_neuron(seed).exact:
                exact += 1
                assert torch.equal(y, z), seed
                assert all(torch.equal(state[name], other[name]) for name in state), seed
        assert torch.equal(y, z), seed
        torch.testing.assert_close(other, state, atol=1e-12, rtol=1e-12)
        for a, b in zip(grads, kernel_grads, strict=True):
            assert (a - b).abs().max() <= 1e-9 * a.abs().max().clamp(min=1e-6), seed
        spiking += 0.05 < float(y.mean()) < 0.95
    assert spiking >= 0.6 * len(seeds)
    assert exact >= 0.6 * len(seeds)
