"""The net of learned delays for spoken digits: events of 140 channels, not images.

    delays, linear, norm, neuron, dropout;  the same;  delays, linear, leaky integrator

Hammouamri, Khalfaoui-Hassani and Masquelier, Learning Delays in Spiking Neural Networks using Dilated Convolutions with
Learnable Spacings, ICLR 2024.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from ..neuron import LI, LIF
from ..nn import DelayLinear, Dropout, LearnedDelay
from ..surrogate import ATan
from .blocks import Model, NeuronFactory, Neurons, check_option, check_sizes
from .registry import Entry, Figure, Info, register

Delays = Literal["channel", "synapse", "none"]
_TAU = 1.005  # in steps of 10 ms


def paper_neuron() -> LIF:
    """With a time constant of a step such a neuron hardly remembers; the delays do."""
    return LIF(tau=_TAU, decay_input=False, detach_reset=True, surrogate=ATan(5.0))


ENTRIES = {
    "delay_shd": Entry(
        "delay_shd",
        Info(
            paper="Hammouamri et al., Learning Delays in Spiking Neural Networks using Dilated Convolutions with "
            "Learnable Spacings, ICLR 2024",
            parameters=108_172,
            input=(140,),
            classes=20,
            T=None,
            neuron="LIF(tau=1.005, decay_input=False, detach_reset=True, surrogate=ATan(5.0))",
            bits="all layers in evaluation, the first if events are packed; in training dropout comes before others",
            reference="https://github.com/Thvnvtos/SNN-delays (no licence)",
            figures=(Figure("SHD", 95.07, "secondary", 'delays="synapse", best epoch on the test set'),),
        ),
    )
}


@register(ENTRIES)
def build(
    name: str,
    *,
    num_classes: int = 20,
    in_channels: int = 140,
    neuron: NeuronFactory | None = None,
    delays: Delays = "channel",
    max_delay: int = 24,
    hidden: int = 256,
) -> Model:
    """Two hidden layers of ``hidden`` neurons and a leaky integrator, whose membrane is the output, on ``[T, B, 140]``.

    ``delays`` gives each ``"channel"`` a delay, before a linear layer, or, as in the paper, each ``"synapse"``;
    ``"none"`` is the net to compare with.
    ``max_delay`` is the longest one in steps, of 10 ms in the paper. The bump around a delay begins as wide as
    half of that, for ``sl.nn.DelaySchedule`` to narrow. Append ``3 max_delay`` steps of zeros to the input to
    let everything out.
    """
    check_sizes(name, num_classes, in_channels)
    check_option(name, "delays", delays, ("channel", "synapse", "none"))
    neurons = Neurons(name, neuron, paper_neuron)
    layers: dict[str, nn.Module] = {}
    features = in_channels
    for k in (1, 2):
        stage = nn.Sequential(*_delayed(delays, features, hidden, max_delay), nn.BatchNorm1d(hidden))
        stage.extend([neurons(hidden, f"hidden{k}.{len(stage)}"), Dropout(0.4)])
        layers[f"hidden{k}"], features = stage, hidden
    head = [*_delayed(delays, hidden, num_classes, max_delay), LI(tau=_TAU, decay_input=False)] if num_classes else []
    return Model({**layers, "head": nn.Sequential(*head)})


def _delayed(delays: Delays, features: int, out: int, max_delay: int) -> list[nn.Module]:
    width = (max_delay + 1) / 2
    layer: DelayLinear | nn.Linear
    if delays == "synapse":
        layer = DelayLinear(features, out, max_delay, sigma=width)
    else:
        layer = nn.Linear(features, out, bias=False)
    bound = (6 / features) ** 0.5  # Kaiming's uniform distribution for ReLUs
    nn.init.uniform_(layer.weight, -bound, bound)
    return [LearnedDelay(features, max_delay, sigma=width), layer] if delays == "channel" else [layer]
