"""IF and LIF: integrate-and-fire, without and with a leak; a step charges, fires and resets, in this order.

    IF:   h = v + x
    LIF:  h = v + (x - (v - v_leak)) / tau      (decay_input=True)
          h = v - (v - v_leak) / tau + x        (decay_input=False)
    s = 1 where h >= v_threshold
    v = reset(h, s)

``tau`` is in steps: the decay per step is ``1 - 1/tau``. Gerstner et al., Neuronal Dynamics, 2014, chapter 1.
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from .._numbers import Number
from ..surrogate import Surrogate
from .base import Neuron, Reset


def declare_voltage(neuron: Neuron, v_threshold: Number, v_reset: Number) -> None:
    """Declares threshold and reset voltage; raises if a v_reset is given that no reset would use."""
    if neuron.reset != "hard" and not (isinstance(v_reset, (int, float)) and v_reset == 0):
        raise ValueError(
            f"{type(neuron).__name__}: v_reset is used by reset='hard' only, got reset={neuron.reset!r} and "
            f"v_reset={v_reset}"
        )
    neuron.numbers(v_threshold=v_threshold, v_reset=v_reset)


class LeakyVoltage(Neuron):
    """What LIF and its kin share: a voltage that leaks to v_leak if given, else to v_reset (hard reset), else to 0."""

    decay_input: bool

    def _declare_leak(self, v_leak: Number | None) -> None:
        """Declares the leak and the state ``v``, which rests at v_leak where given, else at v_reset."""
        if v_leak is not None:
            self.numbers(v_leak=v_leak)
        self.leak_to = "v_leak" if v_leak is not None else ("v_reset" if self.reset == "hard" else "")
        self.states(v="v_leak" if v_leak is not None else "v_reset")

    def above_leak(self, v: Tensor) -> Tensor:
        """``v - v_leak``."""
        return v - getattr(self, self.leak_to) if self.leak_to else v

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        """The voltage before firing, of neurons with ``tau`` and ``decay_input``."""
        tau: Tensor = getattr(self, "tau")  # noqa: B009  # a number of subclasses; PLIF has a property of that name
        if self.decay_input:
            return v + (x - self.above_leak(v)) / tau
        return v - self.above_leak(v) / tau + x


class IF(Neuron):
    """Integrate-and-fire neuron: ``h = v + x; s = [h >= v_threshold]; v = reset(h, s)``.

    Args:
        v_threshold: the voltage from which on it fires: a float, tensor or parameter of one value, one per channel or
            one per neuron.
        v_reset: the voltage at rest, and after a hard reset; of the same kinds.
        reset, detach_reset, strict, surrogate: see :class:`Neuron`.

    Input and output are ``[T, B, *]``; the state ``v`` is recorded after the reset and rests at ``v_reset``.

    >>> import torch
    >>> import spikeloom as sl
    >>> y, state = sl.IF(reset="soft").sequence(torch.full((5, 1), 0.4))
    >>> y.flatten(), round(float(state["v"]), 4)
    (tensor([0., 0., 1., 0., 1.]), 0.0)
    """

    paper = "Lapicque, Journal de Physiologie et de Pathologie Generale 9, 1907"

    def __init__(
        self,
        *,
        v_threshold: Number = 1.0,
        v_reset: Number = 0.0,
        reset: Reset = "hard",
        detach_reset: bool = False,
        strict: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(reset=reset, detach_reset=detach_reset, strict=strict, surrogate=surrogate)
        declare_voltage(self, v_threshold, v_reset)
        self.states(v="v_reset")

    def dynamics(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        h = v + x
        spike = self.fire(h - self.v_threshold)
        return spike, self.reset_voltage(h, spike)


class LIF(LeakyVoltage):
    """Leaky integrate-and-fire neuron: ``h = v + (x - (v - v_leak)) / tau``, then fire and reset.

    Args:
        tau: membrane time constant in steps, at least 1; the decay per step is ``1 - 1/tau``.
        v_threshold, v_reset: see :class:`IF`.
        v_leak: target of the leak; None is ``v_reset`` for a hard reset and 0 otherwise.
        decay_input: False takes the input at full gain: ``h = v - (v - v_leak) / tau + x``.
        reset, detach_reset, strict, surrogate: see :class:`Neuron`.

    Numbers are floats, tensors or parameters; there may be one value, one per channel or one per neuron. Input and
    output are ``[T, B, *]``; the state ``v`` is recorded after the reset and rests at ``v_leak`` where given, else at
    ``v_reset``.

    >>> import torch
    >>> import spikeloom as sl
    >>> x = torch.tensor([0.6, 0.6, 0.6, 0.6, 0.0, 1.2, 0.6, 0.6]).view(8, 1)
    >>> sl.LIF(tau=2.0, decay_input=False).sequence(x)[0].flatten()
    tensor([0., 0., 1., 0., 0., 1., 0., 0.])
    """

    paper = "Gerstner, Kistler, Naud and Paninski, Neuronal Dynamics, 2014, chapter 1"
    limits: ClassVar = {"tau": (1.0, math.inf)}
    tau: Tensor

    def __init__(
        self,
        *,
        tau: Number = 2.0,
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
        self.numbers(tau=tau)
        declare_voltage(self, v_threshold, v_reset)
        self.decay_input = decay_input
        self._declare_leak(v_leak)

    def dynamics(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        h = self.charge(x, v)
        spike = self.fire(h - self.v_threshold)
        return spike, self.reset_voltage(h, spike)
