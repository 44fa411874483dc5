"""rows: what layers over time share. Plain layers on the valid steps of a sequence, and the step that each row is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._time import check_lengths, valid_steps


def on_valid_steps(layer: Callable[[Tensor], Tensor], x: Tensor, lengths: Tensor | None) -> Tensor:
    """``layer`` of the rows of ``x`` ``[T, B, *]``, which are one batch to it; 0 at steps past a sample's length."""
    flat = x.flatten(0, 1)
    if lengths is None:
        every: Tensor = layer(flat).unflatten(0, x.shape[:2])
        return every
    valid = valid_steps(check_lengths(lengths, *x.shape[:2], device=x.device), x.shape[0])
    rows = valid.flatten().nonzero().squeeze(1)
    y = layer(flat.index_select(0, rows))
    return y.new_zeros((flat.shape[0], *y.shape[1:])).index_copy(0, rows, y).view(*x.shape[:2], *y.shape[1:])


def no_steps(x_t: Tensor) -> Tensor:
    """How many steps each sample has seen before the first one, int64 ``[B]``."""
    return torch.zeros(x_t.shape[0], dtype=torch.long, device=x_t.device)


class Steps:
    """Which steps a sequence ``x`` ``[T, B, *]`` is, for layers with something of its own for each of ``most`` steps.

    Raises ValueError where the sequence goes beyond them.

    Attributes:
        at: the number of each step, int64: ``[T, 1]`` where it is the same for all samples, else ``[T, B]``. Steps past
            a sample's length have some number below ``most``.
        after: how many steps each sample has seen afterwards, ``[B]``.
        first: the number of the first step where it is known to be that of all samples and all steps are valid.
    """

    def __init__(self, who: str, most: int, x: Tensor, seen: Tensor | None, lengths: Tensor | None) -> None:
        T, B = x.shape[:2]
        before = no_steps(x[0]) if seen is None else seen
        count = torch.full_like(before, T) if lengths is None else check_lengths(lengths, T, B, device=x.device)
        self.after = before + count
        last = T if seen is None and lengths is None else int(self.after.max())
        if last > most:
            raise ValueError(
                f"{who}: was made for T = {most} steps, this sequence goes to step {last}; give it a larger T"
            )
        self.first: int | None = 0 if lengths is None else None
        if seen is not None and lengths is None:
            low = int(seen.min())
            self.first = low if low + T == last else None
        starts = before[:1] if self.first is not None else before
        self.at = (starts + torch.arange(T, device=x.device).unsqueeze(1)).clamp(max=most - 1)
