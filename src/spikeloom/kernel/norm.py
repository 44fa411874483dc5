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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._hooks import has_hooks
from .dtypes import state_dtype

_DIMS: dict[type, tuple[int, ...]] = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}
KINDS = tuple(_DIMS)
"""The batch norms that may join: exact types, a subclass may do anything."""
_HALF = (torch.float16, torch.bfloat16)


class Moments(NamedTuple):
    """What a batch norm has of a batch, per channel."""

    mean: Tensor
    var: Tensor
    """The biased variance; both are float64."""
    n: int
    """Of how many values each they are; 0 where they are the running statistics."""
    scale: Tensor
    shift: Tensor
    """What x is multiplied by, and what is then added."""


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm before a neuron, by its numbers; whose they are and who called it makes no difference."""

    kind: str
    """The name of its class."""
    dims: tuple[int, ...]
    """How many dimensions a step ``[B, C, *]`` may have."""
    features: int
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    count: Tensor | None
    """How many batches were seen."""
    eps: float
    momentum: float | None
    batch: bool
    """Whether statistics are those of the batch."""
    tracks: bool
    """Whether a batch moves the running statistics."""
    refused: str
    """The reason that it cannot join whatever the input, or an empty string."""
    alone: Callable[[Tensor], Tensor]
    """Runs the batch norm by itself on ``[T * B, C, *]``, where it does not join."""
    moments: Moments | None = None
    """What it had of its input, where it was called before its neuron."""
    in_vain: Callable[[], None] | None = None
    """Is told where it does not join although it was called before."""

    @classmethod
    def of(cls, module: Any) -> Self:
        """The batch norm of a module of one of :data:`KINDS`, as it is now."""
        mean, var = module.running_mean, module.running_var
        return cls(
            kind=type(module).__name__,
            dims=_DIMS[type(module)],
            features=module.num_features,
            weight=module.weight,
            bias=module.bias,
            running_mean=mean,
            running_var=var,
            count=module.num_batches_tracked,
            eps=module.eps,
            momentum=module.momentum,
            batch=module.training or mean is None,
            tracks=module.training and module.track_running_stats,
            refused="the batch norm has hooks" if has_hooks(module) else "",
            alone=module,
        )

    def why_not(self, x: Tensor) -> str:
        """The reason that it cannot join the kernel of a neuron on ``x`` ``[T, B, C, *]``, or an empty string."""
        if x.ndim - 1 not in self.dims or x.shape[2] != self.features:
            return "the batch norm does not fit the input"
        if (self.running_mean is None) != (self.running_var is None):
            return "the batch norm has one running statistic of two"
        if self.eps <= 0:
            return "eps is not positive"  # which torch refuses, before PyTorch 2.12 in evaluation too
        if self.batch and x.numel() <= x.shape[2]:
            return "one value per channel"
        if self.refused:
            return self.refused
        numbers = (self.weight, self.bias, self.running_mean, self.running_var, self.count)
        owned = [number for number in numbers if number is not None]
        if any(t.device != x.device or type(t) not in (Tensor, nn.Parameter) for t in owned):
            return f"the batch norm is not on {x.device}"
        dtypes = {t.dtype for t in owned if t.is_floating_point()}
        if not (dtypes <= {x.dtype} or (x.dtype in _HALF and dtypes <= {torch.float32})):
            return f"the batch norm is not of {x.dtype}"
        return ""

    def of_all_steps(self, x: Tensor) -> Tensor:
        """The normalised ``x`` ``[T, B, C, *]``, by the batch norm itself."""
        y: Tensor = self.alone(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return y

    def of_all_steps_again(self, x: Tensor, moments: Moments) -> Tensor:
        """The same where it was called already and had those ``moments``."""
        if self.in_vain is not None:
            self.in_vain()
        y: Tensor = self.again(moments, x.flatten(0, 1), self.weight, self.bias).unflatten(0, x.shape[:2])
        return y

    def again(self, moments: Moments, flat: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """The normalised ``[T * B, C, *]``, with nothing counted."""
        if self.batch:
            return functional.batch_norm(flat, None, None, weight, bias, True, 0.0, self.eps)
        assert self.running_mean is not None
        mean, var = (t.to(self.running_mean.dtype) for t in moments[:2])  # as they were when it was called
        return functional.batch_norm(flat, mean, var, weight, bias, False, 0.0, self.eps)

    def affine_of(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift per channel in float64 from statistics in float64; part of the graph."""
        scale = (var + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight.double()
        return scale, -mean * scale if self.bias is None else self.bias.double() - mean * scale

    def counted(self) -> float | None:
        """Counts a batch; the factor by which the running statistics move to its, or None where they stay."""
        if not self.tracks:
            return None
        if self.count is not None:
            self.count.add_(1)
        if self.momentum is not None:
            return self.momentum
        return 0.0 if self.count is None else 1.0 / float(self.count)


@dataclass(frozen=True)
class Geometry:
    """How ``x`` lies in memory: T steps, ``stride`` values apart, of ``[outer, C, inner]``."""

    T: int
    stride: int
    outer: int
    C: int
    inner: int

    @property
    def dense(self) -> bool:
        """Whether nothing lies between two steps."""
        return self.stride == self.outer * self.C * self.inner

    @staticmethod
    def of(x: Tensor, order: tuple[int, ...]) -> Geometry:
        """Of ``x`` ``[T, step in memory order]``; ``order`` says which dimension of the step stands where."""
        shape, at = x.shape[1:], order.index(1)
        outer, inner = math.prod(shape[:at]), math.prod(shape[at + 1 :])
        dense = math.prod(shape)
        return Geometry(x.shape[0], x.stride(0) if x.shape[0] > 1 else dense, outer, shape[at], inner)


class NormKernels(Protocol):
    """What each target does for a batch norm."""

    def moments(self, norm: Norm, geometry: Geometry, x: Tensor, order: tuple[int, ...]) -> Moments:
        """The moments of ``x`` ``[T, step in memory order]``, to which the running statistics move as torch's do, the
        variance with n - 1; or the running ones, where the norm takes those.
        """

    def slopes(
        self, norm: Norm, moments: Moments, g_scale: Tensor, g_shift: Tensor, *, correction: bool
    ) -> tuple[Tensor | None, ...]:
        """From dL/dscale and dL/dshift: gradients of weight and bias, then slope and offset of x's correction.

        The two are given in parts ``[m, C, k]``, to be summed over m and k. Gradients of numbers that are not there are
        None or anything, and so are slope and offset without ``correction``.
        """

    def correct(self, geometry: Geometry, x: Tensor, gx: Tensor, slope: Tensor, offset: Tensor) -> None:
        """``gx += slope x + offset`` per channel, in place; gx is dense, x has its own time stride."""


class NormByTorch:
    """All that is one value per channel, by torch; a target adds the passes over x."""

    def statistics(self, geometry: Geometry, x: Tensor, first: Tensor) -> Tensor:
        """Sums of ``x - first`` and of its square per channel, ``[parts, 2, C]`` doubles."""
        raise NotImplementedError

    def moments(self, norm: Norm, geometry: Geometry, x: Tensor, order: tuple[int, ...]) -> Moments:
        if not norm.batch:
            return running(norm, state_dtype(x.dtype))
        found, factor = self.measured(norm, geometry, x, order), norm.counted()
        if factor is not None and norm.running_mean is not None:
            self.track(norm, found, factor)
        return found

    def measured(self, norm: Norm, geometry: Geometry, x: Tensor, order: tuple[int, ...]) -> Moments:
        """The moments; nothing moves."""
        first = _channels(x.detach(), order)
        n = geometry.T * geometry.outer * geometry.inner
        with torch.no_grad():
            total = self.statistics(geometry, x, first).sum(0) / n
            mean, var = first.double() + total[0], (total[1] - total[0].square()).clamp_(min=0.0)
            scale, shift = norm.affine_of(mean, var)
        compute = state_dtype(x.dtype)
        return Moments(mean, var, n, scale.to(compute), shift.to(compute))

    def track(self, norm: Norm, moments: Moments, factor: float) -> None:
        """Moves the running statistics, which are there, by ``factor`` towards the moments."""
        unbiased = moments.var * (moments.n / max(1, moments.n - 1))
        for old, new in ((norm.running_mean, moments.mean), (norm.running_var, unbiased)):
            assert old is not None
            # .data, as torch does: where a batch norm stands in several places, what ran before keeps its gradient
            old.data.copy_((1 - factor) * old.double() + factor * new)

    def slopes(
        self, norm: Norm, moments: Moments, g_scale: Tensor, g_shift: Tensor, *, correction: bool
    ) -> tuple[Tensor | None, ...]:
        mean, var, n = moments[:3]
        by_scale, by_shift = in_one(g_scale), in_one(g_shift)
        r = (var + norm.eps).rsqrt()
        w = 1.0 if norm.weight is None else norm.weight.detach().double()
        total = by_scale - mean * by_shift  # the shift depends on the scale
        if not correction:
            return total * r, by_shift, None, None
        slope = -total * w * r**3 / n
        compute, offset = moments.scale.dtype, -by_shift * w * r / n - slope * mean
        return total * r, by_shift, slope.to(compute), offset.to(compute)


def running(norm: Norm, dtype: torch.dtype) -> Moments:
    """The running statistics as moments."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        # copies: they may move before the backward pass
        mean, var = (t.to(torch.float64, copy=True) for t in (norm.running_mean, norm.running_var))
        scale, shift = norm.affine_of(mean, var)
    return Moments(mean, var, 0, scale.to(dtype), shift.to(dtype))


def in_one(parts: Tensor) -> Tensor:
    """The gradient of an operand from its parts ``[m, size, k]``: a double for each of its values."""
    return parts.sum((0, 2), dtype=torch.float64)


def moved(tensor: Tensor) -> None:
    """Tells autograd, and streams that look for it, of a tensor that a kernel wrote to."""
    if not tensor.is_inference():
        torch.autograd.graph.increment_version(tensor)


def _channels(x: Tensor, order: tuple[int, ...]) -> Tensor:
    """A finite value of each channel: sums are taken about it, so that a large mean cancels nothing."""
    first, at = x[0], order.index(1)
    index = tuple(slice(None) if d == at else 0 for d in range(first.ndim))
    values = first[index].to(state_dtype(x.dtype)).contiguous()
    return values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
