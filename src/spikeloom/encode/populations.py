"""Codes of real values by populations of neurons with Gaussian receptive fields: population, gaussian_tuning.

:mod:`spikeloom.encode` has them, :mod:`spikeloom.decode` reads them. Neuron i of a population answers a value x by
``a_i = exp(-(x - c_i)^2 / (2 std_i^2))``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .. import _peers
from .._time import readable, wide
from .checks import check_count, check_finite, check_steps, floating, given, refuse_nan, steps_like

PopulationCode = Literal["deterministic", "random", "current"]


@_peers.told
def population(
    x: Tensor,
    T: int,
    *,
    neurons: int = 10,
    low: float = 0.0,
    high: float = 1.0,
    centres: Tensor | None = None,
    std: float | Tensor | None = None,
    code: PopulationCode = "deterministic",
    threshold: float = 0.999,
    generator: torch.Generator | None = None,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Population coding: each value by ``neurons`` neurons with Gaussian fields, ``a = exp(-(x - c)^2 / (2 std^2))``.

    Args:
        x: values ``[B, *, F]``, or ``[B]``.
        neurons: neurons of a value. Their centres c lie evenly from ``low`` to ``high``.
        centres: instead of these three, the centres themselves, ``[neurons]`` or ``[F, neurons]``, also learnable.
        std: width of the fields, a number or a tensor of the form of ``centres``; None is 2/3 of the distance of
            neighbouring centres.
        code: what is made of the activities a:

            * ``"deterministic"``: the spikes of an integrator that gets a at each step, fires at ``threshold`` and
              keeps the rest;
            * ``"random"``: a spike at each step with probability a;
            * ``"current"``: a itself, at each step.
        threshold: of ``"deterministic"``. It is a little below 1, so that the rounding of a sum loses no spike.
        generator: source of randomness of ``"random"``, on the device of x; None is torch's.

    Returns ``[T, B, *, F neurons]`` (``[T, B, neurons]`` for ``[B]``) in the dtype of x, the neurons of a value side by
    side. Gradients pass to x, ``centres`` and ``std``: through spikes as if they were the activities. SpikingJelly's
    ``PopSpikeEncoderDeterministic``, ``PopSpikeEncoderRandom`` and ``PopEncoder`` are the three codes.

    Tang et al., Deep Reinforcement Learning with Population-Coded Spiking Neural Network for Continuous Control, CoRL
    2020.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.population(torch.tensor([[0.0, 1.0]]), 4, neurons=2, std=0.8).sum(0)
    tensor([[4., 1., 1., 4.]])
    """
    who = "encode.population"
    x = floating(x, who)
    check_steps(x, T, who)
    refuse_nan(x, f"{who}: x holds NaN")
    check_finite(who, threshold=threshold)
    if threshold <= 0:
        raise ValueError(f"{who}: threshold must be positive, got {threshold}")
    values = x.to(wide(x.dtype)).unsqueeze(-1)
    middle, width = _fields(values, neurons, low, high, centres, std, who)
    activity = torch.exp(-((values - middle) / width).square() / 2)
    activity = activity.flatten(-2) if x.ndim > 1 else activity
    if code == "deterministic":
        level = activity.detach() / threshold
        counts = ((steps_like(activity, T) + 1) * level).floor()
        spikes = counts.diff(dim=0, prepend=torch.zeros_like(counts[:1])).clamp(max=1)
    elif code == "random":
        draws = torch.rand((T, *activity.shape), generator=generator, dtype=activity.dtype, device=x.device)
        spikes = (draws < activity.detach()).to(activity.dtype)
    elif code == "current":
        return given(activity.to(x.dtype).expand(T, *activity.shape), lengths, batch_first)
    else:
        raise ValueError(f"{who}: code must be one of deterministic, random, current; got {code!r}")
    if torch.is_grad_enabled() and activity.requires_grad:
        spikes = spikes + (activity - activity.detach())
    return given(spikes.to(x.dtype), lengths, batch_first)


@_peers.told
def gaussian_tuning_time(
    x: Tensor, T: int, *, neurons: int = 8, low: float | Tensor = 0.0, high: float | Tensor = 1.0
) -> Tensor:
    """Spike times (real numbers, in steps) of populations with Gaussian tuning: ``t_i = T (1 - a_i)``, from 0 to T.

    Args:
        x: values ``[B, *, F]``, or ``[B]``.
        neurons: m neurons of a value, at least 3, with centres ``c_i = low + (2 i - 3) / 2 (high - low) / (m - 2)``, i
            = 1..m, and ``std = 2/3 (high - low) / (m - 2)``.
        low, high: the range of values, numbers or tensors ``[F]``.

    Times are ``[B, *, F neurons]``, float64 for float64 x and float32 otherwise, and differentiable.

    Bohte, La Poutré and Kok, Unsupervised Clustering with Spiking Neurons by Sparse Temporal Coding and Multilayer RBF
    Networks, IEEE Transactions on Neural Networks 13, 2002.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.gaussian_tuning_time(torch.tensor([[0.5]]), 10, neurons=3).round(decimals=2)
    tensor([[6.7500, 0.0000, 6.7500]])
    """
    who = "encode.gaussian_tuning"
    x = floating(x, who)
    check_steps(x, T, who)
    refuse_nan(x, f"{who}: x holds NaN")
    values = x.to(wide(x.dtype)).unsqueeze(-1)
    middle, width = tuning_fields(neurons, low, high, values, who)
    times = T * (1 - torch.exp(-((values - middle) / width).square() / 2))
    return times.flatten(-2) if x.ndim > 1 else times


@_peers.told
def gaussian_tuning(
    x: Tensor,
    T: int,
    *,
    neurons: int = 8,
    low: float | Tensor = 0.0,
    high: float | Tensor = 1.0,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Gaussian tuning: the neurons of a value fire once, the nearer their centre the earlier, far ones not at all.

    A neuron fires at ``round(gaussian_tuning_time(x, T, ...))``, where that is before T; for the arguments see
    :func:`gaussian_tuning_time`. Returns spikes ``[T, B, *, F neurons]`` in the dtype of x.
    :func:`spikeloom.decode.gaussian_tuning` is the inverse.

    >>> import torch
    >>> from spikeloom import encode
    >>> encode.gaussian_tuning(torch.tensor([[0.5]]), 10, neurons=3).argmax(0)
    tensor([[7, 0, 7]])
    """
    times = gaussian_tuning_time(x, T, neurons=neurons, low=low, high=high).round()
    return given((steps_like(times, T) == times).to(x.dtype), lengths, batch_first)


def tuning_fields(
    neurons: int, low: float | Tensor, high: float | Tensor, like: Tensor, who: str
) -> tuple[Tensor, Tensor]:
    """Centres and widths of Gaussian tuning, which broadcast against ``like`` ``[B, *, F, neurons]``."""
    check_count(who, "neurons", neurons, least=3)
    bottom, top = (torch.as_tensor(v, dtype=like.dtype, device=like.device).unsqueeze(-1) for v in (low, high))
    if readable(bottom) and readable(top) and not bool((bottom < top).all()):
        raise ValueError(f"{who}: low must be below high, got {low} and {high}")
    i = torch.arange(1, neurons + 1, dtype=like.dtype, device=like.device)
    apart = (top - bottom) / (neurons - 2)
    return bottom + (2 * i - 3) / 2 * apart, apart / 1.5


def spread(neurons: int, low: float, high: float, like: Tensor, who: str) -> Tensor:
    """Centres that lie evenly from ``low`` to ``high``, ``[neurons]``; a single one lies in the middle."""
    check_count(who, "neurons", neurons)
    check_finite(who, low=low, high=high)
    if not low < high:
        raise ValueError(f"{who}: low must be below high, got {low} and {high}")
    if neurons == 1:
        return torch.full((1,), (low + high) / 2, dtype=like.dtype, device=like.device)
    return torch.linspace(low, high, neurons, dtype=like.dtype, device=like.device)


def _fields(
    values: Tensor,
    neurons: int,
    low: float,
    high: float,
    centres: Tensor | None,
    std: float | Tensor | None,
    who: str,
) -> tuple[Tensor, Tensor]:
    """Centres and widths of a population."""
    middle = spread(neurons, low, high, values, who) if centres is None else centres.to(values)
    if middle.ndim not in (1, 2) or (middle.ndim == 2 and (values.ndim < 3 or middle.shape[0] != values.shape[-2])):
        raise ValueError(
            f"{who}: centres must be [neurons] or [F, neurons] with F = {values.shape[-2] if values.ndim > 2 else 1}, "
            f"got {list(middle.shape)}"
        )
    if std is None:
        if middle.shape[-1] < 2:
            raise ValueError(f"{who}: a single neuron has no neighbour; give std, the width of its field")
        std = (middle[..., -1:] - middle[..., :1]) / (middle.shape[-1] - 1) / 1.5
    width = torch.as_tensor(std, dtype=values.dtype, device=values.device)
    if readable(width) and not bool((width > 0).all()):
        raise ValueError(f"{who}: std must be positive, got {std}")
    return middle, width
