"""Deployment: one step of one image at a time through a convolutional SNN, without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import spikeloom as sl

from .common import compare
from .training_step import layers

STEPS = 20


def in_a_loop(work: Callable[[], list[Tensor]]) -> Callable[[], list[Tensor]]:
    """The same without kernels."""

    def run() -> list[Tensor]:
        with sl.backend("eager"):
            return work()

    return run


def lively(modules: list[nn.Module]) -> list[nn.Module]:
    """The same layers with more gain, so that an untrained network fires."""
    for module in modules:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 5.0)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.1, generator=torch.Generator().manual_seed(2))
    return modules


def main() -> dict[str, Any]:
    """A stream of ``STEPS`` steps on each side; spikes are compared first."""
    g = torch.Generator().manual_seed(1)
    xs = torch.rand(STEPS, 1, 1, 28, 28, generator=g)

    def ours(**options: Any) -> Callable[[], list[Tensor]]:
        net = sl.Network(*lively(layers(lambda: sl.LIF(tau=2.0))), **options).eval()

        stream = net.stream()

        def run() -> list[Tensor]:
            stream.reset()
            return [stream(x) for x in xs]

        return run

    sides: dict[str, Callable[[], list[Tensor]]] = {
        "spikeloom, spikes of one bit": ours(spikes="packed"),
        "spikeloom": ours(),
        "spikeloom, PyTorch loop": in_a_loop(ours()),
    }
    try:
        from spikingjelly.activation_based import functional, neuron, surrogate
    except ImportError:
        pass
    else:
        jelly = nn.Sequential(
            *lively(layers(lambda: neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan())))
        ).eval()

        def theirs() -> list[Tensor]:
            functional.reset_net(jelly)
            return [jelly(x) for x in xs]

        sides["spikingjelly"] = theirs
    try:
        import snntorch
    except ImportError:
        pass
    else:
        leaky = nn.ModuleList(
            lively(layers(lambda: snntorch.Leaky(beta=0.5, reset_mechanism="zero", reset_delay=False)))
        ).eval()

        def step(x: Tensor, memory: dict[int, Tensor]) -> Tensor:
            for i, module in enumerate(leaky):
                if isinstance(module, snntorch.Leaky):
                    x, memory[i] = module(0.5 * x, memory.get(i, torch.zeros_like(x)))  # the gain 1/tau of LIF's input
                else:
                    x = module(x)
            return x

        def other() -> list[Tensor]:
            memory: dict[int, Tensor] = {}
            return [step(x, memory) for x in xs]

        sides["snntorch"] = other
    with torch.inference_mode():
        wanted = torch.stack(sides["spikeloom"]())
        for name, run in sides.items():
            off = float((torch.stack(run()) != wanted).float().mean())
            if off > 0.02:  # spikes next to a threshold
                raise SystemExit(f"{name}: {100 * off:.1f} % of the spikes differ; nothing was timed")
        measured = compare(sides, seconds=15.0)
    rate = float(wanted.mean())
    return {f"{STEPS} single steps of a conv SNN, batch 1": {"spikes": rate, "sides": measured}}
