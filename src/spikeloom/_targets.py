"""Targets of losses and metrics: classes or shares of classes, of samples or of steps, and which of them count."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ._time import duration, masked, readable

Reduction = Literal["mean", "sum", "none"]


@dataclass(frozen=True)
class Targets:
    """The targets of rows of outputs. Rows are samples, ``[B]``, or steps of samples, ``[T, B]``.

    A row that does not count, because it lies past its sample's end or its class is ``ignore_index``, has a loss, a
    weight and a gradient of 0 whatever its values.

    Attributes:
        kept: which rows count, ``[B]`` or ``[T, B]``.
        every: whether all are known to count, so that nothing has to be masked.
        index: the class of each row, or of each sample; 0 where it does not count.
        shares: instead of ``index``, the probabilities of the classes, ``[B, C]`` or ``[T, B, C]``.
        weight: the weights of the classes, ``[C]``.
    """

    kept: Tensor
    every: bool = False
    index: Tensor | None = None
    shares: Tensor | None = None
    weight: Tensor | None = None

    def cross_entropy(self, logits: Tensor, smoothing: float) -> Tensor:
        """Weighted cross entropy of each row of ``logits`` ``[*, C]``."""
        rows = self.clear(logits).flatten(0, -2)
        if self.index is not None:
            target = self.index.expand(self.kept.shape).flatten()
        else:
            assert self.shares is not None
            target = self.shares.to(rows.dtype).expand(logits.shape).flatten(0, -2)
        weight = None if self.weight is None else self.weight.to(rows)
        each = F.cross_entropy(rows, target, weight=weight, reduction="none", label_smoothing=smoothing)
        each = each.reshape(self.kept.shape)
        return each if self.every else torch.where(self.kept, each, 0)

    def squares(self, values: Tensor, wanted: Tensor) -> Tensor:
        """Mean over the classes of ``(values - wanted)^2``, weighted, of each row of ``[*, C]``."""
        error = self.clear(values - wanted).square().mean(-1)
        return error if self.weight is None else error * self.weights(error.dtype)

    def mixed(self, on: float | Tensor, off: float | Tensor, like: Tensor) -> Tensor:
        """``on`` for the class and ``off`` for the others, in their shares: ``[B, C]`` or ``[T, B, C]``."""
        high, low = (torch.as_tensor(value, dtype=like.dtype, device=like.device) for value in (on, off))
        if self.index is not None:
            right = self.index.unsqueeze(-1) == torch.arange(like.shape[-1], device=like.device)
            return torch.where(right, high, low)
        assert self.shares is not None
        return low + self.shares.to(like.dtype) * (high - low)

    def weights(self, dtype: torch.dtype) -> Tensor:
        """The weight of each row: that of its class, or of its classes by their shares."""
        if self.weight is None:
            return self.kept.to(dtype)
        weight = self.weight.to(self.kept.device, dtype)
        if self.index is not None:
            return torch.where(self.kept, weight[self.index], 0)
        assert self.shares is not None
        return torch.where(self.kept, (self.shares.to(dtype) * weight).sum(-1), 0)  # autocast leaves sums alone

    def divisor(self, dtype: torch.dtype) -> Tensor:
        """How much each row counts in a mean: as in torch, the weight of its class, or 1 where there are shares."""
        return self.kept.to(dtype) if self.shares is not None else self.weights(dtype)

    def clear(self, values: Tensor) -> Tensor:
        """``values`` ``[*, C]`` with 0 in the rows that do not count."""
        return values if self.every else torch.where(self.kept.unsqueeze(-1), values, 0)


def read(
    target: Tensor,
    outputs: Tensor,
    who: str,
    *,
    weight: Tensor | None,
    ignore_index: int,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Targets:
    """The targets of the rows of ``outputs``: rows of ``[B, C]`` are samples, those of ``[T, B, C]`` steps. A target
    that is given for each sample is that of all its steps.
    """
    steps = outputs.ndim == 3
    if not isinstance(target, Tensor):
        raise TypeError(f"{who}: target must be a tensor, got {type(target).__name__}; make one with torch.as_tensor")
    if weight is not None:
        _check_weight(weight, outputs, who)
    given, soft = target, target.dtype.is_floating_point
    if steps and target.ndim == 2 + soft:
        target = target.transpose(0, 1) if batch_first else target
    rows = outputs.shape[:-1]
    fits = outputs.shape if soft else rows
    if not (soft or target.dtype == torch.int64) or target.shape not in (fits, fits[-1 - soft :]):
        raise ValueError(_refusal(given, outputs, who, batch_first=batch_first))
    y = real(outputs, lengths)
    if soft:
        shares = target.masked_fill(~y.kept.unsqueeze(-1), 0) if target.shape == outputs.shape else target
        return replace(y, shares=shares, weight=weight)
    counted = target != ignore_index
    kept = y.kept & counted
    index = target.masked_fill(~(kept if target.shape == rows else counted), 0)
    every = False
    if index.device.type == "cpu" and readable(index):
        _check_classes(index, outputs.shape[-1], ignore_index, who)
        every = y.every and bool(counted.all())
    return Targets(kept, every, index=index, weight=weight)


def real(outputs: Tensor, lengths: Tensor | None) -> Targets:
    """Targets that are no classes: all valid rows of ``outputs`` ``[*, C]`` count, with equal weight."""
    valid = torch.ones(outputs.shape[:-1], dtype=torch.bool, device=outputs.device)
    return Targets(masked(valid, lengths, fill=False), every=lengths is None)


def over_time(rows: Tensor, outputs: Tensor, lengths: Tensor | None) -> Tensor:
    """``1/L sum_t`` of rows ``[T, B]``, as ``[B]``; rows past a sample's end must be 0."""
    return rows.sum(0) / duration(outputs, lengths).to(rows.dtype)


def reduce(each: Tensor, divisor: Tensor, reduction: Reduction, who: str) -> Tensor:
    """Reduces weighted losses ``[B]``."""
    if reduction == "mean":
        return each.sum() / divisor.sum()
    if reduction == "sum":
        return each.sum()
    if reduction == "none":
        return each
    raise ValueError(f"{who}: reduction must be one of mean, sum, none; got {reduction!r}")


def _check_weight(weight: Tensor, outputs: Tensor, who: str) -> None:
    C = outputs.shape[-1]
    if not isinstance(weight, Tensor) or weight.shape != (C,):
        got = list(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        raise ValueError(f"{who}: weight must be a tensor with a number for each class, [C] = [{C}], got {got}")


def _check_classes(index: Tensor, C: int, ignore_index: int, who: str) -> None:
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= C:
        wrong = low if low < 0 else high
        raise ValueError(
            f"{who}: target holds the class {wrong}, but outputs have C = {C} classes, 0 to {C - 1}; what shall not "
            f"count is marked by ignore_index (here {ignore_index})"
        )


def _refusal(target: Tensor, outputs: Tensor, who: str, *, batch_first: bool) -> str:
    """The error text: which targets are accepted, which one was given, and what to do."""
    B, C = outputs.shape[-2:]
    classes, shares = [f"[B] = [{B}]"], [f"[B, C] = [{B}, {C}]"]
    if outputs.ndim == 3:
        T = outputs.shape[0]
        names, sizes = ("B, T", f"{B}, {T}") if batch_first else ("T, B", f"{T}, {B}")
        classes.append(f"[{names}] = [{sizes}]")
        shares.append(f"[{names}, C] = [{sizes}, {C}]")
    return (
        f"{who}: target must hold class indices, int64 {' or '.join(classes)}, or floats {' or '.join(shares)}; "
        f"got {target.dtype} {list(target.shape)}{_remedy(target, outputs, batch_first)}"
    )


def _remedy(target: Tensor, outputs: Tensor, batch_first: bool) -> str:
    shape, rows, C = tuple(target.shape), tuple(outputs.shape[:-1]), outputs.shape[-1]
    by_step = rows[::-1] if batch_first else rows
    if shape in (by_step, rows[-1:]):
        return "; target.long() makes indices of numbers that are whole"
    if len(rows) == 2 and (shape[:2] == by_step[::-1] or shape in ((rows[0],), (rows[0], C))):
        other = "[T, B, *]" if batch_first else "[B, T, *]"
        return f"; if outputs and targets are {other}, pass batch_first={not batch_first}"
    return ""
