"""Encoders: real values to spike trains. Stateless functions, time first.

All take ``lengths`` (``[B]``, optional): steps at or past ``lengths[b]`` of sample b are 0.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ._time import check_sequence, masked

LatencyCode = Literal["linear", "log", "rc"]


def repeat(x: Tensor, T: int, *, lengths: Tensor | None = None) -> Tensor:
    """Direct coding: the same ``x`` ``[B, *]`` at each of T steps, ``[T, B, *]``.

    The result is a view that takes no memory; a Network computes what does not change over time once.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.repeat(torch.tensor([[1.0, 2.0]]), 3)[:, 0]
    tensor([[1., 2.],
            [1., 2.],
            [1., 2.]])
    """
    _check_steps(x, T, "encode.repeat")
    return masked(x.expand(T, *x.shape), lengths)


def poisson(
    x: Tensor,
    T: int | None = None,
    *,
    gain: float = 1.0,
    offset: float = 0.0,
    first_spike_time: int = 0,
    generator: torch.Generator | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Rate coding: a spike at each step with probability ``p = clip(gain x + offset, 0, 1)``, independently.

    Args:
        x: intensities ``[B, *]``, repeated over T steps; or, with ``T=None``, a sequence ``[T, B, *]`` of
            intensities.
        gain, offset: scale and shift of the intensities.
        first_spike_time: no spike before this step.
        generator: source of randomness, on the device of x; None is torch's.

    Returns spikes (0 or 1) ``[T, B, *]`` in the dtype of x. snnTorch's ``spikegen.rate``, SpikingJelly's
    ``PoissonEncoder``.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.poisson(torch.tensor([[0.0, 1.0]]), 4).sum(0)
    tensor([[0., 4.]])
    """
    x = _floating(x, "encode.poisson")
    if T is None:
        check_sequence(x, "encode.poisson with T=None")
        T = x.shape[0]
    else:
        _check_steps(x, T, "encode.poisson")
        x = x.expand(T, *x.shape)
    _check_first(first_spike_time, T)
    p = (gain * x + offset).clamp(0.0, 1.0)
    draws = torch.rand(x.shape, generator=generator, dtype=_draw_dtype(x.dtype), device=x.device)
    spikes = (draws < p).to(x.dtype)
    if first_spike_time:
        spikes[:first_spike_time] = 0
    return masked(spikes, lengths)


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
        code: with t0 = ``first_spike_time``,

            * ``"linear"``: ``t = t0 + tau (1 - x)``;
            * ``"rc"``: ``t = t0 + tau ln(x / (x - threshold))``, the moment at which a membrane charged by x
              reaches the threshold (snnTorch's logarithmic code);
            * ``"log"``: ``t = T - 1 - ln(a x + 1)`` with ``a = exp(T - 1 - t0) - 1`` (SpikingJelly's).
        tau: time constant in steps of the first two.
        threshold: x at or below it counts as just above it (``"rc"``) or as equal to it (``"linear"``).
        normalize: stretch the times to t0 .. T-1: ``"linear"`` takes ``tau = T - 1 - t0``, ``"rc"`` is scaled so that
            the latest spike of each sample is at T-1. ``"log"`` covers that range by itself.

    Raises ValueError for x outside [0, 1].

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.latency_time(torch.tensor([[0.02, 0.5, 1.0]]), 5, code="rc").round(decimals=4)
    tensor([[4.0000, 0.1166, 0.0580]])
    """
    x = _floating(x, "encode.latency")
    _check_steps(x, T, "encode.latency")
    _check_first(first_spike_time, T)
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError(
            f"encode.latency: x must lie in [0, 1], got {float(x.min()):g} to {float(x.max()):g}; rescale it"
        )
    if not 0 <= threshold < 1:
        raise ValueError(f"encode.latency: threshold must lie in [0, 1), got {threshold}")
    last = T - 1 - first_spike_time
    if code == "linear":
        t = (last if normalize else tau) * (1 - x.clamp(min=threshold))
    elif code == "log":
        t = last - torch.log(math.expm1(last) * x + 1)
    elif code == "rc":
        x = x.clamp(min=threshold + 1e-7)
        t = tau * torch.log(x / (x - threshold))
        if normalize:
            t = t * last / t.flatten(1).amax(1).reshape(-1, *(1,) * (x.ndim - 1)) if x.ndim > 1 else t * last / t
    else:
        raise ValueError(f"encode.latency: code must be one of linear, log, rc; got {code!r}")
    return t + first_spike_time


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
) -> Tensor:
    """Latency coding: one spike per element, at ``round(latency_time(x, ...))``, ``[T, B, *]``.

    Args:
        clip: elements with ``x < threshold`` stay silent.
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
    spikes = (steps == t).to(t.dtype)
    if clip:
        spikes = spikes * (x >= threshold)
    return masked(spikes, lengths)


def delta(
    x: Tensor,
    *,
    threshold: float = 0.1,
    padding: bool = False,
    off_spike: bool = False,
    lengths: Tensor | None = None,
) -> Tensor:
    """Delta modulation of ``[T, *]``: 1 where ``x[t] - x[t-1] >= threshold``, else 0.

    Args:
        padding: compare the first step with itself (no spike there) instead of with 0.
        off_spike: also -1 where ``x[t] - x[t-1] <= -threshold``.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.delta(torch.tensor([1.0, 2.0, 2.91, 3.0, 3.9]))
    tensor([1., 1., 1., 0., 1.])
    """
    x = _floating(x, "encode.delta")
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"encode.delta: expected [T, *] with T > 0, got {list(x.shape)}")
    if threshold <= 0:
        raise ValueError(f"encode.delta: threshold must be positive, got {threshold}")
    before = x[:1] if padding else torch.zeros_like(x[:1])
    change = x.diff(dim=0, prepend=before)
    spikes = (change >= threshold).to(x.dtype)
    if off_spike:
        spikes = spikes - (change <= -threshold).to(x.dtype)
    return masked(spikes, lengths)


def _floating(x: Tensor, who: str) -> Tensor:
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{who}: expected a floating-point tensor, got {got}; for uint8 images use x / 255")
    return x


def _draw_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32  # 8 bits of bfloat16 are too few for rates


def _check_steps(x: Tensor, T: int, who: str) -> None:
    if isinstance(T, bool) or not isinstance(T, int) or T < 1:
        raise ValueError(f"{who}: T must be a number of steps of at least 1, got {T!r}")
    if x.ndim == 0:
        raise ValueError(f"{who}: expected [B, *], got a number")


def _check_first(first_spike_time: int, T: int) -> None:
    if not 0 <= first_spike_time < T:
        raise ValueError(f"first_spike_time must lie between 0 and T-1 = {T - 1}, got {first_spike_time}")
