"""variant: what a program's kernels are made for and which tensors they take, whatever language they are printed in."""

from __future__ import annotations

from dataclasses import dataclass

from .program import OPS, Node, Program, Ref


@dataclass(frozen=True)
class Layout:
    """Which number values (params) the kernels take, and the gradients that ``backward`` can compute.

    Pointers of the forward kernel: xs, start states, out, final states, recordings, checkpoints, lengths, forward
    params. Of the backward kernel: xs, start states, checkpoints, lengths, backward params, upstream gradients of out,
    of final states and of recordings, then gradients of xs, start states and wanted params. Recordings, checkpoints,
    upstream gradients and gradients of xs and start states may be null.

    A forward kernel in C that writes bits has a last pointer, to an int32 that it sets to 1 where an output is not
    binary.
    """

    forward_params: tuple[int, ...]
    backward_params: tuple[int, ...]
    differentiable: tuple[int, ...]
    divisors: tuple[int, ...]
    """Params that something is divided by."""


def layout(program: Program) -> Layout:
    """The arguments of a program's kernels."""
    forward = program.params(program.outputs)
    backward = program.params((*program.grads, *(ref for _, ref in program.number_grads)))
    learned = {i for i, _ in program.number_grads}  # with what has a gradient, though no step reads it
    both = tuple(sorted({*forward, *backward, *learned}))
    divisors = {n.args[1] for n in program.nodes if n.op == "div"} & set(both)
    return Layout(
        tuple(forward),
        both,
        tuple(sorted(learned)),
        tuple(sorted(i for i in divisors if isinstance(i, int))),
    )


@dataclass(frozen=True)
class Variant:
    """What a kernel is made for. Each variant is compiled when it is first needed."""

    io: str
    """Of inputs and outputs: ``float64``, ``float32``, ``bfloat16`` or ``float16``."""
    lengths: bool
    """Whether there are valid steps per sample."""
    scalars: tuple[int, ...]
    """Params with one value."""
    exact: tuple[int, ...]
    """Params whose reciprocal is exact (powers of two): dividing by them is multiplying."""
    record: bool
    """Whether states are recorded (or recordings have a gradient)."""
    wanted: tuple[int, ...] = ()
    """Params whose gradient ``backward`` computes."""
    x_grads: tuple[str, ...] = ()
    """Of each input: ``none``, ``steps`` (a gradient for each step) or ``sum`` (over time)."""
    packed: bool = False
    """Whether the output is bits, a byte for 8 neurons; other values than 0 and 1 set a flag."""
    runs: tuple[int, ...] = ()
    """Triton: of each wanted param, how many neurons side by side have its gradient summed by the kernel."""


class Writer:
    """What kernels in every language have in common: names of values, and the lines of a step."""

    def __init__(self, program: Program, variant: Variant) -> None:
        self.program, self.variant, self.lengths = program, variant, variant.lengths
        self.layout = layout(program)
        self.n_x, self.n_s = len(program.xs), len(program.states)
        self.boolean = {node.id for node in program.nodes if OPS[node.op].boolean}
        self.numbers = program.number_ids()
        self.own = {node.id for node in program.needed(program.outputs)}  # nodes of the step itself

    def forward_pointers(self) -> list[str]:
        """Names of the forward kernel's tensors."""
        S = range(self.n_s)
        return [
            *(f"x{k}" for k in range(self.n_x)), *(f"s0_{k}" for k in S), "out", *(f"sT_{k}" for k in S),
            *(f"rec_{k}" for k in S), *(f"ck_{k}" for k in S), "lens", *(f"P{i}" for i in self.layout.forward_params),
        ]  # fmt: skip

    def backward_pointers(self) -> list[str]:
        """Names of the backward kernel's tensors."""
        S, X = range(self.n_s), range(self.n_x)
        return [
            *(f"x{k}" for k in X), *(f"s0_{k}" for k in S), *(f"ck_{k}" for k in S), "lens",
            *(f"P{i}" for i in self.layout.backward_params), "gout", *(f"gT_{k}" for k in S),
            *(f"grec_{k}" for k in S), *(f"gx{k}" for k in X), *(f"gs0_{k}" for k in S),
            *(f"gp{i}" for i in self.variant.wanted),
        ]  # fmt: skip

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
