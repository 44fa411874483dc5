"""PLIF: a LIF neuron that learns its membrane time constant.

    1 / tau = S(w)

S is the logistic function, so that tau stays above 1 for every w.

Fang et al., Incorporating Learnable Membrane Time Constant to Enhance Learning of SNNs, ICCV 2021.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._numbers import Number
from ..surrogate import Surrogate
from .base import Reset
from .lif import LeakyVoltage, declare_voltage


class PLIF(LeakyVoltage):
    """Parametric LIF: ``h = v + (x - (v - v_leak)) S(w)`` with learnable ``w``, then fire and reset.

    Args:
        tau: initial time constant in steps, above 1: a float, or a tensor with one value per channel or neuron.
        shape: shape of ``w`` where ``tau`` is a float: None for one shared value, ``C`` for one per channel or
            feature, a tuple for one per neuron.
        v_threshold, v_reset, v_leak, decay_input, reset, detach_reset, strict, surrogate: see :class:`LIF`.

    ``w`` starts at ``-log(tau - 1)``. Input, output and state are those of :class:`LIF`.

    >>> import spikeloom as sl
    >>> neuron = sl.PLIF(tau=3.0, shape=64)
    >>> neuron.w.shape, round(neuron.tau[0].item(), 4)
    (torch.Size([64]), 3.0)
    """

    paper = "Fang et al., Incorporating Learnable Membrane Time Constant to Enhance Learning of SNNs, ICCV 2021"
    w: Tensor

    def __init__(
        self,
        *,
        tau: float | Tensor = 2.0,
        shape: int | tuple[int, ...] | None = None,
        v_threshold: Number = 1.0,
        v_reset: Number = 0.0,
        v_leak: Number | None = None,
        decay_input: bool = True,
        reset: Reset = "hard",
        detach_reset: bool = False,
        strict: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(reset=reset, detach_reset=detach_reset, strict=strict, surrogate=surrogate)
        self.numbers(w=nn.Parameter(_initial_w(tau, shape)))
        declare_voltage(self, v_threshold, v_reset)
        self.decay_input = decay_input
        self._declare_leak(v_leak)

    @property
    def tau(self) -> Tensor:
        """The time constant in use, ``1 / S(w)``, in steps."""
        return 1 / torch.sigmoid(self.w)

    def dynamics(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        rate = torch.sigmoid(self.w)
        if self.decay_input:
            h = v + (x - self.above_leak(v)) * rate
        else:
            h = v - self.above_leak(v) * rate + x
        spike = self.fire(h - self.v_threshold)
        return spike, self.reset_voltage(h, spike)


def _initial_w(tau: float | Tensor, shape: int | tuple[int, ...] | None) -> Tensor:
    if isinstance(tau, Tensor):
        if shape is not None and tau.ndim > 0:
            raise ValueError("PLIF: give either a tensor tau or a shape, not both")
        if not bool((tau > 1).all()):
            raise ValueError(f"PLIF: tau must be above 1, got values down to {float(tau.min())}")
        if tau.ndim > 0:
            return -torch.log(tau.detach() - 1)
    if not float(tau) > 1:
        raise ValueError(f"PLIF: tau must be above 1, got {float(tau)}")
    size = () if shape is None else (shape,) if isinstance(shape, int) else shape
    return torch.full(size, -math.log(float(tau) - 1))
