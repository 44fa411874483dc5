"""Dtypes of states and outputs: one rule for the loop, the kernels and the operator."""

from __future__ import annotations

import torch


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of the state for an input dtype: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def output_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of the spikes for an input dtype: the same, or the state's for integers and booleans."""
    return dtype if dtype.is_floating_point else state_dtype(dtype)
