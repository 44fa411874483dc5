"""Spikes of one bit each against torch's dense ones: products, convolutions, max pools, with their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl

from .common import compare

M, K, N = 4096, 512, 512
IMAGES, CHANNELS, PLACES = 64, 128, 16


def must_be_close(name: str, ours: Tensor, theirs: Tensor) -> None:
    """Stops unless two results agree to float32's rounding of a sum."""
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    if error > 1e-5:
        raise SystemExit(f"{name}: results differ by {error:.1e} of the largest; nothing was timed")


def row(name: str, ours: Callable[[], Tensor], theirs: Callable[[], Tensor]) -> dict[str, Any]:
    """One line of the table."""
    must_be_close(name, ours(), theirs())
    return {"sides": compare({"spikeloom, from bits": ours, "torch, dense float32": theirs}, seconds=1.5)}


def main() -> dict[str, Any]:
    """Rows for several rates."""
    rows: dict[str, Any] = {}
    W, G = torch.randn(K, N), torch.randn(M, N)
    shape = f"{IMAGES}x{CHANNELS}x{PLACES}x{PLACES}"
    for layout, name in ((torch.channels_last, "channels last"), (torch.contiguous_format, "contiguous")):
        layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).to(memory_format=layout)
        upstream = torch.randn(IMAGES, CHANNELS, PLACES, PLACES).contiguous(memory_format=layout)
        for rate in (0.1, 0.01, 0.05, 0.1, 0.2, 0.5):  # the first is replaced: the allocator has settled then
            torch.manual_seed(0)
            at = f"{100 * rate:.0f} % spikes"
            if layout == torch.channels_last:
                d = (torch.rand(M, K) < rate).float()
                products(rows, at, sl.pack(d), d, W, G)
            x = (torch.rand(IMAGES, CHANNELS, PLACES, PLACES) < rate).float().contiguous(memory_format=layout)
            convolutions(rows, f"{shape}, {name}, {at}", sl.pack(x), x, layer, upstream)
    return rows


def products(rows: dict[str, Any], at: str, s: Tensor, d: Tensor, W: Tensor, G: Tensor) -> None:
    """Spikes as one bit each and dense: times a weight, and the weight's gradient."""
    with torch.no_grad():
        size = f"{M}x{K}x{N}, {at}"
        rows[f"spikes @ weights, {size}"] = row(at, lambda: torch.mm(s, W), lambda: torch.mm(d, W))
        rows[f"gradient of the weights, {size}"] = row(at, lambda: torch.mm(G.t(), s), lambda: torch.mm(G.t(), d))


def convolutions(rows: dict[str, Any], at: str, s: Tensor, x: Tensor, layer: nn.Conv2d, upstream: Tensor) -> None:
    """A convolution, the gradient of its weight, both with the gradient of the input, and a max pool of 2x2."""

    def inference(v: Tensor) -> Tensor:
        with torch.no_grad():
            return layer(v)  # type: ignore[no-any-return]

    def by_weight(v: Tensor) -> Tensor:
        arguments = (layer.weight, [CHANNELS], [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
        with torch.no_grad():
            found: Tensor = torch.ops.aten.convolution_backward(upstream, v, *arguments, [False, True, False])[1]
        return found

    def training(v: Tensor) -> Tensor:
        v = v.detach().requires_grad_()
        return torch.autograd.grad(layer(v), [v, *layer.parameters()], upstream)[1]

    def pool(v: Tensor) -> Tensor:
        v = v.detach().requires_grad_()
        y = F.max_pool2d(v, 2)
        return torch.autograd.grad(y, v, upstream[:, :, ::2, ::2])[0]

    rows[f"convolution 3x3, {at}"] = row(at, lambda: inference(s), lambda: inference(x))
    rows[f"gradient of its weight, {at}"] = row(at, lambda: by_weight(s), lambda: by_weight(x))
    rows[f"convolution and all its gradients, {at}"] = row(at, lambda: training(s), lambda: training(x))
    rows[f"max pool 2x2 and its gradient, {at}"] = row(at, lambda: pool(s), lambda: pool(x))
