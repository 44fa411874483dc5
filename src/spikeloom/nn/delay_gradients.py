"""Delays as whole steps, and what gradients they have: inside their limits, and by spike times."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def whole(d: Tensor, most: int) -> Tensor:
    """Delays as whole steps from 0 to ``most``, int64."""
    return d.round().clamp(0, most).long()


def inward(d: Tensor, most: int) -> Tensor:
    """``clamp(d, 0, most)``, whose gradient is kept where descent leads inward, and 0 where it would lead on out."""
    limited: Tensor = _Inward.apply(d, most)  # type: ignore[no-untyped-call]
    return limited


class _Inward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d: Tensor, most: int) -> Tensor:
        return d.clamp(0, most)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.most = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (d,) = ctx.saved_tensors
        outward = ((d <= 0) & (grad > 0)) | ((d >= ctx.most) & (grad < 0))
        return torch.where(outward, 0, grad), None


def by_times(d: Tensor, most: int) -> Tensor:
    """1 at the rounded delay and 0 elsewhere, ``[*, most + 1]`` for d ``[*, 1]``; the gradient of d is the central
    difference of what comes for the steps beside it, at 0 and ``most`` the difference to the one inside.
    """
    found: Tensor = _ByTimes.apply(d, most)  # type: ignore[no-untyped-call]
    return found


class _ByTimes(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(d: Tensor, most: int) -> Tensor:
        return (torch.arange(most + 1, device=d.device) == whole(d, most)).to(d.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.most = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (d,) = ctx.saved_tensors
        at = whole(d, ctx.most)
        later, earlier = (at + 1).clamp(max=ctx.most), (at - 1).clamp(min=0)
        width = (later - earlier).clamp(min=1).to(grad.dtype)
        return (grad.gather(-1, later) - grad.gather(-1, earlier)) / width, None
