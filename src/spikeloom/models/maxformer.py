"""Max-Former: currents between blocks, max pools in the embeddings, and convolutions where others attend early.

    embedding:  s = neuron(x);  x = norm(conv(neuron(pool(norm(conv(s)))))) + pool(norm(conv1x1(s)))
    block:      x = x + mixer(x);  x = x + norm(conv1x1(neuron(norm(conv1x1(neuron(x))))))
    mixer:      norm(depthwise(neuron(x))), in the last stage norm(proj(attention(neuron(x))))

No branch ends in a neuron: currents are added, and all convolutions but the first are given spikes.

Fang et al., Spiking Neural Networks Need High-Frequency Information, NeurIPS 2025.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from torch import Tensor, nn

from ..nn import SpikingSelfAttention
from .blocks import Model, NeuronFactory, Neurons, check_option, check_sizes, conv, norm_neuron, pooled_head
from .registry import Entry, Figure, register
from .resnet import STEMS, Stem
from .spikformer import entry, initialise, paper_neuron

PAPER = "Fang et al., Spiking Neural Networks Need High-Frequency Information, NeurIPS 2025"
REFERENCE = "https://github.com/bic-L/MaxFormer"


class Size(NamedTuple):
    """The name, the channels of the last stage, blocks and depthwise kernels of each, heads, width of MLPs.

    A kernel of 0 is a block without a mixer.
    """

    name: str
    dim: int
    depths: tuple[int, ...]
    kernels: tuple[int, ...]
    heads: int
    ratio: int = 4


class Embedding(nn.Module):
    """Currents of two branches, added, behind layers that both share."""

    def __init__(self, first: nn.Module, main: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.first, self.main, self.shortcut = first, main, shortcut

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y: Tensor = self.main(x) + self.shortcut(x)
        return y


def halved(channels: int, out: int, neurons: Neurons) -> Embedding:
    """The embedding of all stages but the first: half the height and width, by a max pool in either branch."""
    main = nn.Sequential(*_pooled(channels, out), neurons(out, "main.3"), *_plain(out, out))
    return Embedding(neurons(channels, "first"), main, nn.Sequential(*_pooled(channels, out, 1)))


def embedded(stem: Stem, in_channels: int, dim: int, neurons: Neurons) -> tuple[Embedding, int]:
    """The embedding of the first stage, and its stride."""
    if stem == "imagenet":
        half = dim // 2
        first = nn.Sequential(
            conv(in_channels, half, stride=2), norm_neuron(nn.BatchNorm2d(half), neurons(half, "first.1"))
        )
        joined = norm_neuron(nn.BatchNorm2d(dim), neurons(dim, "main.1"))
        main = nn.Sequential(conv(half, dim, stride=2), joined, *_plain(dim, dim))
        return Embedding(first, main, nn.Sequential(conv(half, dim, 1, stride=2), nn.BatchNorm2d(dim))), 4
    if stem == "cifar":
        half = dim // 2
        first = nn.Sequential(*_plain(in_channels, half))
        main = nn.Sequential(neurons(half, "main.0"), *_plain(half, dim))
        return Embedding(first, main, nn.Sequential(neurons(half, "shortcut.0"), *_plain(half, dim, 1))), 1
    eighth, quarter, half = dim // 8, dim // 4, dim // 2
    first = nn.Sequential(
        conv(in_channels, eighth),
        norm_neuron(nn.BatchNorm2d(eighth), neurons(eighth, "first.1")),
        *_pooled(eighth, quarter),
        neurons(quarter, "first.5"),
    )
    main = nn.Sequential(*_pooled(quarter, half), neurons(half, "main.3"), *_pooled(half, dim))
    return Embedding(first, main, nn.Sequential(conv(quarter, dim, 1, stride=4), nn.BatchNorm2d(dim))), 8


def _plain(channels: int, out: int, size: int = 3) -> list[nn.Module]:
    return [conv(channels, out, size), nn.BatchNorm2d(out)]


def _pooled(channels: int, out: int, size: int = 3) -> list[nn.Module]:
    return [*_plain(channels, out, size), nn.MaxPool2d(3, 2, 1)]


class Mixer(nn.Module):
    """A neuron and attention between the pixels of ``[N, C, H, W]``, which gives currents of the same shape."""

    def __init__(self, dim: int, heads: int, neurons: Neurons) -> None:
        super().__init__()
        self.spike = neurons(dim, "spike")
        self.attention = SpikingSelfAttention(dim, heads, neuron=neurons.below("attention"), gives="currents")

    def forward(self, x: Tensor) -> Tensor:
        currents: Tensor = self.attention(self.spike(x).flatten(2))
        return currents.view(x.shape)


class Block(nn.Module):
    """A mixer, if there is one, and two layers on each pixel, all of which add currents to ``[N, dim, H, W]``.

    Where the layers inside are as wide as the block, each has a shortcut of its own.
    """

    def __init__(self, mixer: nn.Module | None, dim: int, hidden: int, neurons: Neurons) -> None:
        super().__init__()
        self.mixer = mixer
        first, last = nn.Conv2d(dim, hidden, 1), [nn.Conv2d(hidden, dim, 1), nn.BatchNorm2d(dim)]
        self.inner: nn.Module | None = None
        if hidden == dim:
            self.inner = nn.Sequential(neurons(dim, "inner.0"), first, nn.BatchNorm2d(hidden))
            self.mlp = nn.Sequential(neurons(dim, "mlp.0"), *last)
        else:
            joined = norm_neuron(nn.BatchNorm2d(hidden), neurons(hidden, "mlp.2"))
            self.mlp = nn.Sequential(neurons(dim, "mlp.0"), first, joined, *last)

    def forward(self, x: Tensor) -> Tensor:
        if self.mixer is not None:
            x = x + self.mixer(x)
        if self.inner is not None:
            x = x + self.inner(x)
        y: Tensor = x + self.mlp(x)
        return y


_entry = functools.partial(
    entry,
    paper=PAPER,
    bits="all convolutions but the first; depthwise ones unpack what they are given",
    reference=REFERENCE,
)


def _imagenet(dim: int, parameters: int, *figures: Figure) -> Entry:
    return _entry(Size(f"maxformer_10_{dim}", dim, (1, 2, 7), (7, 5), dim // 64), parameters, *figures)


def _events(data: str, classes: int, parameters: int) -> Entry:
    size = Size(f"maxformer_{data}", 256, (1, 1), (3,), 16, ratio=1)
    return _entry(size, parameters, stem="dvs", input=(2, 128, 128), classes=classes, T=16)


ENTRIES = {
    "maxformer_10_384": _imagenet(384, 16_237_240, Figure("ImageNet", 77.49, "log", "T = 4, last epoch")),
    "maxformer_10_512": _imagenet(512, 28_653_480, Figure("ImageNet", 75.21, "log", "T = 1, last epoch")),
    "maxformer_10_768": _imagenet(
        768,
        63_992_200,
        Figure("ImageNet", 82.39, "paper", "T = 4"),
        Figure("ImageNet", 82.27, "log", "T = 4, last epoch"),
    ),
    "maxformer_cifar": _entry(
        Size("maxformer_cifar", 384, (1, 1, 2), (0, 3), 8),
        6_602_932,
        stem="cifar",
        input=(3, 32, 32),
        classes=100,
    ),
    "maxformer_cifar10dvs": _events("cifar10dvs", 10, 1_455_626),
    "maxformer_dvsgesture": _events("dvsgesture", 11, 1_455_883),
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
    """Stages of twice as many channels as the one before, all but the last with depthwise convolutions or no mixer.

    ``stem`` is the embedding of the first stage: ``"imagenet"``, two convolutions of stride 2; ``"cifar"``, which keeps
    height and width; or ``"dvs"``, with three max pools. The neuron before the last linear layer is given the currents'
    average over space.
    """
    check_sizes(size.name, num_classes, in_channels)
    check_option(size.name, "stem", stem, STEMS)
    neurons = Neurons(size.name, neuron, paper_neuron)
    layers: dict[str, nn.Module] = {}
    maps: dict[str, tuple[int, int]] = {}
    last = len(size.depths) - 1
    stride = 1
    for k, depth in enumerate(size.depths):
        name, dim = f"stage{k + 1}", size.dim // 2 ** (last - k)
        at = neurons.at(f"{name}.0")
        first, by = (halved(dim // 2, dim, at), 2) if k else embedded(stem, in_channels, dim, at)
        stride *= by
        blocks = [_block(size, k, dim, neurons.at(f"{name}.{i}")) for i in range(1, depth + 1)]
        layers[name], maps[name] = nn.Sequential(first, *blocks), (dim, stride)
    pool, flat, *linear = pooled_head(size.dim, num_classes)
    layers["head"] = nn.Sequential(pool, flat, neurons(size.dim, "head.2"), *linear)
    model = Model(layers, maps=maps)
    initialise(model, nn.Conv2d if stem == "imagenet" else nn.Linear)
    return model


def _block(size: Size, stage: int, dim: int, neurons: Neurons) -> Block:
    mixer: nn.Module | None = None
    if stage == len(size.depths) - 1:
        mixer = Mixer(dim, size.heads, neurons.at("mixer"))
    elif kernel := size.kernels[stage]:
        depthwise = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        mixer = nn.Sequential(neurons(dim, "mixer.0"), depthwise, nn.BatchNorm2d(dim))
    return Block(mixer, dim, size.ratio * dim, neurons)
