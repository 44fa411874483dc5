"""Blocks between membrane currents, of which spike-driven transformers are made: sums are of currents, and what every
convolution is given is spikes.

    y = x + branch(x),   branch(x) = norm(conv(neuron( ... norm(conv(neuron(x))))))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ..nn.per_level import per_level
from .blocks import Neurons, norm_neuron


class Added(nn.Module):
    """Branches, each of which is added to what it is given: ``x = x + branch(x)``, one after another."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.children():
            x = x + branch(x)
        return x


class Spikes(NamedTuple):
    """Makes the neurons of a model; ``fractions`` says that counts of neurons with levels are divided by the most."""

    neurons: Neurons
    fractions: bool = False

    def at(self, path: object) -> Spikes:
        """The same below a path."""
        return Spikes(self.neurons.at(path), self.fractions)

    def __call__(self, features: int, path: str, norm: nn.Module | None = None) -> list[nn.Module]:
        """The neuron at a path, joined with the norm before it, and what divides its counts."""
        neuron = self.neurons(features, path)
        return [
            neuron if norm is None else norm_neuron(norm, neuron),
            *(per_level(neuron) if self.fractions else ()),
        ]


def chain(spikes: Spikes, *groups: Sequence[nn.Conv2d]) -> nn.Sequential:
    """A neuron, convolutions and a norm for each group, from currents to currents."""
    layers, norm = nn.Sequential(), None
    for convs in groups:
        layers.extend(spikes(convs[0].in_channels, str(len(layers)), norm))
        layers.extend(convs)
        norm = nn.BatchNorm2d(convs[-1].out_channels)
    assert norm is not None
    return layers.append(norm)


def mlp(spikes: Spikes, dim: int, ratio: int = 4) -> nn.Sequential:
    """Two 1x1 convolutions with bias, ``dim -> ratio dim -> dim``."""
    return chain(spikes, [nn.Conv2d(dim, ratio * dim, 1)], [nn.Conv2d(ratio * dim, dim, 1)])


def depthwise(channels: int, size: int) -> nn.Conv2d:
    """A convolution of each channel by itself."""
    return nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels, bias=False)
