"""request: what a neuron is asked to run. Made once, in :class:`spikeloom.Neuron`, and read by all that runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor

from .._time import check_lengths
from ..core import Repeated
from .dtypes import output_dtype, state_dtype
from .norm import Moments, Norm

AsSpikes = Callable[[Tensor, tuple[int, ...], torch.dtype], Tensor]
"""Makes spikes of one bit each from their bits, shape and dtype."""
States = tuple[Tensor, ...]
Found = tuple[Tensor, States, tuple[Tensor, ...]]
"""The answer to a request: spikes ``[T, B, *]``, final states ``[B, *]``, recordings ``[T, B, *]``."""


class Request(NamedTuple):
    """A sequence of T steps to run. It is a tuple because one is made at each step of a stream."""

    tensors: tuple[Tensor, ...]
    """The inputs ``[T, B, *]``; an input that is the same at all steps is that one step ``[B, *]``. The first gives the
    shape and dtype of the output."""
    repeated: tuple[bool, ...]
    """Which inputs are one step."""
    T: int
    step: torch.Size
    """``[B, *]``."""
    states: States
    """At the start, ``[B, *]`` in the order of ``dynamics``. They are made of the dtype ``self.dtype`` where they are
    not. Those at rest may be one value, expanded, on a device the number itself, in float64 (see :attr:`start`)."""
    lengths: Tensor | None = None
    """Valid steps per sample, int64 ``[B]``. Past them the states stay, output and recordings are 0."""
    record: tuple[int, ...] = ()
    """Indices of the states to record."""
    norm: Norm | None = None
    """A batch norm that x (one sequence, without lengths) passes first."""
    moments: Moments | None = None
    """What the norm has of x, once it was called: its running statistics have moved."""
    as_spikes: AsSpikes | None = None
    """Given, kernels that can do so write their output as bits, and this makes the output of them."""
    u: bool = False
    """Whether the last of the states is what ``fire`` was given, see :mod:`spikeloom.kernel.marked`."""

    @classmethod
    def of(
        cls,
        xs: tuple[Tensor | Repeated, ...],
        states: States,
        *,
        lengths: Tensor | None = None,
        record: tuple[int, ...] = (),
        norm: Norm | None = None,
        as_spikes: AsSpikes | None = None,
        u: bool = False,
    ) -> Self:
        """A request for sequences, of which some may be :class:`spikeloom.core.Repeated`; raises where lengths do not
        fit them.
        """
        x = xs[0]
        T, step = (x.T, x.x.shape) if isinstance(x, Repeated) else (x.shape[0], x.shape[1:])
        if lengths is not None:
            lengths = check_lengths(lengths, T, step[0], device=(x.x if isinstance(x, Repeated) else x).device)
        tensors = tuple([x.x if isinstance(x, Repeated) else x for x in xs])
        repeated = tuple([isinstance(x, Repeated) for x in xs])
        moments = None if norm is None else norm.moments
        return cls(tensors, repeated, T, step, states, lengths, record, norm, moments, as_spikes, u)

    @classmethod
    def of_step(
        cls, xs: tuple[Tensor, ...], states: States, as_spikes: AsSpikes | None = None, *, u: bool = False
    ) -> Self:
        """A request for one step of ``[B, *]``."""
        tensors = tuple([x.unsqueeze(0) for x in xs])
        return cls(tensors, (False,) * len(xs), 1, xs[0].shape, states, None, (), None, None, as_spikes, u)

    @property
    def device(self) -> torch.device:
        return self.tensors[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of states and of what is computed in between."""
        return state_dtype(self.tensors[0].dtype)

    @property
    def start(self) -> States:
        """The states at the start in their dtype, each in memory of its own."""
        whole = [s.contiguous() if is_one_value(s) else s for s in self.states]
        return tuple([s if s.dtype == self.dtype else s.to(self.dtype) for s in whole])

    @property
    def out_dtype(self) -> torch.dtype:
        """The dtype of the output."""
        return output_dtype(self.tensors[0].dtype)

    def steps_of(self, k: int) -> tuple[Tensor, ...]:
        """Input k step by step."""
        x = self.tensors[k]
        return (x,) * self.T if self.repeated[k] else x.unbind(0)


def is_one_value(state: Tensor) -> bool:
    """Whether a state is one value, expanded, that nobody wants a gradient of."""
    return not any(state.stride()) and state.numel() > 1 and not state.requires_grad
