"""Folding: how T steps of B samples become the rows that plain layers see, and are sequences again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .._time import valid_steps


class Folding:
    """T steps of B samples.

    Args:
        T, B: steps and batch.
        lengths: valid steps per sample ``[B]`` or None.
        stepping: True where modules run one step (T is 1), and nothing is folded.
    """

    def __init__(self, T: int, B: int, lengths: Tensor | None = None, *, stepping: bool = False) -> None:
        self.T, self.B, self.lengths, self.stepping = T, B, lengths, stepping
        # Only valid steps are folded, so that plain layers (batch norm!) never see padding.
        self._index = None if lengths is None else valid_steps(lengths, T).flatten().nonzero().squeeze(1)

    @property
    def rows(self) -> int:
        """Rows of the folded tensors: T*B, or the number of valid steps."""
        return self.T * self.B if self._index is None else self._index.shape[0]

    def fold(self, x: Tensor) -> Tensor:
        """``[T, B, *]`` to ``[rows, *]``."""
        x = x.flatten(0, 1)
        return x if self._index is None else x.index_select(0, self._index)

    def unfold(self, x: Tensor, who: str) -> Tensor:
        """``[rows, *]`` to ``[T, B, *]``, 0 at the steps past a sample's length."""
        self._check_rows(x, who)
        if self._index is not None:
            x = x.new_zeros((self.T * self.B, *x.shape[1:])).index_copy(0, self._index, x)
        return x.reshape(self.T, self.B, *x.shape[1:])

    def _check_rows(self, x: Tensor, who: str) -> Tensor:
        if x.ndim == 0 or x.shape[0] != self.rows:
            rows = f"T*B = {self.T}*{self.B}" if self._index is None else "the sum of lengths"
            raise ValueError(
                f"{who}: got {list(x.shape)}, expected dimension 0 to be {rows} = {self.rows}: inside a Network "
                "time is folded into the batch, and layers must keep those rows apart. A forward repeats nothing, has "
                "no loop over time and no mean over dimension 0: that is net(x, repeat=T), and y.mean(0) of what it "
                "gives. For a module that is called once per step, use sl.Loop"
            )
        return x

    def fold_tree(self, tree: Any) -> Any:
        """Folds every tensor of a pytree."""
        return map_tensors(self.fold, tree)

    def unfold_tree(self, tree: Any, who: str) -> Any:
        """Unfolds every tensor of a pytree; an error names the leaf."""
        return _map_named(self.unfold, tree, who)

    def check_tree(self, tree: Any, who: str) -> None:
        """Raises unless every tensor of a pytree is folded; an error names the leaf."""
        _map_named(self._check_rows, tree, who)

    def seen(self, tree: Any) -> Any:
        """What a layer has as a sequence: its rows unfolded, a step and what has other rows as it is."""
        return map_tensors(self._seen, tree)

    def _seen(self, x: Tensor) -> Tensor:
        return x if self.stepping or x.ndim == 0 or x.shape[0] != self.rows else self.unfold(x, "")

    def is_sequence(self, x: Tensor) -> bool:
        """Whether a tensor is ``[T, B, *]``."""
        return x.shape[:2] == (self.T, self.B)


def map_tensors(function: Any, tree: Any) -> Any:
    """``function`` of every tensor of a pytree; other leaves stay."""
    if isinstance(tree, Tensor):
        return function(tree)
    if type(tree) is dict:  # states, for which the general way takes five times as long
        return {key: map_tensors(function, value) for key, value in tree.items()}
    return pytree.tree_map_only(torch.Tensor, function, tree)


def _map_named(function: Callable[[Tensor, str], Tensor], tree: Any, who: str) -> Any:
    """``function`` of every tensor of a pytree and its name."""
    if isinstance(tree, Tensor):
        return function(tree, who)
    leaves, spec = pytree.tree_flatten_with_path(tree)
    return pytree.tree_unflatten(
        [function(leaf, who + pytree.keystr(path)) if isinstance(leaf, Tensor) else leaf for path, leaf in leaves],
        spec,
    )
