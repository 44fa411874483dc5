"""Normalisation over time: td_batch_norm, TEBN, BNTT, NeuNorm.

    td_batch_norm:  y[t] = weight (x[t] - mean) / sqrt(var + eps) + bias, where weight begins at alpha v_threshold
    TEBN:           y[t] = p[t] (weight (x[t] - mean) / sqrt(var + eps) + bias)
    BNTT:           y[t] = weight[t] (x[t] - mean[t]) / sqrt(var[t] + eps)
    NeuNorm:        m[t] = k m[t-1] + (1 - k) / C^2 sum_c s[t, c],  y[t] = s[t] - w m[t]

Statistics of the first two are taken over T, B and space, those of BNTT over B and space for each step.

Zheng et al., Going Deeper with Directly-Trained Larger Spiking Neural Networks, AAAI 2021; Duan et al., Temporal
Effective Batch Normalization in Spiking Neural Networks, NeurIPS 2022; Kim and Panda, Revisiting Batch Normalization
for Training Low-Latency Deep Spiking Neural Networks from Scratch, Frontiers in Neuroscience 15, 2021; Wu et al.,
Direct Training for Spiking Neural Networks: Faster, Larger, Better, AAAI 2019.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._time import masked
from ..core import State, TemporalModule
from ..kernel import full_precision, output_dtype, state_dtype
from ..neuron import LI
from .rows import Steps, no_steps, on_valid_steps

Dims = Literal[1, 2, 3]
_NORMS: dict[int, type[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d]] = {
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}


def td_batch_norm(
    features: int,
    *,
    dims: Dims = 2,
    v_threshold: float = 1.0,
    alpha: float = 1.0,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d:
    """Threshold-dependent batch norm: torch's batch norm whose weight begins at ``alpha v_threshold``.

    Args:
        features: channels, dimension 1 of the step.
        dims: dimensions of space, 1 to 3; with 1 the step may also be ``[B, C]``.
        v_threshold: threshold of the neuron that follows.
        alpha: 1, or ``1/sqrt(2)`` where the outputs of two branches are added.
        eps, momentum: see ``nn.BatchNorm2d``.

    The result is an ``nn.BatchNorm1d``, ``2d`` or ``3d``, not a class of its own, so that a network joins it with the
    neuron after it. Inside a network its statistics are those of all steps and samples.

    Zheng et al., Going Deeper with Directly-Trained Larger Spiking Neural Networks, AAAI 2021.

    >>> import spikeloom as sl
    >>> sl.nn.td_batch_norm(3, v_threshold=0.5).weight.tolist()
    [0.5, 0.5, 0.5]
    """
    norm = _batch_norm("td_batch_norm", features, dims, eps, momentum)
    nn.init.constant_(norm.weight, alpha * v_threshold)
    return norm


class TEBN(TemporalModule):
    """Temporal effective batch norm: ``y[t] = p[t] (weight (x[t] - mean) / sqrt(var + eps) + bias)``.

    Args:
        features: channels, dimension 1 of the step.
        T: the largest number of steps; each has a scale, ``p[t]``, which begins at 1.
        dims: dimensions of space, 1 to 3; with 1 the step may also be ``[B, C]``.
        eps, momentum: see ``nn.BatchNorm2d``.

    In training, mean and var are taken over T, B and space, of valid steps alone; in evaluation they are the running
    ones. ``norm`` is the batch norm, one of torch.nn. Input and output are ``[T, B, C, *]``. The state is ``step``,
    ``[B]``: how many steps each sample has seen. Beyond step T the layer raises ValueError.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.Network(torch.nn.Conv2d(1, 8, 3), sl.nn.TEBN(8, 4), sl.LIF())(torch.rand(4, 2, 1, 6, 6)).shape
    torch.Size([4, 2, 8, 4, 4])
    """

    paper = "Duan et al., Temporal Effective Batch Normalization in Spiking Neural Networks, NeurIPS 2022"
    causal = True

    def __init__(
        self, features: int, T: int, *, dims: Dims = 2, eps: float = 1e-5, momentum: float | None = 0.1
    ) -> None:
        super().__init__()
        if T < 1:
            raise ValueError(f"TEBN: T must be at least 1, got {T}")
        self.T = T
        self.norm = _batch_norm("TEBN", features, dims, eps, momentum)
        self.p = nn.Parameter(torch.ones(T))

    def initial_state(self, *x_t: Any) -> State:
        """No step has been seen."""
        return {"step": no_steps(x_t[0])}

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, C, *]``: ``(y, state)``."""
        self.check_record(record)
        x = xs[0]
        steps = Steps("TEBN", self.T, x, None if state is None else state["step"], lengths)
        y = on_valid_steps(self.norm, x, lengths)
        p = self.p[steps.at].reshape(*steps.at.shape, *(1,) * (x.ndim - 2))
        return (y * p).to(y.dtype), {"step": steps.after}

    def constants(self) -> dict[str, Any]:
        """What checkpoints carry besides weights and statistics; the shape of ``p`` tells T."""
        return {"module": "TEBN", "eps": self.norm.eps}

    def extra_repr(self) -> str:
        return f"T={self.T}"


class BNTT(TemporalModule):
    """Batch norm through time: ``y[t] = weight[t] (x[t] - mean[t]) / sqrt(var[t] + eps)``; every step has its own.

    Args:
        features: channels C, dimension 1 of the step.
        T: the largest number of steps.
        dims: dimensions of space, 1 to 3; with 1 the step may also be ``[B, C]``.
        bias: whether a ``bias[t]`` is added. The paper has none.
        eps, momentum: see ``nn.BatchNorm2d``.

    ``weight``, ``bias``, ``running_mean`` and ``running_var`` are ``[T, C]``. In training, mean and var are taken over
    B and space, of the samples that are still going; in evaluation they are the running ones. Where ``lengths`` leave
    a single value for each channel of a step, which has no variance, the running statistics are used in training too.
    Input and output are ``[T, B, C, *]``. The state is ``step``, ``[B]``: how many steps each sample has seen. Beyond
    step T the layer raises ValueError.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.Network(torch.nn.Conv2d(1, 8, 3), sl.nn.BNTT(8, 4), sl.LIF())(torch.rand(4, 2, 1, 6, 6)).shape
    torch.Size([4, 2, 8, 4, 4])
    """

    paper = (
        "Kim and Panda, Revisiting Batch Normalization for Training Low-Latency Deep Spiking Neural Networks from "
        "Scratch, Frontiers in Neuroscience 15, 2021"
    )
    causal = True
    not_carried = ("T", "features", "dims", "momentum")  # which shapes tell, and what is of training alone
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        features: int,
        T: int,
        *,
        dims: Dims = 2,
        bias: bool = False,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        if features < 1 or T < 1:
            raise ValueError(f"BNTT: features and T must be at least 1, got {features} and {T}")
        _check_dims("BNTT", dims)
        self.features, self.T, self.dims, self.eps, self.momentum = features, T, dims, eps, momentum
        self.weight = nn.Parameter(torch.ones(T, features))
        self.bias = nn.Parameter(torch.zeros(T, features)) if bias else None
        self.register_buffer("running_mean", torch.zeros(T, features))
        self.register_buffer("running_var", torch.ones(T, features))

    def initial_state(self, *x_t: Any) -> State:
        """No step has been seen."""
        return {"step": no_steps(x_t[0])}

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, C, *]``: ``(y, state)``."""
        self.check_record(record)
        x = xs[0]
        space = x.ndim - 3
        if x.ndim < 3 or x.shape[2] != self.features or not (space == self.dims or (self.dims == 1 and space == 0)):
            raise ValueError(
                f"BNTT: expected [T, B, {self.features}, *] with {self.dims} dimensions of space, got {list(x.shape)}"
            )
        steps = Steps("BNTT", self.T, x, None if state is None else state["step"], lengths)
        if steps.first is not None:
            y = self._at_once(x, steps.first)
        else:
            y = self._step_by_step(masked(x, lengths), steps.at.expand(x.shape[:2]), steps.after)
        return masked(y, lengths), {"step": steps.after}

    def _at_once(self, x: Tensor, first: int) -> Tensor:
        """All steps as channels of one batch norm: ``[B, T C, *]``."""
        T = x.shape[0]
        norm = self._norm(x.transpose(0, 1).flatten(1, 2), slice(first, first + T), self.training)
        y: Tensor = norm.unflatten(1, (T, self.features)).transpose(0, 1)
        return y

    def _step_by_step(self, x: Tensor, at: Tensor, after: Tensor) -> Tensor:
        """A batch norm for each step, of the rows that are this step of their sample."""
        flat, valid = x.flatten(0, 1), (at < after).flatten()
        numbers, y = at.flatten(), torch.zeros_like(flat)
        for step in range(int(at[0].min()), int(after.max())):
            rows = ((numbers == step) & valid).nonzero().squeeze(1)
            if rows.numel():
                one = flat.index_select(0, rows)
                norm = self._norm(one, slice(step, step + 1), self.training and one.numel() > self.features)
                y = y.index_copy(0, rows, norm)
        return y.view(x.shape)

    def _norm(self, x: Tensor, steps: slice, batch: bool) -> Tensor:
        """The batch norm of the given steps, whose sums torch takes in float32 at least."""
        weight, bias = self.weight[steps].flatten(), None if self.bias is None else self.bias[steps].flatten()
        mean, var = self.running_mean[steps].view(-1), self.running_var[steps].view(-1)
        return F.batch_norm(x, mean, var, weight, bias, batch, self.momentum, self.eps)

    def extra_repr(self) -> str:
        return f"{self.features}, T={self.T}, dims={self.dims}, bias={self.bias is not None}"


class NeuNorm(TemporalModule):
    """Neuron normalisation: ``m[t] = k m[t-1] + (1 - k) / C^2 sum_c s[t, c]``, ``y[t] = s[t] - w m[t]``.

    Args:
        features: channels C.
        size: height and width, or one number for both.
        k: how much of the trace m is kept from step to step, from 0 to below 1.
        shared: whether the channels share one ``w``, ``[1, H, W]`` instead of ``[C, H, W]``.

    It stands after the neurons that follow a convolution; ``w`` begins Kaiming-uniform, within ``1/sqrt(H W)``. Input
    (spikes) and output are ``[T, B, C, H, W]``. The state ``v`` is m, ``[B, 1, H, W]``, zeros at rest. An input of
    another size raises ValueError.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Conv2d(1, 8, 3), sl.LIF(), sl.nn.NeuNorm(8, 4), torch.nn.Flatten())
    >>> net(torch.rand(5, 2, 1, 6, 6)).shape
    torch.Size([5, 2, 128])
    """

    paper = "Wu et al., Direct Training for Spiking Neural Networks: Faster, Larger, Better, AAAI 2019"
    causal = True
    opaque = True

    def __init__(self, features: int, size: int | tuple[int, int], *, k: float = 0.9, shared: bool = False) -> None:
        super().__init__()
        H, W = (size, size) if isinstance(size, int) else size
        if min(features, H, W) < 1:
            raise ValueError(f"NeuNorm: features and size must be at least 1, got {features} and {size}")
        if not 0 <= k < 1:
            raise ValueError(f"NeuNorm: k must be from 0 to below 1, got {k}")
        self.features, self.k = features, k
        self.w = nn.Parameter(torch.empty(1 if shared else features, H, W))
        nn.init.kaiming_uniform_(self.w, a=math.sqrt(5))
        self.trace = LI(tau=1 / (1 - k), decay_input=False)
        self.recordable = self.trace.recordable

    def initial_state(self, *x_t: Any) -> State:
        """A trace of zeros."""
        return self.trace.initial_state(x_t[0][:, :1])

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, C, H, W]``: ``(y, state)``, and recordings of ``v``."""
        self.check_record(record)
        x = xs[0]
        if x.ndim != 5 or tuple(x.shape[2:]) != (self.features, *self.w.shape[1:]):
            wanted = ", ".join(map(str, (self.features, *self.w.shape[1:])))
            raise ValueError(f"NeuNorm: expected [T, B, {wanted}], got {list(x.shape)}")
        s = masked(x, lengths)
        with full_precision(x.device):
            total = s.sum(2, keepdim=True, dtype=state_dtype(x.dtype)) * ((1 - self.k) / self.features**2)
            m, *rest = self.trace.sequence(total, state=state, lengths=lengths, record=record)
            y = s - self.w * m
        return masked(y.to(output_dtype(x.dtype)), lengths), *rest

    def extra_repr(self) -> str:
        C, H, W = self.w.shape
        return f"{self.features}, ({H}, {W}), k={self.k:g}, shared={self.features != C}"


def _batch_norm(
    who: str, features: int, dims: int, eps: float, momentum: float | None
) -> nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d:
    _check_dims(who, dims)
    return _NORMS[dims](features, eps=eps, momentum=momentum)


def _check_dims(who: str, dims: int) -> None:
    if dims not in _NORMS:
        raise ValueError(f"{who}: dims, the dimensions of space, must be 1, 2 or 3, got {dims!r}")
