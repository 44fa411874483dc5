"""Decoders: spike trains and membranes ``[T, B, *]`` to one value per neuron ``[B, *]``.

All take ``lengths`` (``[B]``, optional): steps at or past ``lengths[b]`` of sample b do not count.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ._time import check_sequence, duration, masked, trailing

Readout = Literal["max", "max_abs", "mean", "last"]


def count(spikes: Tensor, *, lengths: Tensor | None = None) -> Tensor:
    """Number of spikes, ``[B, *]``."""
    check_sequence(spikes, "decode.count")
    return masked(spikes, lengths).sum(0)


def rate(spikes: Tensor, *, lengths: Tensor | None = None) -> Tensor:
    """Firing rate: spikes per step, ``[B, *]``.

    >>> import torch
    >>> from spikeloom import decode
    >>> decode.rate(torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.0]]]))
    tensor([[0.7500, 0.2500]])
    """
    check_sequence(spikes, "decode.rate")
    return count(spikes, lengths=lengths) / trailing(duration(spikes, lengths), spikes.ndim - 1)


def first_spike(spikes: Tensor, *, silent: float | None = None, lengths: Tensor | None = None) -> Tensor:
    """Step of the first spike, ``[B, *]``, differentiable.

    Args:
        silent: the time of neurons that never fire; None is T (or the sample's length), one past the last step.

    Backward, ``-grad`` goes to the step of the first spike (to the last step of silent neurons): a larger
    membrane there means an earlier spike. snnTorch's ``SpikeTime`` is ``silent=T-1``.

    >>> import torch
    >>> from spikeloom import decode
    >>> decode.first_spike(torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]], [[1.0, 0.0]]]))
    tensor([[2., 3.]])
    """
    check_sequence(spikes, "decode.first_spike")
    spikes = masked(spikes, lengths)
    last = duration(spikes, lengths) - 1
    never = last + 1 if silent is None else torch.full_like(last, silent)
    ends = trailing(last, spikes.ndim - 1), trailing(never, spikes.ndim - 1)
    times: Tensor = _FirstSpike.apply(spikes, *ends)  # type: ignore[no-untyped-call]
    return times


def population(spikes: Tensor, num_classes: int, *, lengths: Tensor | None = None) -> Tensor:
    """Spike counts of populations: neurons ``[T, B, N]`` in ``num_classes`` contiguous groups, ``[B, num_classes]``.

    >>> import torch
    >>> from spikeloom import decode
    >>> decode.population(torch.ones(3, 1, 6), 2)
    tensor([[9., 9.]])
    """
    check_sequence(spikes, "decode.population", ndim=3)
    neurons = spikes.shape[-1]
    if num_classes < 1 or neurons % num_classes:
        raise ValueError(
            f"decode.population: {neurons} neurons cannot be divided into {num_classes} equal groups; "
            f"give the last layer a multiple of {num_classes} neurons"
        )
    return count(spikes, lengths=lengths).reshape(*spikes.shape[1:-1], num_classes, -1).sum(-1)


def membrane(v: Tensor, how: Readout = "max", *, lengths: Tensor | None = None) -> Tensor:
    """Reads a membrane ``[T, B, *]`` out: its ``max``, ``max_abs`` (the signed value), ``mean`` or ``last`` value."""
    check_sequence(v, "decode.membrane")
    if how == "max":
        return masked(v, lengths, fill=-math.inf).amax(0)
    if how == "max_abs":
        at = masked(v, lengths).abs().argmax(0, keepdim=True)
        return v.gather(0, at).squeeze(0)
    if how == "mean":
        return masked(v, lengths).sum(0) / trailing(duration(v, lengths), v.ndim - 1)
    if how == "last":
        if lengths is None:
            return v[-1]
        at = trailing(duration(v, lengths).long() - 1, v.ndim - 1).expand(v.shape[1:]).unsqueeze(0)
        return v.gather(0, at).squeeze(0)
    raise ValueError(f"decode.membrane: how must be one of max, max_abs, mean, last; got {how!r}")


class _FirstSpike(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(spikes: Tensor, last: Tensor, never: Tensor) -> Tensor:
        fired = spikes > 0
        first = fired.to(torch.uint8).argmax(0).to(last.dtype)
        return torch.where(fired.any(0), first, never)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        spikes, last, _ = inputs
        ctx.save_for_backward(spikes, last)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        spikes, last = ctx.saved_tensors
        fired = spikes > 0
        first = fired.to(torch.uint8).argmax(0).to(last.dtype)
        at = torch.where(fired.any(0), first, last)
        steps = trailing(torch.arange(spikes.shape[0], device=spikes.device), spikes.ndim)
        return torch.where(steps == at, -grad, 0).to(spikes.dtype), None, None
