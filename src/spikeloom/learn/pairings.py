"""Pairings of spikes for which each synapse needs a memory of its own: presynaptic centred and reduced symmetric.

    u <- keep_pre u + pre        presynaptic: all spikes before the layer that no spike after it has met yet
    u <- 1 where pre             reduced: the last of them
    at a spike after the layer:  dw += u;   u <- 0

    d <- 1 where post            the last spike after the layer, else keep_post d
    at a spike before it:        dw -= d;   reduced: d <- 0

``u`` is ``[B, *, N, M]``, and so is ``d`` where it is reduced. A spike of the other side's own step counts, or enters
after the change, as ``coincident`` says.

Morrison, Diesmann and Gerstner, Phenomenological Models of Synaptic Plasticity Based on Spike Timing, Biological
Cybernetics 98, 2008, section 4.1.2.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from .._time import trailing, valid_steps

BySynapse = Literal["presynaptic", "reduced"]
BY_SYNAPSE = ("presynaptic", "reduced")


class Pairs(NamedTuple):
    """How spikes are paired."""

    reduced: bool
    keep_pre: float
    keep_post: float
    before_pre: bool
    """Whether a spike before the layer in the step of one after it has no part in potentiation."""
    before_post: bool
    """The same of depression."""


def as_linear(layer: nn.Module, who: str) -> nn.Linear:
    """The layer; raises TypeError unless it is a Linear, in which each weight is that of one synapse."""
    if type(layer) is not nn.Linear:
        raise TypeError(
            f"{who}: a pairing with a memory for each synapse takes nn.Linear, got {type(layer).__name__}; pairing "
            "'all' or 'nearest' takes others"
        )
    return layer


def both_sides(
    pairs: Pairs,
    pre: Tensor,
    post: Tensor,
    factor: Tensor | None,
    state: dict[str, Tensor] | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Sums of potentiation and depression ``[N, M]``, and the memory after the last step.

    ``factor`` ``[T, B or 1, ...]`` is that of each step's changes.
    """
    T, M, N = len(pre), pre.shape[-1], post.shape[-1]
    lead = pre.shape[1:-1]
    there = None if lengths is None else valid_steps(lengths.to(pre.device), T)
    if state is None:
        u = pre.new_zeros(*lead, N, M)
        d = pre.new_zeros(*lead, N, M) if pairs.reduced else pre.new_zeros(*lead, N, 1)
    else:
        u, d = state["pre"].to(pre).clone(), state["post"].to(pre).clone()
    up, down = pre.new_zeros(N, M), pre.new_zeros(N, M)
    for t in range(T):
        x, y = pre[t].unsqueeze(-2), post[t].unsqueeze(-1)  # [*, 1, M] and [*, N, 1]
        keep_pre, keep_post = pairs.keep_pre, pairs.keep_post
        if there is not None:  # what has ended keeps its memory as it is
            on = trailing(there[t], u.ndim).to(u.dtype)
            u.mul_(1 + on * (keep_pre - 1))
            d.mul_(1 + on * (keep_post - 1))
        else:
            u.mul_(keep_pre)
            d.mul_(keep_post)
        fired = (x != 0) if pairs.reduced else x
        weight = 1.0 if factor is None else factor[t].unsqueeze(-1)
        if not pairs.before_pre:
            _enter(u, fired)
        if not pairs.before_post:
            d.masked_fill_(y != 0, 1.0)
        if bool(y.any()):
            up += (u * (y * weight)).flatten(0, -3).sum(0)
            u.masked_fill_(y != 0, 0.0)
        if bool(x.any()):
            down += (d * (x * weight)).flatten(0, -3).sum(0)
            if pairs.reduced:
                d.masked_fill_(x != 0, 0.0)
        if pairs.before_pre:
            _enter(u, fired)
        if pairs.before_post:
            d.masked_fill_(y != 0, 1.0)
    return up, down, {"pre": u, "post": d}


def _enter(u: Tensor, spikes: Tensor) -> None:
    """Spikes enter a memory: bool ones in place of what is there, others beside it."""
    if spikes.dtype == torch.bool:
        u.masked_fill_(spikes, 1.0)
    else:
        u.add_(spikes)
