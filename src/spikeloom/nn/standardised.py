"""Layers with standardised weights, which train without batch norm: WSConv2d, WSLinear.

    w = gain (weight - mean) / sqrt(fan_in var + eps) scale

mean and var (with divisor fan_in) are taken over the weights of each output, so that the squares of its weights add up
to ``(gain scale)^2``.

Qiao et al., Micro-Batch Training with Batch-Channel Normalization and Weight Standardization, arXiv:1903.10520, 2019;
Brock et al., Characterizing Signal Propagation to Close the Performance Gap in Unnormalized ResNets, ICLR 2021.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.common_types import _size_2_t

from .._constants import HasConstants


class WSLinear(HasConstants, nn.Linear):
    """``y = w x + b`` with ``w = gain (weight - mean) / sqrt(fan_in var + eps) scale``, standardised for each output.

    Args:
        in_features, out_features, bias, device, dtype: see ``nn.Linear``.
        gain: whether there is a learnable ``gain`` for each output, ``[out_features, 1]``, which begins at 1.
        eps: what is added to the variance.
        scale: a constant factor. 2.74 makes up for what firing takes from the variance; give it to all layers but the
            first, which sees no spikes.

    The input is ``[*, in_features]``, the output ``[*, out_features]``. SpikingJelly's ``WSLinear`` takes the variance
    with divisor ``fan_in - 1``.

    >>> import torch
    >>> import spikeloom as sl
    >>> layer = sl.nn.WSLinear(100, 10)
    >>> layer(torch.rand(3, 100)).shape, torch.allclose(layer.standardised().square().sum(1), torch.ones(10), atol=1e-2)
    (torch.Size([3, 10]), True)
    """

    paper = "Brock et al., Characterizing Signal Propagation in Unnormalized ResNets, ICLR 2021"
    row_wise = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        gain: bool = True,
        eps: float = 1e-4,
        scale: float = 1.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.gain = nn.Parameter(self.weight.new_ones(out_features, 1)) if gain else None
        self.eps, self.scale = eps, scale

    def standardised(self) -> Tensor:
        """The weight in use, ``[out_features, in_features]``."""
        return _standardised(self.weight, self.gain, self.eps, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[*, in_features]`` to ``[*, out_features]``."""
        return F.linear(x, self.standardised(), self.bias)

    def extra_repr(self) -> str:
        return f"{nn.Linear.extra_repr(self)}{_options(self.gain, self.eps, self.scale)}"


class WSConv2d(HasConstants, nn.Conv2d):
    """A convolution with ``w = gain (weight - mean) / sqrt(fan_in var + eps) scale``, standardised for each output.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            see ``nn.Conv2d``.
        gain: whether there is a learnable ``gain`` for each output channel, ``[out_channels, 1, 1, 1]``, which begins
            at 1.
        eps, scale: see :class:`WSLinear`.

    ``fan_in`` is the number of weights of an output channel. Shapes are those of ``nn.Conv2d``.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.nn.WSConv2d(3, 8, 3, padding=1)(torch.rand(2, 3, 5, 5)).shape
    torch.Size([2, 8, 5, 5])
    """

    paper = WSLinear.paper
    row_wise = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _size_2_t,
        stride: _size_2_t = 1,
        padding: str | _size_2_t = 0,
        dilation: _size_2_t = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        *,
        gain: bool = True,
        eps: float = 1e-4,
        scale: float = 1.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.gain = nn.Parameter(self.weight.new_ones(out_channels, 1, 1, 1)) if gain else None
        self.eps, self.scale = eps, scale

    def standardised(self) -> Tensor:
        """The weight in use, ``[out_channels, in_channels / groups, *kernel_size]``."""
        return _standardised(self.weight, self.gain, self.eps, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[N, in_channels, H, W]`` to ``[N, out_channels, H', W']``."""
        y: Tensor = self._conv_forward(x, self.standardised(), self.bias)
        return y

    def extra_repr(self) -> str:
        return f"{nn.Conv2d.extra_repr(self)}{_options(self.gain, self.eps, self.scale)}"


def _standardised(weight: Tensor, gain: Tensor | None, eps: float, scale: float) -> Tensor:
    rows = weight.flatten(1)
    var, mean = torch.var_mean(rows, 1, correction=0, keepdim=True)
    w = ((rows - mean) * torch.rsqrt(rows.shape[1] * var + eps)).view_as(weight)
    w = w if gain is None else w * gain
    return w if scale == 1 else w * scale


def _options(gain: Tensor | None, eps: float, scale: float) -> str:
    return f", gain={gain is not None}, eps={eps:g}, scale={scale:g}"
