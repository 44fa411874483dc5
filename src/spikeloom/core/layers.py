"""How a network runs an nn.Sequential: what does not change over time once, and neighbours in one where they can be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._hooks import has_hooks
from .call import Call, Repeated, Sequence, map_tensors
from .module import TemporalModule

# Layers of torch.nn that treat the rows of a batch one by one and draw no random numbers. Exact types: a
# subclass may do anything. Batch norm is one of them here: equal rows repeated T times have the same mean and
# variance.
_ROW_WISE_NAMES = """
    Identity Linear Bilinear Embedding Flatten Unflatten
    Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d
    BatchNorm1d BatchNorm2d BatchNorm3d GroupNorm LayerNorm RMSNorm LocalResponseNorm
    InstanceNorm1d InstanceNorm2d InstanceNorm3d
    MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d LPPool1d LPPool2d
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d
    ReLU ReLU6 LeakyReLU PReLU ELU SELU CELU GELU SiLU Mish Sigmoid Tanh Hardtanh Hardsigmoid Hardswish
    Softplus Softsign Tanhshrink Threshold Softmax LogSoftmax
    ZeroPad1d ZeroPad2d ZeroPad3d ConstantPad1d ConstantPad2d ConstantPad3d ReflectionPad1d ReflectionPad2d
    ReplicationPad1d ReplicationPad2d Upsample PixelShuffle PixelUnshuffle Unfold Fold
"""
_ROW_WISE = frozenset(getattr(nn, name) for name in _ROW_WISE_NAMES.split())
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def runs_layers(body: nn.Module) -> bool:
    """Whether a body is a Sequential whose layers a network may run one by one."""
    return _plain_sequential(body)


def has_prefix(body: nn.Module, paths: Mapping[TemporalModule, str]) -> bool:
    """Whether a Sequential has leading layers that need to run only once on an unchanging input.

    A neuron in the first place counts: it takes the one step as it is.
    """
    first = next(layers_of(body), None)
    return first is not None and (_row_wise(first) or (_takes_repeated(first) and first in paths))


def run_layers(body: nn.Module, x: Any, call: Call) -> Any:
    """Runs a Sequential on folded inputs; neighbours of which one absorbs the other run as one."""
    return _run(list(layers_of(body)), x, call)


def run_prefix(body: nn.Module, x: Tensor, call: Call) -> Any:
    """Runs a Sequential on ``x`` ``[B, *]``, the same at all T steps, and returns folded outputs."""
    layers = list(layers_of(body))
    if any(getattr(layer, "inplace", False) for layer in layers):
        x = x.clone()  # T steps of it would be a copy
    y: Any = x
    i = 0
    while i < len(layers) and _row_wise(layers[i]) and not _alone(layers[i], y):
        y = layers[i](y)
        i += 1
    if i < len(layers) and isinstance(y, Tensor) and _takes_repeated(layers[i]):
        y = layers[i](Repeated(y, call.T))
        i += 1
    else:
        y = map_tensors(lambda t: call.fold(t.expand(call.T, *t.shape)), y)
    return _run(layers[i:], y, call)


def _run(layers: list[nn.Module], x: Any, call: Call) -> Any:
    fuse = call.fuse and call.lengths is None and not torch.compiler.is_compiling()
    i = 0
    while i < len(layers):
        both = _joined(*layers[i : i + 2]) if fuse and i + 1 < len(layers) else None
        x = layers[i](x) if both is None else layers[i + 1](x, sequence=both)
        i += 1 if both is None else 2
    return x


def _joined(layer: nn.Module, after: nn.Module) -> Sequence | None:
    """What runs two neighbours in one, or None."""
    if isinstance(after, TemporalModule) and after.still("absorb") and not (has_hooks(layer) or has_hooks(after)):
        return after.absorb(layer)
    return None


def layers_of(body: nn.Module) -> Iterator[nn.Module]:
    """The layers of a Sequential in order, those of Sequentials inside it among them."""
    for child in body:  # type: ignore[attr-defined]  # a Sequential; .children() would leave out repetitions
        if _plain_sequential(child):
            yield from layers_of(child)
        else:
            yield child


def _plain_sequential(module: nn.Module) -> bool:
    compiled = module.__dict__.get("_compiled_call_impl")
    return type(module) is nn.Sequential and compiled is None and not has_hooks(module)


def _takes_repeated(module: nn.Module) -> bool:
    if not isinstance(module, TemporalModule) or has_hooks(module):
        return False
    return module.takes_repeated and module.still("takes_repeated")


def _row_wise(module: nn.Module) -> bool:
    if has_hooks(module):
        return False
    if type(module) is nn.Embedding and module.scale_grad_by_freq:  # T times as frequent
        return False
    return type(module) in _ROW_WISE or (type(module) in _DROPOUT and not module.training)


def _alone(module: nn.Module, x: Any) -> bool:
    """Whether a batch norm needs the T equal rows: one value per channel has no variance."""
    if not isinstance(module, _BATCH_NORMS) or not isinstance(x, Tensor) or x.ndim < 2:
        return False
    return (module.training or module.running_mean is None) and x.numel() <= x.shape[1]
