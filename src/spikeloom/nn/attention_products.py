"""Products of spikes for attention: exact in any dtype, in the cheaper order, of which bits are kept."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .._hooks import transformed
from .._tracing import has_autocast
from ..spikes import SpikeTensor


def products(q: Tensor, k: Tensor, v: Tensor, *, binary: bool = True) -> Tensor:
    """``v k^T q`` of heads ``[rows, h, d, N]``, by the cheaper order, in a dtype that holds the sums of spikes."""
    (d, N), d_v = q.shape[-2:], v.shape[-2]
    dtype = dtype_of_products(q.dtype, q.device.type, d * N if binary else None)
    by_channels = channels_first(d, d_v, N)
    if torch.compiler.is_compiling() or transformed():
        return _multiplied(q, k, v, dtype, by_channels)  # torch's own formulas, for derivatives of every kind
    y: Tensor = _Products.apply(q, k, v, dtype, by_channels)  # type: ignore[no-untyped-call]
    return y


def _multiplied(q: Tensor, k: Tensor, v: Tensor, dtype: torch.dtype, by_channels: bool) -> Tensor:
    with _without_autocast(q):
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        if by_channels:
            return (v @ k.transpose(-1, -2)) @ q
        return v @ (k.transpose(-1, -2) @ q)


class _Products(torch.autograd.Function):
    """The products, of which q, k and v are kept as they came (bits as bits), and nothing that is made of them."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, dtype: torch.dtype, by_channels: bool) -> Tensor:
        return _multiplied(q, k, v, dtype, by_channels)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps the factors."""
        ctx.save_for_backward(*inputs[:3])
        ctx.dtype, ctx.by_channels = inputs[3:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The first product is computed again, which is a small part of all, and differentiable as it stands."""
        kept = ctx.saved_tensors
        with _without_autocast(grad):
            q, k, v = ((x.unpack() if isinstance(x, SpikeTensor) else x).to(ctx.dtype) for x in kept)
            if ctx.by_channels:
                of_both = grad @ q.transpose(-1, -2)
                found = (v @ k.transpose(-1, -2)).transpose(-1, -2) @ grad, of_both.transpose(-1, -2) @ v, of_both @ k
            else:
                of_both = v.transpose(-1, -2) @ grad
                found = k @ of_both, q @ of_both.transpose(-1, -2), grad @ (k.transpose(-1, -2) @ q).transpose(-1, -2)
            return *(g.to(x.dtype) for g, x in zip(found, kept, strict=True)), None, None


def channels_first(d: int, d_v: int, N: int) -> bool:
    """Whether ``(v k^T) q``, of ``2 N d d_v`` multiplications, is cheaper than ``v (k^T q)``, of ``N^2 (d + d_v)``."""
    return 2 * d * d_v < N * (d + d_v)


def dtype_of_products(dtype: torch.dtype, device: str, most: int | None) -> torch.dtype:
    """The dtype of products that are whole numbers up to ``most`` (None: that are no whole numbers)."""
    if dtype == torch.float64:
        return dtype
    half = dtype == torch.float16 and device == "cuda" and most is not None and most <= 2048
    return torch.float16 if half else torch.float32


def total(spikes: Tensor, dim: int) -> Tensor:
    """Sums along a dimension, which stays as one of size 1, in a dtype that holds them."""
    return spikes.sum(dim, keepdim=True, dtype=dtype_of_products(spikes.dtype, spikes.device.type, None))


def _without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """A context is entered only where there is something to turn off: exported graphs hold each one."""
    kind = x.device.type
    on = has_autocast(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else nullcontext()
