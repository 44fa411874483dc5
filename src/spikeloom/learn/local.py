"""Local rules: the base of those that are sums of products of what is before and after a layer.

A rule is a frozen dataclass of numbers and functions. It holds no tensor and no state, hooks into nothing and has
nothing to reset: ``dw, state = rule.sequence(layer, pre, post)``. Results carry no graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._time import check_lengths, masked, wide
from .products import as_values, check_layer, of_each_sample, product, weight_of

State = dict[str, Any]
OfWeight = Callable[[Tensor], Tensor]


class Term(NamedTuple):
    """``factor(w) J(a, c)``, the factor elementwise.

    >>> import torch
    >>> from spikeloom.learn.local import Term
    >>> term = Term(0.5, torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[2.0]]]))  # [T, B, in] and [T, B, out]
    >>> term.factor * torch.einsum("tbi,tbo->oi", term.a, term.c)
    tensor([[1., 0.]])
    """

    factor: Tensor | float
    a: Tensor
    c: Tensor


@dataclass(frozen=True)
class LocalRule:
    """Base of rules whose change of the weight is a sum of terms ``f(w) J(a, c)``, see :class:`Term`.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> import spikeloom as sl
    >>> from spikeloom.learn.local import Term
    >>> @dataclass(frozen=True)
    ... class Hebb(sl.learn.LocalRule):
    ...     rate: float = 0.1
    ...     def terms(self, weight, pre, post, state, lengths):
    ...         return [Term(self.rate, pre, post)], {}
    >>> pre, post = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]]), torch.tensor([[[1.0]], [[1.0]]])
    >>> dw, state = Hebb().sequence(torch.nn.Linear(2, 1), pre, post)
    >>> dw  # the first pair fired together twice, the second once
    tensor([[0.2000, 0.1000]])
    """

    def terms(
        self, weight: Tensor, pre: Tensor, post: Tensor, state: State | None, lengths: Tensor | None
    ) -> tuple[list[Term], State]:
        """The terms of a sequence, and the state after it."""
        raise NotImplementedError(f"{type(self).__name__} must define terms")

    def sequence(
        self,
        layer: nn.Module,
        pre: Tensor,
        post: Tensor,
        *,
        state: State | None = None,
        modulator: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """The change of ``layer.weight`` by a whole sequence: ``(dw, state)``.

        Args:
            layer: one that is linear in its weight.
            pre: what the layer was given, ``[T, B, *]``: dense, or packed spikes.
            post: what the neurons after it gave, ``[T, B, *]`` in the shape of the layer's output.
            state: what an earlier call returned, to go on with; None is the start.
            modulator: factor of the changes, ``[T]``, or for each sample ``[T, B]``.
            lengths: valid steps of each sample ``[B]``; others change nothing.

        ``dw`` is the sum over steps, samples and places, never a mean, in the shape and dtype of the weight. All of it
        is computed with the weight as it is when the call begins; for weights that change at each step, call
        :meth:`step` in a loop. A sequence in parts, with the state handed on, sums to the whole one.
        """
        who = f"learn.{type(self).__name__}"
        weight, pre, post = prepared(layer, pre, post, lengths, who)
        factor = factor_of(modulator, post, who)
        if lengths is not None:
            lengths = check_lengths(lengths, *post.shape[:2], device=post.device)
        with torch.no_grad():
            terms, new = self.terms(weight, pre, post, state, lengths)
            dw = torch.zeros_like(weight)
            for f, a, c in terms:
                dw += f * product(layer, a, c if factor is None else c * factor, who)
        return dw.to(weight_of(layer).dtype), new

    def step(
        self,
        layer: nn.Module,
        pre_t: Tensor,
        post_t: Tensor,
        *,
        state: State | None = None,
        modulator: Tensor | float | None = None,
    ) -> tuple[Tensor, State]:
        """The change by one step ``[B, *]``: ``(dw, state)``; ``modulator`` is a number, or ``[B]``."""
        factor = None if modulator is None else torch.as_tensor(modulator).unsqueeze(0)
        return self.sequence(layer, pre_t.unsqueeze(0), post_t.unsqueeze(0), state=state, modulator=factor)

    def of_samples(
        self,
        layer: nn.Module,
        pre: Tensor,
        post: Tensor,
        weights: Tensor,
        *,
        state: State | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """The change by each sample alone with a factor ``weights`` ``[T, B]`` of each step, ``[B, *weight]``."""
        who = f"learn.{type(self).__name__}"
        weight, pre, post = prepared(layer, pre, post, lengths, who)
        with torch.no_grad():
            terms, _ = self.terms(weight, pre, post, state, lengths)
            factor = factor_of(weights, post, who)
            assert factor is not None
            parts = [f * of_each_sample(layer, a, c * factor, who) for f, a, c in terms]
        return torch.stack(parts).sum(0)


def prepared(
    layer: nn.Module, pre: Tensor, post: Tensor, lengths: Tensor | None, who: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The weight, and pre and post as ordinary tensors that are 0 past each sample's length; at least float32."""
    check_layer(layer, who)
    dtype = wide(weight_of(layer).dtype)
    pre, post = as_values(pre, dtype, f"{who}: pre"), as_values(post, dtype, f"{who}: post")
    if pre.shape[:2] != post.shape[:2]:
        raise ValueError(f"{who}: pre is {list(pre.shape)} and post {list(post.shape)}, with other steps or samples")
    return weight_of(layer).to(dtype), masked(pre, lengths), masked(post, lengths)


def of_weight(f: OfWeight | None, weight: Tensor) -> Tensor | float:
    """``f(weight)``, 1 for None."""
    return 1.0 if f is None else f(weight)


def factor_of(modulator: Tensor | None, post: Tensor, who: str) -> Tensor | None:
    """A modulator as a factor of ``post``, ``[T, B or 1, ...]``; None for None."""
    if modulator is None:
        return None
    found = torch.as_tensor(modulator).detach().to(post)
    T, B = post.shape[:2]
    if found.shape not in ((T,), (T, B), (T, 1)):
        raise ValueError(f"{who}: modulator must be [T] = [{T}] or [T, B] = [{T}, {B}], got {list(found.shape)}")
    return found.reshape(T, -1, *(1,) * (post.ndim - 2))
