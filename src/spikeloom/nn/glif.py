"""GLIF: the gated LIF, which learns how it leaks, integrates and resets.

    I[t] = x[t] (1 - b (1 - g[t]))
    v[t] = (1 - a (1 - tau)) v[t-1] (1 - c s[t-1]) - (1 - a) leak + I[t] - (1 - c) v_subreset s[t-1]
    s[t] = [v[t] >= v_threshold]

with gates a, b, c from 0 to 1. Yao et al., GLIF: A Unified Gated Leaky Integrate-and-Fire Neuron for Spiking Neural
Networks, NeurIPS 2022.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .._time import check_lengths, masked
from ..core import State, TemporalModule
from ..neuron import Neuron
from ..surrogate import Sigmoid, Surrogate


class _Gated(Neuron):
    """One step of GLIF for an input that has passed its gate. All numbers are learned as logits."""

    def __init__(self, surrogate: Surrogate, **logits: nn.Parameter) -> None:
        super().__init__(surrogate=surrogate)
        self.numbers(**logits)
        self.states(v=0.0, s=0.0)

    def dynamics(self, x: Tensor, v: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alpha, gamma = torch.sigmoid(self.alpha), torch.sigmoid(self.gamma)
        kept = 1 - alpha * (1 - torch.sigmoid(self.tau))
        v = kept * v - (1 - alpha) * torch.sigmoid(self.leak) + x - kept * gamma * v * s
        v = v - (1 - gamma) * torch.sigmoid(self.v_subreset) * s
        spike = self.fire(v - torch.sigmoid(self.v_threshold))
        return spike, v, spike


class GLIF(TemporalModule):
    """Gated LIF: ``v[t] = (1 - a (1 - tau)) v[t-1] (1 - c s[t-1]) - (1 - a) leak + x[t] (1 - b (1 - g[t])) - (1 - c)
    v_subreset s[t-1]``; it fires at ``v_threshold``.

    Args:
        T: number of steps; each has a conductance g of its own.
        features: number of channels (dimension 1 of the step), each with numbers of its own; with None all share them.
        tau, v_threshold, conduct: initial values, from 0 to 1.
        leak, v_subreset: initial values, from 0 to 1; None is ``v_threshold / (2 T)`` and ``v_threshold``.
        surrogate: see :class:`spikeloom.Neuron`; None is ``Sigmoid(4)``.

    All are learned as logits, in parameters such as ``alpha``, whose logistic function is the value. The gates begin
    near 1/2, drawn from torch's generator. Input and output are ``[T, B, *]``. The states are ``v``, ``s``
    and ``step``, ``[B]``, the number of steps that each sample has seen. Beyond step T the neuron raises ValueError.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.Network(sl.nn.GLIF(4, 3))(torch.rand(4, 2, 3)).shape
    torch.Size([4, 2, 3])
    """

    paper = (
        "Yao et al., GLIF: A Unified Gated Leaky Integrate-and-Fire Neuron for Spiking Neural Networks, NeurIPS 2022"
    )
    opaque = True

    def __init__(
        self,
        T: int,
        features: int | None = None,
        *,
        tau: float = 0.25,
        v_threshold: float = 0.5,
        leak: float | None = None,
        v_subreset: float | None = None,
        conduct: float = 0.5,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__()
        if T < 1:
            raise ValueError(f"GLIF: T must be at least 1, got {T}")
        values = {
            "tau": tau,
            "v_threshold": v_threshold,
            "leak": v_threshold / (2 * T) if leak is None else leak,
            "v_subreset": v_threshold if v_subreset is None else v_subreset,
            "conduct": conduct,
        }
        for name, value in values.items():
            if not 0 < value < 1:
                raise ValueError(f"GLIF: {name} must be between 0 and 1, got {value}")
        shape = () if features is None else (features,)
        logits = {name: torch.full(shape, math.log(value / (1 - value))) for name, value in values.items()}
        gates = {name: 0.2 * (torch.rand(shape) - 0.5) for name in ("alpha", "beta", "gamma")}
        self.T = T
        self.beta = nn.Parameter(gates.pop("beta"))
        self.conduct = nn.Parameter(logits.pop("conduct").expand(T, *shape).clone())
        numbers = {name: nn.Parameter(value) for name, value in {**gates, **logits}.items()}
        self.neuron = _Gated(Sigmoid(4.0) if surrogate is None else surrogate, **numbers)
        self.recordable = self.neuron.recordable

    @property
    def recordable_by_name(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the neuron."""
        return self.neuron.recordable_by_name

    def initial_state(self, *x_t: Any) -> State:
        """The state at rest: zeros."""
        x = x_t[0]
        return {**self.neuron.initial_state(x), "step": torch.zeros(x.shape[0], dtype=torch.long, device=x.device)}

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, *]``: ``(spikes, state)``."""
        self.check_record(record)
        x = masked(xs[0], lengths)
        T, B = x.shape[:2]
        start = self.initial_state(x[0]) if state is None else state
        seen = start["step"]
        steps = torch.full_like(seen, T) if lengths is None else check_lengths(lengths, T, B, device=seen.device)
        last = T if state is None else int((seen + steps).max())
        if last > self.T:
            raise ValueError(f"GLIF: has conductances for T = {self.T} steps, this sequence goes to step {last}")
        at = (seen + torch.arange(T, device=seen.device).unsqueeze(1)).clamp(max=self.T - 1)  # [T, B]
        gate = 1 - torch.sigmoid(self.beta) * (1 - torch.sigmoid(self.conduct))
        gain = gate.to(x.dtype)[at if lengths is not None or state is not None else at[:, :1]]
        if gain.ndim == 3 and gain.shape[2] != x.shape[2]:
            raise ValueError(f"GLIF: has {gain.shape[2]} features, got a step {list(x.shape[1:])} [B, C, *]")
        gated = x * gain.reshape(*gain.shape, *(1,) * (x.ndim - gain.ndim))
        inner = {name: start[name] for name in ("v", "s")}
        y, new, *recorded = self.neuron.sequence(gated, state=inner, lengths=lengths, record=record)
        return y, {**new, "step": seen + steps}, *recorded

    def extra_repr(self) -> str:
        return f"T={self.T}"
