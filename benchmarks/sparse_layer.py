"""A linear layer with some of its synapses only: ours against a dense layer, with a mask and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import spikeloom as sl

from .common import compare

SIZES = ((128, 1024, 1024), (64, 36864, 128))


def main() -> dict[str, Any]:
    """Rows for several densities: a training step's two gradients."""
    rows: dict[str, Any] = {}
    for B, inputs, outputs in SIZES:
        for density in (0.01, 0.05, 0.1):
            torch.manual_seed(0)
            x, g = torch.rand(B, inputs).requires_grad_(), torch.randn(B, outputs)
            layer = sl.nn.SparseLinear(inputs, outputs, density=density)
            dense, mask = layer.dense_weight().detach().requires_grad_(), layer.mask.float()

            def ours(layer: Any = layer, x: Tensor = x, g: Tensor = g) -> tuple[Tensor, ...]:
                y = layer(x)
                return y, *torch.autograd.grad(y, [x, layer.weight], g)

            def masked(W: Tensor = dense, m: Tensor = mask, x: Tensor = x, g: Tensor = g, b: Any = layer.bias) -> Any:
                y = F.linear(x, W * m, b)
                return y, *torch.autograd.grad(y, [x, W], g)

            def plain(W: Tensor = dense, x: Tensor = x, g: Tensor = g, b: Any = layer.bias) -> Any:
                y = F.linear(x, W, b)
                return y, *torch.autograd.grad(y, [x, W], g)

            found, wanted = ours(), masked()
            for a, b in zip(found, (wanted[0], wanted[1], wanted[2][layer.mask]), strict=True):
                if float((a - b).abs().max() / b.abs().max()) > 1e-5:
                    raise SystemExit("another result than the dense layer's; nothing was timed")
            sides: dict[str, Callable[[], Any]] = {
                "spikeloom": ours,
                "nn.Linear with a mask": masked,
                "nn.Linear": plain,
            }
            name = f"SparseLinear {inputs} -> {outputs}, batch {B}, {100 * density:.0f} % of the synapses"
            rows[f"{name}, forward and backward"] = {"sides": compare(sides, seconds=2.0)}
    return rows
