"""Neurons whose voltage has an exponential term: EIF, and AdEx with an adaptation current.

    EIF:   h = v + (x - (v - v_leak) + delta_t exp((v - v_rh) / delta_t)) / tau
    AdEx:  h = v + (x - (v - v_leak) + delta_t exp((v - v_rh) / delta_t) - w) / tau
           w = w + (a (v - v_leak) - w) / tau_w
    s = 1 where h >= v_threshold
    v = reset(h, s);  AdEx: w = w + b s

The equations are integrated by forward Euler with steps of 1. Fourcaud-Trocme et al., Journal of Neuroscience 2003;
Brette and Gerstner, Journal of Neurophysiology 2005.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from .._numbers import POSITIVE, Number
from ..surrogate import Surrogate
from .base import Neuron, Reset
from .lif import declare_voltage


class _Exponential(Neuron):
    """What EIF and AdEx share: numbers, and the drift of a voltage ``v`` that rests at ``v_leak``."""

    limits: ClassVar = {"tau": (1.0, math.inf), "delta_t": POSITIVE}
    tau: Tensor
    delta_t: Tensor
    v_rh: Tensor
    v_leak: Tensor

    def __init__(
        self,
        *,
        tau: Number = 2.0,
        delta_t: Number = 1.0,
        v_rh: Number = 0.8,
        v_leak: Number = 0.0,
        v_threshold: Number = 1.0,
        v_reset: Number | None = None,
        reset: Reset = "hard",
        detach_reset: bool = False,
        strict: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(reset=reset, detach_reset=detach_reset, strict=strict, surrogate=surrogate)
        self.numbers(tau=tau, delta_t=delta_t, v_rh=v_rh, v_leak=v_leak)
        declare_voltage(self, v_threshold, (-0.1 if reset == "hard" else 0.0) if v_reset is None else v_reset)
        self.states(v="v_leak")

    def drift(self, v: Tensor) -> Tensor:
        """Leak and exponential term, which move v without input."""
        return self.delta_t * torch.exp((v - self.v_rh) / self.delta_t) - (v - self.v_leak)


class EIF(_Exponential):
    """Exponential integrate-and-fire: ``h = v + (x - (v - v_leak) + delta_t exp((v - v_rh) / delta_t)) / tau``, then
    fire and reset.

    Args:
        tau: membrane time constant in steps, at least 1.
        delta_t: sharpness of the spike's beginning; the smaller, the more like a LIF.
        v_rh: rheobase voltage, above which the exponential takes over.
        v_leak, v_threshold, v_reset, reset, detach_reset, strict, surrogate: see :class:`QIF`.

    Input and output are ``[T, B, *]``; the state ``v`` rests at ``v_leak``. SpikingJelly's ``EIFNode`` is the same and
    begins at ``v_reset``.

    >>> import torch
    >>> import spikeloom as sl
    >>> y, _ = sl.EIF().sequence(torch.full((5, 1), 0.9))
    >>> y.flatten()
    tensor([0., 1., 0., 1., 0.])
    """

    paper = "Fourcaud-Trocme et al., How Spike Generation Mechanisms Determine the Response, J. Neurosci. 2003"

    def dynamics(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        h = v + (x + self.drift(v)) / self.tau
        spike = self.fire(h - self.v_threshold)
        return spike, self.reset_voltage(h, spike)


class AdEx(_Exponential):
    """Adaptive exponential integrate-and-fire: an :class:`EIF` with ``w`` subtracted from its input;
    ``w = w + (a (v - v_leak) - w) / tau_w + b s``.

    Args:
        tau_w: time constant of the adaptation in steps, at least 1.
        a: adaptation below threshold, by the voltage before the step.
        b: adaptation that a spike adds.
        others: see :class:`EIF`.

    Input and output are ``[T, B, *]``; the states are ``v``, ``v_leak`` at rest, and ``w``, 0 at rest.

    >>> import torch
    >>> import spikeloom as sl
    >>> y, _ = sl.AdEx(b=0.5, tau_w=20.0).sequence(torch.full((12, 1), 1.2))
    >>> y.flatten()
    tensor([0., 1., 0., 0., 1., 0., 0., 0., 1., 0., 0., 0.])
    """

    paper = "Brette and Gerstner, Adaptive Exponential Integrate-and-Fire Model, J. Neurophysiology 94, 2005"
    limits: ClassVar = {**_Exponential.limits, "tau_w": (1.0, math.inf)}
    tau_w: Tensor
    a: Tensor
    b: Tensor

    def __init__(
        self,
        *,
        tau: Number = 2.0,
        tau_w: Number = 20.0,
        a: Number = 0.0,
        b: Number = 0.2,
        delta_t: Number = 1.0,
        v_rh: Number = 0.8,
        v_leak: Number = 0.0,
        v_threshold: Number = 1.0,
        v_reset: Number | None = None,
        reset: Reset = "hard",
        detach_reset: bool = False,
        strict: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(
            tau=tau, delta_t=delta_t, v_rh=v_rh, v_leak=v_leak, v_threshold=v_threshold, v_reset=v_reset,
            reset=reset, detach_reset=detach_reset, strict=strict, surrogate=surrogate,
        )  # fmt: skip
        self.numbers(tau_w=tau_w, a=a, b=b)
        self.states(w=0.0)

    def dynamics(self, x: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = v + (x + self.drift(v) - w) / self.tau
        spike = self.fire(h - self.v_threshold)
        w = w + (self.a * (v - self.v_leak) - w) / self.tau_w + self.b * spike
        return spike, self.reset_voltage(h, spike), w
