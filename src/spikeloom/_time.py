"""Lengths of ragged batches: checked once, turned into masks everywhere in the same way.

A batch whose samples have different durations is stored as ``[T, B, *]`` with T the longest one;
``lengths`` (integers, ``[B]``) says how many leading steps of each sample are real.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_lengths(lengths: Tensor, T: int, B: int, *, device: torch.device | None = None) -> Tensor:
    """Returns ``lengths`` as int64 on ``device``; raises unless it holds B integers from 1 to T."""
    if not isinstance(lengths, Tensor):
        lengths = torch.as_tensor(lengths)
    if lengths.dtype.is_floating_point or lengths.dtype.is_complex or lengths.dtype == torch.bool:
        raise TypeError(f"lengths must hold integers, got {lengths.dtype}; pass for example torch.tensor([3, 5])")
    if lengths.shape != (B,):
        raise ValueError(f"lengths must have shape [B] = [{B}], got {list(lengths.shape)}")
    low, high = int(lengths.min()), int(lengths.max())
    if low < 1 or high > T:
        raise ValueError(f"lengths must lie between 1 and T = {T}, got values from {low} to {high}")
    return lengths.to(device=device, dtype=torch.int64)


def valid_steps(lengths: Tensor, T: int) -> Tensor:
    """Boolean mask ``[T, B]``: True where step t belongs to sample b."""
    return torch.arange(T, device=lengths.device).unsqueeze(1) < lengths


def trailing(mask: Tensor, ndim: int) -> Tensor:
    """``mask`` with ones appended to its shape until it has ``ndim`` dimensions."""
    return mask.reshape(mask.shape + (1,) * (ndim - mask.ndim))


def masked(x: Tensor, lengths: Tensor | None, fill: float = 0.0) -> Tensor:
    """``x`` ``[T, B, *]`` with ``fill`` at the steps past each sample's length."""
    if lengths is None:
        return x
    lengths = check_lengths(lengths, x.shape[0], x.shape[1], device=x.device)
    return torch.where(trailing(valid_steps(lengths, x.shape[0]), x.ndim), x, fill)


def duration(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Number of valid steps of each sample, ``[B]``, in the floating dtype of ``x``."""
    dtype = x.dtype if x.dtype.is_floating_point else torch.get_default_dtype()
    if lengths is None:
        return torch.full((x.shape[1],), x.shape[0], dtype=dtype, device=x.device)
    return check_lengths(lengths, x.shape[0], x.shape[1], device=x.device).to(dtype)


def check_sequence(x: Tensor, who: str, ndim: int = 2) -> None:
    """Raises unless ``x`` is a tensor ``[T, B, *]`` with at least ``ndim`` dimensions and T, B > 0."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{who}: expected a tensor [T, B, *], got {type(x).__name__}")
    if x.ndim < ndim or x.shape[0] == 0 or x.shape[1] == 0:
        wanted = "[T, B, C]" if ndim > 2 else "[T, B, *]"
        raise ValueError(f"{who}: expected {wanted} with T > 0 and B > 0, got {list(x.shape)}")
