"""Rows: dimension 0 of what plain layers see holds samples and steps, and every layer must keep its rows apart.

Layers of torch.nn also take a single sample without batch dimension, which they recognise by its number of dimensions:
``[T, B, F]``, folded to ``[T*B, F]``, is one sequence for an LSTM and one image without batch for a convolution. Inside
a network each layer takes only the form with a batch. A layer that is wrong for every input is refused when the network
is built (:func:`refuse`), the others when they are called (:func:`keep_rows`), wherever in a model they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from .._hooks import ROWS
from .call import Call, active
from .tree import walk


class _Takes(NamedTuple):
    """What a kind of layers takes.

    ``names`` are the arguments to check; ``layout`` is their dimensions with a batch, or the least number of these;
    ``remedy`` tells what to do where the layer mixes rows for every input, and gives an empty string elsewhere.
    """

    names: tuple[str, ...]
    layout: str | Callable[[Any], int]
    remedy: Callable[[Any], str] | None = None


def _past_shape(layer: Any) -> int:
    return len(layer.normalized_shape) + 1


def _past_dim(layer: Any) -> int:
    dim = layer.dim
    return (1 - dim if dim < 0 else 1 + dim) if isinstance(dim, int) else 0


def _past_start(layer: Any) -> int:
    start = layer.start_dim
    return 1 + start if start >= 0 else 1 - start if start != layer.end_dim else 0


def _later_dim(layer: Any) -> str:
    return f"use nn.{type(layer).__name__}(dim=1) or a later dimension" if layer.dim in (0, None) else ""


def _later_start(layer: Any) -> str:
    return "use nn.Flatten(start_dim=1)" if layer.start_dim == 0 else ""


def _batch_first(layer: Any) -> str:
    attention = getattr(layer, "self_attn", layer)
    return "" if getattr(attention, "batch_first", True) else "construct it with batch_first=True"


def _spread(layer: Any) -> str:
    return "use DistributedDataParallel around the network"


_KINDS: tuple[tuple[str, _Takes], ...] = (
    (
        """Linear EmbeddingBag RNNCellBase AdaptiveLogSoftmaxWithLoss GroupNorm SyncBatchNorm BatchNorm1d
        LazyBatchNorm1d""",
        _Takes(("input",), "[N, F]"),
    ),
    (
        """CrossEntropyLoss NLLLoss LinearCrossEntropyLoss MultiMarginLoss MultiLabelMarginLoss
        MultiLabelSoftMarginLoss""",
        _Takes(("input",), "[N, C]"),
    ),
    ("Bilinear CosineEmbeddingLoss", _Takes(("input1", "input2"), "[N, F]")),
    ("TripletMarginLoss TripletMarginWithDistanceLoss", _Takes(("anchor", "positive", "negative"), "[N, F]")),
    ("PairwiseDistance", _Takes(("x1", "x2"), "[N, F]")),
    ("CosineSimilarity", _Takes(("x1", "x2"), _past_dim, _later_dim)),
    ("Softmax LogSoftmax Softmin GLU", _Takes(("input",), _past_dim, _later_dim)),
    ("Unflatten", _Takes(("input",), _past_dim, lambda m: "unflatten dimension 1 or later" if m.dim == 0 else "")),
    ("Flatten", _Takes(("input",), _past_start, _later_start)),
    ("LayerNorm RMSNorm", _Takes(("input",), _past_shape)),
    (
        """Conv1d ConvTranspose1d MaxPool1d AvgPool1d LPPool1d AdaptiveAvgPool1d AdaptiveMaxPool1d MaxUnpool1d
        InstanceNorm1d LazyInstanceNorm1d Dropout1d Fold LocalResponseNorm ChannelShuffle Upsample ConstantPad1d
        ReflectionPad1d ReplicationPad1d CircularPad1d""",
        _Takes(("input",), "[N, C, L]"),
    ),
    (
        """Conv2d ConvTranspose2d MaxPool2d AvgPool2d LPPool2d AdaptiveAvgPool2d AdaptiveMaxPool2d MaxUnpool2d
        FractionalMaxPool2d BatchNorm2d LazyBatchNorm2d InstanceNorm2d LazyInstanceNorm2d ConstantPad2d
        ReflectionPad2d ReplicationPad2d CircularPad2d PixelShuffle PixelUnshuffle Unfold Softmax2d CrossMapLRN2d""",
        _Takes(("input",), "[N, C, H, W]"),
    ),
    (
        """Conv3d ConvTranspose3d MaxPool3d AvgPool3d LPPool3d AdaptiveAvgPool3d AdaptiveMaxPool3d MaxUnpool3d
        FractionalMaxPool3d BatchNorm3d LazyBatchNorm3d InstanceNorm3d LazyInstanceNorm3d Dropout3d ConstantPad3d
        ReflectionPad3d ReplicationPad3d CircularPad3d""",
        _Takes(("input",), "[N, C, D, H, W]"),
    ),
    ("RNNBase", _Takes(("input",), "[N, L, F]", _batch_first)),
    ("MultiheadAttention", _Takes(("query", "key", "value"), "[N, L, F]", _batch_first)),
    ("TransformerEncoderLayer", _Takes(("src",), "[N, L, F]", _batch_first)),
    ("TransformerDecoderLayer", _Takes(("tgt", "memory"), "[N, L, F]", _batch_first)),
    ("Transformer", _Takes(("src", "tgt"), "[N, L, F]", _batch_first)),
    ("DataParallel", _Takes((), "", _spread)),
)
_TAKES: dict[type, _Takes] = {  # of the layers that this release of torch has
    getattr(nn, name): takes for names, takes in _KINDS for name in names.split() if hasattr(nn, name)
}


def watch(layer: nn.Module) -> None:
    """Gives a layer that also takes samples without batch dimension a hook that checks its inputs inside a network."""
    hooks = layer._forward_pre_hooks
    if _takes(layer) is not None and ROWS not in hooks and not torch.compiler.is_compiling():
        others = list(hooks.items())  # hooks of lazy layers, which must run after the check
        hooks.clear()
        hooks.update([(ROWS, keep_rows), *others])
        layer._forward_pre_hooks_with_kwargs[ROWS] = True


def keep_rows(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Raises where a layer in a network would not read dimension 0 as rows; it is a forward pre-hook of the layer.

    Tools that put another layer in the place of one (quantisation, fusion) take its hooks along as hooks without
    keyword arguments.
    """
    call = active()
    takes = None if call is None else _takes(layer)
    if call is None or takes is None:
        return
    if takes.remedy is not None and takes.remedy(layer):  # an option was set after the network was built
        refuse(layer, _path(layer, call))
    layout = takes.layout
    least = 1 + layout.count(",") if isinstance(layout, str) else layout(layer)
    for i, name in enumerate(takes.names):
        x = args[i] if i < len(args) else kwargs.get(name)
        if isinstance(x, Tensor) and x.ndim == least + 1 and isinstance(layer, _ConvNd):
            raise ValueError(_repeated(layer, call, f"{name} is {list(x.shape)}, expected {layout}"))
        if isinstance(x, Tensor) and x.ndim < least:
            wanted = layout if isinstance(layout, str) else f"at least {least} dimensions, [N, *]"
            asked = "" if call.origin is None else f". {call.origin.asked()}"
            raise ValueError(
                f"{type(layer).__name__} at {_path(layer, call)!r}: {name} is {list(x.shape)}, expected {wanted}: "
                f"inside a Network dimension 0 holds all samples and steps, and this layer would mix them{asked}; or "
                "shape what reaches the layer, for instance by nn.Unflatten(1, (1, -1))"
            )
        if type(layer) is nn.Linear and isinstance(x, Tensor) and x.shape[-1] != layer.in_features:
            features = layer.weight.shape[-1]  # the weight decides; in_features beside it may be out of date
            if x.shape[-1] != features:
                told = f"{name} is {list(x.shape)}, expected [N, {features}], and these shapes cannot be multiplied"
                raise RuntimeError(_repeated(layer, call, told))  # the kind and the words of torch's own error


def _repeated(layer: nn.Module, call: Call, given: str) -> str:
    """What to say of an input that a layer cannot take, where a forward may have repeated it over time."""
    return (
        f"{type(layer).__name__} at {_path(layer, call)!r}: {given}: inside a Network dimension 0 holds all samples "
        "and steps, and a forward has no dimension of time: it repeats nothing, net(x, repeat=T) does, and y.mean(0) "
        "is taken of what the network gives"
    )


keep_rows.only_looks = True  # type: ignore[attr-defined]  # see spikeloom._hooks: copies of it have other keys


def refuse(module: nn.Module, path: str) -> None:
    """Raises TypeError for a module whose dimension 0 is not a batch of independent rows, whatever it is given."""
    takes = _takes(module)
    remedy = "" if takes is None or takes.remedy is None else takes.remedy(module)
    if remedy:
        raise TypeError(
            f"{type(module).__name__} at {path or 'the top'!r} cannot run inside a Network: its dimension 0 is not a "
            f"batch of independent rows, and time is folded into the batch there; {remedy}"
        )


def _takes(layer: nn.Module) -> _Takes | None:
    for kind in type(layer).__mro__:
        found = _TAKES.get(kind)
        if found is not None:
            return found
    return None


def _path(layer: nn.Module, call: Call) -> str:
    named = [] if call.origin is None else walk(call.origin.body)
    return next((path or "the top" for path, module in named if module is layer), "?")
