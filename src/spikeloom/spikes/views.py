"""views: views, copies and joins of spikes, from their bits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import device, products
from .bits import DTYPES, fills_memory, n_bytes, unpack_bits
from .handlers import handles
from .tensor import SpikeTensor, dense, from_bits, pack_raw

aten = torch.ops.aten
_VIEWS = (
    aten._reshape_alias.default, aten.transpose.int, aten.permute.default,
    aten.t.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default,
    aten.slice.Tensor, aten.select.int, aten.alias.default, aten.detach.default, aten.split.Tensor,
    aten.split_with_sizes.default, aten.unbind.int, aten.as_strided.default,
)  # fmt: skip


def _like(s: SpikeTensor) -> Tensor:
    """A tensor of the same shape, strides and dtype without memory."""
    return torch.empty_strided(s.shape, s.stride(), dtype=s.dtype, device="meta")


@handles(*_VIEWS)
def _view(func: Any, s: Any, *args: Any, **kwargs: Any) -> Any:
    """Spikes that share the bits where these are whole bytes, and have bits of their own elsewhere."""
    seen = func(_like(s), *args, **kwargs)
    if isinstance(seen, Tensor):
        return _part(s, seen)
    return type(seen)([_part(s, one) for one in seen])


@handles(aten.expand.default)
def _expand(func: Any, s: SpikeTensor, size: list[int], **kwargs: Any) -> Any:
    """A product of batches of matrices expands what has the size already. What grows is dense: it repeats memory."""
    seen = func(_like(s), size, **kwargs)
    return _part(s, seen) if seen.numel() == s.numel() else NotImplemented


@handles(aten.view.default, aten._unsafe_view.default)
def _reshape(func: Any, s: SpikeTensor, shape: list[int]) -> Any:
    """Another shape of contiguous spikes, for which nothing but the shape is to be computed."""
    if not s.is_contiguous() or s.numel() == 0:
        return _view(func, s, shape)
    known = math.prod(n for n in shape if n != -1)
    full = tuple(s.numel() // known if n == -1 else n for n in shape)
    if known < 1 or math.prod(full) != s.numel() or shape.count(-1) > 1 or any(n < 0 for n in full):
        return _view(func, s, shape)  # which raises
    return from_bits(s.bits, full, s.dtype)


@handles(aten.index_select.default)
def _index_select(func: Any, s: SpikeTensor, dim: int, index: Tensor) -> Any:
    """Rows of whole bytes are picked as they are; a network does so with the valid steps of ragged batches."""
    each = s.numel() // max(1, s.shape[0]) if s.ndim else 0
    if dim not in (0, -s.ndim) or not s.is_contiguous() or each % 8 or not each:
        return pack_raw(func(dense(s), dim, index))
    rows = s.bits.view(s.shape[0], each // 8).index_select(0, index)
    return from_bits(rows.view(-1), (index.numel(), *s.shape[1:]), s.dtype)


def _part(s: SpikeTensor, seen: Tensor) -> SpikeTensor:
    shape, strides, n, first = tuple(seen.shape), seen.stride(), seen.numel(), seen.storage_offset()
    if n == s.numel() and first == 0 and fills_memory(shape, strides):
        return SpikeTensor(s.bits, shape, strides, s.dtype)
    if n and fills_memory(shape, strides) and first % 8 == 0 and (n % 8 == 0 or first + n == s.numel()):
        return SpikeTensor(s.bits[first // 8 : first // 8 + n_bytes(n)], shape, strides, s.dtype)
    flat = unpack_bits(s.bits, s.numel(), s.dtype)
    return pack_raw(flat.as_strided(shape, strides, first))


@handles(aten.clone.default)
def _clone(func: Any, s: SpikeTensor, **kwargs: Any) -> SpikeTensor:
    strides = func(_like(s), **kwargs).stride()
    return _in_layout(s, strides, s.dtype)


@handles(aten._to_copy.default)
def _to(func: Any, s: SpikeTensor, **kwargs: Any) -> Any:
    dtype = kwargs.get("dtype") or s.dtype
    if dtype not in DTYPES or kwargs.get("layout") not in (None, torch.strided):
        return NotImplemented
    strides = func(_like(s), **{**kwargs, "device": "meta", "pin_memory": False}).stride()
    made = _in_layout(s, strides, dtype)
    to = kwargs.get("device")
    if to is None or torch.device(to) == s.device:
        return made
    bits = made.bits.to(to, non_blocking=kwargs.get("non_blocking", False))
    return SpikeTensor(bits, tuple(made.shape), made.stride(), dtype)


def _in_layout(s: SpikeTensor, strides: tuple[int, ...], dtype: torch.dtype) -> SpikeTensor:
    if strides == s.stride():
        return SpikeTensor(s.bits, tuple(s.shape), strides, dtype)
    turned = _turned(s, strides)
    if turned is not None:
        return SpikeTensor(turned, tuple(s.shape), strides, dtype)
    there = torch.empty_strided(s.shape, strides, dtype=s.dtype, device=s.device).copy_(dense(s))
    return SpikeTensor(pack_raw(there).bits, tuple(s.shape), strides, dtype)


def _turned(s: SpikeTensor, strides: tuple[int, ...]) -> Tensor | None:
    """The bits of images in the other one of torch's two layouts; None where channels or pixels are no whole bytes."""
    if s.ndim != 4 or not s.has_bits:
        return None
    N, C, H, W = s.shape
    there = torch.empty_strided(s.shape, strides, device="meta")
    for here, goal, M, K in ((s, there, C, H * W), (there, s, H * W, C)):
        if M % 8 == 0 and here.is_contiguous() and goal.is_contiguous(memory_format=torch.channels_last):
            found = device.transposed(s.bits, M, K, N)
            if found is None and s.is_cpu and products.library() is not None:
                found = products.transposed(s.bits, M, K, batch=N)
            return found
    return None


@handles(aten.equal.default)
def _equal(func: Any, a: Tensor, b: Tensor) -> Any:
    if isinstance(a, SpikeTensor) and isinstance(b, SpikeTensor) and a.shape == b.shape and a.stride() == b.stride():
        return torch.equal(a.bits, b.bits)
    return NotImplemented


@handles(aten.cat.default)
def _cat(func: Any, tensors: Any, dim: int = 0) -> Any:
    """Spikes of one dtype stay spikes; others become dense."""
    if not all(isinstance(t, SpikeTensor) and t.dtype == tensors[0].dtype for t in tensors):
        return NotImplemented
    outermost = dim == 0 and all(t.is_contiguous() and t.numel() % 8 == 0 for t in tensors)
    if not outermost or any(t.shape[1:] != tensors[0].shape[1:] for t in tensors):
        return pack_raw(func([dense(t) for t in tensors], dim))
    shape = (sum(t.shape[0] for t in tensors), *tensors[0].shape[1:])
    strides = torch.empty(shape, device="meta").stride()
    return SpikeTensor(torch.cat([t.bits for t in tensors]), shape, strides, tensors[0].dtype)


@handles(aten.stack.default)
def _stack(func: Any, tensors: Any, dim: int = 0) -> Any:
    if not all(isinstance(t, SpikeTensor) for t in tensors):
        return NotImplemented
    return torch.cat([t.unsqueeze(dim) for t in tensors], dim)


@handles(aten.upsample_nearest2d.default)
def _upsampled(func: Any, x: SpikeTensor, *args: Any, **kwargs: Any) -> Any:
    """Copies of spikes are spikes."""
    return pack_raw(func(dense(x), *args, **kwargs))
