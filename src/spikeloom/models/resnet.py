"""Spiking ResNet and SEW-ResNet: torchvision's ResNet, with neurons for ReLUs.

    Spiking ResNet:  y = neuron(norm(conv(...)) + i)
    SEW-ResNet:      y = g(neuron(norm(conv(...))), i), and the shortcut that changes sizes ends in a neuron too
    g:  ADD  s + i        AND  s i        IAND  (1 - s) i

Fang et al., Deep Residual Learning in Spiking Neural Networks, NeurIPS 2021.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

from torch import Tensor, nn

from ..neuron import IF
from .blocks import Model, NeuronFactory, Neurons, check_option, check_sizes, conv, norm_neuron, pooled_head
from .registry import Entry, Figure, Info, register

Connect = Literal["ADD", "AND", "IAND"]
Stem = Literal["imagenet", "cifar", "dvs"]
CONNECT = ("ADD", "AND", "IAND")
STEMS = ("imagenet", "cifar", "dvs")

paper_neuron: NeuronFactory = functools.partial(IF, detach_reset=True)
"""IF with a surrogate of ATan, as in the paper."""


class Size(NamedTuple):
    """The name, whether spikes are joined (SEW) or currents, the blocks of each stage, and the block's width."""

    name: str
    sew: bool
    depths: tuple[int, int, int, int]
    bottleneck: bool
    groups: int = 1
    width: int = 64

    @property
    def expansion(self) -> int:
        return 4 if self.bottleneck else 1


def element_wise(how: Connect, spikes: Tensor, shortcut: Tensor) -> Tensor:
    """What an element-wise function makes of the spikes of a block and of those of its shortcut."""
    if how == "ADD":
        return spikes + shortcut
    return spikes * shortcut if how == "AND" else (1 - spikes) * shortcut


class Block(nn.Module):
    """Convolutions with norms and neurons, and a shortcut: ``[N, in, H, W]`` to ``[N, out, H / stride, W / stride]``.

    A basic block has 3x3 convolutions, the first with the stride; a bottleneck 1x1, 3x3 with the stride, 1x1. In a
    Spiking ResNet the last neuron stands behind the sum, in a SEW-ResNet before the element-wise function.
    """

    def __init__(self, size: Size, in_channels: int, planes: int, stride: int, how: Connect, neurons: Neurons) -> None:
        super().__init__()
        out, width = planes * size.expansion, int(planes * size.width / 64) * size.groups
        if size.bottleneck:
            convs = [
                conv(in_channels, width, 1),
                conv(width, width, stride=stride, groups=size.groups),
                conv(width, out, 1),
            ]
        else:
            convs = [conv(in_channels, out, stride=stride), conv(out, out)]
        self.how, self.sew = how, size.sew
        self.residual = nn.Sequential()
        for k, layer in enumerate(convs, 1):
            self.residual.add_module(f"conv{k}", layer)
            norm = nn.BatchNorm2d(layer.out_channels)
            last = k == len(convs) and not size.sew
            spike = norm if last else norm_neuron(norm, neurons(layer.out_channels, f"residual.spike{k}"))
            self.residual.add_module(f"norm{k}" if last else f"spike{k}", spike)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out:
            norm = nn.BatchNorm2d(out)
            end = norm_neuron(norm, neurons(out, "shortcut.1")) if size.sew else norm
            self.shortcut = nn.Sequential(conv(in_channels, out, 1, stride=stride), end)
        self.spike = None if size.sew else neurons(out, "spike")

    def last_norm(self) -> nn.BatchNorm2d:
        """The norm whose weight and bias decide what a block does before it has learned."""
        return next(m for m in reversed(list(self.residual.modules())) if isinstance(m, nn.BatchNorm2d))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        y = self.residual(x)
        if self.spike is None:
            return element_wise(self.how, y, shortcut)
        spikes: Tensor = self.spike(y + shortcut)
        return spikes


def stem_layers(kind: Stem, in_channels: int, out: int, neurons: Neurons) -> tuple[list[nn.Module], int]:
    """The layers up to the first block, and their stride."""
    large = kind == "imagenet"
    first = conv(in_channels, out, 7, stride=2) if large else conv(in_channels, out)
    layers = [first, nn.BatchNorm2d(out), neurons(out, "stem.2")]
    if kind == "cifar":
        return layers, 1
    return [*layers, nn.MaxPool2d(3, 2, 1)], 4 if large else 2


def _info(size: Size, parameters: int, *figures: Figure, T: int | None = 4) -> Entry:
    info = Info(
        paper="Fang et al., Deep Residual Learning in Spiking Neural Networks, NeurIPS 2021",
        parameters=parameters,
        input=(3, 224, 224),
        classes=1000,
        T=T,
        neuron="IF(detach_reset=True)",
        bits="with AND and IAND all convolutions but the first; with ADD those that follow a neuron within a block"
        if size.sew
        else "all convolutions but the first",
        reference="https://github.com/fangwei123456/Spike-Element-Wise-ResNet",
        figures=figures,
    )
    return Entry(size, info)


def _in(accuracy: float, kind: Literal["paper", "readme", "secondary"]) -> Figure:
    return Figure("ImageNet", accuracy, kind, "ADD, T = 4")


_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_COUNTS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
_FIGURES = {
    34: [_in(67.04, "secondary")],
    50: [_in(67.78, "secondary")],
    101: [_in(68.76, "secondary")],
    152: [_in(69.26, "readme")],
}
_OTHERS = [
    (Size("sew_resnext50_32x4d", True, _DEPTHS[50], True, 32, 4), 25_028_904),
    (Size("sew_resnext101_32x8d", True, _DEPTHS[101], True, 32, 8), 88_791_336),
    (Size("sew_wide_resnet50_2", True, _DEPTHS[50], True, 1, 128), 68_883_240),
    (Size("sew_wide_resnet101_2", True, _DEPTHS[101], True, 1, 128), 126_886_696),
]
ENTRIES = {
    **{
        f"spiking_resnet{n}": _info(Size(f"spiking_resnet{n}", False, _DEPTHS[n], n >= 50), _COUNTS[n]) for n in _DEPTHS
    },
    **{
        f"sew_resnet{n}": _info(Size(f"sew_resnet{n}", True, _DEPTHS[n], n >= 50), _COUNTS[n], *_FIGURES.get(n, ()))
        for n in _DEPTHS
    },
    **{size.name: _info(size, parameters, T=None) for size, parameters in _OTHERS},
}


@register({name: entry for name, entry in ENTRIES.items() if entry.size.sew})
def sew_resnet(
    size: Size,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    neuron: NeuronFactory | None = None,
    connect: Connect = "ADD",
    stem: Stem = "imagenet",
    zero_init: bool = False,
) -> Model:
    """A SEW-ResNet: stem, four stages of blocks, a linear layer behind the average over space.

    ``connect`` is what joins a block's spikes ``s`` with those of its shortcut ``i``: ADD ``s + i``, AND ``s i``, IAND
    ``(1 - s) i``. ``stem`` is ``"imagenet"``, a 7x7 convolution and a max pool, both of stride 2; ``"cifar"``, a 3x3
    convolution; or ``"dvs"``, that and the max pool. ``zero_init`` makes each block hand on its shortcut at first: the
    last norm's weight is 0, and for AND its bias 1, so that the block's neuron is silent (ADD, IAND) or, with a
    threshold of 1, fires at each step.
    """
    check_option(size.name, "connect", connect, CONNECT)
    return _resnet(size, num_classes, in_channels, neuron, connect, stem, zero_init=zero_init)


@register({name: entry for name, entry in ENTRIES.items() if not entry.size.sew})
def spiking_resnet(
    size: Size,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    neuron: NeuronFactory | None = None,
    stem: Stem = "imagenet",
    zero_init: bool = False,
) -> Model:
    """A Spiking ResNet: as a SEW-ResNet, but the last neuron of a block is behind the sum of currents and shortcut.

    ``stem`` is that of SEW-ResNets. ``zero_init`` makes the weight of each block's last norm 0."""
    return _resnet(size, num_classes, in_channels, neuron, "ADD", stem, zero_init=zero_init)


def _resnet(
    size: Size,
    num_classes: int,
    in_channels: int,
    neuron: NeuronFactory | None,
    how: Connect,
    stem: Stem,
    *,
    zero_init: bool,
) -> Model:
    check_sizes(size.name, num_classes, in_channels)
    check_option(size.name, "stem", stem, STEMS)
    neurons = Neurons(size.name, neuron, paper_neuron)
    first, stride = stem_layers(stem, in_channels, 64, neurons)
    layers: dict[str, nn.Module] = {"stem": nn.Sequential(*first)}
    channels, maps = 64, {"stem": (64, stride)}
    for k, depth in enumerate(size.depths):
        planes, name = 64 * 2**k, f"layer{k + 1}"
        blocks = []
        for i in range(depth):
            by = 2 if i == 0 and k > 0 else 1
            blocks.append(Block(size, channels, planes, by, how, neurons.at(f"{name}.{i}")))
            channels, stride = planes * size.expansion, stride * by
        layers[name], maps[name] = nn.Sequential(*blocks), (channels, stride)
    layers["head"] = nn.Sequential(*pooled_head(channels, num_classes))
    model = Model(layers, maps=maps)
    _initialise(model, how, zero_init=zero_init)
    return model


def _initialise(model: Model, how: Connect, *, zero_init: bool) -> None:
    """Kaiming's normal distribution by the fan out, as torchvision; norms as torch makes them."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Block) and zero_init:
            norm = module.last_norm()
            nn.init.zeros_(norm.weight)
            nn.init.constant_(norm.bias, 1.0 if how == "AND" else 0.0)
