"""The surrogate functions. Notation: u = v - v_threshold, a = scale."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._numbers import POSITIVE, Declared, Number, describe


class Surrogate(Declared):
    """Base of all surrogates: Heaviside step forward, ``derivative`` backward.

    A subclass defines ``derivative(u, scale)`` and ``primitive(u, scale)`` in torch operations.

    Args:
        scale: sharpness ``a`` of the derivative; a float (which a :class:`Schedule` may drive), a tensor or
            an ``nn.Parameter``. Must be positive.
        spiking: ``False`` makes the forward pass the primitive itself, a smooth function whose derivative is
            exactly the surrogate (gradient checks, conversion).

    A learnable scale receives ``d primitive / d scale``. With ``strict=True`` the step fires at ``u > 0``
    instead of ``u >= 0``. NaN gives no spike.
    """

    limits: ClassVar = {"scale": POSITIVE}
    scale: Tensor

    def __init__(self, scale: Number, *, spiking: bool = True) -> None:
        super().__init__()
        self.numbers(scale=scale)
        self.spiking = spiking

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        """ds/du, elementwise."""
        raise NotImplementedError(f"{type(self).__name__} must define derivative(u, scale)")

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        """The smooth function whose derivative by u is :meth:`derivative`."""
        raise NotImplementedError(f"{type(self).__name__} has no primitive; use spiking=True")

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        """d primitive / d scale; the default holds for every primitive of the form ``G(a u)``."""
        return u * self.derivative(u, scale) / scale

    def forward(self, u: Tensor, strict: bool = False) -> Tensor:
        """Spikes (0 or 1, in the dtype of u) of ``u``, any shape."""
        scale = self.scale
        if not self.spiking:
            return self.primitive(u, scale)
        if scale.requires_grad:
            scale = scale.expand_as(u)  # then its gradient is elementwise and autograd sums it
        # Dynamo refuses a Function with its own jvp.
        function = _Fire if torch.compiler.is_compiling() else _FireForwardAD
        spikes: Tensor = function.apply(u, scale, self, strict)  # type: ignore[no-untyped-call]
        return spikes

    def extra_repr(self) -> str:
        return describe(self) + ("" if self.spiking else ", spiking=False")


class _Fire(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, scale: Tensor, surrogate: Surrogate, strict: bool) -> Tensor:
        return (u > 0 if strict else u >= 0).to(u.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Surrogate, bool], output: Tensor) -> None:
        u, scale, surrogate, _ = inputs
        ctx.save_for_backward(u, scale)
        ctx.surrogate = surrogate

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        u, scale = ctx.saved_tensors
        by_scale = grad * ctx.surrogate.scale_derivative(u, scale) if ctx.needs_input_grad[1] else None
        return grad * ctx.surrogate.derivative(u, scale), by_scale, None, None


class _FireForwardAD(_Fire):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Surrogate, bool], output: Tensor) -> None:
        _Fire.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0], inputs[1])

    @staticmethod
    def jvp(ctx: Any, u_t: Tensor | None, scale_t: Tensor | None, *_: Any) -> Tensor:
        u, scale = ctx.saved_tensors
        out = torch.zeros_like(u)
        if u_t is not None:
            out = out + u_t * ctx.surrogate.derivative(u, scale)
        if scale_t is not None:
            out = out + scale_t * ctx.surrogate.scale_derivative(u, scale)
        return out


class ATan(Surrogate):
    """``g(u) = (a/2) / (1 + (pi a u / 2)^2)``, primitive ``atan(pi a u / 2) / pi + 1/2``; g(0) = a/2.

    Fang et al., Incorporating Learnable Membrane Time Constant..., ICCV 2021. The default of every neuron.
    """

    def __init__(self, scale: Number = 2.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return (scale / 2) / (1 + (math.pi / 2 * scale * u).square())

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.atan(math.pi / 2 * scale * u) / math.pi + 0.5


class Sigmoid(Surrogate):
    """``g(u) = a S(au) (1 - S(au))`` with the logistic function S, primitive ``S(a u)``; g(0) = a/4."""

    def __init__(self, scale: Number = 4.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        s = torch.sigmoid(scale * u)
        return scale * s * (1 - s)

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.sigmoid(scale * u)


class FastSigmoid(Surrogate):
    """``g(u) = 1 / (1 + a |u|)^2``, primitive ``u / (1 + a |u|)``; g(0) = 1 for every a.

    Zenke and Ganguli, SuperSpike, Neural Computation 2018.
    """

    def __init__(self, scale: Number = 25.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return 1 / (1 + scale * u.abs()).square()

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        return u / (1 + scale * u.abs())

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return -u * u.abs() / (1 + scale * u.abs()).square()


class PiecewiseQuadratic(Surrogate):
    """``g(u) = max(0, a - a^2 |u|)``, a triangle of area 1 on ``|u| <= 1/a``; g(0) = a.

    Primitive: ``1/2 + a u - a^2 u |u| / 2`` on that interval, 0 below it and 1 above.
    Esser et al., PNAS 2016; Bellec et al., NeurIPS 2018.
    """

    def __init__(self, scale: Number = 1.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.relu(scale - scale.square() * u.abs())

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        z = (scale * u).clamp(-1.0, 1.0)
        return 0.5 + z - 0.5 * z * z.abs()


class Erf(Surrogate):
    """``g(u) = a / sqrt(pi) exp(-(a u)^2)``, primitive ``erfc(-a u) / 2``; g(0) = a / sqrt(pi)."""

    def __init__(self, scale: Number = 2.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return scale / math.sqrt(math.pi) * torch.exp(-(scale * u).square())

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        return 0.5 * torch.erfc(-scale * u)


class StraightThrough(Surrogate):
    """``g(u) = 1`` everywhere, primitive ``u``. Bengio et al., arXiv:1308.3432. It has no scale."""

    def __init__(self, *, spiking: bool = True) -> None:
        super().__init__(1.0, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.ones_like(u)

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        return u

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.zeros_like(u)
