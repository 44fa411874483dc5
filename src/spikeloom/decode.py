"""Decoders: from spike trains and membranes ``[T, B, *]`` to one value per neuron, ``[B, *]``.

All take ``lengths`` (``[B]``, optional), with which steps at or past ``lengths[b]`` of sample b do not count; and
``batch_first``, with which the sequence is ``[B, T, *]``. Nothing is guessed from shapes.

Counts, rates, times and means are float64 for float64 spikes and float32 for all other floating dtypes, because
bfloat16 cannot hold the number 257 nor float16 the number 2,049. Counts of integers and booleans are int64.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ._time import duration, masked, sequence, trailing, wide

Readout = Literal["max", "max_abs", "mean", "last"]


def count(spikes: Tensor, *, lengths: Tensor | None = None, batch_first: bool = False) -> Tensor:
    """Number of spikes, ``[B, *]``.

    >>> import torch
    >>> from spikeloom import decode
    >>> decode.count(torch.ones(301, 1, 2, dtype=torch.bfloat16))
    tensor([[301., 301.]])
    """
    return _count(sequence(spikes, "decode.count", batch_first=batch_first), lengths)


def rate(spikes: Tensor, *, lengths: Tensor | None = None, batch_first: bool = False) -> Tensor:
    """Firing rate: spikes per step, ``[B, *]``.

    >>> import torch
    >>> from spikeloom import decode
    >>> decode.rate(torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.0]]]))
    tensor([[0.7500, 0.2500]])
    """
    return _mean(sequence(spikes, "decode.rate", batch_first=batch_first), lengths)


def first_spike(
    spikes: Tensor, *, silent: float | None = None, lengths: Tensor | None = None, batch_first: bool = False
) -> Tensor:
    """Step of the first spike, ``[B, *]``, differentiable.

    Args:
        silent: time of neurons that never fire; None is T (or the sample's length), one past the last step.

    The backward pass sends ``-grad`` to the step of the first spike (to the last step of silent neurons), because a
    larger membrane there means an earlier spike. snnTorch's ``SpikeTime`` has ``silent=T-1``.

    >>> import torch
    >>> from spikeloom import decode
    >>> decode.first_spike(torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]], [[1.0, 0.0]]]))
    tensor([[2., 3.]])
    """
    spikes = masked(sequence(spikes, "decode.first_spike", batch_first=batch_first), lengths)
    steps = duration(spikes, lengths)
    dtype = wide(spikes.dtype)
    never = steps.to(dtype) if silent is None else torch.full_like(steps, silent, dtype=dtype)
    ends = trailing(steps - 1, spikes.ndim - 1), trailing(never, spikes.ndim - 1)
    times: Tensor = _FirstSpike.apply(spikes, *ends)  # type: ignore[no-untyped-call]
    return times


def population(spikes: Tensor, num_classes: int, *, lengths: Tensor | None = None, batch_first: bool = False) -> Tensor:
    """Spike counts of populations: neurons ``[T, B, N]`` in ``num_classes`` contiguous groups, ``[B, num_classes]``.

    >>> import torch
    >>> from spikeloom import decode
    >>> decode.population(torch.ones(3, 1, 6), 2)
    tensor([[9., 9.]])
    """
    spikes = sequence(spikes, "decode.population", ndim=3, batch_first=batch_first)
    neurons = spikes.shape[-1]
    if not isinstance(num_classes, int) or num_classes < 1 or neurons % num_classes:
        raise ValueError(
            f"decode.population: {neurons} neurons cannot be divided into {num_classes} equal groups; "
            f"give the last layer a multiple of {num_classes} neurons"
        )
    return _count(spikes, lengths).reshape(*spikes.shape[1:-1], num_classes, -1).sum(-1)


def membrane(v: Tensor, how: Readout = "max", *, lengths: Tensor | None = None, batch_first: bool = False) -> Tensor:
    """Reads a membrane ``[T, B, *]`` out: its ``max``, ``max_abs`` (the signed value), ``mean`` or ``last`` value.

    A single value keeps the membrane's dtype; a mean is float32 or float64.
    """
    v = sequence(v, "decode.membrane", batch_first=batch_first)
    if how == "max":
        return masked(v, lengths, fill=_lowest(v.dtype)).amax(0)
    if how == "max_abs":
        size = masked(v, lengths).to(wide(v.dtype)).abs()
        return v.gather(0, size.argmax(0, keepdim=True)).squeeze(0)
    if how == "mean":
        return _mean(v, lengths)
    if how == "last":
        if lengths is None:
            return v[-1]
        at = trailing(duration(v, lengths) - 1, v.ndim - 1).expand(v.shape[1:]).unsqueeze(0)
        return v.gather(0, at).squeeze(0)
    raise ValueError(f"decode.membrane: how must be one of max, max_abs, mean, last; got {how!r}")


def _count(x: Tensor, lengths: Tensor | None) -> Tensor:
    x = masked(x, lengths)
    return x.sum(0, dtype=wide(x.dtype) if x.dtype.is_floating_point else torch.int64)


def _mean(x: Tensor, lengths: Tensor | None) -> Tensor:
    dtype = wide(x.dtype)
    return _count(x, lengths).to(dtype) / trailing(duration(x, lengths), x.ndim - 1).to(dtype)


def _lowest(dtype: torch.dtype) -> float:
    if dtype.is_floating_point:
        return -math.inf
    return False if dtype == torch.bool else torch.iinfo(dtype).min


class _FirstSpike(torch.autograd.Function):
    """The times of the first spikes, in the dtype of ``never``; ``last`` holds the index of each last step, int64."""

    generate_vmap_rule = True

    @staticmethod
    def forward(spikes: Tensor, last: Tensor, never: Tensor) -> Tensor:
        fired = spikes > 0
        return torch.where(fired.any(0), _first(fired).to(never.dtype), never)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        spikes, last, _ = inputs
        ctx.save_for_backward(spikes, last)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        spikes, last = ctx.saved_tensors
        fired = spikes > 0
        at = torch.where(fired.any(0), _first(fired), last)
        steps = trailing(torch.arange(spikes.shape[0], device=spikes.device), spikes.ndim)
        return torch.where(steps == at, -grad, 0).to(spikes.dtype), None, None


def _first(fired: Tensor) -> Tensor:
    """The index of the first step that is True, int64; 0 where none is."""
    return fired.to(torch.uint8).argmax(0)
