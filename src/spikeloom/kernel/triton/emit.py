"""triton/emit: prints a Program as Triton, in which all T steps of a block of neurons run in one pass.

Forward, states are in registers, the SEGMENT rows of x of a segment are read before its first step, and the states are
stored after each segment when a gradient will be needed. Backward, for each segment from the last to the first, all
reads of the segment are issued together, its states are computed again, then come the transposed steps; the SEGMENT
steps are unrolled, because registers have no index. Nothing else is stored. Slow values are computed twice, because
registers are scarcer than arithmetic here.

Where a block is full and all steps count (:attr:`spikeloom.kernel.triton.form.Form.whole`) nothing has a mask: a
compare and a select for each row bound the backward kernel on an H200. Rows stay in their own dtype until a step uses
them. Pointers advance by a segment.

N, T, strides and sizes are arguments, so that another layer size is the same kernel. No number is an argument: floats
would arrive in float32. What depends on constants alone is computed in the kernel from the float64 numbers themselves,
as torch does: nothing is launched for it and a captured graph sees another value. Nothing here knows whose GPU it is.

Arguments: the tensors of :func:`pointers`, N, T, neurons per sample where there are lengths, time strides of xs, in the
backward kernel of out's upstream gradient, then size and inner of each param that is an array. The gradient of a param
is left as one double for each run of neurons that share a value of it (a whole block of them if it is a scalar), or as
one value for each neuron.
"""

from __future__ import annotations

import math
import re
import struct

from ..program import OPS, Node, Program, Ref
from ..variant import Layout, Variant, Writer
from .form import Form

_HEAD = """import triton
import triton.language as tl
from spikeloom.kernel.triton.functions import *"""
_FIXED = ("T", "per")  # integers that Triton makes no other kernel for, because their divisibility helps nothing


def emit_forward(program: Program, variant: Variant, form: Form) -> str:
    """The source of a module whose ``run`` computes all steps, forward."""
    return _source(_Writer(program, variant, form), backward=False)


def emit_backward(program: Program, variant: Variant, form: Form) -> str:
    """The source of a module whose ``run`` computes the vector-Jacobian product of all steps."""
    return _source(_Writer(program, variant, form), backward=True)


def pointers(layout: Layout, variant: Variant, form: Form, *, backward: bool) -> tuple[str, ...]:
    """The names of the tensors that a kernel takes, in order: those of its layout that it has a use for, then the
    numbers of the params that it computes itself.
    """
    S, g = range(len(layout.start)), layout.gradient
    absent = {layout.params[i] for i in form.inside}
    if not form.kept:
        absent.update(layout.kept)
    if not variant.lengths:
        absent.add("lens")
    if not variant.record:
        absent.update((*layout.recorded, *(g[name] for name in layout.recorded)))
    if not form.ends:
        absent.update((*(g[layout.final[k]] for k in S), *(g[name] for name in layout.start)))
    absent.update(g[name] for name, kind in zip(layout.xs, variant.x_grads, strict=False) if kind == "none")
    order = layout.backward(variant.wanted) if backward else layout.forward
    params = layout.backward_params if backward else layout.forward_params
    inside = [i for i in form.inside if i in params]
    return (*(name for name in order if name not in absent), *(layout.numbers[j] for j in layout.numbers_of(inside)))


def arrays(layout: Layout, variant: Variant, *, backward: bool) -> list[int]:
    """The params of a kernel that have more than one value."""
    params = layout.backward_params if backward else layout.forward_params
    return [i for i in params if i not in variant.scalars]


def _source(writer: _Writer, *, backward: bool) -> str:
    equation = "\n".join(f"    {line}" for line in str(writer.program).split("\n"))
    form = writer.form
    sizes = {"S": "tl.float64" if writer.double else "tl.float32", "BLOCK": form.block, "SEGMENT": form.segment}
    body = "\n".join(writer.backward() if backward else writer.forward())
    for name, value in sizes.items():
        body = re.sub(rf"\b{name}\b", str(value), body)
    return f'"""{writer.variant}\n{form}\n\nOne step:\n{equation}\n"""\n\n{_HEAD}\n{body}\n'


class _Writer(Writer):
    def __init__(self, program: Program, variant: Variant, form: Form) -> None:
        super().__init__(program, variant)
        self.form = form
        self.double = variant.io == "float64"
        self.flagged = set() if self.double else {i for i in form.inside if i in self.layout.divisors}
        """Divisors of which the kernel finds out whether they are powers of two."""

    def forward(self) -> list[str]:
        program, S, X = self.program, range(self.n_s), range(self.n_x)
        lines = self._function("step", self.layout.forward_params, (), program.outputs)
        lines += self._kernel(backward=False)
        lines += [f"    v{k} = {self._start(k)}" for k in S]
        lines += [f"    px{k} = x{k} + at" for k in X]
        if self.variant.packed:
            lines += ["    py = out + byte", "    wide = n // 8"]
        else:
            lines += ["    py = out + at", "    wide = n"]
        if self.form.kept:
            lines += [f"    pc{k} = ck_{k} + at" for k in S]
        if self.variant.record:
            lines += ["    row = tl.zeros([], tl.int64)"]
        lines += ["    for segment in range(T // SEGMENT):"]
        lines += self._forward_steps(self.form.segment, "segment * SEGMENT")
        if self.form.kept:
            lines += ["        if (segment + 1) * SEGMENT < T:"]
            for k in S:
                lines += [f"            {self._store(f'pc{k}', f'v{k}')}", f"            pc{k} += n"]
        lines += ["    for t in range(T // SEGMENT * SEGMENT, T):"]
        lines += self._forward_steps(1, "t")
        lines += [f"    {self._store(f'sT_{k} + at', f'v{k}')}" for k in S]
        return lines

    def _forward_steps(self, steps: int, start: str) -> list[str]:
        """Some steps, of which all rows of x are read before the first."""
        S, X, params = range(self.n_s), range(self.n_x), self.layout.forward_params
        lines = [f"        Z{k}_{j} = {self._load(f'px{k}' + _times(j, f'm{k}'))}" for j in range(steps) for k in X]
        for j in range(steps):
            lines += [f"        X{k} = Z{k}_{j}.to(S)" for k in X]
            if self.lengths:
                lines += [
                    f"        on = {start} + {j} < until",
                    *(f"        X{k} = tl.where(on, X{k}, 0.0)" for k in X),
                ]
            values = [*(f"X{k}" for k in X), *(f"v{k}" for k in S)]
            lines += [f"        {', '.join(['y', *(f'w{k}' for k in S)])} = {self._call('step', values, params)}"]
            seen = [f"tl.where(on, w{k}, 0.0)" if self.lengths else f"w{k}" for k in S]
            if self.lengths:
                lines += ["        y = tl.where(on, y, 0.0)"]
            place = "py" + _times(j, "wide")
            if self.variant.packed:
                written = f"tl.store({place}, K_bits(y)" + (")" if self.form.whole else ", mask=byte < N // 8)")
            else:
                written = self._store(place, "y.to(out.dtype.element_ty)")
            lines += [f"        {written}"]
            if self.variant.record:
                for k in S:
                    lines += [f"        if rec_{k} is not None:"]
                    lines += [f"            {self._store(f'rec_{k} + row * n + at', seen[k])}"]
                lines += ["        row += 1"]
            lines += [f"        v{k} = " + (f"tl.where(on, w{k}, v{k})" if self.lengths else f"w{k}") for k in S]
        lines += [f"        px{k} += {_product(steps, f'm{k}')}" for k in X]
        return [*lines, f"        py += {_product(steps, 'wide')}"]

    def backward(self) -> list[str]:
        program, S, X = self.program, range(self.n_s), range(self.n_x)
        steps, form = range(self.form.segment), self.form
        wanted, x_grads = self.variant.wanted, self.variant.x_grads
        roots, _ = self.gradients()
        upstream = tuple(program.inputs[-1 - self.n_s :])
        lines = []
        if self.n_s:
            lines += self._function("states", self._read(program.outputs[1:]), (), program.outputs[1:])
        lines += self._function("transposed", self.layout.backward_params, upstream, roots)
        lines += self._kernel(backward=True)
        for k in S:
            if form.ends:
                lines += [f"    if gT_{k} is not None:", f"        g{k} = {self._load(f'gT_{k} + at')}", "    else:"]
            lines += [f"{'        ' if form.ends else '    '}g{k} = zero"]
        lines += [f"    a{i} = tl.zeros([BLOCK], tl.float64)" for i in wanted]
        lines += [f"    sum{k} = zero" for k in X if x_grads[k] == "sum"]
        lines += ["    last = (T - 1) // SEGMENT", "    row = tl.zeros([], tl.int64) + last * SEGMENT"]
        lines += [f"    px{k} = x{k} + row * m{k} + at" for k in X]
        lines += ["    if gout is not None:", "        py = gout + row * my + at"]
        lines += [f"    pg{k} = gx{k} + row * n + at" for k in X if x_grads[k] == "steps"]
        if form.kept:
            lines += ["    before = row // SEGMENT - 1"]
            lines += [f"    pc{k} = ck_{k} + before * n + at" for k in S]
        lines += ["    for back in range(last + 1):", "        start = (last - back) * SEGMENT"]
        lines += self._segment_reads()
        if self.n_s:
            read = self._read(program.outputs[1:])
            for j in steps[:-1]:  # what steps that are off leave behind is read by none that is on
                values = [*(f"X{k}_{j}.to(S)" for k in X), *(f"h{k}_{j}" for k in S)]
                new = ", ".join(f"h{k}_{j + 1}" for k in S)
                lines += [f"        {new} = {self._call('states', values, read)}"]
        lines += [f"        b{i} = zero" for i in wanted]
        for j in reversed(steps):
            lines += self._transposed_step(j)
        lines += [f"        a{i} += b{i}.to(tl.float64)" for i in wanted]
        lines += self._step_back()
        if form.ends:
            for k in S:
                lines += [f"    if gs0_{k} is not None:", f"        {self._store(f'gs0_{k} + at', f'g{k}')}"]
        lines += [f"    {self._store(f'gx{k} + at', f'sum{k}')}" for k in X if x_grads[k] == "sum"]
        return lines + self._sums()

    def _segment_reads(self) -> list[str]:
        """Reads all that a segment needs: its first states, x and the output's gradient of each step."""
        S, X, steps = range(self.n_s), range(self.n_x), range(self.form.segment)
        lines = []
        for k in S:
            if self.form.kept:
                lines += ["        if start > 0:", f"            h{k}_0 = {self._load(f'pc{k}')}"]
                lines += ["        else:", f"            h{k}_0 = {self._start(k)}"]
            else:
                lines += [f"        h{k}_0 = {self._start(k)}"]
        if not self.form.whole:
            lines += [f"        on{j} = start + {j} < until" for j in steps]
        lines += [self._read_row(f"X{k}_{j}", f"px{k}", j, f"m{k}") for j in steps for k in X]
        lines += ["        if gout is not None:"]
        lines += ["    " + self._read_row(f"Y_{j}", "py", j, "my") for j in reversed(steps)]
        lines += ["        else:", *(f"            Y_{j} = zero" for j in steps)]
        return lines

    def _step_back(self) -> list[str]:
        """Moves all pointers to the segment before."""
        X = range(self.n_x)
        lines = [f"        px{k} -= SEGMENT * m{k}" for k in X]
        lines += ["        if gout is not None:", "            py -= SEGMENT * my"]
        lines += [f"        pg{k} -= SEGMENT * n" for k in X if self.variant.x_grads[k] == "steps"]
        lines += [f"        pc{k} -= n" for k in range(self.n_s) if self.form.kept]
        return [*lines, "        row -= SEGMENT"] if self.variant.record else lines

    def _transposed_step(self, j: int) -> list[str]:
        """Writes the transposed step j of a segment."""
        S, X, x_grads, wanted = range(self.n_s), range(self.n_x), self.variant.x_grads, self.variant.wanted
        found, whole = [k for k in X if x_grads[k] != "none"], self.form.whole
        lines = []
        if self.variant.record:
            for k in S:
                lines += [f"        if grec_{k} is not None:"]
                lines += ["    " + self._read_row(f"r{k}", f"grec_{k} + row * n + at", j, "n")]
                lines += ["        else:", f"            r{k} = zero"]
        total = [f"g{k} + r{k}.to(S)" if self.variant.record else f"g{k}" for k in S]
        values = [*(f"X{k}_{j}.to(S)" for k in X), *(f"h{k}_{j}" for k in S), f"Y_{j}.to(S)", *total]
        names = [*(f"D{k}" for k in found), *(f"d{k}" for k in S), *(f"p{i}" for i in wanted)]
        if names:
            lines += [f"        {', '.join(names)} = {self._call('transposed', values, self.layout.backward_params)}"]
        for k in found:
            if x_grads[k] == "sum":
                lines += [f"        sum{k} += {self._where(j, f'D{k}', '0.0')}"]
                continue
            value = f"({self._where(j, f'D{k}', '0.0') if self.lengths else f'D{k}'}).to(gx{k}.dtype.element_ty)"
            mask = f", mask=at < tl.where(start + {j} < T, N, 0)" if self.lengths else f", mask=on{j}"
            lines += [f"        tl.store(pg{k}{_times(j, 'n')}, {value}{'' if whole else mask})"]
        lines += [f"        g{k} = {self._where(j, f'd{k}', f'g{k}')}" for k in S]
        lines += [f"        b{i} += {self._where(j, f'p{i}', '0.0')}" for i in wanted]
        return lines

    def _sums(self) -> list[str]:
        """Stores the gradients of params."""
        lines = []
        for i, run in zip(self.variant.wanted, self.form.runs, strict=True):
            if run == self.form.block:
                lines += [f"    tl.store(gp{i} + tl.program_id(0), tl.sum(a{i}, 0))"]
            elif not run:
                width = self.form.columns
                lines += [f"    sums{i} = tl.sum(tl.reshape(a{i}, [{self.form.block // width}, {width}]), 0)"]
                place = f"gp{i} + tl.program_id(0) // across * size{i} + column + tl.arange(0, {width})"
                lines += [f"    tl.store({place}, sums{i})"]
            elif run > 1:
                count = self.form.block // run
                lines += [f"    sums{i} = tl.sum(tl.reshape(a{i}, [{count}, {run}]), 1)"]
                lines += [f"    run{i} = tl.program_id(0) * {count} + tl.arange(0, {count})"]
                lines += [f"    tl.store(gp{i} + run{i}, sums{i}, mask=run{i} * {run} < N)"]
            else:
                lines += [f"    {self._store(f'gp{i} + at', f'a{i}.to(S)')}"]
        return lines

    def _load(self, place: str) -> str:
        """Reads what lies at ``at``."""
        return f"tl.load({place})" if self.form.whole else f"tl.load({place}, mask=inside, other=0.0)"

    def _store(self, place: str, value: str) -> str:
        return f"tl.store({place}, {value})" if self.form.whole else f"tl.store({place}, {value}, mask=inside)"

    def _where(self, j: int, value: str, other: str) -> str:
        """``value`` where step j of a segment counts."""
        return value if self.form.whole else f"tl.where(on{j}, {value}, {other})"

    def _start(self, k: int) -> str:
        """State k at the start."""
        if self.form.rest[k]:
            return f"tl.broadcast_to(tl.load(s0_{k}).to(S), [BLOCK])"
        return self._load(f"s0_{k} + at")

    def _read(self, roots: tuple[Ref | None, ...]) -> tuple[int, ...]:
        """The params that the computation of ``roots`` reads."""
        return tuple(i for i in self.program.params(roots) if i in self.layout.backward_params)

    def _read_row(self, name: str, pointer: str, step: int, stride: str) -> str:
        mask = "" if self.form.whole else f", mask=on{step}, other=0.0"
        return f"        {name} = tl.load({pointer}{_times(step, stride)}{mask})"

    def _kernel(self, *, backward: bool) -> list[str]:
        layout, variant, form = self.layout, self.variant, self.form
        params = layout.backward_params if backward else layout.forward_params
        strides = [*(f"xstride{k}" for k in range(self.n_x)), *(["gstride"] if backward else [])]
        integers = ["N", "T", *(["per"] if self.lengths else []), *strides]
        integers += [f"{n}{i}" for i in arrays(layout, variant, backward=backward) for n in ("size", "inner")]
        fixed = [name for name in _FIXED if name in integers]
        names = pointers(layout, variant, form, backward=backward)
        lines = ["", "", f"@triton.jit(do_not_specialize={fixed})"]
        lines += [f"def run({', '.join([*names, *integers])}):"]
        lines += self._place()
        lines += ["    n = tl.zeros([], tl.int64) + N"]  # what it multiplies has 64 bits
        lines += [f"    m{k} = tl.zeros([], tl.int64) + xstride{k}" for k in range(self.n_x)]
        if not form.whole:
            lines += ["    inside = at < N"]
        if backward:
            lines += ["    my = tl.zeros([], tl.int64) + gstride", "    zero = tl.zeros([BLOCK], S)"]
        if variant.packed:
            lines += ["    byte = tl.program_id(0) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)"]
        lines += self._numbers_inside([i for i in params if i in form.inside])
        for i in params:
            if i not in form.inside:
                where = "" if form.whole else ", mask=inside, other=1.0"
                place = f"P{i}" if i in variant.scalars else f"P{i} + (at // inner{i}) % size{i}{where}"
                lines += [f"    {self.ref(i)} = tl.load({place})"]
            if i in layout.divisors:
                lines += [f"    i{i} = {self._divided('1.0', self.ref(i))}"]
            if i in self.flagged:
                lines += [f"    e{i} = K_power_of_two({self.ref(i)})"]
        if self.lengths:
            lines += ["    until = tl.load(lens + at // per, mask=inside, other=0)"]
        elif backward and not form.whole:
            lines += ["    until = tl.where(inside, T, 0)"]
        return lines

    def _place(self) -> list[str]:
        """Which neurons a program takes. Beyond the last row they are beyond the last neuron too."""
        block, width = self.form.block, self.form.columns
        if not width:
            return ["    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)"]
        size = next(f"size{i}" for i, run in zip(self.variant.wanted, self.form.runs, strict=True) if not run)
        lines = [f"    across = {size} // {width}", f"    column = tl.program_id(0) % across * {width}"]
        lines += [f"    rows = tl.program_id(0) // across * {block // width} + tl.arange(0, BLOCK) // {width}"]
        # across * width is the size, as a multiple that the compiler knows: it reads as wide as that allows
        return [*lines, f"    at = rows * (across * {width}) + column + tl.arange(0, BLOCK) % {width}"]

    def _numbers_inside(self, params: list[int]) -> list[str]:
        """Computes params from the numbers themselves, in float64 as torch does."""
        layout, lines = self.layout, []
        for j in layout.numbers_of(params):
            lines += [f"    q{j} = tl.load({layout.numbers[j]})"]
        wanted = set(params)
        nodes = []
        for node in reversed(self.program.nodes):
            if node.id in wanted:
                nodes.append(node)
                wanted.update(a for a in node.args if isinstance(a, int))
        for node in reversed(nodes):
            op = OPS[node.op]
            names = [f"q{a}" if isinstance(a, int) else _double(a.value) for a in node.args]
            for k in range(op.truths):
                a = node.args[k]
                if not (isinstance(a, int) and a in self.boolean):
                    names[k] = f"({names[k]} != 0.0)"
            text = re.sub(r"\bS\b", "tl.float64", (op.triton or op.c).format(*names))
            lines += [f"    q{node.id} = {text}"]
        return lines + [f"    {self.ref(i)} = q{i}.to(S)" for i in params]

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
        found = [self.ref(i) for i in params] + [f"i{i}" for i in params if i in self.layout.divisors]
        return found + [f"e{i}" for i in params if i in self.flagged]

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
                if node.args[1] in self.flagged:  # all programs go the same way
                    lines += [f"    if e{node.args[1]}:", f"        u{node.id} = {names[0]} * i{node.args[1]}"]
                    lines += ["    else:", f"        u{node.id} = {value}"]
                    continue
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
        return _double(value) if self.double else _single(value)


def _times(step: int, stride: str) -> str:
    """What is added to a pointer for a step, if anything."""
    return f" + {_product(step, stride)}" if step else ""


def _product(steps: int, stride: str) -> str:
    return stride if steps == 1 else f"{steps} * {stride}"


def _single(value: float) -> str:
    if repr(value) == "-0.0":  # which is a 0.0 as a constant, before Triton 3.9
        return "(tl.full((), 0.0, tl.float32) * -1.0)"
    return repr(value) if math.isfinite(value) else f'float("{value}")'


def _double(value: float) -> str:
    """A literal is a float32, which another operand may widen when it is too late."""
    exact = math.isfinite(value) and abs(value) < 1e38 and struct.unpack("f", struct.pack("f", value))[0] == value
    return _single(value) if exact or not math.isfinite(value) else f"tl.full([], {value!r}, tl.float64)"
