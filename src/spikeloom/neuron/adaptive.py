"""Leaky neurons that adapt to their own spikes: ALIF by its threshold, SEAdLIF by a current.

    ALIF:     h = alpha v + x
              s = 1 where h >= v_threshold + beta a
              v = reset(h, s);  a = rho a + s
    SEAdLIF:  h = alpha v + (1 - alpha) (x - w)
              s = 1 where h >= v_threshold
              v = reset(h, s);  w = beta w + (1 - beta) (a v + b s)

Bellec et al., Nature Communications 2020 (the LSNN of e-prop); Baronig et al., Advancing spatio-temporal processing in
spiking neural networks through adaptation, Nature Communications 2025: w sees the new v (symplectic Euler), which is
stable where plain Euler is not.
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from .._numbers import Number
from ..surrogate import Surrogate
from .base import Neuron, Reset
from .lif import declare_voltage

_SHARE = (0.0, 1.0)


class ALIF(Neuron):
    """LIF with an adaptive threshold: ``h = alpha v + x; s = [h >= v_threshold + beta a]``, reset, ``a = rho a + s``.

    Args:
        alpha, rho: decays per step of the voltage and of the adaptation, from 0 to 1.
        beta: how far a spike raises the threshold.
        v_threshold, v_reset: see :class:`IF`. A soft reset subtracts ``v_threshold``, as in the paper.
        reset, detach_reset, strict, surrogate: see :class:`Neuron`.

    Input and output are ``[T, B, *]``; the states are ``v``, ``v_reset`` at rest, and ``a``, 0 at rest.

    >>> import torch
    >>> import spikeloom as sl
    >>> y, _ = sl.ALIF(alpha=0.5, rho=0.5, beta=1.0).sequence(torch.full((6, 1), 1.0))
    >>> y.flatten()
    tensor([1., 0., 1., 0., 1., 0.])
    """

    paper = "Bellec et al., A solution to the learning dilemma for recurrent networks, Nature Communications 11, 2020"
    limits: ClassVar = {"alpha": _SHARE, "rho": _SHARE, "beta": (0.0, math.inf)}
    alpha: Tensor
    rho: Tensor
    beta: Tensor

    def __init__(
        self,
        *,
        alpha: Number = 0.9,
        rho: Number = 0.95,
        beta: Number = 0.2,
        v_threshold: Number = 1.0,
        v_reset: Number = 0.0,
        reset: Reset = "soft",
        detach_reset: bool = False,
        strict: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(reset=reset, detach_reset=detach_reset, strict=strict, surrogate=surrogate)
        self.numbers(alpha=alpha, rho=rho, beta=beta)
        declare_voltage(self, v_threshold, v_reset)
        self.states(v="v_reset", a=0.0)

    def dynamics(self, x: Tensor, v: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.alpha * v + x
        spike = self.fire(h - (self.v_threshold + self.beta * a))
        return spike, self.reset_voltage(h, spike), self.rho * a + spike


class SEAdLIF(Neuron):
    """Adaptive LIF in the symplectic Euler form: ``h = alpha v + (1 - alpha) (x - w)``, fire, reset,
    ``w = beta w + (1 - beta) (a v + b s)``.

    Args:
        alpha, beta: decays per step of the voltage and of the adaptation, from 0 to 1.
        a: adaptation by the voltage (with a > 0 the membrane oscillates).
        b: adaptation by spikes.
        v_threshold, v_reset: see :class:`IF`.
        reset, detach_reset, strict, surrogate: see :class:`Neuron`.

    Input and output are ``[T, B, *]``; the states are ``v``, ``v_reset`` at rest, and ``w``, 0 at rest.

    >>> import torch
    >>> import spikeloom as sl
    >>> y, state = sl.SEAdLIF(alpha=0.5, beta=0.5).sequence(torch.full((3, 1), 2.0))
    >>> y.flatten(), state["w"].item()
    (tensor([1., 0., 1.]), 0.71875)
    """

    paper = (
        "Baronig et al., Advancing Spatio-Temporal Processing in SNNs through Adaptation, Nature Communications 2025"
    )
    limits: ClassVar = {"alpha": _SHARE, "beta": _SHARE}
    alpha: Tensor
    beta: Tensor
    a: Tensor
    b: Tensor

    def __init__(
        self,
        *,
        alpha: Number = 0.9,
        beta: Number = 0.95,
        a: Number = 0.5,
        b: Number = 1.0,
        v_threshold: Number = 1.0,
        v_reset: Number = 0.0,
        reset: Reset = "hard",
        detach_reset: bool = False,
        strict: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(reset=reset, detach_reset=detach_reset, strict=strict, surrogate=surrogate)
        self.numbers(alpha=alpha, beta=beta, a=a, b=b)
        declare_voltage(self, v_threshold, v_reset)
        self.states(v="v_reset", w=0.0)

    def dynamics(self, x: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.alpha * v + (1 - self.alpha) * (x - w)
        spike = self.fire(h - self.v_threshold)
        v = self.reset_voltage(h, spike)
        return spike, v, self.beta * w + (1 - self.beta) * (self.a * v + self.b * spike)
