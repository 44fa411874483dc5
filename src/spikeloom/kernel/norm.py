"""norm: a batch norm before a neuron, joined to its kernel.

The norm is an affine prologue of the neuron's program, ``scale * x + shift`` with one scale and shift per channel, so
the normalised tensor is neither written nor saved. Its statistics and the correction that they owe to the gradient of x
are kernels of their own, because torch's take longer than the neuron::

    mean, var of x over T, B and space;  r = 1 / sqrt(var + eps)
    scale = weight r,  shift = bias - mean scale
    dL/dx = scale g + slope x + offset    (g: gradient of the normalised x)
    slope = -dL/dscale weight r^3 / n,    offset = -dL/dshift scale / n - slope mean

Ioffe and Szegedy, Batch Normalization, 2015.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._hooks import has_hooks
from .target import Target

KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_HALF = (torch.float16, torch.bfloat16)
_DIMS: dict[type, tuple[int, ...]] = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}


def why_not_fused(module: nn.Module, x: Tensor) -> str:
    """Why a batch norm cannot join the kernel of a neuron on ``x`` ``[T, B, C, *]``; empty if it can."""
    if type(module) not in KINDS:
        return f"{type(module).__name__} is no batch norm of torch.nn"
    if x.ndim - 1 not in _DIMS[type(module)] or x.shape[2] != module.num_features:
        return "the batch norm does not fit the input"
    if (module.running_mean is None) != (module.running_var is None):
        return "the batch norm has one running statistic of two"
    norm = Norm(module)
    if norm.batch and (x.numel() <= x.shape[2] or norm.eps <= 0):
        return "one value per channel" if norm.eps > 0 else "eps is not positive"
    if has_hooks(module):
        return "the batch norm has hooks"
    owned = [*module.parameters(), *module.buffers()]
    if any(t.device != x.device or type(t) not in (Tensor, nn.Parameter) for t in owned):
        return f"the batch norm is not on {x.device}"
    dtypes = {t.dtype for t in owned if t.is_floating_point()}
    if not (dtypes <= {x.dtype} or (x.dtype in _HALF and dtypes <= {torch.float32})):
        return f"the batch norm is not of {x.dtype}"
    return ""


class Norm:
    """A batch norm of torch.nn as the kernels see it."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.weight: Tensor | None = module.weight
        self.bias: Tensor | None = module.bias
        self.eps: float = module.eps
        self.batch: bool = module.training or module.running_mean is None
        """Whether statistics are those of the batch."""

    def affine(self, moments: tuple[Tensor, Tensor, int] | None) -> tuple[Tensor, Tensor]:
        """Scale and shift per channel in float64; part of the graph unless they come from the batch."""
        module = self.module
        with torch.set_grad_enabled(torch.is_grad_enabled() and moments is None):
            mean = moments[0] if moments else module.running_mean.double()
            var = moments[1] if moments else module.running_var.double()
            scale = (var + self.eps).rsqrt()
            if self.weight is not None:
                scale = scale * self.weight.double()
            shift = -mean * scale if self.bias is None else self.bias.double() - mean * scale
        return scale, shift

    def track(self, moments: tuple[Tensor, Tensor, int]) -> None:
        """Updates the running statistics as torch does: the variance with n - 1."""
        module, (mean, var, n) = self.module, moments
        if not (module.training and module.track_running_stats):
            return
        factor, count = 0.0 if module.momentum is None else module.momentum, module.num_batches_tracked
        if count is not None:
            count.add_(1)
            factor = 1.0 / float(count) if module.momentum is None else factor
        if module.running_mean is None:
            return
        for running, new in ((module.running_mean, mean), (module.running_var, var * (n / max(1, n - 1)))):
            # .data, as torch does: where one batch norm stands in several places, what ran before keeps its gradient
            running.data.copy_((1 - factor) * running.double() + factor * new)


def gradients(
    mean: Tensor, var: Tensor, n: int, norm: Norm, g_scale: Tensor, g_shift: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From dL/dscale and dL/dshift: gradients of weight and bias, then slope and offset of x's correction."""
    r = (var + norm.eps).rsqrt()
    weight = 1.0 if norm.weight is None else norm.weight.detach().double()
    total = g_scale - mean * g_shift  # the shift depends on the scale
    slope = -total * weight * r**3 / n
    return total * r, g_shift, slope, -g_shift * weight * r / n - slope * mean


def statistics(target: Target, x: Tensor, order: tuple[int, ...]) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance per channel, float64, of ``x`` ``[T, step in memory order]``, and the values of each."""
    geometry = _geometry(x, order)
    first = _channels(x.detach(), order)
    n = geometry.T * geometry.outer * geometry.inner
    total = target.statistics(geometry, x, first).sum(0) / n
    return first.double() + total[0], (total[1] - total[0].square()).clamp_(min=0.0), n


def correct(target: Target, gx: Tensor, x: Tensor, slope: Tensor, offset: Tensor, order: tuple[int, ...]) -> None:
    """``gx += slope x + offset``, in place; gx is dense, x has its own time stride."""
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    target.correct(_geometry(x, order), x, gx, slope.to(compute), offset.to(compute))


@dataclass(frozen=True)
class _Geometry:
    """``x`` in memory: T steps, ``stride`` apart, of ``[outer, C, inner]``."""

    T: int
    stride: int
    outer: int
    C: int
    inner: int


def _geometry(x: Tensor, order: tuple[int, ...]) -> _Geometry:
    shape, at = x.shape[1:], order.index(1)
    outer, inner = math.prod(shape[:at]), math.prod(shape[at + 1 :])
    dense = math.prod(shape)
    return _Geometry(x.shape[0], x.stride(0) if x.shape[0] > 1 else dense, outer, shape[at], inner)


def _channels(x: Tensor, order: tuple[int, ...]) -> Tensor:
    """A finite value of each channel: sums are taken about it, so that a large mean cancels nothing."""
    first, at = x[0], order.index(1)
    index = tuple(slice(None) if d == at else 0 for d in range(first.ndim))
    values = first[index].to(torch.float64 if x.dtype == torch.float64 else torch.float32).contiguous()
    return values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
