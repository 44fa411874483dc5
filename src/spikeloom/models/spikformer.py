"""Spikformer: a stem of convolutions and max pools, then blocks of spiking self-attention on its pixels.

    stem:   x = pool(neuron(norm(conv(x)))), four times, two or four of them with a pool; x = x + neuron(norm(conv(x)))
    block:  x = x + attention(x);  x = x + mlp(x)

Branches end in neurons, and their spikes are added: what the next layer is given are small whole numbers.

Zhou et al., Spikformer: When Spiking Neural Network Meets Transformer, ICLR 2023.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..neuron import LIF
from ..nn import SpikingSelfAttention
from ..surrogate import Sigmoid
from .blocks import Model, NeuronFactory, Neurons, check_option, check_sizes, conv, norm_neuron, pooled_head
from .registry import Entry, Figure, Info, register
from .resnet import STEMS, Stem

NEURON = "LIF(tau=2.0, detach_reset=True, surrogate=Sigmoid(4.0)), with v_threshold=0.5 on the products of attention"
_POOLED = {"imagenet": (True, True, True, True), "cifar": (False, False, True, True), "dvs": (True, True, True, True)}


def paper_neuron(**place: Any) -> LIF:
    """LIF with the surrogate that the authors' code has by default."""
    return LIF(tau=2.0, detach_reset=True, surrogate=Sigmoid(4.0), **place)


class Size(NamedTuple):
    """The name, the number of blocks, of channels and heads, the factor of the products, and a bias of q, k and v."""

    name: str
    depth: int
    dim: int
    heads: int
    scale: float = 0.125
    bias: bool = False


class Position(nn.Module):
    """``x + neuron(norm(conv3x3(x)))``, in the place of an encoding of positions."""

    def __init__(self, dim: int, neurons: Neurons) -> None:
        super().__init__()
        self.conv = conv(dim, dim)
        self.spike = norm_neuron(nn.BatchNorm2d(dim), neurons(dim, "spike"))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.spike(self.conv(x))
        return y


class Block(nn.Module):
    """``x = x + attention(x)``, ``x = x + mlp(x)`` on the pixels of maps ``[N, dim, H, W]``."""

    def __init__(self, attention: nn.Module, dim: int, hidden: int, neurons: Neurons) -> None:
        super().__init__()
        self.attention = attention
        self.mlp = nn.Sequential(
            nn.Conv1d(dim, hidden, 1),
            norm_neuron(nn.BatchNorm1d(hidden), neurons(hidden, "mlp.1")),
            nn.Conv1d(hidden, dim, 1),
            norm_neuron(nn.BatchNorm1d(dim), neurons(dim, "mlp.3")),
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = x.flatten(2)
        tokens = tokens + self.attention(tokens)
        tokens = tokens + self.mlp(tokens)
        return tokens.view(x.shape)


def entry(
    size: Any,
    parameters: int,
    *figures: Figure,
    paper: str,
    bits: str,
    reference: str,
    stem: Stem = "imagenet",
    input: tuple[int, int, int] = (3, 224, 224),  # noqa: A002 - as Info has it
    classes: int = 1000,
    T: int = 4,
) -> Entry:
    """A line of the table of this family, or of another one with the same neurons and stems."""
    info = Info(
        paper=paper,
        parameters=parameters,
        input=input,
        classes=classes,
        T=T,
        neuron=NEURON,
        bits=bits,
        reference=reference,
        figures=figures,
    )
    return Entry(size, info, {"num_classes": classes, "in_channels": input[0], "stem": stem})


_entry = functools.partial(
    entry,
    paper="Zhou et al., Spikformer: When Spiking Neural Network Meets Transformer, ICLR 2023",
    bits="convolutions of the stem but the first; in blocks the last of attention and of each MLP, since the "
    "others are given sums of spikes",
    reference="https://github.com/ZK-Zhou/spikformer",
)


def _cifar(depth: int, dim: int, parameters: int, *figures: Figure) -> Entry:
    size = Size(f"spikformer_cifar_{depth}_{dim}", depth, dim, dim // 32, bias=True)
    return _entry(size, parameters, *figures, stem="cifar", input=(3, 32, 32), classes=10)


_IMAGENET = [
    (8, 384, 16_816_024, ()),
    (6, 512, 23_373_352, ()),
    (8, 512, 29_689_384, ()),
    (10, 512, 36_005_416, ()),
    (8, 768, 66_338_632, (Figure("ImageNet", 74.81, "readme", "T = 4"),)),
]
ENTRIES = {
    **{
        f"spikformer_{depth}_{dim}": _entry(Size(f"spikformer_{depth}_{dim}", depth, dim, dim // 64), count, *figures)
        for depth, dim, count, figures in _IMAGENET
    },
    "spikformer_cifar_4_256": _cifar(4, 256, 4_155_178),
    "spikformer_cifar_4_384": _cifar(
        4,
        384,
        9_324_730,
        Figure("CIFAR10", 95.5, "paper", "T = 4"),
        Figure("CIFAR10", 91.0, "issue", "users with one GPU"),
    ),
    "spikformer_cifar_2_384": _cifar(2, 384, 5_765_050),
    "spikformer_cifar10dvs": _entry(
        Size("spikformer_cifar10dvs", 2, 256, 16, scale=0.25),
        2_566_666,
        Figure("CIFAR10-DVS", 80.9, "paper", "T = 16; no official split"),
        stem="dvs",
        input=(2, 128, 128),
        classes=10,
        T=16,
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
    heads: int | None = None,
) -> Model:
    """A stem whose four 3x3 convolutions go to 1/8, 1/4, 1/2 and all channels, then blocks, all of the same width.

    ``stem`` is ``"imagenet"`` or ``"dvs"``, a 3x3 max pool of stride 2 behind each of the four neurons, or ``"cifar"``,
    behind the last two. ``heads`` of attention are as wide as in the authors' code, which has one net for each kind of
    data: 64 channels for ImageNet, 32 for CIFAR, 16 for events; weights do not say how many there are. In the nets for
    CIFAR all layers of blocks have a bias, in the others q, k and v have none. Dead norms of that code are left out.
    """
    check_sizes(size.name, num_classes, in_channels)
    check_option(size.name, "stem", stem, STEMS)
    neurons = Neurons(size.name, neuron, paper_neuron)
    layers: list[nn.Module] = []
    channels, stride = in_channels, 1
    for k, pooled in enumerate(_POOLED[stem]):
        out = size.dim // 2 ** (3 - k)
        layers += [conv(channels, out), nn.BatchNorm2d(out), neurons(out, f"stem.{len(layers) + 2}")]
        if pooled:
            layers.append(nn.MaxPool2d(3, 2, 1))
        channels, stride = out, stride * (2 if pooled else 1)
    layers.append(Position(size.dim, neurons.at(f"stem.{len(layers)}")))
    size = size if heads is None else size._replace(heads=heads)
    blocks = [_block(size, neurons.at(f"blocks.{i}")) for i in range(size.depth)]
    head = pooled_head(size.dim, num_classes)
    model = Model(
        {"stem": nn.Sequential(*layers), "blocks": nn.Sequential(*blocks), "head": nn.Sequential(*head)},
        maps={"stem": (size.dim, stride), "blocks": (size.dim, stride)},
    )
    small = (nn.Linear, nn.Conv1d) if size.bias else (nn.Linear,)
    initialise(model, *small)
    return model


def _block(size: Size, neurons: Neurons) -> Block:
    attention = SpikingSelfAttention(
        size.dim,
        size.heads,
        neuron=neurons.below("attention"),
        scale=size.scale,
        bias=(size.bias, True),
    )
    return Block(attention, size.dim, 4 * size.dim, neurons)


def initialise(model: nn.Module, *kinds: type[nn.Module]) -> None:
    """A normal distribution of width 0.02 and no bias for layers of some kinds, as in the authors' code."""
    for module in model.modules():
        if isinstance(module, kinds):
            nn.init.trunc_normal_(module.weight, std=0.02)  # type: ignore[arg-type]
            if module.bias is not None:
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
