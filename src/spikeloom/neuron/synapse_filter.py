"""SynapseFilter: spikes as a current that decays while there are none.

o = o - (1 - x) o / tau + x;    with ``learnable=True``, 1 / tau = S(w), S the logistic function

Diehl and Cook, Unsupervised Learning of Digit Recognition Using Spike-Timing-Dependent Plasticity, Frontiers in
Computational Neuroscience 9, 2015; Fang et al., Exploiting Neuron and Synapse Filter Dynamics in Spatial Temporal
Learning of Deep Spiking Neural Network, IJCAI 2020.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from .._numbers import Number, describe
from .base import Neuron


class SynapseFilter(Neuron):
    """Synaptic current: ``o = o - (1 - x) o / tau + x``; the output is ``o``. A spike does not decay what it adds to.

    Args:
        tau: time constant in steps, at least 1: a float, a tensor or a parameter; one value, one per channel or one
            per neuron.
        learnable: whether ``1 / tau = S(w)`` with learnable ``w``, S the logistic function, so that tau stays above 1.
            ``tau`` is then its initial value, above 1.

    Input (spikes) and output are ``[T, B, *]``; the state is ``o``, 0 at rest.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.nn.SynapseFilter(tau=2.0).sequence(torch.tensor([1.0, 0.0, 1.0, 0.0]).view(4, 1))[0].flatten()
    tensor([1.0000, 0.5000, 1.5000, 0.7500])
    """

    paper = "Fang et al., Exploiting Neuron and Synapse Filter Dynamics in Spatial Temporal Learning, IJCAI 2020"
    is_binary = False
    limits: ClassVar = {"tau": (1.0, math.inf)}
    w: Tensor

    def __init__(self, *, tau: Number = 100.0, learnable: bool = False) -> None:
        super().__init__(reset="none")
        self.learnable = learnable
        if learnable:
            start = torch.as_tensor(tau).detach()
            if not bool((start > 1).all()):
                raise ValueError(f"SynapseFilter: a learnable tau must be above 1, got {float(start.min())}")
            self.numbers(w=nn.Parameter(-torch.log(start.to(torch.get_default_dtype()) - 1)))
        else:
            self.numbers(tau=tau)
        self.states(o=0.0)

    def dynamics(self, x: Tensor, o: Tensor) -> tuple[Tensor, Tensor]:
        rate = torch.sigmoid(self.w) if self.learnable else 1 / self.tau
        o = o - (1 - x) * o * rate + x
        return o, o

    def extra_repr(self) -> str:
        return describe(self) + (", learnable=True" if self.learnable else "")
