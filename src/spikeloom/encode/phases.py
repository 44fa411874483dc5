"""Codes of intensities by when spikes come: phase, weighted_phase, periodic, burst, rank_order.

:mod:`spikeloom.encode` has them, :mod:`spikeloom.decode` their inverses. All take ``lengths`` (``[B]``, optional) and
``batch_first``, as encoders do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import _peers
from .._time import sequence, wide
from .checks import check_count, check_steps, check_unit, floating, given, refuse_nan, steps_like

_NEAR = 1e-6  # a product of whole numbers may come out this much above it


@_peers.told
def phase(x: Tensor, T: int, *, period: int, lengths: Tensor | None = None, batch_first: bool = False) -> Tensor:
    """Phase coding: one spike in each period, the earlier the larger x: at the phase ``round((1 - x) (period - 1))``.

    Args:
        x: intensities in [0, 1], ``[B, *]``.
        period: steps of a period, at least 1. The last period may be cut off by T.

    Returns spikes ``[T, B, *]`` in the dtype of x. :func:`spikeloom.decode.phase` is the inverse.

    Montemurro et al., Phase-of-Firing Coding of Natural Visual Stimuli in Primary Visual Cortex, Current Biology 18,
    2008.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.phase(torch.tensor([[1.0, 0.5]]), 6, period=3)[:, 0].T
    tensor([[1., 0., 0., 1., 0., 0.],
            [0., 1., 0., 0., 1., 0.]])
    """
    who = "encode.phase"
    x = floating(x, who)
    check_steps(x, T, who)
    check_count(who, "period", period)
    check_unit(x, who)
    at = ((1 - x.to(wide(x.dtype))) * (period - 1)).round()
    return given((steps_like(x, T) % period == at).to(x.dtype), lengths, batch_first)


@_peers.told
def weighted_phase(
    x: Tensor,
    T: int | None = None,
    *,
    bits: int = 8,
    weighted: bool = False,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Weighted phase coding: the binary digits of x, ``x = sum_k 2^-(k+1) s[k]``, one each step, again each period.

    Args:
        x: intensities in ``[0, 1 - 2^-bits]``, ``[B, *]``. Digits past ``bits`` are cut off.
        T: number of steps; None is one period.
        bits: digits, which are the steps of a period, 1 to 52.
        weighted: whether a spike is given as its weight, ``2^-(1 + t mod bits)``, instead of 1.

    Returns ``[T, B, *]`` in the dtype of x. :func:`spikeloom.decode.weighted_phase` is the inverse. This is
    SpikingJelly's ``WeightedPhaseEncoder(bits)``.

    Kim et al., Deep Neural Networks with Weighted Spikes, Neurocomputing 311, 2018.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.weighted_phase(torch.tensor([[0.75, 0.125]]), bits=3)[:, 0].T
    tensor([[1., 1., 0.],
            [0., 0., 1.]])
    """
    who = "encode.weighted_phase"
    x = floating(x, who)
    check_count(who, "bits", bits)
    if bits > 52:
        raise ValueError(f"{who}: bits must be at most 52, got {bits}")
    T = bits if T is None else T
    check_steps(x, T, who)
    check_unit(x, who, high=1 - 2.0**-bits, remedy=f"multiply numbers up to 1 by 1 - 2**-{bits}")
    digits = (x.to(torch.float64) * 2**bits).long()
    place = steps_like(x, T) % bits
    spikes = (digits >> (bits - 1 - place) & 1).to(x.dtype)
    if weighted:
        spikes = spikes * torch.exp2(-1.0 - place.to(x.dtype))
    return given(spikes, lengths, batch_first)


@_peers.told
def periodic(pattern: Tensor, T: int, *, lengths: Tensor | None = None, batch_first: bool = False) -> Tensor:
    """A sequence ``[K, B, *]`` again and again: ``s[t] = pattern[t mod K]``, ``[T, B, *]``.

    This is SpikingJelly's ``PeriodicEncoder``.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.periodic(torch.tensor([[1.0], [0.0]]), 5).flatten()
    tensor([1., 0., 1., 0., 1.])
    """
    who = "encode.periodic"
    pattern = sequence(pattern, who, batch_first=batch_first)
    check_steps(pattern, T, who)
    refuse_nan(pattern, f"{who}: pattern holds NaN")
    times = torch.arange(T, device=pattern.device) % len(pattern)
    return given(pattern.index_select(0, times), lengths, batch_first)


@_peers.told
def burst(
    x: Tensor,
    T: int,
    *,
    n_max: int = 5,
    shortest: int = 2,
    longest: int | None = None,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Burst coding: ``ceil(n_max x)`` spikes from step 0 on, ``ceil(longest - (longest - shortest) x)`` steps apart.

    Args:
        x: intensities in [0, 1], ``[B, *]``.
        n_max: spikes of the longest burst.
        shortest, longest: steps from spike to spike for x = 1 and x = 0. None is as many as let every burst end within
            T steps; given ones may lose spikes at T.

    Returns spikes ``[T, B, *]`` in the dtype of x. :func:`spikeloom.decode.burst` reads them.

    Guo et al., Neural Coding in Spiking Neural Networks: A Comparative Study for Robust Neuromorphic Systems, Frontiers
    in Neuroscience 15, 2021.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.burst(torch.tensor([[1.0, 0.5]]), 9, n_max=3)[:, 0].T
    tensor([[1., 0., 1., 0., 1., 0., 0., 0., 0.],
            [1., 0., 0., 1., 0., 0., 0., 0., 0.]])
    """
    who = "encode.burst"
    x = floating(x, who)
    check_steps(x, T, who)
    check_count(who, "n_max", n_max)
    check_count(who, "shortest", shortest)
    check_unit(x, who)
    if longest is None:
        if (n_max - 1) * shortest > T - 1:
            raise ValueError(
                f"{who}: {n_max} spikes that are {shortest} steps apart take {(n_max - 1) * shortest + 1} steps, but T "
                f"is {T}; lower n_max or shortest, or say how far apart spikes are by longest"
            )
        longest = (T - 1) // (n_max - 1) if n_max > 1 else shortest
    check_count(who, "longest", longest, least=shortest)
    values = x.to(wide(x.dtype))
    count = (n_max * values - _NEAR).ceil()
    apart = (longest - (longest - shortest) * values - _NEAR).ceil()
    t = steps_like(x, T)
    spikes = (t % apart == 0) & (torch.div(t, apart, rounding_mode="floor") < count)
    return given(spikes.to(x.dtype), lengths, batch_first)


@_peers.told
def rank_order(x: Tensor, T: int, *, lengths: Tensor | None = None, batch_first: bool = False) -> Tensor:
    """Rank order coding: the elements of a sample fire once each, in the order of their size, the largest first.

    Args:
        x: real values ``[B, *]``. Of equal ones the first goes first.
        T: number of steps. With N elements the one of rank r (from 0) fires at step r, or at ``floor(r T / N)`` where N
            exceeds T.

    Returns spikes ``[T, B, *]`` in the dtype of x. :func:`spikeloom.decode.rank_order` reads them.

    Thorpe and Gautrais, Rank Order Coding, Computational Neuroscience: Trends in Research, 1998.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.rank_order(torch.tensor([[0.2, 0.9, 0.5]]), 3)[:, 0].T
    tensor([[0., 0., 1.],
            [1., 0., 0.],
            [0., 1., 0.]])
    """
    who = "encode.rank_order"
    x = floating(x, who)
    check_steps(x, T, who)
    refuse_nan(x, f"{who}: x holds NaN")
    N = math.prod(x.shape[1:])
    order = x.reshape(len(x), N).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1).reshape(x.shape)
    times = rank if N <= T else torch.div(rank * T, N, rounding_mode="floor")
    return given((steps_like(x, T) == times).to(x.dtype), lengths, batch_first)
