"""MS-ResNet: residual branches add to membrane currents, so that no neuron stands on the way of the shortcuts.

    a:  y = norm(conv(neuron(norm(conv(neuron(x)))))) + i      the paper's
    b:  y = conv(neuron(norm(conv(neuron(norm(x)))))) + i
    c:  y = neuron(norm(conv(neuron(norm(conv(x))))) + i)      a Spiking ResNet's, between spikes

i is x, or where sizes change norm(conv1x1(x)), in the net of 104 layers after an average pool instead of a stride.

Hu et al., Advancing Spiking Neural Networks towards Deep Residual Learning, IEEE TNNLS 2024 (arXiv:2112.08954).
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

from torch import Tensor, nn

from ..neuron import LIF
from ..nn import Dropout, td_batch_norm
from ..surrogate import Rect
from .blocks import Model, NeuronFactory, Neurons, check_option, check_sizes, conv, norm_neuron, pooled_head
from .registry import Entry, Figure, Info, register
from .resnet import STEMS, Stem

Kind = Literal["a", "b", "c"]

THRESHOLD = 0.5


def paper_neuron() -> LIF:
    """``v = v/4 + x``, a spike above 0.5, back to 0; a surrogate that is 1 where v is within 0.5 of the threshold."""
    return LIF(
        tau=4 / 3,
        decay_input=False,
        v_threshold=THRESHOLD,
        detach_reset=True,
        strict=True,
        surrogate=Rect(1.0),
    )


_JOINED = {"a": "residual.2", "b": "residual.0", "c": "residual.1"}
"""Where the neuron of a block is that is joined with the norm before it."""
norm = functools.partial(td_batch_norm, v_threshold=THRESHOLD)


class Size(NamedTuple):
    """The name, the blocks of each stage, and whether stem, shortcuts and head are those of the net of 104 layers."""

    name: str
    depths: tuple[int, int, int, int]
    deep: bool = False


class Block(nn.Module):
    """Two 3x3 convolutions, the first with the stride, and a shortcut: ``[N, in, H, W]`` to ``[N, out, h, w]``."""

    def __init__(
        self, kind: Kind, in_channels: int, out: int, stride: int, neurons: Neurons, *, pooled_shortcut: bool
    ) -> None:
        super().__init__()
        first, second = conv(in_channels, out, stride=stride), conv(out, out)
        joined = norm_neuron(
            norm(in_channels if kind == "b" else out), neurons(out if kind != "b" else in_channels, _JOINED[kind])
        )
        if kind == "a":
            layers = [neurons(in_channels, "residual.0"), first, joined, second, norm(out)]
        elif kind == "b":
            layers = [joined, first, norm_neuron(norm(out), neurons(out, "residual.2")), second]
        else:
            layers = [first, joined, second, norm(out)]
        self.residual = nn.Sequential(*layers)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out:
            pooled = pooled_shortcut and stride != 1
            by = (
                [nn.AvgPool2d(stride), conv(in_channels, out, 1)]
                if pooled
                else [conv(in_channels, out, 1, stride=stride)]
            )
            self.shortcut = nn.Sequential(*by, norm(out))
        self.spike = neurons(out, "spike") if kind == "c" else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.residual(x) + (x if self.shortcut is None else self.shortcut(x))
        return y if self.spike is None else self.spike(y)


def _entry(size: Size, parameters: int, *figures: Figure) -> Entry:
    info = Info(
        paper="Hu et al., Advancing Spiking Neural Networks towards Deep Residual Learning, IEEE TNNLS 2024",
        parameters=parameters,
        input=(3, 224, 224),
        classes=1000,
        T=6,
        neuron="LIF(tau=4/3, decay_input=False, v_threshold=0.5, detach_reset=True, strict=True, surrogate=Rect(1.0))",
        bits="all convolutions but the first, and those of shortcuts, which are given currents",
        reference="https://github.com/Ariande1/MS-ResNet",
        figures=figures,
    )
    return Entry(size, info)


ENTRIES = {
    "ms_resnet18": _entry(Size("ms_resnet18", (2, 2, 2, 2)), 11_693_736),
    "ms_resnet34": _entry(Size("ms_resnet34", (3, 4, 6, 3)), 21_801_896),
    "ms_resnet104": _entry(
        Size("ms_resnet104", (3, 8, 32, 8), deep=True), 77_350_504, Figure("ImageNet", 76.02, "paper")
    ),
}


@register(ENTRIES)
def build(
    size: Size,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    neuron: NeuronFactory | None = None,
    block: Kind = "a",
    stem: Stem = "imagenet",
    zero_init: bool = True,
) -> Model:
    """Four stages of blocks, each of which halves height and width, the first one but for ``stem="cifar"``.

    ``block`` is ``"a"``, neuron, convolution, norm, twice, and the shortcut added, as in the paper; ``"b"``, norm,
    neuron, convolution, twice, with one norm more before the head; ``"c"``, a neuron behind the sum. ``stem`` is a
    convolution of 7x7 and stride 2 (``"imagenet"``) or of 3x3; the net of 104 layers has three of 3x3 in each case.

    ``zero_init`` makes the weight of the norm that ends a branch 0 (a, c); all others begin at the threshold of 0.5.
    """
    check_sizes(size.name, num_classes, in_channels)
    check_option(size.name, "stem", stem, STEMS)
    check_option(size.name, "block", block, ("a", "b", "c"))
    neurons = Neurons(size.name, neuron, paper_neuron)
    stride = 2 if stem == "imagenet" else 1
    layers: dict[str, nn.Module] = {"stem": nn.Sequential(*_stem(size, stem, in_channels, stride), norm(64))}
    if block == "c":
        layers["spike"] = neurons(64, "spike")
    channels, maps = 64, {}
    for k, depth in enumerate(size.depths):
        name, out, blocks = f"layer{k + 1}", 64 * 2**k, []
        for i in range(depth):
            by = 1 if i or (k == 0 and stem == "cifar") else 2
            at = neurons.at(f"{name}.{i}")
            blocks.append(Block(block, channels, out, by, at, pooled_shortcut=size.deep))
            channels, stride = out, stride * by
        if zero_init and block != "b":
            for made in blocks:
                nn.init.zeros_(made.residual[-1].weight)  # type: ignore[arg-type]
        layers[name], maps[name] = nn.Sequential(*blocks), (channels, stride)
    layers["head"] = nn.Sequential(*_head(size, block, channels, num_classes, neurons))
    return Model(layers, maps=maps)


def _stem(size: Size, stem: Stem, in_channels: int, stride: int) -> list[nn.Module]:
    if size.deep:
        first = nn.Conv2d(in_channels, 64, 3, stride, 1)
        return [first, nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)]
    return [conv(in_channels, 64, 7 if stem == "imagenet" else 3, stride=stride)]


def _head(size: Size, block: Kind, channels: int, num_classes: int, neurons: Neurons) -> list[nn.Module]:
    """Spikes of the last currents, which blocks of kind b have not normalised, averaged over space."""
    pooled = pooled_head(channels, num_classes)
    if size.deep and num_classes:
        pooled.insert(-1, Dropout(0.2))
    if block == "c":
        return pooled
    return [*([norm(channels)] if block == "b" else []), neurons(channels, f"head.{int(block == 'b')}"), *pooled]
