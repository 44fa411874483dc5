"""Neurons that come from an activation of an ordinary network: ActivationAwareIF, SigmaDelta, FewSpike.

    ActivationAwareIF: h = v + x;  s = [h + v_offset >= v_threshold];  v = h - s v_threshold
    SigmaDelta:        sigma = sigma + x;  e = f(sigma) - sent;  s = e [|e| >= v_threshold];  sent = sent + s
    FewSpike:          v = x;  for k = 1 ... K:  z = [v >= theta_k],  y = y + d_k z,  v = v - h_k z

Stoeckl and Maass, Optimized spiking neurons can classify images with high accuracy through temporal coding with two
spikes, Nature Machine Intelligence 3, 2021 (FewSpike); O'Connor and Welling, Sigma delta quantized networks, ICLR 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from .._numbers import POSITIVE, Number
from ..surrogate import Sigmoid, Surrogate
from .base import Neuron, Reset
from .lif import declare_voltage


class ActivationAwareIF(Neuron):
    """IF that fires early by an offset: ``h = v + x; s = [h + v_offset >= v_threshold]; v = h - s v_threshold``.

    Args:
        v_threshold, v_offset: floats, tensors or parameters; mostly one per channel, from activations of the network
            that was converted.
        v_reset, reset, detach_reset, strict, surrogate: see :class:`IF`. The default reset is soft.

    Input and output are ``[T, B, *]``; the state ``v`` rests at ``v_reset``. SpikingJelly calls it
    ``ActivationAwareIFNode``; its ``channel_dim`` is dimension 1 of the step here.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.ActivationAwareIF(v_offset=0.5).sequence(torch.full((4, 1), 0.25))[0].flatten()
    tensor([0., 1., 0., 0.])
    """

    limits: ClassVar = {"v_threshold": POSITIVE}
    v_offset: Tensor

    def __init__(
        self,
        *,
        v_threshold: Number = 1.0,
        v_offset: Number = 0.0,
        v_reset: Number = 0.0,
        reset: Reset = "soft",
        detach_reset: bool = False,
        strict: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(reset=reset, detach_reset=detach_reset, strict=strict, surrogate=surrogate)
        self.numbers(v_offset=v_offset)
        declare_voltage(self, v_threshold, v_reset)
        self.states(v="v_reset")

    def dynamics(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        h = v + x
        spike = self.fire(h + self.v_offset - self.v_threshold)
        return spike, self.reset_voltage(h, spike)


def _identity(x: Tensor) -> Tensor:
    return x


class SigmaDelta(Neuron):
    """Sends changes: adds its inputs up to ``sigma``, and sends ``e = f(sigma) - sent`` where it is large enough:
    ``s = e [|e| >= v_threshold]; sent = sent + s``.

    Args:
        v_threshold: the least change that is sent; 0 sends all, and the outputs add up to ``f`` exactly.
        activation: f, a function of a tensor as ``torch.relu``; None is the identity.

    The gradient passes the threshold straight through, so that the sum of the outputs has the gradient of ``f``. Input
    and output are ``[T, B, *]``; the states ``sigma`` and ``sent`` rest at 0. A network of such neurons behind linear
    layers without bias computes on changes what the network with the activation f computes on values.

    >>> import torch
    >>> import spikeloom as sl
    >>> x = torch.tensor([[1.0], [0.1], [0.3], [-2.0], [0.0]])
    >>> sl.SigmaDelta(v_threshold=0.3, activation=torch.relu).sequence(x)[0].flatten()
    tensor([ 1.0000,  0.0000,  0.4000, -1.4000,  0.0000])
    """

    paper = "O'Connor and Welling, Sigma Delta Quantized Networks, ICLR 2017"
    is_binary = False
    limits: ClassVar = {"v_threshold": (0.0, math.inf)}

    def __init__(self, *, v_threshold: Number = 0.1, activation: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__(reset="none")
        self.numbers(v_threshold=v_threshold)
        self.activation = _identity if activation is None else activation
        self.states(sigma=0.0, sent=0.0)

    def dynamics(self, x: Tensor, sigma: Tensor, sent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sigma = sigma + x
        e = self.activation(sigma) - sent
        large = torch.where(e.abs() >= self.v_threshold, e, torch.zeros_like(e))
        s = e + (large - e).detach()
        return s, sigma, sent + s


@dataclass(frozen=True)
class FewSpikeTable:
    """What a :class:`FewSpike` neuron does at each of its K inner steps.

    Args:
        theta: thresholds; h: what a spike takes from the voltage; d: what it adds to the output. K floats each.

    >>> import spikeloom as sl
    >>> sl.FewSpikeTable.relu(3, most=8.0).theta
    (4.0, 2.0, 1.0)
    >>> sl.FewSpikeTable.line(0.0, 1.0, 10.0, 20.0, K=3).d  # 10 and the bits of the rest
    (10.0, 5.0, 2.5)
    """

    theta: tuple[float, ...]
    h: tuple[float, ...]
    d: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("theta", "h", "d"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        if not len(self.theta) == len(self.h) == len(self.d) > 0:
            raise ValueError(
                f"FewSpikeTable: theta, h and d need the same number of values, at least one; got {len(self.theta)}, "
                f"{len(self.h)} and {len(self.d)}"
            )

    @classmethod
    def line(cls, low: float, high: float, at_low: float, at_high: float, K: int) -> Self:
        """The table of the straight line from ``(low, at_low)`` to ``(high, at_high)``, in 2^(K-1) steps.

        The first inner step fires at every ``x >= low`` and gives ``at_low``, the others are the bits of the rest.
        """
        if not low < high or K < 2:
            raise ValueError(f"FewSpikeTable: expected low < high and K > 1, got {low}, {high} and K = {K}")
        bits = [(high - low) / 2**k for k in range(1, K)]
        slope = (at_high - at_low) / (high - low)
        return cls((low, *bits), (low - bits[-1] / 2, *bits), (at_low, *(slope * bit for bit in bits)))

    @classmethod
    def relu(cls, K: int, most: float) -> Self:
        """``relu`` up to ``most``, rounded down to K bits: ``theta_k = h_k = d_k = most / 2^k``."""
        bits = tuple(most / 2**k for k in range(1, K + 1))
        return cls(bits, bits, bits)


class FewSpike(Neuron):
    """An activation as K binary spikes: ``v = x``, then K times ``z = [v >= theta_k], y = y + d_k z, v = v - h_k z``.

    Args:
        tables: one :class:`FewSpikeTable`, or several of the same K for different ranges of the input.
        gates: limits between the ranges, rising, one fewer than tables: the first table is for ``x <= gates[0]``.
        signed: the tables are for ``|x|``, and the output has the sign of x.
        clamp: smallest and largest input; smaller and larger ones become these.
        learnable: the values of the tables are parameters.
        surrogate: of the K spikes; None is ``Sigmoid(4)``.

    Every step is encoded for itself: input and output are ``[T, B, *]``, and there is no state. :meth:`fit` finds
    tables for a function, :meth:`spikes` shows the spikes. SpikingJelly's ``FewSpikeNode`` has one table, its
    ``OutlierAwareThresholdNode`` is ``FewSpike(table, outlier_table, gates=(split,), signed=True, clamp=(-c, c))`` and
    its ``HGNode`` several tables.

    >>> import torch
    >>> import spikeloom as sl
    >>> neuron = sl.FewSpike(sl.FewSpikeTable.relu(4, most=8.0))
    >>> neuron.sequence(torch.tensor([[3.7, -1.0, 9.0]]))[0]
    tensor([[3.5000, 0.0000, 7.5000]])
    """

    paper = "Stoeckl and Maass, Optimized Spiking Neurons Can Classify Images, Nature Machine Intelligence 3, 2021"
    without_u = "it fires K times in a step, each time at another threshold"
    is_binary = False

    def __init__(
        self,
        *tables: FewSpikeTable,
        gates: Sequence[float] = (),
        signed: bool = False,
        clamp: tuple[float, float] | None = None,
        learnable: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__(reset="none", surrogate=Sigmoid(4.0) if surrogate is None else surrogate)
        for table in tables:
            if not isinstance(table, FewSpikeTable):
                raise TypeError(
                    f"FewSpike: a table is FewSpikeTable(theta, h, d), of K floats each, got {type(table).__name__}; "
                    "FewSpike.fit finds the tables of a function"
                )
        if not tables or len(gates) != len(tables) - 1:
            raise ValueError(f"FewSpike: needs one gate fewer than tables, got {len(gates)} and {len(tables)} tables")
        if len({len(table.theta) for table in tables}) != 1:
            raise ValueError(f"FewSpike: tables need the same K, got {[len(table.theta) for table in tables]}")
        if list(gates) != sorted(gates):
            raise ValueError(f"FewSpike: gates must rise, got {list(gates)}")
        if clamp is not None and not clamp[0] < clamp[1]:
            raise ValueError(f"FewSpike: clamp must be (smallest, largest), got {clamp}")
        self.K, self.gates, self.signed = len(tables[0].theta), tuple(float(g) for g in gates), signed
        self.clamp = None if clamp is None else (float(clamp[0]), float(clamp[1]))
        for i, table in enumerate(tables):
            for name in ("theta", "h", "d"):
                for k, value in enumerate(getattr(table, name)):
                    self.numbers(**{f"{name}{i}_{k}": nn.Parameter(torch.tensor(value)) if learnable else value})

    @classmethod
    def fit(
        cls, function: Callable[[Tensor], Tensor], low: float, high: float, *, K: int = 8, tables: int = 8
    ) -> FewSpike:
        """The neuron whose tables are straight lines of K spikes between ``tables + 1`` points of a function.

        The error is at most ``w^2 max|f''| / 8`` for the lines, of the width ``w = (high - low) / tables``, and half of
        ``w max|f'| / 2^(K-1)`` for the bits. Inputs beyond low and high become these.

        >>> import torch
        >>> import spikeloom as sl
        >>> x = torch.linspace(-6, 6, 1001)
        >>> neuron = sl.FewSpike.fit(torch.sigmoid, -6.0, 6.0, K=9, tables=16)
        >>> float((neuron.sequence(x.unsqueeze(0))[0][0] - torch.sigmoid(x)).abs().max()) < 0.008
        True
        """
        if tables < 1:
            raise ValueError(f"FewSpike: tables must be at least 1, got {tables}")
        points = [low + (high - low) * i / tables for i in range(tables + 1)]
        values = function(torch.tensor(points, dtype=torch.float64)).tolist()
        ranges = zip(points[:-1], points[1:], values[:-1], values[1:], strict=True)
        found = [FewSpikeTable.line(a, b, at_a, at_b, K) for a, b, at_a, at_b in ranges]
        return cls(*found, gates=points[1:-1], clamp=(low, high))

    def dynamics(self, x: Tensor) -> Tensor:
        return self._run(x)[0]

    def spikes(self, x: Tensor) -> Tensor:
        """The spikes ``[K, *]`` of an input ``[B, *]``."""
        return torch.stack(self._run(x)[1])

    def _run(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        v = x if self.clamp is None else _clamped(x, *self.clamp)
        sign = torch.sign(v).detach()
        v = v.abs() if self.signed else v
        gated, y, spikes = v, torch.zeros_like(v), []
        for k in range(self.K):
            z = self.fire(v - self._value("theta", k, gated))
            y = y + z * self._value("d", k, gated)
            v = v - z * self._value("h", k, gated)
            spikes.append(z)
        return y * sign if self.signed else y, spikes

    def _value(self, name: str, k: int, gated: Tensor) -> Tensor:
        """``theta_k``, ``h_k`` or ``d_k`` of the table for each input."""
        found: Tensor = getattr(self, f"{name}0_{k}")
        if self.gates:  # of the input's dtype: a choice between two numbers would be float64, as they are
            found = found + torch.zeros_like(gated)
        for i, gate in enumerate(self.gates):
            found = torch.where(gated > gate, getattr(self, f"{name}{i + 1}_{k}"), found)
        return found

    def extra_repr(self) -> str:
        options = {"signed": self.signed or None, "clamp": self.clamp, "gates": self.gates or None}
        shown = "".join(f", {name}={value}" for name, value in options.items() if value is not None)
        return f"K={self.K}, tables={len(self.gates) + 1}{shown}, surrogate={self.surrogate!r}"


def _clamped(x: Tensor, low: float, high: float) -> Tensor:
    """``clamp(x, low, high)``, whose gradient is 1 at the bounds; torch's own depends on the release."""
    return torch.where((x >= low) & (x <= high), x, x.detach().clamp(low, high))
