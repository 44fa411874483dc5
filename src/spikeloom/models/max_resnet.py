"""Max-ResNet: an MS-ResNet for small images whose stages halve by a max pool in front of a neuron, not by a stride.

    block:  x = norm(conv(neuron(pool(norm(conv(neuron(x))))))) + shortcut(x)

Pools, and shortcuts ``norm(conv1x1(x))`` of stride 2, are in the first block of the second and third stage.

Fang et al., Spiking Neural Networks Need High-Frequency Information, NeurIPS 2025.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from .blocks import Model, NeuronFactory, Neurons, check_sizes, conv, norm_neuron, pooled_head
from .maxformer import PAPER, REFERENCE
from .registry import Entry, Figure, Info, register
from .spikformer import paper_neuron


class Size(NamedTuple):
    """The name, and the blocks of each stage, of 128, 256 and 512 channels."""

    name: str
    depths: tuple[int, int, int]


class Block(nn.Module):
    """Two convolutions of spikes and a shortcut of currents: ``[N, in, H, W]`` to ``[N, out, h, w]``."""

    def __init__(self, in_channels: int, out: int, neurons: Neurons, *, pooled: bool) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(out)
        if pooled:
            middle: list[nn.Module] = [norm, nn.MaxPool2d(3, 2, 1), neurons(out, "residual.4")]
        else:
            middle = [norm_neuron(norm, neurons(out, "residual.2"))]
        self.residual = nn.Sequential(
            neurons(in_channels, "residual.0"), conv(in_channels, out), *middle, conv(out, out), nn.BatchNorm2d(out)
        )
        self.shortcut: nn.Module | None = None
        if in_channels != out:
            stride = 2 if pooled else 1
            self.shortcut = nn.Sequential(conv(in_channels, out, 1, stride=stride), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.residual(x) + (x if self.shortcut is None else self.shortcut(x))
        return y


ENTRIES = {
    "max_resnet18": Entry(
        Size("max_resnet18", (3, 3, 2)),
        Info(
            paper=PAPER,
            parameters=12_502_090,
            input=(3, 32, 32),
            classes=10,
            T=4,
            neuron="LIF(tau=2.0, detach_reset=True, surrogate=Sigmoid(4.0))",
            bits="all convolutions but the first, and those of shortcuts, which are given currents",
            reference=REFERENCE,
            figures=(Figure("CIFAR10", 97.17, "paper", "T = 4"), Figure("CIFAR100", 83.06, "paper", "T = 4")),
        ),
    )
}


@register(ENTRIES)
def build(size: Size, *, num_classes: int = 10, in_channels: int = 3, neuron: NeuronFactory | None = None) -> Model:
    """A 3x3 convolution to 64 channels, three stages, a neuron, the average over space and a linear layer."""
    check_sizes(size.name, num_classes, in_channels)
    neurons = Neurons(size.name, neuron, paper_neuron)
    layers: dict[str, nn.Module] = {"stem": nn.Sequential(conv(in_channels, 64), nn.BatchNorm2d(64))}
    maps: dict[str, tuple[int, int]] = {}
    channels = 64
    for k, depth in enumerate(size.depths):
        name, out, blocks = f"layer{k + 1}", 128 * 2**k, []
        for i in range(depth):
            blocks.append(Block(channels, out, neurons.at(f"{name}.{i}"), pooled=k > 0 and i == 0))
            channels = out
        layers[name], maps[name] = nn.Sequential(*blocks), (out, 2**k)
    layers["head"] = nn.Sequential(neurons(channels, "head.0"), *pooled_head(channels, num_classes))
    return Model(layers, maps=maps)
