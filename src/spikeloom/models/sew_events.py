"""The small SEW-ResNets for event data: seven times a block and a max pool.

Fang et al., Deep Residual Learning in Spiking Neural Networks, NeurIPS 2021.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from torch import nn

from ..neuron import PLIF
from . import resnet
from .blocks import Model, NeuronFactory, Neurons, check_option, check_sizes, conv, pooled_head
from .registry import Entry, Figure, Info, register

paper_neuron: NeuronFactory = functools.partial(PLIF, tau=2.0, detach_reset=True)


class Size(NamedTuple):
    """The name, and the channels of each of the seven blocks."""

    name: str
    channels: tuple[int, ...]


def _entry(size: Size, classes: int, parameters: int, T: int, figure: Figure) -> Entry:
    info = Info(
        paper="Fang et al., Deep Residual Learning in Spiking Neural Networks, NeurIPS 2021",
        parameters=parameters,
        input=(2, 128, 128),
        classes=classes,
        T=T,
        neuron="PLIF(tau=2.0, detach_reset=True)",
        bits="with AND and IAND all convolutions but the first; with ADD those that follow a neuron within a block",
        reference="https://github.com/fangwei123456/Spike-Element-Wise-ResNet",
        figures=(figure,),
    )
    return Entry(size, info, {"num_classes": classes})


ENTRIES = {
    "sew_resnet_cifar10dvs": _entry(
        Size("sew_resnet_cifar10dvs", (64, 64, 64, 64, 128, 128, 128)),
        10,
        1_192_218,
        16,
        Figure("CIFAR10-DVS", 74.4, "paper", "no official split"),
    ),
    "sew_resnet_dvsgesture": _entry(
        Size("sew_resnet_dvsgesture", (32,) * 7), 11, 130_426, 16, Figure("DVS128 Gesture", 97.92, "paper")
    ),
}


@register(ENTRIES)
def build(
    size: Size,
    *,
    num_classes: int = 10,
    in_channels: int = 2,
    neuron: NeuronFactory | None = None,
    connect: resnet.Connect = "ADD",
) -> Model:
    """A 1x1 convolution with norm and neuron wherever channels change, then a SEW block and a 2x2 max pool.

    ``connect`` is ADD, AND or IAND, as in the large SEW-ResNets.
    """
    check_sizes(size.name, num_classes, in_channels)
    check_option(size.name, "connect", connect, resnet.CONNECT)
    neurons = Neurons(size.name, neuron, paper_neuron)
    block = resnet.Size(size.name, sew=True, depths=(1, 1, 1, 1), bottleneck=False)
    layers: dict[str, nn.Module] = {}
    maps: dict[str, tuple[int, int]] = {}
    channels = in_channels
    for k, out in enumerate(size.channels, 1):
        name, stage = f"layer{k}", []
        if channels != out:
            stage += [conv(channels, out, 1), nn.BatchNorm2d(out), neurons(out, f"{name}.2")]
        stage.append(resnet.Block(block, out, out, 1, connect, neurons.at(f"{name}.{len(stage)}")))
        layers[name], maps[name] = nn.Sequential(*stage, nn.MaxPool2d(2)), (out, 2**k)
        channels = out
    layers["head"] = nn.Sequential(*pooled_head(channels, num_classes))
    return Model(layers, maps=maps)
