"""c/emit: prints a Program as C, in which all T steps of a block of neurons run in one pass.

A step and its transpose become inline functions of one neuron; :mod:`spikeloom.kernel.c.loops` holds the loops in which
they are called. When a gradient will be needed, the states are stored every SEGMENT steps. Backward, for each segment
from the last to the first, its states are computed again from x, then come the transposed steps. Nothing else is
stored. Gradients of numbers are summed per group of blocks, so that the number of threads does not matter.

The arguments of both kernels are two arrays: pointers ``p``, laid out by :class:`spikeloom.kernel.variant.Layout`, and
integers ``n``: N, T, neurons per sample, threads, neurons per block, blocks per group, time strides of xs and of out's
upstream gradient, the strides of the states at the start (0: they are one value), then (size, inner) of each param. The
gradient of a param is ``[groups, size]`` doubles, zero before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..program import OPS, Node, Program, Ref
from ..variant import Variant, Writer
from . import kept as keep
from . import loops
from . import source as c_source

BLOCK = 2048
"""The most neurons that go through a segment together: so many that what is read of a row is some pages of memory."""

GROUPS = 64
"""The most groups of blocks. Gradients of numbers are summed in each group, then over groups in order."""

VECTORS = 4
"""The vectors of neurons in a chunk. Fewer of them wait for each other's results; eight no longer fit into registers.

Four were fastest for every neuron tried, from IF to AdEx, with AVX-512 and with AVX2: against them two take 1.0 to 1.7
times as long, one takes 1.3 to 2.8 times, and eight take 0.95 to 1.1 times for a LIF and 1.4 for two states."""

SEGMENT = 16
"""Steps between stored states. More of them take more local memory, fewer store more."""


def emit_forward(program: Program, variant: Variant) -> str:
    """C source whose function ``run`` computes all steps, forward."""
    return _source(program, variant, _Writer(program, variant).forward())


def emit_backward(program: Program, variant: Variant) -> str:
    """C source whose function ``run`` computes the vector-Jacobian product of all steps."""
    return _source(program, variant, _Writer(program, variant).backward())


def _source(program: Program, variant: Variant, function: str) -> str:
    equation = "\n".join(f" * {line}" for line in str(program).split("\n"))
    sizes = {"BLOCK": BLOCK, "SEGMENT": SEGMENT, "VECTORS": VECTORS, "PAST": int(variant.past)}
    defined = "\n".join(f"#define {name} {value}" for name, value in sizes.items())
    prelude = c_source.prelude(variant.io, variant.packed)
    return f"/* {variant}\n *\n * One step:\n{equation}\n */\n{defined}\n{prelude}\n{function}\n"


class _Writer(Writer):
    def forward(self) -> str:
        params, pointers = self.layout.forward_params, self.forward_pointers()
        output, *states = self.program.outputs
        results = {"y": output, **{f"s{k}": ref for k, ref in enumerate(states)}}
        step, call = self._function("step", results, self._values("v", params))
        put = "put_row(ROW(ys, t), Y);"
        if self.variant.packed:
            flag = f"*(int32_t *)p[{len(pointers)}]"
            put = f"if (put_bits(ROW(ys, t), Y, ~(uint64_t)0 >> (64 - c))) {flag} = 1;"
        return step + self._loop(loops.FORWARD, pointers, params, {"STEP": call, "PUT": put})

    def backward(self) -> str:
        program, params = self.program, self.layout.backward_params
        roots, chosen = self.gradients()
        there = keep.kept(program, roots, self.by_reciprocal)
        again = [k for k in range(self.n_x) if k in there]
        held = [k for k in range(self.n_s) if self.n_x + k in there]
        kept = sorted(i for i in there if i >= self.n_x + self.n_s)
        found = {f"s{k}": ref for k, ref in enumerate(program.outputs[1:])} | {f"u{i}": i for i in kept}
        states, states_call = self._function("states", found, self._values("v", params))
        grads = {f"x{k}": program.grads[k] for k in range(self.n_x) if self.variant.x_grads[k] != "none"}
        grads |= {f"s{k}": program.grads[self.n_x + k] for k in range(self.n_s)}
        grads |= {f"p{i}": ref for i, ref in chosen}
        values = self._values("V", params)
        for i in set(range(self.n_x + self.n_s)) - there:
            del values[self.ref(i)]
        values |= self._upstream() | {f"u{i}": f"K{i}[j]" for i in kept}
        transposed, transposed_call = self._function("transposed", grads, values, frozenset(kept))
        holes = {
            "STATES": states_call,
            "TRANSPOSED": transposed_call,
            "LAST": "steps" if kept else "steps - 1" if held else "0",
            "HELD": "" if kept else " ".join(f"move(h{k}[steps - 1], v{k});" for k in held),
            "CARRIED": "(on ? d.s$s : (S)0) + (on ? (S)0 : g$s[j])" if self.lengths else "d.s$s",
        }
        each = {"again": again, "held": held, "kept": kept}
        return states + transposed + self._loop(loops.BACKWARD, self.backward_pointers(), params, holes, each)

    def _loop(
        self,
        loop: str,
        pointers: list[str],
        params: tuple[int, ...],
        holes: dict[str, str],
        more: Mapping[str, Sequence[int]] | None = None,
    ) -> str:
        """A loop that calls this program's functions, with the tensors and integers that the kernel takes."""
        arguments = [f"{self._type(name)} *{name} = p[{k}];" for k, name in enumerate(pointers)]
        strides = [*(f"xstride{k}" for k in range(self.n_x)), "gstride", *(f"start{k}" for k in range(self.n_s))]
        arguments += [f"const int64_t {name} = n[{k}];" for k, name in enumerate(strides, 6)]
        arguments += [f"const int64_t *shape{i} = n + {6 + len(strides) + 2 * k};" for k, i in enumerate(params)]
        lengths = (
            "Whole LOCAL length[BLOCK]; "
            "for (int j = 0; j < whole; j++) length[j] = j < m ? (Whole)lens[(i0 + j) / per] : 0;"
        )
        holes |= {
            "ARGUMENTS": "\n  ".join(arguments),
            "LENGTHS": lengths if self.lengths else "",
            "UNTIL": "const Whole *until = length + o, from = (Whole)t0;" if self.lengths else "",
            "ON": "from + t < until[j]" if self.lengths else "1",
        }
        x_grads, divisors, scalars = self.variant.x_grads, self.layout.divisors, self.variant.scalars
        each = {
            "x": range(self.n_x),
            "stepwise": [k for k, kind in enumerate(x_grads) if kind == "steps"],
            "summed": [k for k, kind in enumerate(x_grads) if kind == "sum"],
            "s": range(self.n_s),
            "recorded": range(self.n_s if self.variant.record else 0),
            "scalar": [i for i in params if i in scalars],
            "array": [i for i in params if i not in scalars],
            "divisor": [i for i in params if i in divisors and i in scalars],
            "divisors": [i for i in params if i in divisors and i not in scalars],
            "wanted": self.variant.wanted,
            **(more or {}),
        }
        return loops.filled(loop, holes, each)

    def _type(self, pointer: str) -> str:
        if pointer == "lens":
            return "const int64_t"
        if pointer == "out":
            return "char"
        if pointer.startswith("gp"):
            return "double"
        rows = {"gout", *(f"x{k}" for k in range(self.n_x))}
        rows |= {f"gx{k}" for k, kind in enumerate(self.variant.x_grads) if kind == "steps"}
        return "IO" if pointer in rows else "S"

    def _values(self, states: str, params: tuple[int, ...]) -> dict[str, str]:
        """The values that a step reads: by their names in the step, their expressions in the loop for neuron j."""
        found = {self.ref(k): f"on ? X{k}[j] : (S)0" for k in range(self.n_x)}
        found |= {self.ref(self.n_x + k): f"{states}{k}[j]" for k in range(self.n_s)}
        for i in params:
            at = "" if i in self.variant.scalars else "[j]"
            found[self.ref(i)] = f"q{i}{at}"
            if i in self.layout.divisors:
                found[f"i{i}"] = f"inverse{i}{at}"
        return found

    def _upstream(self) -> dict[str, str]:
        """The same for the gradients that a transposed step reads."""
        first = self.n_x + self.n_s + len(self.program.numbers)
        total = "g{0}[j] + GR{0}[j]" if self.variant.record else "g{0}[j]"
        values = ["GY[j]", *(total.format(k) for k in range(self.n_s))]
        return {self.ref(first + k): f"on ? {value} : (S)0" for k, value in enumerate(values)}

    def _function(
        self, name: str, found: Mapping[str, Ref | None], values: dict[str, str], given: frozenset[int] = frozenset()
    ) -> tuple[str, str]:
        """A function of one neuron's ``values`` that returns a struct of what is ``found``, and its call in the loop.

        ``given`` are the nodes that are among the values.
        """
        kind, roots = name.capitalize(), tuple(found.values())
        results = ", ".join("(S)0" if root is None else self.ref(root) for root in roots)
        lines = [
            f"typedef struct {{ {' '.join(f'S {field};' for field in found)} }} {kind};",
            f"INLINE {kind} {name}({', '.join(f'const S {value}' for value in values)}) {{",
            *self._nodes(self.program.needed(roots, given)),
            f"  return ({kind}){{{results}}};",
            "}\n\n",
        ]
        return "\n".join(lines), f"{name}({', '.join(values.values())})"

    def _nodes(self, nodes: list[Node]) -> list[str]:
        lines = []
        for node in nodes:
            kind = "_Bool" if node.id in self.boolean else "S"
            value = OPS[node.op].c.format(*self.operands(node))
            if self.by_reciprocal(node):
                value = f"({self.ref(node.args[0])} * i{node.args[1]})"
            lines.append(f"  const {kind} u{node.id} = {value};")
        return lines

    def constant(self, value: float) -> str:
        if math.isinf(value):
            return f"((S){'-' if value < 0 else ''}INFINITY)"
        return "((S)NAN)" if math.isnan(value) else f"((S){value!r})"
