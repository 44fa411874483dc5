"""The VGG that online training through time was shown on: standardised weights instead of batch norm, average pools.

Xiao et al., Online Training Through Time for Spiking Neural Networks, NeurIPS 2022.
"""

from __future__ import annotations

from torch import Tensor, nn

from .._constants import HasConstants
from ..neuron import LIF
from ..nn import WSConv2d
from ..surrogate import Sigmoid
from .blocks import Model, NeuronFactory, Neurons, check_sizes, pooled_head
from .registry import Entry, Info, register
from .vgg import initialise

SCALE = 2.74
"""What makes up for the variance that firing takes, for all layers but the first, which is given no spikes."""


def paper_neuron() -> LIF:
    """``v = v/2 + x``, a spike from 1 on, less 1 after it."""
    return LIF(tau=2.0, decay_input=False, reset="soft", detach_reset=True, surrogate=Sigmoid(4.0))


_STAGES = ((64, 128), (256, 256), (512, 512), (512, 512))

ENTRIES = {
    "ottt_vgg": Entry(
        _STAGES,
        Info(
            paper="Xiao et al., Online Training Through Time for Spiking Neural Networks, NeurIPS 2022",
            parameters=9_228_362,
            input=(3, 32, 32),
            classes=10,
            T=6,
            neuron='LIF(tau=2.0, decay_input=False, reset="soft", detach_reset=True, surrogate=Sigmoid(4.0))',
            bits="all convolutions but the first and those that follow a pool",
            reference="https://github.com/pkuxmq/OTTT-SNN",
        ),
    )
}


class Scaled(HasConstants, nn.Module):
    """``y = scale x``: what a plain linear layer after pooled spikes lacks of the scale of standardised weights."""

    row_wise = True

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


@register(ENTRIES)
def build(
    stages: tuple[tuple[int, ...], ...],
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    neuron: NeuronFactory | None = None,
) -> Model:
    """WSConv2d and neuron, with an average pool after each two but the last, and a linear layer behind the average.

    For online training put :class:`spikeloom.options.SLTT` around the neurons, ``neuron=lambda **place:
    sl.options.SLTT(sl.LIF(...))``, and :class:`spikeloom.nn.OTTT` around the layers, with :func:`spikeloom.replace`.
    """
    check_sizes("ottt_vgg", num_classes, in_channels)
    neurons = Neurons("ottt_vgg", neuron, paper_neuron)
    layers: dict[str, nn.Module] = {}
    maps: dict[str, tuple[int, int]] = {}
    channels, scale = in_channels, 1.0
    for k, widths in enumerate(stages, 1):
        stage = nn.Sequential()
        for out in widths:
            stage.append(WSConv2d(channels, out, 3, padding=1, scale=scale))
            stage.append(neurons(out, f"stage{k}.{len(stage)}"))
            channels, scale = out, SCALE
        if pooled := k < len(stages):
            stage.append(nn.AvgPool2d(2))
        layers[f"stage{k}"], maps[f"stage{k}"] = stage, (channels, 2 ** (k if pooled else k - 1))
    pool, flat, *linear = pooled_head(channels, num_classes)
    layers["head"] = nn.Sequential(pool, flat, Scaled(SCALE), *linear)
    model = Model(layers, maps=maps)
    initialise(model)
    return model
