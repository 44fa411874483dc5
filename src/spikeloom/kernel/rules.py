"""rules: what torch's operations are in a program."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .program import Const, Ref
from .values import LITERALS, Call, Make, Rule, Values

SHAPES = frozenset(["view", "_unsafe_view", "expand", "reshape"])
ALIASES = frozenset(["detach", "alias", "clone", "contiguous"]) | SHAPES
EXACT = frozenset([
    "neg", "abs", "relu", "sign", "where", "maximum", "minimum", "clamp", "clamp_min", "clamp_max",
    "ge", "gt", "le", "lt", "eq", "ne", "logical_and", "logical_or", "logical_not", "to_float",
])  # fmt: skip
"""Operations that round nothing."""


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
    return t.constant(c, out) if value is None else t.cast(c, value, out)


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
        **{op: Rule(_to_copy, frozenset(["self"])) for op in LITERALS},
    }


RULES = _rules()
