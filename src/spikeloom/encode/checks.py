"""What all encoders have in common: the checks of their arguments, and the form of what they give."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .._time import masked, readable


def given(spikes: Tensor, lengths: Tensor | None, batch_first: bool) -> Tensor:
    """``[T, B, *]`` with 0 past each sample's length, as ``[B, T, *]`` where ``batch_first``."""
    spikes = masked(spikes, lengths)
    return spikes.transpose(0, 1) if batch_first else spikes


def floating(x: Tensor, who: str) -> Tensor:
    """``x``; TypeError unless it is a floating-point tensor."""
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{who}: expected a floating-point tensor, got {got}; for uint8 images use x / 255")
    return x


def refuse_nan(x: Tensor, what: str) -> None:
    """Raises ValueError with ``what`` if x holds NaN."""
    if x.dtype.is_floating_point and readable(x) and bool(x.isnan().any()):
        raise ValueError(f"{what}, which would be coded as silence; clean the data, torch.nan_to_num does it")


def check_steps(x: Tensor, T: int, who: str) -> None:
    """Raises unless x is a tensor ``[B, *]`` and T a number of steps."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{who}: expected a tensor, got {type(x).__name__}; make one with torch.as_tensor")
    if not whole(T) or T < 1:
        raise ValueError(f"{who}: T must be a number of steps of at least 1, got {T!r}")
    if x.ndim == 0:
        raise ValueError(f"{who}: expected [B, *], got a number")


def check_first(first_spike_time: int, T: int, who: str) -> None:
    """Raises ValueError unless ``first_spike_time`` is one of T steps."""
    if not whole(first_spike_time) or not 0 <= first_spike_time < T:
        raise ValueError(
            f"{who}: first_spike_time must be a whole number between 0 and T-1 = {T - 1}, got {first_spike_time}"
        )


def whole(value: object) -> bool:
    """Whether a value is a whole number, of Python or of numpy."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_finite(who: str, **numbers: float) -> None:
    """Raises ValueError with the name of a number that is not finite."""
    for name, value in numbers.items():
        if isinstance(value, Tensor) and value.numel() != 1:  # with a value per channel, the result is checked
            continue
        if not math.isfinite(value):
            raise ValueError(f"{who}: {name} must be finite, got {value}")


def check_unit(x: Tensor, who: str, *, high: float = 1.0, remedy: str = "rescale it") -> None:
    """Raises ValueError unless all values lie from 0 to ``high``."""
    if readable(x) and not bool(((x >= 0) & (x <= high)).all()):
        raise ValueError(f"{who}: x must lie in [0, {high:g}], got {float(x.min()):g} to {float(x.max()):g}; {remedy}")


def check_count(who: str, name: str, value: int, *, least: int = 1) -> None:
    """Raises ValueError unless a value is a whole number of at least ``least``."""
    if not whole(value) or value < least:
        raise ValueError(f"{who}: {name} must be a whole number of at least {least}, got {value!r}")


def steps_like(x: Tensor, T: int) -> Tensor:
    """The steps 0 to T-1, ``[T, 1, ...]``, with a dimension for each of ``x``."""
    return torch.arange(T, device=x.device).reshape(T, *(1,) * x.ndim)
