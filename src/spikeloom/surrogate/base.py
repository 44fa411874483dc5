"""The base of all surrogates: step function forward, derivative backward, with a scale that may be learned."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from .._constants import HasConstants, kind
from .._numbers import POSITIVE, Declared, Number, describe


class Surrogate(Declared, HasConstants):
    """Base of all surrogates: Heaviside step forward, ``derivative`` backward.

    A subclass defines ``derivative(u, scale)`` and ``primitive(u, scale)`` in torch operations.

    Args:
        scale: sharpness ``a`` of the derivative; a float (which a :class:`Schedule` may drive), a tensor or
            an ``nn.Parameter``. It must be positive.
        spiking: ``False`` makes the forward pass the primitive itself, a smooth function whose derivative is
            exactly the surrogate (gradient checks, conversion).

    A learnable scale receives ``d primitive / d scale``. With ``strict=True`` the step fires at ``u > 0``
    instead of ``u >= 0``. NaN gives no spike.

    ``state_dict()`` holds the curve and its options; loading weights into another curve raises. A scale that is no
    parameter is loaded like a buffer where both surrogates were constructed with the same one; where a
    :class:`Schedule` drives it, loading leaves it alone.

    >>> import torch
    >>> import spikeloom as sl
    >>> class Tent(sl.surrogate.Surrogate):
    ...     def derivative(self, u, scale):
    ...         return scale * torch.relu(1 - scale * u.abs())
    >>> u = torch.tensor([-0.25, 0.0, 1.0], requires_grad=True)
    >>> spikes = Tent(2.0)(u)
    >>> spikes.tolist(), torch.autograd.grad(spikes.sum(), u)[0].tolist()
    ([0.0, 1.0, 1.0], [1.0, 2.0, 0.0])
    """

    limits: ClassVar = {"scale": POSITIVE}
    paper: ClassVar[str] = ""  # the source that spikeloom.cite names; empty if there is none
    scaled: ClassVar[bool] = True  # whether the scale has an effect; where it has none, schedules leave it alone
    scale: Tensor

    def __init__(self, scale: Number, *, spiking: bool = True) -> None:
        super().__init__()
        self.numbers(scale=scale)
        self.spiking = spiking
        if self._declared["scale"]:
            self.adjustable(scale=float(scale))

    def constants(self) -> dict[str, Any]:
        """What checkpoints carry: the kind of curve, its options, and a scale that is not learnable."""
        return {"surrogate": kind(self), **self._attributes(), **Declared.constants(self)}

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        """The derivative ds/du, elementwise."""
        raise NotImplementedError(f"{type(self).__name__} must define derivative(u, scale)")

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        """The smooth function whose derivative by u is :meth:`derivative`."""
        raise NotImplementedError(f"{type(self).__name__} has no primitive; use spiking=True")

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        """The derivative d primitive / d scale; the default is right for every primitive of the form ``G(a u)``."""
        return u * self.derivative(u, scale) / scale

    def forward(self, u: Tensor, strict: bool = False) -> Tensor:
        """The spikes of ``u`` of any shape: 0 or 1, in the dtype of u."""
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
