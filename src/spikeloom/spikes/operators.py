"""operators: what ``torch.compile`` sees of spikes: operators on their bits, which are then what autograd saves.

Were spikes unpacked in a graph, its partition into a forward and a backward half would keep the dense tensor where a
convolution or a product reads it again. Each such function is therefore one call of an operator that takes bits.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernel.backend import say_once
from ..kernel.op import autograd_inside
from . import bits as raw
from .pooling import several
from .tensor import OPAQUE, SpikeTensor, from_bits, is_last, pack_raw

aten = torch.ops.aten
_LAST = torch.channels_last
_FUNCTIONS = (
    aten.mm.default, aten.addmm.default, aten.bmm.default, aten.convolution.default, aten.convolution_backward.default,
    aten.avg_pool2d.default, aten.avg_pool2d_backward.default, aten.avg_pool3d.default,
    aten.avg_pool3d_backward.default, aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d_backward.default,
    aten._adaptive_avg_pool3d.default, aten._adaptive_avg_pool3d_backward.default,
)  # fmt: skip
_BY_NAME = {func.name(): func for func in (*_FUNCTIONS, aten.max_pool2d_with_indices.default)}


def opaque(func: Any, *args: Any, **kwargs: Any) -> Any:
    """A call with spikes as one operator; NotImplemented where their layout is neither of torch's two."""
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


def _max_pool(func: Any, s: SpikeTensor, *options: Any) -> Any:
    """Pooled spikes, as bits, and where they are: dead code unless somebody asks for it, as the gradient does not."""
    if s.ndim not in (3, 4):
        return NotImplemented
    found = opaque(func, s, *options)
    if found is NotImplemented:
        return found
    _, there = found
    like = func(torch.empty_strided(s.shape, s.stride(), dtype=s.dtype, device="meta"), *options)[0]
    last = is_last(s)
    strides = like.contiguous(memory_format=_LAST if last else torch.contiguous_format).stride()
    bits = torch.ops.spikeloom.max_pool(s.bits, s.shape, last, *_pool_options(*options))
    return SpikeTensor(bits, tuple(like.shape), strides, s.dtype), there


def _max_pool_backward(func: Any, grad: Tensor, s: Any, *options: Any) -> Any:
    """The gradient of the pooled spikes, which finds the largest again."""
    options = options[:-1]  # without the places
    if not isinstance(s, SpikeTensor) or s.ndim not in (3, 4) or not (s.is_contiguous() or is_last(s)):
        return NotImplemented
    define()
    return torch.ops.spikeloom.max_pool_backward(grad, s.bits, s.shape, is_last(s), *_pool_options(*options))


def _pool_options(
    kernel: list[int], stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> tuple[list[int], list[int], list[int], list[int], bool]:
    return several(kernel, 2), several(stride or kernel, 2), several(padding, 2), several(dilation, 2), ceil_mode


_parsed = functools.lru_cache(maxsize=1024)(json.loads)


def _call(call: str, tensors: list[Tensor], sizes: list[Any], spikes: Any) -> list[Tensor]:
    """Does what a text says, with spikes made by ``spikes(bits, shape, dtype, last)``."""
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
    found = _BY_NAME[name](*args, **kwargs)
    listed = [found] if isinstance(found, Tensor) else [f for f in found if f is not None]
    last = any(layouts)
    return [f.contiguous(memory_format=_LAST if last and f.ndim == 4 else torch.contiguous_format) for f in listed]


def _as_spikes(bits: Tensor, shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> SpikeTensor:
    if not last:
        return from_bits(bits, shape, dtype)
    _, C, H, W = shape
    return SpikeTensor(bits, shape, (C * H * W, 1, W * C, C), dtype)


def _as_dense(bits: Tensor, shape: tuple[int, ...], dtype: torch.dtype, last: bool) -> Tensor:
    made = bits.new_empty(shape, dtype=dtype)
    return made.contiguous(memory_format=_LAST) if last else made


def _on_bits(call: str, tensors: list[Tensor], sizes: list[int]) -> list[Tensor]:
    return _call(call, tensors, sizes, _as_spikes)


def _on_bits_fake(call: str, tensors: list[Tensor], sizes: list[Any]) -> list[Tensor]:
    return _call(call, tensors, sizes, _as_dense)


def _pack(x: Tensor, strides: list[int]) -> Tensor:
    if x.stride() != tuple(strides):
        x = torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device).copy_(x)
    return pack_raw(x).bits


def _pack_fake(x: Tensor, strides: Any) -> Tensor:
    return x.new_empty(raw.size(x.numel()), dtype=torch.uint8)


def _pooled(bits: Tensor, size: list[int], last: bool, *options: Any) -> Tensor:
    s: Any = F.max_pool2d(_as_spikes(bits, tuple(size), torch.float32, last), *options)
    found: Tensor = s.bits
    return found.clone() if found.data_ptr() == bits.data_ptr() else found


def _pooled_fake(bits: Tensor, size: Any, last: bool, *options: Any) -> Tensor:
    y = F.max_pool2d(bits.new_empty(size, dtype=torch.float32), *options)
    return bits.new_empty(raw.size(y.numel()))


def _unpooled(grad: Tensor, bits: Tensor, size: list[int], last: bool, *options: Any) -> Tensor:
    with autograd_inside():
        s = _as_spikes(bits, tuple(size), grad.dtype, last).requires_grad_()
        return torch.autograd.grad(F.max_pool2d(s, *options), s, grad)[0]


def _unpooled_fake(grad: Tensor, bits: Tensor, size: Any, last: bool, *options: Any) -> Tensor:
    return _as_dense(bits, size, grad.dtype, last)


def is_whole() -> bool:
    """While Dynamo traces: whether the graph cannot break. A break hands tensors on, and cannot with what is no Tensor.

    That is what ``fullgraph=True`` says; without it this is said once.
    """
    try:
        from torch._dynamo.symbolic_convert import InstructionTranslator

        whole = bool(InstructionTranslator.current_tx().one_graph)
    except Exception:  # Dynamo's own, which may change
        whole = False
    if not whole:
        say_once("inside torch.compile spikes are dense: with fullgraph=True they are bits, which take less memory")
    return whole


def define() -> bool:
    """Registers the operators, once, when they are first needed."""
    return _define()


@functools.cache
def _define() -> bool:
    schema = "(Tensor x, SymInt[] strides) -> Tensor"
    pack = torch.library.custom_op("spikeloom::pack", _pack, mutates_args=(), schema=schema)
    pack.register_fake(_pack_fake)
    schema = "(str call, Tensor[] tensors, SymInt[] sizes) -> Tensor[]"
    on_bits = torch.library.custom_op("spikeloom::on_bits", _on_bits, mutates_args=(), schema=schema)
    on_bits.register_fake(_on_bits_fake)
    options = "int[] kernel, int[] stride, int[] padding, int[] dilation, bool ceil_mode) -> Tensor"
    schema = f"(Tensor bits, SymInt[] size, bool last, {options}"
    pool = torch.library.custom_op("spikeloom::max_pool", _pooled, mutates_args=(), schema=schema)
    pool.register_fake(_pooled_fake)
    schema = f"(Tensor grad, Tensor bits, SymInt[] size, bool last, {options}"
    backward = torch.library.custom_op("spikeloom::max_pool_backward", _unpooled, mutates_args=(), schema=schema)
    backward.register_fake(_unpooled_fake)
    return True


# What torch.compiler.assume_constant_result sets; calling that would import a second's worth of torch.
define._dynamo_marked_constant = is_whole._dynamo_marked_constant = True  # type: ignore[attr-defined]
for _func in _FUNCTIONS:
    OPAQUE[_func] = opaque
OPAQUE[aten.max_pool2d_with_indices.default] = _max_pool
OPAQUE[aten.max_pool2d_with_indices_backward.default] = _max_pool_backward
