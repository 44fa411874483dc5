"""How a network runs an nn.Sequential: what does not change over time once, and neighbours in one where they can be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._hooks import has_hooks
from .call import Call, Repeated, Sequence, active, map_tensors
from .formats import keep_format
from .module import TemporalModule
from .promise import Promise
from .recorder import Place, Recorder

# Layers of torch.nn that treat the rows of a batch one by one and draw no random numbers. Exact types: a
# subclass may do anything. Batch norm is one of them here: equal rows repeated T times have the same mean and
# variance. Layers of sl.nn say so of themselves, by ``row_wise = True`` in the very class; models say by ``in_order =
# True`` that they are an nn.Sequential with other methods besides.
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


def has_prefix(body: nn.Module, call: Call) -> bool:
    """Whether a Sequential has leading layers that need to run only once on an unchanging input.

    A neuron in the first place counts: it takes the one step as it is. Where the gradient of each step is wanted of a
    leading layer, all steps run.
    """
    first = next(layers_of(body), None)
    if first is None or not (_row_wise(first) or (_takes_repeated(first) and first in call.paths)):
        return False
    if call.recorder is None or not torch.is_grad_enabled():
        return True
    return not _Spans(body, call.recorder).want_each_step(layers_of(body))


def run_layers(body: nn.Module, x: Any, call: Call) -> Any:
    """Runs a Sequential on folded inputs; neighbours of which one absorbs the other run as one."""
    layers, spans = list(layers_of(body)), _spans_of(body, call)
    if spans is None or call.recorder is None:
        return _run(layers, 0, x, call, None)
    return call.recorder.see(body, "output", _run(layers, 0, call.recorder.see(body, "input", x), call, spans))


def run_prefix(body: nn.Module, x: Tensor, call: Call) -> Any:
    """Runs a Sequential on ``x`` ``[B, *]``, the same at all T steps, and returns folded outputs."""
    layers, spans = list(layers_of(body)), _spans_of(body, call)
    if any(getattr(layer, "inplace", False) for layer in layers):
        x = x.clone()  # T steps of it would be a copy
    y: Any = x
    i = 0
    with nullcontext() if call.recorder is None else call.recorder.still():
        while i < len(layers) and _row_wise(layers[i]) and not _alone(layers[i], y):
            y = layers[i](y if spans is None else spans.begin(i, y))
            y = y if spans is None else spans.end(i, y)
            i += 1
        repeats = i < len(layers) and isinstance(y, Tensor) and _takes_repeated(layers[i])
        if repeats and spans is not None:
            y = spans.begin(i, y)
    if repeats:
        y = layers[i](Repeated(y, call.T))
        y = y if spans is None else spans.end(i, y)
        i += 1
    else:
        y = map_tensors(lambda t: call.fold(t.expand(call.T, *t.shape)), y)
    return _run(layers, i, y, call, spans)


def _run(layers: list[nn.Module], i: int, x: Any, call: Call, spans: _Spans | None) -> Any:
    compiles = torch.compiler.is_compiling()
    fuse, graph = call.fuse and call.lengths is None and not compiles, torch.is_grad_enabled() and not compiles
    while i < len(layers):
        x = x if spans is None else spans.begin(i, x)
        both = None
        if fuse and i + 1 < len(layers):
            both, x = joined(layers[i], layers[i + 1], x, between=() if spans is None else spans.between(i))
        if both is None:
            x = layers[i](x)
        else:
            i += 1
            x = layers[i](x, sequence=both)
        x = x if spans is None else spans.end(i, x)
        if (
            graph
            and isinstance(x, Tensor)
            and type(x) is not Promise
            and x.grad_fn is not None
            and not x.is_contiguous()
        ):
            keep_format(x)
        i += 1
    return x


def joined(
    layer: nn.Module, after: nn.Module, x: Any, *, between: tuple[Place, ...] = ()
) -> tuple[Sequence | None, Any]:
    """What runs two neighbours in one, called as ``sequence`` is, or None; and the folded input for it.

    None also where a value between them is wanted as part of the graph, or the gradient there. One that is only
    looked at, and which a batch norm gives, is computed beside. ``between``: further places where it is seen.
    """
    if not (isinstance(after, TemporalModule) and after.still("absorb")) or has_hooks(layer) or has_hooks(after):
        return None, x
    both, call = after.absorb(layer), active()
    recorder = None if call is None else call.recorder
    if both is None or recorder is None:
        return both, x
    wanted = [place for place in ((layer, "output"), *between, (after, "input")) if recorder.wants_side(*place)]
    if wanted and (type(layer) not in _BATCH_NORMS or recorder.needs_graph(wanted)):
        return None, x
    x = recorder.see(layer, "input", x)
    if wanted:
        y = _normalised(layer, x)
        for place in wanted:
            recorder.see(*place, y)
    return recorder.unseen_while(both, layer), x


def _normalised(norm: Any, x: Tensor) -> Tensor:
    """What a batch norm gives, without a trace."""
    batch = norm.training or norm.running_mean is None
    mean, var = (None, None) if batch else (norm.running_mean, norm.running_var)
    with torch.no_grad():
        return functional.batch_norm(x, mean, var, norm.weight, norm.bias, batch, 0.0, norm.eps)


class _Spans:
    """Where the Sequentials inside another one begin and end among its layers, for who wants to see their values."""

    def __init__(self, body: nn.Module, recorder: Recorder) -> None:
        self._recorder = recorder
        self.begins: list[list[nn.Module]] = []
        self.ends: list[list[nn.Module]] = []
        self._add(body)

    def _add(self, body: nn.Module) -> None:
        for child in body:  # type: ignore[attr-defined]  # as layers_of
            n = len(self.begins)
            if not _plain_sequential(child):
                self.begins.append([])
                self.ends.append([])
                continue
            self._add(child)
            if len(self.begins) > n:
                self.begins[n].insert(0, child)
                self.ends[-1].append(child)

    def begin(self, i: int, x: Any) -> Any:
        """What layer i is given, once it was seen as the input of Sequentials that begin there."""
        for module in self.begins[i]:
            x = self._recorder.see(module, "input", x)
        return x

    def end(self, i: int, y: Any) -> Any:
        """What layer i gives, once it was seen as the output of Sequentials that end there."""
        for module in self.ends[i]:
            y = self._recorder.see(module, "output", y)
        return y

    def between(self, i: int) -> tuple[Place, ...]:
        """Places of Sequentials between layer i and the one after it."""
        return *((m, "output") for m in self.ends[i]), *((m, "input") for m in self.begins[i + 1])

    def want_each_step(self, layers: Iterable[nn.Module]) -> bool:
        """Whether a gradient is wanted at a place of the static prefix."""
        wants = self._recorder.wants_gradient
        for begins, layer, ends in zip(self.begins, layers, self.ends, strict=True):
            if any(wants(module, "input") for module in (*begins, layer)):
                return True
            if not _row_wise(layer):
                return False
            if any(wants(module, "output") for module in (layer, *ends)):
                return True
        return False


def _spans_of(body: nn.Module, call: Call) -> _Spans | None:
    return None if call.recorder is None else _Spans(body, call.recorder)


def layers_of(body: nn.Module) -> Iterator[nn.Module]:
    """The layers of a Sequential in order, those of Sequentials inside it among them."""
    for child in body:  # type: ignore[attr-defined]  # a Sequential; .children() would leave out repetitions
        if _plain_sequential(child):
            yield from layers_of(child)
        else:
            yield child


def _plain_sequential(module: nn.Module) -> bool:
    kind, compiled = type(module), module.__dict__.get("_compiled_call_impl")
    plain = kind is nn.Sequential or (vars(kind).get("in_order") is True and kind.forward is nn.Sequential.forward)
    return plain and compiled is None and "forward" not in vars(module) and not has_hooks(module)


def _takes_repeated(module: nn.Module) -> bool:
    if not isinstance(module, TemporalModule) or has_hooks(module):
        return False
    return module.takes_repeated and module.still("takes_repeated")


def _row_wise(module: nn.Module) -> bool:
    if has_hooks(module):
        return False
    if type(module) is nn.Embedding and module.scale_grad_by_freq:  # T times as frequent
        return False
    kind = type(module)
    return kind in _ROW_WISE or (kind in _DROPOUT and not module.training) or vars(kind).get("row_wise") is True


def _alone(module: nn.Module, x: Any) -> bool:
    """Whether a batch norm needs the T equal rows: one value per channel has no variance."""
    if not isinstance(module, _BATCH_NORMS) or not isinstance(x, Tensor) or x.ndim < 2:
        return False
    return (module.training or module.running_mean is None) and x.numel() <= x.shape[1]
