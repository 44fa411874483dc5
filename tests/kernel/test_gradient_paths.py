"""Which outputs have a gradient, and of what: kernels say None where the loop has no path, not zeros."""

import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom.native import build

sys.path.append(str(Path(__file__).parents[1]))
import samples

try:
    build.ready()
except build.BuildError as missing:
    pytest.skip(f"no C kernels on this machine: {missing}", allow_module_level=True)


class Passing(sl.Neuron):
    """The output is rounded, whose derivative is 0 and there; ``a`` takes over ``b`` of the step before, cut."""

    def __init__(self):
        super().__init__()
        self.numbers(gain=nn.Parameter(torch.tensor(1.5)), th=0.5)
        self.states(a=0.0, b=0.0)

    def dynamics(self, x, a, b):
        return torch.round(x) + (a > self.th) * 1.0, b.detach() + self.gain * a, x + 0.5 * b


def paths(module, backend, T, *, start):
    """Which outputs require a gradient, and for each of those which leaves get one."""
    torch.manual_seed(0)
    x = torch.rand(T, 4, 8, requires_grad=True)
    neuron = getattr(module, "neuron", module)
    state = {name: value.detach().requires_grad_() for name, value in module.initial_state(x[0]).items()}
    with sl.backend(backend):
        y, final, *recorded = module.sequence(x, state=state if start else None, record=neuron.recordable)
    outs = {"out": y, **{f"{k} at the end": v for k, v in final.items()}, **dict(*recorded)}
    leaves = {"x": x, **(state if start else {}), **dict(module.named_parameters())}
    found = {}
    for name, out in outs.items():
        if not out.requires_grad:
            found[name] = None
            continue
        grads = torch.autograd.grad(out.sum(), list(leaves.values()), allow_unused=True, retain_graph=True)
        found[name] = {leaf for leaf, g in zip(leaves, grads, strict=True) if g is not None}
    return found


MODULES = {
    **{name: sample.make for name, sample in samples.IN_ONE_STEP.items()},
    "Passing": Passing,
    "SLTT": lambda: sl.options.SLTT(sl.Synaptic(alpha=0.5, beta=0.7)),
    "a norm before STBIF": lambda: sl.nn.NormNeuron(nn.BatchNorm1d(8), sl.STBIF()),
    "a norm in evaluation before STBIF": lambda: sl.nn.NormNeuron(nn.BatchNorm1d(8), sl.STBIF()).eval(),
    "a norm before a LIF": lambda: sl.nn.NormNeuron(nn.BatchNorm1d(8), sl.LIF()),
}


@pytest.mark.parametrize("name", MODULES)
def test_kernels_have_the_paths_of_the_loop(name):
    for T, start in itertools.product((1, 3), (False, True)):
        torch.manual_seed(1)
        wanted = paths(MODULES[name](), "eager", T, start=start)
        torch.manual_seed(1)
        assert paths(MODULES[name](), "c", T, start=start) == wanted, (T, start)


def test_the_paths_of_two_neurons_by_hand():
    found = paths(sl.STBIF(v_threshold=nn.Parameter(torch.tensor(0.4))), "c", 3, start=True)
    assert found == {
        "out": {"v_threshold"},
        "q at the end": {"x", "q", "v_threshold"},
        "n at the end": {"n"},
        "q": {"x", "q", "v_threshold"},
        "n": {"n"},
    }
    assert paths(sl.STBIF(), "c", 3, start=False) == {
        "out": None, "q at the end": {"x"}, "n at the end": None, "q": {"x"}, "n": None,
    }  # fmt: skip
    first, later = (paths(Passing(), "c", T, start=True) for T in (1, 3))
    assert first["out"] == later["out"] == {"x"}
    assert first["a at the end"] == {"a", "gain"}
    assert later["b at the end"] == {"x", "b"}
