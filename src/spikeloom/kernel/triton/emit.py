"""triton/emit: prints a Program as Triton, in which all T steps of a block of neurons run in one pass.

Forward, states are in registers, x is read one step ahead of its use, and the states are stored every SEGMENT steps
when a gradient will be needed. Backward, for each segment from the last to the first, all reads of the segment are
issued together, its states are computed again, then come the transposed steps; the SEGMENT steps are unrolled, because
registers have no index. Nothing else is stored. Slow values are computed twice, because registers are scarcer than
arithmetic here.

N, T, strides and sizes are arguments, so that another layer size is the same kernel. No number is an argument: floats
would arrive in float32. Nothing here knows whose GPU it is.

Arguments: the tensors of :class:`spikeloom.kernel.variant.Layout` (None for null), N, T, neurons per sample, time
strides of xs, in the backward kernel of out's upstream gradient, then size and inner of each param that is an array.
The gradient of a param is left as one double for each run of neurons that share a value of it (a whole block of them if
it is a scalar), or as one value for each neuron.
"""

from __future__ import annotations

import math
import re
import struct

from ..program import OPS, Node, Program, Ref
from ..variant import Variant, Writer

_HEAD = """import triton
import triton.language as tl
from spikeloom.kernel.triton.functions import *"""
_FIXED = ("T", "per")  # integers that Triton makes no other kernel for, because their divisibility helps nothing


def emit_forward(program: Program, variant: Variant, block: int, segment: int) -> str:
    """The source of a module whose ``run`` computes all steps, forward, with ``block`` neurons per program."""
    return _source(_Writer(program, variant, block, segment), backward=False)


def emit_backward(program: Program, variant: Variant, block: int, segment: int) -> str:
    """The source of a module whose ``run`` computes the vector-Jacobian product of all steps."""
    return _source(_Writer(program, variant, block, segment), backward=True)


def _source(writer: _Writer, *, backward: bool) -> str:
    equation = "\n".join(f"    {line}" for line in str(writer.program).split("\n"))
    sizes = {"S": "tl.float64" if writer.double else "tl.float32", "BLOCK": writer.block, "SEGMENT": writer.segment}
    body = "\n".join(writer.backward() if backward else writer.forward())
    for name, value in sizes.items():
        body = re.sub(rf"\b{name}\b", str(value), body)
    return f'"""{writer.variant}\n\nOne step:\n{equation}\n"""\n\n{_HEAD}\n{body}\n'


class _Writer(Writer):
    def __init__(self, program: Program, variant: Variant, block: int, segment: int) -> None:
        super().__init__(program, variant)
        self.block, self.segment = block, segment
        self.double = variant.io == "float64"

    def forward(self) -> list[str]:
        program, S, X = self.program, range(self.n_s), range(self.n_x)
        params = self.layout.forward_params
        lines = self._function("step", params, (), program.outputs)
        lines += self._kernel(self.forward_pointers(), params)
        lines += [f"    v{k} = tl.load(s0_{k} + at, mask=inside, other=0.0)" for k in S]
        lines += [f"    X{k} = tl.load(x{k} + at, mask=inside, other=0.0).to(S)" for k in X]
        lines += ["    row = tl.zeros([], tl.int64)", "    for t in range(T):"]
        lines += ["        ahead = at < tl.where(t + 1 < T, N, 0)"]
        for k in X:
            lines += [f"        Z{k} = tl.load(x{k} + (row + 1) * xstride{k} + at, mask=ahead, other=0.0).to(S)"]
        for k in S:
            lines += [f"        if ck_{k} is not None:", "            if (t % SEGMENT == 0) & (t > 0):"]
            lines += [f"                tl.store(ck_{k} + (row // SEGMENT - 1) * N + at, v{k}, mask=inside)"]
        values = [*(f"X{k}" for k in X), *(f"v{k}" for k in S)]
        if self.lengths:
            lines += ["        on = t < until", *(f"        X{k} = tl.where(on, X{k}, 0.0)" for k in X)]
        new = ", ".join(["y", *(f"w{k}" for k in S)])
        lines += [f"        {new} = {self._call('step', values, params)}"]
        seen = [f"w{k}" for k in S]
        if self.lengths:
            lines += ["        y = tl.where(on, y, 0.0)"]
            seen = [f"tl.where(on, w{k}, 0.0)" for k in S]
        if self.variant.packed:
            lines += ["        tl.store(out + row * (N // 8) + byte, K_bits(y), mask=byte < N // 8)"]
        else:
            lines += ["        tl.store(out + row * N + at, y.to(out.dtype.element_ty), mask=inside)"]
        if self.variant.record:
            for k in S:
                lines += [f"        if rec_{k} is not None:"]
                lines += [f"            tl.store(rec_{k} + row * N + at, {seen[k]}, mask=inside)"]
        lines += [f"        v{k} = " + (f"tl.where(on, w{k}, v{k})" if self.lengths else f"w{k}") for k in S]
        lines += [f"        X{k} = Z{k}" for k in X]
        lines += ["        row += 1"]
        lines += [f"    tl.store(sT_{k} + at, v{k}, mask=inside)" for k in S]
        return lines

    def backward(self) -> list[str]:
        program, S, X = self.program, range(self.n_s), range(self.n_x)
        steps = range(self.segment)
        params, wanted, x_grads = self.layout.backward_params, self.variant.wanted, self.variant.x_grads
        roots, _ = self.gradients()
        upstream = tuple(program.inputs[-1 - self.n_s :])
        lines = []
        if self.n_s:
            lines += self._function("states", self._read(program.outputs[1:]), (), program.outputs[1:])
        lines += self._function("transposed", params, upstream, roots)
        lines += self._kernel(self.backward_pointers(), params, upstream=True)
        for k in S:
            lines += [f"    if gT_{k} is not None:", f"        g{k} = tl.load(gT_{k} + at, mask=inside, other=0.0)"]
            lines += ["    else:", f"        g{k} = zero"]
        lines += [f"    a{i} = tl.zeros([BLOCK], tl.float64)" for i in wanted]
        lines += [f"    sum{k} = zero" for k in X if x_grads[k] == "sum"]
        lines += ["    for back in range((T - 1) // SEGMENT + 1):"]
        lines += ["        segment = (T - 1) // SEGMENT - back", "        start = segment * SEGMENT"]
        lines += ["        row = tl.zeros([], tl.int64) + start"]
        lines += self._segment_reads()
        if self.n_s:
            read = self._read(program.outputs[1:])
            for j in steps[:-1]:  # what steps that are off leave behind is read by none that is on
                values = [*(f"X{k}_{j}" for k in X), *(f"h{k}_{j}" for k in S)]
                new = ", ".join(f"h{k}_{j + 1}" for k in S)
                lines += [f"        {new} = {self._call('states', values, read)}"]
        lines += [f"        b{i} = zero" for i in wanted]
        for j in reversed(steps):
            lines += self._transposed_step(j)
        lines += [f"        a{i} += b{i}.to(tl.float64)" for i in wanted]
        for k in S:
            lines += [f"    if gs0_{k} is not None:", f"        tl.store(gs0_{k} + at, g{k}, mask=inside)"]
        lines += [f"    tl.store(gx{k} + at, sum{k}, mask=inside)" for k in X if x_grads[k] == "sum"]
        return lines + self._sums()

    def _segment_reads(self) -> list[str]:
        """Reads all that a segment needs: its first states, x and the output's gradient of each step."""
        S, X, steps = range(self.n_s), range(self.n_x), range(self.segment)
        lines = []
        for k in S:
            lines += [f"        h{k}_0 = tl.load(s0_{k} + at, mask=at < tl.where(segment > 0, 0, N), other=0.0)"]
            lines += [f"        if ck_{k} is not None:", "            kept = at < tl.where(segment > 0, N, 0)"]
            lines += [f"            c{k} = tl.load(ck_{k} + (row // SEGMENT - 1) * N + at, mask=kept, other=0.0)"]
            lines += [f"            h{k}_0 = tl.where(segment > 0, c{k}, h{k}_0)"]
        lines += [f"        on{j} = start + {j} < until" for j in steps]
        lines += [self._read_row(f"X{k}_{j}", f"x{k}", j, f"xstride{k}") for j in steps for k in X]
        lines += ["        if gout is not None:"]
        lines += ["    " + self._read_row(f"Y_{j}", "gout", j, "gstride") for j in reversed(steps)]
        lines += ["        else:", *(f"            Y_{j} = zero" for j in steps)]
        return lines

    def _transposed_step(self, j: int) -> list[str]:
        """Writes the transposed step j of a segment."""
        S, X, x_grads, wanted = range(self.n_s), range(self.n_x), self.variant.x_grads, self.variant.wanted
        found = [k for k in X if x_grads[k] != "none"]
        lines = []
        if self.variant.record:
            for k in S:
                lines += [f"        if grec_{k} is not None:"]
                lines += ["    " + self._read_row(f"r{k}", f"grec_{k}", j, "N")]
                lines += ["        else:", f"            r{k} = zero"]
        total = [f"g{k} + r{k}" if self.variant.record else f"g{k}" for k in S]
        values = [*(f"X{k}_{j}" for k in X), *(f"h{k}_{j}" for k in S), f"Y_{j}", *total]
        names = [*(f"D{k}" for k in found), *(f"d{k}" for k in S), *(f"p{i}" for i in wanted)]
        if names:
            lines += [f"        {', '.join(names)} = {self._call('transposed', values, self.layout.backward_params)}"]
        for k in found:
            if x_grads[k] == "sum":
                lines += [f"        sum{k} += tl.where(on{j}, D{k}, 0.0)"]
                continue
            value, mask = f"D{k}", f"on{j}"
            if self.lengths:
                value, mask = f"tl.where(on{j}, D{k}, 0.0)", f"at < tl.where(start + {j} < T, N, 0)"
            value = f"({value}).to(gx{k}.dtype.element_ty)"
            lines += [f"        tl.store(gx{k} + (row + {j}) * N + at, {value}, mask={mask})"]
        lines += [f"        g{k} = tl.where(on{j}, d{k}, g{k})" for k in S]
        lines += [f"        b{i} += tl.where(on{j}, p{i}, 0.0)" for i in wanted]
        return lines

    def _sums(self) -> list[str]:
        """Stores the gradients of params."""
        lines = []
        for i, run in zip(self.variant.wanted, self.variant.runs, strict=True):
            if run == self.block:
                lines += [f"    tl.store(gp{i} + tl.program_id(0), tl.sum(a{i}, 0))"]
            elif run > 1:
                count = self.block // run
                lines += [f"    sums{i} = tl.sum(tl.reshape(a{i}, [{count}, {run}]), 1)"]
                lines += [f"    run{i} = tl.program_id(0) * {count} + tl.arange(0, {count})"]
                lines += [f"    tl.store(gp{i} + run{i}, sums{i}, mask=run{i} * {run} < N)"]
            else:
                lines += [f"    tl.store(gp{i} + at, a{i}.to(S), mask=inside)"]
        return lines

    def _read(self, roots: tuple[Ref | None, ...]) -> tuple[int, ...]:
        """The params that the computation of ``roots`` reads."""
        return tuple(i for i in self.program.params(roots) if i in self.layout.backward_params)

    def _read_row(self, name: str, pointer: str, step: int, stride: str) -> str:
        place = f"{pointer} + (row + {step}) * {stride} + at"
        return f"        {name} = tl.load({place}, mask=on{step}, other=0.0).to(S)"

    def _kernel(self, pointers: list[str], params: tuple[int, ...], *, upstream: bool = False) -> list[str]:
        arrays = [i for i in params if i not in self.variant.scalars]
        integers = ["N", "T", "per", *(f"xstride{k}" for k in range(self.n_x)), *(["gstride"] if upstream else [])]
        integers += [f"{name}{i}" for i in arrays for name in ("size", "inner")]
        lines = ["", "", f"@triton.jit(do_not_specialize={list(_FIXED)})"]
        lines += [f"def run({', '.join([*pointers, *integers])}):"]
        lines += ["    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)", "    inside = at < N"]
        if upstream:
            lines += ["    zero = tl.zeros([BLOCK], S)"]
        if self.variant.packed:
            lines += ["    byte = tl.program_id(0) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)"]
        for i in params:
            place = (
                f"P{i}" if i in self.variant.scalars else f"P{i} + (at // inner{i}) % size{i}, mask=inside, other=1.0"
            )
            lines += [f"    {self.ref(i)} = tl.load({place})"]
            if i in self.layout.divisors:
                lines += [f"    i{i} = {self._divided('1.0', self.ref(i))}"]
        if self.lengths:
            lines += ["    until = tl.load(lens + at // per, mask=inside, other=0)"]
        elif upstream:
            lines += ["    until = tl.where(inside, T, 0)"]
        return lines

    def _function(
        self, name: str, params: tuple[int, ...], upstream: tuple[str, ...], roots: tuple[Ref | None, ...]
    ) -> list[str]:
        """A function of one step that returns ``roots``."""
        values = [self.ref(k) for k in range(self.n_x + self.n_s)] + [f"{u}_" for u in upstream]
        lines = ["", "", "@triton.jit", f"def {name}({', '.join(values + self._arguments(params))}):"]
        lines += self._nodes(self.program.needed(roots))
        return [*lines, f"    return {', '.join(self._result(root) for root in roots) or '0'}"]

    def _call(self, name: str, values: list[str], params: tuple[int, ...]) -> str:
        return f"{name}({', '.join(values + self._arguments(params))})"

    def _arguments(self, params: tuple[int, ...]) -> list[str]:
        return [self.ref(i) for i in params] + [f"i{i}" for i in params if i in self.layout.divisors]

    def _result(self, ref: Ref | None) -> str:
        """A value of the step as a block of S: numbers and constants may be narrower."""
        if ref is None:
            return "tl.zeros([BLOCK], S)"
        if isinstance(ref, int) and ref not in self.numbers:
            return f"{self.ref(ref)}.to(S)"
        scalar = not isinstance(ref, int) or ref in self.variant.scalars
        value = f"tl.full([], {self.ref(ref)}, S)" if not isinstance(ref, int) else self.ref(ref)
        return f"tl.broadcast_to({value}, [BLOCK])" if scalar else value

    def _nodes(self, nodes: list[Node]) -> list[str]:
        lines = []
        for node in nodes:
            names = self.operands(node)
            op = OPS[node.op]
            value = (op.triton or op.c).format(*names)
            if self.by_reciprocal(node):
                value = f"({names[0]} * i{node.args[1]})"
            elif node.op == "div" and node.id in self.own:
                value = self._divided(*names)
            elif node.op == "reciprocal" and node.id in self.own:
                value = self._divided("1.0", names[0])
            lines.append(f"    u{node.id} = {value}")
        return lines

    def truth(self, name: str) -> str:
        return f"(tl.broadcast_to({name}, [BLOCK]) != 0.0)"  # a block and a scalar cannot be combined

    def _divided(self, a: str, b: str) -> str:
        """A correctly rounded quotient: ``/`` is approximate in float32."""
        return f"({a} / {b})" if self.double else f"tl.div_rn({a}, {b})"

    def constant(self, value: float) -> str:
        if not math.isfinite(value):
            return f'float("{value}")'
        exact = abs(value) < 1e38 and struct.unpack("f", struct.pack("f", value))[0] == value
        # A literal is a float32, which another operand may widen when it is too late.
        return repr(value) if exact or not self.double else f"tl.full([], {value!r}, tl.float64)"
