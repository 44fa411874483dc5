"""Layers with delays: ours against a convolution over time as reference implementations have it, and a linear layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import spikeloom as sl

from .common import compare

T, FEATURES, MAX_DELAY = 100, 256, 24


def main() -> dict[str, Any]:
    """Rows for two batch sizes: training steps with and without the gradient of the input; a delay for each channel."""
    rows: dict[str, Any] = {}
    for B in (32, 128):
        torch.manual_seed(0)
        layer = sl.nn.DelayLinear(FEATURES, FEATURES, MAX_DELAY)
        channel, linear = sl.nn.LearnedDelay(FEATURES, MAX_DELAY), torch.nn.Linear(FEATURES, FEATURES, bias=False)
        spikes, g = (torch.rand(T, B, FEATURES) < 0.05).float(), torch.randn(T, B, FEATURES)

        def reference(x: Tensor, layer: Any = layer) -> Tensor:
            padded = F.pad(x.permute(1, 2, 0), (MAX_DELAY, 0))  # [B, C, T], as it is there
            return F.conv1d(padded, layer.weights().flip(2)).permute(2, 0, 1)

        for by_input in (False, True):
            bits = sl.pack(spikes.clone().requires_grad_(by_input))
            x = spikes.clone().requires_grad_(by_input)

            def step(run: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor], g: Tensor = g) -> Any:
                y = run(x)
                return y, *torch.autograd.grad(y, [*([x] if x.requires_grad else []), *parameters], g)

            learned = [layer.weight, layer.delay]

            def ours(x: Tensor, layer: Any = layer) -> Tensor:
                y: Tensor = layer.sequence(x)[0]
                return y

            sides: dict[str, Callable[[], Any]] = {
                "spikeloom": partial(step, ours, bits, learned),
                "spikeloom, dense spikes": partial(step, ours, x, learned),
                "conv1d over time": partial(step, reference, x, learned),
            }
            found, wanted = sides["spikeloom"](), sides["conv1d over time"]()
            for a, b in zip(found, wanted, strict=True):
                if float(((a - b).abs().max() / b.abs().max()).detach()) > 1e-4:
                    raise SystemExit("another result than the convolution's; nothing was timed")
            work = f"DelayLinear {FEATURES} -> {FEATURES}, T {T}, batch {B}, {MAX_DELAY} steps, 5 % spikes"
            rows[f"{work}, {'all gradients' if by_input else 'of weights and delays'}"] = {"sides": compare(sides)}
        sides = {
            "spikeloom": lambda x=spikes, g=g, c=channel, m=linear: torch.autograd.grad(
                m(c.sequence(x)[0]), [c.delay, m.weight], g
            ),
            "nn.Linear": lambda x=spikes, g=g, m=linear: torch.autograd.grad(m(x), [m.weight], g),
        }
        rows[f"LearnedDelay and a linear layer of {FEATURES}, T {T}, batch {B}"] = {"sides": compare(sides)}
    return rows
