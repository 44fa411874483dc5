"""Dropout and dropped connections that stay the same over time.

    Dropout:            y[t] = x[t] mask / (1 - p), one mask for all t
    DropConnectLinear:  y[t] = (W mask_W) x[t] + b mask_b in training, its mean over the masks in evaluation

A mask element is 1 with probability 1 - p. With another mask at every step, as ``nn.Dropout`` in a network has it, what
is dropped averages out over time.

Lee et al., Enabling Spike-Based Backpropagation for Training Deep Neural Network Architectures, Frontiers in
Neuroscience 14, 2020; Wan et al., Regularization of Neural Networks using DropConnect, ICML 2013.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._time import masked
from ..core import State, TemporalModule, check_state
from ..kernel import output_dtype

_AT_ONCE = 16
"""Draws that are in memory at the same time."""


class _Masking(TemporalModule):
    """Layers whose state is a mask in training, and nothing in evaluation."""

    causal = True

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"{type(self).__name__}: p must be from 0 to below 1, got {p}")
        self.p = p

    def keeps_mask(self) -> bool:
        """Whether there is a mask that stays the same over time."""
        return self.training

    def blank(self, x_t: Tensor) -> Any:
        """Masks of zeros for a step ``[B, *]``."""
        raise NotImplementedError

    def draw(self, x_t: Tensor) -> Any:
        """Masks for a step ``[B, *]``: not 0 with probability 1 - p, each by a random number of its own."""

        def kept(t: Tensor) -> Tensor:
            return (torch.rand(t.shape, device=t.device) >= self.p).to(t.dtype)

        return pytree.tree_map(kept, self.blank(x_t))

    def initial_state(self, *x_t: Any) -> State:
        """A mask that is drawn now, in training where it stays the same over time; else None."""
        return self.draw(x_t[0]) if self.keeps_mask() else None

    def check_state(self, state: State, *x_t: Any) -> None:
        """Raises ValueError unless the state is a mask for this input, or None where there is none, and draws none."""
        check_state(type(self).__name__, state, self.blank(x_t[0]) if self.keeps_mask() else None)


class Dropout(_Masking):
    """Dropout with one mask for all steps: ``y[t] = x[t] mask / (1 - p)`` in training, ``y = x`` in evaluation.

    Args:
        p: probability that an element is dropped, from 0 to below 1.
        dims: 0 drops single elements; 1 to 3 drop whole channels of steps ``[B, C, *]`` with as many dimensions of
            space.

    Input and output are ``[T, B, *]``. The state is the mask in training, divided by ``1 - p``, of the shape of a step
    (with 1 for its space where channels are dropped), and None in evaluation. A step of another number of dimensions
    raises ValueError. ``nn.Dropout`` inside a network draws another mask for every step.

    >>> import torch
    >>> import spikeloom as sl
    >>> y = sl.Network(sl.nn.Dropout(0.5))(torch.ones(4, 2, 10))
    >>> y.unique().tolist(), torch.equal(y, y[:1].expand(4, 2, 10))
    ([0.0, 2.0], True)
    """

    paper = (
        "Lee et al., Enabling Spike-Based Backpropagation for Training Deep Neural Network Architectures, Frontiers in "
        "Neuroscience 14, 2020"
    )
    not_carried = ("p", "dims")  # they matter in training only

    def __init__(self, p: float = 0.5, *, dims: int = 0) -> None:
        super().__init__(p)
        if dims not in (0, 1, 2, 3):
            raise ValueError(f"Dropout: dims must be 0, 1, 2 or 3, got {dims!r}")
        self.dims = dims

    def blank(self, x_t: Tensor) -> Tensor:
        """A mask of zeros for a step ``[B, *]``."""
        if self.dims and x_t.ndim != self.dims + 2:
            raise ValueError(
                f"Dropout: with dims={self.dims} a step is [B, C, *] of {self.dims + 2} dimensions, got "
                f"{list(x_t.shape)}"
            )
        shape = (*x_t.shape[:2], *(1,) * self.dims) if self.dims else tuple(x_t.shape)
        return torch.zeros(shape, dtype=output_dtype(x_t.dtype), device=x_t.device)

    def draw(self, x_t: Tensor) -> Tensor:
        """A mask for a step ``[B, *]``, divided by ``1 - p``."""
        kept: Tensor = super().draw(x_t)
        return kept / (1 - self.p)

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, *]``: ``(y, state)``."""
        self.check_record(record)
        x = xs[0]
        if not self.training:
            return masked(x, lengths), None
        mask = self.initial_state(x[0]) if state is None else state
        return masked(x * mask, lengths), mask

    def extra_repr(self) -> str:
        return f"p={self.p:g}" + (f", dims={self.dims}" if self.dims else "")


class DropConnectLinear(_Masking):
    """A linear layer with dropped connections: ``y[t] = (W mask_W) x[t] + b mask_b`` in training, not rescaled.

    Args:
        in_features, out_features, bias: as in ``nn.Linear``.
        p: probability that a connection is dropped, from 0 to below 1.
        per_sample: whether each sample has a mask of its own, which takes B times the memory of the weight; False
            shares one among them.
        same_over_time: False draws another mask at every step.
        activation: an elementwise function that follows the product, such as ``torch.relu``, or None. The layer has to
            know it, because in evaluation the mean is taken after it.
        samples: how many values the mean in evaluation is taken over, where there is an activation.

    In evaluation ``y = E[activation(u)]``, with u normally distributed, of mean ``(1-p) (W x + b)`` and variance
    ``p (1-p) (W^2 x^2 + b^2)``. Without an activation that is the mean itself, and nothing is drawn; with one it is the
    mean of ``samples`` draws.

    The input is ``[T, B, in_features]``, the output ``[T, B, out_features]``. In training the state is
    ``{"weight": [B, out, in], "bias": [B, out]}``, boolean, where masks stay the same over time (1 in place of B where
    they are shared), and else None.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.Network(sl.nn.DropConnectLinear(3, 5), sl.LIF())(torch.rand(4, 2, 3)).shape
    torch.Size([4, 2, 5])
    """

    paper = "Wan et al., Regularization of Neural Networks using DropConnect, ICML 2013"
    not_carried = ("per_sample", "same_over_time", "samples")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        p: float = 0.5,
        bias: bool = True,
        per_sample: bool = True,
        same_over_time: bool = True,
        activation: Callable[[Tensor], Tensor] | None = None,
        samples: int = 1024,
    ) -> None:
        super().__init__(p)
        if samples < 1:
            raise ValueError(f"DropConnectLinear: samples must be at least 1, got {samples}")
        linear = nn.Linear(in_features, out_features, bias=bias)
        self.in_features, self.out_features = in_features, out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.per_sample, self.same_over_time = per_sample, same_over_time
        self.activation, self.samples = activation, samples

    def keeps_mask(self) -> bool:
        """Whether there are masks that stay the same over time."""
        return self.training and self.same_over_time

    def blank(self, x_t: Tensor) -> dict[str, Tensor]:
        """Masks of zeros for a step ``[B, in_features]``."""
        n = x_t.shape[0] if self.per_sample else 1
        shapes = {"weight": (n, self.out_features, self.in_features), "bias": (n, self.out_features)}
        if self.bias is None:
            del shapes["bias"]
        return {name: torch.zeros(shape, dtype=torch.bool, device=x_t.device) for name, shape in shapes.items()}

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, in_features]``: ``(y, state)``."""
        self.check_record(record)
        x = xs[0]
        if x.ndim != 3 or x.shape[2] != self.in_features:
            raise ValueError(f"DropConnectLinear: expected [T, B, {self.in_features}], got {list(x.shape)}")
        x = masked(x, lengths)
        if not self.training:
            return masked(self._mean(x), lengths), None
        masks = self.initial_state(x[0]) if state is None else state
        if masks is not None:
            y = self._dropped(x, masks)
        else:
            y = torch.cat([self._dropped(x_t, self.draw(x_t[0])) for x_t in x.split(1)])
        return masked(y if self.activation is None else self.activation(y), lengths), masks

    def _dropped(self, x: Tensor, masks: dict[str, Tensor]) -> Tensor:
        """``[T, B, in]`` times the weights that are left."""
        weight = self.weight * masks["weight"]
        if len(weight) == 1:
            bias = None if self.bias is None else self.bias * masks["bias"][0]
            return F.linear(x, weight[0], bias)
        y = torch.bmm(x.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1)
        return y if self.bias is None else y + (self.bias * masks["bias"]).to(y.dtype)

    def _mean(self, x: Tensor) -> Tensor:
        """The mean over masks of what follows the activation."""
        mean = (1 - self.p) * F.linear(x, self.weight, self.bias)
        if self.activation is None:
            return mean
        squares = None if self.bias is None else self.bias.square()
        variance = self.p * (1 - self.p) * F.linear(x.square(), self.weight.square(), squares)
        spread = variance.clamp(min=0).sqrt()
        total = torch.zeros_like(mean, dtype=torch.promote_types(mean.dtype, torch.float32))
        for n in torch.arange(self.samples).split(_AT_ONCE):
            draws = torch.randn(len(n), *mean.shape, dtype=mean.dtype, device=mean.device)
            total = total + self.activation(torch.addcmul(mean, spread, draws)).sum(0, dtype=total.dtype)
        return (total / self.samples).to(mean.dtype)

    def extra_repr(self) -> str:
        options = f", per_sample={self.per_sample}, same_over_time={self.same_over_time}"
        return f"{self.in_features}, {self.out_features}, p={self.p:g}, bias={self.bias is not None}{options}"
