"""Every neuron of the catalogue, and what is made of them: kernel against PyTorch loop, with and without backward."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import spikeloom as sl

from .common import compare, must_match

T, B, N = 32, 64, 256


APART = ("Noisy", "MPBN")  # whose time is that of random numbers, and of batch norm in a loop


COUPLED: dict[str, Callable[[], sl.TemporalModule]] = {
    "nn.Recurrent(LIF, Linear)": lambda: sl.nn.Recurrent(sl.LIF(), torch.nn.Linear(N, N)),
    "nn.GLIF": lambda: sl.nn.GLIF(T, N),
    "nn.DSRIF": lambda: sl.nn.DSRIF(v_threshold=3.0),
    "nn.DSRLIF": lambda: sl.nn.DSRLIF(dt=0.2, v_threshold=0.5),
    "nn.AssociativeLeaky": lambda: sl.nn.AssociativeLeaky(N, d_value=16, d_key=16),
}


def gallery() -> Any:
    """The script of the gallery, which knows what each neuron takes."""
    file = Path(__file__).parents[1] / "docs" / "gallery" / "draw.py"
    spec = importlib.util.spec_from_file_location("gallery", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    drawn = gallery()
    single = {n: functools.partial(drawn.make, n) for n in sl.neurons() if "." not in n and n not in APART}
    rows: dict[str, Any] = {}
    for name, make in {**single, **COUPLED}.items():
        torch.manual_seed(0)
        neuron = make()
        x = 2 * drawn.GAINS.get(name, 1.0) * (0.4 + torch.randn(T, B, N))
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
