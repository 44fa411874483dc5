"""A training step of a convolutional SNN: conv 64 - BN - LIF - pool, twice, linear 512 - LIF - linear 10 - LIF."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
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


class Side:
    """A network and its training step."""

    def __init__(self, net: nn.Module, forward: Callable[[Tensor], Tensor], *, half: bool, last: bool = False) -> None:
        g = torch.Generator().manual_seed(1)
        self.images, self.labels = torch.rand(B, 1, 28, 28, generator=g), torch.randint(10, (B,), generator=g)
        if last:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.net, self.forward, self.half = net, forward, half
        self.optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)

    def loss(self) -> tuple[Tensor, Tensor]:
        """Rates, and the loss."""
        with torch.autocast("cpu", torch.bfloat16) if self.half else nullcontext():
            rates = self.forward(self.images).float().mean(0)
        return rates, F.mse_loss(rates, F.one_hot(self.labels, 10).float())

    def step(self) -> None:
        """One step of the optimiser."""
        self.optimiser.zero_grad()
        self.loss()[1].backward()
        self.optimiser.step()

    def gradient(self) -> tuple[Tensor, Tensor]:
        """Rates and the gradient of all parameters of the fresh network, in one vector."""
        rates, loss = self.loss()
        grads = torch.autograd.grad(loss, list(self.net.parameters()))
        return rates.detach(), torch.cat([g.flatten().double() for g in grads])


def must_agree(name: str, ours: Side, theirs: Side) -> None:
    """Stops unless rates differ by a spike at most and gradients point the same way.

    Spikes next to a threshold may fall to either side, since both add in their own order; in bfloat16 more do.
    """
    (rates, g), (other, h) = ours.gradient(), theirs.gradient()
    off, cosine = float((rates - other).abs().max()), float(F.cosine_similarity(g, h, dim=0))
    least = 0.9 if ours.half else 0.995
    if off > (2 if ours.half else 1) / T + 1e-6 or cosine < least:
        raise SystemExit(f"{name}: rates differ by {off}, gradients have a cosine of {cosine:.4f}; nothing was timed")
    print(f"{name}: rates differ by at most {off:.3f}, gradients have a cosine of {cosine:.5f}", flush=True)


def steps(*, half: bool) -> dict[str, Any]:
    """The whole step against SpikingJelly's and snnTorch's."""

    def ours(last: bool = False, **options: Any) -> Side:
        net = sl.Network(*layers(lambda: sl.LIF(tau=2.0)), **options)
        return Side(net, lambda x: net(x, repeat=T), half=half, last=last)

    plain = ours(static_prefix=False)
    sides = {
        "spikeloom, spikes of one bit, channels last": ours(last=True, spikes="packed"),
        "spikeloom, channels last": ours(last=True),
        "spikeloom, spikes of one bit": ours(spikes="packed"),
        "spikeloom": ours(),
        "spikeloom without the static prefix": plain,
        "spikeloom without fused batch norm": ours(fuse=False),
    }
    for name, side in sides.items():
        must_agree(name, plain, side)
    try:
        from spikingjelly.activation_based import functional, layer, neuron, surrogate
    except ImportError:
        pass
    else:

        def lif() -> nn.Module:
            return neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(), step_mode="m")

        def jelly(last: bool) -> Side:
            wrapped = [m if isinstance(m, neuron.LIFNode) else layer.SeqToANNContainer(m) for m in layers(lif)]
            theirs = nn.Sequential(*wrapped)

            def forward(x: Tensor) -> Tensor:
                functional.reset_net(theirs)
                y: Tensor = theirs(x.unsqueeze(0).expand(T, *x.shape) if last else x.unsqueeze(0).repeat(T, 1, 1, 1, 1))
                return y

            return Side(theirs, forward, half=half, last=last)

        for name, last in (("spikingjelly", False), ("spikingjelly, channels last", True)):
            sides[name] = jelly(last)
            must_agree(name, plain, sides[name])
    try:
        import snntorch
    except ImportError:
        pass
    else:

        def leaky(last: bool) -> Side:
            modules = nn.Sequential(
                *layers(lambda: snntorch.Leaky(beta=0.5, reset_mechanism="zero", reset_delay=False))
            )

            def forward(x: Tensor) -> Tensor:  # plain layers see all steps at once: batch norm over T, as here
                y = torch.cat([x] * T)
                for module in modules:
                    if not isinstance(module, snntorch.Leaky):
                        y = module(y)
                        continue
                    mem, spikes = module.reset_mem(), []
                    for x_t in (0.5 * y).unflatten(0, (T, B)):  # the gain 1/tau of LIF's input
                        spike, mem = module(x_t, mem)
                        spikes.append(spike)
                    y = torch.cat(spikes)
                return y.unflatten(0, (T, B))

            return Side(modules, forward, half=half, last=last)

        for name, last in (("snntorch", False), ("snntorch, channels last", True)):
            sides[name] = leaky(last)
            must_agree(name, plain, sides[name])
    return {"sides": compare({name: side.step for name, side in sides.items()}, seconds=45.0)}


def has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16; elsewhere convolutions emulate it, several times slower."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags or "bf16" in flags.split()


def main() -> dict[str, Any]:
    """float32, and bfloat16 under autocast; memory retained on all sides."""
    sl.retain_memory()
    rows = {"training step, conv SNN, T=8, batch 64, 28x28": steps(half=False)}
    if has_bfloat16():
        rows["training step, conv SNN, T=8, batch 64, 28x28, bfloat16"] = steps(half=True)
    else:
        print("training step in bfloat16: skipped, this processor has no bfloat16 arithmetic", flush=True)
    sl.release_memory()
    return rows
