"""A surrogate from a function."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .._numbers import Number
from .base import Surrogate

Curve = Callable[[Tensor, Tensor], Tensor]


class Custom(Surrogate):
    """A surrogate from functions of ``(u, scale)``; kernels are generated from it as from any other.

    Args:
        derivative: g(u), in elementwise torch operations.
        primitive: the function whose derivative is g, which ``spiking=False`` needs; None if there is none.
        scale_derivative: d primitive / d scale, for a learnable scale; None is ``u g(u) / a``, which is right for every
            primitive that is a function of ``a u``.

    >>> import torch
    >>> from spikeloom import surrogate
    >>> tent = surrogate.Custom(lambda u, a: torch.relu(1 - a * u.abs()), scale=2.0)
    >>> u = torch.tensor([-0.25, 0.0, 1.0], requires_grad=True)
    >>> torch.autograd.grad(tent(u).sum(), u)[0]
    tensor([0.5000, 1.0000, 0.0000])
    """

    def __init__(
        self,
        derivative: Curve,
        *,
        primitive: Curve | None = None,
        scale_derivative: Curve | None = None,
        scale: Number = 1.0,
        spiking: bool = True,
    ) -> None:
        super().__init__(scale, spiking=spiking)
        self.curve, self.smooth, self.by_scale = derivative, primitive, scale_derivative

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return self.curve(u, scale)

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        if self.smooth is None:
            return super().primitive(u, scale)
        return self.smooth(u, scale)

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        if self.by_scale is None:
            return super().scale_derivative(u, scale)
        return self.by_scale(u, scale)
