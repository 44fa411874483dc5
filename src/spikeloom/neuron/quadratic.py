"""Neurons whose voltage has a quadratic term: QIF, and Izhikevich's with a recovery variable.

    QIF:         h = v + (x + a (v - v_leak) (v - v_c)) / tau
    Izhikevich:  h = v + dt (c2 v^2 + c1 v + c0 - u + x)
                 u = u + dt a (b h - u)
    s = 1 where h >= v_threshold
    v = reset(h, s);  Izhikevich: u = u + d s

Gerstner et al., Neuronal Dynamics, 2014, section 5.3; Izhikevich, Simple model of spiking neurons, IEEE Transactions on
Neural Networks 2003.
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from .._numbers import POSITIVE, Number
from ..surrogate import Surrogate
from .base import Neuron, Reset
from .lif import declare_voltage


class QIF(Neuron):
    """Quadratic integrate-and-fire: ``h = v + (x + a (v - v_leak) (v - v_c)) / tau``, then fire and reset.

    Args:
        tau: membrane time constant in steps, at least 1.
        a: strength of the quadratic term.
        v_c: critical voltage: above it the neuron fires without any input, below it v falls back to ``v_leak``.
        v_threshold, v_reset: see :class:`IF`.
        reset, detach_reset, strict, surrogate: see :class:`Neuron`.

    Numbers are floats, tensors or parameters. Input and output are ``[T, B, *]``; the state ``v`` rests at ``v_leak``.
    SpikingJelly's ``QIFNode`` is the same and begins at ``v_reset``.

    >>> import torch
    >>> import spikeloom as sl
    >>> y, _, recorded = sl.QIF().sequence(torch.tensor([[1.0], [1.0], [1.0]]), record=("v",))
    >>> recorded["v"].flatten()
    tensor([ 0.5000,  0.9250, -0.1000])
    """

    paper = "Gerstner, Kistler, Naud and Paninski, Neuronal Dynamics, 2014, section 5.3"
    limits: ClassVar = {"tau": (1.0, math.inf)}
    tau: Tensor
    a: Tensor
    v_c: Tensor
    v_leak: Tensor

    def __init__(
        self,
        *,
        tau: Number = 2.0,
        a: Number = 1.0,
        v_c: Number = 0.8,
        v_leak: Number = 0.0,
        v_threshold: Number = 1.0,
        v_reset: Number | None = None,
        reset: Reset = "hard",
        detach_reset: bool = False,
        strict: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(reset=reset, detach_reset=detach_reset, strict=strict, surrogate=surrogate)
        self.numbers(tau=tau, a=a, v_c=v_c, v_leak=v_leak)
        declare_voltage(self, v_threshold, (-0.1 if reset == "hard" else 0.0) if v_reset is None else v_reset)
        self.states(v="v_leak")

    def dynamics(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        h = v + (x + self.a * (v - self.v_leak) * (v - self.v_c)) / self.tau
        spike = self.fire(h - self.v_threshold)
        return spike, self.reset_voltage(h, spike)


class Izhikevich(Neuron):
    """Izhikevich's neuron: ``h = v + dt (c2 v^2 + c1 v + c0 - u + x); u = u + dt a (b h - u)``, then fire, reset, and
    ``u = u + d s``.

    Args:
        a, b: rate and sensitivity of the recovery u.
        d: what a spike adds to u.
        dt: step in the unit of time of the equation (ms with the default constants).
        c2, c1, c0: the quadratic; the defaults are the paper's, for voltages in mV.
        v_threshold, v_reset: peak, 30 mV, and the paper's ``c``, -65 mV.
        reset, detach_reset, strict, surrogate: see :class:`Neuron`. To train, give a surrogate as wide as the
            voltages: the default's width is one unit, here one mV.

    Input and output are ``[T, B, *]``; the states are ``v``, ``v_reset`` at rest, and ``u``, ``b v_reset`` at rest.

    The paper's patterns are, by (a, b, v_reset, d): regular spiking (0.02, 0.2, -65, 8), intrinsically bursting (0.02,
    0.2, -55, 4), chattering (0.02, 0.2, -50, 2), fast spiking (0.1, 0.2, -65, 2), low-threshold spiking (0.02, 0.25,
    -65, 2).

    SpikingJelly's ``IzhikevichNode`` is this with ``dt = 1/tau, c2 = a0, c1 = -a0 (v_c + v_rest)``,
    ``c0 = (a0 v_c + a) v_rest``, ``a = tau / tau_w``, its a as ``b``, its b as ``d``, and its defaults
    ``v_threshold = 1`` and ``v_reset = 0``; its w is ``u - a v_rest``, so that ``u_rest = a v_rest``.

    >>> import torch
    >>> import spikeloom as sl
    >>> y, _ = sl.Izhikevich().sequence(torch.full((1000, 1), 10.0))  # 500 ms
    >>> int(y.sum())
    11
    """

    paper = "Izhikevich, Simple Model of Spiking Neurons, IEEE Transactions on Neural Networks 14, 2003"
    limits: ClassVar = {"dt": POSITIVE}
    a: Tensor
    b: Tensor
    d: Tensor
    dt: Tensor
    c2: Tensor
    c1: Tensor
    c0: Tensor

    def __init__(
        self,
        *,
        a: Number = 0.02,
        b: Number = 0.2,
        d: Number = 8.0,
        dt: Number = 0.5,
        c2: Number = 0.04,
        c1: Number = 5.0,
        c0: Number = 140.0,
        v_threshold: Number = 30.0,
        v_reset: Number = -65.0,
        u_rest: Number | None = None,
        reset: Reset = "hard",
        detach_reset: bool = False,
        strict: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(reset=reset, detach_reset=detach_reset, strict=strict, surrogate=surrogate)
        self.numbers(a=a, b=b, d=d, dt=dt, c2=c2, c1=c1, c0=c0)
        declare_voltage(self, v_threshold, v_reset)
        self.states(v="v_reset", u=b * v_reset if u_rest is None else u_rest)

    def dynamics(self, x: Tensor, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = v + self.dt * ((self.c2 * v + self.c1) * v + self.c0 - u + x)
        u = u + self.dt * self.a * (self.b * h - u)
        spike = self.fire(h - self.v_threshold)
        return spike, self.reset_voltage(h, spike), u + self.d * spike
