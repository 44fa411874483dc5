"""operators: what ``torch.compile`` sees of spikes. It sees operators on their bits, and so autograd saves bits.

Were spikes unpacked in a graph, its partition into a forward and a backward half would keep the dense tensor where a
convolution or a product reads it again. Each such function is therefore one call of an operator that takes bits.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
from torch import Tensor

from ..kernel.backend import say_once
from .graph import define, in_graphs, known_while_tracing
from .handlers import handles, operator_named, unpacked
from .tensor import SpikeTensor, from_bits, is_last

aten = torch.ops.aten
_LAST = torch.channels_last


def one_call(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Makes a call with spikes one operator of a graph, which takes their bits: the ``compiled`` of most handlers.

    Returns NotImplemented where a layout of spikes is neither of torch's two.

    >>> import torch
    >>> import spikeloom as sl
    >>> from spikeloom.spikes import one_call
    >>> spikes = sl.pack(torch.tensor([[1.0, 0.0, 1.0]]))
    >>> one_call(torch.ops.aten.sum.default, spikes)  # the sum of three bits
    tensor(2.)
    """
    tensors: list[Tensor] = []
    sizes: list[Any] = []

    def write(value: Any) -> Any:
        if isinstance(value, SpikeTensor):
            last = is_last(value)
            if not (last or value.is_contiguous()):
                raise _LayoutError
            tensors.append(value.bits)
            sizes.extend(value.shape)
            return {"dims": value.ndim, "dtype": str(value.dtype).removeprefix("torch."), "last": last}
        if isinstance(value, Tensor):
            tensors.append(value)
            return {}
        if isinstance(value, (list, tuple)):
            return [write(v) for v in value]
        return value if value is None or isinstance(value, (bool, float)) else int(value)

    define()
    try:
        call = json.dumps([func.name(), write(args), {name: write(value) for name, value in kwargs.items()}])
    except _LayoutError:
        return NotImplemented
    found = iter(torch.ops.spikeloom.on_bits(call, tensors, sizes))
    names = [argument.name for argument in func._schema.arguments]
    if len(func._schema.returns) == 1:
        return next(found)
    mask = args[names.index("output_mask")] if "output_mask" in names else [True] * len(func._schema.returns)
    return tuple(next(found) if there else None for there in mask)


class _LayoutError(Exception):
    pass


_parsed = functools.lru_cache(maxsize=1024)(json.loads)


def _call(call: str, tensors: list[Tensor], sizes: list[Any], spikes: Any) -> list[Tensor]:
    """Makes the call that a text of :func:`one_call` names, with spikes from ``spikes(bits, shape, dtype, last)``."""
    name, args, kwargs = _parsed(call)
    given, lengths, layouts = iter(tensors), iter(sizes), []

    def read(value: Any) -> Any:
        if isinstance(value, list):
            return [read(v) for v in value]
        if not isinstance(value, dict):
            return value
        if not value:
            return next(given)
        shape = tuple(next(lengths) for _ in range(value["dims"]))
        layouts.append(value["last"])
        return spikes(next(given), shape, getattr(torch, value["dtype"]), value["last"])

    args, kwargs = read(args), {name: read(value) for name, value in kwargs.items()}
    found = operator_named(name)(*args, **kwargs)
    listed = [found] if isinstance(found, Tensor) else [f for f in found if f is not None]
    last = any(layouts)
    return [f.contiguous(memory_format=_LAST if last and f.ndim == 4 else torch.contiguous_format) for f in listed]


def as_spikes(bits: Tensor, shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> SpikeTensor:
    """Spikes from their bits, with channels last in memory where ``last`` says so."""
    if not last:
        return from_bits(bits, shape, dtype)
    _, C, H, W = shape
    return SpikeTensor(bits, shape, (C * H * W, 1, W * C, C), dtype)


def as_dense(bits: Tensor, shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> Tensor:
    """An empty dense tensor of the shape and layout that :func:`as_spikes` gives."""
    made = bits.new_empty(shape, dtype=dtype)
    return made.contiguous(memory_format=_LAST) if last else made


def _on_bits_fake(call: str, tensors: list[Tensor], sizes: list[Any]) -> list[Tensor]:
    return _call(call, tensors, sizes, as_dense)


@in_graphs("on_bits", "(str call, Tensor[] tensors, SymInt[] sizes) -> Tensor[]", fake=_on_bits_fake)
def _on_bits(call: str, tensors: list[Tensor], sizes: list[int]) -> list[Tensor]:
    return _call(call, tensors, sizes, as_spikes)


handles(
    aten.bmm.default, aten.avg_pool2d_backward.default, aten.avg_pool3d.default,
    aten.avg_pool3d_backward.default, aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d_backward.default,
    aten._adaptive_avg_pool3d.default, aten._adaptive_avg_pool3d_backward.default, compiled=one_call,
)(unpacked)  # fmt: skip


@known_while_tracing
def is_whole() -> bool:
    """While Dynamo traces, whether the graph cannot break, as with ``fullgraph=True``.

    A break hands tensors on, which it cannot do with a class of tensors of its own. Where the graph may break, this
    logs once that spikes are dense.
    """
    try:
        from torch._dynamo.symbolic_convert import InstructionTranslator

        whole = bool(InstructionTranslator.current_tx().one_graph)
    except Exception:  # Dynamo's own, which may change
        whole = False
    if not whole:
        say_once("inside torch.compile spikes are dense: with fullgraph=True they are bits, which take less memory")
    return whole
