"""Batch norm and the neuron after it, forward and backward: one kernel against torch's batch norm and a peer's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import spikeloom as sl

from .common import compare
from .neuron_layer import training

T, SHAPE = 8, (32, 64, 28, 28)


def close(name: str, ours: list[Tensor], theirs: list[Tensor]) -> None:
    """Stops unless at most 1e-5 of the spikes differ (next to the threshold) and the gradients point the same way."""
    differ = float((ours[0] != theirs[0]).float().mean())
    cosine = float(nn.functional.cosine_similarity(ours[1].flatten().double(), theirs[1].flatten().double(), dim=0))
    if differ > 1e-5 or cosine < 1 - 1e-5:
        raise SystemExit(f"{name}: {differ:.1e} of the spikes differ, gradients' cosine {cosine}; nothing was timed")


def layer(layout: torch.memory_format) -> dict[str, Any]:
    """One layout: ours in one kernel, unfused, and SpikingJelly's LIF after torch's batch norm."""
    g = torch.Generator().manual_seed(0)
    flat = (0.6 + torch.randn(T * SHAPE[0], *SHAPE[1:], generator=g)).contiguous(memory_format=layout)
    x, up = flat.unflatten(0, (T, SHAPE[0])), torch.randn(T, *SHAPE, generator=g)
    up = up.flatten(0, 1).contiguous(memory_format=layout).unflatten(0, (T, SHAPE[0]))
    norms = [nn.BatchNorm2d(SHAPE[1]) for _ in range(3)]
    for norm in norms:
        nn.init.constant_(norm.bias, 0.6)
    fused = sl.Network(norms[0], sl.LIF(tau=2.0))
    plain = sl.Network(norms[1], sl.LIF(tau=2.0), fuse=False)
    run, gave = training(fused, x, up)
    run_plain, gave_plain = training(plain, x, up)
    close("unfused", gave, gave_plain)
    sides: dict[str, Callable[[], Any]] = {"spikeloom": run, "torch's batch norm, then our neuron": run_plain}
    try:
        from spikingjelly.activation_based import functional, neuron, surrogate
        from spikingjelly.activation_based import layer as layers
    except ImportError:
        pass
    else:
        node = neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(), step_mode="m")
        theirs = nn.Sequential(layers.SeqToANNContainer(norms[2]), node)

        def forward(x: Tensor) -> Tensor:
            functional.reset_net(theirs)
            y: Tensor = theirs(x)
            return y

        run_theirs, gave_theirs = training(forward, x, up)
        close("spikingjelly", gave, gave_theirs)
        sides["spikingjelly"] = run_theirs
    sides["copy of x"] = lambda: x.clone()
    return {"spikes": float(gave[0].mean()), "sides": compare(sides, seconds=15.0)}


def main() -> dict[str, Any]:
    """Both layouts, memory retained on all sides."""
    sl.retain_memory()
    rows = {
        "batch norm + LIF, T=8, 32x64x28x28": layer(torch.contiguous_format),
        "batch norm + LIF, T=8, 32x64x28x28, channels_last": layer(torch.channels_last),
    }
    sl.release_memory()
    return rows
