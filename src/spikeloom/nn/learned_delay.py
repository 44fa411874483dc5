"""Delays that are learned: one for each channel, LearnedDelay, or for each synapse, DelayLinear and DelayConv2d.

    y[t] = sum_k g(k - d) x[t - k],   k = 0 .. max_delay,   sum_k g = 1

In training g is a bump around the delay d, a real number, so that d has a gradient; in evaluation d is rounded, and g
is 1 at that step and 0 elsewhere.

    gauss:     g(k - d) ~ exp(-(k - d)^2 / (2 sigma^2))
    triangle:  g(k - d) ~ max(0, 1 + sigma - |k - d|)

Between neurons that learn by spike times (:class:`spikeloom.learn.EventPropLIF`) no bump is needed: a spike that comes
later by dt changes the loss by the time derivative of its gradient. As ``G(k) = dL/dg(k) = sum_t dL/dy[t] x[t - k]``,

    times:     g = 1 at the rounded delay, in training too;  dL/dd = (G(d + 1) - G(d - 1)) / 2

Hammouamri, Khalfaoui-Hassani and Masquelier, Learning Delays in Spiking Neural Networks using Dilated Convolutions with
Learnable Spacings, ICLR 2024.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._constants import kind
from .._numbers import Declared, Number, describe
from .._time import masked
from ..core import State, TemporalModule
from ..core.call import autocasts
from ..kernel import full_precision, output_dtype, state_dtype
from ..spikes import SpikeTensor, pack
from .delay import Delay, dense, last_inputs, repacked
from .delay_gradients import by_times, inward, whole

Kernel = Literal["gauss", "triangle", "times"]
_NARROWEST = 1e-3  # a gauss of width 0 has no value between two steps


class _Delayed(Declared, TemporalModule):
    """What layers with learned delays have in common: the delays, the bump around them and the last inputs."""

    causal = True
    paper: ClassVar[str] = (
        "Hammouamri et al., Learning Delays in Spiking Neural Networks using Dilated Convolutions with Learnable "
        "Spacings, ICLR 2024"
    )
    limits: ClassVar = {"sigma": (0.0, math.inf)}
    not_carried: ClassVar[tuple[str, ...]] = ("kernel",)  # it is of training alone, as sigma is
    sigma: Tensor

    def __init__(self, shape: tuple[int, ...], max_delay: int, kernel: Kernel, sigma: Number) -> None:
        super().__init__()
        who = type(self).__name__
        if not isinstance(max_delay, int) or max_delay < 0 or min(shape) < 1:
            raise ValueError(f"{who}: expected sizes of at least 1 and max_delay from 0, got {shape} and {max_delay}")
        if kernel not in ("gauss", "triangle", "times"):
            raise ValueError(f"{who}: kernel must be gauss, triangle or times, got {kernel!r}")
        self.max_delay, self.kernel = max_delay, kernel
        self.numbers(sigma=sigma)
        self.delay = nn.Parameter(torch.rand(shape) * max_delay)

    def constants(self) -> dict[str, Any]:
        """What checkpoints carry besides weights and delays; sigma is of training alone."""
        return {"module": kind(self), **self._attributes()}

    def spread(self) -> Tensor:
        """How much of the input of k steps ago is taken, ``[*, max_delay + 1]``, where ``delay`` is ``[*]``.

        In training it is the bump g around the delay, in evaluation 1 at the rounded delay and 0 elsewhere, as it is
        in training where delays learn by spike times.
        """
        with full_precision(self.delay.device):
            d = self.delay.to(state_dtype(self.delay.dtype)).unsqueeze(-1)
            k = torch.arange(self.max_delay + 1, device=d.device)
            if not self.training:
                return (k == whole(d, self.max_delay)).to(d.dtype)
            d = inward(d, self.max_delay)
            if self.kernel == "times":
                return by_times(d, self.max_delay)
            sigma = self.sigma.to(d.device, d.dtype)
            if self.kernel == "gauss":
                return torch.softmax(-((k - d) / sigma.clamp(min=_NARROWEST)).square() / 2, -1)
            bump = torch.relu(1 + sigma - (k - d).abs())
            return bump / bump.sum(-1, keepdim=True)

    def initial_state(self, *x_t: Any) -> Tensor:
        """Inputs of zero, ``[B, max_delay, *]``, packed where the input is."""
        x = x_t[0]
        zeros = torch.zeros(x.shape[0], self.max_delay, *x.shape[1:], dtype=x.dtype, device=x.device)
        return pack(zeros, check=False) if isinstance(x, SpikeTensor) else zeros

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, *]``: ``(y, state)``."""
        self.check_record(record)
        x = xs[0]
        self.check_input(x)
        before = self.initial_state(x[0]) if state is None else state
        if type(before) is not type(x):  # one of both is packed
            before, x = dense(before), dense(x)
        x = x if lengths is None else repacked(masked(x, lengths), isinstance(x, SpikeTensor))
        seen = torch.cat([before.transpose(0, 1), x])
        return masked(self.delayed(seen), lengths), last_inputs(seen, self.max_delay, lengths)

    def _bump(self) -> str:
        return f"max_delay={self.max_delay}, kernel={self.kernel!r}, {describe(self)}"

    def check_input(self, x: Tensor) -> None:
        """Raises ValueError for a sequence of another shape."""
        raise NotImplementedError

    def delayed(self, seen: Tensor) -> Tensor:
        """The output ``[T, B, *]`` from the inputs ``[max_delay + T, B, *]``."""
        raise NotImplementedError


class _Weighted(_Delayed):
    """Layers with a weight for each delay."""

    def rounded(self) -> Self:
        """A copy with whole delays that are not learned, whose kernel, a triangle of width 0, has no other steps in
        training either: the layer that this one is in evaluation.
        """
        made = copy.deepcopy(self)
        made.kernel, made.sigma = "triangle", 0.0  # type: ignore[assignment]  # Declared accepts floats
        steps = whole(self.delay.detach(), self.max_delay)
        made.delay = nn.Parameter(steps.to(self.delay.dtype), requires_grad=False)
        return made


class LearnedDelay(_Delayed):
    """A delay for each channel: ``y[t, c] = sum_k g(k - d[c]) x[t - k, c]``; in evaluation ``y[t, c] = x[t - d[c], c]``
    with d rounded.

    Args:
        features: channels C, dimension 1 of the step.
        max_delay: the largest delay, in steps.
        kernel: the bump g, ``"gauss"`` or ``"triangle"``, with the sum 1 over all k; or ``"times"``, for delays between
            neurons that learn by spike times.
        sigma: its width: a float, which a :class:`DelaySchedule` may drive, or an ``nn.Parameter``. At 0 a triangle
            takes the two steps beside d.

    ``delay`` is ``[C]`` and begins uniform from 0 to ``max_delay``. Values outside count as the nearest inside, and
    have a gradient only where descent leads back. Before a linear layer or a convolution the delay is axonal, after it
    dendritic. Begin with a wide bump and let it narrow: with a narrow one a delay sees only the steps next to it.

    Input and output are ``[T, B, C, *]``. The state holds the last inputs, ``[B, max_delay, C, *]``. Packed spikes stay
    packed in the state, and in evaluation in the output. T stays as it is: append ``max_delay`` steps of zeros to the
    input to let everything out.

    >>> import torch
    >>> import spikeloom as sl
    >>> layer = sl.nn.LearnedDelay(1, max_delay=4).eval()
    >>> _ = torch.nn.init.constant_(layer.delay, 1.2)
    >>> layer.sequence(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1))[0].flatten()
    tensor([0., 1., 2.])
    """

    def __init__(self, features: int, max_delay: int, *, kernel: Kernel = "gauss", sigma: Number = 0.5) -> None:
        super().__init__((features,), max_delay, kernel, sigma)
        self.features = features

    def rounded(self) -> Delay:
        """The :class:`Delay` that this layer is in evaluation."""
        return Delay([int(n) for n in whole(self.delay.detach(), self.max_delay)])

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, C, *]``: ``(y, state)``."""
        y, *rest = super().sequence(*xs, state=state, lengths=lengths, record=record)
        return repacked(y, not self.training and isinstance(rest[0], SpikeTensor)), *rest

    def check_input(self, x: Tensor) -> None:
        """Raises ValueError unless x is ``[T, B, C, *]``."""
        if x.ndim < 3 or x.shape[2] != self.features:
            raise ValueError(f"LearnedDelay: expected [T, B, {self.features}, *], got {list(x.shape)}")

    def delayed(self, seen: Tensor) -> Tensor:
        """The output ``[T, B, C, *]`` from the inputs ``[max_delay + T, B, C, *]``."""
        T = seen.shape[0] - self.max_delay
        seen = dense(seen)
        if not self.training:
            first = self.max_delay - whole(self.delay.detach(), self.max_delay)
            index = (first + torch.arange(T, device=seen.device).unsqueeze(1)).unsqueeze(1)  # [T, 1, C]
            return seen.gather(0, index.reshape(*index.shape, *(1,) * (seen.ndim - 3)).expand(T, *seen.shape[1:]))
        dtype = state_dtype(seen.dtype)
        with full_precision(seen.device):
            rows = seen.to(dtype).flatten(3) if seen.ndim > 3 else seen.to(dtype).unsqueeze(3)
            S, B, C, R = rows.shape
            lines = rows.permute(1, 3, 2, 0).reshape(B * R, C, S)
            y = F.conv1d(lines, self.spread().to(dtype).flip(1).unsqueeze(1), groups=C)
        y = y.view(B, R, C, T).permute(3, 0, 2, 1).reshape(T, *seen.shape[1:])
        return y.to(output_dtype(seen.dtype))

    def extra_repr(self) -> str:
        return f"{self.features}, {self._bump()}"


class DelayLinear(_Weighted):
    """A linear layer with a delay for each synapse: ``y[t, o] = sum_i w[o, i] sum_k g(k - d[o, i]) x[t - k, i]``.

    Args:
        in_features, out_features: as in ``nn.Linear``.
        max_delay, kernel, sigma: see :class:`LearnedDelay`.
        taps: synapses between two neurons, each with a weight and a delay of its own, whose products are added.
        bias: whether there is one.

    ``weight`` and ``delay`` are ``[out, in, taps]``; weights begin as in ``nn.Linear`` of ``in_features taps`` inputs.
    The input is ``[T, B, in]``, the output ``[T, B, out]``, the state ``[B, max_delay, in]``. The layer is a
    convolution over time, computed on the sequence as it lies in memory, and from bits where spikes are packed. In
    evaluation delays are rounded.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(sl.nn.DelayLinear(5, 7, max_delay=10), sl.LIF())
    >>> net(torch.rand(20, 4, 5)).shape
    torch.Size([20, 4, 7])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        max_delay: int,
        *,
        taps: int = 1,
        bias: bool = False,
        kernel: Kernel = "gauss",
        sigma: Number = 0.5,
    ) -> None:
        super().__init__((out_features, in_features, taps), max_delay, kernel, sigma)
        self.in_features, self.out_features, self.taps = in_features, out_features, taps
        bound = (in_features * taps) ** -0.5
        self.weight = nn.Parameter((2 * torch.rand(out_features, in_features, taps) - 1) * bound)
        self.bias = nn.Parameter((2 * torch.rand(out_features) - 1) * bound) if bias else None

    def weights(self) -> Tensor:
        """The weight with which an input of k steps ago counts, ``[out, in, max_delay + 1]``."""
        spread = self.spread()
        if self.taps == 1:
            return (self.weight.to(spread.dtype).unsqueeze(-1) * spread).squeeze(2)
        return torch.einsum("oit,oitk->oik", self.weight.to(spread.dtype), spread)

    def check_input(self, x: Tensor) -> None:
        """Raises ValueError unless x is ``[T, B, in]``."""
        if x.ndim != 3 or x.shape[2] != self.in_features:
            raise ValueError(f"DelayLinear: expected [T, B, {self.in_features}], got {list(x.shape)}")

    def delayed(self, seen: Tensor) -> Tensor:
        """The output ``[T, B, out]`` from the inputs ``[max_delay + T, B, in]``, an image with its channels last."""
        image = seen.permute(2, 0, 1).unsqueeze(0)  # [1, in, max_delay + T, B]
        kernel = self.weights().to(self.weight.dtype).flip(2).unsqueeze(3)
        y: Tensor = F.conv2d(image, kernel, self.bias).squeeze(0).permute(1, 2, 0)
        return y

    def step(self, *x_t: Any, state: State = None) -> tuple[Any, State]:
        """One step of ``[B, in]``. In evaluation each synapse reads the one input that it waits for."""
        x = x_t[0]
        shares = x.shape[0] > self.max_delay  # a kernel over time is made once for all samples
        if self.training or shares or autocasts(x_t) or state_dtype(x.dtype) != x.dtype:  # small dtypes round it
            return super().step(x, state=state)
        self.check_input(x.unsqueeze(0))
        before = self.initial_state(x) if state is None else state
        seen = torch.cat([dense(before), dense(x).unsqueeze(1)], 1)
        age = self.max_delay - whole(self.delay.detach(), self.max_delay)
        read = seen[:, age, torch.arange(self.in_features, device=x.device).unsqueeze(1)]  # [B, out, in, taps]
        y = torch.einsum("boit,oit->bo", read, self.weight)
        after = repacked(seen[:, 1:], isinstance(x, SpikeTensor) and isinstance(before, SpikeTensor))
        return (y if self.bias is None else y + self.bias.to(y.dtype)), after

    def stepper(self) -> Callable[[Tensor, State], tuple[Tensor, State]]:
        """A function ``(x_t, state) -> (y_t, state)`` for many single steps: it holds the weights as they are now."""
        by_age = self.weights().to(self.weight.dtype).flip(2).transpose(1, 2).flatten(1)  # [out, (max_delay + 1) in]

        def step(x_t: Tensor, state: State) -> tuple[Tensor, State]:
            seen = torch.cat([self.initial_state(x_t) if state is None else state, x_t.unsqueeze(1)], 1)
            return F.linear(seen.flatten(1), by_age, self.bias), seen[:, 1:]

        return step

    def extra_repr(self) -> str:
        sizes = f"{self.in_features}, {self.out_features}, taps={self.taps}, bias={self.bias is not None}"
        return f"{sizes}, {self._bump()}"


class DelayConv2d(_Weighted):
    """A convolution of images with a delay for each of its weights: ``y[t, o] = sum_i sum_k (w[o, i] g(k - d[o, i])) *
    x[t - k, i]``, where ``*`` is the convolution of torch.nn over height and width.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, bias: as in ``nn.Conv2d``.
        max_delay, kernel, sigma: see :class:`LearnedDelay`.

    ``weight`` and ``delay`` are ``[out, in, *kernel_size]``. The input is ``[T, B, in, H, W]``, the output ``[T, B,
    out, H', W']``, the state ``[B, max_delay, in, H, W]``. It is a convolution over time, height and width, of spikes
    that are unpacked. One delay for each input channel is :class:`LearnedDelay` before an ``nn.Conv2d``.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.Network(sl.nn.DelayConv2d(2, 4, 3, max_delay=5, padding=1))(torch.rand(6, 3, 2, 8, 8)).shape
    torch.Size([6, 3, 4, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        max_delay: int,
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        bias: bool = False,
        kernel: Kernel = "gauss",
        sigma: Number = 0.5,
    ) -> None:
        size = _pair(kernel_size)
        super().__init__((out_channels, in_channels, *size), max_delay, kernel, sigma)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, size
        self.stride, self.padding = _pair(stride), _pair(padding)
        bound = math.prod(self.delay.shape[1:]) ** -0.5
        self.weight = nn.Parameter((2 * torch.rand(self.delay.shape) - 1) * bound)
        self.bias = nn.Parameter((2 * torch.rand(out_channels) - 1) * bound) if bias else None

    def check_input(self, x: Tensor) -> None:
        """Raises ValueError unless x is ``[T, B, in, H, W]``."""
        if x.ndim != 5 or x.shape[2] != self.in_channels:
            raise ValueError(f"DelayConv2d: expected [T, B, {self.in_channels}, H, W], got {list(x.shape)}")

    def delayed(self, seen: Tensor) -> Tensor:
        """The output ``[T, B, out, H', W']`` from the inputs ``[max_delay + T, B, in, H, W]``."""
        spread = self.spread()
        kernel = (self.weight.to(spread.dtype).unsqueeze(-1) * spread).to(self.weight.dtype)  # [out, in, h, w, k]
        volume, filters = dense(seen).permute(1, 2, 0, 3, 4), kernel.movedim(4, 2).flip(2)
        y = F.conv3d(volume, filters, self.bias, (1, *self.stride), (0, *self.padding))
        return y.permute(2, 0, 1, 3, 4)

    def extra_repr(self) -> str:
        sizes = f"{self.in_channels}, {self.out_channels}, {self.kernel_size}, stride={self.stride}"
        return f"{sizes}, padding={self.padding}, bias={self.bias is not None}, {self._bump()}"


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
