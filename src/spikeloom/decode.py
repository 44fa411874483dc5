"""Decoders: from spike trains and membranes ``[T, B, *]`` to one value per neuron, ``[B, *]``.

All take ``lengths`` (``[B]``, optional), with which steps at or past ``lengths[b]`` of sample b do not count; and
``batch_first``, with which the sequence is ``[B, T, *]``. Nothing is guessed from shapes.

Counts, rates, times and means are float64 for float64 spikes and float32 for all other floating dtypes, because
bfloat16 cannot hold the number 257 nor float16 the number 2,049. Counts of integers and booleans are int64.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ._time import duration, masked, readable, sequence, trailing, wide
from .encode.checks import check_count
from .encode.populations import spread, tuning_fields

__all__ = [
    "burst",
    "count",
    "first_spike",
    "gaussian_tuning",
    "membrane",
    "periodic",
    "phase",
    "population",
    "population_vector",
    "rank_order",
    "rate",
    "weighted_phase",
]

Readout = Literal["max", "max_abs", "mean", "last"]


def count(spikes: Tensor, *, lengths: Tensor | None = None, batch_first: bool = False) -> Tensor:
    """Number of spikes, ``[B, *]``.

    >>> import torch
    >>> from spikeloom import decode
    >>> decode.count(torch.ones(301, 1, 2, dtype=torch.bfloat16))
    tensor([[301., 301.]])
    """
    return _count(sequence(spikes, "decode.count", batch_first=batch_first), lengths)


def rate(spikes: Tensor, *, lengths: Tensor | None = None, batch_first: bool = False) -> Tensor:
    """Firing rate: spikes per step, ``[B, *]``.

    >>> import torch
    >>> from spikeloom import decode
    >>> decode.rate(torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.0]]]))
    tensor([[0.7500, 0.2500]])
    """
    return _mean(sequence(spikes, "decode.rate", batch_first=batch_first), lengths)


def first_spike(
    spikes: Tensor, *, silent: float | None = None, lengths: Tensor | None = None, batch_first: bool = False
) -> Tensor:
    """Step of the first spike, ``[B, *]``, differentiable.

    Args:
        silent: time of neurons that never fire; None is T (or the sample's length), one past the last step.

    The backward pass sends ``-grad`` to the step of the first spike (to the last step of silent neurons), because a
    larger membrane there means an earlier spike. snnTorch's ``SpikeTime`` has ``silent=T-1``.

    >>> import torch
    >>> from spikeloom import decode
    >>> decode.first_spike(torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]], [[1.0, 0.0]]]))
    tensor([[2., 3.]])
    """
    spikes = masked(sequence(spikes, "decode.first_spike", batch_first=batch_first), lengths)
    steps = duration(spikes, lengths)
    dtype = wide(spikes.dtype)
    never = steps.to(dtype) if silent is None else torch.full_like(steps, silent, dtype=dtype)
    ends = trailing(steps - 1, spikes.ndim - 1), trailing(never, spikes.ndim - 1)
    times: Tensor = _FirstSpike.apply(spikes, *ends)  # type: ignore[no-untyped-call]
    return times


def population(spikes: Tensor, num_classes: int, *, lengths: Tensor | None = None, batch_first: bool = False) -> Tensor:
    """Spike counts of populations: neurons ``[T, B, N]`` in ``num_classes`` contiguous groups, ``[B, num_classes]``.

    >>> import torch
    >>> from spikeloom import decode
    >>> decode.population(torch.ones(3, 1, 6), 2)
    tensor([[9., 9.]])
    """
    spikes = sequence(spikes, "decode.population", ndim=3, batch_first=batch_first)
    neurons = spikes.shape[-1]
    if not isinstance(num_classes, int) or num_classes < 1 or neurons % num_classes:
        raise ValueError(
            f"decode.population: {neurons} neurons cannot be divided into {num_classes} equal groups; "
            f"give the last layer a multiple of {num_classes} neurons"
        )
    return _count(spikes, lengths).reshape(*spikes.shape[1:-1], num_classes, -1).sum(-1)


def membrane(v: Tensor, how: Readout = "max", *, lengths: Tensor | None = None, batch_first: bool = False) -> Tensor:
    """Reads a membrane ``[T, B, *]`` out: its ``max``, ``max_abs`` (the signed value), ``mean`` or ``last`` value.

    A single value keeps the membrane's dtype; a mean is float32 or float64.

    >>> import torch
    >>> import spikeloom as sl
    >>> v = torch.tensor([1.0, -3.0, 0.5]).view(3, 1, 1)
    >>> {how: sl.decode.membrane(v, how).item() for how in ("max", "max_abs", "mean", "last")}
    {'max': 1.0, 'max_abs': -3.0, 'mean': -0.5, 'last': 0.5}
    """
    v = sequence(v, "decode.membrane", batch_first=batch_first)
    if how == "max":
        return masked(v, lengths, fill=_lowest(v.dtype)).amax(0)
    if how == "max_abs":
        size = masked(v, lengths).to(wide(v.dtype)).abs()
        return v.gather(0, size.argmax(0, keepdim=True)).squeeze(0)
    if how == "mean":
        return _mean(v, lengths)
    if how == "last":
        if lengths is None:
            return v[-1]
        at = trailing(duration(v, lengths) - 1, v.ndim - 1).expand(v.shape[1:]).unsqueeze(0)
        return v.gather(0, at).squeeze(0)
    raise ValueError(f"decode.membrane: how must be one of max, max_abs, mean, last; got {how!r}")


def phase(
    spikes: Tensor,
    *,
    period: int,
    silent: float = 0.0,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Values of :func:`spikeloom.encode.phase`: the mean over spikes of ``1 - (t mod period) / (period - 1)``, ``[B,
    *]``.

    Args:
        period: steps of a period.
        silent: value of neurons that never fire.

    >>> import torch
    >>> from spikeloom import decode
    >>> decode.phase(torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]], [[0.0, 0.0]]]), period=3)
    tensor([[0.5000, 1.0000]])
    """
    who = "decode.phase"
    spikes = sequence(spikes, who, batch_first=batch_first)
    check_count(who, "period", period)
    steps = torch.arange(spikes.shape[0], device=spikes.device) % period
    values = 1 - steps.to(wide(spikes.dtype)) / max(1, period - 1)
    return _mean_of_spikes(spikes, trailing(values, spikes.ndim), silent, lengths)


def weighted_phase(
    spikes: Tensor, *, bits: int = 8, lengths: Tensor | None = None, batch_first: bool = False
) -> Tensor:
    """Values of :func:`spikeloom.encode.weighted_phase`: ``sum_t 2^-(1 + t mod bits) s[t]``, averaged over periods.

    Steps after a sample's last whole period do not count; a sample without a whole period raises ValueError. The result
    is ``[B, *]``.

    >>> import torch
    >>> from spikeloom import decode
    >>> decode.weighted_phase(torch.tensor([[[1.0]], [[1.0]], [[0.0]]]), bits=3)
    tensor([[0.7500]])
    """
    who = "decode.weighted_phase"
    spikes = sequence(spikes, who, batch_first=batch_first)
    check_count(who, "bits", bits)
    periods = duration(spikes, lengths) // bits
    if spikes.shape[0] < bits or (readable(periods) and int(periods.min()) < 1):
        raise ValueError(
            f"{who}: every sample must have a whole period of {bits} steps at least; give bits as the encoder had it"
        )
    place = torch.arange(spikes.shape[0], device=spikes.device) % bits
    weights = torch.exp2(-1.0 - place.to(wide(spikes.dtype)))
    total = _count(masked(spikes, periods * bits).to(weights.dtype) * trailing(weights, spikes.ndim), None)
    return total / trailing(periods, total.ndim)


def periodic(spikes: Tensor, *, period: int, lengths: Tensor | None = None, batch_first: bool = False) -> Tensor:
    """The pattern of :func:`spikeloom.encode.periodic`: the mean of the steps ``t`` with the same ``t mod period``,
    ``[period, B, *]`` (``[B, period, *]`` with ``batch_first``).

    A last period that is not whole counts too. A sample of fewer steps than a period raises ValueError.

    >>> import torch
    >>> from spikeloom import decode
    >>> decode.periodic(torch.tensor([[[1.0]], [[0.0]], [[1.0]], [[1.0]], [[1.0]]]), period=2).flatten()
    tensor([1.0000, 0.5000])
    """
    who = "decode.periodic"
    spikes = sequence(spikes, who, batch_first=batch_first)
    check_count(who, "period", period)
    steps, T = duration(spikes, lengths), spikes.shape[0]
    if period > T or (readable(steps) and int(steps.min()) < period):
        raise ValueError(f"{who}: every sample must have a whole period of {period} steps at least")
    values, place = masked(spikes, lengths), torch.arange(period, device=spikes.device)
    total = torch.stack([_count(values[k::period], None) for k in range(period)])
    times = (steps - place.unsqueeze(1) + period - 1) // period  # how often each step of the pattern came
    mean = total.to(wide(spikes.dtype)) / trailing(times, total.ndim)
    return mean.transpose(0, 1) if batch_first else mean


def burst(spikes: Tensor, *, n_max: int = 5, lengths: Tensor | None = None, batch_first: bool = False) -> Tensor:
    """Values of :func:`spikeloom.encode.burst`, rounded up to a multiple of ``1 / n_max``: ``n / n_max``, ``[B, *]``.

    >>> import torch
    >>> from spikeloom import decode
    >>> decode.burst(torch.tensor([[[1.0]], [[0.0]], [[1.0]]]), n_max=4)
    tensor([[0.5000]])
    """
    check_count("decode.burst", "n_max", n_max)
    return _count(sequence(spikes, "decode.burst", batch_first=batch_first), lengths) / n_max


def rank_order(
    spikes: Tensor, *, factor: float = 0.9, lengths: Tensor | None = None, batch_first: bool = False
) -> Tensor:
    """How much each neuron counts by its rank: ``factor^r``, where r neurons of the sample fired before it, ``[B, *]``.

    Neurons that fire in the same step have the same rank; silent ones count 0. A sum of these values with weights is
    the activation of Thorpe and Gautrais, Rank Order Coding, 1998.

    >>> import torch
    >>> from spikeloom import decode
    >>> decode.rank_order(torch.tensor([[[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]]), factor=0.5)
    tensor([[0.5000, 1.0000, 0.0000]])
    """
    who = "decode.rank_order"
    if not 0 < factor <= 1:
        raise ValueError(f"{who}: factor must be above 0 and at most 1, got {factor}")
    times = first_spike(spikes, silent=math.inf, lengths=lengths, batch_first=batch_first).detach()
    flat = times.reshape(len(times), math.prod(times.shape[1:]))
    rank = torch.searchsorted(flat.sort(1).values, flat).to(times.dtype).reshape(times.shape)
    return torch.where(times.isinf(), 0, factor**rank)


def population_vector(
    spikes: Tensor,
    *,
    neurons: int = 10,
    low: float = 0.0,
    high: float = 1.0,
    centres: Tensor | None = None,
    silent: float = math.nan,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Values of :func:`spikeloom.encode.population`: the mean of the centres, weighted by counts ``n``: ``sum_i n_i c_i
    / sum_i n_i``.

    Args:
        spikes: ``[T, B, *, F neurons]``, spikes or activities.
        neurons, low, high, centres: as in the encoder.
        silent: value of populations that never fire.

    The result is ``[B, *, F]``. Values near the ends of the range, where neurons have neighbours on one side alone, are
    drawn towards its middle. Other numbers of neurons raise ValueError.

    Georgopoulos et al., Neuronal Population Coding of Movement Direction, Science 233, 1986.

    >>> import torch
    >>> from spikeloom import decode
    >>> decode.population_vector(torch.tensor([[[1.0, 1.0, 0.0]], [[0.0, 1.0, 0.0]]]), neurons=3)
    tensor([[0.3333]])
    """
    who = "decode.population_vector"
    counts = _count(sequence(spikes, who, ndim=3, batch_first=batch_first), lengths).to(wide(spikes.dtype))
    middle = spread(neurons, low, high, counts, who) if centres is None else centres.to(counts)
    counts = _populations(counts, middle.shape[-1], who)
    if middle.ndim > 2 or (middle.ndim == 2 and len(middle) != counts.shape[-2]):
        raise ValueError(
            f"{who}: centres must be [neurons] or [F, neurons] with F = {counts.shape[-2]}, got {list(middle.shape)}"
        )
    total = counts.sum(-1)
    return torch.where(total > 0, (counts * middle).sum(-1) / torch.where(total > 0, total, 1), silent)


def gaussian_tuning(
    spikes: Tensor,
    *,
    neurons: int = 8,
    low: float | Tensor = 0.0,
    high: float | Tensor = 1.0,
    silent: float = math.nan,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Values of :func:`spikeloom.encode.gaussian_tuning`, from the two neurons i and j of a population that fire first:
    ``(c_i + c_j) / 2 + std^2 ln(a_i / a_j) / (c_i - c_j)`` with ``a = 1 - t / T``.

    Args:
        spikes: ``[T, B, *, F neurons]``, of as many steps T as the encoder had.
        neurons, low, high: as in the encoder.
        silent: value of populations that never fire. One of which a single neuron fires has the value of its centre.

    The result, ``[B, *, F]``, is exact but for the rounding of times to steps.

    >>> import torch
    >>> from spikeloom import decode, encode
    >>> decode.gaussian_tuning(encode.gaussian_tuning(torch.tensor([[0.3]]), 1000)).round(decimals=2)
    tensor([[0.3000]])
    """
    who = "decode.gaussian_tuning"
    spikes = sequence(spikes, who, ndim=3, batch_first=batch_first)
    times = _populations(first_spike(spikes, silent=math.inf, lengths=lengths).detach(), neurons, who)
    middle, width = tuning_fields(neurons, low, high, times, who)
    first = times.topk(2, largest=False)
    level = torch.log1p(-first.values / spikes.shape[0])
    a, b = middle.expand(times.shape).gather(-1, first.indices).unbind(-1)
    near = width.squeeze(-1).square() * (level[..., 0] - level[..., 1]) / (a - b)
    fired = first.values.isfinite()
    return torch.where(fired[..., 1], (a + b) / 2 + near, torch.where(fired[..., 0], a, silent))


def _populations(values: Tensor, neurons: int, who: str) -> Tensor:
    """``[B, *, F neurons]`` as ``[B, *, F, neurons]``."""
    if values.shape[-1] % neurons:
        raise ValueError(
            f"{who}: {values.shape[-1]} outputs cannot be divided into populations of {neurons} neurons; give the "
            "number that the encoder had"
        )
    groups: Tensor = values.unflatten(-1, (-1, neurons))
    return groups


def _mean_of_spikes(spikes: Tensor, values: Tensor, silent: float, lengths: Tensor | None) -> Tensor:
    """The mean of ``values`` ``[T, 1, ...]`` over the spikes of each neuron."""
    counts = _count(spikes, lengths).to(values.dtype)
    total = _count(masked(spikes, lengths).to(values.dtype) * values, None)
    return torch.where(counts > 0, total / torch.where(counts > 0, counts, 1), silent)


def _count(x: Tensor, lengths: Tensor | None) -> Tensor:
    x = masked(x, lengths)
    return x.sum(0, dtype=wide(x.dtype) if x.dtype.is_floating_point else torch.int64)


def _mean(x: Tensor, lengths: Tensor | None) -> Tensor:
    dtype = wide(x.dtype)
    return _count(x, lengths).to(dtype) / trailing(duration(x, lengths), x.ndim - 1).to(dtype)


def _lowest(dtype: torch.dtype) -> float:
    if dtype.is_floating_point:
        return -math.inf
    return False if dtype == torch.bool else torch.iinfo(dtype).min


class _FirstSpike(torch.autograd.Function):
    """The times of the first spikes, in the dtype of ``never``; ``last`` holds the index of each last step, int64."""

    generate_vmap_rule = True

    @staticmethod
    def forward(spikes: Tensor, last: Tensor, never: Tensor) -> Tensor:
        fired = spikes > 0
        return torch.where(fired.any(0), _first(fired).to(never.dtype), never)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        spikes, last, _ = inputs
        ctx.save_for_backward(spikes, last)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        spikes, last = ctx.saved_tensors
        fired = spikes > 0
        at = torch.where(fired.any(0), _first(fired), last)
        steps = trailing(torch.arange(spikes.shape[0], device=spikes.device), spikes.ndim)
        return torch.where(steps == at, -grad, 0).to(spikes.dtype), None, None


def _first(fired: Tensor) -> Tensor:
    """The index of the first step that is True, int64; 0 where none is."""
    return fired.to(torch.uint8).argmax(0)
