"""Spiking VGG: torchvision's VGG with neurons for ReLUs, and the small ones of 5 and 9 layers.

Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015;
Sengupta et al., Going Deeper in Spiking Neural Networks: VGG and Residual Architectures, Frontiers in Neuroscience 13,
2019.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

from torch import nn

from ..neuron import IF
from ..nn import Dropout
from .blocks import Model, NeuronFactory, Neurons, check_option, check_sizes, pooled_head
from .registry import Entry, Info, register

Pool = Literal["max", "avg"]
Head = Literal["full", "light", "linear"]
POOLS = ("max", "avg")
_HEADS = ("full", "light", "linear")

paper_neuron: NeuronFactory = functools.partial(IF, detach_reset=True)


class Size(NamedTuple):
    """The name, the channels of the convolutions between pools, whether a pool ends the last, and whether norms are."""

    name: str
    stages: tuple[tuple[int, ...], ...]
    norm: bool
    last_pool: bool = True


_STAGES: dict[int, tuple[tuple[int, ...], ...]] = {
    5: ((64,), (128, 128)),
    9: ((64,), (128, 256), (256, 512), (512,), (512,)),
    11: ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    13: ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    16: ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}
_COUNTS = {
    5: (224_522, 225_162),
    9: (6_865_802, 6_870_282),
    11: (132_863_336, 132_868_840),
    13: (133_047_848, 133_053_736),
    16: (138_357_544, 138_365_992),
    19: (143_667_240, 143_678_248),
}


def _entry(depth: int, norm: bool) -> Entry:
    size = Size(f"spiking_vgg{depth}{'_bn' if norm else ''}", _STAGES[depth], norm, last_pool=depth != 9)
    small = depth < 11
    info = Info(
        paper="Sengupta et al., Going Deeper in Spiking Neural Networks, Frontiers in Neuroscience 13, 2019",
        parameters=_COUNTS[depth][norm],
        input=(3, 32, 32) if small else (3, 224, 224),
        classes=10 if small else 1000,
        T=None,
        neuron="IF(detach_reset=True)",
        bits="with max pools all convolutions but the first; with average pools those that follow no pool",
    )
    return Entry(size, info, {"num_classes": 10, "pool": "avg", "head": "light"} if small else {})


ENTRIES = {entry.size.name: entry for depth in _STAGES for norm in (False, True) for entry in (_entry(depth, norm),)}


@register(ENTRIES)
def build(
    size: Size,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    neuron: NeuronFactory | None = None,
    pool: Pool = "max",
    head: Head = "full",
) -> Model:
    """3x3 convolutions and pools, then one of three heads.

    Of ``head``, ``"full"`` averages to 7x7 fields and has two hidden layers of 4096 neurons with dropout; ``"light"``
    averages over space, for small images, and has one linear layer; ``"linear"`` has one behind 7x7 fields.
    """
    check_sizes(size.name, num_classes, in_channels)
    check_option(size.name, "pool", pool, POOLS)
    check_option(size.name, "head", head, _HEADS)
    neurons = Neurons(size.name, neuron, paper_neuron)
    layers: dict[str, nn.Module] = {}
    maps: dict[str, tuple[int, int]] = {}
    channels = in_channels
    for k, widths in enumerate(size.stages, 1):
        stage, pooled = nn.Sequential(), k < len(size.stages) or size.last_pool
        for out in widths:
            stage.append(nn.Conv2d(channels, out, 3, padding=1))
            if size.norm:
                stage.append(nn.BatchNorm2d(out))
            stage.append(neurons(out, f"stage{k}.{len(stage)}"))
            channels = out
        if pooled:
            stage.append(nn.MaxPool2d(2) if pool == "max" else nn.AvgPool2d(2))
        layers[f"stage{k}"], maps[f"stage{k}"] = stage, (channels, 2 ** (k if pooled else k - 1))
    layers["head"] = nn.Sequential(*_head(head, channels, num_classes, neurons))
    model = Model(layers, maps=maps)
    initialise(model)
    return model


def _head(head: Head, channels: int, num_classes: int, neurons: Neurons) -> list[nn.Module]:
    if head != "full":
        return pooled_head(channels, num_classes, size=1 if head == "light" else 7)
    hidden = [
        *(nn.AdaptiveAvgPool2d(7), nn.Flatten()),
        *(nn.Linear(channels * 49, 4096), neurons(4096, "head.3"), Dropout(0.5)),
        *(nn.Linear(4096, 4096), neurons(4096, "head.6"), Dropout(0.5)),
    ]
    return hidden + ([nn.Linear(4096, num_classes)] if num_classes else [])


def initialise(model: Model) -> None:
    """Kaiming's normal distribution by the fan out, and 0.01 for linear layers, as torchvision; biases are 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)
