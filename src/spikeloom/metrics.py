"""Accuracies of spike trains ``[T, B, C]`` against class indices ``[B]``: 0-dimensional tensors from 0 to 1.

All take ``lengths`` (``[B]``, optional). Ties go to the lower class index.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import decode
from ._time import check_sequence


def accuracy_rate(spikes: Tensor, target: Tensor, *, lengths: Tensor | None = None) -> Tensor:
    """Share of samples whose most active (or, for membranes, on average highest) output is the target.

    >>> import torch
    >>> from spikeloom import metrics
    >>> spikes = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    >>> metrics.accuracy_rate(spikes, torch.tensor([0, 0]))
    tensor(0.5000)
    """
    check_sequence(spikes, "metrics.accuracy_rate", ndim=3)
    return _accuracy(decode.rate(spikes, lengths=lengths), target)


def accuracy_first_spike(spikes: Tensor, target: Tensor, *, lengths: Tensor | None = None) -> Tensor:
    """Share of samples whose first output to fire is the target. A sample without any spike is wrong."""
    check_sequence(spikes, "metrics.accuracy_first_spike", ndim=3)
    times = decode.first_spike(spikes.detach(), silent=float("inf"), lengths=lengths)
    right = (times.argmin(-1) == _checked(target, times)) & times.isfinite().any(-1)
    return right.to(torch.get_default_dtype()).mean()


def accuracy_population(spikes: Tensor, target: Tensor, num_classes: int, *, lengths: Tensor | None = None) -> Tensor:
    """Share of samples whose most active population (:func:`decode.population`) is the target."""
    return _accuracy(decode.population(spikes, num_classes, lengths=lengths), target)


def _accuracy(scores: Tensor, target: Tensor) -> Tensor:
    return (scores.argmax(-1) == _checked(target, scores)).to(torch.get_default_dtype()).mean()


def _checked(target: Tensor, scores: Tensor) -> Tensor:
    if target.shape != scores.shape[:1]:
        raise ValueError(f"metrics: target must be [B] = [{scores.shape[0]}], got {list(target.shape)}")
    return target
