"""Attention that weighs steps, channels and places of a whole sequence: TemporalAttention, MultiDimensionalAttention,
TCJA.

    TemporalAttention:          y = x sigmoid(MLP(mean_CHW x) + MLP(max_CHW x)), a score for each step
    MultiDimensionalAttention:  the same for steps (t), channels (c) and places (s), one after another, then a ReLU
    TCJA:                       y = x sigmoid(conv_T(mean_HW x) conv_C(mean_HW x)), a score for each step and channel

Yao et al., Temporal-wise Attention Spiking Neural Networks for Event Streams Classification, ICCV 2021; Yao et al.,
Attention Spiking Neural Networks, IEEE TPAMI 45, 2023; Zhu et al., TCJA-SNN: Temporal-Channel Joint Attention for
Spiking Neural Networks, IEEE TNNLS, 2024 (arXiv:2206.10177, 2022).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._time import check_lengths, masked, trailing
from ..core import State, TemporalModule
from ..kernel import full_precision, output_dtype, state_dtype
from .delay import dense

AttentionDims = Literal["t", "c", "s", "tc", "ts", "cs", "tcs"]


class _Attention(TemporalModule):
    """What multiplies a sequence of T steps by scores that depend on all of it.

    A subclass defines ``check_input`` and ``attended``. The scores, all of them multiplied, can be recorded as
    ``scores``.
    """

    causal = False
    recordable_by_name = ("scores",)
    not_carried: ClassVar[tuple[str, ...]] = ("reduction", "reduction_t", "reduction_c", "kernel")  # shapes tell them

    def __init__(self, T: int) -> None:
        super().__init__()
        if T < 1:
            raise ValueError(f"{type(self).__name__}: T must be at least 1, got {T}")
        self.T = T

    def step(self, *x_t: Any, state: State = None) -> tuple[Any, State]:
        """Raises ValueError: the scores depend on steps that are still to come."""
        self.check_causal("run step by step")
        raise AssertionError  # it is not causal

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All T steps of ``[T, B, *]``: ``(y, None)``, and ``{"scores": ...}`` where ``record`` names it."""
        self.check_record(record)
        x, who = xs[0], type(self).__name__
        if state is not None:
            raise ValueError(f"{who}: sees the whole sequence at once, and takes no state; give it all steps in one")
        self.check_input(x)
        if x.shape[0] != self.T:
            raise ValueError(
                f"{who}: was made for T = {self.T} steps, got a sequence of {x.shape[0]}; make it with "
                f"T={x.shape[0]}" + (", or append zeros up to T and pass lengths" if x.shape[0] < self.T else "")
            )
        n = None if lengths is None else check_lengths(lengths, *x.shape[:2], device=x.device)
        x = dense(x)
        with full_precision(x.device):
            y, *scores = self.attended(masked(x.to(output_dtype(x.dtype)), n), n)
        if not record:
            return y, None
        all_scores = math.prod(scores[1:], start=scores[0])
        return y, None, {"scores": masked(all_scores, n)}

    def check_input(self, x: Tensor) -> None:
        """Raises ValueError for a sequence of another shape."""
        raise NotImplementedError

    def attended(self, x: Tensor, n: Tensor | None) -> tuple[Tensor, ...]:
        """The output for ``x`` ``[T, B, *]``, which is 0 past the n steps of each sample, and the scores, the first of
        which are ``[T, B, *]`` and the others broadcast with them.
        """
        raise NotImplementedError


class TemporalAttention(_Attention):
    """Temporal-wise attention: ``y = x sigmoid(MLP(mean_CHW x) + MLP(max_CHW x))``, a score for each step.

    Args:
        T: number of steps of every sequence.
        reduction: the MLP, ``T -> T // reduction -> T`` without biases and with a ReLU between, is narrower by it.

    Mean and maximum are over all dimensions of a step. Input and output are ``[T, B, *]``; packed spikes are unpacked,
    for what comes out is no spike. With ``lengths``, steps past the end of a sample have mean and maximum 0, and the
    output is 0 there. Values that share the maximum share its gradient. ``record=("1.scores",)`` gives the scores,
    ``[T, B]``. The layer raises ValueError for another T, with a state, and for single steps, since its scores depend
    on later steps.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Conv2d(2, 8, 3), sl.nn.TemporalAttention(10, reduction=5), sl.LIF())
    >>> net(torch.rand(10, 3, 2, 6, 6)).shape
    torch.Size([10, 3, 8, 4, 4])
    """

    paper = "Yao et al., Temporal-wise Attention SNNs for Event Streams Classification, ICCV 2021"

    def __init__(self, T: int, *, reduction: int = 16) -> None:
        super().__init__(T)
        self.reduction = reduction
        self.mlp = _SharedMLP("TemporalAttention", "T", T, "reduction", reduction)

    def check_input(self, x: Tensor) -> None:
        """Raises ValueError unless x is ``[T, B, *]`` with something to average."""
        if x.ndim < 3 or 0 in x.shape:
            raise ValueError(f"TemporalAttention: expected [T, B, *] with at least one feature, got {list(x.shape)}")

    def attended(self, x: Tensor, n: Tensor | None) -> tuple[Tensor, ...]:
        """``x`` ``[T, B, *]`` times the score of each step, and these scores ``[T, B]``."""
        mean, most = _over(tuple(range(2, x.ndim)), x)  # [T, B]
        score = self.mlp(mean.t(), most.t()).t()
        return x * trailing(score, x.ndim).to(x.dtype), score

    def extra_repr(self) -> str:
        return f"T={self.T}, reduction={self.reduction}"


class MultiDimensionalAttention(_Attention):
    """Multi-dimensional attention: ``x = x score(x)`` for steps, channels and places in turn, then ``y = max(x, 0)``.

    Args:
        T: number of steps of every sequence.
        C: channels.
        reduction_t, reduction_c: how much narrower the MLPs of steps and of channels are inside.
        kernel: size of the convolution of places, an odd number.
        dims: which scores there are: some of ``"t"``, ``"c"``, ``"s"``, in this order.

    Scores are ``sigmoid(MLP(mean) + MLP(max))``: of a step, with mean and maximum over C, H and W, as in
    :class:`TemporalAttention`; of a channel, with those over T, H and W. The score of a place is ``sigmoid(conv([mean,
    max]))``, with those over T and C. Scores of channels and places are the same at all steps.

    Input and output are ``[T, B, C, H, W]``, without ``"s"`` in ``dims`` ``[T, B, C, *]``; packed spikes are unpacked.
    With ``lengths``, means and maxima over T are those of valid steps, steps past the end have mean and maximum 0, and
    the output is 0 there. Values that share a maximum share its gradient. ``record=("1.scores",)`` gives the product of
    all scores, ``[T, B, C]``, and with ``"s"`` in ``dims`` ``[T, B, C, H, W]``, where C is 1 if no other scores are
    there. The layer raises ValueError for another T or C, with a state, and for single steps.

    >>> import torch
    >>> import spikeloom as sl
    >>> attention = sl.nn.MultiDimensionalAttention(6, 8, reduction_t=3, reduction_c=4)
    >>> sl.Network(torch.nn.Conv2d(2, 8, 3), attention, sl.LIF())(torch.rand(6, 3, 2, 6, 6)).shape
    torch.Size([6, 3, 8, 4, 4])
    """

    paper = "Yao et al., Attention Spiking Neural Networks, IEEE TPAMI 45, 2023"

    def __init__(
        self,
        T: int,
        C: int,
        *,
        reduction_t: int = 16,
        reduction_c: int = 16,
        kernel: int = 3,
        dims: AttentionDims = "tcs",
    ) -> None:
        super().__init__(T)
        who = "MultiDimensionalAttention"
        if C < 1:
            raise ValueError(f"{who}: C must be at least 1, got {C}")
        if dims not in get_args(AttentionDims):
            raise ValueError(f'{who}: dims must be some of "t", "c" and "s", in this order, got {dims!r}')
        if "s" in dims and (kernel < 1 or kernel % 2 == 0):
            raise ValueError(f"{who}: kernel must be an odd number, which keeps height and width, got {kernel}")
        self.C, self.dims, self.kernel = C, dims, kernel
        self.reduction_t, self.reduction_c = reduction_t, reduction_c
        self.time = _SharedMLP(who, "T", T, "reduction_t", reduction_t) if "t" in dims else None
        self.channels = _SharedMLP(who, "C", C, "reduction_c", reduction_c) if "c" in dims else None
        self.space = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False) if "s" in dims else None

    def check_input(self, x: Tensor) -> None:
        """Raises ValueError unless x is ``[T, B, C, H, W]``, or ``[T, B, C, *]`` without scores of places."""
        if x.ndim < 3 or (self.space is not None and x.ndim != 5) or x.shape[2] != self.C or 0 in x.shape:
            space = "*" if self.space is None else "H, W"
            raise ValueError(f"MultiDimensionalAttention: expected [T, B, {self.C}, {space}], got {list(x.shape)}")

    def attended(self, x: Tensor, n: Tensor | None) -> tuple[Tensor, ...]:
        """``x`` ``[T, B, C, *]`` times the scores, one after another, and these scores.

        Scores are positive, so that mean and maximum over places of ``x score`` are those of x, times the score: x is
        read for both once, and multiplied once before the scores of places.
        """
        scores: list[Tensor] = []
        if self.time is not None or self.channels is not None:
            mean, most = _over(tuple(range(3, x.ndim)), x)  # [T, B, C]
            score = torch.ones_like(mean)
            if self.time is not None:
                score = self.time(mean.mean(2).t(), most.amax(2).t()).t().unsqueeze(2)
            if self.channels is not None:
                score = score * self.channels(*_over_steps(score * mean, score * most, n))
            scores.append(score)
            x = x * trailing(score, x.ndim).to(x.dtype)
        if self.space is not None:
            both = torch.stack(_over_steps(*_over((2,), x), n), 1)  # [B, 2, H, W]
            places = self.space(both.to(self.space.weight.dtype)).sigmoid()
            x = x * places.to(x.dtype)
            scores = [trailing(s, x.ndim) for s in scores] + [places.expand(self.T, *places.shape)]
        return F.relu(x), *scores

    def extra_repr(self) -> str:
        options = [f"T={self.T}", f"C={self.C}"]
        options += [f"reduction_t={self.reduction_t}"] * ("t" in self.dims)
        options += [f"reduction_c={self.reduction_c}"] * ("c" in self.dims)
        options += [f"kernel={self.kernel}"] * ("s" in self.dims)
        return ", ".join([*options, f"dims={self.dims!r}"])


class TCJA(_Attention):
    """Temporal-channel joint attention: ``y = x sigmoid(conv_T(m) conv_C(m))`` with ``m = mean_HW x``; there is a score
    for each step and channel.

    Args:
        T: number of steps of every sequence.
        C: channels.
        kernel_t: width, in channels, of the convolution that mixes all steps.
        kernel_c: width, in steps, of the convolution that mixes all channels.

    ``conv_t`` takes steps as its channels and slides over C, ``conv_c`` takes channels as its channels and slides over
    T. Neither has a bias. Both are padded with zeros to the same size; for even widths there is one more zero after the
    end than before the beginning. Input and output are ``[T, B, C, *]``; packed spikes are unpacked. With ``lengths``,
    steps past the end of a sample count as 0 in both convolutions, and the output is 0 there. ``record=("2.scores",)``
    gives the scores, ``[T, B, C]``. The layer raises ValueError for another T or C, with a state, and for single steps.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Conv2d(2, 8, 3), sl.LIF(), sl.nn.TCJA(6, 8))
    >>> net(torch.rand(6, 3, 2, 6, 6)).shape
    torch.Size([6, 3, 8, 4, 4])
    """

    paper = "Zhu et al., TCJA-SNN: Temporal-Channel Joint Attention for Spiking Neural Networks, IEEE TNNLS, 2024"

    def __init__(self, T: int, C: int, *, kernel_t: int = 2, kernel_c: int = 1) -> None:
        super().__init__(T)
        if min(C, kernel_t, kernel_c) < 1:
            raise ValueError(f"TCJA: C, kernel_t and kernel_c must be at least 1, got {C}, {kernel_t} and {kernel_c}")
        self.C = C
        self.conv_t = nn.Conv1d(T, T, kernel_t, bias=False)
        self.conv_c = nn.Conv1d(C, C, kernel_c, bias=False)

    def check_input(self, x: Tensor) -> None:
        """Raises ValueError unless x is ``[T, B, C, *]``."""
        if x.ndim < 3 or x.shape[2] != self.C or 0 in x.shape:
            raise ValueError(f"TCJA: expected [T, B, {self.C}, *], got {list(x.shape)}")

    def attended(self, x: Tensor, n: Tensor | None) -> tuple[Tensor, ...]:
        """``x`` ``[T, B, C, *]`` times the score of each step and channel, and these scores ``[T, B, C]``."""
        mean = _mean(tuple(range(3, x.ndim)), x).to(self.conv_t.weight.dtype)  # [T, B, C]
        of_steps = _same(self.conv_t, mean.transpose(0, 1)).transpose(0, 1)  # [T, B, C]
        of_channels = _same(self.conv_c, mean.permute(1, 2, 0)).permute(2, 0, 1)
        score = (of_steps * of_channels).sigmoid()
        return x * trailing(score, x.ndim).to(x.dtype), score

    def extra_repr(self) -> str:
        return f"T={self.T}, C={self.C}"


class _SharedMLP(nn.Module):
    """Scores ``[B, n]`` from means and maxima ``[B, n]``: ``sigmoid(MLP(mean) + MLP(max))``. The second layer, which
    is linear, is applied once, to the sum.
    """

    def __init__(self, who: str, of: str, n: int, name: str, reduction: int) -> None:
        super().__init__()
        if not 1 <= reduction <= n:
            raise ValueError(
                f"{who}: {name} must be from 1 to {of} = {n}, got {reduction}: the MLP has {of} // {name} units inside"
            )
        self.squeeze = nn.Linear(n, n // reduction, bias=False)
        self.excite = nn.Linear(n // reduction, n, bias=False)

    def forward(self, mean: Tensor, most: Tensor) -> Tensor:
        """The scores, from 0 to 1."""
        both = torch.stack((mean, most)).to(self.squeeze.weight.dtype)
        scores: Tensor = self.excite(F.relu(self.squeeze(both)).sum(0)).sigmoid()
        return scores


def _mean(dims: tuple[int, ...], x: Tensor) -> Tensor:
    """The mean of x over some dimensions, which may be none, in float32 at least."""
    dtype = state_dtype(x.dtype)
    return x.mean(dims, dtype=dtype) if dims else x.to(dtype)


def _over(dims: tuple[int, ...], x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and maximum of x over some dimensions, which may be none, in float32 at least."""
    return _mean(dims, x), (x.amax(dims) if dims else x).to(state_dtype(x.dtype))


def _over_steps(mean: Tensor, most: Tensor, n: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and maximum ``[B, *]`` over steps from those of each step ``[T, B, *]``. Where n is given, the first n steps
    of each sample count; at the others its means are 0.
    """
    if n is None:
        return mean.mean(0), most.amax(0)
    return mean.sum(0) / trailing(n, mean.ndim - 1), masked(most, n, -math.inf).amax(0)


def _same(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution of ``[B, channels, n]`` to n, as torch pads for ``padding="same"``: less before than after."""
    zeros = conv.kernel_size[0] - 1
    y: Tensor = conv(F.pad(x, (zeros // 2, zeros - zeros // 2)))
    return y
