"""Spiking recurrent networks: gates that spike, or a membrane that does.

    SpikingRNN:   h = S(W x + U h)
    SpikingLSTM:  i, f, g, o = S(W x + U h);  c = min(f c + i g, 1);  h = o c
      membrane:   i, f, o = sigmoid(.), g = tanh(.);  c = f c + i g;  h = o tanh(c), reset;  output [h >= v_threshold]
    SpikingGRU:   r, z = S(W x + U h);  n = S(W_n x + r (U_n h));  h = (1 - z) n + z h

S is the step function with a surrogate gradient. Lotfi Rezaabad and Vishwanath, Long Short-Term Memory Spiking Networks
and Their Applications, ICONS 2020; Henkes, Eshraghian and Wessels, Spiking neural networks for nonlinear regression,
Royal Society Open Science 11, 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._time import check_lengths, masked, trailing, valid_steps
from ..core import State, TemporalModule
from ..core.call import in_order, through_steps
from ..kernel import output_dtype, state_dtype
from ..neuron.base import Reset
from ..surrogate import ATan, Erf, Surrogate

Cell = Literal["gates", "membrane"]


class _Layer(nn.Module):
    """The weights of one layer and direction."""

    def __init__(self, inputs: int, hidden: int, gates: int, bias: bool) -> None:
        super().__init__()
        self.linear_ih = nn.Linear(inputs, gates * hidden, bias=bias)
        self.linear_hh = nn.Linear(hidden, gates * hidden, bias=bias)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))

    def back(self, h: Tensor) -> Tensor:
        """``U h`` in the dtype of the state h, whichever dtype the weights have or autocast computes in."""
        product: Tensor = self.linear_hh(h.to(self.linear_hh.weight.dtype))
        return product.to(h.dtype)


class SpikingRNN(TemporalModule):
    """A recurrent network whose hidden state spikes: ``h = S(W x + U h)``.

    Args:
        input_size, hidden_size, num_layers, bias, bidirectional: as in ``nn.RNN``.
        dropout: probability between layers in training.
        same_mask: whether all steps of a sequence share one dropout mask.
        surrogate: gradient of S; None is ``Erf(2)``.

    The input is ``[T, B, input_size]``; the output is that of the last layer, ``[T, B, hidden_size]`` (or ``2
    hidden_size`` if bidirectional), in the dtype of the input. The state is a list with a tuple of tensors ``[B,
    hidden_size]`` for each layer. States are float64 for float64 input and float32 for any other, under autocast too. A
    bidirectional network is not causal: streams and split runs raise. With lengths, its backward direction begins at
    each sample's last step.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(sl.nn.SpikingRNN(3, 8, num_layers=2, bidirectional=True), torch.nn.Linear(16, 2))
    >>> net(torch.rand(6, 4, 3)).shape
    torch.Size([6, 4, 2])
    """

    paper = "Lotfi Rezaabad and Vishwanath, Long Short-Term Memory Spiking Networks and Their Applications, ICONS 2020"
    not_carried = ("dropout", "same_mask")  # they matter in training only
    gates, parts = 1, 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        same_mask: bool = False,
        bidirectional: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if value < 1:
                raise ValueError(f"{who}: {name} must be at least 1, got {value}")
        if not 0 <= dropout < 1:
            raise ValueError(f"{who}: dropout must be at least 0 and less than 1, got {dropout}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.dropout, self.same_mask, self.bidirectional = dropout, same_mask, bidirectional
        self.surrogate = Erf() if surrogate is None else surrogate
        ways = 2 if bidirectional else 1
        self.layers = nn.ModuleList(
            _Layer(input_size if i < ways else ways * hidden_size, hidden_size, self.gates, bias)
            for i in range(ways * num_layers)
        )

    @property
    def causal(self) -> bool:  # type: ignore[override]
        """Whether no step sees a later one."""
        return not self.bidirectional

    def initial_state(self, *x_t: Any) -> State:
        """Zeros."""
        zero = x_t[0].new_zeros(x_t[0].shape[0], self.hidden_size, dtype=state_dtype(x_t[0].dtype))
        return [(zero,) * self.parts for _ in self.layers]

    def cell(self, x: Tensor, layer: _Layer, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step of one layer: ``x`` is ``W x``, ``[B, gates hidden_size]``; returns output and states."""
        h = self.surrogate(x + layer.back(states[0]))
        return h, (h,)

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, input_size]``: ``(y, state)``."""
        self.check_record(record)
        x = xs[0]
        if x.ndim != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"{type(self).__name__}: expected [T, B, {self.input_size}], got {list(x.shape)}")
        x = masked(x, lengths)
        T, B = x.shape[:2]
        states = self.initial_state(x[0]) if state is None else list(state)
        going = order = None
        if lengths is not None:
            lengths = check_lengths(lengths, T, B, device=x.device)
            going = valid_steps(lengths, T)
        if self.bidirectional:
            steps = torch.arange(T, device=x.device).unsqueeze(1)
            order = (
                T - 1 - steps.expand(T, B)
                if lengths is None
                else torch.where(steps < lengths, lengths - 1 - steps, steps)
            )
        ways = 2 if self.bidirectional else 1
        for i in range(self.num_layers):
            if i > 0 and self.dropout and self.training:
                x = x * F.dropout(torch.ones_like(x[:1] if self.same_mask else x), self.dropout)
            found = []
            for way in range(ways):
                at = ways * i + way
                inputs = x if way == 0 else _reordered(x, order)
                with in_order(order if way else None):
                    y, states[at] = self._run(inputs, cast(_Layer, self.layers[at]), states[at], going)
                found.append(y if way == 0 else _reordered(y, order))
            x = found[0] if ways == 1 else torch.cat(found, 2)
        return x, states

    def _run(
        self, x: Tensor, layer: _Layer, states: tuple[Tensor, ...], going: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        product = layer.linear_ih(x).to(states[0].dtype)  # one product serves all steps
        outputs, places = [], through_steps()
        for t, x_t in enumerate(product.unbind(0)):
            if places is not None:
                places.at(t)
            y, new = self.cell(x_t, layer, states)
            if going is not None:
                here = going[t].unsqueeze(1)
                y = torch.where(here, y, 0)
                new = tuple(torch.where(here, n, old) for n, old in zip(new, states, strict=True))
            states = new
            outputs.append(y)
        if places is not None:
            places.end()
        return torch.stack(outputs).to(output_dtype(x.dtype)), states

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}" + (
            ", bidirectional=True" if self.bidirectional else ""
        )


class SpikingGRU(SpikingRNN):
    """A GRU whose gates spike: ``r, z = S(W x + U h); n = S(W_n x + r (U_n h)); h = (1 - z) n + z h``.

    Args:
        all: see :class:`SpikingRNN`.
        candidate: surrogate of n; None is ``surrogate``.

    >>> import torch
    >>> import spikeloom as sl
    >>> _ = torch.manual_seed(0)
    >>> y = sl.Network(sl.nn.SpikingGRU(3, 8))(torch.rand(6, 4, 3))
    >>> y.shape, sorted(y.unique().tolist())
    (torch.Size([6, 4, 8]), [0.0, 1.0])
    """

    gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        candidate: Surrogate | None = None,
        **options: Any,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, **options)
        self.candidate = self.surrogate if candidate is None else candidate

    def cell(self, x: Tensor, layer: _Layer, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h,) = states
        xr, xz, xn = x.chunk(3, 1)
        hr, hz, hn = layer.back(h).chunk(3, 1)
        r, z = self.surrogate(xr + hr), self.surrogate(xz + hz)
        h = (1 - z) * self.candidate(xn + r * hn) + z * h
        return h, (h,)


class SpikingLSTM(SpikingRNN):
    """An LSTM whose gates spike: ``i, f, g, o = S(W x + U h); c = min(f c + i g, 1); h = o c``.

    Args:
        all: see :class:`SpikingRNN`.
        cell: with ``"gates"`` the gates spike; with ``"membrane"`` they are those of ``nn.LSTM``, and the hidden state
            h is a membrane whose spikes ``[h >= v_threshold]`` are the output (snnTorch's ``SLSTM``).
        candidate: surrogate of g; None is ``surrogate``.
        v_threshold, reset, strict: how the membrane fires and resets. A reset comes one step after the spike:
            ``"soft"`` subtracts v_threshold from h, ``"hard"`` sets h to 0, ``"none"`` does nothing.

    The gradient passes straight through the minimum. The default surrogate of a membrane is ``ATan(2)``. The states are
    ``(h, c)`` for each layer. Unlike in snnTorch, the memory is kept when input and hidden sizes differ.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(sl.nn.SpikingLSTM(3, 8), sl.nn.SpikingLSTM(8, 5, cell="membrane", v_threshold=0.1))
    >>> net(torch.rand(6, 4, 3)).shape
    torch.Size([6, 4, 5])
    """

    gates, parts = 4, 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        cell: Cell = "gates",
        candidate: Surrogate | None = None,
        v_threshold: float = 1.0,
        reset: Reset = "none",
        strict: bool = False,
        surrogate: Surrogate | None = None,
        **options: Any,
    ) -> None:
        if cell not in ("gates", "membrane"):
            raise ValueError(f"SpikingLSTM: cell must be gates or membrane, got {cell!r}")
        _check_reset("SpikingLSTM", reset)
        if surrogate is None:
            surrogate = Erf() if cell == "gates" else ATan()
        super().__init__(input_size, hidden_size, num_layers, surrogate=surrogate, **options)
        self.candidate = self.surrogate if candidate is None else candidate
        self.kind, self.v_threshold, self.reset, self.strict = cell, v_threshold, reset, strict

    def cell(self, x: Tensor, layer: _Layer, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        h, c = states
        i, f, g, o = (x + layer.back(h)).chunk(4, 1)
        if self.kind == "membrane":
            return membrane_lstm((i, f, g, o), h, c, self.surrogate, self.v_threshold, self.reset, self.strict)
        i, f, o, g = self.surrogate(i), self.surrogate(f), self.surrogate(o), self.candidate(g)
        c = c * f + i * g
        c = c + (c.clamp(max=1.0) - c).detach()
        h = c * o
        return h, (h, c)


def membrane_lstm(
    gates: tuple[Tensor, Tensor, Tensor, Tensor],
    h: Tensor,
    c: Tensor,
    surrogate: Surrogate,
    v_threshold: float,
    reset: Reset,
    strict: bool,
    pool: Callable[[Tensor], Tensor] = lambda h: h,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One LSTM step from the gates i, f, g, o before their activation: the spikes of ``pool(h)``, and ``(h, c)``."""
    i, f, g, o = gates
    before = h
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    if reset != "none":
        late = surrogate(before - v_threshold, strict).detach()
        h = h - late * v_threshold if reset == "soft" else h * (1 - late)
    return surrogate(pool(h) - v_threshold, strict), (h, c)


def _check_reset(who: str, reset: Reset) -> None:
    if reset not in ("soft", "hard", "none"):
        raise ValueError(f"{who}: reset must be soft, hard or none, got {reset!r}")


class SConv2dLSTM(TemporalModule):
    """A convolutional LSTM whose membrane spikes: gates ``i, f, o, g = conv([x, h])``, ``c = sigmoid(f) c + sigmoid(i)
    tanh(g); h = sigmoid(o) tanh(c)``; output ``[pool(h) >= v_threshold]``.

    Args:
        in_channels, out_channels, kernel_size, bias: as in ``nn.Conv2d``; the kernel size is odd, so that the
            convolution keeps height and width.
        max_pool, avg_pool: size of a pooling of h before the threshold; at most one of them is given.
        v_threshold, reset, strict: see :class:`SpikingLSTM`.
        surrogate: see :class:`spikeloom.Neuron`; None is ``ATan(2)``.

    The input is ``[T, B, in_channels, H, W]``, the output ``[T, B, out_channels, H', W']``. The states ``h`` and ``c``
    are zeros at rest. Dtypes are those of :class:`SpikingRNN`.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.Network(sl.nn.SConv2dLSTM(1, 4, 3, max_pool=2))(torch.rand(5, 2, 1, 8, 8)).shape
    torch.Size([5, 2, 4, 4, 4])
    """

    paper = "Shi et al., Convolutional LSTM Network, NeurIPS 2015"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        bias: bool = True,
        max_pool: int | tuple[int, int] = 0,
        avg_pool: int | tuple[int, int] = 0,
        v_threshold: float = 1.0,
        reset: Reset = "none",
        strict: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__()
        size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        if any(k % 2 == 0 for k in size):
            raise ValueError(f"SConv2dLSTM: kernel_size must be odd, so that height and width stay; got {kernel_size}")
        if max_pool and avg_pool:
            raise ValueError("SConv2dLSTM: give max_pool or avg_pool, not both")
        _check_reset("SConv2dLSTM", reset)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.max_pool, self.avg_pool = max_pool, avg_pool
        self.v_threshold, self.reset, self.strict = v_threshold, reset, strict
        self.surrogate = ATan() if surrogate is None else surrogate
        padding = (size[0] // 2, size[1] // 2)
        self.conv = nn.Conv2d(in_channels + out_channels, 4 * out_channels, size, padding=padding, bias=bias)

    def initial_state(self, *x_t: Any) -> State:
        """Zeros."""
        x = x_t[0]
        zero = x.new_zeros(x.shape[0], self.out_channels, *x.shape[2:], dtype=state_dtype(x.dtype))
        return {"h": zero, "c": zero}

    def step(self, *x_t: Any, state: State = None) -> tuple[Any, State]:
        """One step of ``[B, in_channels, H, W]``."""
        x = x_t[0]
        state = self.initial_state(x) if state is None else state
        h = state["h"]
        i, f, o, g = self.conv(torch.cat([x, h.to(x.dtype)], 1)).to(h.dtype).chunk(4, 1)
        y, (h, c) = membrane_lstm(
            (i, f, g, o), h, state["c"], self.surrogate, self.v_threshold, self.reset, self.strict, self._pool
        )
        return y.to(output_dtype(x.dtype)), {"h": h, "c": c}

    def _pool(self, h: Tensor) -> Tensor:
        if self.max_pool:
            return F.max_pool2d(h, self.max_pool)
        return F.avg_pool2d(h, self.avg_pool) if self.avg_pool else h


def _reordered(x: Tensor, order: Tensor | None) -> Tensor:
    """``x`` ``[T, B, F]`` with the steps of each sample in the order ``[T, B]``."""
    assert order is not None
    return x.gather(0, trailing(order, 3).expand(-1, -1, x.shape[2]))
