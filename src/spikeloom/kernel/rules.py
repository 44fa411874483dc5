"""rules: says how each operation of torch is written in a program.

Rows of ``OPS`` imply most rules; here are those that take more than the operands, or write several operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .program import OPS, Const, Derivative, Ref
from .values import LITERALS, Call, Make, Rule, Values

SHAPES = frozenset(["view", "_unsafe_view", "expand", "reshape"])
ALIASES = frozenset(["detach", "alias", "clone", "contiguous"]) | SHAPES


def _arithmetic(op: str) -> Make:
    """The rule of an operation whose result has the dtype that it is computed in; on truth values it may be logic."""

    def make(t: Values, c: Call, out: Tensor) -> Ref:
        if out.dtype == torch.bool:
            if not OPS[op].on_truths:
                t.refuse(f"{c.func} on truth values")
            return _LOGIC[OPS[op].on_truths](t, *map(t.condition, c.operands))
        return t.emit(op, *map(t.number, c.operands))

    return make


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
    """The rule of add, sub and rsub, whose factor alpha must be a power of two: torch may fuse its product."""
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


def _derivative(derivative: Derivative) -> Make:
    def make(t: Values, c: Call, out: Tensor) -> Ref:
        return derivative.write(t.emit, *(t.number(c[name]) for name in derivative.reads))

    return make


def _to_copy(t: Values, c: Call, out: Tensor) -> Ref:
    return t.cast(c, c["self"], out)


def _copy(t: Values, c: Call, out: Tensor) -> Ref:
    return t.cast(c, c["src"], out)


def _filled(t: Values, c: Call, out: Tensor) -> Ref:
    """All values of the result are one constant, which torch has computed, or the value of another tensor."""
    value = next((v for name, v in c.given.items() if name in ("value", "fill_value") and isinstance(v, Tensor)), None)
    return t.constant(c, out) if value is None else t.cast(c, value, out)


_LOGIC: dict[str, Callable[..., Ref]] = {
    "logical_and": Values.both,
    "logical_or": Values.either,
    "logical_xor": _differ,
    "logical_not": Values.negated,
}
_TWO = frozenset(["self", "other"])
_FILLED = "zeros_like ones_like full_like new_zeros new_ones new_full zeros ones full scalar_tensor zero fill"


def _rules_of_operations() -> dict[str, Rule]:
    """The rules that rows of ``OPS`` imply."""
    found = {}
    for name, op in OPS.items():
        rule = Rule(_comparison(name) if op.boolean else _arithmetic(name), _TWO)
        found.update({torchs: rule for torchs in (name, *op.names) if not op.truths})
        if op.derivative is not None:
            found[op.derivative.name] = Rule(_derivative(op.derivative), frozenset(op.derivative.reads))
    return found


RULES = {
    **_rules_of_operations(),
    "add": Rule(_scaled("add"), _TWO | {"alpha"}),
    "sub": Rule(_scaled("sub"), _TWO | {"alpha"}),
    "rsub": Rule(_scaled("sub", swapped=True), _TWO | {"alpha"}),
    **{name: Rule(_logical(combine), _TWO) for name, combine in _LOGIC.items()},
    **{name.replace("logical", "bitwise"): Rule(_logical(f, bitwise=True), _TWO) for name, f in _LOGIC.items()},
    "pow": Rule(_pow, frozenset(["self", "exponent"])),
    "square": Rule(_square, _TWO),
    "where": Rule(_where, _TWO | {"condition"}),
    "masked_fill": Rule(_masked_fill, frozenset(["self", "mask", "value"])),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), Rule(_clamp, frozenset(["self", "min", "max"]))),
    "_to_copy": Rule(_to_copy, frozenset(["self", "dtype"])),
    "copy": Rule(_copy, frozenset(["self", "src"])),
    **dict.fromkeys(_FILLED.split(), Rule(_filled, frozenset(["self", "s", "value", "fill_value", "dtype"]))),
    **dict.fromkeys(LITERALS, Rule(_to_copy, frozenset(["self"]))),
}
"""How torch's operations are written in a program, by torch's names."""
