"""program: holds one step of a neuron, forward and backward, as a list of elementwise operations.

Text form, one line a value::

    %5 = div(%4, %2)

Values are x (inputs), states, numbers, upstream gradients and nodes. The table ``OPS`` holds what is known of each
operation: how C and Triton write it, which torch function computes the same, what its derivative is.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Const:
    """A constant has a type of its own, because in Python value 2 would equal the constant 2.0, and 0.0 equals -0.0."""

    value: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Const) and repr(self.value) == repr(other.value)

    def __hash__(self) -> int:
        return hash(repr(self.value))


Ref = int | Const
"""An operand of an operation: the id of a value, or a constant."""


Range = tuple[float, float]
"""The least and the largest value of an operand that holds whole numbers."""


@dataclass(frozen=True)
class Derivative:
    """The derivative of an operation, where torch's autograd calls one operation for it."""

    name: str
    """The name of that operation of torch."""
    reads: tuple[str, ...]
    """The names of those of its arguments that ``write`` takes."""
    write: Callable[..., Ref]
    """``write(emit, *operands)`` writes it with rows of ``OPS``; ``emit(name, *operands)`` adds one to the program."""


@dataclass(frozen=True, kw_only=True)
class Op:
    """A row holds all that is known of an operation.

    Torch's operation of the same name becomes this one where a neuron is traced, unless ``rules`` says more of it.
    """

    c: str
    """The expression in C, with ``{0}``, ``{1}``... for operands. ``K_f`` is a function of ``c/source`` or libm's f."""
    eager: Callable[..., Any]
    """Torch's function that computes it."""
    triton: str = ""
    """The expression in Triton, where that is not C's. ``K_f`` is a function of ``triton/functions``."""
    names: tuple[str, ...] = ()
    """Other names that torch has for the same operation."""
    boolean: bool = False
    """Whether it gives a truth value."""
    truths: int = 0
    """How many of its operands are truth values; they come first."""
    on_truths: str = ""
    """The operation that torch computes under this name if all operands are truth values; empty if it refuses those."""
    slow: bool = False
    """Whether it takes long, so that a backward kernel in C computes it once for the step and its gradient."""
    approximate: bool = False
    """Whether torch's results and those of kernels may differ in the last places."""
    exact: bool = False
    """Whether it rounds nothing, so that float64 operands give what their float32 values give, rounded."""
    tensors_only: bool = False
    """Whether torch computes it otherwise with a Python number in place of a tensor, or refuses that."""
    converts: bool = False
    """Whether ``eager`` takes the dtype of the result behind the operands."""
    range: Callable[..., Range] | None = None
    """The range of its results from those of its operands (truth values left out), if whole numbers give whole ones."""
    derivative: Derivative | None = None

    def evaluate(self, args: list[Any], dtype: torch.dtype) -> Tensor:
        """The result with the dtype that it has in the loop, whose states have ``dtype``."""
        args = [*args, dtype if args[0].ndim else torch.float32] if self.converts else args
        if not all(isinstance(a, Tensor) for a in (args if self.tensors_only else args[:1])):
            like = next(a for a in args if isinstance(a, Tensor) and a.dtype != torch.bool)
            args = [a if isinstance(a, Tensor) else like.new_full((), a) for a in args]  # on the device of the others
        result: Tensor = self.eager(*args)
        return result


def _function(eager: Callable[..., Any], c: str = "", **facts: Any) -> Op:
    """A function of one number that is a series of other operations."""
    return Op(c=c or f"K_{eager.__name__}({{0}})", eager=eager, slow=True, approximate=True, **facts)


def _to_integer(eager: Callable[..., Any], name: str, **facts: Any) -> Op:
    return Op(c=f"K_{name}({{0}})", eager=eager, range=lambda a: a, **facts)


def _extreme(sign: str, best: Callable[..., float], eager: Callable[..., Any], **facts: Any) -> Op:
    """The larger or the smaller of two numbers, or the first one if that is NaN."""

    def found(a: Range, b: Range) -> Range:
        return best(a[0], b[0]), best(a[1], b[1])

    c = f"(({{0}} {sign} {{1}} || {{0}} != {{0}}) ? {{0}} : {{1}})"
    triton = f"tl.where(({{0}} {sign} {{1}}) | ({{0}} != {{0}}), {{0}}, {{1}})"
    return Op(c=c, triton=triton, eager=eager, exact=True, range=found, **facts)


def _comparison(sign: str, eager: Callable[..., Any]) -> Op:
    return Op(c=f"({{0}} {sign} {{1}})", eager=eager, boolean=True, exact=True)


def _logic(c: str, eager: Callable[..., Any], truths: int, triton: str = "") -> Op:
    return Op(c=c, triton=triton, eager=eager, boolean=True, truths=truths, exact=True)


def _of_product(a: Range, b: Range) -> Range:
    corners = [p * q for p in a for q in b]
    return min(corners), max(corners)


def _tanh_derivative(emit: Callable[..., Ref], grad: Ref, y: Ref) -> Ref:
    return emit("mul", grad, emit("sub", Const(1.0), emit("mul", y, y)))


def _sigmoid_derivative(emit: Callable[..., Ref], grad: Ref, y: Ref) -> Ref:
    return emit("mul", grad, emit("mul", emit("sub", Const(1.0), y), y))


def _softplus_derivative(emit: Callable[..., Ref], grad: Ref, x: Ref, beta: Ref, threshold: Ref) -> Ref:
    scaled = emit("mul", x, beta)
    return emit("where", emit("gt", scaled, threshold), grad, emit("mul", grad, emit("sigmoid", scaled)))


def _relu_derivative(emit: Callable[..., Ref], grad: Ref, x: Ref, threshold: Ref) -> Ref:
    return emit("where", emit("le", x, threshold), Const(0.0), grad)


OPS: dict[str, Op] = {
    "add": Op(
        c="({0} + {1})", eager=torch.add, on_truths="logical_or", range=lambda a, b: (a[0] + b[0], a[1] + b[1])
    ),
    "sub": Op(c="({0} - {1})", eager=torch.sub, tensors_only=True, range=lambda a, b: (a[0] - b[1], a[1] - b[0])),
    "mul": Op(c="({0} * {1})", eager=torch.mul, on_truths="logical_and", range=_of_product),
    "div": Op(c="({0} / {1})", eager=torch.div, names=("true_divide",), tensors_only=True, slow=True),
    "neg": Op(  # before Triton 3.9, -x is 0 - x, which has another sign where x is 0
        c="(-{0})", triton="({0} * -1.0)", eager=torch.neg, exact=True, range=lambda a: (-a[1], -a[0])
    ),
    "reciprocal": Op(c="((S)1 / {0})", triton="(1.0 / {0})", eager=torch.reciprocal, slow=True),
    "abs": Op(
        c="K_fabs({0})", triton="tl.abs({0})", eager=torch.abs, exact=True, range=lambda a: (0.0, max(-a[0], a[1]))
    ),
    "sqrt": _function(torch.sqrt),
    "exp": _function(torch.exp),
    "expm1": _function(torch.expm1),
    "log": _function(torch.log),
    "log1p": _function(torch.log1p),
    "tanh": _function(
        torch.tanh, derivative=Derivative("tanh_backward", ("grad_output", "output"), _tanh_derivative)
    ),
    "sigmoid": _function(
        torch.sigmoid, "((S)1 / ((S)1 + K_exp(-{0})))", triton="K_sigmoid({0})",
        derivative=Derivative("sigmoid_backward", ("grad_output", "output"), _sigmoid_derivative),
    ),
    "softplus": _function(
        torch.nn.functional.softplus, "({0} > (S)20 ? {0} : K_log1p(K_exp({0})))",
        triton="tl.where({0} > 20.0, {0}, K_log1p(K_exp({0})))",
        derivative=Derivative(
            "softplus_backward", ("grad_output", "self", "beta", "threshold"), _softplus_derivative
        ),
    ),
    "sin": _function(torch.sin, triton="tl.sin({0})"),
    "cos": _function(torch.cos, triton="tl.cos({0})"),
    "atan": _function(torch.atan),
    "erf": _function(torch.erf, triton="tl.erf({0})"),
    "erfc": _function(torch.erfc),
    "floor": _to_integer(torch.floor, "floor", triton="tl.floor({0})"),
    "ceil": _to_integer(torch.ceil, "ceil", triton="tl.ceil({0})"),
    "round": _to_integer(torch.round, "rint"),
    "sign": Op(
        c="(S)(({0} > (S)0) - ({0} < (S)0))", triton="(({0} > 0.0).to(S) - ({0} < 0.0).to(S))", eager=torch.sign,
        names=("sgn",), exact=True, range=lambda a: (-1.0, 1.0),
    ),
    "relu": Op(
        c="({0} < (S)0 ? (S)0 : {0})", triton="tl.where({0} < 0.0, 0.0, {0})", eager=torch.relu, exact=True,
        range=lambda a: (0.0, max(0.0, a[1])),
        derivative=Derivative("threshold_backward", ("grad_output", "self", "threshold"), _relu_derivative),
    ),
    "maximum": _extreme(">", max, torch.maximum, tensors_only=True, on_truths="logical_or"),
    "minimum": _extreme("<", min, torch.minimum, tensors_only=True, on_truths="logical_and"),
    "clamp_min": _extreme(">", max, torch.clamp_min),
    "clamp_max": _extreme("<", min, torch.clamp_max),
    "clamp": Op(
        c="K_clamp({0}, {1}, {2})", eager=torch.clamp, exact=True,
        range=lambda a, low, high: (min(max(a[0], low[0]), high[0]), min(max(a[1], low[1]), high[1])),
    ),
    "ge": _comparison(">=", torch.ge),
    "gt": _comparison(">", torch.gt),
    "le": _comparison("<=", torch.le),
    "lt": _comparison("<", torch.lt),
    "eq": _comparison("==", torch.eq),
    "ne": _comparison("!=", torch.ne),
    "logical_and": _logic("({0} & {1})", torch.logical_and, 2),
    "logical_or": _logic("({0} | {1})", torch.logical_or, 2),
    "logical_not": _logic("(!{0})", torch.logical_not, 1, triton="(~{0})"),
    "to_float": Op(
        c="({0} ? (S)1 : (S)0)", triton="{0}.to(S)", eager=torch.Tensor.to, truths=1, exact=True, converts=True,
        range=lambda: (0.0, 1.0),
    ),
    "where": Op(
        c="({0} ? {1} : {2})", triton="tl.where({0}, {1}, {2})", eager=torch.where, truths=1, exact=True,
        range=lambda a, b: (min(a[0], b[0]), max(a[1], b[1])),
    ),
}  # fmt: skip
"""Every operation that a program may use. What is known of one stands in its row and nowhere else."""


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
    """A program is one step and its vector-Jacobian product.

    Ids below ``first`` are inputs, in this order: xs, states, numbers, the upstream gradient of the output, those of
    the new states.

    ``outputs``: the output and the new states. ``grads``: gradients of xs and states, None where there is none.
    ``number_grads``: gradient of each value that depends on numbers alone and is used by the step.
    ``depends``: of each of the outputs, the xs, states and values of numbers on which it depends differentiably; its
    derivative may be 0 there.
    """

    xs: tuple[str, ...]
    states: tuple[str, ...]
    numbers: tuple[str, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Ref, ...]
    grads: tuple[Ref | None, ...]
    number_grads: tuple[tuple[int, Ref], ...]
    depends: tuple[tuple[int, ...], ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs, in the order of their ids."""
        upstream = ("g_out", *(f"g_{s}" for s in self.states))
        return (*self.xs, *self.states, *self.numbers, *upstream)

    def number_ids(self) -> set[int]:
        """The ids of what torch evaluates once per call: numbers, and nodes that depend on nothing but numbers."""
        start = len(self.xs) + len(self.states)
        found = set(range(start, start + len(self.numbers)))
        for node in self.nodes:
            if all(not isinstance(a, int) or a in found for a in node.args):
                found.add(node.id)
        return found

    def needed(self, roots: tuple[Ref | None, ...], given: frozenset[int] = frozenset()) -> list[Node]:
        """The nodes that ``roots`` depend on, in order, without those of numbers alone and those that are ``given``."""
        numbers = self.number_ids() | given
        wanted = {r for r in roots if isinstance(r, int)}
        picked = []
        for node in reversed(self.nodes):
            if node.id in wanted and node.id not in numbers:
                picked.append(node)
                wanted.update(a for a in node.args if isinstance(a, int))
        return picked[::-1]

    def params(self, roots: tuple[Ref | None, ...]) -> list[int]:
        """The values of numbers that the computation of ``roots`` reads."""
        numbers = self.number_ids()
        used = {a for node in self.needed(roots) for a in node.args if isinstance(a, int) and a in numbers}
        return sorted(used | {r for r in roots if isinstance(r, int) and r in numbers})

    def sources(self, values: Iterable[int]) -> dict[int, frozenset[int]]:
        """Of some values of numbers, the numbers on which each depends."""
        start = len(self.xs) + len(self.states)
        found = {i: frozenset([i]) for i in range(start, start + len(self.numbers))}
        for node in self.nodes:
            args = [a for a in node.args if isinstance(a, int)]
            if found.keys() >= set(args):
                found[node.id] = frozenset[int]().union(*(found[a] for a in args))
        return {i: found[i] for i in values}

    def evaluate(self, numbers: Sequence[Tensor], wanted: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
        """The values ``wanted`` in ``dtype``, computed by torch (with its autograd) from the numbers, all in order."""
        start = len(self.xs) + len(self.states)
        values: dict[int, Tensor] = dict(enumerate(numbers, start))

        def value(ref: Ref) -> Any:
            if isinstance(ref, Const):
                return ref.value
            if ref not in values:
                node = self._by_id[ref]
                values[ref] = OPS[node.op].evaluate([value(a) for a in node.args], state())
            return values[ref]

        def state() -> torch.dtype:
            """The dtype of states, where it matters."""
            named = zip(self.numbers, numbers, strict=True)
            return next((n.dtype for name, n in named if n.ndim and name not in NORM), torch.float32)

        found = [values[i] if i in values else value(i) for i in wanted]
        return [v if v.dtype == dtype else v.to(dtype) for v in found]

    @functools.cached_property
    def _by_id(self) -> dict[int, Node]:
        return {node.id: node for node in self.nodes}

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


NORM = ("norm..scale", "norm..shift")
"""Numbers of a program with a batch norm before it, one value per channel. No path of a module has an empty part, so
that no neuron has numbers of these names."""
