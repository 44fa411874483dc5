"""values: says in which dtypes a program can hold the results of torch's operations.

A program knows two types, numbers and truth values. A number stands for a value in the dtype of the state; a value of
another dtype is held where that is the same number: constants, and whole numbers of known and small size (``b + 1``,
``(x > 0).float()``). An argument of an operation that its rule does not name is refused unless it has its default.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import Tensor

from .program import OPS, Const, Op, Range, Ref

_WHOLE = 2.0**24  # beyond it float32 does not hold every whole number, so that none is trusted
_LARGEST = {torch.bfloat16: 2.0**8, torch.float16: 2.0**11, torch.int8: 127.0, torch.uint8: 255.0, torch.int16: 32767.0}
LITERALS = ("lift_fresh", "lift_fresh_copy")
_NO_MATTER = frozenset(["size", "layout", "device", "pin_memory", "non_blocking", "memory_format"])  # change no value


class RefusedError(Exception):
    """An operation that has no place in a kernel; the message names it and the line of ``dynamics``."""


_OPERANDS = frozenset(["self", "other", "condition", "mask", "value", "src", "min", "max"])


@dataclass(frozen=True)
class Rule:
    """A rule says how an operation of torch is written in a program, and which of its arguments that respects."""

    make: Callable[[Values, Call, Tensor], Ref]
    names: frozenset[str]


@dataclass(frozen=True)
class Call:
    """A call of an operation of torch, while it is traced."""

    func: Any
    name: str
    rule: Rule
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @cached_property
    def given(self) -> dict[str, Any]:
        """The arguments that were given, by name."""
        names = [a.name for a in self.func._schema.arguments]
        return {**dict(zip(names, self.args, strict=False)), **self.kwargs}

    @cached_property
    def operands(self) -> list[Any]:
        """The tensors and Python numbers that are computed with, in order."""
        wanted = self.rule.names
        return [value for name, value in self.given.items() if name in wanted and name in _OPERANDS]

    def tensors(self) -> list[Tensor]:
        return [v for v in self.given.values() if isinstance(v, Tensor)]

    def __getitem__(self, name: str) -> Any:
        return self.given.get(name)


class Values:
    """What is known of values while they are traced: truth value or number, range, the numbers that they depend on."""

    def __init__(self) -> None:
        self.is_boolean: dict[Ref, bool] = {}
        self.sources: dict[Ref, frozenset[int]] = {}  # which numbers a value depends on, if on nothing else
        self._whole: dict[Ref, Range] = {}
        self._loose: set[int] = set()  # storages of selections among numbers that wait for their conversion

    number_dtype: torch.dtype | None = None
    """The dtype of numbers that are floats; None where all numbers have that of the state."""

    def ref(self, tensor: Tensor) -> Ref:
        raise NotImplementedError

    def node(self, op: str, *refs: Ref) -> Ref:
        raise NotImplementedError

    def refuse(self, what: str) -> NoReturn:
        raise NotImplementedError

    def expected(self, out: Tensor) -> torch.dtype:
        raise NotImplementedError

    def emit(self, op: str, *refs: Ref) -> Ref:
        """Adds an operation, and notes the range of its results where they are whole numbers."""
        if op == "mul" and Const(1.0) in refs:
            return refs[0] if refs[1] == Const(1.0) else refs[1]
        if all(isinstance(r, Const) for r in refs):
            values = [torch.tensor(r.value, dtype=torch.float64) for r in refs if isinstance(r, Const)]
            return Const(float(OPS[op].eager(*values)))
        made = self.node(op, *refs)
        found = _range(OPS[op], [self._range_of(r) for r in refs])
        if found is not None:
            self._whole[made] = found
        return made

    def number(self, value: Any) -> Ref:
        """The value of a tensor or of a Python number, as a number."""
        if not isinstance(value, Tensor):
            return Const(float(value)) if isinstance(value, (bool, int, float)) else self.refuse(f"{value!r}")
        ref = self._checked(value)
        return self.emit("to_float", ref) if self.is_boolean.get(ref) else ref

    def condition(self, value: Any) -> Ref:
        """The value of a tensor or of a Python number, as a truth value; a constant is 0 or 1."""
        ref = self._checked(value) if isinstance(value, Tensor) else Const(float(value))
        if isinstance(ref, Const):
            return Const(float(ref.value != 0))
        return ref if self.is_boolean.get(ref) else self.emit("ne", ref, Const(0.0))

    def negated(self, a: Ref) -> Ref:
        return Const(1.0 - a.value) if isinstance(a, Const) else self.emit("logical_not", a)

    def both(self, a: Ref, b: Ref) -> Ref:
        if isinstance(a, Const) or isinstance(b, Const):
            constant, other = (a, b) if isinstance(a, Const) else (b, a)
            return other if constant == Const(1.0) else Const(0.0)
        return self.emit("logical_and", a, b)

    def either(self, a: Ref, b: Ref) -> Ref:
        if isinstance(a, Const) or isinstance(b, Const):
            constant, other = (a, b) if isinstance(a, Const) else (b, a)
            return other if constant == Const(0.0) else Const(1.0)
        return self.emit("logical_or", a, b)

    def check_arguments(self, call: Call) -> None:
        """Refuses an argument that the rule does not name, unless it has its default."""
        known = call.rule.names
        for argument in call.func._schema.arguments:
            value = call.given.get(argument.name)
            default = argument.default_value if argument.has_default_value() else None
            if argument.name in known or argument.name in _NO_MATTER or value is None:
                continue
            if isinstance(value, Tensor) or value != default:
                shown = "..." if isinstance(value, Tensor) else repr(value)
                self.refuse(f"{call.func} with {argument.name}={shown}")

    def value_of(self, call: Call, out: Tensor) -> Ref:
        """The value of ``out``, the result of a call."""
        literal = call.name in LITERALS
        if literal and out.ndim:
            self.refuse("a tensor literal with dimensions; declare it with self.numbers(...)")
        if literal or all(isinstance(self.ref(t), Const) for t in call.tensors()):
            return self.constant(call, out)
        made = call.rule.make(self, call, out)
        return self._held(call, out, made)

    def cast(self, call: Call, source: Tensor, out: Tensor) -> Ref:
        """The value of ``source`` in the dtype of ``out``."""
        dtype, key = out.dtype, source.untyped_storage()._cdata
        ref = self.ref(source)
        if source.dtype == dtype and key not in self._loose:
            return ref
        if dtype == torch.bool:
            return self.condition(source)
        held = self._range_of(ref) if not self.is_boolean.get(ref) else (0.0, 1.0)
        if key in self._loose or isinstance(ref, Const):
            fits = dtype == self.expected(out)
        else:
            fits = _fits(held, dtype)
        if not fits:
            self.refuse(f"a conversion from {source.dtype} to {dtype} (kernels compute in float32 and in float64)")
        ref = self.emit("to_float", ref) if self.is_boolean.get(ref) else ref
        if not dtype.is_floating_point and source.dtype.is_floating_point:
            ref = self.emit("add", ref, Const(0.0))  # whole numbers have no -0
        return ref

    def follow(self, source: Tensor, out: Tensor) -> None:
        """Notes that ``out`` is an alias of ``source``."""
        if source.untyped_storage()._cdata in self._loose:
            self._loose.add(out.untyped_storage()._cdata)

    def computed_in(self, call: Call) -> torch.dtype:
        """The dtype in which operands are compared."""
        first, *rest = call.operands
        dtype: torch.dtype = first.dtype
        for other in rest:
            dtype = torch.result_type(first, other)
        return dtype

    def exact_in(self, value: Any, dtype: torch.dtype) -> bool:
        """Whether an operand is the same number in a dtype."""
        ref = self.ref(value) if isinstance(value, Tensor) else Const(float(value))
        if isinstance(ref, Const):
            return float(torch.tensor(ref.value, dtype=torch.float64).to(dtype)) == ref.value
        found = (0.0, 1.0) if self.is_boolean.get(ref) else self._range_of(ref)
        return _fits(found, dtype)

    def _held(self, call: Call, out: Tensor, made: Ref) -> Ref:
        """``made`` in the dtype of ``out``, as a program holds it; refuses what it cannot hold."""
        boolean, dtype = self.is_boolean.get(made, False), out.dtype
        if dtype == torch.bool:
            return made if boolean or isinstance(made, Const) else self.emit("ne", made, Const(0.0))
        if boolean:
            made = self.emit("to_float", made)
        if dtype == self.expected(out):
            self._check_shapes(call, dtype)
            return made
        if not dtype.is_floating_point and call.name in ("neg", "mul"):
            made = self.emit("add", made, Const(0.0))  # whole numbers have no -0
        found = self._range_of(made)
        if _fits(found, dtype):
            return made
        if call.name == "where" and dtype == self.number_dtype:  # it may be converted, and nothing else
            self._loose.add(out.untyped_storage()._cdata)
            return made
        kinds = ", ".join(str(v.dtype) if isinstance(v, Tensor) else repr(v) for v in call.operands)
        return self.refuse(
            f"{call.func} on {kinds}, whose result is {dtype} where the state is {self.expected(out)}; "
            "convert its operands with .to(x)"
        )

    def depends(self, made: Ref, refs: tuple[Ref, ...]) -> None:
        """Notes on which numbers ``made`` depends, where it depends on nothing else."""
        if all(isinstance(r, Const) or r in self.sources for r in refs):
            self.sources[made] = frozenset().union(*(self.sources.get(r, frozenset()) for r in refs))

    def _check_shapes(self, call: Call, dtype: torch.dtype) -> None:
        """Refuses ``(self.a > 0) * self.b``: if a has dimensions and b is a float, torch makes float64 of it."""
        refs = [(self.ref(v), v.dtype in (dtype, self.number_dtype)) for v in call.operands if isinstance(v, Tensor)]
        if not all(isinstance(r, Const) or r in self.sources for r, _ in refs):
            return
        found: dict[bool, frozenset[int]] = {True: frozenset(), False: frozenset()}
        for ref, is_value in refs:
            found[is_value] |= self.sources.get(ref, frozenset())
        if found[True] and not found[False] <= found[True]:
            self.refuse(
                f"{call.func} on truth values or whole numbers of some numbers and values of others, whose result "
                "has a dtype that depends on the shapes of the numbers; convert it to that of x, or multiply by x first"
            )

    def constant(self, call: Call, out: Tensor) -> Ref:
        value = out.reshape(-1)[0].item()
        if isinstance(value, complex) or (isinstance(value, int) and abs(value) > 2**53):
            self.refuse(f"{call.func}, which gives {value}")
        return Const(float(value))

    def _checked(self, value: Tensor) -> Ref:
        if value.untyped_storage()._cdata in self._loose:
            self.refuse(
                f"a selection among numbers, which is {value.dtype} where x is not: "
                "write .to(x) behind torch.where(...)"
            )
        return self.ref(value)

    def _range_of(self, ref: Ref) -> Range | None:
        if isinstance(ref, Const):
            whole = math.isfinite(ref.value) and ref.value == round(ref.value) and abs(ref.value) <= _WHOLE
            return (ref.value, ref.value) if whole else None
        return self._whole.get(ref)


def _fits(found: Range | None, dtype: torch.dtype) -> bool:
    """Whether whole numbers of a range are the same numbers in a dtype."""
    if found is None or dtype.is_complex:
        return False
    least = -_LARGEST.get(dtype, _WHOLE) if dtype.is_signed else 0.0
    return least <= found[0] and found[1] <= _LARGEST.get(dtype, _WHOLE)


def _range(op: Op, found: list[Range | None]) -> Range | None:
    """The range of a result that is a whole number because all operands are; None for other results."""
    known = [f for f in found[op.truths :] if f is not None]
    if op.range is None or len(known) < len(found) - op.truths:
        return None
    low, high = op.range(*known)
    return (low, high) if max(-low, high) <= _WHOLE else None


Make = Callable[[Values, Call, Tensor], Ref]
