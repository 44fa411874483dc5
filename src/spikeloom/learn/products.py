"""Products of what is before and after a layer that is linear in its weight, and what is done with them.

For such a layer the sum over steps, samples and places of ``post x pre`` is its vector-Jacobian product with respect to
the weight, at input ``a`` and cotangent ``c``: ``J(a, c) = d sum(c layer(a)) / d weight``. One identity serves linear
layers, convolutions with stride, padding, dilation and groups, transposed ones, and sparse layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._time import wide
from ..nn import SparseLinear
from ..spikes import SpikeTensor

LINEAR = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, SparseLinear
)  # fmt: skip
"""Exact classes: a subclass, a parametrised layer among them, may be anything in its weight."""

_CONVOLUTIONS = LINEAR[1:-1]

_ROWS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Those whose weight has the outputs in dimension 0."""


def check_layer(layer: nn.Module, who: str) -> None:
    """Raises TypeError unless ``layer`` is linear in its weight."""
    if type(layer) not in LINEAR:
        names = ", ".join(kind.__name__ for kind in LINEAR)
        raise TypeError(
            f"{who}: takes layers that are linear in their weight ({names}, and no subclasses of them), got "
            f"{type(layer).__name__}"
        )
    if not isinstance(layer._parameters.get("weight"), nn.Parameter):
        raise TypeError(
            f"{who}: the weight of the {type(layer).__name__} is no parameter of its own; remove weight_norm"
        )


def has_rows(layer: nn.Module) -> bool:
    """Whether dimension 0 of the weight counts outputs."""
    return type(layer) in _ROWS


def weight_of(layer: nn.Module) -> Tensor:
    """The weight, without gradient."""
    weight: Tensor = layer._parameters["weight"]  # type: ignore[assignment]
    return weight.detach()


def as_values(x: Any, dtype: torch.dtype, who: str, *, ndim: int = 3) -> Tensor:
    """``x`` as an ordinary tensor of ``dtype``, without a graph; spikes of one bit are unpacked."""
    if isinstance(x, SpikeTensor):
        x = x.unpack()
    if not isinstance(x, Tensor):
        raise TypeError(f"{who}: expected a tensor, got {type(x).__name__}")
    if x.ndim < ndim or 0 in x.shape[:2]:
        raise ValueError(f"{who}: expected [T, B, *] with T > 0 and B > 0, got {list(x.shape)}")
    return x.detach().to(dtype)


class _Bare(nn.Module):
    """A layer without its hooks: nobody who looks on is shown a computation that the network did not ask for."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer.forward(x)
        return y


def product(layer: nn.Module, a: Tensor, c: Tensor, who: str) -> Tensor:
    """``J(a, c)`` for ``a``, ``c`` ``[T, B, *]``, in the shape of the weight and at least float32.

    Raises ValueError where ``c`` has not the shape of the layer's output.
    """
    weight = weight_of(layer)
    dtype = wide(weight.dtype)
    a, c = a.to(dtype), c.to(dtype)
    with torch.autocast(weight.device.type, enabled=False):
        return _product(layer, weight.to(dtype), a, c, who)


def _product(layer: nn.Module, weight: Tensor, a: Tensor, c: Tensor, who: str) -> Tensor:
    dtype = weight.dtype
    if a.device != weight.device or c.device != weight.device:
        raise ValueError(f"{who}: the weight is on {weight.device}, pre on {a.device}, post on {c.device}")
    if type(layer) is nn.Linear:
        check_linear_shapes(layer, a, c, who)
        return c.flatten(0, -2).t() @ a.flatten(0, -2)
    direct = _is_zero_padded(layer)
    with torch.enable_grad():
        leaf = weight.clone().requires_grad_()
        rest = {f"layer.{name}": p.detach().to(dtype) for name, p in layer._parameters.items() if p is not None}
        rows = (
            a[:1, :1] if direct else a
        )  # the gradient of a convolution's weight needs no output: one row has its shape
        y = torch.func.functional_call(_Bare(layer), {**rest, "layer.weight": leaf}, (rows.flatten(0, 1),))
        y = y.unflatten(0, rows.shape[:2])
        _check_shapes(a, c, (*a.shape[:2], *y.shape[2:]), who)
        if direct:
            return _of_convolution(layer, a.flatten(0, 1), c.flatten(0, 1), leaf.detach())
        found: Tensor = torch.autograd.grad(y, leaf, c)[0]
    return found.detach()


def check_linear_shapes(layer: nn.Linear, a: Tensor, c: Tensor, who: str) -> None:
    """Raises ValueError where ``a`` is no input of a Linear, or ``c`` has not the shape of its output."""
    _check_shapes(a, c, (*a.shape[:-1], layer.weight.shape[0]), who)
    if a.shape[-1] != layer.weight.shape[1]:
        raise ValueError(f"{who}: the layer takes [T, B, *, {layer.weight.shape[1]}], got pre {list(a.shape)}")


def _is_zero_padded(layer: Any) -> bool:
    """Whether a layer is a convolution whose padding torch's gradients take as it is."""
    return type(layer) in _CONVOLUTIONS and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _of_convolution(layer: Any, a: Tensor, c: Tensor, weight: Tensor) -> Tensor:
    found: Tensor = torch.ops.aten.convolution_backward(
        c, a, weight, None, layer.stride, layer.padding, layer.dilation, layer.transposed, layer.output_padding,
        layer.groups, [False, True, False],
    )[1]  # fmt: skip
    return found


def _check_shapes(a: Tensor, c: Tensor, wanted: tuple[int, ...], who: str) -> None:
    if tuple(c.shape) != wanted:
        raise ValueError(
            f"{who}: of pre {list(a.shape)} the layer makes {list(wanted)}, but post is {list(c.shape)}; post is what "
            "comes directly after the layer, with its shape"
        )


def of_each_sample(layer: nn.Module, a: Tensor, c: Tensor, who: str) -> Tensor:
    """``J`` of each sample alone, ``[B, *weight]``."""
    return torch.stack([product(layer, a[:, b : b + 1], c[:, b : b + 1], who) for b in range(a.shape[1])])


def write(layer: nn.Module, dw: Tensor, *, scale: float = 1.0) -> None:
    """Writes ``-scale dw`` to the gradient of the layer's weight, so that any optimiser that descends it adds ``dw``.

    Args:
        layer: the layer whose weight is to change.
        dw: what a rule gave, of the shape of ``layer.weight``.
        scale: a factor.

    It is added to a gradient that is there already. Raises ValueError for another shape.

    >>> import torch
    >>> import spikeloom as sl
    >>> layer = torch.nn.Linear(2, 1)
    >>> sl.learn.write(layer, torch.tensor([[1.0, -2.0]]), scale=0.5)
    >>> layer.weight.grad
    tensor([[-0.5000,  1.0000]])
    """
    weight = _checked(layer, dw, "learn.write")
    change = (dw.detach() * -scale).to(weight.dtype)
    weight.grad = change if weight.grad is None else weight.grad.detach() + change


@torch.no_grad()
def apply(
    layer: nn.Module,
    dw: Tensor,
    *,
    lr: float,
    low: float | None = None,
    high: float | None = None,
    norm: float | None = None,
) -> None:
    """Changes the layer's weight in place: ``w <- w + lr dw``, limited to ``low`` and ``high``, then normalised.

    Args:
        layer: the layer whose weight is to change.
        dw: what a rule gave, of the shape of ``layer.weight``.
        lr: learning rate.
        low, high: limits of single weights; None is no limit.
        norm: the sum that the weights of each output get by a factor (an output whose weights sum to 0 is left); None
            is no normalisation. Limits are not looked at again afterwards.

    Raises ValueError for another shape, and TypeError for ``norm`` with a layer whose weight has no row for each output
    (transposed convolutions, sparse layers).

    >>> import torch
    >>> import spikeloom as sl
    >>> layer = torch.nn.Linear(2, 1)
    >>> _ = torch.nn.init.constant_(layer.weight, 0.5)
    >>> sl.learn.apply(layer, torch.tensor([[1.0, -9.0]]), lr=0.1, low=0.0, high=1.0, norm=3.0)
    >>> layer.weight.data
    tensor([[3., 0.]])
    """
    weight = _checked(layer, dw, "learn.apply")
    weight.add_(dw.to(weight.dtype), alpha=lr)
    if low is not None or high is not None:
        weight.clamp_(low, high)
    if norm is not None:
        if not has_rows(layer):
            raise TypeError(
                f"learn.apply: norm needs a weight with a row for each output, not that of {type(layer).__name__}"
            )
        total = weight.flatten(1).sum(1)
        factor = torch.where(total == 0, torch.ones_like(total), norm / total)
        weight.mul_(factor.reshape(-1, *(1,) * (weight.ndim - 1)))


def _checked(layer: nn.Module, dw: Tensor, who: str) -> nn.Parameter:
    check_layer(layer, who)
    weight: nn.Parameter = layer._parameters["weight"]  # type: ignore[assignment]
    if dw.shape != weight.shape:
        raise ValueError(f"{who}: the weight is {list(weight.shape)}, dw is {list(dw.shape)}")
    return weight


def dense_values(x: Any, dtype: torch.dtype) -> Tensor:
    """Spikes or values as an ordinary tensor of ``dtype``, without a graph."""
    values: Tensor = x.unpack() if isinstance(x, SpikeTensor) else x
    return values.detach().to(dtype)


def accumulate(parameter: Tensor, gradient: Tensor) -> None:
    """Adds to the gradient of a parameter, in place where there is one."""
    gradient = gradient.to(parameter.dtype)
    if parameter.grad is None:
        parameter.grad = gradient.clone()
    elif parameter.grad.requires_grad:
        parameter.grad = parameter.grad.detach() + gradient
    else:
        parameter.grad.add_(gradient)
