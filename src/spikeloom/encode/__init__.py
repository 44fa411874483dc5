"""Encoders: stateless functions from real values, or from classes, to spike trains, time first.

All take ``lengths`` (``[B]``, optional), with which the steps at or past ``lengths[b]`` of sample b are 0 whatever the
input; and ``batch_first``, with which sequences, taken and returned, are ``[B, T, *]``.

All of them refuse NaN, which would silently become an absence of spikes. Inside ``torch.compile`` and ``torch.func``
and on the meta device values cannot be read, so nothing is checked there.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from .. import _peers
from .._time import masked, readable, sequence, wide
from .checks import check_finite, check_first, check_steps, floating, given, refuse_nan
from .phases import burst as burst
from .phases import periodic as periodic
from .phases import phase as phase
from .phases import rank_order as rank_order
from .phases import weighted_phase as weighted_phase
from .populations import gaussian_tuning as gaussian_tuning
from .populations import gaussian_tuning_time as gaussian_tuning_time
from .populations import population as population
from .targets import ramp as ramp
from .targets import target_latency as target_latency
from .targets import target_rate as target_rate

__all__ = [
    "burst",
    "delta",
    "gaussian_tuning",
    "gaussian_tuning_time",
    "latency",
    "latency_time",
    "periodic",
    "phase",
    "poisson",
    "population",
    "ramp",
    "rank_order",
    "repeat",
    "target_latency",
    "target_rate",
    "weighted_phase",
]

LatencyCode = Literal["linear", "log", "rc"]


@_peers.told
def repeat(x: Tensor, T: int, *, lengths: Tensor | None = None, batch_first: bool = False) -> Tensor:
    """Direct coding: the same ``x`` ``[B, *]`` at each of T steps, ``[T, B, *]``.

    The result is a view that takes no memory. A Network computes only once what does not change over time.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.repeat(torch.tensor([[1.0, 2.0]]), 3)[:, 0]
    tensor([[1., 2.],
            [1., 2.],
            [1., 2.]])
    """
    check_steps(x, T, "encode.repeat")
    refuse_nan(x, "encode.repeat: x holds NaN")
    return given(x.expand(T, *x.shape), lengths, batch_first)


@_peers.told
def poisson(
    x: Tensor,
    T: int | None = None,
    *,
    gain: float = 1.0,
    offset: float = 0.0,
    first_spike_time: int = 0,
    generator: torch.Generator | None = None,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Rate coding: a spike at each step with probability ``p = clip(gain x + offset, 0, 1)``, independently.

    Args:
        x: intensities ``[B, *]``, repeated over T steps; or, with ``T=None``, a sequence ``[T, B, *]`` of
            intensities. Infinite and negative ones are clipped too.
        gain, offset: scale and shift of the intensities, finite.
        first_spike_time: the first step that may have a spike.
        generator: source of randomness, on the device of x; None is torch's.

    Returns spikes (0 or 1) ``[T, B, *]`` in the dtype of x. This is snnTorch's ``spikegen.rate`` and SpikingJelly's
    ``PoissonEncoder``.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.poisson(torch.tensor([[0.0, 1.0]]), 4).sum(0)
    tensor([[0., 4.]])
    """
    who = "encode.poisson"
    x = floating(x, who)
    if T is None:
        x = masked(sequence(x, f"{who} with T=None", batch_first=batch_first), lengths)
    else:
        check_steps(x, T, who)
    check_finite(who, gain=gain, offset=offset)
    p = (gain * x.to(wide(x.dtype)) + offset).clamp(0.0, 1.0)
    refuse_nan(p, f"{who}: x, gain or offset holds NaN")
    p = p if T is None else p.expand(T, *p.shape)
    check_first(first_spike_time, len(p), who)
    draws = torch.rand(p.shape, generator=generator, dtype=p.dtype, device=p.device)
    spikes = (draws < p).to(x.dtype)
    if first_spike_time:
        spikes[:first_spike_time] = 0
    return given(spikes, lengths, batch_first)


@_peers.told
def latency_time(
    x: Tensor,
    T: int,
    *,
    code: LatencyCode = "linear",
    tau: float = 1.0,
    threshold: float = 0.01,
    normalize: bool = True,
    first_spike_time: int = 0,
) -> Tensor:
    """Spike times (real numbers, in steps) of intensities ``x`` in [0, 1], ``[B, *]``: the larger, the earlier.

    Args:
        code: which formula gives the time t, with t0 = ``first_spike_time``:

            * ``"linear"``: ``t = t0 + tau (1 - x)``;
            * ``"rc"``: ``t = t0 + tau ln(x / (x - threshold))``, the moment at which a membrane charged by x
              reaches the threshold (snnTorch's logarithmic code);
            * ``"log"``: ``t = T - 1 - ln(a x + 1)`` with ``a = exp(T - 1 - t0) - 1`` (SpikingJelly's).
        tau: positive time constant in steps, of the first two.
        threshold: from 0 to below 1; x at or below it counts as just above it (``"rc"``) or as equal to it
            (``"linear"``).
        normalize: whether to stretch the times to t0 .. T-1. ``"linear"`` then takes ``tau = T - 1 - t0``; ``"rc"`` is
            scaled so that the latest spike of each sample is at T-1 (at threshold 0 all of them stay at t0). ``"log"``
            covers that range by itself.

    Times are float64 for float64 x and float32 otherwise. An x outside [0, 1] raises ValueError.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.latency_time(torch.tensor([[0.02, 0.5, 1.0]]), 5, code="rc").round(decimals=4)
    tensor([[4.0000, 0.1166, 0.0580]])
    """
    who = "encode.latency"
    x = floating(x, who)
    check_steps(x, T, who)
    check_first(first_spike_time, T, who)
    check_finite(who, tau=tau, threshold=threshold)
    if tau <= 0:
        raise ValueError(f"{who}: tau must be positive, got {tau}")
    if not 0 <= threshold < 1:
        raise ValueError(f"{who}: threshold must lie in [0, 1), got {threshold}")
    if readable(x) and not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError(f"{who}: x must lie in [0, 1], got {float(x.min()):g} to {float(x.max()):g}; rescale it")
    x, last = x.to(wide(x.dtype)), T - 1 - first_spike_time
    if code == "linear":
        t = (last if normalize else tau) * (1 - x.clamp(min=threshold))
    elif code == "log":
        t = _log_time(x, last)
    elif code == "rc":
        t = _charging_time(x, threshold)
        t = last * _share_of_latest(t) if normalize else tau * t
    else:
        raise ValueError(f"{who}: code must be one of linear, log, rc; got {code!r}")
    return t + first_spike_time


@_peers.told
def latency(
    x: Tensor,
    T: int,
    *,
    code: LatencyCode = "linear",
    tau: float = 1.0,
    threshold: float = 0.01,
    normalize: bool = True,
    clip: bool = False,
    first_spike_time: int = 0,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Latency coding: one spike per element, at ``round(latency_time(x, ...))``, ``[T, B, *]`` in the dtype of x.

    Args:
        clip: whether elements with ``x < threshold`` stay silent.
        others: see :func:`latency_time`.

    A time past T-1 (possible with ``normalize=False``) gives no spike.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.latency(torch.tensor([[0.0, 1.0]]), 4)[:, 0]
    tensor([[0., 1.],
            [0., 0.],
            [0., 0.],
            [1., 0.]])
    """
    t = latency_time(
        x, T, code=code, tau=tau, threshold=threshold, normalize=normalize, first_spike_time=first_spike_time
    ).round()
    steps = torch.arange(T, device=x.device).reshape(T, *(1,) * x.ndim)
    spikes = (steps == t).to(x.dtype)
    if clip:
        spikes = spikes * (x >= threshold)
    return given(spikes, lengths, batch_first)


@_peers.told
def delta(
    x: Tensor,
    *,
    threshold: float = 0.1,
    padding: bool = False,
    off_spike: bool = False,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Delta modulation of ``[T, *]``: 1 where ``x[t] - x[t-1] >= threshold``, else 0.

    Args:
        threshold: positive and finite.
        padding: whether the first step is compared with itself, which gives no spike there, instead of with 0.
        off_spike: whether the result is -1 where ``x[t] - x[t-1] <= -threshold``.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.delta(torch.tensor([1.0, 2.0, 2.91, 3.0, 3.9]))
    tensor([1., 1., 1., 0., 1.])
    """
    who = "encode.delta"
    x = floating(x, who)
    if batch_first or lengths is not None:
        x = masked(sequence(x, who, batch_first=batch_first), lengths)
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"{who}: expected [T, *] with T > 0, got {list(x.shape)}")
    check_finite(who, threshold=threshold)
    if threshold <= 0:
        raise ValueError(f"{who}: threshold must be positive, got {threshold}")
    before = x[:1] if padding else torch.zeros_like(x[:1])
    change = x.diff(dim=0, prepend=before)
    refuse_nan(change, f"{who}: x holds NaN, or the same infinity at two steps in a row")
    spikes = (change >= threshold).to(x.dtype)
    if off_spike:
        spikes = spikes - (change <= -threshold).to(x.dtype)
    return given(spikes, lengths, batch_first)


def _log_time(x: Tensor, last: int) -> Tensor:
    """``last - ln((e^last - 1) x + 1)``, computed as ``-ln(x + (1 - x) e^-last)``, which never overflows."""
    rest, least = math.exp(-last), torch.finfo(x.dtype).tiny
    t = -torch.log(x + (1 - x) * max(rest, least))
    return t if rest >= least else torch.where(x > 0, t, last)


def _charging_time(x: Tensor, threshold: float) -> Tensor:
    """``ln(x / (x - threshold))``; x counts as at least 1e-7 above the threshold."""
    return torch.log1p(threshold / (x - threshold).clamp(min=1e-7))


def _share_of_latest(t: Tensor) -> Tensor:
    """Each time of ``[B, *]`` as a share of the latest time of its sample; 0 where the latest is 0."""
    if t.numel() == 0:
        return t
    latest = t.flatten(1).amax(1).reshape(-1, *(1,) * (t.ndim - 1)) if t.ndim > 1 else t
    return t / torch.where(latest > 0, latest, 1)
