"""Every neuron of the catalogue, and what is made of them: kernel against PyTorch loop, with and without backward."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import spikeloom as sl

from .common import compare, must_match

T, B, N = 32, 64, 256


COUPLED = ("Recurrent", "GLIF", "DSRIF", "DSRLIF", "AssociativeLeaky")


def samples() -> dict[str, Any]:
    """The samples of tests/samples.py that are measured: neurons, options and layers, by name."""
    file = Path(__file__).parents[1] / "tests" / "samples.py"
    spec = importlib.util.spec_from_file_location("samples", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["samples"] = module  # where dataclasses look
    spec.loader.exec_module(module)
    single = {**module.NEURONS, **module.OPTIONS}
    found = {  # not those whose time is that of random numbers, and of batch norm in a loop
        name: sample for name, sample in single.items() if " " not in name and name not in module.OUTERMOST
    }
    layers = module.layers(T, N)
    return {**found, **{f"nn.{name}": layers[name] for name in COUPLED}}


def run(neuron: sl.TemporalModule, x: Tensor, g: Tensor, backend: Any) -> list[Tensor]:
    """Spikes and the gradient of the input."""
    with sl.backend(backend):
        x = x.detach().requires_grad_()
        y, _ = neuron.sequence(x)
        if not y.requires_grad:  # STBIF
            return [y, torch.zeros_like(x)]
        return [y.detach(), torch.autograd.grad((y * g).sum(), x)[0]]


def infer(neuron: sl.TemporalModule, x: Tensor, backend: Any) -> Tensor:
    """Spikes, without a graph."""
    with sl.backend(backend), torch.no_grad():
        y: Tensor = neuron.sequence(x)[0]
        return y


def main() -> dict[str, Any]:
    """A row for each neuron and direction."""
    rows: dict[str, Any] = {}
    for name, sample in samples().items():
        torch.manual_seed(0)
        neuron = sample.make()
        x = sample.gain * (0.5 + torch.randn(T, B, N))
        g = torch.randn_like(infer(neuron, x, "c"))
        small, wide = x[:, :2].double(), g[:, :2].double()
        neuron.double()  # in float32 a rounding can move a spike
        found = [run(neuron, small, wide, backend) for backend in ("c", "eager")]
        must_match(name, *(f[: 1 if name == "STBIF" else 2] for f in found), tolerance=1e-7)
        neuron.float()
        spikes = float(infer(neuron, x, "c").ne(0).float().mean())

        def sides(work: Callable[[Any], object]) -> dict[str, Callable[[], object]]:
            return {"spikeloom": lambda: work("c"), "PyTorch loop": lambda: work("eager")}

        forward = sides(lambda backend: infer(neuron, x, backend))  # noqa: B023  # called at once
        both = sides(lambda backend: run(neuron, x, g, backend))  # noqa: B023
        directions = [("forward", forward), ("forward and backward", both)]
        for what, timed in directions[: 1 if name == "STBIF" else 2]:  # which has no gradient
            measured = compare(timed, seconds=1.5)
            per = 1e6 * measured["spikeloom"]["ms"] / x.numel()
            rows[f"{name}, {what}: {per:.2f} ns an element"] = {"spikes": spikes, "sides": measured}
    return rows
