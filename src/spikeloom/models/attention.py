"""Nets whose currents are weighed by step, channel and place: MA-SNN, and MS-ResNet with attention in its blocks.

    MA-SNN:         neuron(attention(pool(norm(conv(x)))))
    Att-MS-ResNet:  y = attention(norm(conv(neuron(norm(conv(neuron(x))))))) + i

Yao et al., Attention Spiking Neural Networks, IEEE TPAMI 45, 2023.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from ..neuron import LIF
from ..nn import Dropout, MultiDimensionalAttention, TemporalAttention
from ..surrogate import Rect
from . import ms_resnet
from .blocks import Model, NeuronFactory, Neurons, check_option, check_sizes, conv, pooled_head
from .plif import FlatMaps
from .registry import Entry, Info, register
from .resnet import STEMS, Stem

PAPER = "Yao et al., Attention Spiking Neural Networks, IEEE TPAMI 45, 2023"
REFERENCE = "https://github.com/BICLab/MA-SNN"


def masnn_neuron() -> LIF:
    """``u = 0.3 v + x``, a spike from 0.3 on, after which v is the threshold; a surrogate of 2 within 0.25 of it."""
    return LIF(
        tau=10 / 7, decay_input=False, v_threshold=0.3, v_reset=0.3, v_leak=0.0, strict=False, surrogate=Rect(2.0)
    )


class Net(NamedTuple):
    """The name, and for each convolution its channels and the field of the average pool behind it."""

    name: str
    convolutions: tuple[tuple[int, int], ...]
    hidden: int


MASNN = {
    "masnn_dvsgesture": Entry(
        Net("masnn_dvsgesture", ((64, 1), (128, 2), (128, 2)), 256),
        Info(
            paper=PAPER,
            parameters=2_340_535,
            input=(2, 32, 32),
            classes=11,
            T=60,
            neuron="LIF(tau=10/7, decay_input=False, v_threshold=0.3, v_reset=0.3, v_leak=0.0, surrogate=Rect(2.0))",
            bits="all but the first convolution",
            reference=REFERENCE,
        ),
    )
}


@register(MASNN)
def masnn(
    size_of: Net,
    *,
    num_classes: int = 11,
    in_channels: int = 2,
    neuron: NeuronFactory | None = None,
    T: int = 60,
    size: tuple[int, int] = (32, 32),
    reduction_t: int = 5,
    reduction_c: int = 8,
) -> Model:
    """Three convolutions and two linear layers, each with norm, average pool, attention and neuron; the output is the
    spikes of the last.

    ``T`` is the number of steps of every sequence, which attention sees at once: the net has no single steps.
    ``size`` is the height and width of the input, on which the number of weights depends. ``reduction_t`` and
    ``reduction_c`` are how much narrower the layers of attention are inside.
    """
    name = size_of.name
    check_sizes(name, num_classes, in_channels)
    neurons = Neurons(name, neuron, masnn_neuron)
    layers: dict[str, nn.Module] = {}
    maps: dict[str, tuple[int, int]] = {}
    stride, channels = 1, in_channels
    for k, (out, pool) in enumerate(size_of.convolutions, 1):
        stage = nn.Sequential(nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out))
        if pool > 1:
            stage.append(nn.AvgPool2d(pool))
        stage.append(MultiDimensionalAttention(T, out, reduction_t=reduction_t, reduction_c=reduction_c))
        stage.append(neurons(out, f"stage{k}.{len(stage)}"))
        stride, channels = stride * pool, out
        layers[f"stage{k}"], maps[f"stage{k}"] = stage, (channels, stride)
    H, W = (n // stride for n in size)
    if not H * W:
        raise ValueError(f"{name}: size {size} is too small for pools that make it {stride} times smaller")
    head = nn.Sequential(FlatMaps(name, size, (H, W)))
    features = channels * H * W
    for out in (size_of.hidden, *([num_classes] if num_classes else [])):
        head.extend([nn.Linear(features, out), nn.BatchNorm1d(out), TemporalAttention(T, reduction=reduction_t)])
        head.extend([nn.ReLU(), neurons(out, f"head.{len(head) + 1}")])
        features = out
    return Model({**layers, "head": head}, maps=maps)


ATT_MS_RESNET = {
    "att_ms_resnet18": Entry(
        ms_resnet.Size("att_ms_resnet18", (2, 2, 2, 2)),
        Info(
            paper=PAPER,
            parameters=11_867_960,
            input=(3, 224, 224),
            classes=1000,
            T=1,
            neuron="LIF(tau=4/3, decay_input=False, v_threshold=0.5, detach_reset=True, strict=True, "
            "surrogate=Rect(1.0))",
            bits="all convolutions but the first, and those of shortcuts, which are given currents",
            reference=REFERENCE,
        ),
    )
}


@register(ATT_MS_RESNET)
def att_ms_resnet(
    size: ms_resnet.Size,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    neuron: NeuronFactory | None = None,
    T: int = 1,
    reduction_c: int = 8,
    stem: Stem = "imagenet",
) -> Model:
    """An MS-ResNet whose branches end in attention of channels and places, and whose shortcuts that change sizes begin
    with an average pool.

    ``T`` is the number of steps of every sequence: the scores of channels and places are the same at all steps, and
    attention sees them all at once. ``reduction_c`` is how much narrower the layers of attention are inside. ``stem``
    is that of MS-ResNets.
    """
    check_sizes(size.name, num_classes, in_channels)
    check_option(size.name, "stem", stem, STEMS)
    neurons = Neurons(size.name, neuron, ms_resnet.paper_neuron)
    stride = 2 if stem == "imagenet" else 1
    first = conv(in_channels, 64, 7 if stem == "imagenet" else 3, stride=stride)
    layers: dict[str, nn.Module] = {"stem": nn.Sequential(first, ms_resnet.norm(64))}
    channels, maps = 64, {}
    for k, depth in enumerate(size.depths):
        name, out, blocks = f"layer{k + 1}", 64 * 2**k, []
        for i in range(depth):
            by = 1 if i or (k == 0 and stem == "cifar") else 2
            block = ms_resnet.Block("a", channels, out, by, neurons.at(f"{name}.{i}"), pooled_shortcut=True)
            nn.init.constant_(block.residual[-1].weight, 0.2 * ms_resnet.THRESHOLD)  # type: ignore[arg-type]
            block.residual.append(MultiDimensionalAttention(T, out, reduction_c=reduction_c, dims="cs"))
            blocks.append(block)
            channels, stride = out, stride * by
        layers[name], maps[name] = nn.Sequential(*blocks), (channels, stride)
    head = [neurons(channels, "head.0"), *pooled_head(channels, num_classes)]
    if num_classes:
        head.insert(-1, Dropout(0.2))
    return Model({**layers, "head": nn.Sequential(*head)}, maps=maps)
