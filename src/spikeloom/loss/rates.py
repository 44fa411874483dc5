"""Regularisers of firing rates, which take the recorded output of any layer: rate_l1, rate_l2, rate_bounds.

:mod:`spikeloom.loss` has them. ``spikes`` are ``[T, B, *]``; r is the rate of a neuron of a sample, its spikes divided
by the number of steps of the sample. All take ``lengths`` (``[B]``, optional), ``batch_first`` and ``reduction``: a
value for each sample is averaged, summed or, with ``"none"``, returned as ``[B]``. They are float64 for float64 spikes
and float32 for all others.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .. import _peers
from .._targets import Reduction, reduce
from .._time import duration, masked, sequence, trailing, wide


@_peers.told
def rate_l1(
    spikes: Tensor, *, reduction: Reduction = "mean", lengths: Tensor | None = None, batch_first: bool = False
) -> Tensor:
    """``mean_i |r_i|`` over the neurons i. snnTorch's ``l1_rate_sparsity(lam)`` is ``lam T N`` times the sum of it.

    >>> import torch
    >>> from spikeloom import loss
    >>> loss.rate_l1(torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]]))
    tensor(0.7500)
    """
    who = "loss.rate_l1"
    return _reduced(_rates(spikes, who, lengths, batch_first).abs().mean(1), reduction, who)


@_peers.told
def rate_l2(
    spikes: Tensor, *, reduction: Reduction = "mean", lengths: Tensor | None = None, batch_first: bool = False
) -> Tensor:
    """``mean_i r_i^2`` over the neurons i, which weighs busy neurons more.

    >>> import torch
    >>> from spikeloom import loss
    >>> loss.rate_l2(torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]]))
    tensor(0.6250)
    """
    who = "loss.rate_l2"
    return _reduced(_rates(spikes, who, lengths, batch_first).square().mean(1), reduction, who)


@_peers.told
def rate_bounds(
    spikes: Tensor,
    *,
    lower: float | None = None,
    upper: float | None = None,
    power: float = 2.0,
    over: Literal["neurons", "population"] = "neurons",
    reduction: Reduction = "mean",
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """``mean_i max(0, lower - r_i)^power + max(0, r_i - upper)^power``: neither silent neurons nor busy ones.

    Args:
        lower, upper: bounds of the rates, in spikes a step; None is no bound.
        power: how a rate outside counts, at least 1.
        over: whether each neuron is to keep to the bounds, ``"neurons"``, or the mean rate of all neurons of a sample,
            ``"population"``.

    Zenke and Vogels, The Remarkable Robustness of Surrogate Gradient Learning for Instilling Complex Function in
    Spiking Neural Networks, Neural Computation 33, 2021.

    >>> import torch
    >>> from spikeloom import loss
    >>> spikes = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    >>> loss.rate_bounds(spikes, lower=0.5, upper=0.5), loss.rate_bounds(spikes, upper=0.25, over="population")
    (tensor(0.2500), tensor(0.0625))
    """
    who = "loss.rate_bounds"
    if lower is None and upper is None:
        raise ValueError(f"{who}: give lower, upper or both")
    if lower is not None and upper is not None and lower > upper:
        raise ValueError(f"{who}: lower must not exceed upper, got {lower} and {upper}")
    if not power >= 1:
        raise ValueError(f"{who}: power must be at least 1, got {power}")
    rates = _rates(spikes, who, lengths, batch_first)
    if over == "population":
        rates = rates.mean(1, keepdim=True)
    elif over != "neurons":
        raise ValueError(f"{who}: over must be neurons or population, got {over!r}")
    outside = rates.new_zeros(())
    if lower is not None:
        outside = outside + torch.relu(lower - rates) ** power
    if upper is not None:
        outside = outside + torch.relu(rates - upper) ** power
    return _reduced(outside.mean(1), reduction, who)


def _rates(spikes: Tensor, who: str, lengths: Tensor | None, batch_first: bool) -> Tensor:
    """The rate of each neuron, ``[B, N]``."""
    spikes = sequence(spikes, who, batch_first=batch_first)
    dtype = wide(spikes.dtype)
    counts = masked(spikes, lengths).sum(0, dtype=dtype)
    return (counts / trailing(duration(spikes, lengths), counts.ndim).to(dtype)).reshape(spikes.shape[1], -1)


def _reduced(each: Tensor, reduction: Reduction, who: str) -> Tensor:
    return reduce(each, each.new_ones(each.shape), reduction, who)
