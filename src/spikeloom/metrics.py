"""Accuracies of spike trains ``[T, B, C]`` against class indices ``[B]``: 0-dimensional tensors from 0 to 1.

All take ``lengths`` (``[B]``, optional); ``batch_first`` for trains ``[B, T, C]``; and ``ignore_index``: samples of
this class do not count (if none is left, the accuracy is NaN). Ties go to the lower class index. A sample whose
compared values include NaN counts as wrong.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _peers, decode
from ._time import sequence, wide

__all__ = [
    "accuracy_first_spike",
    "accuracy_population",
    "accuracy_rate",
]


@_peers.told
def accuracy_rate(
    spikes: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Share of samples whose most active output (for membranes, the highest on average) is the target.

    >>> import torch
    >>> from spikeloom import metrics
    >>> spikes = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    >>> metrics.accuracy_rate(spikes, torch.tensor([0, 0]))
    tensor(0.5000)
    """
    who = "metrics.accuracy_rate"
    counts = decode.count(_trains(spikes, who, batch_first), lengths=lengths)  # counts rank as rates do, and are exact
    return _accuracy(counts, target, ignore_index, who)


@_peers.told
def accuracy_first_spike(
    spikes: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Share of samples whose first output to fire is the target. A sample without any spike is wrong.

    >>> import torch
    >>> import spikeloom as sl
    >>> spikes = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]])  # the second sample never fires
    >>> sl.metrics.accuracy_first_spike(spikes, torch.tensor([0, 0]))
    tensor(0.5000)
    """
    who = "metrics.accuracy_first_spike"
    x = _trains(spikes, who, batch_first).detach()
    times = decode.first_spike(x, silent=float("inf"), lengths=lengths)
    never = times.isinf().all(-1, keepdim=True)
    return _accuracy((-times).masked_fill(never, float("nan")), target, ignore_index, who)


@_peers.told
def accuracy_population(
    spikes: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    ignore_index: int = -100,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Share of samples whose most active population (:func:`decode.population`) is the target.

    >>> import torch
    >>> import spikeloom as sl
    >>> spikes = torch.tensor([[[1.0, 0.0, 1.0, 1.0]]])  # neurons 0 and 1 stand for class 0, 2 and 3 for class 1
    >>> sl.metrics.accuracy_population(spikes, torch.tensor([1]), 2)
    tensor(1.)
    """
    who = "metrics.accuracy_population"
    counts = decode.population(_trains(spikes, who, batch_first), num_classes, lengths=lengths)
    return _accuracy(counts, target, ignore_index, who)


def _trains(x: Tensor, who: str, batch_first: bool) -> Tensor:
    x = sequence(x, who, ndim=3, batch_first=batch_first)
    if x.ndim != 3 or x.shape[2] == 0:
        wanted = "[B, T, C]" if batch_first else "[T, B, C]"
        raise ValueError(
            f"{who}: expected {wanted} with C > 0, got {list(x.transpose(0, 1).shape if batch_first else x.shape)}"
        )
    return x


def _accuracy(scores: Tensor, target: Tensor, ignore_index: int, who: str) -> Tensor:
    """The share of samples whose highest score, of ``[B, C]``, is that of the target."""
    if not isinstance(target, Tensor) or target.shape != scores.shape[:1] or target.dtype.is_floating_point:
        got = f"{list(target.shape)} of {target.dtype}" if isinstance(target, Tensor) else type(target).__name__
        raise ValueError(
            f"{who}: target must hold class indices, [B] = [{scores.shape[0]}], got {got}; shares of classes have the "
            "indices target.argmax(-1), and spikes [B, T, C] need batch_first=True"
        )
    right = (scores.argmax(-1) == target) & ~scores.isnan().any(-1)
    counted = target != ignore_index
    return (right & counted).sum() / counted.sum().to(wide(torch.get_default_dtype()))
