"""Sequences ``[T, B, *]``: which dimension is time, how many steps are real, and in which dtype sums over them are.

A batch whose samples have different durations is stored as ``[T, B, *]`` with T the longest one;
``lengths`` (integers, ``[B]``) says how many leading steps of each sample are real. Step
indices and counts are int64 throughout. Sums over steps are float32 or float64, because bfloat16 cannot hold the number
257 nor float16 the number 2,049.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_lengths(lengths: Tensor, T: int, B: int, *, device: torch.device | None = None) -> Tensor:
    """Returns ``lengths`` as int64 on ``device``; raises unless it holds B integers from 1 to T."""
    if not isinstance(lengths, Tensor):
        try:
            lengths = torch.as_tensor(lengths)
        except (TypeError, ValueError, RuntimeError) as wrong:
            raise TypeError(
                f"lengths must hold integers, got {type(lengths).__name__}; pass for example torch.tensor([3, 5])"
            ) from wrong
    if lengths.dtype.is_floating_point or lengths.dtype.is_complex or lengths.dtype == torch.bool:
        raise TypeError(f"lengths must hold integers, got {lengths.dtype}; pass for example torch.tensor([3, 5])")
    if lengths.shape != (B,):
        raise ValueError(f"lengths must have shape [B] = [{B}], got {list(lengths.shape)}")
    if B == 0:
        return lengths.to(device=device, dtype=torch.int64)
    low, high = int(lengths.min()), int(lengths.max())
    if low < 1 or high > T:
        raise ValueError(f"lengths must lie between 1 and T = {T}, got values from {low} to {high}")
    return lengths.to(device=device, dtype=torch.int64)


def valid_steps(lengths: Tensor, T: int) -> Tensor:
    """Boolean mask ``[T, B]``: True where step t belongs to sample b.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.data.valid_steps(torch.tensor([1, 3]), 3).int()
    tensor([[1, 1],
            [0, 1],
            [0, 1]], dtype=torch.int32)
    """
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
    """Number of valid steps of each sample, int64 ``[B]``."""
    if lengths is None:
        return torch.full((x.shape[1],), x.shape[0], dtype=torch.int64, device=x.device)
    return check_lengths(lengths, x.shape[0], x.shape[1], device=x.device)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over steps of values of ``dtype`` are computed and returned: at least float32."""
    if not dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    return torch.float64 if dtype == torch.float64 else torch.float32


def sequence(x: Tensor, who: str, *, ndim: int = 2, batch_first: bool = False) -> Tensor:
    """``x`` ``[T, B, *]``, or ``[B, T, *]`` where ``batch_first``, as ``[T, B, *]``. It raises unless x is a tensor
    of real numbers with at least ``ndim`` dimensions and T, B > 0.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{who}: expected a tensor, got {type(x).__name__}; make one with torch.as_tensor")
    if x.is_complex():
        raise TypeError(f"{who}: expected real numbers, got {x.dtype}")
    if x.ndim < ndim or x.shape[0] == 0 or x.shape[1] == 0:
        wanted = f"[{'B, T' if batch_first else 'T, B'}, {'C' if ndim > 2 else '*'}]"
        raise ValueError(f"{who}: expected {wanted} with T > 0 and B > 0, got {list(x.shape)}")
    return x.transpose(0, 1) if batch_first else x


def readable(x: Tensor) -> bool:
    """Whether a check may read the values of ``x``: no for meta tensors, in torch.func and while tracing."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    return not x.is_meta and torch._C._functorch.maybe_current_level() is None
