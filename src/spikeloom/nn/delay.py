"""Delay: what comes in comes out some steps later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._time import check_lengths, masked, trailing
from ..core import State, TemporalModule
from ..spikes import SpikeTensor, pack


class Delay(TemporalModule):
    """``y[t] = x[t - steps]``, and 0 before the first input.

    Args:
        steps: a whole number of steps, from 0; or a sequence with one for each channel (dimension 1 of the step).

    Input and output are ``[T, B, *]``. The state holds the last inputs, ``[B, max(steps), *]``, zeros at rest. T stays
    as it is: to let out what is still inside, append zeros to the input. Packed spikes stay packed, in the state too.
    A step that has not as many channels as there are delays raises ValueError.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.nn.Delay(1).sequence(torch.tensor([[1.0], [2.0], [3.0]]))[0].flatten()
    tensor([0., 1., 2.])
    >>> sl.nn.Delay([0, 2]).sequence(torch.tensor([[[1.0, 1.0]], [[2.0, 2.0]], [[3.0, 3.0]]]))[0][:, 0]
    tensor([[1., 0.],
            [2., 0.],
            [3., 1.]])
    """

    causal = True

    def __init__(self, steps: int | Sequence[int] | Tensor) -> None:
        super().__init__()
        given = steps.tolist() if isinstance(steps, Tensor) else steps
        each = tuple(given) if isinstance(given, Sequence) else (given,)
        if not each or not all(isinstance(n, int) and n >= 0 for n in each):
            raise ValueError(f"Delay: steps must be whole numbers from 0, one or one for each channel, got {steps}")
        self.steps: int | tuple[int, ...] = given if isinstance(given, int) else each
        self._most = max(each)

    def initial_state(self, *x_t: Any) -> Tensor:
        """Inputs of zero, ``[B, max(steps), *]``, packed where the input is."""
        x = x_t[0]
        zeros = torch.zeros(x.shape[0], self._most, *x.shape[1:], dtype=x.dtype, device=x.device)
        return pack(zeros, check=False) if isinstance(x, SpikeTensor) else zeros

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, *]``: ``(y, state)``."""
        self.check_record(record)
        x = xs[0]
        before = self.initial_state(x[0]) if state is None else state
        if type(before) is not type(x):  # one of both is packed
            before, x = dense(before), dense(x)
        T, packed = x.shape[0], isinstance(x, SpikeTensor)
        x = x if lengths is None else masked(x, lengths)
        seen = torch.cat([before.transpose(0, 1), repacked(x, packed)])
        y = seen[self._most - self.steps :][:T] if isinstance(self.steps, int) else self._each(seen, T)
        return repacked(masked(y, lengths), packed), last_inputs(seen, self._most, lengths)

    def _each(self, seen: Tensor, T: int) -> Tensor:
        """The output of ``[max(steps) + T, B, C, *]`` where each channel has a delay of its own."""
        delays = torch.tensor(self.steps, device=seen.device)
        if seen.ndim < 3 or seen.shape[2] != len(delays):
            raise ValueError(f"Delay: has {len(delays)} delays, got a step {list(seen.shape[1:])} [B, C, *]")
        first = self._most - delays + torch.arange(T, device=seen.device).unsqueeze(1)  # [T, C]
        index = trailing(first.unsqueeze(1), seen.ndim).expand(T, *seen.shape[1:])
        return dense(seen).gather(0, index)

    def extra_repr(self) -> str:
        return str(self.steps)


def dense(x: Tensor) -> Tensor:
    """The tensor, unpacked where it is packed."""
    return x.unpack() if isinstance(x, SpikeTensor) else x


def repacked(x: Tensor, packed: bool) -> Tensor:
    """The tensor, packed where that is wanted and it is not."""
    return pack(x, check=False) if packed else x


def last_inputs(seen: Tensor, n: int, lengths: Tensor | None) -> Tensor:
    """The last n inputs of each sample, ``[B, n, *]``, from ``[n + T, B, *]``, of which the first n are earlier ones.

    They are a copy: outputs may share the memory of ``seen``, and a layer after them may write to it.
    """
    T, B = seen.shape[0] - n, seen.shape[1]
    if lengths is None:
        return seen[T:].transpose(0, 1).clone(memory_format=torch.contiguous_format)
    lengths = check_lengths(lengths, T, B, device=seen.device)
    steps = lengths.unsqueeze(1) + torch.arange(n, device=seen.device)  # [B, n]
    last = dense(seen)[steps, torch.arange(B, device=seen.device).unsqueeze(1)]
    return repacked(last, isinstance(seen, SpikeTensor))
