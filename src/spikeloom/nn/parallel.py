"""Neurons without a reset whose steps are computed at once, from weights over time: PSN, MaskedPSN, SlidingPSN.

    PSN:         h[t] = sum_k w[t, k] x[k] + b[t]
    MaskedPSN:   the same with w[t, k] multiplied by 1 where t - order < k <= t and by 1 - lam elsewhere
    SlidingPSN:  h[t] = sum_i w[i] x[t - order + 1 + i] + b
    s = 1 where h >= 0

Fang et al., Parallel Spiking Neurons with High Efficiency and Ability to Learn Long-term Dependencies, NeurIPS 2023.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .._time import trailing
from ..core import State, TemporalModule
from ..kernel import output_dtype
from ..surrogate import ATan, Surrogate


class PSN(TemporalModule):
    """Parallel spiking neuron: ``h = W x + b`` over time, ``s = [h >= 0]``. W is ``[T, T]`` and sees the future: the
    neuron is not causal, so streams and split runs raise.

    Args:
        T: number of steps of every sequence.
        surrogate: see :class:`spikeloom.Neuron`; None is ``ATan(2)``.

    ``weight`` begins as in ``nn.Linear(T, T)``, ``bias`` at -1 (a threshold of 1). Input and output are ``[T, B, *]``.
    The neuron raises ValueError for another T, with lengths or with a state.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.Network(sl.nn.PSN(4))(torch.rand(4, 2, 3)).shape
    torch.Size([4, 2, 3])
    """

    paper = "Fang et al., Parallel Spiking Neurons with High Efficiency, NeurIPS 2023"
    causal = False
    recordable_by_name = ("u",)  # h: the threshold is 0

    def __init__(self, T: int, *, surrogate: Surrogate | None = None) -> None:
        super().__init__()
        if T < 1:
            raise ValueError(f"{type(self).__name__}: T must be at least 1, got {T}")
        self.T = T
        self.surrogate = ATan() if surrogate is None else surrogate
        self.weight = nn.Parameter(torch.empty(T, T))
        self.bias = nn.Parameter(torch.full((T,), -1.0))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def weights(self) -> Tensor:
        """The weight, ``[T, T]``, with which step t (row) takes the input of step k (column)."""
        return self.weight

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, *]``: ``(spikes, None)``."""
        x = xs[0]
        self.check_record(record)
        if state is not None:
            raise ValueError(f"{type(self).__name__}: sees the whole sequence at once, and takes no state")
        if lengths is not None:
            raise ValueError(f"{type(self).__name__}: its weights are those of {self.T} steps; lengths cannot be used")
        if x.shape[0] != self.T:
            raise ValueError(f"{type(self).__name__}: was made for T = {self.T}, got a sequence of {x.shape[0]} steps")
        h = torch.addmm(self.bias.unsqueeze(1), self.weights(), x.flatten(1)).view(x.shape)
        y = self.surrogate(h).to(output_dtype(x.dtype))
        return (y, None, {"u": h}) if record else (y, None)

    def extra_repr(self) -> str:
        return f"T={self.T}"


class MaskedPSN(PSN):
    """:class:`PSN` whose weights outside a band of ``order`` steps fade: they are multiplied by ``1 - lam``.

    Args:
        T, surrogate: see :class:`PSN`.
        order: number of steps, the present one included, that a step sees when ``lam`` is 1.
        lam: from 0 (a PSN) to 1 (causal); raise it during training, ``neuron.lam = epoch / epochs``.

    ``causal`` is true at ``lam = 1``, and only then. The neuron then takes sequences of up to T steps, in parts, step
    by step and with lengths. Its states are ``seen``, the last ``order - 1`` inputs ``[B, order - 1, *]``, zeros at
    rest, and ``step``, ``[B]``: how many steps each sample has seen. Beyond step T it raises ValueError. Below
    ``lam = 1`` there is no state.

    Checkpoints hold ``lam``. It is loaded where both neurons were constructed with the same one; loading raises where
    they were not.

    >>> import torch
    >>> import spikeloom as sl
    >>> neuron = sl.nn.MaskedPSN(6, order=2, lam=1.0)
    >>> x = torch.rand(6, 1, 3)
    >>> first, state = neuron.sequence(x[:4])
    >>> torch.equal(torch.cat([first, neuron.sequence(x[4:], state=state)[0]]), neuron.sequence(x)[0])
    True
    """

    band: Tensor

    def __init__(self, T: int, *, order: int, lam: float = 0.0, surrogate: Surrogate | None = None) -> None:
        super().__init__(T, surrogate=surrogate)
        if not 1 <= order <= T:
            raise ValueError(f"MaskedPSN: order must be from 1 to T = {T}, got {order}")
        self.order, self.lam = order, lam
        self.adjustable(lam=self.lam)
        t = torch.arange(T)
        distance = t.unsqueeze(1) - t
        self.register_buffer("band", ((distance >= 0) & (distance < order)).float(), persistent=False)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "lam":
            if not 0 <= value <= 1:
                raise ValueError(f"MaskedPSN: lam must be from 0 to 1, got {value}")
            value = float(value)
        super().__setattr__(name, value)

    @property
    def causal(self) -> bool:  # type: ignore[override]
        """Whether no step sees a later one."""
        return self.lam == 1.0

    def weights(self) -> Tensor:
        """The masked weights, ``[T, T]``."""
        return self.weight * (self.lam * self.band + (1 - self.lam))

    def initial_state(self, *x_t: Any) -> State:
        """The state before the first step: ``order - 1`` inputs of zero, and step 0; None below ``lam = 1``."""
        if not self.causal:
            return None
        x = x_t[0]
        return {"seen": _no_inputs(x, self.order), "step": torch.zeros(x.shape[0], dtype=torch.long, device=x.device)}

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, *]``: ``(spikes, state)``."""
        if not self.causal:
            return super().sequence(*xs, state=state, lengths=lengths, record=record)
        if lengths is not None:
            return TemporalModule.sequence(self, *xs, state=state, lengths=lengths, record=record)
        self.check_record(record)
        x = xs[0]
        start = self.initial_state(x[0]) if state is None else state
        T, begin = x.shape[0], start["step"]
        last = T if state is None else T + int(begin.max())
        if last > self.T:
            raise ValueError(f"MaskedPSN: has weights for T = {self.T} steps, this sequence goes to step {last}")
        at = begin[: None if state is not None else 1] + torch.arange(T, device=x.device).unsqueeze(1)  # [T, B or 1]
        seen = torch.cat([start["seen"].transpose(0, 1), x])
        h = trailing(self.bias.to(x.dtype)[at], x.ndim)
        for i in range(self.order):
            ago = self.order - 1 - i
            weight = self.weight.diagonal(-ago).to(x.dtype)[(at - ago).clamp(min=0)]  # inputs before step 0 are zeros
            h = h + trailing(weight, x.ndim) * seen[i : i + T]
        state = {"seen": _last(seen, self.order), "step": begin + T}
        return (self.surrogate(h), state, {"u": h}) if record else (self.surrogate(h), state)

    def step(self, *x_t: Any, state: State = None) -> tuple[Any, State]:
        """One step of ``[B, *]``, at ``lam = 1``."""
        y, new = self.sequence(x_t[0].unsqueeze(0), state=state)
        return y[0], new

    def extra_repr(self) -> str:
        return f"T={self.T}, order={self.order}, lam={self.lam:g}"


class SlidingPSN(TemporalModule):
    """Sliding PSN: ``h[t] = sum_i w[i] x[t - order + 1 + i] + b``, ``s = [h >= 0]``; the same weights at every step.

    Args:
        order: number of steps, the present one included, that a step sees.
        surrogate: see :class:`spikeloom.Neuron`; None is ``ATan(2)``.

    ``weight`` begins at ``2^-(steps ago)``, ``bias`` at -1. Input and output are ``[T, B, *]``; the state holds the
    last ``order - 1`` inputs, ``[B, order - 1, *]``, zeros at rest.

    >>> import torch
    >>> import spikeloom as sl
    >>> neuron = sl.nn.SlidingPSN(2)
    >>> neuron.sequence(torch.tensor([[0.5], [0.8], [0.2]]))[0].detach().flatten()
    tensor([0., 1., 0.])
    """

    paper = "Fang et al., Parallel Spiking Neurons with High Efficiency, NeurIPS 2023"

    recordable_by_name = ("u",)  # h: the threshold is 0

    def __init__(self, order: int, *, surrogate: Surrogate | None = None) -> None:
        super().__init__()
        if order < 1:
            raise ValueError(f"SlidingPSN: order must be at least 1, got {order}")
        self.order = order
        self.surrogate = ATan() if surrogate is None else surrogate
        self.weight = nn.Parameter(0.5 ** torch.arange(order - 1, -1, -1).float())
        self.bias = nn.Parameter(torch.tensor(-1.0))

    def initial_state(self, *x_t: Any) -> State:
        """The state before the first step: ``order - 1`` inputs of zero."""
        return _no_inputs(x_t[0], self.order)

    def step(self, *x_t: Any, state: State = None) -> tuple[Any, State]:
        """One step of ``[B, *]``."""
        y, new = self.sequence(x_t[0].unsqueeze(0), state=state)
        return y[0], new

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, *]``: ``(spikes, state)``."""
        if lengths is not None:
            return super().sequence(*xs, state=state, lengths=lengths, record=record)
        self.check_record(record)
        x = xs[0]
        T = x.shape[0]
        before = self.initial_state(x[0]) if state is None else state
        seen = torch.cat([before.transpose(0, 1), x])
        weight, h = self.weight.to(x.dtype), self.bias.to(x.dtype)
        for i in range(self.order):
            h = h + weight[i] * seen[i : i + T]
        y, state = self.surrogate(h), _last(seen, self.order)
        return (y, state, {"u": h}) if record else (y, state)

    def extra_repr(self) -> str:
        return f"order={self.order}"


def _no_inputs(x_t: Tensor, order: int) -> Tensor:
    return x_t.new_zeros(x_t.shape[0], order - 1, *x_t.shape[1:])


def _last(seen: Tensor, order: int) -> Tensor:
    """The last ``order - 1`` inputs, which later steps see, as ``[B, order - 1, *]``, from ``[steps, B, *]``."""
    return seen[seen.shape[0] - order + 1 :].transpose(0, 1)
