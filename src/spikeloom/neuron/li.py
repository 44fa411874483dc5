"""LI: a leaky integrator that does not fire, for readouts; its output is its membrane.

v = v + (x - (v - v_leak)) / tau      (decay_input=True)
v = v - (v - v_leak) / tau + x        (decay_input=False)
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from .._numbers import Number, describe
from .base import Neuron


class LI(Neuron):
    """Leaky integrator: ``v = v + (x - (v - v_leak)) / tau``; the output is ``v``.

    Args:
        tau: time constant in steps, at least 1; ``math.inf`` with ``decay_input=False`` is a perfect integrator.
        v_leak: target of the leak and value at rest.
        decay_input: False takes the input at full gain.

    Numbers are floats, tensors or parameters; there may be one value, one per channel or one per neuron. Input and
    output are ``[T, B, *]``; the state is ``v``. Read it out over time with :func:`spikeloom.decode.membrane`.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.LI(tau=2.0).sequence(torch.ones(3, 1))[0].flatten()
    tensor([0.5000, 0.7500, 0.8750])
    """

    paper = "Gerstner, Kistler, Naud and Paninski, Neuronal Dynamics, 2014, chapter 1"
    is_binary = False
    limits: ClassVar = {"tau": (1.0, math.inf)}
    tau: Tensor
    v_leak: Tensor

    def __init__(self, *, tau: Number = 2.0, v_leak: Number = 0.0, decay_input: bool = True) -> None:
        super().__init__(reset="none")
        self.numbers(tau=tau, v_leak=v_leak)
        self.decay_input = decay_input
        self.states(v="v_leak")

    def dynamics(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.decay_input:
            v = v + (x - (v - self.v_leak)) / self.tau
        else:
            v = v - (v - self.v_leak) / self.tau + x
        return v, v

    def extra_repr(self) -> str:
        return describe(self) + ("" if self.decay_input else ", decay_input=False")
