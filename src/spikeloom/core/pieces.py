"""Pieces: values and gradients of a call of many steps as they come, and how one sequence is made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .._time import trailing, valid_steps
from .folding import Folding, map_tensors
from .recording import arranged

Arrange = Callable[[list[Any]], Any]
"""Makes one value of the pieces that it was seen in."""


class Piece(NamedTuple):
    """What one call of a module has given: at which step, for which samples (None: all), in which order of steps."""

    value: Any
    step: int
    going: Tensor | None
    order: Tensor | None


@dataclass(frozen=True)
class Blank:
    """A tensor of which there is a gradient to come."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


class Gradients:
    """Gradients of one place, until the backward pass that brings them has ended. Holds nothing of the graph."""

    def __init__(self) -> None:
        self.groups: list[tuple[list[int], Arrange, Callable[[Any], None]]] = []
        self._pieces: list[tuple[list[Any], Any]] = []
        self._found: dict[tuple[int, int], Tensor] = {}

    def watch(self, value: Any) -> tuple[Any, Any]:
        """Waits for the gradient of a value; returns what stands for it, and what to go on with.

        The gradient is that of what is done with what goes on, not of what a module does with its own output.
        """
        leaves, spec = pytree.tree_flatten(value)
        blanks, n = [], len(self._pieces)
        for i, x in enumerate(leaves):
            if isinstance(x, Tensor):
                blanks.append(Blank(x.shape, x.dtype, x.device))
                if x.requires_grad and torch.is_grad_enabled():
                    x = x.view_as(x)
                    x.register_hook(partial(self._arrive, (n, i)))
                    leaves[i] = x.clone()  # what works in place has another tensor
            else:
                blanks.append(x)
        self._pieces.append((blanks, spec))
        return pytree.tree_unflatten(blanks, spec), pytree.tree_unflatten(leaves, spec)

    def _arrive(self, place: tuple[int, int], gradient: Tensor) -> None:
        if not self._found:
            torch.autograd.Variable._execution_engine.queue_callback(self._end)
        self._found[place] = gradient.detach()

    def _end(self) -> None:
        found, self._found = self._found, {}
        for places, arrange, take in self.groups:
            if any(piece in places for piece, _ in found):
                take(arrange([self._filled(piece, found) for piece in places]))

    def _filled(self, piece: int, found: dict[tuple[int, int], Tensor]) -> Any:
        """The gradients of a piece, 0 where none came."""
        blanks, spec = self._pieces[piece]
        leaves = [
            found[piece, i]
            if (piece, i) in found
            else torch.zeros(x.shape, dtype=x.dtype, device=x.device)
            if isinstance(x, Blank)
            else x
            for i, x in enumerate(blanks)
        ]
        return pytree.tree_unflatten(leaves, spec)


def stacked(steps: list[Piece], folding: Folding, values: list[Any]) -> Any:
    """Values of single steps as one of all T, 0 at the steps and for the samples that there are none of."""
    trees = [pytree.tree_flatten(value) for value in values]
    leaves = []
    for parts in zip(*(flat for flat, _ in trees), strict=True):
        if not isinstance(parts[0], Tensor):
            leaves.append(parts[0])
            continue
        full: list[Tensor | None] = [None] * folding.T
        for piece, part in zip(steps, parts, strict=True):
            full[piece.step] = part if piece.going is None else _spread(part, piece.going, folding.B)
        zero = torch.zeros_like(next(x for x in full if x is not None))
        found = torch.stack([zero if x is None else x for x in full])
        leaves.append(tidied(found, folding, steps[0].order) if folding.is_sequence(found) else found)
    return pytree.tree_unflatten(leaves, trees[0][1])


def whole(folding: Folding, order: Tensor | None, values: list[Any]) -> Any:
    """A value that was seen at once, its steps in the order of time."""

    def tidy(x: Tensor) -> Tensor:
        x = folding.seen(x)
        return tidied(x, folding, order) if folding.is_sequence(x) else x

    return map_tensors(partial(arranged, tidy), values[0])


def tidied(x: Tensor, folding: Folding, order: Tensor | None) -> Tensor:
    """``x`` ``[T, B, *]`` with steps where they belong, 0 past each sample's length."""
    if order is not None:
        x = x[order.expand(folding.T, folding.B), torch.arange(folding.B, device=x.device)]
    if folding.lengths is None:
        return x
    return torch.where(trailing(valid_steps(folding.lengths.to(x.device), folding.T), x.ndim), x, 0)


def _spread(x: Tensor, going: Tensor, B: int) -> Tensor:
    """What there is for the samples ``going`` among all B of them."""
    if going.shape[0] == B or x.ndim == 0 or x.shape[0] != going.shape[0]:
        return x
    return x.new_zeros((B, *x.shape[1:])).index_copy(0, going.to(x.device), x)
