"""Losses that compare spike trains: spike_kernel, spike_similarity, van_rossum.

:mod:`spikeloom.loss` has them. Trains are ``[T, B, *]``. All take ``lengths`` (``[B]``, optional), past which nothing
counts and no gradient goes, and ``batch_first``. They are float64 for float64 trains and float32 for all others.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _peers
from .._targets import Reduction, reduce
from .._time import masked, sequence, wide

Kernel = Literal["linear", "cosine", "polynomial", "sigmoid", "gaussian"]


@_peers.told
def spike_kernel(
    x: Tensor,
    y: Tensor,
    *,
    kernel: Kernel = "linear",
    degree: float = 2.0,
    alpha: float = 1.0,
    sigma: float = 1.0,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """The kernel of each sample of x with each of y, ``[B_x, B_y]``, of their trains ``[T, B, *]`` as vectors.

    Args:
        kernel: with ``<x, y>`` the sum over steps and neurons,

            * ``"linear"``: ``<x, y>``;
            * ``"cosine"``: ``<x, y> / (|x| |y|)``, 0 for a silent train;
            * ``"polynomial"``: ``<x, y>^degree``;
            * ``"sigmoid"``: the logistic function of ``alpha <x, y>``;
            * ``"gaussian"``: ``exp(-|x - y|^2 / (2 sigma^2))``.
        lengths: of the samples of x, and of y too where it has as many.

    This is SpikingJelly's ``kernel_dot_product`` (its "linear" in ``spike_similar_loss`` is ``"cosine"``).

    >>> import torch
    >>> from spikeloom import loss
    >>> s = torch.tensor([[[1.0], [1.0]], [[1.0], [0.0]]])  # [T, B, 1]
    >>> loss.spike_kernel(s, s)
    tensor([[2., 1.],
            [1., 1.]])
    """
    who = "loss.spike_kernel"
    a, b = (sequence(v, who, batch_first=batch_first) for v in (x, y))
    if a.shape[0] != b.shape[0] or a.shape[2:] != b.shape[2:]:
        raise ValueError(f"{who}: trains must have the same T and neurons, got {list(x.shape)} and {list(y.shape)}")
    dtype = wide(torch.promote_types(a.dtype, b.dtype))
    b = _vectors(b, lengths if b.shape[1] == a.shape[1] else None, dtype)
    return _kernel(_vectors(a, lengths, dtype), b, kernel, degree, alpha, sigma, who)


@_peers.told
def spike_similarity(
    spikes: Tensor,
    target: Tensor,
    *,
    kernel: Kernel = "cosine",
    degree: float = 2.0,
    alpha: float = 1.0,
    sigma: float = 1.0,
    error: Literal["mse", "l1", "bce"] = "mse",
    reduction: Reduction = "mean",
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Samples of one class are to have similar trains, others not: the error of their kernel against 1 or 0.

    Args:
        spikes: trains ``[T, B, *]``.
        target: class indices, int64 ``[B]``, or several classes of a sample, ``[B, C]`` of 0 and 1; samples that share
            one are similar.
        kernel, degree, alpha, sigma: see :func:`spike_kernel`.
        error: squared, absolute, or the binary cross entropy, for which the kernel must lie in [0, 1].
        reduction: ``"none"`` gives the errors of all pairs, ``[B, B]``.

    This is SpikingJelly's ``spike_similar_loss``.

    >>> import torch
    >>> from spikeloom import loss
    >>> s = torch.tensor([[[1.0], [1.0]], [[1.0], [0.0]]])
    >>> loss.spike_similarity(s, torch.tensor([0, 1]))
    tensor(0.2500)
    """
    who = "loss.spike_similarity"
    trains = sequence(spikes, who, batch_first=batch_first)
    B = trains.shape[1]
    if not isinstance(target, Tensor) or target.shape[:1] != (B,) or target.ndim > 2:
        got = list(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise ValueError(f"{who}: target must be class indices, int64 [B] = [{B}], or classes [B, C], got {got}")
    vectors = _vectors(trains, lengths, wide(trains.dtype))
    found = _kernel(vectors, vectors, kernel, degree, alpha, sigma, who)
    if target.ndim == 1:
        wanted = (target.unsqueeze(1) == target).to(found.dtype)
    else:
        shared = target.to(found.dtype)
        wanted = (shared @ shared.t()).clamp(max=1)
    if error == "mse":
        each = F.mse_loss(found, wanted, reduction="none")
    elif error == "l1":
        each = F.l1_loss(found, wanted, reduction="none")
    elif error == "bce":
        each = F.binary_cross_entropy(found.clamp(max=1), wanted, reduction="none")  # a cosine may be 1 + rounding
    else:
        raise ValueError(f"{who}: error must be one of mse, l1, bce; got {error!r}")
    return reduce(each, each.new_ones(each.shape), reduction, who)


@_peers.told
def van_rossum(
    spikes: Tensor,
    target: Tensor,
    *,
    tau: float,
    reduction: Reduction = "mean",
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Van Rossum distance, squared, averaged over neurons: ``1/tau sum_t (f[t] - g[t])^2``, f and g being the trains
    filtered by ``f[t] = exp(-1/tau) f[t-1] + s[t]``.

    Args:
        spikes, target: trains ``[T, B, *]`` of the same shape.
        tau: time constant in steps: for a small one every misplaced spike counts, for a large one only counts do.

    The sum goes on past the last step until both have decayed, so that a spike at the end counts as any other. A single
    spike more is ``1 / (tau (1 - exp(-2/tau)))``, about 1/2. The sum is computed in closed form, ``e^T K e`` with ``e =
    spikes - target`` and ``K[t, u] = exp(-|t - u| / tau) / (tau (1 - exp(-2/tau)))``, in ``T^2`` products for a neuron.

    van Rossum, A Novel Spike Distance, Neural Computation 13, 2001.

    >>> import torch
    >>> from spikeloom import loss
    >>> s = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    >>> loss.van_rossum(s, s.roll(1, 0), tau=2.0), loss.van_rossum(s, s, tau=2.0)
    (tensor(0.6225), tensor(0.))
    """
    who = "loss.van_rossum"
    if not 0 < tau < math.inf:
        raise ValueError(f"{who}: tau must be positive and finite, got {tau}")
    a, b = (sequence(v, who, batch_first=batch_first) for v in (spikes, target))
    if a.shape != b.shape:
        raise ValueError(f"{who}: target must have the shape of spikes, {list(spikes.shape)}, got {list(target.shape)}")
    dtype = wide(torch.promote_types(a.dtype, b.dtype))
    T, B = a.shape[:2]
    e = (masked(a, lengths).to(dtype) - masked(b, lengths).to(dtype)).reshape(T, B, -1)
    t = torch.arange(T, device=a.device)
    K = torch.exp(-(t.unsqueeze(1) - t).abs().to(dtype) / tau) / (tau * -math.expm1(-2 / tau))
    with torch.autocast(e.device.type, enabled=False):
        each = (e * torch.tensordot(K, e, dims=1)).sum(0).mean(1)
    return reduce(each, each.new_ones(each.shape), reduction, who)


def _vectors(x: Tensor, lengths: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``[T, B, *]`` as ``[B, T N]``."""
    x = masked(x, lengths).to(dtype)
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def _kernel(x: Tensor, y: Tensor, kernel: Kernel, degree: float, alpha: float, sigma: float, who: str) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        product = x @ y.t()
        if kernel == "linear":
            return product
        if kernel == "cosine":
            return F.normalize(x, dim=1) @ F.normalize(y, dim=1).t()
        if kernel == "polynomial":
            return product**degree
        if kernel == "sigmoid":
            return torch.sigmoid(alpha * product)
        if kernel == "gaussian":
            if not sigma > 0:
                raise ValueError(f"{who}: sigma must be positive, got {sigma}")
            apart = x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * product
            return torch.exp(-apart.clamp(min=0) / (2 * sigma**2))
    raise ValueError(f"{who}: kernel must be one of linear, cosine, polynomial, sigmoid, gaussian; got {kernel!r}")
