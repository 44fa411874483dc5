"""SpikeTensor: a tensor of zeros and ones that takes one bit for each."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._ops import OpOverload

from .._hooks import transformed
from ..core import Prepared, Promise
from ..kernel.backend import is_watched, note
from .bits import DTYPES, count_bits, fills_memory, n_bytes, pack_bits, unpack_bits
from .handlers import HANDLERS


class SpikeTensor(Tensor):
    """A read-only tensor of 0 and 1 in a floating dtype, of one bit each: 1/32 of float32.

    Made by :func:`pack`, by a neuron with ``packed=True`` and by ``Network(..., spikes="packed")``. Layers take it as
    it is, and autograd saves the bits. Operators that have nothing to gain from bits get a dense tensor, so that every
    result is the dense one. What would write to it raises; ``s += x`` gives a new tensor.

    >>> import torch
    >>> import spikeloom as sl
    >>> s = sl.pack((torch.rand(4, 100) < 0.1).float())
    >>> s.shape, s.dtype, s.storage_nbytes, torch.nn.Linear(100, 2)(s).shape
    (torch.Size([4, 100]), torch.float32, 50, torch.Size([4, 2]))
    """

    bits: Tensor

    @staticmethod
    def __new__(cls, bits: Tensor, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> SpikeTensor:
        made: SpikeTensor = Tensor._make_wrapper_subclass(
            cls, shape, strides=strides, dtype=dtype, device=bits.device, requires_grad=False
        )
        if hasattr(torch._C, "_set_throw_on_mutable_data_ptr"):  # else a kernel of somebody's would read address 0
            torch._C._set_throw_on_mutable_data_ptr(made)
        return made

    def __init__(self, bits: Tensor, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> None:
        self.bits = bits

    def __init_subclass__(cls) -> None:
        raise TypeError("SpikeTensor is final; hold one in an object of your own instead")

    @property
    def storage_nbytes(self) -> int:
        """Bytes that the bits take (``nbytes`` is what a dense tensor would)."""
        return self.bits.numel()

    @property
    def has_bits(self) -> bool:
        """Whether the bits have values. They have none while torch.compile or export trace."""
        return type(self.bits) is Tensor

    def unpack(self) -> Tensor:
        """The dense tensor, with gradient."""
        if torch.compiler.is_compiling():  # which refuses _Unpack, for its derivatives of every kind
            return self * 1
        dense: Tensor = _Unpack.apply(self)  # type: ignore[no-untyped-call]
        return dense

    def count(self) -> int:
        """How many spikes there are."""
        return count_bits(self.bits)

    def rate(self) -> float:
        """The share of spikes among all values."""
        return self.count() / max(1, self.numel())

    def prepared(self, layer: Any) -> Prepared | None:
        """How a stream runs a layer on spikes that stay in this memory; None where it unpacks them."""
        handler = HANDLERS.get(type(layer))
        found: Prepared | None = None if handler is None else handler.bits(layer, self)
        return found

    def events(self) -> Tensor:
        """Indices of the spikes, ``[number, dimensions]``, in order."""
        return dense(self).nonzero()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if Promise in types:  # which hands its tensor on
            return NotImplemented
        handler = HANDLERS.get(func)
        if handler is not None and not isinstance(func, OpOverload):  # operators are handled below autograd
            found = handler.bits(func, *args, **(kwargs or {}))
            if found is not NotImplemented:
                _note(args)
                return found
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        handler = HANDLERS.get(func)
        if handler is not None:
            in_graph = handler.compiled if _is_any_without_bits(args) else None
            found = (in_graph or handler.bits)(func, *args, **kwargs)
            if found is not NotImplemented:
                if handler.compiled is not None:
                    _note(args)
                return found
        if _writes(func):
            _refuse_writing(func, args, kwargs)
        if _is_composite(func):  # in inference mode nothing has taken a linear layer apart before it comes here
            found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        if is_watched():
            note(None, "unpacked", f"for {func}")
        return func(*_dense_all(args), **{name: _dense_any(value) for name, value in kwargs.items()})

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["bits"], (tuple(self.shape), self.stride(), self.dtype)

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], context: Any, size: Any, stride: Any) -> SpikeTensor:
        return SpikeTensor(inner["bits"], tuple(size), tuple(stride), context[2])

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        counted = f", {self.count()} spikes, {100 * self.rate():.1f} %" if self.has_bits else ""
        return f"SpikeTensor(shape={list(self.shape)}, dtype={self.dtype}, device={self.device}{counted})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.requires_grad and not self.is_leaf:
            raise RuntimeError("only leaf spikes can be pickled; take .detach() first")
        return _rebuild, (self.bits.clone(), tuple(self.shape), self.stride(), self.dtype, self.requires_grad)

    def __setstate__(self, state: Any) -> NoReturn:
        """Raises: spikes have no state beside what they are made of."""
        raise ValueError("spikes in a file: there is a state beside the bits; the file is damaged")

    def __deepcopy__(self, memo: Any) -> SpikeTensor:
        if self.requires_grad and not self.is_leaf:
            raise RuntimeError("only leaf spikes can be copied deeply; take .detach() first")
        made = _made(self.bits.clone(), tuple(self.shape), self.stride(), self.dtype, self.requires_grad)
        memo[id(self)] = made
        return made

    def numpy(self, *, force: bool = False) -> Any:
        """The dense values."""
        return self.unpack().numpy(force=force)

    def __array__(self, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
        return self.unpack().detach().__array__(dtype) if dtype is not None else self.unpack().detach().__array__()

    def tolist(self) -> Any:
        """The dense values."""
        return dense(self).tolist()

    def data_ptr(self) -> NoReturn:
        """Raises: there are no floats in memory."""
        raise RuntimeError("spikes have no memory of their dtype; take .unpack().data_ptr(), or the bytes in .bits")

    def share_memory_(self) -> NoReturn:
        """Raises: spikes are read-only."""
        raise RuntimeError("spikes are read-only and cannot move; share .bits, or take .unpack().share_memory_()")

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        return dense(self).__dlpack__(*args, **kwargs)

    def __dlpack_device__(self) -> Any:
        return dense(self).__dlpack_device__()


def _is_any_without_bits(args: Any) -> bool:
    return any(isinstance(a, SpikeTensor) and not a.has_bits for a in args)


def _note(args: Any) -> None:
    """Tells whoever watches that something was computed from bits, and the share of spikes among them."""
    if is_watched() and not _is_any_without_bits(args):
        s = next((a for a in args if isinstance(a, SpikeTensor)), None)
        note(None, "bits", "" if s is None else f"{100 * s.rate():.1f} % spikes")


def _out_of_place(name: str) -> Callable[[SpikeTensor, Any], Tensor]:
    def method(self: SpikeTensor, other: Any) -> Tensor:
        result: Tensor = getattr(self, f"__{name}__")(other)
        return result

    method.__name__ = f"__i{name}__"
    method.__doc__ = "The result of the form that does not write: spikes are read-only."
    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(SpikeTensor, f"__i{_name}__", _out_of_place(_name))


def _rebuild(
    bits: Tensor, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, requires_grad: bool
) -> SpikeTensor:
    """Spikes from a file, which may hold anything.

    Bits that are too few would be read beyond their end, so they are checked; and the file may change the tensor after
    that, so they are copied.
    """
    _check_parts(bits, shape, strides, dtype)
    return _made(bits.clone(), shape, strides, dtype, bool(requires_grad))


def _made(
    bits: Tensor, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, requires_grad: bool
) -> SpikeTensor:
    made = SpikeTensor(bits, shape, strides, dtype)
    if requires_grad:
        made.requires_grad_()
    return made


def _check_parts(bits: Any, shape: Any, strides: Any, dtype: Any) -> None:
    """Raises ValueError unless these are the parts of spikes."""
    sizes = [*shape, *strides] if isinstance(shape, tuple) and isinstance(strides, tuple) else [-1]
    if any(type(n) is not int or not 0 <= n < 1 << 62 for n in sizes) or len(shape) != len(strides):
        raise ValueError(f"spikes in a file: expected a shape and as many strides, got {shape} and {strides}")
    if dtype not in DTYPES:
        raise ValueError(f"spikes in a file: expected a dtype of {', '.join(map(str, DTYPES))}, got {dtype}")
    flat = type(bits) is Tensor and bits.layout is torch.strided and bits.ndim == 1 and bits.is_contiguous()
    if not flat or bits.dtype is not torch.uint8:
        about = f"{bits.dtype} {list(bits.shape)}" if isinstance(bits, Tensor) else type(bits).__name__
        raise ValueError(f"spikes in a file: expected bits as a flat tensor of torch.uint8, got {about}")
    if bits.storage_offset() or bits.untyped_storage().nbytes() != bits.numel():
        raise ValueError("spikes in a file: their bits are a part of other data; the file is damaged")
    n = math.prod(shape)
    if bits.numel() != n_bytes(n) or not fills_memory(shape, strides):
        raise ValueError(
            f"spikes in a file: {bits.numel():,} bytes of bits with strides {list(strides)} are none of shape "
            f"{list(shape)}, which takes {n_bytes(n):,}; the file is damaged"
        )
    if n % 8 and bits.device.type != "meta" and int(bits[-1]) >> n % 8:
        raise ValueError(f"spikes in a file: there are bits after the last of {n:,}; the file is damaged")


torch.serialization.add_safe_globals([_rebuild])


def pack(x: Tensor, *, check: bool = True) -> SpikeTensor:
    """A tensor of zeros and ones as a :class:`SpikeTensor` of the same shape, layout and dtype, with gradient.

    Args:
        x: the tensor, of a floating dtype. TypeError is raised for others.
        check: whether ValueError is raised if a value is neither 0 nor 1. On a GPU this waits for the device, and in
            the capture of a CUDA graph, where nobody can wait, it raises RuntimeError. With False there is no look at
            the values, and whatever is not 1 becomes 0.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.pack(torch.tensor([0.0, 1.0, 1.0]))
    SpikeTensor(shape=[3], dtype=torch.float32, device=cpu, 2 spikes, 66.7 %)
    """
    if isinstance(x, SpikeTensor):
        return x
    if not isinstance(x, Tensor):
        raise TypeError(f"pack: expected a tensor, got {type(x).__name__}; make one with torch.as_tensor")
    if x.dtype not in DTYPES:
        raise TypeError(f"pack: expected a tensor of {', '.join(map(str, DTYPES))}, got {x.dtype}; convert it first")
    if not differentiated(x):
        return pack_raw(x, check=check)
    function: Any = _TracedPack if torch.compiler.is_compiling() else _Pack
    packed: SpikeTensor = function.apply(x, check)
    return packed


def differentiated(x: Tensor) -> bool:
    """Whether anybody may ask for a derivative by ``x``: backward, forward, in torch.func or in a graph."""
    return (x.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling() or transformed()


def from_bits(bits: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> SpikeTensor:
    """Contiguous spikes from their bits. The first spike is the lowest bit of the first byte."""
    strides, place = [], 1
    for n in reversed(shape):
        strides.append(place)
        place *= max(1, n)
    return SpikeTensor(bits, shape, tuple(reversed(strides)), dtype)


def pack_raw(x: Tensor, *, check: bool = False) -> SpikeTensor:
    """What :func:`pack` does, without gradient; for values that are known to be 0 and 1, without a look at them."""
    bits, strides = pack_bits(x, check=check)
    return SpikeTensor(bits, tuple(x.shape), strides, x.dtype)


def dense(s: SpikeTensor) -> Tensor:
    """What :meth:`SpikeTensor.unpack` does, without gradient."""
    return unpack_bits(s.bits, s.numel(), s.dtype).as_strided(s.shape, s.stride())


def is_last(x: Tensor) -> bool:
    """Whether x are images that lie in memory with their channels last."""
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


class _TracedPack(torch.autograd.Function):
    """Packing with a backward derivative only, since Dynamo refuses Functions with derivatives of other kinds."""

    @staticmethod
    def forward(x: Tensor, check: bool) -> Tensor:
        return pack_raw(x, check=check)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: Tensor) -> None:
        """Saves nothing."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Pack(_TracedPack):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return (dense(grad) if isinstance(grad, SpikeTensor) else grad), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return tangent

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, None], x: Tensor, check: bool) -> tuple[Tensor, int | None]:
        return _Pack.apply(x, check), in_dims[0]  # type: ignore[no-untyped-call]


class _Unpack(torch.autograd.Function):
    @staticmethod
    def forward(s: Tensor) -> Tensor:
        return dense(s) if isinstance(s, SpikeTensor) else s.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Saves nothing."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None], s: Tensor) -> tuple[Tensor, int | None]:
        return _Unpack.apply(s), in_dims[0]  # type: ignore[no-untyped-call]


@functools.cache
def _is_composite(func: Any) -> bool:
    """Whether torch composes an operator of others."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


_written: dict[Any, tuple[int | str, ...]] = {}


def _writes(func: Any) -> tuple[int | str, ...]:
    """Positions and names of the arguments that an operator writes to."""
    found = _written.get(func)
    if found is None:
        found = tuple(
            argument.name if argument.kwarg_only else i
            for i, argument in enumerate(func._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        )
        _written[func] = found
    return found


def _refuse_writing(func: Any, args: Any, kwargs: Any) -> None:
    names = [argument.name for argument in func._schema.arguments]
    for at in _writes(func):
        name = at if isinstance(at, str) else names[at]
        value = kwargs.get(name) if isinstance(at, str) or at >= len(args) else args[at]
        values = value if isinstance(value, (list, tuple)) else (value,)
        if any(isinstance(v, SpikeTensor) for v in values):
            raise RuntimeError(
                f"{func} would write to spikes, which are read-only: take the form that returns a new tensor "
                "(x + y for x.add_(y)), or .unpack() first"
            )


def _dense_any(value: Any) -> Any:
    if isinstance(value, SpikeTensor):
        return dense(value)
    return _dense_all(value) if isinstance(value, (list, tuple)) else value


def _dense_all(values: Any) -> Any:
    return type(values)([_dense_any(v) for v in values])
