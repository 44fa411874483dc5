"""Program: one step of a neuron, forward and backward, as a list of elementwise operations.

Text form, one line a value::

    %5 = div(%4, %2)

Values are x (inputs), states, numbers, upstream gradients and nodes. The table ``OPS`` says for each operation how C
writes it and which torch function computes the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Const:
    """A constant. A type of its own: value 2 and the number 2.0 would be equal in Python, and so would 0.0 and -0.0."""

    value: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Const) and repr(self.value) == repr(other.value)

    def __hash__(self) -> int:
        return hash(repr(self.value))


Ref = int | Const
"""A value (its id) or a constant."""


@dataclass(frozen=True)
class Op:
    """An operation: a C expression with ``{0}``, ``{1}``... for its operands, the torch function, and where Triton
    writes it differently its expression there."""

    c: str
    torch: Callable[..., Any]
    boolean: bool = False
    triton: str = ""


def _call(name: str) -> str:
    return f"K_{name}({{0}})"


def _greater(function: Callable[..., Any]) -> Op:
    return Op(
        "(({0} > {1} || {0} != {0}) ? {0} : {1})", function, triton="tl.where(({0} > {1}) | ({0} != {0}), {0}, {1})"
    )


def _less(function: Callable[..., Any]) -> Op:
    return Op(
        "(({0} < {1} || {0} != {0}) ? {0} : {1})", function, triton="tl.where(({0} < {1}) | ({0} != {0}), {0}, {1})"
    )


OPS: dict[str, Op] = {
    "add": Op("({0} + {1})", torch.add),
    "sub": Op("({0} - {1})", torch.sub),
    "mul": Op("({0} * {1})", torch.mul),
    "div": Op("({0} / {1})", torch.div),
    "neg": Op("(-{0})", torch.neg),
    "reciprocal": Op("((S)1 / {0})", torch.reciprocal, triton="(1.0 / {0})"),
    "abs": Op(_call("abs"), torch.abs, triton="tl.abs({0})"),
    "sqrt": Op(_call("sqrt"), torch.sqrt),
    "exp": Op(_call("exp"), torch.exp),
    "expm1": Op(_call("expm1"), torch.expm1),
    "log": Op(_call("log"), torch.log),
    "log1p": Op(_call("log1p"), torch.log1p),
    "tanh": Op(_call("tanh"), torch.tanh),
    "sigmoid": Op("((S)1 / ((S)1 + K_exp(-{0})))", torch.sigmoid, triton="K_sigmoid({0})"),
    "sin": Op(_call("sin"), torch.sin, triton="tl.sin({0})"),
    "cos": Op(_call("cos"), torch.cos, triton="tl.cos({0})"),
    "atan": Op(_call("atan"), torch.atan),
    "erf": Op(_call("erf"), torch.erf, triton="tl.erf({0})"),
    "erfc": Op(_call("erfc"), torch.erfc),
    "floor": Op(_call("floor"), torch.floor, triton="tl.floor({0})"),
    "ceil": Op(_call("ceil"), torch.ceil, triton="tl.ceil({0})"),
    "round": Op(_call("rint"), torch.round),
    "sign": Op("(S)(({0} > (S)0) - ({0} < (S)0))", torch.sign, triton="(({0} > 0.0).to(S) - ({0} < 0.0).to(S))"),
    "relu": Op("({0} < (S)0 ? (S)0 : {0})", torch.relu, triton="tl.where({0} < 0.0, 0.0, {0})"),
    "maximum": _greater(torch.maximum),
    "minimum": _less(torch.minimum),
    "clamp_min": _greater(torch.clamp_min),
    "clamp_max": _less(torch.clamp_max),
    "clamp": Op("K_clamp({0}, {1}, {2})", torch.clamp),
    "ge": Op("({0} >= {1})", torch.ge, boolean=True),
    "gt": Op("({0} > {1})", torch.gt, boolean=True),
    "le": Op("({0} <= {1})", torch.le, boolean=True),
    "lt": Op("({0} < {1})", torch.lt, boolean=True),
    "eq": Op("({0} == {1})", torch.eq, boolean=True),
    "ne": Op("({0} != {1})", torch.ne, boolean=True),
    "logical_and": Op("({0} & {1})", torch.logical_and, boolean=True),
    "logical_or": Op("({0} | {1})", torch.logical_or, boolean=True),
    "logical_not": Op("(!{0})", torch.logical_not, boolean=True, triton="(~{0})"),
    "to_float": Op("({0} ? (S)1 : (S)0)", torch.Tensor.to, triton="{0}.to(S)"),
    "where": Op("({0} ? {1} : {2})", torch.where, triton="tl.where({0}, {1}, {2})"),
}


@dataclass(frozen=True)
class Node:
    """``%id = op(args)``."""

    id: int
    op: str
    args: tuple[Ref, ...]

    def __str__(self) -> str:
        args = ", ".join(f"%{a}" if isinstance(a, int) else repr(a.value) for a in self.args)
        return f"%{self.id} = {self.op}({args})"


@dataclass(frozen=True)
class Program:
    """One step and its vector-Jacobian product.

    Ids below ``first`` are inputs, in this order: xs, states, numbers, the upstream gradient of the output, those of
    the new states.

    ``outputs``: the output and the new states. ``grads``: gradients of xs and states, None where there is none.
    ``number_grads``: gradient of each value that depends on numbers alone and is used by the step.
    """

    xs: tuple[str, ...]
    states: tuple[str, ...]
    numbers: tuple[str, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Ref, ...]
    grads: tuple[Ref | None, ...]
    number_grads: tuple[tuple[int, Ref], ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, by id."""
        upstream = ("g_out", *(f"g_{s}" for s in self.states))
        return (*self.xs, *self.states, *self.numbers, *upstream)

    def number_ids(self) -> set[int]:
        """Ids of numbers and of nodes that depend on numbers and constants alone: evaluated once, by torch."""
        start = len(self.xs) + len(self.states)
        found = set(range(start, start + len(self.numbers)))
        for node in self.nodes:
            if all(not isinstance(a, int) or a in found for a in node.args):
                found.add(node.id)
        return found

    def needed(self, roots: tuple[Ref | None, ...], given: frozenset[int] = frozenset()) -> list[Node]:
        """The nodes that ``roots`` depend on, in order; numbers' own and what is ``given`` left out."""
        numbers = self.number_ids() | given
        wanted = {r for r in roots if isinstance(r, int)}
        picked = []
        for node in reversed(self.nodes):
            if node.id in wanted and node.id not in numbers:
                picked.append(node)
                wanted.update(a for a in node.args if isinstance(a, int))
        return picked[::-1]

    def params(self, roots: tuple[Ref | None, ...]) -> list[int]:
        """Number values that the computation of ``roots`` reads."""
        numbers = self.number_ids()
        used = {a for node in self.needed(roots) for a in node.args if isinstance(a, int) and a in numbers}
        return sorted(used | {r for r in roots if isinstance(r, int) and r in numbers})

    def evaluate_numbers(self, numbers: Mapping[str, Tensor], wanted: list[int]) -> dict[int, Tensor]:
        """The values ``wanted``, computed by torch (with its autograd) from the numbers."""
        start = len(self.xs) + len(self.states)
        values: dict[int, Tensor] = {start + k: numbers[name] for k, name in enumerate(self.numbers)}
        by_id = {node.id: node for node in self.nodes}
        dimensioned = (n.dtype for name, n in numbers.items() if n.ndim and name not in NORM)
        dtype = next(dimensioned, torch.float32)  # of states, where it matters

        def value(ref: Ref) -> Any:
            if isinstance(ref, Const):
                return ref.value
            if ref not in values:
                node = by_id[ref]
                values[ref] = _apply(node.op, [value(a) for a in node.args], dtype)
            return values[ref]

        return {i: value(i) for i in wanted}

    def __str__(self) -> str:
        lines = [f"%{i} = {name}" for i, name in enumerate(self.inputs)]
        lines += [str(node) for node in self.nodes]
        lines.append(f"outputs {self.outputs}")
        lines.append(f"grads {self.grads}")
        lines.append(f"number_grads {self.number_grads}")
        return "\n".join(lines)

    def digest(self) -> str:
        """A hash of the text form."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:24]


NORM = ("norm.scale", "norm.shift")
"""Numbers of a program with a batch norm before it, one value per channel."""


def with_norm(program: Program) -> Program:
    """The program of ``x -> step(scale * x + shift)``: what a batch norm before a neuron makes of it."""
    at = len(program.xs) + len(program.states) + len(program.numbers)  # where the new numbers are
    last = max([len(program.inputs) - 1, *(n.id for n in program.nodes)]) + 2
    scale, shift, scaled, shifted, g_x = at, at + 1, last + 1, last + 2, last + 3

    def new(ref: Ref) -> Ref:
        if not isinstance(ref, int):
            return ref
        return shifted if ref == 0 else ref if ref < at else ref + 2

    def gradient(ref: Ref | None) -> Ref | None:
        return None if ref is None else new(ref)

    nodes = [Node(scaled, "mul", (0, scale)), Node(shifted, "add", (scaled, shift))]
    nodes += [Node(n.id + 2, n.op, tuple(map(new, n.args))) for n in program.nodes]
    grads = [gradient(g) for g in program.grads]
    numbers = [(i, new(g)) for i, g in program.number_grads]
    inner = grads[0]
    if inner is not None:
        nodes += [Node(g_x, "mul", (inner, scale)), Node(g_x + 1, "mul", (inner, 0))]
        grads[0] = g_x
        numbers += [(scale, g_x + 1), (shift, inner)]
    return Program(
        xs=program.xs,
        states=program.states,
        numbers=(*program.numbers, *NORM),
        nodes=tuple(nodes),
        outputs=tuple(map(new, program.outputs)),
        grads=tuple(grads),
        number_grads=tuple((i if i < at else i + 2, g) for i, g in numbers[: len(program.number_grads)])
        + tuple(numbers[len(program.number_grads) :]),
    )


def _apply(op: str, args: list[Any], dtype: torch.dtype) -> Tensor:
    """An operation on numbers, with the dtypes that it has in the loop, whose states have ``dtype``."""
    if op == "to_float":
        args.append(dtype if args[0].ndim else torch.float32)
    tensors_only = op in ("maximum", "minimum", "sub", "div")  # others take Python numbers behind the first operand
    if not all(isinstance(a, Tensor) for a in (args if tensors_only else args[:1])):
        like = next(a for a in args if isinstance(a, Tensor) and a.dtype != torch.bool)
        args = [a if isinstance(a, Tensor) else like.new_full((), a) for a in args]  # filled there: no copy from here
    result: Tensor = OPS[op].torch(*args)
    return result
