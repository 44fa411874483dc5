"""A training step of a convolutional SNN: conv 64 - BN - LIF - pool, twice, linear 512 - LIF - linear 10 - LIF."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl

from .common import compare

T, B = 8, 64


def layers(lif: Callable[[], nn.Module]) -> list[nn.Module]:
    """The network on [B, 1, 28, 28]."""
    torch.manual_seed(0)
    return [
        nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), lif(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), lif(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 49, 512, bias=False), lif(), nn.Linear(512, 10, bias=False), lif(),
    ]  # fmt: skip


def step(net: nn.Module, forward: Callable[[Tensor], Tensor]) -> tuple[Callable[[], Any], Callable[[], Tensor]]:
    """A training step, and the rates of a fresh network."""
    g = torch.Generator().manual_seed(1)
    images, labels = torch.rand(B, 1, 28, 28, generator=g), torch.randint(10, (B,), generator=g)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)

    def run() -> None:
        optimiser.zero_grad()
        F.mse_loss(forward(images).mean(0), F.one_hot(labels, 10).float()).backward()
        optimiser.step()

    return run, lambda: forward(images).mean(0).detach()


def main() -> dict[str, Any]:
    """The whole step against SpikingJelly's, memory retained on all sides."""
    sl.retain_memory()
    ours = sl.Network(*layers(lambda: sl.LIF(tau=2.0)), static_prefix=False)
    run_ours, rates_ours = step(ours, lambda x: ours(x, repeat=T))
    prefix = sl.Network(*layers(lambda: sl.LIF(tau=2.0)))
    run_prefix, _ = step(prefix, lambda x: prefix(x, repeat=T))
    sides: dict[str, Callable[[], Any]] = {"spikeloom": run_prefix, "without the static prefix": run_ours}
    try:
        from spikingjelly.activation_based import functional, layer, neuron, surrogate
    except ImportError:
        pass
    else:

        def lif() -> nn.Module:
            return neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(), step_mode="m")

        wrapped = [m if isinstance(m, neuron.LIFNode) else layer.SeqToANNContainer(m) for m in layers(lif)]
        theirs = nn.Sequential(*wrapped)

        def forward(x: Tensor) -> Tensor:
            functional.reset_net(theirs)
            y: Tensor = theirs(x.unsqueeze(0).repeat(T, 1, 1, 1, 1))
            return y

        run_theirs, rates_theirs = step(theirs, forward)
        off = float((rates_ours() - rates_theirs()).abs().max())
        if off > 1 / T + 1e-6:  # one spike near the threshold may fall to either side
            raise SystemExit(f"spikingjelly: rates of the untrained networks differ by {off}; nothing was timed")
        sides["spikingjelly"] = run_theirs
    rows = {"conv SNN, T=8, batch 64, 28x28": {"sides": compare(sides, seconds=30.0)}}
    sl.release_memory()
    return rows
