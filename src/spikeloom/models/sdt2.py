"""Spike-driven Transformer V2 (Meta-SpikeFormer): convolution blocks, then transformer blocks, between currents.

    convolution block:  x = x + separable(x);  x = x + convs(x)
    transformer block:  x = x + attention(x);  x = x + mlp(x),   attention:  neuron_0.5(0.125 v k^T q), of RepConvs

Yao et al., Spike-driven Transformer V2: Meta Spiking Neural Network Architecture, ICLR 2024.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from ..nn import SpikeDrivenSelfAttention
from .blocks import Model, NeuronFactory, Neurons, check_sizes, conv
from .currents import Added, Spikes, chain, depthwise, mlp
from .registry import Entry, Figure, Info, register
from .sdt1 import paper_neuron


class Size(NamedTuple):
    """The name, the channels of the five stages, the transformer blocks of the last two, and the heads."""

    name: str
    dims: tuple[int, int, int, int, int]
    depths: tuple[int, int] = (6, 2)
    heads: int = 8


STRIDES = (2, 2, 2, 2, 1)


class TwoHeads(nn.Module):
    """Scores of classes and of a teacher's classes: both in training, their mean in evaluation."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.classes, self.teacher = nn.Linear(features, classes), nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Maps ``[N, features]`` to ``[N, classes]``, or two of these in training."""
        y, by_teacher = self.classes(x), self.teacher(x)
        return (y, by_teacher) if self.training else (y + by_teacher) / 2


def _entry(size: Size, parameters: int, *figures: Figure) -> Entry:
    info = Info(
        paper="Yao et al., Spike-driven Transformer V2, ICLR 2024",
        parameters=parameters,
        input=(3, 224, 224),
        classes=1000,
        T=4,
        neuron="LIF(tau=2.0, detach_reset=True, surrogate=Sigmoid(4.0)), v_threshold=0.5 on products in attention",
        bits="all convolutions but the first, depthwise ones and those behind them, and all but the first in a RepConv",
        reference="https://github.com/BICLab/Spike-Driven-Transformer-V2 (no licence)",
        figures=figures,
    )
    return Entry(size, info)


ENTRIES = {
    entry.size.name: entry
    for entry in (
        _entry(Size("sdt2_8_384", (48, 96, 192, 384, 480)), 31_333_864),
        _entry(
            Size("sdt2_8_512", (64, 128, 256, 512, 640)),
            55_350_248,
            Figure("ImageNet", 80.0, "paper", "T = 4, with distillation"),
        ),
        _entry(Size("sdt2_8_768", (96, 192, 384, 768, 960)), 123_741_160),
    )
}


@register(ENTRIES)
def build(
    size: Size,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    neuron: NeuronFactory | None = None,
    distillation: bool = False,
) -> Model:
    """Five stages, three of convolution blocks and two of transformer blocks; strides 2, 2, 2, 2 and 1.

    ``distillation`` adds a second linear layer, for the classes of a teacher: in training mode the output is a pair,
    scores for the labels and scores for the teacher, in evaluation their mean.
    """
    check_sizes(size.name, num_classes, in_channels)
    neurons = Neurons(size.name, neuron, paper_neuron)
    model = Model(
        {
            **stages(size, in_channels, Spikes(neurons), _convolutions, _transformer(size.heads)),
            "head": nn.Sequential(*_head(size, num_classes, neurons, distillation=distillation)),
        },
        maps=maps(size),
    )
    initialise(model)
    return model


def stages(
    size: Size,
    in_channels: int,
    spikes: Spikes,
    convolutions: Callable[[Spikes, int], Added],
    transformer: Callable[[Spikes, int], Added],
) -> dict[str, nn.Module]:
    """The five stages, each of which begins with a convolution that changes the size, of 7x7 in the first."""
    layers: dict[str, nn.Module] = {}
    for k, (dim, depth, stride) in enumerate(zip(size.dims, (1, 1, 2, *size.depths), STRIDES, strict=True), 1):
        if layers:
            down = chain(spikes.at(f"stage{k}.0"), [nn.Conv2d(in_channels, dim, 3, stride, 1)])
        else:
            down = nn.Sequential(nn.Conv2d(in_channels, dim, 7, stride, 3), nn.BatchNorm2d(dim))
        block = convolutions if k < 4 else transformer
        blocks = [block(spikes.at(f"stage{k}.{i}"), dim) for i in range(1, depth + 1)]
        layers[f"stage{k}"], in_channels = nn.Sequential(down, *blocks), dim
    return layers


def maps(size: Size) -> dict[str, tuple[int, int]]:
    """Channels and stride of the maps at the end of the stages."""
    strides = itertools.accumulate(STRIDES, operator.mul)
    return {f"stage{k}": both for k, both in enumerate(zip(size.dims, strides, strict=True), 1)}


def initialise(model: nn.Module) -> None:
    """Linear layers begin as the authors have them; all else as in torch."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


def _convolutions(spikes: Spikes, dim: int) -> Added:
    """A separable 7x7 convolution, and two of 3x3 with four times the channels between."""
    inside = 2 * dim
    separable = [conv(dim, inside, 1)], [depthwise(inside, 7), conv(inside, dim, 1)]
    return Added(
        separable=chain(spikes.at("separable"), *separable),
        convs=chain(spikes.at("convs"), [conv(dim, 4 * dim)], [conv(4 * dim, dim)]),
    )


def _transformer(heads: int) -> Callable[[Spikes, int], Added]:
    def block(spikes: Spikes, dim: int) -> Added:
        attention = SpikeDrivenSelfAttention(dim, heads, version=2, neuron=spikes.neurons.below("attention"))
        return Added(attention=attention, mlp=mlp(spikes.at("mlp"), dim))

    return block


def _head(size: Size, num_classes: int, neurons: Neurons, *, distillation: bool) -> list[nn.Module]:
    dim = size.dims[-1]
    head: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), neurons(dim, "head.2")]
    if num_classes:
        head.append(TwoHeads(dim, num_classes) if distillation else nn.Linear(dim, num_classes))
    return head
