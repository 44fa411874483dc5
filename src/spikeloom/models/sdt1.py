"""Spike-driven Transformer: attention by masks and additions, between membrane currents.

    x = x + attention(x);  x = x + mlp(x),   attention:  q * neuron_0.5(sum over tokens of k * v)

Yao et al., Spike-driven Transformer, NeurIPS 2023.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from ..neuron import LIF
from ..nn import SpikeDrivenSelfAttention
from ..surrogate import Sigmoid
from .blocks import Model, NeuronFactory, Neurons, check_option, check_sizes, conv
from .currents import Added, Spikes, chain, mlp
from .registry import Entry, Figure, Info, register
from .resnet import STEMS, Stem


def paper_neuron(**place: Any) -> LIF:
    """``LIF`` with the surrogate that the authors' framework has where none is named."""
    return LIF(tau=2.0, detach_reset=True, surrogate=Sigmoid(4.0), **place)


_POOLED: dict[Stem, tuple[int, ...]] = {"imagenet": (0, 1, 2, 3), "dvs": (1, 2, 3), "cifar": (2, 3)}
"""The convolutions of a stem that a max pool follows."""


class Size(NamedTuple):
    """The name, the number of blocks, the channels, and the heads of attention."""

    name: str
    depth: int
    dim: int
    heads: int = 8


def _entry(
    size: Size,
    parameters: int,
    *figures: Figure,
    step: tuple[int, int, int] = (3, 224, 224),
    T: int = 4,
    **defaults: Any,
) -> Entry:
    info = Info(
        paper="Yao et al., Spike-driven Transformer, NeurIPS 2023",
        parameters=parameters,
        input=step,
        classes=defaults.get("num_classes", 1000),
        T=T,
        neuron="LIF(tau=2.0, detach_reset=True, surrogate=Sigmoid(4.0)), v_threshold=0.5 on products in attention",
        bits="all convolutions but the first",
        reference="https://github.com/BICLab/Spike-Driven-Transformer",
        figures=figures,
    )
    return Entry(size, info, defaults)


def _in(accuracy: float, note: str = "T = 4") -> Figure:
    return Figure("ImageNet", accuracy, "readme", note)


ENTRIES = {
    entry.size.name: entry
    for entry in (
        _entry(Size("sdt1_8_384", 8, 384), 16_816_024, _in(72.28)),
        _entry(Size("sdt1_6_512", 6, 512), 23_373_352, _in(74.11)),
        _entry(Size("sdt1_8_512", 8, 512), 29_689_384, _in(74.57)),
        _entry(Size("sdt1_10_512", 10, 512), 36_005_416, _in(74.66)),
        _entry(Size("sdt1_8_768", 8, 768), 66_338_632, _in(77.07, "T = 4, evaluated at 288 x 288")),
        _entry(Size("sdt1_cifar10_2_512", 2, 512), 10_233_418, step=(3, 32, 32), num_classes=10, stem="cifar"),
        _entry(
            Size("sdt1_cifar10dvs", 2, 256),
            2_566_666,
            Figure("CIFAR10-DVS", 77.0, "issue", "users report from 74 to this"),
            step=(2, 64, 64),
            T=10,
            num_classes=10,
            in_channels=2,
            stem="cifar",
            dvs=True,
        ),
        _entry(
            Size("sdt1_dvsgesture", 2, 256),
            2_566_923,
            step=(2, 128, 128),
            T=16,
            num_classes=11,
            in_channels=2,
            stem="dvs",
        ),
    )
}


@register(ENTRIES)
def build(
    size: Size,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    neuron: NeuronFactory | None = None,
    stem: Stem = "imagenet",
    dvs: bool = False,
) -> Model:
    """A stem of four 3x3 convolutions, blocks of attention and MLP, a neuron on the currents' average over space.

    ``stem`` says after which convolutions a max pool halves height and width: all four (``"imagenet"``), the last three
    (``"dvs"``) or the last two (``"cifar"``). ``dvs`` puts 3x3 max pools of stride 1 into attention, as the authors
    have for CIFAR10-DVS.
    """
    check_sizes(size.name, num_classes, in_channels)
    check_option(size.name, "stem", stem, STEMS)
    neurons = Neurons(size.name, neuron, paper_neuron)
    blocks = [_block(size, neurons.at(f"blocks.{k}"), dvs=dvs) for k in range(size.depth)]
    head: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), neurons(size.dim, "head.2")]
    head += [nn.Linear(size.dim, num_classes)] if num_classes else []
    layers = {
        "stem": _stem(size.dim, _POOLED[stem], in_channels, neurons.at("stem")),
        "blocks": nn.Sequential(*blocks),
        "head": nn.Sequential(*head),
    }
    stride = 2 ** len(_POOLED[stem])
    model = Model(layers, maps={"stem": (size.dim, stride), "blocks": (size.dim, stride)})
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def _stem(dim: int, pooled: tuple[int, ...], in_channels: int, neurons: Neurons) -> nn.Sequential:
    """Convolutions to dim / 8, / 4, / 2 and dim channels; the last one's currents go on, and a branch is added."""
    layers = nn.Sequential()
    for k, out in enumerate((dim // 8, dim // 4, dim // 2, dim)):
        layers.extend([conv(in_channels, out), nn.BatchNorm2d(out)])
        if out != dim:
            layers.append(neurons(out, str(len(layers))))
        if k in pooled:
            layers.append(nn.MaxPool2d(3, 2, 1))
        in_channels = out
    position = chain(Spikes(neurons.at(f"{len(layers)}.position")), [conv(dim, dim)])
    return layers.append(Added(position=position))


def _block(size: Size, neurons: Neurons, *, dvs: bool) -> Added:
    attention = SpikeDrivenSelfAttention(size.dim, size.heads, neuron=neurons.below("attention"), dvs=dvs)
    return Added(attention=attention, mlp=mlp(Spikes(neurons.at("mlp")), size.dim))
