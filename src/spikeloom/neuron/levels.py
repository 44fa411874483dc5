"""Neurons whose output has more than two levels: ILIF counts, TernaryLIF and STBIF have a sign, LIAF is analog.

    ILIF:        h = (1 - 1/tau) v + x
                 s = round(clamp(h / v_threshold, 0, levels)),  v = h - s v_threshold
    TernaryLIF:  h = LIF's
                 s = [h >= v_threshold] - [h <= -v_threshold]
                 v = h - s v_threshold (soft), (1 - |s|) h + |s| v_reset (hard)
    STBIF:       q = q + x / v_threshold
                 s = [q >= 1 and n < most] - [q < 0 and n > least],  q = q - s,  n = n + s;  output s v_threshold
    LIAF:        LIF's voltage and reset; output f(h - v_threshold)

Luo et al., Integer-valued training and spike-driven inference spiking neural network, ECCV 2024; Guo et al., Ternary
Spike, AAAI 2024; You et al., SpikeZIP-TF, ICML 2024; Wu et al., LIAF-Net, IEEE TNNLS 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from .._numbers import POSITIVE, Number
from ..surrogate import Surrogate
from .base import Neuron, Reset
from .lif import LeakyVoltage, declare_voltage


class ILIF(Neuron):
    """LIF that fires whole numbers from 0 to ``levels``: ``h = (1 - 1/tau) v + x; s = round(clamp(h / v_threshold, 0,
    levels)); v = h - s v_threshold``.

    Args:
        tau: membrane time constant in steps, at least 1. The default decays by 1/4.
        levels: the most that one step gives.
        v_threshold: what one unit of the output is worth.

    Halves are rounded to even numbers. Backward, ``ds/dh`` is ``1 / v_threshold`` where h is from 0 to ``levels
    v_threshold``, else 0. Input and output are ``[T, B, *]``; the state ``v`` rests at 0. :meth:`binary` gives the same
    as ``levels`` binary steps for each.

    >>> import torch
    >>> import spikeloom as sl
    >>> counts, _ = sl.ILIF(tau=4 / 3).sequence(torch.tensor([[3.2], [0.4], [5.8]]))
    >>> counts.flatten()
    tensor([3., 0., 4.])
    """

    paper = "Luo et al., Integer-Valued Training and Spike-Driven Inference SNN, ECCV 2024"
    is_binary = False
    limits: ClassVar = {"tau": (1.0, math.inf), "v_threshold": POSITIVE}
    tau: Tensor

    def __init__(self, *, tau: Number = 4 / 3, levels: int = 4, v_threshold: Number = 1.0) -> None:
        super().__init__(reset="soft")
        if levels < 1:
            raise ValueError(f"ILIF: levels must be at least 1, got {levels}")
        self.numbers(tau=tau, v_threshold=v_threshold)
        self.levels = levels
        self.states(v=0.0)

    def dynamics(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        h = v - v / self.tau + x
        level, most = h / self.v_threshold, float(self.levels)
        within = (level >= 0) & (level <= most)  # torch's own gradient of clamp at its bounds depends on the release
        level = torch.where(within, level, level.detach().clamp(0.0, most))
        count = level + (torch.round(level) - level).detach()
        return count, h - count * self.v_threshold

    def binary(self, counts: Tensor) -> Tensor:
        """Counts ``[T, B, *]`` as spikes ``[T levels, B, *]``: of the ``levels`` slots of a step the first ones fire.

        >>> import torch
        >>> import spikeloom as sl
        >>> sl.ILIF(levels=3).binary(torch.tensor([[2.0], [0.0]])).flatten()
        tensor([1., 1., 0., 0., 0., 0.])
        """
        slots = torch.arange(self.levels, device=counts.device).reshape(-1, *(1,) * (counts.ndim - 1))
        return (slots < counts.unsqueeze(1).long()).to(counts.dtype).flatten(0, 1)


class _Signed(LeakyVoltage):
    """What ternary neurons share: two thresholds and a reset by the sign."""

    which_u = 0  # of the upper threshold: h = u + v_threshold, as elsewhere

    def signed(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """The output, which is -1, 0 or 1, and the voltage after the reset."""
        up, down = self.fire(h - self.v_threshold), self.fire(-h - self.v_threshold)
        spike = up - down
        if self.reset == "none":
            return spike, h
        if self.detach_reset:
            up, down = up.detach(), down.detach()
        if self.reset == "soft":
            return spike, h - (up - down) * self.v_threshold
        fired = up + down
        return spike, (1 - fired) * h + fired * self.v_reset


class TernaryIF(_Signed):
    """Integrate-and-fire with a sign: ``h = v + x; s = [h >= v_threshold] - [h <= -v_threshold]``, then reset.

    Args:
        v_threshold: positive; the negative threshold is its mirror image.
        v_reset, reset, detach_reset, strict, surrogate: see :class:`IF`. The default reset is soft.

    Input and output are ``[T, B, *]``; the state ``v`` rests at ``v_reset``.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.TernaryIF().sequence(torch.tensor([[0.75], [0.75], [-1.75], [-0.75]]))[0].flatten()
    tensor([ 0.,  1., -1., -1.])
    """

    paper = "Guo et al., Ternary Spike: Learning Ternary Spikes for SNNs, AAAI 2024"
    is_binary = False
    limits: ClassVar = {"v_threshold": POSITIVE}

    def __init__(
        self,
        *,
        v_threshold: Number = 1.0,
        v_reset: Number = 0.0,
        reset: Reset = "soft",
        detach_reset: bool = False,
        strict: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(reset=reset, detach_reset=detach_reset, strict=strict, surrogate=surrogate)
        declare_voltage(self, v_threshold, v_reset)
        self.states(v="v_reset")

    def dynamics(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.signed(v + x)


class TernaryLIF(_Signed):
    """:class:`TernaryIF` with the leak of :class:`LIF`.

    Args:
        tau, v_leak, decay_input: see :class:`LIF`.
        others: see :class:`TernaryIF`.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.TernaryLIF(tau=2.0).sequence(torch.tensor([[2.0], [-3.0], [0.5]]))[0].flatten()
    tensor([ 1., -1.,  0.])
    """

    paper = "Guo et al., Ternary Spike: Learning Ternary Spikes for SNNs, AAAI 2024"
    is_binary = False
    limits: ClassVar = {"tau": (1.0, math.inf), "v_threshold": POSITIVE}
    tau: Tensor

    def __init__(
        self,
        *,
        tau: Number = 2.0,
        v_threshold: Number = 1.0,
        v_reset: Number = 0.0,
        v_leak: Number | None = None,
        decay_input: bool = True,
        reset: Reset = "soft",
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
        return self.signed(self.charge(x, v))


class STBIF(Neuron):
    """Bipolar integrate-and-fire with a count: ``q = q + x / v_threshold``, fires 1 or -1 times ``v_threshold``.

    Its outputs add up to ``v_threshold clamp(floor(sum x / v_threshold + 1/2), least, most)``, what a quantised ReLU of
    the sum gives. It is for converted networks: it has no gradient.

    Args:
        v_threshold: the step of the quantisation.
        most, least: bounds of the count n of positive minus negative spikes.

    Input and output are ``[T, B, *]``; the states are ``q``, 1/2 at rest, and ``n``, 0 at rest. SpikingJelly calls it
    ``STBIFNeuron``.

    >>> import torch
    >>> import spikeloom as sl
    >>> x = torch.zeros(8, 1)
    >>> x[0], x[3] = 1.4, -0.8
    >>> sl.STBIF(v_threshold=0.5, most=7).sequence(x)[0].flatten()
    tensor([ 0.5000,  0.5000,  0.5000, -0.5000, -0.5000,  0.0000,  0.0000,  0.0000])
    """

    paper = "You et al., SpikeZIP-TF: Conversion is All You Need for Transformer-based SNN, ICML 2024"
    is_binary = False
    limits: ClassVar = {"v_threshold": POSITIVE}

    def __init__(self, *, v_threshold: Number = 1.0, most: int = 15, least: int = 0) -> None:
        super().__init__(reset="none")
        if not least <= 0 <= most:
            raise ValueError(f"STBIF: least must be at most 0 and most at least 0, got {least} and {most}")
        self.numbers(v_threshold=v_threshold)
        self.most, self.least = most, least
        self.states(q=0.5, n=0.0)

    def dynamics(self, x: Tensor, q: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = q + x / self.v_threshold
        up = ((q >= 1) & (n < self.most)).to(q.dtype)
        down = ((q < 0) & (n > self.least)).to(q.dtype)
        spike = up - down
        return spike * self.v_threshold, q - spike, n + spike


class LIAF(LeakyVoltage):
    """Leaky integrate and analog fire: a LIF, resets included, with the output ``y = f(h - v_threshold)`` for spikes.

    Args:
        activation: a function of a tensor, as ``torch.relu``; kernels are generated from it.
        threshold_related: output ``f(h - v_threshold)``; False: ``f(h)``.
        tau, v_threshold, v_reset, v_leak, decay_input, reset, detach_reset, strict, surrogate: see :class:`LIF`.

    Input and output are ``[T, B, *]``; the state is ``v``.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.LIAF(tau=2.0).sequence(torch.tensor([[1.0], [3.0], [1.0]]))[0].flatten()
    tensor([0.0000, 0.7500, 0.0000])
    """

    paper = "Wu et al., LIAF-Net: Leaky Integrate and Analog Fire Network, IEEE TNNLS 2021"
    is_binary = False
    limits: ClassVar = {"tau": (1.0, math.inf)}
    tau: Tensor

    def __init__(
        self,
        *,
        activation: Callable[[Tensor], Tensor] = torch.relu,
        threshold_related: bool = True,
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
        self.activation, self.threshold_related, self.decay_input = activation, threshold_related, decay_input
        self._declare_leak(v_leak)

    def dynamics(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        h = self.charge(x, v)
        above = h - self.v_threshold
        output = self.activation(above if self.threshold_related else h)
        return output, self.reset_voltage(h, self.fire(above))
