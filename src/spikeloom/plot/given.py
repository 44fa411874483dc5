"""What functions that draw are given: tensors of any kind, numbers, recordings, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import data
from ..spikes import SpikeTensor


def values_of(x: Any, who: str) -> Tensor:
    """The values of a tensor, an array or a list of numbers: dense, on the CPU, in a dtype that NumPy has."""
    try:
        if isinstance(x, (list, tuple)) and x and all(isinstance(item, Tensor) for item in x):
            x = torch.stack([item.detach() for item in x])  # a list that a loop over steps filled
        values = torch.as_tensor(x).detach()
        values = values.unpack() if isinstance(values, SpikeTensor) else values
        values = (values if values.layout == torch.strided else values.to_dense()).cpu()
    except (TypeError, ValueError, RuntimeError) as wrong:
        raise TypeError(f"{who}: expected a tensor with values, got {kind(x)}: {wrong}") from wrong
    if values.is_complex():
        raise TypeError(f"{who}: expected real numbers, got {values.dtype}; take .abs() or .real of them")
    if values.dtype in (torch.uint16, torch.uint32, torch.uint64):
        values = values.long()  # for which torch has few operations
    whole = not values.dtype.is_floating_point and values.dtype != torch.bool
    return values if whole or values.dtype == torch.float64 else values.float()


def shaped(x: Any, who: str, what: str, dims: Sequence[str], *, rest: bool = False) -> Tensor:
    """The values of ``what``, which must have the dimensions ``dims``, none of them 0.

    With ``rest`` any number of dimensions may follow, and all after the first become one.
    """
    values = values_of(x, who)
    fits = values.ndim > len(dims) if rest else values.ndim == len(dims)
    if not fits or values.numel() == 0:
        names = ", ".join([*dims, "*"] if rest else dims)
        hint = "; take one sample of the batch, as in x[:, 0]" if values.ndim > max(len(dims), 2) else ""
        above = f"{', '.join(dims)} > 0" + (" and neurons" if rest else "")
        raise ValueError(f"{who}: expected {what}, [{names}] with {above}, got {list(values.shape)}{hint}")
    return values.flatten(len(dims)) if rest else values


def number(x: Any, who: str, name: Any) -> float:
    """The float of a number or of a tensor with one element."""
    try:
        return float(x.detach() if isinstance(x, Tensor) else x)
    except (TypeError, ValueError, RuntimeError) as wrong:
        raise TypeError(f"{who}: expected a number for {name!r}, got {kind(x)}: {wrong}") from wrong


def recording_of(x: Any, who: str) -> data.Recording:
    """The recording that anything with events is."""
    try:
        return data.events.as_recording(x)
    except data.DataError as wrong:
        raise data.DataError(f"{who}: {wrong}") from wrong


def names_of(labels: Sequence[Any] | None, N: int, who: str) -> list[str]:
    """A name for each of N neurons: its label, or its number."""
    if labels is not None and len(labels) != N:
        raise ValueError(f"{who}: expected a label for each of the {N} neurons, got {len(labels)}")
    return [str(name) for name in (range(N) if labels is None else labels)]


def check_highlight(highlight: Any, N: int, who: str) -> None:
    """Raises unless one of N neurons, or None, is to be highlighted."""
    if highlight is not None and (not isinstance(highlight, int) or not 0 <= highlight < N):
        raise ValueError(f"{who}: highlight must be one of the neurons 0 to {N - 1}, got {highlight!r}")


def check_whole(who: str, **numbers: int) -> None:
    """Raises unless all numbers are whole and at least 1."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{who}: {name} must be a whole number of at least 1, got {value!r}")


def evenly(total: int, most: int) -> Tensor:
    """At most ``most`` of the numbers 0 to ``total - 1``, evenly spread, the first and the last among them."""
    n = min(total, most)
    return torch.arange(n) * (total - 1) // max(n - 1, 1)


def thinned(title: str, shown: int, total: int, what: str) -> str:
    """The title, which says how many of ``what`` are shown where not all are."""
    return title if shown == total else f"{title} ({shown:,} of {total:,} {what})".lstrip()


def kind(x: Any) -> str:
    """What something is, in words."""
    return f"a tensor on {x.device}" if isinstance(x, Tensor) else type(x).__name__
