"""Spike-driven Transformer V3 (E-SpikeFormer): trained with whole numbers, run with as many binary steps.

    convolution block:  x = x + separable(x);  x = x + convs(x)
    transformer block:  x = x + separable(x);  x = x + attention(x);  x = x + mlp(x)

Neurons give whole numbers from 0 to 4, which are divided by 4, but for those of the head.

Yao et al., Scaling Spike-driven Transformer with Efficient Spike Firing Approximation Training, IEEE TPAMI 2025.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..neuron import ILIF
from ..nn import SpikeDrivenSelfAttention
from .blocks import Model, NeuronFactory, Neurons, check_sizes, conv
from .currents import Added, Spikes, chain, depthwise, mlp
from .registry import Entry, Figure, Info, register
from .sdt2 import Size, initialise, maps, stages


def _entry(size: Size, parameters: int, *figures: Figure) -> Entry:
    info = Info(
        paper="Yao et al., Scaling Spike-driven Transformer with Efficient Spike Firing Approximation Training, "
        "IEEE TPAMI 2025",
        parameters=parameters,
        input=(3, 224, 224),
        classes=1000,
        T=1,
        neuron="ILIF()",
        bits="none: neurons give whole numbers from 0 to 4",
        reference="https://github.com/BICLab/Spike-Driven-Transformer-V3 (no licence)",
        figures=figures,
    )
    return Entry(size, info)


def _in(accuracy: float) -> Figure:
    return Figure("ImageNet", accuracy, "paper", "T = 1, numbers up to 4")


ENTRIES = {
    entry.size.name: entry
    for entry in (
        _entry(Size("sdt3_t", (12, 24, 48, 96, 128)), 2_702_048),
        _entry(Size("sdt3_s", (16, 32, 64, 128, 192)), 5_105_608),
        _entry(Size("sdt3_m", (24, 48, 96, 192, 240)), 10_023_112, _in(78.5)),
        _entry(Size("sdt3_l", (32, 64, 128, 256, 360)), 18_987_504, _in(79.8)),
    )
}


@register(ENTRIES)
def build(size: Size, *, num_classes: int = 1000, in_channels: int = 3, neuron: NeuronFactory | None = None) -> Model:
    """Five stages, three of convolution blocks and two of transformer blocks; strides 2, 2, 2, 2 and 1.

    Counts of neurons with ``levels``, as ``sl.ILIF`` has, are divided by these; binary neurons run as they are.
    """
    check_sizes(size.name, num_classes, in_channels)
    neurons = Neurons(size.name, neuron, ILIF)
    spikes = Spikes(neurons, fractions=True)
    head: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), neurons(size.dims[-1], "head.2")]
    head += [nn.Linear(size.dims[-1], num_classes)] if num_classes else []
    model = Model(
        {
            **stages(size, in_channels, spikes, _convolutions, _transformer(size.heads)),
            "head": nn.Sequential(*head),
        },
        maps=maps(size),
    )
    initialise(model)
    return model


def _separable(spikes: Spikes, dim: int, size: int) -> nn.Sequential:
    inside = 2 * dim
    return chain(spikes.at("separable"), [conv(dim, inside, 1)], [depthwise(inside, size)], [conv(inside, dim, 1)])


def _convolutions(spikes: Spikes, dim: int) -> Added:
    convs = chain(spikes.at("convs"), [conv(dim, 4 * dim)], [conv(4 * dim, dim)])
    return Added(separable=_separable(spikes, dim, 7), convs=convs)


def _transformer(heads: int) -> Callable[[Spikes, int], Added]:
    def block(spikes: Spikes, dim: int) -> Added:
        return Added(
            separable=_separable(spikes, dim, 3),
            attention=SpikeDrivenSelfAttention(dim, heads, version=3, neuron=spikes.neurons.below("attention")),
            mlp=mlp(spikes.at("mlp"), dim),
        )

    return block
