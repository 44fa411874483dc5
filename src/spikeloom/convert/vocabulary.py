"""One small vocabulary for the operations of a forward, whatever module, function or method they were written as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from . import activations
from .qcfs import QCFS

Group = Literal["activation", "maxpool", "function", "affine", "linear", "drop", "constant", "unknown"]


@dataclass(frozen=True)
class Operation:
    """What a node of a graph is.

    Args:
        name: its word in the vocabulary, as ``relu``.
        group: ``activation`` (elementwise, becomes a neuron), ``maxpool``, ``function`` (of all values of a sample:
            softmax, norm, attention, product, math), ``affine`` (has weights), ``linear``, ``drop`` (does nothing in
            evaluation), ``constant`` (depends on no input) or ``unknown``.
        function: an activation as a function of one tensor.
        most: the largest output of an activation that is clipped.
        joins: whether it is a sum that joins a list of tensors.
    """

    name: str
    group: Group
    function: Callable[[Tensor], Tensor] | None = None
    most: float | None = None
    joins: bool = False


_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.LeakyReLU: "leaky_relu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.ELU: "elu",
    nn.SELU: "selu",
    nn.CELU: "celu",
    nn.Softplus: "softplus",
    nn.Mish: "mish",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Softsign: "softsign",
    nn.LogSigmoid: "logsigmoid",
}
_FUNCTIONS = "softmax log_softmax softmin layer_norm group_norm rms_norm instance_norm normalize local_response_norm"
_FUNCTIONS += " scaled_dot_product_attention multi_head_attention_forward var std logsumexp"
_WORD = {
    **dict.fromkeys(["softmax", "log_softmax", "softmin", "logsumexp"], "softmax"),
    **dict.fromkeys(["scaled_dot_product_attention", "multi_head_attention_forward"], "attention"),
}
_FUNCTION_MODULES: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d), "softmax"),
    ((nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm), "norm"),
    ((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), "norm"),
    ((nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder), "attention"),
    ((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), "adaptive_max_pool"),
)
_PRODUCTS = {"mul", "multiply", "div", "true_divide", "truediv", "matmul", "bmm", "mm", "einsum"}
_MATH = "pow square sqrt rsqrt exp expm1 log log1p abs reciprocal sin cos erf amax amin prod"
_ONE_OPERAND = {"div", "true_divide", "truediv"}  # linear in their first operand alone
_AFFINE = "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d addmm convolution batch_norm"
_FILLED = ("ones", "zeros", "full", "empty")
SHAPED = frozenset(
    ["new_ones", "new_zeros", "new_full", "new_empty", "ones_like", "zeros_like", "full_like", "empty_like"]
)
"""Functions of the shape of a tensor alone."""
LIKE = frozenset(["to", "type_as", "expand_as", "view_as", "reshape_as"])
"""Functions whose value is that of their first operand; a second one says the dtype or the shape alone."""
_SUMS = {"add", "sub", "subtract", "cat", "concat", "concatenate", "stack", "rsub"}
_JOINS = {"cat", "concat", "concatenate", "stack"}
_LINEAR = """
    reshape view flatten unflatten permute transpose t mT squeeze unsqueeze mean sum avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d getitem chunk split unbind contiguous clone expand
    expand_as repeat neg negative positive roll flip select narrow pixel_shuffle pixel_unshuffle to float double
    movedim moveaxis swapaxes swapdims unfold fold index_select detach view_as reshape_as tile channel_shuffle cumsum
    type_as slice alias _to_copy _unsafe_view upsample_nearest2d upsample_bilinear2d tensor_split hsplit
"""
_LINEAR_MODULES: tuple[type[nn.Module], ...] = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Flatten, nn.Unflatten, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d),
    *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle, nn.Unfold, nn.Fold),
)
_AFFINE_MODULES: tuple[type[nn.Module], ...] = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
)
_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_DROP = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def name_of(what: Any) -> str:
    """The name of a function, of a method as a function, or of an operator of ``torch.ops``."""
    if isinstance(what, torch._ops.OpOverload):
        return what._schema.name.partition("::")[2]
    name: str = getattr(what, "__name__", type(what).__name__)
    return name.strip("_") if name.startswith("__") else name


def of_module(module: Any) -> Operation:
    """The operation of a module that is called with one signal."""
    kind = type(module)
    if isinstance(module, QCFS):
        return Operation("qcfs", "activation", torch.relu)
    if kind is nn.ReLU:
        return Operation("relu", "activation", torch.relu)
    if kind is nn.ReLU6:
        return _clip(0.0, 6.0)
    if isinstance(module, nn.Hardtanh):
        return _clip(module.min_val, module.max_val)
    if kind in _ACTIVATIONS:
        options = {name: getattr(module, name) for name in getattr(module, "__constants__", ()) if name != "inplace"}
        return Operation(_ACTIVATIONS[kind], "activation", _applied(_ACTIVATIONS[kind], options))
    if kind in _MAX_POOLS:
        return Operation("maxpool", "unknown" if module.return_indices else "maxpool")
    for kinds, word in _FUNCTION_MODULES:
        if kind in kinds:
            return Operation(word, "function")
    if kind in _AFFINE_MODULES:
        statistics = getattr(module, "running_mean", None) is None and hasattr(module, "track_running_stats")
        return Operation("norm", "function") if statistics else Operation("affine", "affine")
    if kind is nn.Embedding:
        return Operation("embedding", "linear")
    if kind in _LINEAR_MODULES and _interpolates(getattr(module, "mode", "nearest")):
        return Operation(kind.__name__.lower(), "linear")
    return Operation("drop", "drop") if kind in _DROP else Operation(kind.__name__, "unknown")


def of_function(what: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Operation:
    """The operation of a function.

    Args:
        what: the function.
        args, kwargs: its arguments, with a :class:`Signal` in place of each operand that depends on an input.
    """
    name = name_of(what)
    name = "logsigmoid" if name == "log_sigmoid" else name
    signals = sum(map(_is_signal, pytree.tree_leaves((args, kwargs))))
    if name in ("relu", "clamp", "clip", "clamp_min", "clamp_max", "hardtanh", "relu6", "maximum", "minimum"):
        return _of_clamp(name, args, kwargs, signals)
    if name in _ACTIVATIONS.values():
        options = {**_positional(name, args[1:]), **{k: v for k, v in kwargs.items() if k not in ("inplace", "input")}}
        return Operation(name, "activation", _applied(name, options))
    if name.startswith("max_pool") and not kwargs.get("return_indices"):
        return Operation("maxpool", "maxpool")
    if name.startswith("adaptive_max_pool"):
        return Operation("adaptive_max_pool", "function")
    if name in _FUNCTIONS.split():
        return Operation(_WORD.get(name, "norm"), "function")
    if name in _MATH.split():
        return Operation("math", "function")
    if name in _PRODUCTS and kwargs.get("rounding_mode") is not None:
        return Operation(f"{name} that rounds", "unknown")
    if name in _PRODUCTS:
        both = signals > 1 or (name in _ONE_OPERAND and args and not _is_signal(args[0]))
        return Operation("product", "function") if both else Operation("scaling", "linear")
    if name == "batch_norm" and kwargs.get("training", args[5] if len(args) > 5 else False):
        return Operation("norm", "function")
    if name in _AFFINE.split():
        return Operation("affine", "affine")
    if name in _SUMS:
        return Operation("addition", "linear", joins=name in _JOINS)
    if name in ("pad", "constant_pad_nd"):
        fill = kwargs.get("value", args[3] if len(args) > 3 and name == "pad" else 0)
        return Operation("pad", "unknown" if fill else "linear")
    if name == "interpolate":
        mode = kwargs.get("mode", args[3] if len(args) > 3 else "nearest")
        return Operation("interpolate", "linear" if _interpolates(mode) else "unknown")
    if "dropout" in name or name in ("identity",):
        return Operation("drop", "drop")
    return Operation(name, "linear" if name in (*_LINEAR.split(), "embedding") else "unknown")


class Signal:
    """Stands for a value that depends on the model's inputs among arguments."""


def _is_signal(value: Any) -> bool:
    return isinstance(value, Signal)


def _interpolates(mode: str) -> bool:
    return mode in ("nearest", "linear", "bilinear", "bicubic", "trilinear", "area", "nearest-exact")


def _of_clamp(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], signals: int) -> Operation:
    low: Any = 0.0
    high: Any = None
    if name == "relu6":
        high = 6.0
    elif name == "clamp_max":
        low, high = None, args[1] if len(args) > 1 else kwargs.get("max")
    elif name in ("clamp", "clip", "clamp_min", "hardtanh"):
        names = ("min_val", "max_val") if name == "hardtanh" else ("min", "max")
        defaults = (-1.0, 1.0) if name == "hardtanh" else (None, None)
        low = args[1] if len(args) > 1 else kwargs.get(names[0], defaults[0])
        high = args[2] if len(args) > 2 else kwargs.get(names[1], defaults[1])
    elif name in ("maximum", "minimum"):
        other = next((a for a in (*args, *kwargs.values()) if not _is_signal(a)), None)
        low, high = (other, None) if name == "maximum" else (None, other)
    numbers = all(value is None or isinstance(value, (int, float)) for value in (low, high))
    if signals != 1 or not numbers or (low is None and high is None):
        return Operation(name, "unknown")
    return _clip(*(None if value is None else float(value) for value in (low, high)))


def _clip(low: float | None, high: float | None) -> Operation:
    if low == 0 and high is None:
        return Operation("relu", "activation", torch.relu)
    if low == 0:
        return Operation("clip", "activation", partial(torch.clamp, min=low, max=high), most=high)
    options = {name: value for name, value in (("min", low), ("max", high)) if value is not None}
    return Operation("clamp", "activation", partial(torch.clamp, **options))


def _applied(name: str, options: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    home = next(place for place in (activations, functional, torch) if hasattr(place, name))
    function: Callable[[Tensor], Tensor] = getattr(home, name)
    return partial(function, **options) if options else function


_NAMES = {"leaky_relu": ("negative_slope",), "elu": ("alpha",), "celu": ("alpha",), "softplus": ("beta", "threshold")}


def _positional(name: str, values: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(_NAMES.get(name, ()), values, strict=False))
