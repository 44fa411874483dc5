"""Batch norms that join neurons in any forward: a training step with and without, dense and with spikes of one bit.

A ResNet-18 and a SEW-ResNet-18 of torch layers with a 3x3 stem after ``sl.replace``, whose forward knows nothing of
this project, and ours, whose blocks are made of ``NormNeuron``; T=4, batch 8, 32x32. What autograd keeps is counted by
``saved_tensors_hooks``, and all sides are timed in turn. ``python -m benchmarks.waiting_norm`` counts without timing:
the norms that join in the families of ``sl.models``, and the bytes.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl
from spikeloom.kernel import waiting

from .common import compare, must_match

T, B, SIZE = 4, 8, 32
MODES = {
    f"{'joined' if fuse else 'alone'}, {spikes}": (fuse, spikes)
    for fuse in (True, False)
    for spikes in ("dense", "packed")
}
COUNTED = {
    "spiking_resnet18": 64, "sew_resnet18": 64, "sew_resnet50": 64, "sew_resnet_cifar10dvs": 128,
    "sew_resnet_dvsgesture": 128, "ms_resnet18": 64, "spiking_vgg11_bn": 32, "plif_cifar10": 32, "plif_dvsgesture": 128,
}  # fmt: skip
"""Models and the size of images on which norms are counted."""


class Basic(nn.Module):
    """A basic block as in torchvision (He et al., 2016): the sum is made in place, the activation is shared."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.downsample: nn.Module | None = None
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        y: Tensor = self.relu(out)
        return y


class Sew(Basic):
    """The block with an activation of its own on either side of the sum (Fang et al., 2021)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__(inside, outside, stride)
        self.relu2 = nn.ReLU()
        self.relu3 = nn.Identity() if self.downsample is None else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        y: Tensor = out + (x if self.downsample is None else self.relu3(self.downsample(x)))
        return y


class ResNet18(nn.Module):
    """A ResNet-18 of torch layers for small images."""

    def __init__(self, block: type[Basic]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
        blocks = [block(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)]
        self.layers = nn.Sequential(*blocks)
        self.fc = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.relu(self.bn1(self.conv1(x))))
        y: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return y


def replaced(block: type[Basic]) -> nn.Module:
    """The network with neurons in place of its activations."""
    model = ResNet18(block)
    sl.replace(model, nn.ReLU, sl.LIF)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "SEW-ResNet-18": lambda: replaced(Sew),
    "ResNet-18": lambda: replaced(Basic),
    "sl.models sew_resnet18": lambda: sl.models.create("sew_resnet18", num_classes=10, stem="cifar"),
}


def data() -> tuple[Tensor, Tensor]:
    """Sequences and labels."""
    g = torch.Generator().manual_seed(1)
    return torch.rand(T, B, 3, SIZE, SIZE, generator=g), torch.randint(10, (B,), generator=g)


def side(
    make: Callable[[], nn.Module], fuse: bool, spikes: Any, dtype: torch.dtype = torch.float32
) -> tuple[sl.Network, Callable[[], list[Tensor]]]:
    """A network, and its forward and backward pass: the outputs, and all gradients in one vector."""
    torch.manual_seed(0)
    net = sl.Network(make(), fuse=fuse, spikes=spikes).to(dtype)
    x, labels = data()
    x = x.to(dtype)

    def step() -> list[Tensor]:
        net.zero_grad()
        y = net(x)
        F.cross_entropy(y.mean(0), labels).backward()
        return [y.detach(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])]

    return net, step


def saved(net: sl.Network) -> int:
    """Bytes of what autograd keeps of a call besides parameters, each memory once."""
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    found: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        inner = getattr(t, "bits", t)
        if inner.untyped_storage().data_ptr() not in own:
            found[inner.untyped_storage().data_ptr()] = inner.untyped_storage().nbytes()
        return t

    net(data()[0])  # norms that are looked at in vain are known from now on
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = net(data()[0])
    del y
    return sum(found.values())


def joined(name: str, size: int) -> tuple[int, int, int]:
    """How many batch norms a model has; how many join by NormNeuron or in a Sequential, and how many by waiting."""
    info = sl.models.info(name)
    net = sl.Network(sl.models.create(name))
    x = torch.rand(2, 2, info.input[0], size, size)
    rows = sl.explain(net, x).rows
    waited = sum(row.backend == "joined" for row in rows)
    fused = sum("fused with BatchNorm" in row.reason for row in rows)
    norms = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())
    return norms, fused - waited, waited


def count() -> None:
    """Prints joined norms and saved bytes."""
    before, waiting.WORTH = waiting.WORTH, 0
    print("| model | batch norms | join a neuron by NormNeuron or in a Sequential | by waiting |\n|---|---|---|---|")
    for name, size in COUNTED.items():
        print("|", name, "|", *(f"{n} |" for n in joined(name, size)), flush=True)
    waiting.WORTH = before
    print("| network | side | saved MiB | of dense, alone |\n|---|---|---|---|")
    for name, make in MODELS.items():
        found = {mode: saved(side(make, *options)[0]) / 2**20 for mode, options in MODES.items()}
        for mode, mb in found.items():
            print(f"| {name} | {mode} | {mb:.0f} | {mb / found['alone, dense']:.2f} |", flush=True)


def main() -> dict[str, Any]:
    """All networks."""
    sl.retain_memory()
    rows = {}
    for name, make in MODELS.items():
        first, *others = (side(make, *options, torch.float64)[1]() for options in MODES.values())
        for other in others:  # in float32 a spike turns with the order of additions, and all that follow it
            must_match(name, [first[0].round(decimals=9), first[1]], [other[0].round(decimals=9), other[1]])
        made = {mode: side(make, *options) for mode, options in MODES.items()}
        sides = {f"{mode}: saves {saved(net) / 2**20:.0f} MiB": step for mode, (net, step) in made.items()}
        rows[f"training step, {name}, T={T}, {B}x3x{SIZE}x{SIZE}"] = {"sides": compare(sides, seconds=90.0)}
    sl.release_memory()
    return rows


if __name__ == "__main__":
    sys.exit(count())
