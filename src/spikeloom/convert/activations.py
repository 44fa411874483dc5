"""Activations of torch by their equations, in operations that kernels are generated from."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """``x`` above 0, ``negative_slope x`` below."""
    return torch.where(x > 0, x, negative_slope * x)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """``x (1 + erf(x / sqrt 2)) / 2``, or its approximation by tanh."""
    if approximate == "tanh":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def silu(x: Tensor) -> Tensor:
    """``x sigmoid(x)``."""
    return x * torch.sigmoid(x)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """``x`` above 0, ``alpha (exp(x) - 1)`` below."""
    return torch.where(x > 0, x, alpha * (torch.exp(x.clamp(max=0.0)) - 1))


def selu(x: Tensor) -> Tensor:
    """:func:`elu` with the constants for which activations keep mean 0 and variance 1."""
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """``x`` above 0, ``alpha (exp(x / alpha) - 1)`` below."""
    return torch.where(x > 0, x, alpha * (torch.exp(x.clamp(max=0.0) / alpha) - 1))


def mish(x: Tensor) -> Tensor:
    """``x tanh(softplus(x))``."""
    return x * torch.tanh(softplus(x))


def hardsigmoid(x: Tensor) -> Tensor:
    """``clamp(x / 6 + 1/2, 0, 1)``."""
    return (x / 6 + 0.5).clamp(0.0, 1.0)


def hardswish(x: Tensor) -> Tensor:
    """``x hardsigmoid(x)``."""
    return x * hardsigmoid(x)


def logsigmoid(x: Tensor) -> Tensor:
    """``-log(1 + exp(-x))``."""
    return x.clamp(max=0.0) - torch.log1p(torch.exp(-x.abs()))
