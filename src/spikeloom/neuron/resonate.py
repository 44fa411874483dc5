"""ResonateFire: a damped oscillator that fires, for input that comes at its own frequency.

    u = exp(b) (cos(omega) u - sin(omega) v) + x
    h = exp(b) (sin(omega) u_before + cos(omega) v)
    s = 1 where h >= v_threshold
    (u, v) = (u_reset, v_reset) where it fired

This is the exact solution of ``z' = (b + i omega) z`` over one step, with z = u + i v; the input is added to the real
part.
Izhikevich, Resonate-and-fire neurons, Neural Networks 2001.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from .._numbers import Number
from ..surrogate import Surrogate
from .base import Neuron, Reset


class ResonateFire(Neuron):
    """Resonate-and-fire: ``z = exp(b + i omega) z + x`` with z = u + i v, fires where ``v >= v_threshold``.

    Args:
        omega: angle per step in radians; the neuron answers best to input with a period of ``2 pi / omega`` steps.
        b: damping per step, at most 0; the amplitude decays by ``exp(b)``.
        v_threshold, u_reset, v_reset: threshold of v, and where a hard reset puts u and v (the paper's is (0, 1)).
        reset: ``"hard"``, ``"soft"`` (subtracts ``v_threshold`` from v) or ``"none"``.
        detach_reset, strict, surrogate: see :class:`Neuron`.

    Input and output are ``[T, B, *]``; the states ``u`` and ``v`` rest at 0.

    >>> import math, torch
    >>> import spikeloom as sl
    >>> neuron = sl.ResonateFire(omega=math.pi / 4, b=-0.01, v_threshold=1.5)
    >>> apart = torch.zeros(20, 2)
    >>> apart[[0, 8], 0] = 1.0  # two pulses, a period of 8 steps apart
    >>> apart[[0, 4], 1] = 1.0  # half a period apart
    >>> neuron.sequence(apart)[0].sum(0)
    tensor([1., 0.])
    """

    paper = "Izhikevich, Resonate-and-fire neurons, Neural Networks 14, 2001"
    limits: ClassVar = {"b": (-math.inf, 0.0)}
    omega: Tensor
    b: Tensor
    u_reset: Tensor

    def __init__(
        self,
        *,
        omega: Number,
        b: Number = -0.05,
        v_threshold: Number = 1.0,
        u_reset: Number = 0.0,
        v_reset: Number = 0.0,
        reset: Reset = "hard",
        detach_reset: bool = False,
        strict: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(reset=reset, detach_reset=detach_reset, strict=strict, surrogate=surrogate)
        self.numbers(omega=omega, b=b, v_threshold=v_threshold, u_reset=u_reset, v_reset=v_reset)
        self.states(u=0.0, v=0.0)

    def dynamics(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay = torch.exp(self.b)
        c, s = decay * torch.cos(self.omega), decay * torch.sin(self.omega)
        u, h = c * u - s * v + x, s * u + c * v
        spike = self.fire(h - self.v_threshold)
        if self.reset == "hard":
            back = spike.detach() if self.detach_reset else spike
            u = (1 - back) * u + back * self.u_reset
        return spike, u, self.reset_voltage(h, spike)
