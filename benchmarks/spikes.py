"""Products with spikes of one bit each against torch's dense ones: linear, its weight gradient, convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

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
    return {"sides": compare({"spikeloom, from bits": ours, "torch, dense float32": theirs}, seconds=3.0)}


def main() -> dict[str, Any]:
    """Rows for several rates. Above ``MOST`` a SpikeTensor is unpacked and multiplied as a dense tensor."""
    rows: dict[str, Any] = {}
    W, G = torch.randn(K, N), torch.randn(M, N)
    convolution = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for rate in (0.01, 0.05, 0.1, 0.2, 0.3):
            torch.manual_seed(0)
            d = (torch.rand(M, K) < rate).float()
            s = sl.pack(d)
            at = f"{100 * rate:.0f} % spikes"
            rows[f"spikes @ weights, {M}x{K}x{N}, {at}"] = row(at, lambda: torch.mm(s, W), lambda: torch.mm(d, W))  # noqa: B023
            rows[f"gradient of the weights, {M}x{K}x{N}, {at}"] = row(
                at,
                lambda: torch.mm(G.t(), s),  # noqa: B023  # called at once
                lambda: torch.mm(G.t(), d),  # noqa: B023
            )
            x = (
                (torch.rand(IMAGES, CHANNELS, PLACES, PLACES) < rate)
                .float()
                .contiguous(memory_format=torch.channels_last)
            )
            bits = sl.pack(x)
            rows[f"convolution 3x3, {IMAGES}x{CHANNELS}x{PLACES}x{PLACES}, {at}"] = row(
                at,
                lambda: convolution(bits),  # noqa: B023
                lambda: convolution(x),  # noqa: B023
            )
    return rows
