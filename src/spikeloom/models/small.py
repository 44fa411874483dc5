"""Small nets for images of 8 x 8 and 28 x 28 pixels, for a first look and for tests: each trains in minutes on a CPU.

They are ours, and so are their weights: ``create("csnn_28x28", weights="fashion")``.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from torch import nn

from ..neuron import LIF
from .blocks import Model, NeuronFactory, Neurons, check_sizes, conv
from .plif import FlatMaps
from .registry import Entry, Info, register

own_neuron: NeuronFactory = functools.partial(LIF, tau=2.0)


class Size(NamedTuple):
    """The name, height and width of an image, the channels of each convolution, and the hidden neurons."""

    name: str
    size: tuple[int, int]
    channels: tuple[int, ...]
    hidden: int


def _entry(size: Size, parameters: int) -> Entry:
    info = Info(
        paper="",
        parameters=parameters,
        input=(1, *size.size),
        classes=10,
        T=4,
        neuron="LIF(tau=2.0)",
        bits="all but the first convolution",
    )
    return Entry(size, info)


ENTRIES = {
    "csnn_8x8": _entry(Size("csnn_8x8", (8, 8), (16, 32), 64), 13_690),
    "csnn_28x28": _entry(Size("csnn_28x28", (28, 28), (16, 32), 64), 105_850),
}


@register(ENTRIES)
def build(
    size: Size,
    *,
    num_classes: int = 10,
    in_channels: int = 1,
    neuron: NeuronFactory | None = None,
) -> Model:
    """Twice a 3x3 convolution, norm, neuron and max pool, then a layer of neurons and a linear one."""
    name, shape, widths, hidden = size
    check_sizes(name, num_classes, in_channels)
    neurons = Neurons(name, neuron, own_neuron)
    layers: dict[str, nn.Module] = {}
    maps: dict[str, tuple[int, int]] = {}
    channels = in_channels
    for k, out in enumerate(widths, 1):
        norm, spike = nn.BatchNorm2d(out), neurons(out, f"stage{k}.2")
        layers[f"stage{k}"] = nn.Sequential(conv(channels, out), norm, spike, nn.MaxPool2d(2))
        channels, maps[f"stage{k}"] = out, (out, 2**k)
    H, W = (n >> len(widths) for n in shape)
    head = [FlatMaps(name, shape, (H, W)), nn.Linear(channels * H * W, hidden, bias=False)]
    head.append(neurons(hidden, "head.2"))
    layers["head"] = nn.Sequential(*head, *([nn.Linear(hidden, num_classes)] if num_classes else []))
    return Model(layers, maps=maps)
