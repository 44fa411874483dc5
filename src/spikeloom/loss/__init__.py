"""Losses on spike trains and membranes ``[T, B, C]``, regularisers of firing rates, and distances of spike trains.

Shared by all that have a target of classes or values:

``target``
    class indices, int64 ``[B]``, unless a loss says otherwise; or, in cross entropies and :func:`count_mse`, shares of
    classes as floats ``[B, C]`` (soft labels, mixup, EventMix). Losses that look at every step, which are
    :func:`rate_cross_entropy`, :func:`membrane_mse` and :func:`tet`, also take a target for each step: ``[T, B]`` or
    ``[T, B, C]``.
``ignore_index``
    samples, or steps, of this class do not count, neither in sums nor in the divisors of means.
``weight``
    a weight for each class, ``[C]``, which means what it means in torch, also under label smoothing and with shares.
``reduction``
    ``"mean"`` gives ``sum w_y l / sum w_y`` (for shares of classes, the sum divided by the number of samples);
    ``"sum"`` the sum; ``"none"`` a loss for each sample, ``[B]``. A mean in which nothing counts is NaN. All this is as
    in torch.
``lengths``
    number of steps of each sample, ``[B]``. Outputs and targets past a sample's end, NaN and infinities too, change
    neither the loss nor a gradient, and their own gradient is 0. The same holds for what ``ignore_index`` leaves out.
``batch_first``
    outputs are ``[B, T, C]`` and targets for each step ``[B, T]`` or ``[B, T, C]``. It is never guessed.

Losses are float64 for float64 outputs and float32 for all others, and computed in that dtype; outputs may also be
integers or booleans. For T = 1 the cross entropies equal ``torch.nn.functional.cross_entropy`` of the only step, for
infinite outputs too.

Notation: s spikes, v membrane, y target, L steps of the sample (T without lengths), CE cross entropy.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .. import _peers, _targets, decode
from .._targets import Reduction, Targets
from .._time import duration, sequence, wide
from .rates import rate_bounds as rate_bounds
from .rates import rate_l1 as rate_l1
from .rates import rate_l2 as rate_l2
from .trains import spike_kernel as spike_kernel
from .trains import spike_similarity as spike_similarity
from .trains import van_rossum as van_rossum

__all__ = [
    "count_cross_entropy",
    "count_mse",
    "first_spike_cross_entropy",
    "first_spike_mse",
    "max_membrane_cross_entropy",
    "membrane_mse",
    "rate_bounds",
    "rate_cross_entropy",
    "rate_l1",
    "rate_l2",
    "spike_kernel",
    "spike_similarity",
    "tet",
    "van_rossum",
]


@_peers.told
def rate_cross_entropy(
    spikes: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """``1/L sum_t CE(s[t], y)``: every step is to name the class, or, with targets ``[T, B]``, its own. For spikes
    this is snnTorch's ``ce_rate_loss``; for other outputs it is the first part of TET.

    >>> import torch
    >>> from spikeloom import loss
    >>> loss.rate_cross_entropy(torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]]), torch.tensor([0]))
    tensor(0.5032)
    """
    who = "loss.rate_cross_entropy"
    x = _outputs(spikes, who, batch_first)
    y = _targets.read(
        target, x, who, weight=weight, ignore_index=ignore_index, lengths=lengths, batch_first=batch_first
    )
    return _of_steps(_cross_entropy(x, y, label_smoothing, who), y, x, lengths, reduction, who)


@_peers.told
def count_cross_entropy(
    spikes: Tensor,
    target: Tensor,
    *,
    num_classes: int | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """``CE(sum_t s[t], y)``; with ``num_classes`` the counts are those of populations (:func:`decode.population`).

    >>> import torch
    >>> import spikeloom as sl
    >>> spikes = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])  # counts 2 and 1
    >>> sl.loss.count_cross_entropy(spikes, torch.tensor([0]))  # log(1 + exp(1 - 2))
    tensor(0.3133)
    """
    who = "loss.count_cross_entropy"
    counts = _counts(_outputs(spikes, who, batch_first), num_classes, lengths)
    y = _targets.read(target, counts, who, weight=weight, ignore_index=ignore_index)
    return _of_samples(_cross_entropy(counts, y, label_smoothing, who), y, reduction, who)


@_peers.told
def max_membrane_cross_entropy(
    v: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """``CE(max_t v[t], y)``. Record the membrane of the last layer (``record=("4.v",)``) or end with ``sl.LI``.

    >>> import torch
    >>> import spikeloom as sl
    >>> v = torch.tensor([[[0.0, 1.0]], [[1.0, 0.5]]])  # both reach 1
    >>> sl.loss.max_membrane_cross_entropy(v, torch.tensor([0]))  # log 2
    tensor(0.6931)
    """
    who = "loss.max_membrane_cross_entropy"
    x = _outputs(v, who, batch_first)
    y = _targets.read(target, x[0], who, weight=weight, ignore_index=ignore_index)
    peak = decode.membrane(y.clear(x), "max", lengths=lengths)  # NaN in rows that do not count would reach the gradient
    return _of_samples(_cross_entropy(peak, y, label_smoothing, who), y, reduction, who)


@_peers.told
def count_mse(
    spikes: Tensor,
    target: Tensor,
    *,
    correct_rate: float = 1.0,
    incorrect_rate: float = 0.0,
    num_classes: int | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """``1/L mean_c (n_c - n*_c)^2`` of spike counts n; the wanted count n* is ``correct_rate`` (of the target's
    class) or ``incorrect_rate`` times L, rounded down. Shares of classes mix the two rates.

    With ``num_classes`` the counts are those of populations of M neurons, and n* is M times as large.
    """
    who = "loss.count_mse"
    x = _outputs(spikes, who, batch_first)
    counts = _counts(x, num_classes, lengths)
    y = _targets.read(target, counts, who, weight=weight, ignore_index=ignore_index)
    steps = duration(x, lengths).to(x.dtype).unsqueeze(1)
    rates = y.mixed(correct_rate, incorrect_rate, counts)
    wanted = (steps * (rates + 2e-7)).floor()  # without 2e-7, a rate of 0.29 in 100 steps would give 28
    members = x.shape[-1] // counts.shape[-1]
    return _of_samples(y.squares(counts, members * wanted) / steps.squeeze(1), y, reduction, who)


@_peers.told
def membrane_mse(
    v: Tensor,
    target: Tensor,
    *,
    on_target: float = 1.0,
    off_target: float = 0.0,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """``1/L sum_t mean_c (v_c[t] - v*_c[t])^2``.

    Args:
        target: class indices ``[B]`` or ``[T, B]`` (v* is ``on_target`` for the class, ``off_target`` for the others)
            or, for regression, the values v* themselves as floats ``[B, C]`` or ``[T, B, C]`` (then ``weight``,
            ``on_target`` and ``off_target`` do not apply).

    >>> import torch
    >>> import spikeloom as sl
    >>> v = torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]]])
    >>> sl.loss.membrane_mse(v, torch.tensor([0]))  # 1/4 in the first step, 0 in the second
    tensor(0.1250)
    """
    who = "loss.membrane_mse"
    x = _outputs(v, who, batch_first)
    if _is_real(target):
        _only_classes(who, weight=weight, on_target=on_target != 1.0, off_target=off_target != 0.0)
        y, wanted = _targets.real(x, lengths), _wanted(target, x, who, batch_first)
    else:
        y = _targets.read(
            target, x, who, weight=weight, ignore_index=ignore_index, lengths=lengths, batch_first=batch_first
        )
        wanted = y.mixed(on_target, off_target, x)
    return _of_steps(y.squares(x, wanted), y, x, lengths, reduction, who)


@_peers.told
def first_spike_cross_entropy(
    spikes: Tensor,
    target: Tensor,
    *,
    inverse: Literal["negate", "reciprocal"] = "negate",
    silent: float | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """``CE(-t, y)`` (negate) or ``CE(1 / (t + 1), y)`` (reciprocal) of first spike times t, in steps.

    For ``silent`` see :func:`decode.first_spike`; snnTorch's ``ce_temporal_loss`` has ``silent=T-1``.

    >>> import torch
    >>> import spikeloom as sl
    >>> spikes = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # times 0 and 1
    >>> sl.loss.first_spike_cross_entropy(spikes, torch.tensor([0]))  # log(1 + exp(-1))
    tensor(0.3133)
    """
    who = "loss.first_spike_cross_entropy"
    t = decode.first_spike(_outputs(spikes, who, batch_first), silent=silent, lengths=lengths)
    if inverse == "negate":
        logits = -t
    elif inverse == "reciprocal":
        logits = 1 / (t + 1)
    else:
        raise ValueError(f"{who}: inverse must be negate or reciprocal, got {inverse!r}")
    y = _targets.read(target, logits, who, weight=weight, ignore_index=ignore_index)
    return _of_samples(_cross_entropy(logits, y, label_smoothing, who), y, reduction, who)


@_peers.told
def first_spike_mse(
    spikes: Tensor,
    target: Tensor,
    *,
    on_target: float = 0.0,
    off_target: float | None = None,
    tolerance: float = 0.0,
    silent: float | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """``mean_c ((t_c - t*_c) / L)^2`` of first spike times t, in steps.

    Args:
        target: class indices ``[B]`` (t* is ``on_target`` for the class and ``off_target`` for the others; None is the
            last step, L-1), or wanted times ``[B, C]`` as floats (then ``weight``, ``on_target`` and ``off_target`` do
            not apply).
        tolerance: spikes at most this many steps away from t* count as exact.
        silent: see :func:`decode.first_spike`.

    >>> import torch
    >>> import spikeloom as sl
    >>> spikes = torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]]])  # both fire at step 1 of 2
    >>> sl.loss.first_spike_mse(spikes, torch.tensor([0]))  # wanted 0 and 1: ((1 / 2)^2 + 0) / 2
    tensor(0.1250)
    """
    who = "loss.first_spike_mse"
    x = _outputs(spikes, who, batch_first)
    t = decode.first_spike(x, silent=silent, lengths=lengths)
    steps = duration(x, lengths).to(x.dtype).unsqueeze(1)
    if _is_real(target):
        _only_classes(who, weight=weight, on_target=on_target != 0.0, off_target=off_target is not None)
        if target.shape != t.shape:
            raise ValueError(f"{who}: times must be [B, C] = {list(t.shape)}, got {list(target.shape)}")
        y, wanted = _targets.real(t, None), target.to(t.dtype)
    else:
        y = _targets.read(target, t, who, weight=weight, ignore_index=ignore_index)
        wanted = y.mixed(on_target, steps - 1 if off_target is None else off_target, t)
    error = t - wanted
    error = torch.where(error.abs() <= tolerance, 0, error)
    return _of_samples(y.squares(error / steps, error.new_zeros(())), y, reduction, who)


@_peers.told
def tet(
    outputs: Tensor,
    target: Tensor,
    *,
    lamb: float = 1e-3,
    form: Literal["paper", "mean_output"] = "paper",
    phi: float = 1.0,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    lengths: Tensor | None = None,
    batch_first: bool = False,
) -> Tensor:
    """Temporal efficient training: ``(1 - lamb) 1/L sum_t CE(o[t], y) + lamb R``.

    Args:
        outputs: real outputs (membranes, currents) of the last layer, ``[T, B, C]``.
        form: ``"paper"`` for ``R = 1/L sum_t mean_c (o_c[t] - phi)^2``, or ``"mean_output"`` (snetx) for ``R =
            CE(mean_t o[t], y)``, which needs one target for all steps.
        phi: level towards which the paper's R pulls the outputs.

    Deng et al., Temporal Efficient Training of SNNs via Gradient Re-weighting, ICLR 2022.

    >>> import torch
    >>> import spikeloom as sl
    >>> outputs = torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]]])  # CE is log 2 at each step; (o - 1)^2 is 1, then 0
    >>> sl.loss.tet(outputs, torch.tensor([0]), lamb=0.5)  # 0.5 log 2 + 0.5 * 0.5
    tensor(0.5966)
    """
    who = "loss.tet"
    x = _outputs(outputs, who, batch_first)
    y = _targets.read(
        target, x, who, weight=weight, ignore_index=ignore_index, lengths=lengths, batch_first=batch_first
    )
    steps = _targets.over_time(_cross_entropy(x, y, label_smoothing, who), x, lengths)
    if form == "paper":
        rest = _targets.over_time(y.squares(x, x.new_tensor(phi)), x, lengths)
    elif form == "mean_output":
        mean = decode.membrane(x, "mean", lengths=lengths)
        once = _targets.read(target, mean, who, weight=weight, ignore_index=ignore_index)
        rest = _cross_entropy(mean, once, label_smoothing, who)
    else:
        raise ValueError(f"{who}: form must be paper or mean_output, got {form!r}")
    divisor = _targets.over_time(y.divisor(x.dtype), x, lengths)
    return _targets.reduce((1 - lamb) * steps + lamb * rest, divisor, reduction, who)


def _outputs(x: Tensor, who: str, batch_first: bool) -> Tensor:
    """The outputs as ``[T, B, C]`` in the dtype that the loss is computed in."""
    x = sequence(x, who, ndim=3, batch_first=batch_first)
    if x.ndim != 3 or x.shape[2] == 0:
        given = list((x.transpose(0, 1) if batch_first else x).shape)
        raise ValueError(
            f"{who}: expected {'[B, T, C]' if batch_first else '[T, B, C]'} with C > 0, got {given}; flatten(2) makes "
            "one dimension of all that follow the first two"
        )
    return x.to(wide(x.dtype))


def _counts(x: Tensor, num_classes: int | None, lengths: Tensor | None) -> Tensor:
    if num_classes is not None:
        return decode.population(x, num_classes, lengths=lengths)
    return decode.count(x, lengths=lengths)


def _cross_entropy(rows: Tensor, y: Targets, smoothing: float, who: str) -> Tensor:
    if not 0 <= smoothing <= 1:
        raise ValueError(f"{who}: label_smoothing must lie between 0 and 1, got {smoothing}")
    return y.cross_entropy(rows, smoothing)


def _of_samples(each: Tensor, y: Targets, reduction: Reduction, who: str) -> Tensor:
    """Reduces the losses of samples, ``[B]``."""
    return _targets.reduce(each, y.divisor(each.dtype), reduction, who)


def _of_steps(
    rows: Tensor, y: Targets, outputs: Tensor, lengths: Tensor | None, reduction: Reduction, who: str
) -> Tensor:
    """Averages the losses of steps, ``[T, B]``, over time and reduces them."""
    each, divisor = (_targets.over_time(r, outputs, lengths) for r in (rows, y.divisor(rows.dtype)))
    return _targets.reduce(each, divisor, reduction, who)


def _is_real(target: Tensor) -> bool:
    return isinstance(target, Tensor) and target.dtype.is_floating_point


def _only_classes(who: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None and value is not False:
            raise ValueError(f"{who}: {name} belongs to class targets, int64; this target is real")


def _wanted(target: Tensor, x: Tensor, who: str, batch_first: bool) -> Tensor:
    """A real target ``[T, B, C]`` or ``[B, C]`` that fits ``x`` ``[T, B, C]``; else ValueError."""
    by_step = target.transpose(0, 1) if batch_first and target.ndim == 3 else target
    if by_step.shape not in (x.shape, x.shape[1:]):
        T, B, C = x.shape
        wanted = f"[B, T, C] = [{B}, {T}, {C}]" if batch_first else f"[T, B, C] = [{T}, {B}, {C}]"
        raise ValueError(f"{who}: a real target must be {wanted} or [B, C], got {list(target.shape)}")
    return by_step.to(x.dtype)
