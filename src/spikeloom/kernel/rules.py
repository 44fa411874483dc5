"""rules: what torch's operations are in a program, and in which dtypes a program can hold their results.

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

from .program import OPS, Const, Ref

Range = tuple[float, float]
_WHOLE = 2.0**24  # whole numbers up to here are exact in float32
_LARGEST = {torch.bfloat16: 2.0**8, torch.float16: 2.0**11, torch.int8: 127.0, torch.uint8: 255.0, torch.int16: 32767.0}
SHAPES = frozenset(["view", "_unsafe_view", "expand", "reshape"])
ALIASES = frozenset(["detach", "alias", "clone", "contiguous"]) | SHAPES
EXACT = frozenset([
    "neg", "abs", "relu", "sign", "where", "maximum", "minimum", "clamp", "clamp_min", "clamp_max",
    "ge", "gt", "le", "lt", "eq", "ne", "logical_and", "logical_or", "logical_not", "to_float",
])  # fmt: skip
"""Operations that round nothing."""
_LITERALS = ("lift_fresh", "lift_fresh_copy")
_NO_MATTER = frozenset(["size", "layout", "device", "pin_memory", "non_blocking", "memory_format"])  # for values


class RefusedError(Exception):
    """An operation that has no place in a kernel; the message names it and the line of ``dynamics``."""


@dataclass(frozen=True)
class Call:
    """A call of an operation."""

    func: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @cached_property
    def given(self) -> dict[str, Any]:
        """Arguments by name, as far as they were given."""
        names = [a.name for a in self.func._schema.arguments]
        return {**dict(zip(names, self.args, strict=False)), **self.kwargs}

    @cached_property
    def operands(self) -> list[Any]:
        """Tensors and numbers that are computed with, in order."""
        wanted = RULES[self.name].names
        return [value for name, value in self.given.items() if name in wanted and name in _OPERANDS]

    def tensors(self) -> list[Tensor]:
        return [v for v in self.given.values() if isinstance(v, Tensor)]

    def __getitem__(self, name: str) -> Any:
        return self.given.get(name)


class Values:
    """The types of values while they are traced."""

    def __init__(self) -> None:
        self.is_boolean: dict[Ref, bool] = {}
        self.sources: dict[Ref, frozenset[int]] = {}  # of what depends on numbers alone: which
        self._whole: dict[Ref, Range] = {}
        self._loose: set[int] = set()  # storages: selections among numbers that wait for their conversion

    number_dtype: torch.dtype | None = None
    """Of numbers that are floats."""

    def ref(self, tensor: Tensor) -> Ref:
        raise NotImplementedError

    def node(self, op: str, *refs: Ref) -> Ref:
        raise NotImplementedError

    def refuse(self, what: str) -> NoReturn:
        raise NotImplementedError

    def expected(self, out: Tensor) -> torch.dtype:
        raise NotImplementedError

    def emit(self, op: str, *refs: Ref) -> Ref:
        """A node, with the range of its values where they are whole numbers."""
        if op == "mul" and Const(1.0) in refs:
            return refs[0] if refs[1] == Const(1.0) else refs[1]
        if all(isinstance(r, Const) for r in refs):
            values = [torch.tensor(r.value, dtype=torch.float64) for r in refs if isinstance(r, Const)]
            return Const(float(OPS[op].torch(*values)))
        made = self.node(op, *refs)
        found = _range(op, [self._range_of(r) for r in refs])
        if found is not None:
            self._whole[made] = found
        return made

    def number(self, value: Any) -> Ref:
        """A tensor or a Python number as a number."""
        if not isinstance(value, Tensor):
            return Const(float(value)) if isinstance(value, (bool, int, float)) else self.refuse(f"{value!r}")
        ref = self._checked(value)
        return self.emit("to_float", ref) if self.is_boolean.get(ref) else ref

    def condition(self, value: Any) -> Ref:
        """A tensor or a Python number as a truth value; a constant is 0 or 1."""
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
        """Refuses an argument that the rule does not name."""
        known = RULES[call.name].names
        for argument in call.func._schema.arguments:
            value = call.given.get(argument.name)
            default = argument.default_value if argument.has_default_value() else None
            if argument.name in known or argument.name in _NO_MATTER or value is None:
                continue
            if isinstance(value, Tensor) or value != default:
                shown = "..." if isinstance(value, Tensor) else repr(value)
                self.refuse(f"{call.func} with {argument.name}={shown}")

    def value_of(self, call: Call, out: Tensor) -> Ref:
        """The value of ``out``, which a call gave."""
        literal = call.name in _LITERALS
        if literal and out.ndim:
            self.refuse("a tensor literal with dimensions; declare it with self.numbers(...)")
        if literal or all(isinstance(self.ref(t), Const) for t in call.tensors()):
            return self._constant(call, out)
        made = RULES[call.name].make(self, call, out)
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
        """``out`` is an alias of ``source``."""
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
        """``made`` as a program holds it in the dtype of ``out``; refused where it cannot."""
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
        """Notes of which numbers ``made`` is, where it depends on nothing else."""
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

    def _constant(self, call: Call, out: Tensor) -> Ref:
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


def _range(op: str, found: list[Range | None]) -> Range | None:
    """The range of a result that is a whole number because all operands are."""
    if op == "to_float":
        return 0.0, 1.0
    known = [f for f in (found[1:] if op == "where" else found) if f is not None]
    if op not in _RANGES or len(known) < len(found) - (op == "where"):
        return None
    low, high = _RANGES[op](*known)
    return (low, high) if max(-low, high) <= _WHOLE else None


def _product(a: Range, b: Range) -> Range:
    corners = [p * q for p in a for q in b]
    return min(corners), max(corners)


_RANGES: dict[str, Callable[..., Range]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _product,
    "neg": lambda a: (-a[1], -a[0]),
    "abs": lambda a: (0.0, max(-a[0], a[1])),
    "relu": lambda a: (0.0, max(0.0, a[1])),
    "where": lambda a, b: (min(a[0], b[0]), max(a[1], b[1])),
    "clamp": lambda a, b, c: (min(max(a[0], b[0]), c[0]), min(max(a[1], b[1]), c[1])),
    **dict.fromkeys(("maximum", "clamp_min"), lambda a, b: (max(a[0], b[0]), max(a[1], b[1]))),
    **dict.fromkeys(("minimum", "clamp_max"), lambda a, b: (min(a[0], b[0]), min(a[1], b[1]))),
    **dict.fromkeys(("floor", "ceil", "round"), lambda a: a),
    "sign": lambda a: (-1.0, 1.0),
}

Make = Callable[[Values, Call, Tensor], Ref]


@dataclass(frozen=True)
class Rule:
    """How an operation is written, and the arguments that it knows."""

    make: Make
    names: frozenset[str]


_OPERANDS = frozenset(["self", "other", "condition", "mask", "value", "src", "min", "max"])


def _arithmetic(op: str) -> Make:
    """An operation whose result has the dtype that it is computed in; on truth values it may be logic."""

    def make(t: Values, c: Call, out: Tensor) -> Ref:
        if out.dtype == torch.bool:
            if op not in _LOGIC:
                t.refuse(f"{c.func} on truth values")
            return _LOGIC[op](t, *map(t.condition, c.operands))
        return t.emit(op, *map(t.number, c.operands))

    return make


_LOGIC: dict[str, Callable[..., Ref]] = {
    "add": Values.either,
    "mul": Values.both,
    "maximum": Values.either,
    "minimum": Values.both,
}


def _comparison(op: str) -> Make:
    def make(t: Values, c: Call, out: Tensor) -> Ref:
        dtype = t.computed_in(c)
        if dtype != t.expected(out) and not all(t.exact_in(v, dtype) for v in c.operands):
            kinds = ", ".join(str(v.dtype) if isinstance(v, Tensor) else repr(v) for v in c.operands)
            t.refuse(f"{c.func} on {kinds}, which are compared in {dtype}")
        return t.emit(op, *map(t.number, c.operands))

    return make


def _logical(combine: Callable[..., Ref], *, bitwise: bool = False) -> Make:
    def make(t: Values, c: Call, out: Tensor) -> Ref:
        if bitwise and out.dtype != torch.bool:
            t.refuse(f"{c.func} on {out.dtype}")
        return combine(t, *map(t.condition, c.operands))

    return make


def _differ(t: Values, a: Ref, b: Ref) -> Ref:
    return t.either(t.both(a, t.negated(b)), t.both(t.negated(a), b))


def _scaled(op: str, *, swapped: bool = False) -> Make:
    """add, sub and rsub have a factor alpha, with which torch may fuse the product: powers of two are exact."""
    plain = _arithmetic(op)

    def make(t: Values, c: Call, out: Tensor) -> Ref:
        alpha = c["alpha"] if c["alpha"] is not None else 1
        if alpha == 1 and not swapped:
            return plain(t, c, out)
        if isinstance(alpha, bool) or out.dtype == torch.bool or abs(math.frexp(alpha)[0]) != 0.5:
            t.refuse(f"{c.func} with alpha={alpha}")
        first, second = reversed(c.operands) if swapped else c.operands
        scaled = t.number(second)
        if alpha != 1:
            scaled = Const(scaled.value * alpha) if isinstance(scaled, Const) else t.emit("mul", scaled, Const(alpha))
        return t.emit(op, t.number(first), scaled)

    return make


def _pow(t: Values, c: Call, out: Tensor) -> Ref:
    exponent = c["exponent"]
    if not isinstance(c["self"], Tensor) or isinstance(exponent, Tensor) or exponent not in (0.5, 1, 2):
        t.refuse(f"{c.func} with exponent {'...' if isinstance(exponent, Tensor) else exponent}")
    base = t.number(c["self"])
    if exponent == 2:
        return t.emit("mul", base, base)
    return t.emit("sqrt", base) if exponent == 0.5 else base


def _square(t: Values, c: Call, out: Tensor) -> Ref:
    base = t.number(c["self"])
    return t.emit("mul", base, base)


def _where(t: Values, c: Call, out: Tensor) -> Ref:
    return _select(t, t.condition(c["condition"]), c["self"], c["other"], out)


def _masked_fill(t: Values, c: Call, out: Tensor) -> Ref:
    return _select(t, t.condition(c["mask"]), c["value"], c["self"], out)


def _select(t: Values, chosen: Ref, yes: Any, no: Any, out: Tensor) -> Ref:
    if out.dtype == torch.bool:
        return t.either(t.both(chosen, t.condition(yes)), t.both(t.negated(chosen), t.condition(no)))
    if isinstance(chosen, Const):
        return t.number(yes if chosen.value else no)
    return t.emit("where", chosen, t.number(yes), t.number(no))


def _clamp(t: Values, c: Call, out: Tensor) -> Ref:
    bounds = {name: t.number(c[name]) for name in ("min", "max") if c[name] is not None}
    op = "clamp" if len(bounds) == 2 else f"clamp_{next(iter(bounds))}"
    return t.emit(op, t.number(c["self"]), *bounds.values())


def _threshold_backward(t: Values, c: Call, out: Tensor) -> Ref:
    below = t.emit("le", t.number(c["self"]), t.number(c["threshold"]))
    return t.emit("where", below, Const(0.0), t.number(c["grad_output"]))


def _tanh_backward(t: Values, c: Call, out: Tensor) -> Ref:
    y = t.number(c["output"])
    return t.emit("mul", t.number(c["grad_output"]), t.emit("sub", Const(1.0), t.emit("mul", y, y)))


def _sigmoid_backward(t: Values, c: Call, out: Tensor) -> Ref:
    y = t.number(c["output"])
    return t.emit("mul", t.number(c["grad_output"]), t.emit("mul", t.emit("sub", Const(1.0), y), y))


def _to_copy(t: Values, c: Call, out: Tensor) -> Ref:
    return t.cast(c, c["self"], out)


def _copy(t: Values, c: Call, out: Tensor) -> Ref:
    return t.cast(c, c["src"], out)


def _filled(t: Values, c: Call, out: Tensor) -> Ref:
    """Every value of the result is the same, and torch has computed it; or it is that of another tensor."""
    value = next((v for name, v in c.given.items() if name in ("value", "fill_value") and isinstance(v, Tensor)), None)
    return t._constant(c, out) if value is None else t.cast(c, value, out)


def _rules() -> dict[str, Rule]:
    two = frozenset(["self", "other"])
    unary = "reciprocal abs sqrt exp expm1 log log1p tanh sigmoid sin cos atan erf erfc floor ceil round sign relu neg"
    filled = "zeros_like ones_like full_like new_zeros new_ones new_full zeros ones full scalar_tensor zero fill"
    backward = frozenset(["grad_output", "self", "output", "threshold"])
    return {
        **{op: Rule(_arithmetic(op), two) for op in (*unary.split(), "mul", "div", "maximum", "minimum")},
        **{op: Rule(_comparison(op), two) for op in ("ge", "gt", "le", "lt", "eq", "ne")},
        "true_divide": Rule(_arithmetic("div"), two),
        "sgn": Rule(_arithmetic("sign"), two),
        "add": Rule(_scaled("add"), two | {"alpha"}),
        "sub": Rule(_scaled("sub"), two | {"alpha"}),
        "rsub": Rule(_scaled("sub", swapped=True), two | {"alpha"}),
        "logical_and": Rule(_logical(Values.both), two),
        "logical_or": Rule(_logical(Values.either), two),
        "logical_xor": Rule(_logical(_differ), two),
        "logical_not": Rule(_logical(Values.negated), two),
        "bitwise_and": Rule(_logical(Values.both, bitwise=True), two),
        "bitwise_or": Rule(_logical(Values.either, bitwise=True), two),
        "bitwise_xor": Rule(_logical(_differ, bitwise=True), two),
        "bitwise_not": Rule(_logical(Values.negated, bitwise=True), two),
        "pow": Rule(_pow, frozenset(["self", "exponent"])),
        "square": Rule(_square, two),
        "where": Rule(_where, two | {"condition"}),
        "masked_fill": Rule(_masked_fill, frozenset(["self", "mask", "value"])),
        **{op: Rule(_clamp, frozenset(["self", "min", "max"])) for op in ("clamp", "clamp_min", "clamp_max")},
        "threshold_backward": Rule(_threshold_backward, backward),
        "tanh_backward": Rule(_tanh_backward, backward),
        "sigmoid_backward": Rule(_sigmoid_backward, backward),
        "_to_copy": Rule(_to_copy, frozenset(["self", "dtype"])),
        "copy": Rule(_copy, frozenset(["self", "src"])),
        **{op: Rule(_filled, frozenset(["self", "s", "value", "fill_value", "dtype"])) for op in filled.split()},
        **{op: Rule(_to_copy, frozenset(["self"])) for op in _LITERALS},
    }


RULES = _rules()
