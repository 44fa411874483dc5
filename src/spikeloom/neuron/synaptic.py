"""Synaptic: a leaky neuron driven by a synaptic current that decays itself (current-based LIF).

    i = alpha i + x
    late (reset_delay=True), r = [v > v_threshold] of the step before:
        soft:  h = beta v + i - r v_threshold
        hard:  h = (1 - r) (beta v + i)
        none:  h = beta v + i
        s = [h > v_threshold], v = h
    now (reset_delay=False):
        h = beta v + i, s = [h > v_threshold], v = reset(h, s)

Eshraghian et al., Proc. IEEE 2023; NIR's CubaLIF with alpha = 1 - dt/tau_syn, beta = 1 - dt/tau_mem.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .._numbers import Number
from ..surrogate import Surrogate
from .base import Neuron, Reset


class Synaptic(Neuron):
    """Current-based leaky neuron: ``i = alpha i + x; h = beta v + i``, then fire and reset.

    Args:
        alpha, beta: decays per step of the current and of the membrane, from 0 to 1; a float, tensor or
            parameter (one value, per channel, per neuron).
        v_threshold, reset, reset_delay, strict, detach_reset, surrogate: see :class:`Leaky`.

    A late hard reset clears the input of its step too (unlike Leaky's); the current is never reset.
    Input and output are ``[T, B, *]``; the states ``i`` and ``v`` rest at 0.

    >>> import torch
    >>> import spikeloom as sl
    >>> x = torch.tensor([0.6, 0.6, 0.6, 0.6, 0.0, 1.2, 0.6, 0.6]).view(8, 1)
    >>> sl.Synaptic(alpha=0.5, beta=0.5).sequence(x)[0].flatten()
    tensor([0., 1., 0., 1., 0., 1., 1., 0.])
    """

    paper = "Eshraghian et al., Training Spiking Neural Networks Using Lessons From Deep Learning, Proc. IEEE 2023"
    limits: ClassVar = {"alpha": (0.0, 1.0), "beta": (0.0, 1.0)}
    alpha: Tensor
    beta: Tensor

    def __init__(
        self,
        *,
        alpha: Number,
        beta: Number,
        v_threshold: Number = 1.0,
        reset: Reset = "soft",
        reset_delay: bool = True,
        strict: bool = True,
        surrogate: Surrogate | None = None,
        detach_reset: bool | None = None,
    ) -> None:
        detach = reset_delay if detach_reset is None else detach_reset
        super().__init__(reset=reset, detach_reset=detach, strict=strict, surrogate=surrogate)
        self.numbers(alpha=alpha, beta=beta, v_threshold=v_threshold, v_reset=0.0)
        self.reset_delay = reset_delay
        self.states(i="v_reset", v="v_reset")

    def dynamics(self, x: Tensor, i: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        i = self.alpha * i + x
        h = self.beta * v + i
        if not self.reset_delay:
            spike = self.fire(h - self.v_threshold)
            return spike, i, self.reset_voltage(h, spike)
        if self.reset != "none":
            h = self.reset_voltage(h, self.fire(v - self.v_threshold))
        return self.fire(h - self.v_threshold), i, h
