"""Leaky: snnTorch's leaky neuron, parametrised by its decay, with a reset that may come one step late.

    late (reset_delay=True), r = [v >  v_threshold] of the step before:
        soft:  h = beta v + x - r v_threshold
        hard:  h = beta (1 - r) v + x
        none:  h = beta v + x
        s = [h > v_threshold], v = h
    now (reset_delay=False):
        h = beta v + x, s = [h > v_threshold], v = reset(h, s)

Eshraghian et al., Training Spiking Neural Networks Using Lessons From Deep Learning, Proc. IEEE 2023.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .._numbers import Number
from ..surrogate import Surrogate
from .base import Neuron, Reset


class Leaky(Neuron):
    """Leaky integrator with decay ``beta`` per step and full input gain: ``h = beta v + x``.

    Args:
        beta: decay per step, from 0 to 1; a float, tensor or parameter (one value, per channel, per neuron).
        v_threshold: as beta.
        reset: ``"soft"`` subtracts ``v_threshold``, ``"hard"`` sets to 0, ``"none"`` does nothing.
        reset_delay: True resets one step after the spike, as snnTorch does; False resets at once.
        strict: fire at ``h > v_threshold``.
        detach_reset: no gradient through the reset; None is ``reset_delay``.
        surrogate: see :class:`Neuron`.

    Input and output are ``[T, B, *]``; the state ``v`` rests at 0. With a late reset ``v`` is recorded before the
    reset. With the reset at once, ``Leaky(beta=b)`` is ``LIF(tau=1/(1-b), decay_input=False)``. Unlike snnTorch, beta
    is not clamped when it is used, and a residual above threshold fires again in the next step.

    >>> import torch
    >>> import spikeloom as sl
    >>> x = torch.tensor([0.6, 0.6, 0.6, 0.6, 0.0, 1.2, 0.6, 0.6]).view(8, 1)
    >>> sl.Leaky(beta=0.5).sequence(x)[0].flatten()
    tensor([0., 0., 1., 0., 0., 1., 0., 0.])
    """

    paper = "Eshraghian et al., Training Spiking Neural Networks Using Lessons From Deep Learning, Proc. IEEE 2023"
    limits: ClassVar = {"beta": (0.0, 1.0)}
    beta: Tensor

    def __init__(
        self,
        *,
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
        self.numbers(beta=beta, v_threshold=v_threshold, v_reset=0.0)
        self.reset_delay = reset_delay
        self.states(v="v_reset")

    def dynamics(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        h = self.beta * v + x
        if not self.reset_delay:
            spike = self.fire(h - self.v_threshold)
            return spike, self.reset_voltage(h, spike)
        if self.reset != "none":
            late = self.fire(v - self.v_threshold)
            late = late.detach() if self.detach_reset else late
            h = h - late * self.v_threshold if self.reset == "soft" else self.beta * (1 - late) * v + x
        return self.fire(h - self.v_threshold), h
