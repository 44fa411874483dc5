"""Leaky neurons with one thing changed: KLIF, CLIF, DeltaLeaky, and Lapicque's circuit.

    KLIF:      h = relu(k (v + (x - (v - v_leak)) / tau))
    CLIF:      h = (1 - 1/tau) v + x
               m = m sigmoid(h / tau) + s
               v = h - s (v_threshold + sigmoid(m))
    DeltaLeaky: h = beta v + x;  s = 1 where |h - v| >= v_threshold;  v = h
    Lapicque:  h = (1 - dt / (r c)) v + x dt / c
    s = 1 where h >= v_threshold

Jiang and Zhang, KLIF, arXiv:2302.09238; Huang et al., CLIF: Complementary Leaky Integrate-and-Fire Neuron, ICML 2024;
Lapicque, 1907.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from .._numbers import POSITIVE, Number
from ..surrogate import Surrogate
from .base import Neuron, Reset
from .lif import LeakyVoltage, declare_voltage


class KLIF(LeakyVoltage):
    """LIF with a learnable gain ``k`` before a rectifier: ``h = relu(k (v + (x - (v - v_leak)) / tau))``, fire, reset.

    Args:
        k: the gain; None is a learnable 1 (one value).
        scale_reset: the reset works on ``h / k`` with the threshold ``v_threshold / k``, so that the voltage itself is
            not scaled from step to step.
        tau, v_threshold, v_reset, v_leak, decay_input, reset, detach_reset, strict, surrogate: see :class:`LIF`.

    Input and output are ``[T, B, *]``; the state is ``v``. SpikingJelly calls it ``KLIFNode``.

    >>> import torch
    >>> import spikeloom as sl
    >>> neuron = sl.KLIF(tau=2.0)
    >>> y, state = neuron.sequence(torch.tensor([[-1.0], [1.0], [3.0]]))
    >>> y.detach().flatten(), neuron.k.requires_grad
    (tensor([0., 0., 1.]), True)
    """

    paper = "Jiang and Zhang, KLIF: An optimized spiking neuron unit, arXiv:2302.09238, 2023"
    limits: ClassVar = {"tau": (1.0, math.inf), "k": POSITIVE}
    tau: Tensor
    k: Tensor

    def __init__(
        self,
        *,
        k: Number | None = None,
        scale_reset: bool = False,
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
        self.numbers(k=nn.Parameter(torch.tensor(1.0)) if k is None else k, tau=tau)
        declare_voltage(self, v_threshold, v_reset)
        self.scale_reset, self.decay_input = scale_reset, decay_input
        self._declare_leak(v_leak)

    def dynamics(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.k * self.charge(x, v))
        spike = self.fire(h - self.v_threshold)
        if not self.scale_reset:
            return spike, self.reset_voltage(h, spike)
        back = spike.detach() if self.detach_reset else spike
        if self.reset == "soft":
            return spike, h / self.k - back * (self.v_threshold / self.k)
        return spike, self.reset_voltage(h / self.k, spike)


class CLIF(Neuron):
    """LIF with a complementary state m, through which gradients last longer: ``h = (1 - 1/tau) v + x``, fire,
    ``m = m sigmoid(h / tau) + s``, ``v = h - s (v_threshold + sigmoid(m))``.

    Args:
        tau: membrane time constant in steps, at least 1.
        v_threshold: see :class:`IF`.
        detach_reset, strict, surrogate: see :class:`Neuron`. The reset is always soft.

    Input and output are ``[T, B, *]``; the states ``v`` and ``m`` rest at 0. It has no numbers beyond the LIF's.

    >>> import torch
    >>> import spikeloom as sl
    >>> y, state = sl.CLIF(tau=2.0).sequence(torch.tensor([[1.0], [0.0]]))
    >>> y.flatten(), round(state["v"].item(), 4)
    (tensor([1., 0.]), -0.3655)
    """

    paper = "Huang et al., CLIF: Complementary Leaky Integrate-and-Fire Neuron, ICML 2024"
    limits: ClassVar = {"tau": (1.0, math.inf)}
    tau: Tensor

    def __init__(
        self,
        *,
        tau: Number = 2.0,
        v_threshold: Number = 1.0,
        detach_reset: bool = False,
        strict: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(reset="soft", detach_reset=detach_reset, strict=strict, surrogate=surrogate)
        self.numbers(tau=tau, v_threshold=v_threshold)
        self.states(v=0.0, m=0.0)

    def dynamics(self, x: Tensor, v: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = v - v / self.tau + x
        spike = self.fire(h - self.v_threshold)
        m = m * torch.sigmoid(h / self.tau) + spike
        back = spike.detach() if self.detach_reset else spike
        return spike, h - back * (self.v_threshold + torch.sigmoid(m)), m


class DeltaLeaky(Neuron):
    """Leaky membrane that fires when it moves: ``h = beta v + x; s = [|h - v| >= v_threshold]; v = h``.

    It has no reset.

    Args:
        beta: decay per step, from 0 to 1.
        v_threshold: the least movement that counts.
        strict, surrogate: see :class:`Neuron`.

    Input and output are ``[T, B, *]``; the state ``v`` rests at 0. snnTorch's ``DeltaLeaky`` fires above the threshold
    only: that is ``strict=True`` here.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.DeltaLeaky(beta=1.0, v_threshold=0.5).sequence(torch.tensor([[0.6], [0.1], [-0.7], [0.0]]))[0].flatten()
    tensor([1., 0., 1., 0.])
    """

    paper = "Eshraghian et al., Training Spiking Neural Networks Using Lessons From Deep Learning, Proc. IEEE 2023"
    limits: ClassVar = {"beta": (0.0, 1.0), "v_threshold": POSITIVE}
    beta: Tensor

    def __init__(
        self, *, beta: Number, v_threshold: Number = 1.0, strict: bool = False, surrogate: Surrogate | None = None
    ) -> None:
        super().__init__(reset="none", strict=strict, surrogate=surrogate)
        self.numbers(beta=beta, v_threshold=v_threshold)
        self.states(v=0.0)

    def dynamics(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        h = self.beta * v + x
        return self.fire((h - v).abs() - self.v_threshold), h


class Lapicque(Neuron):
    """Lapicque's circuit, by forward Euler: ``h = (1 - dt / (r c)) v + x dt / c``, then fire and reset.

    Args:
        r, c: resistance and capacitance of the membrane; ``r c`` is its time constant in the unit of ``dt``.
        dt: step; at most ``r c``, or the decay would change its sign.
        v_threshold, v_reset: see :class:`IF`.
        reset, detach_reset, strict, surrogate: see :class:`Neuron`.

    Input (a current) and output are ``[T, B, *]``; the state ``v`` rests at ``v_reset``. snnTorch's ``Lapicque(beta)``
    is ``r=1, c=-1/ln(beta)``, whose decay is ``1 + ln(beta)``; its resets come a step later, see :class:`Leaky`.

    >>> import torch
    >>> import spikeloom as sl
    >>> y, state = sl.Lapicque(r=2.0, c=2.0, dt=1.0).sequence(torch.full((3, 1), 1.0))
    >>> y.flatten(), state["v"].item()
    (tensor([0., 0., 1.]), 0.0)
    """

    paper = "Lapicque, Journal de Physiologie et de Pathologie Generale 9, 1907"
    limits: ClassVar = {"r": POSITIVE, "c": POSITIVE, "dt": POSITIVE}
    r: Tensor
    c: Tensor
    dt: Tensor

    def __init__(
        self,
        *,
        r: Number = 1.0,
        c: Number = 5.0,
        dt: Number = 1.0,
        v_threshold: Number = 1.0,
        v_reset: Number = 0.0,
        reset: Reset = "hard",
        detach_reset: bool = False,
        strict: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        if all(isinstance(n, (int, float)) for n in (r, c, dt)) and dt > r * c:
            raise ValueError(f"Lapicque: dt must be at most r c = {r * c:g}, got {dt:g}; take smaller steps")
        super().__init__(reset=reset, detach_reset=detach_reset, strict=strict, surrogate=surrogate)
        self.numbers(r=r, c=c, dt=dt)
        declare_voltage(self, v_threshold, v_reset)
        self.states(v="v_reset")

    def dynamics(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        h = v - v * (self.dt / (self.r * self.c)) + x * (self.dt / self.c)
        spike = self.fire(h - self.v_threshold)
        return spike, self.reset_voltage(h, spike)
