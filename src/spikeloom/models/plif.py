"""The nets that PLIF neurons were described with: convolutions and pools, two linear layers, ten votes for a class.

Fang et al., Incorporating Learnable Membrane Time Constant to Enhance Learning of SNNs, ICCV 2021.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from torch import Tensor, nn

from ..neuron import PLIF
from ..nn import Dropout, Voting
from .blocks import Model, NeuronFactory, Neurons, check_option, check_sizes, conv
from .registry import Entry, Figure, Info, register
from .vgg import POOLS, Pool

paper_neuron: NeuronFactory = functools.partial(PLIF, tau=2.0, detach_reset=True)

VOTES = 10
"""Neurons that vote for a class."""


class FlatMaps(nn.Module):
    """``[N, C, H, W]`` to ``[N, C H W]``, for maps of one size: what comes of images of another one is refused."""

    row_wise = True

    def __init__(self, model: str, size: tuple[int, int], maps: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.size, self.maps = model, tuple(size), maps

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.maps:
            raise ValueError(
                f"{self.model}: it was created for images of {self.size}, whose last maps are of {self.maps}; these "
                f"give maps of {tuple(x.shape[2:])}. Create it with their height and width, size=(H, W)"
            )
        return x.flatten(1)


class Size(NamedTuple):
    """The name, how many convolutions there are before each pool, and the neurons of the first linear layer."""

    name: str
    convolutions: tuple[int, ...]
    hidden: int


def _entry(
    data: str, size: tuple[int, int, int], classes: int, stages: tuple[int, ...], channels: int, hidden: int, T: int
) -> Entry:
    name = f"plif_{data}"
    info = Info(
        paper="Fang et al., Incorporating Learnable Membrane Time Constant to Enhance Learning of SNNs, ICCV 2021",
        parameters=_COUNTS[data],
        input=size,
        classes=classes,
        T=T,
        neuron="PLIF(tau=2.0, detach_reset=True)",
        bits="all but the first convolution in evaluation; in training dropout comes before each linear layer",
        reference="https://github.com/fangwei123456/Parametric-Leaky-Integrate-and-Fire-Spiking-Neuron",
        figures=_FIGURES[data],
    )
    own = {"num_classes": classes, "in_channels": size[0], "size": size[1:], "channels": channels}
    return Entry(Size(name, stages, hidden), info, own)


_COUNTS = {
    "mnist": 13_198_980,
    "fashion": 13_198_980,
    "nmnist": 17_132_292,
    "cifar10": 36_718_344,
    "cifar10dvs": 4_691_206,
    "dvsgesture": 1_698_311,
}


def _figures(task: str, on_test: float, on_validation: float) -> tuple[Figure, ...]:
    return (
        Figure(task, on_test, "readme", "best epoch on the test set"),
        Figure(task, on_validation, "readme", "epoch chosen on held-out training data"),
    )


_FIGURES = {
    "mnist": _figures("MNIST", 99.72, 99.63),
    "fashion": _figures("Fashion-MNIST", 94.38, 93.85),
    "nmnist": _figures("N-MNIST", 99.61, 99.57),
    "cifar10": _figures("CIFAR10", 93.50, 92.58),
    "cifar10dvs": _figures("CIFAR10-DVS", 74.80, 69.00),
    "dvsgesture": _figures("DVS128 Gesture", 97.57, 96.53),
}
ENTRIES = {
    entry.size.name: entry
    for entry in (
        _entry("mnist", (1, 28, 28), 10, (1, 1), 128, 2048, 8),
        _entry("fashion", (1, 28, 28), 10, (1, 1), 128, 2048, 8),
        _entry("nmnist", (2, 34, 34), 10, (1, 1), 128, 2048, 10),
        _entry("cifar10", (3, 32, 32), 10, (3, 3), 256, 2048, 8),
        _entry("cifar10dvs", (2, 128, 128), 10, (1,) * 4, 128, 512, 20),
        _entry("dvsgesture", (2, 128, 128), 11, (1,) * 5, 128, 512, 20),
    )
}


@register(ENTRIES)
def build(
    size_of: Size,
    *,
    num_classes: int = 10,
    in_channels: int = 2,
    neuron: NeuronFactory | None = None,
    size: tuple[int, int] = (128, 128),
    channels: int = 128,
    pool: Pool = "max",
    bias: bool = False,
) -> Model:
    """Stages of convolutions and a pool, dropout with one mask for all steps, a linear layer, and again, and votes.

    ``size`` is the height and width of the input, of which the number of weights depends; ``bias`` that of the linear
    layers, which the authors' code does not have.
    """
    name, convolutions, hidden = size_of
    check_sizes(name, num_classes, in_channels)
    check_option(name, "pool", pool, POOLS)
    H, W = (n >> len(convolutions) for n in size)
    if not H * W:
        raise ValueError(f"{name}: size {size} is too small for {len(convolutions)} pools, each of which halves it")
    neurons = Neurons(name, neuron, paper_neuron)
    layers: dict[str, nn.Module] = {}
    maps: dict[str, tuple[int, int]] = {}
    for k, n in enumerate(convolutions, 1):
        stage = nn.Sequential()
        for _ in range(n):
            stage.extend([conv(in_channels, channels), nn.BatchNorm2d(channels)])
            stage.append(neurons(channels, f"stage{k}.{len(stage)}"))
            in_channels = channels
        layers[f"stage{k}"] = stage.append(nn.MaxPool2d(2) if pool == "max" else nn.AvgPool2d(2))
        maps[f"stage{k}"] = (channels, 2**k)
    head: list[nn.Module] = [FlatMaps(name, size, (H, W)), Dropout(0.5)]
    head += [nn.Linear(channels * H * W, hidden, bias), neurons(hidden, "head.3")]
    head.append(Dropout(0.5))
    if num_classes:
        votes = num_classes * VOTES
        head += [nn.Linear(hidden, votes, bias), neurons(votes, "head.6"), Voting(VOTES)]
    layers["head"] = nn.Sequential(*head)
    return Model(layers, maps=maps, stride=1)  # FlatMaps knows the one size, of which pools may leave out a row
