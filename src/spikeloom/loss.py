"""Losses on spike trains and membranes ``[T, B, C]``.

Shared by all: ``target`` holds class indices ``[B]`` unless a loss says otherwise; ``weight`` ``[C]`` weighs samples by
their class; ``reduction`` is ``"mean"`` (``sum w_y l / sum w_y``, as in torch), ``"sum"`` or ``"none"`` (``[B]``);
``lengths`` ``[B]`` leaves out the steps past each sample's end.

Notation: s spikes, v membrane, y target, L steps of the sample (T without lengths), CE cross entropy.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from . import decode
from ._time import check_sequence, duration, masked

Reduction = Literal["mean", "sum", "none"]


def rate_cross_entropy(
    spikes: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    lengths: Tensor | None = None,
) -> Tensor:
    """``1/L sum_t CE(s[t], y)``: every step shall name the class. snnTorch's ``ce_rate_loss``; for outputs that
    are not spikes the first part of TET.

    >>> import torch
    >>> from spikeloom import loss
    >>> loss.rate_cross_entropy(torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]]), torch.tensor([0]))
    tensor(0.5032)
    """
    _check_classes(spikes, target, "loss.rate_cross_entropy")
    return _reduce(_step_cross_entropy(spikes, target, label_smoothing, lengths), target, weight, reduction)


def count_cross_entropy(
    spikes: Tensor,
    target: Tensor,
    *,
    num_classes: int | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    lengths: Tensor | None = None,
) -> Tensor:
    """``CE(sum_t s[t], y)``; with ``num_classes`` the counts of populations (:func:`decode.population`)."""
    counts = _counts(spikes, num_classes, lengths)
    _check_target(counts, target, "loss.count_cross_entropy")
    return _reduce(_cross_entropy(counts, target, label_smoothing), target, weight, reduction)


def max_membrane_cross_entropy(
    v: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    lengths: Tensor | None = None,
) -> Tensor:
    """``CE(max_t v[t], y)``. Record the membrane of the last layer (``record=("4.v",)``) or end with ``sl.LI``."""
    _check_classes(v, target, "loss.max_membrane_cross_entropy")
    peak = decode.membrane(v, "max", lengths=lengths)
    return _reduce(_cross_entropy(peak, target, label_smoothing), target, weight, reduction)


def count_mse(
    spikes: Tensor,
    target: Tensor,
    *,
    correct_rate: float = 1.0,
    incorrect_rate: float = 0.0,
    num_classes: int | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    lengths: Tensor | None = None,
) -> Tensor:
    """``1/L mean_c (n_c - n*_c)^2`` of spike counts n; the wanted count n* is ``correct_rate`` (of the target's
    class) or ``incorrect_rate`` times L, rounded down.

    With ``num_classes`` the counts are those of populations of M neurons, and n* is M times as large.
    """
    counts = _counts(spikes, num_classes, lengths)
    _check_target(counts, target, "loss.count_mse")
    members = spikes.shape[-1] // counts.shape[-1]
    steps = duration(spikes, lengths)
    right = F.one_hot(target, counts.shape[-1]).bool()
    wanted = torch.where(
        right, (steps * correct_rate).floor().unsqueeze(1), (steps * incorrect_rate).floor().unsqueeze(1)
    )
    return _reduce((counts - members * wanted).square().mean(-1) / steps, target, weight, reduction)


def membrane_mse(
    v: Tensor,
    target: Tensor,
    *,
    on_target: float = 1.0,
    off_target: float = 0.0,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    lengths: Tensor | None = None,
) -> Tensor:
    """``1/L sum_t mean_c (v_c[t] - v*_c[t])^2``.

    Args:
        target: class indices ``[B]`` (v* is ``on_target`` for the class, ``off_target`` for the others) or, for
            regression, floats ``[B, C]`` or ``[T, B, C]``, wanted as they are (then ``weight`` does not apply).
    """
    check_sequence(v, "loss.membrane_mse", ndim=3)
    if target.dtype.is_floating_point:
        if target.shape not in (v.shape, v.shape[1:]):
            raise ValueError(
                f"loss.membrane_mse: a real target must be [T, B, C] = {list(v.shape)} or [B, C], got "
                f"{list(target.shape)}"
            )
        if weight is not None:
            raise ValueError("loss.membrane_mse: weight belongs to class targets")
        wanted = target
    else:
        _check_target(v[0], target, "loss.membrane_mse")
        right = F.one_hot(target, v.shape[-1]).bool()
        wanted = torch.where(right, on_target, off_target).to(v.dtype)
    per_step = masked((v - wanted).square().mean(-1), lengths)
    return _reduce(per_step.sum(0) / duration(v, lengths), target, weight, reduction)


def first_spike_cross_entropy(
    spikes: Tensor,
    target: Tensor,
    *,
    inverse: Literal["negate", "reciprocal"] = "negate",
    silent: float | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    lengths: Tensor | None = None,
) -> Tensor:
    """``CE(-t, y)`` (negate) or ``CE(1 / (t + 1), y)`` (reciprocal) of first spike times t, in steps.

    ``silent``: see :func:`decode.first_spike`; snnTorch's ``ce_temporal_loss`` is ``silent=T-1``.
    """
    _check_classes(spikes, target, "loss.first_spike_cross_entropy")
    t = decode.first_spike(spikes, silent=silent, lengths=lengths)
    if inverse == "negate":
        logits = -t
    elif inverse == "reciprocal":
        logits = 1 / (t + 1)
    else:
        raise ValueError(f"loss.first_spike_cross_entropy: inverse must be negate or reciprocal, got {inverse!r}")
    return _reduce(_cross_entropy(logits, target, 0.0), target, weight, reduction)


def first_spike_mse(
    spikes: Tensor,
    target: Tensor,
    *,
    on_target: float = 0.0,
    off_target: float | None = None,
    tolerance: float = 0.0,
    silent: float | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    lengths: Tensor | None = None,
) -> Tensor:
    """``mean_c ((t_c - t*_c) / L)^2`` of first spike times t, in steps.

    Args:
        target: class indices ``[B]`` (t* is ``on_target`` for the class and ``off_target`` for the others; None is the
            last step, L-1), or wanted times ``[B, C]`` as floats (then ``weight`` does not apply).
        tolerance: spikes at most this many steps away from t* count as exact.
        silent: see :func:`decode.first_spike`.
    """
    check_sequence(spikes, "loss.first_spike_mse", ndim=3)
    t = decode.first_spike(spikes, silent=silent, lengths=lengths)
    steps = duration(spikes, lengths).unsqueeze(1)
    if target.dtype.is_floating_point:
        if target.shape != t.shape:
            raise ValueError(f"loss.first_spike_mse: times must be [B, C] = {list(t.shape)}, got {list(target.shape)}")
        if weight is not None:
            raise ValueError("loss.first_spike_mse: weight belongs to class targets")
        wanted = target
    else:
        _check_target(t, target, "loss.first_spike_mse")
        late = steps - 1 if off_target is None else torch.full_like(steps, off_target)
        wanted = torch.where(F.one_hot(target, t.shape[-1]).bool(), torch.full_like(steps, on_target), late)
    error = t - wanted
    error = torch.where(error.abs() <= tolerance, torch.zeros_like(error), error)
    return _reduce((error / steps).square().mean(-1), target, weight, reduction)


def tet(
    outputs: Tensor,
    target: Tensor,
    *,
    lamb: float = 1e-3,
    form: Literal["paper", "mean_output"] = "paper",
    phi: float = 1.0,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    lengths: Tensor | None = None,
) -> Tensor:
    """Temporal efficient training: ``(1 - lamb) 1/L sum_t CE(o[t], y) + lamb R``.

    Args:
        outputs: real outputs (membranes, currents) of the last layer, ``[T, B, C]``.
        form: ``"paper"``: ``R = 1/L sum_t mean_c (o_c[t] - phi)^2``;
            ``"mean_output"`` (snetx): ``R = CE(mean_t o[t], y)``.
        phi: level that the paper's R holds the outputs at.

    Deng et al., Temporal Efficient Training of SNNs via Gradient Re-weighting, ICLR 2022.
    """
    _check_classes(outputs, target, "loss.tet")
    steps = _step_cross_entropy(outputs, target, label_smoothing, lengths)
    if form == "paper":
        level = torch.full_like(outputs[0], phi)
        rest = membrane_mse(outputs, level, reduction="none", lengths=lengths)
    elif form == "mean_output":
        rest = _cross_entropy(decode.membrane(outputs, "mean", lengths=lengths), target, label_smoothing)
    else:
        raise ValueError(f"loss.tet: form must be paper or mean_output, got {form!r}")
    return _reduce((1 - lamb) * steps + lamb * rest, target, weight, reduction)


def _counts(spikes: Tensor, num_classes: int | None, lengths: Tensor | None) -> Tensor:
    if num_classes is not None:
        return decode.population(spikes, num_classes, lengths=lengths)
    check_sequence(spikes, "loss", ndim=3)
    return decode.count(spikes, lengths=lengths)


def _step_cross_entropy(outputs: Tensor, target: Tensor, smoothing: float, lengths: Tensor | None) -> Tensor:
    """Mean over the valid steps of the cross entropy of each, ``[B]``."""
    T, B = outputs.shape[:2]
    flat = _cross_entropy(masked(outputs, lengths).flatten(0, 1), target.repeat(T), smoothing)
    return masked(flat.reshape(T, B), lengths).sum(0) / duration(outputs, lengths)


def _cross_entropy(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)


def _reduce(per_sample: Tensor, target: Tensor, weight: Tensor | None, reduction: Reduction) -> Tensor:
    w = torch.ones_like(per_sample) if weight is None else weight.to(per_sample)[target]
    if reduction == "mean":
        return (w * per_sample).sum() / w.sum()
    if reduction == "sum":
        return (w * per_sample).sum()
    if reduction == "none":
        return w * per_sample
    raise ValueError(f"reduction must be one of mean, sum, none; got {reduction!r}")


def _check_classes(x: Tensor, target: Tensor, who: str) -> None:
    check_sequence(x, who, ndim=3)
    _check_target(x[0], target, who)


def _check_target(logits: Tensor, target: Tensor, who: str) -> None:
    if target.dtype != torch.int64 or target.shape != logits.shape[:1]:
        raise ValueError(
            f"{who}: target must hold class indices, int64 [B] = [{logits.shape[0]}], got {target.dtype} "
            f"{list(target.shape)}"
        )
