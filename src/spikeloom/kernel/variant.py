"""variant: what a program's kernels are made for and which tensors they take, whatever language they are printed in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .program import NORM, OPS, Node, Program, Ref


class Layout:
    """The operands of a program's kernels: their names, and the order in which the kernels take their pointers.

    Operands that come from numbers are its params, and known by the ids of their values too. A forward kernel in C that
    writes bits has one more pointer behind these, to an int32 that it sets to 1 where an output is not binary.
    """

    def __init__(self, program: Program) -> None:
        X, S = range(len(program.xs)), range(len(program.states))
        reads = program.params((*program.grads, *(ref for _, ref in program.number_grads)))
        self.forward_params = tuple(program.params(program.outputs))
        """The params that the forward kernel reads."""
        self.differentiable = tuple(sorted(i for i, _ in program.number_grads))
        """Those of which the backward kernel can compute the gradient."""
        self.backward_params = tuple(sorted({*self.forward_params, *reads, *self.differentiable}))
        """Those that the backward kernel takes: all, also where no step reads one that has a gradient."""
        divisors = {node.args[1] for node in program.nodes if node.op == "div"}
        self.divisors = tuple(i for i in self.backward_params if i in divisors)
        """Those that something is divided by."""

        self.xs = tuple(f"x{k}" for k in X)
        """The inputs."""
        self.start = tuple(f"s0_{k}" for k in S)
        self.final = tuple(f"sT_{k}" for k in S)
        """The states at the start and at the end."""
        self.recorded = tuple(f"rec_{k}" for k in S)
        """The states at all steps."""
        self.kept = tuple(f"ck_{k}" for k in S)
        """The states that are kept for the backward pass, one in each segment."""
        self.params = {i: f"P{i}" for i in self.backward_params}
        """All params."""
        self.norm = tuple(f"P{program.inputs.index(name)}" for name in NORM if name in program.numbers)
        """Scale and shift of a batch norm before the neuron."""
        first = len(program.xs) + len(program.states)
        self.numbers = {i: f"R{i}" for i in range(first, first + len(program.numbers))}
        """The numbers themselves, for kernels that compute params from them."""
        self.sources = program.sources(self.backward_params)
        """Of each param, the numbers on which it depends."""
        self.gradient = {"out": "gout", **{name: f"g{name}" for name in (*self.xs, *self.start, *self.recorded)}}
        """The names of gradients."""
        self.gradient.update((name, f"gT_{k}") for k, name in enumerate(self.final))
        self.gradient.update((name, f"gp{i}") for i, name in self.params.items())

        g = self.gradient
        outside = (*self.final, *self.recorded, *self.xs, *self.start)
        self.forward = (
            *self.xs, *self.start, "out", *self.final, *self.recorded, *self.kept, "lens",
            *(self.params[i] for i in self.forward_params),
        )  # fmt: skip
        """The pointers of the forward kernel."""
        self._backward = (
            *self.xs, *self.start, *self.kept, "lens", *self.params.values(), "gout", *(g[name] for name in outside),
        )  # fmt: skip
        self.may_lack: dict[str, Any] = dict.fromkeys((*self.recorded, *self.kept, *(g[name] for name in outside)))
        """The operands that may be null, as null."""

        leaves = zip((*self.xs, *self.start), program.grads, strict=True)
        self.active = {name for name, ref in leaves if ref is not None} | {self.params[i] for i in self.differentiable}
        """The operands that a gradient is computed of, a batch norm's weight and bias among them."""
        self.active |= {"weight", "bias"} if self.active.issuperset(self.norm) else set()
        names = (*self.xs, *self.start)
        self._depends = [[names[i] if i < len(names) else f"P{i}" for i in ids] for ids in program.depends]

    def depends(self, T: int) -> dict[str, frozenset[str]]:
        """Of each output, the operands on which it depends differentiably after T steps."""
        before = {name: frozenset([name]) for name in self.start}
        found = dict.fromkeys(("out", *self.recorded), frozenset[str]())
        for _ in range(T):
            new = [frozenset[str]().union(*(before.get(i, {i}) for i in ids)) for ids in self._depends]
            for name, now in zip(("out", *self.recorded), new, strict=True):
                found[name] |= now
            if list(before.values()) == new[1:]:
                break
            before = dict(zip(self.start, new[1:], strict=True))
        found.update(zip(self.final, before.values(), strict=True))
        affine = frozenset(["weight", "bias"])
        return {name: on if on.isdisjoint(self.norm) else on | affine for name, on in found.items()}

    def numbers_of(self, params: Iterable[int]) -> list[int]:
        """The numbers on which some params depend."""
        return sorted(frozenset[int]().union(*(self.sources[i] for i in params)))

    def backward(self, wanted: tuple[int, ...]) -> tuple[str, ...]:
        """The pointers of a backward kernel that computes the gradients of the params ``wanted``."""
        return (*self._backward, *(self.gradient[self.params[i]] for i in wanted))


@dataclass(frozen=True)
class Variant:
    """What a kernel is made for. Each variant is compiled when it is first needed."""

    io: str
    """The dtype of inputs and outputs: ``float64``, ``float32``, ``bfloat16`` or ``float16``."""
    lengths: bool
    """Whether there are valid steps per sample."""
    scalars: tuple[int, ...]
    """The params that have one value."""
    exact: tuple[int, ...]
    """The params whose reciprocal is exact (powers of two), so that dividing by them is multiplying."""
    record: bool
    """Whether states are recorded (or recordings have a gradient)."""
    wanted: tuple[int, ...] = ()
    """The params whose gradient the backward kernel computes."""
    x_grads: tuple[str, ...] = ()
    """Of each input: ``none``, ``steps`` (a gradient for each step) or ``sum`` (over time)."""
    packed: bool = False
    """Whether the output is bits, a byte for 8 neurons; other values than 0 and 1 set a flag."""
    past: bool = False
    """In C: whether the output and gradients of inputs go past the cache."""


class Writer:
    """What the printers of all languages have in common: the names of values, and how operations get their operands."""

    def __init__(self, program: Program, variant: Variant) -> None:
        self.program, self.variant, self.lengths = program, variant, variant.lengths
        self.layout = Layout(program)
        self.n_x, self.n_s = len(program.xs), len(program.states)
        self.boolean = {node.id for node in program.nodes if OPS[node.op].boolean}
        self.numbers = program.number_ids()
        self.own = {node.id for node in program.needed(program.outputs)}  # nodes of the step itself

    def forward_pointers(self) -> list[str]:
        """Names of the forward kernel's tensors."""
        return list(self.layout.forward)

    def backward_pointers(self) -> list[str]:
        """Names of the backward kernel's tensors."""
        return list(self.layout.backward(self.variant.wanted))

    def gradients(self) -> tuple[tuple[Ref | None, ...], list[tuple[int, Ref]]]:
        """What a backward kernel computes: all of it, and of the wanted params."""
        chosen = [(i, ref) for i, ref in self.program.number_grads if i in self.variant.wanted]
        x_roots = (self.program.grads[k] for k in range(self.n_x) if self.variant.x_grads[k] != "none")
        return (*x_roots, *self.program.grads[self.n_x :], *(ref for _, ref in chosen)), chosen

    def ref(self, ref: Ref) -> str:
        """The name of a value, or a constant."""
        if isinstance(ref, int):
            names = self.program.inputs
            return f"{names[ref].replace('.', '_')}_" if ref < len(names) else f"u{ref}"
        return self.constant(ref.value)

    def operands(self, node: Node) -> list[str]:
        """Operands of a node. A truth value of numbers alone arrives as a number, 0 or 1."""
        names = [self.ref(a) for a in node.args]
        for k in range(OPS[node.op].truths):
            if node.args[k] in self.numbers:
                names[k] = self.truth(names[k])
        return names

    def truth(self, name: str) -> str:
        """Whether a number is not 0."""
        return f"({name} != {self.constant(0.0)})"

    def constant(self, value: float) -> str:
        """A constant of the type that is computed in."""
        raise NotImplementedError

    def by_reciprocal(self, node: Node) -> bool:
        """Whether a division is written as a product with the divisor's reciprocal, which is there once per block.

        The step itself must divide as eager does, bit by bit; its gradient may multiply.
        """
        exact = node.id not in self.own or node.args[-1] in self.variant.exact
        return node.op == "div" and node.args[1] in self.layout.divisors and exact
