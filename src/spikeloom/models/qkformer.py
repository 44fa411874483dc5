"""QKFormer: three stages, each of which embeds the map before it in fewer pixels of more channels, and has blocks.

    embedding:  x = spikes(x) + shortcut(x),  spikes: twice conv, norm, neuron, with max pools before the neuron
    block:      x = x + attention(x);  x = x + mlp(x)

Attention is a mask of tokens (QKAttention), linear in their number, and in the last stage Spikformer's.

Zhou et al., QKFormer: Hierarchical Spiking Transformer using Q-K Attention, NeurIPS 2024.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from torch import Tensor, nn

from ..nn import QKAttention, SpikingSelfAttention
from .blocks import Model, NeuronFactory, Neurons, check_option, check_sizes, conv, norm_neuron, pooled_head
from .registry import Entry, Figure, register
from .resnet import STEMS, Stem
from .spikformer import Block, entry, initialise, paper_neuron

Layers = tuple[tuple[int, bool], ...]
"""Convolutions by their channels, and whether a max pool stands between norm and neuron."""


class Size(NamedTuple):
    """The name, the channels of the last stage, the blocks of each, the heads, and the width of MLPs per channel."""

    name: str
    dim: int
    depths: tuple[int, ...]
    heads: int
    ratio: int = 4


class Embedding(nn.Module):
    """Spikes of convolutions and spikes of a 1x1 convolution, added: ``[N, in, H, W]`` to ``[N, out, h, w]``."""

    def __init__(self, channels: int, layers: Layers, neurons: Neurons) -> None:
        super().__init__()
        out, stride = layers[-1][0], 2 ** sum(pooled for _, pooled in layers)
        self.spikes = nn.Sequential(*convolutions(channels, layers, neurons.at("spikes")))
        self.shortcut = nn.Sequential(
            conv(channels, out, 1, stride=stride), norm_neuron(nn.BatchNorm2d(out), neurons(out, "shortcut.1"))
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.spikes(x) + self.shortcut(x)
        return y


def convolutions(channels: int, layers: Layers, neurons: Neurons) -> list[nn.Module]:
    """3x3 convolutions, each with a norm, a 3x3 max pool of stride 2 where there is one, and a neuron."""
    made: list[nn.Module] = []
    for out, pooled in layers:
        made += [conv(channels, out), nn.BatchNorm2d(out)]
        if pooled:
            made += [nn.MaxPool2d(3, 2, 1), neurons(out, str(len(made) + 1))]
        else:
            made.append(norm_neuron(made.pop(), neurons(out, str(len(made)))))
        channels = out
    return made


def embedded(stem: Stem, stage: int, dim: int) -> tuple[Layers, Layers]:
    """The layers of a stage before its shortcut begins, and those beside it."""
    if stage:
        return (), ((dim, stem == "imagenet"), (dim, stem != "imagenet"))
    if stem == "dvs":
        return ((dim // 8, False), (dim // 4, True)), ((dim // 2, True), (dim, True))
    if stem == "cifar":
        return ((dim // 2, False),), ((dim, False),)
    return ((dim // 2, True),), ((dim, True), (dim, False))


_entry = functools.partial(
    entry,
    paper="Zhou et al., QKFormer: Hierarchical Spiking Transformer using Q-K Attention, NeurIPS 2024",
    bits="in embeddings the convolutions behind a neuron; in blocks the last of attention and of each MLP, since "
    "the others are given sums of spikes",
    reference="https://github.com/zhouchenlin2096/QKFormer",
)


_LEAK = "state runs from sample to sample in that code"
_ALONE = "the same weights with each sample alone"


def _imagenet(dim: int, parameters: int, published: float, alone: float | None = None) -> Entry:
    figures = [Figure("ImageNet", published, "readme", f"T = 4; {_LEAK}")]
    if alone is not None:
        figures.append(Figure("ImageNet", alone, "issue", f"T = 4; {_ALONE}"))
    return _entry(Size(f"qkformer_10_{dim}", dim, (1, 2, 7), dim // 64), parameters, *figures)


ENTRIES = {
    "qkformer_10_384": _imagenet(384, 16_473_688, 78.80, 74.20),
    "qkformer_10_512": _imagenet(512, 29_079_336, 82.04),
    "qkformer_10_768": _imagenet(768, 64_962_760, 84.22, 78.70),
    "qkformer_cifar10_4_384": _entry(
        Size("qkformer_cifar10_4_384", 384, (1, 1, 2), 8), 6_706_234, stem="cifar", input=(3, 32, 32), classes=10
    ),
    "qkformer_cifar10dvs": _entry(
        Size("qkformer_cifar10dvs", 256, (1, 1), 16, ratio=1),
        1_504_138,
        Figure("CIFAR10-DVS", 84.0, "secondary", f"T = 16; no official split; {_LEAK}"),
        Figure("CIFAR10-DVS", 78.0, "issue", "T = 10"),
        stem="dvs",
        input=(2, 128, 128),
        classes=10,
        T=16,
    ),
    "qkformer_dvsgesture": _entry(
        Size("qkformer_dvsgesture", 256, (1, 1), 16), 1_999_371, stem="dvs", input=(2, 128, 128), classes=11, T=16
    ),
}


@register(ENTRIES)
def build(
    size: Size,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    neuron: NeuronFactory | None = None,
    stem: Stem = "imagenet",
) -> Model:
    """Stages of twice as many channels as the one before, with the same number of heads in each.

    ``stem`` says how maps get smaller: ``"imagenet"``, by 4 in the first stage and by 2 in each other, with the pool
    behind a stage's first convolution; ``"cifar"``, not in the first, and with the pool behind the second convolution;
    ``"dvs"``, by 8 in the first, and then as ``"cifar"``. Pools stand between norm and neuron. In the authors' code
    a neuron of the last stage's attention takes the samples of a batch for steps; here each sample is alone.
    """
    check_sizes(size.name, num_classes, in_channels)
    check_option(size.name, "stem", stem, STEMS)
    neurons = Neurons(size.name, neuron, paper_neuron)
    layers: dict[str, nn.Module] = {}
    maps: dict[str, tuple[int, int]] = {}
    channels, stride, last = in_channels, 1, len(size.depths) - 1
    for k, depth in enumerate(size.depths):
        name, dim = f"stage{k + 1}", size.dim // 2 ** (last - k)
        before, beside = embedded(stem, k, dim)
        made = convolutions(channels, before, neurons.at(name))
        made.append(
            Embedding(before[-1][0] if before else channels, beside, neurons.at(f"{name}.{len(made)}")),
        )
        for _ in range(depth):
            made.append(_block(size, dim, neurons.at(f"{name}.{len(made)}"), last=k == last))
        channels, stride = dim, stride * 2 ** sum(pooled for _, pooled in before + beside)
        layers[name], maps[name] = nn.Sequential(*made), (dim, stride)
    layers["head"] = nn.Sequential(*pooled_head(size.dim, num_classes))
    model = Model(layers, maps=maps)
    initialise(model, nn.Linear)
    return model


def _block(size: Size, dim: int, neurons: Neurons, *, last: bool) -> Block:
    kind = SpikingSelfAttention if last else QKAttention
    attention = kind(dim, size.heads, neuron=neurons.below("attention"))
    return Block(attention, dim, size.ratio * dim, neurons)
