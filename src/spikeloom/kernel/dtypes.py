"""Dtypes of states and outputs: one rule for the loop, the kernels and the operator."""

from __future__ import annotations

import torch


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of the state for an input dtype: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


IO = {torch.float64: "float64", torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
"""The dtypes in which kernels read and write, and their names."""


def io_dtype(first: torch.dtype, *others: torch.dtype) -> torch.dtype:
    """Dtype in which kernels read and write for inputs of some dtypes."""
    return first if first in IO and all(other == first for other in others) else state_dtype(first)


def output_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of the spikes for an input dtype: the same, or the state's for integers and booleans."""
    return dtype if dtype.is_floating_point else state_dtype(dtype)
