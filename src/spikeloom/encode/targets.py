"""Wanted spike trains and membranes of classes, ``[T, B, C]``: what losses compare outputs with.

:mod:`spikeloom.encode` has them. All take ``lengths`` (``[B]``, optional) and ``batch_first``, as encoders do.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .. import _peers
from .._time import check_lengths, masked, readable, sequence, wide

Pattern = Literal["regular", "uniform", "poisson"]
_NEAR = 1e-9  # k / rate of a whole number of steps may come out below it


@_peers.told
def target_rate(
    target: Tensor,
    num_classes: int,
    T: int,
    *,
    correct_rate: float = 1.0,
    incorrect_rate: float = 0.0,
    pattern: Pattern = "regular",
    first_spike_time: int = 0,
    generator: torch.Generator | None = None,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Wanted spikes by rate: the class of a sample fires at ``correct_rate``, the others at ``incorrect_rate``.

    Args:
        target: class indices, ``int64 [B]``.
        correct_rate, incorrect_rate: r, spikes per step, from 0 to 1.
        pattern: when a neuron fires, with t0 = ``first_spike_time``:

            * ``"regular"``: at the steps ``t0 + floor(k / r)``, k = 0, 1, ...;
            * ``"uniform"``: at ``ceil((T - t0) r)`` steps from t0 on, each drawn by itself, so that some may coincide;
            * ``"poisson"``: at each step from t0 on with probability r.
        generator: source of randomness, on the device of the target; None is torch's.

    Returns 0 and 1 in torch's default dtype, ``[T, B, num_classes]``. This is snnTorch's ``spikegen.targets_rate``;
    values other than 0 and 1 are ``off + (on - off) * spikes``, and membranes between spikes are :func:`ramp`.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.target_rate(torch.tensor([1]), 2, 6, correct_rate=0.5, incorrect_rate=0.2)[:, 0].T
    tensor([[1., 0., 0., 0., 0., 1.],
            [1., 0., 1., 0., 1., 0.]])
    """
    who = "encode.target_rate"
    correct = _one_hot(target, num_classes, T, who)
    for name, rate in (("correct_rate", correct_rate), ("incorrect_rate", incorrect_rate)):
        if not 0 <= rate <= 1:
            raise ValueError(f"{who}: {name} must be between 0 and 1 spikes per step, got {rate}")
    _check_step(who, "first_spike_time", first_spike_time, T)
    steps = T - first_spike_time
    made: list[Tensor]
    if pattern == "regular":
        made = [_regular(steps, rate, target.device)[:, None, None] for rate in (correct_rate, incorrect_rate)]
    elif pattern == "uniform":
        made = [_uniform(steps, rate, correct, generator) for rate in (correct_rate, incorrect_rate)]
    elif pattern == "poisson":
        draws = torch.rand((steps, *correct.shape), generator=generator, device=target.device)
        made = [draws < rate for rate in (correct_rate, incorrect_rate)]
    else:
        raise ValueError(f"{who}: pattern must be one of regular, uniform, poisson; got {pattern!r}")
    spikes = torch.zeros(T, *correct.shape, device=target.device)
    spikes[first_spike_time:] = torch.where(correct, made[0], made[1]).to(spikes.dtype)
    return _given(spikes, lengths, batch_first)


@_peers.told
def target_latency(
    target: Tensor,
    num_classes: int,
    T: int,
    *,
    on_target: int = 0,
    off_target: int | None = None,
    silent: bool = False,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Wanted spikes by latency: the class of a sample fires once, at the step ``on_target``, the others later.

    Args:
        target: class indices, ``int64 [B]``.
        on_target, off_target: the steps at which the class and the others fire; None is the last step of a sample.
        silent: whether the other classes do not fire at all.

    Returns 0 and 1 in torch's default dtype, ``[T, B, num_classes]``. This is snnTorch's ``spikegen.targets_latency``
    with ``normalize=True``, and with ``clip=True`` where ``silent``; :func:`ramp` makes membranes of it.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.target_latency(torch.tensor([1]), 2, 4, on_target=1)[:, 0].T
    tensor([[0., 0., 0., 1.],
            [0., 1., 0., 0.]])
    """
    who = "encode.target_latency"
    correct = _one_hot(target, num_classes, T, who)
    _check_step(who, "on_target", on_target, T)
    if off_target is not None:
        _check_step(who, "off_target", off_target, T)
    last = torch.full_like(target, T)
    if lengths is not None:
        last = check_lengths(lengths, T, len(target), device=target.device)
    late = (last - 1).unsqueeze(1) if off_target is None else torch.full_like(last.unsqueeze(1), off_target)
    times = torch.where(correct, on_target, -1 if silent else late)
    spikes = torch.arange(T, device=target.device)[:, None, None] == times
    return _given(spikes.to(torch.get_default_dtype()), lengths, batch_first)


@_peers.told
def ramp(
    spikes: Tensor,
    *,
    on: float = 1.0,
    off: float = 0.0,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Wanted membranes that rise in a straight line to each spike of ``[T, B, *]``.

    At a step t after the spike at p (before the first one, p = -1) and up to the next one at s the value is ``off + (on
    - off) (t - p - 1) / (s - p - 1)``, which is ``on`` at s; after the last spike it is ``off``. This is
    ``interpolate=True`` of snnTorch's targets, for :func:`spikeloom.loss.membrane_mse`.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.ramp(torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]).view(7, 1)).flatten()
    tensor([0.0000, 0.5000, 1.0000, 1.0000, 0.0000, 1.0000, 0.0000])
    """
    spikes = masked(sequence(spikes, "encode.ramp", batch_first=batch_first), lengths)
    T = spikes.shape[0]
    fired = spikes != 0
    t = torch.arange(T, device=spikes.device).reshape(T, *(1,) * (spikes.ndim - 1)).expand(spikes.shape)
    latest = torch.where(fired, t, -1).cummax(0).values
    before = torch.cat([torch.full_like(latest[:1], -1), latest[:-1]])
    after = torch.where(fired, t, T).flip(0).cummin(0).values.flip(0)
    dtype = wide(spikes.dtype)
    share = (t - before - 1).to(dtype) / (after - before - 1).clamp(min=1).to(dtype)
    share = torch.where(fired, 1, share).masked_fill(after == T, 0)
    value = off + (on - off) * share
    return _given(value.to(spikes.dtype) if spikes.dtype.is_floating_point else value, lengths, batch_first)


def _regular(steps: int, rate: float, device: torch.device) -> Tensor:
    """Whether there is a spike, ``[steps]``."""
    fired = torch.zeros(steps, dtype=torch.bool, device=device)
    if rate > 0:
        count = math.ceil(steps * rate + _NEAR)
        times = (torch.arange(count, dtype=torch.float64) / rate + _NEAR).floor().long()
        fired[times[times < steps].to(device)] = True
    return fired


def _uniform(steps: int, rate: float, correct: Tensor, generator: torch.Generator | None) -> Tensor:
    """Whether there is a spike, ``[steps, B, C]``."""
    count = math.ceil(steps * rate - _NEAR)
    draws = torch.rand((count, *correct.shape), generator=generator, device=correct.device, dtype=torch.float64)
    fired = torch.zeros((steps, *correct.shape), dtype=torch.bool, device=correct.device)
    return fired.scatter(0, (draws * steps).long(), torch.ones_like(draws, dtype=torch.bool))


def _one_hot(target: Tensor, num_classes: int, T: int, who: str) -> Tensor:
    """Whether a class is the target, ``[B, C]``."""
    if not isinstance(target, Tensor) or target.ndim != 1 or target.dtype != torch.int64:
        got = f"{list(target.shape)} of {target.dtype}" if isinstance(target, Tensor) else type(target).__name__
        raise ValueError(f"{who}: target must hold class indices, int64 [B], got {got}")
    for name, value in (("num_classes", num_classes), ("T", T)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{who}: {name} must be a whole number of at least 1, got {value!r}")
    if readable(target) and target.numel() and not 0 <= int(target.min()) <= int(target.max()) < num_classes:
        raise ValueError(
            f"{who}: classes must lie between 0 and num_classes-1 = {num_classes - 1}, got {int(target.min())} to "
            f"{int(target.max())}"
        )
    return target.unsqueeze(1) == torch.arange(num_classes, device=target.device)


def _check_step(who: str, name: str, value: int, T: int) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 0 <= value < T:
        raise ValueError(f"{who}: {name} must be a whole number between 0 and T-1 = {T - 1}, got {value!r}")


def _given(sequence: Tensor, lengths: Tensor | None, batch_first: bool) -> Tensor:
    sequence = masked(sequence, lengths)
    return sequence.transpose(0, 1) if batch_first else sequence
