"""emit_c: prints a Program as C. All T steps of a block of neurons run in one pass.

Forward, for each block of neurons: states in local arrays; per step read x, write the output. When a gradient will be
needed, the states are stored every K steps. Backward, per block and segment of K steps from the last to the first:
recompute the segment's states from x, then the transposed steps. Nothing else is stored.

Rows of half precision become float32 rows in L1 and back. Large outputs go past the cache: an ordinary store would
first read what it overwrites. Gradients of numbers are summed per chunk of blocks, so that the number of threads does
not matter.

Arguments of both functions are two arrays: pointers ``p``, laid out by :class:`spikeloom.kernel.variant.Layout`, and
integers ``n``: N, T, neurons per sample, threads, neurons per block, blocks per chunk, whether outputs go past the
cache, time strides of xs and of out's upstream gradient, then (size, inner) of each param. The gradient of a param is
``[chunks, size]`` doubles, zero before.
"""

from __future__ import annotations

import math

from ..program import OPS, Node, Program, Ref
from ..variant import Variant, Writer
from . import source as c_source

BLOCK = 1024
"""Most neurons that are computed together."""

CHUNKS = 64
"""Groups of blocks whose gradients of numbers are summed apart, then in order."""

SEGMENT = 16


def emit_forward(program: Program, variant: Variant) -> str:
    """C source with the function ``run``: all steps, forward."""
    return _source(program, variant, _Writer(program, variant).forward())


def emit_backward(program: Program, variant: Variant) -> str:
    """C source with the function ``run``: the vector-Jacobian product of all steps."""
    return _source(program, variant, _Writer(program, variant).backward())


def _source(program: Program, variant: Variant, function: str) -> str:
    equation = "\n".join(f" * {line}" for line in str(program).split("\n"))
    sizes = f"#define BLOCK {BLOCK}\n#define SEGMENT {SEGMENT}"
    return f"/* {variant}\n *\n * One step:\n{equation}\n */\n{sizes}\n{c_source.prelude(variant.io)}\n{function}\n"


class _Writer(Writer):
    def __init__(self, program: Program, variant: Variant) -> None:
        super().__init__(program, variant)
        self.half = variant.io in c_source.HALF

    def forward(self) -> str:
        params, S = self.layout.forward_params, range(self.n_s)
        at = self._pointers(self.forward_pointers())
        at += [f"  int32_t *flag = p[{len(at)}];"] if self.variant.packed else []
        body = ["void run(void **p, const int64_t *n) {", *at, *self._sizes()]
        body += self._block_start(params)
        body += [f"    S LOCAL v{k}[BLOCK]; memcpy(v{k}, s0_{k} + i0, m * sizeof(S));" for k in S]
        body += ["    for (int64_t t = 0; t < T; t++) {"]
        body += [
            f"      if (ck_{k} && t && t % SEGMENT == 0) "
            f"memcpy(ck_{k} + (t / SEGMENT - 1) * N + i0, v{k}, m * sizeof(S));"
            for k in S
        ]
        body += self._input_rows("      ")
        packed = self.variant.packed
        body += ["      S *Y = Y_;"] if packed else ["      IO *Yrow = out + t * N + i0;", self._row("Y", "Yrow")]
        record = S if self.variant.record else range(0)
        body += [f"      S *R{k} = rec_{k} ? rec_{k} + t * N + i0 : r_none;" for k in record]
        body += ["      #pragma omp simd", "      for (int j = 0; j < m; j++) {"]
        body += self._load_step("v{k}[j]", params)
        body += self._nodes(self.program.needed(self.program.outputs))
        out, *states = (self.ref(r) for r in self.program.outputs)
        if self.lengths:
            body += [f"        Y[j] = on ? (S)({out}) : (S)0;"]
            body += [f"        S w{k} = {s};" for k, s in enumerate(states)]
            body += [f"        R{k}[j] = on ? w{k} : (S)0;" for k in record]
            body += [f"        v{k}[j] = on ? w{k} : v{k}[j];" for k in S]
        else:
            body += [f"        S w{k} = {s};" for k, s in enumerate(states)]
            body += [f"        Y[j] = {out};", *(f"        R{k}[j] = w{k};" for k in record)]
            body += [f"        v{k}[j] = w{k};" for k in S]
        put = (
            "if (put_bits((uint8_t *)out + (t * N + i0) / 8, Y, m)) *flag = 1;"
            if packed
            else "put_row(Yrow, Y, m, past);"
        )
        body += ["      }", f"      {put}", "    }"]
        body += [f"    memcpy(sT_{k} + i0, v{k}, m * sizeof(S));" for k in S]
        body += ["    FENCE;", "  }", "}"]
        return "\n".join(body)

    def backward(self) -> str:
        program, S, X = self.program, range(self.n_s), range(self.n_x)
        params = self.layout.backward_params
        roots, chosen = self.gradients()
        dear = self._dear(roots)
        at = self._pointers(self.backward_pointers())
        body = ["void run(void **p, const int64_t *n) {", *at, *self._sizes(upstream=True)]
        body += self._block_start(params)
        body += [f"    S LOCAL g{k}[BLOCK]; S LOCAL h{k}[SEGMENT][BLOCK];" for k in S]
        body += [f"    S LOCAL dear{i}[SEGMENT][BLOCK];" for i in sorted(dear)]
        body += [
            f"    if (gT_{k}) memcpy(g{k}, gT_{k} + i0, m * sizeof(S)); else memset(g{k}, 0, sizeof g{k});" for k in S
        ]
        body += [f"    double LOCAL a{i}[BLOCK]; memset(a{i}, 0, sizeof a{i});" for i in self.variant.wanted]
        x_grads = self.variant.x_grads
        body += [f"    S LOCAL sum{k}[BLOCK]; memset(sum{k}, 0, sizeof sum{k});" for k in X if x_grads[k] == "sum"]
        wanted = self.variant.wanted
        body += [f"    S LOCAL b{i}[BLOCK];" for i in wanted]
        body += ["    for (int64_t seg = (T - 1) / SEGMENT; seg >= 0; seg--) {"]
        body += ["      int64_t t0 = seg * SEGMENT, t1 = t0 + SEGMENT < T ? t0 + SEGMENT : T;"]
        body += [f"      memcpy(h{k}[0], (seg ? ck_{k} + (seg - 1) * N : s0_{k}) + i0, m * sizeof(S));" for k in S]
        # recompute the states of the segment, and keep what is dear to compute
        body += [f"      for (int64_t t = t0; {'t' if dear else 't + 1'} < t1; t++) {{"]
        body += self._input_rows("        ")
        body += [f"        const S *V{k} = h{k}[t - t0];" for k in S]
        body += [f"        S *W{k} = {'t + 1 == t1 ? r_none : ' if dear else ''}h{k}[t - t0 + 1];" for k in S]
        body += ["        #pragma omp simd", "        for (int j = 0; j < m; j++) {"]
        body += self._load_step("V{k}[j]", params)
        states = program.outputs[1:]
        body += self._nodes(program.needed((*states, *sorted(dear))))
        for k, ref in enumerate(states):
            value = self.ref(ref)
            body += [f"          W{k}[j] = " + (f"on ? {value} : V{k}[j];" if self.lengths else f"{value};")]
        body += [f"          dear{i}[t - t0][j] = u{i};" for i in sorted(dear)]
        body += ["        }", "      }"]
        # the transposed steps; gradients of numbers add up in S within a segment, in double across
        body += [f"      memset(b{i}, 0, sizeof b{i});" for i in wanted]
        body += ["      for (int64_t t = t1 - 1; t >= t0; t--) {"]
        body += self._input_rows("        ")
        body += [f"        const S *V{k} = h{k}[t - t0];" for k in S]
        body += ["        const S *GY = gout ? get_row(GY_, gout + t * gstride + i0, m) : zero;"]
        if self.variant.record:
            body += [f"        const S *GR{k} = grec_{k} ? grec_{k} + t * N + i0 : zero;" for k in S]
        stepwise = [k for k in X if x_grads[k] == "steps"]
        for k in stepwise:
            body += [f"        IO *GXrow{k} = (IO *)gx{k} + t * N + i0;", self._row(f"GX{k}", f"GXrow{k}")]
        body += ["        #pragma omp simd", "        for (int j = 0; j < m; j++) {"]
        body += self._load_step("V{k}[j]", params)
        body += self._upstream()
        body += [f"          const S u{i} = dear{i}[t - t0][j];" for i in sorted(dear)]
        body += self._nodes(program.needed(roots, dear))
        for k in X:
            value = self._grad(program.grads[k])
            body += [f"          GX{k}[j] = {value};"] if x_grads[k] == "steps" else []
            body += [f"          sum{k}[j] += {value};"] if x_grads[k] == "sum" else []
        for k in S:
            value = self._grad(program.grads[self.n_x + k])
            keep = f" + (on ? (S)0 : g{k}[j])" if self.lengths else ""
            body += [f"          S d{k} = {value}{keep};"]
        body += [f"          g{k}[j] = d{k};" for k in S]
        body += [f"          b{i}[j] += {self._grad(ref)};" for i, ref in chosen]
        body += ["        }", *(f"        put_row(GXrow{k}, GX{k}, m, past);" for k in stepwise), "      }"]
        body += [f"      for (int j = 0; j < m; j++) a{i}[j] += b{i}[j];" for i in wanted]
        body += ["    }"]
        body += [f"    if (gs0_{k}) memcpy(gs0_{k} + i0, g{k}, m * sizeof(S));" for k in S]
        body += [f"    memcpy(gx{k} + i0, sum{k}, m * sizeof(S));" for k in X if x_grads[k] == "sum"]
        for i in self.variant.wanted:
            size, inner = (f"shape[{2 * params.index(i) + e}]" for e in (0, 1))
            body += [f"    add_runs(gp{i} + block / group * {size}, a{i}, {size}, {inner}, i0, m);"]
        body += ["    FENCE;", "  }", "}"]
        return "\n".join(body)

    def _dear(self, roots: tuple[Ref | None, ...]) -> frozenset[int]:
        """Values of the step that its gradient needs and that take long: computed once for both."""
        own = [node for node in self.program.needed(roots) if node.id in self.own]
        return frozenset(node.id for node in own if OPS[node.op].slow and not self.by_reciprocal(node))

    def _pointers(self, names: list[str]) -> list[str]:
        rows = {"out", "gout", *(f"x{k}" for k in range(self.n_x))}

        def kind(name: str) -> str:
            fixed = "const int64_t" if name == "lens" else "double" if name[:2] == "gp" else ""
            return fixed or ("IO" if name in rows else "S")

        return [f"  {kind(name)} *{name} = p[{k}];" for k, name in enumerate(names)]

    def _sizes(self, *, upstream: bool = False) -> list[str]:
        names = ["N", "T", "per", "threads", "size", "group", "past", *(f"xstride{k}" for k in range(self.n_x))]
        lines = [f"  const int64_t {name} = n[{k}];" for k, name in enumerate(names)]
        if upstream:
            lines += [f"  const int64_t gstride = n[{len(names)}];"]
        lines += [f"  const int64_t *shape = n + {len(names) + 1}; (void)shape; (void)per; (void)past;"]
        if not self.lengths:
            lines += ["  (void)lens;"]
        return lines

    def _input_rows(self, indent: str) -> list[str]:
        """The rows of x at step t, as S."""
        return [f"{indent}const S *X{k} = get_row(X_{k}, x{k} + t * xstride{k} + i0, m);" for k in range(self.n_x)]

    def _row(self, name: str, target: str) -> str:
        """Where a row is computed: in place, or in L1 where it is converted or goes past the cache."""
        return f"        S *{name} = " + (f"{name}_;" if self.half else f"past ? {name}_ : (S *){target};")

    def _block_start(self, params: tuple[int, ...]) -> list[str]:
        rows = [*(f"X_{k}" for k in range(self.n_x)), "Y_", "GY_", *(f"GX{k}_" for k in range(self.n_x)), "r_none"]
        lines = [
            "  const int64_t blocks = (N + size - 1) / size, chunks = (blocks + group - 1) / group;",
            "  #pragma omp parallel for schedule(static) num_threads((int)threads) if (threads > 1)",
            "  for (int64_t chunk = 0; chunk < chunks; chunk++)",
            "  for (int64_t block = chunk * group; block < blocks && block < (chunk + 1) * group; block++) {",
            "    const int64_t i0 = block * size; const int m = N - i0 < size ? (int)(N - i0) : (int)size;",
            "    S LOCAL zero[BLOCK]; memset(zero, 0, sizeof zero); (void)zero;",
            *(f"    S LOCAL {row}[BLOCK]; (void){row};" for row in rows),
        ]
        for k, i in enumerate(params):
            if i in self.variant.scalars:
                lines += [f"    const S q{i} = P{i}[0];"]
            else:
                shape = f"shape[{2 * k}], shape[{2 * k + 1}]"
                lines += [f"    S LOCAL q{i}[BLOCK]; fill(q{i}, P{i}, {shape}, i0, m);"]
            if i in self.layout.divisors and i in self.variant.scalars:
                lines += [f"    const S inv{i} = (S)1 / q{i}; (void)inv{i};"]
            elif i in self.layout.divisors:
                lines += [f"    S LOCAL inv{i}[BLOCK]; for (int j = 0; j < m; j++) inv{i}[j] = (S)1 / q{i}[j];"]
        if self.lengths:
            lines += ["    int64_t LOCAL until[BLOCK]; for (int j = 0; j < m; j++) until[j] = lens[(i0 + j) / per];"]
        return lines

    def _load_step(self, state: str, params: tuple[int, ...]) -> list[str]:
        lines = ["          const int on = t < until[j];"] if self.lengths else []
        for k in range(self.n_x):
            lines.append(
                f"          const S {self.ref(k)} = " + (f"on ? X{k}[j] : (S)0;" if self.lengths else f"X{k}[j];")
            )
        lines += [f"          const S {self.ref(self.n_x + k)} = {state.format(k=k)};" for k in range(self.n_s)]
        for i in params:
            at = "" if i in self.variant.scalars else "[j]"
            lines.append(f"          const S {self.ref(i)} = q{i}{at};")
            if i in self.layout.divisors:
                lines.append(f"          const S i{i} = inv{i}{at}; (void)i{i};")
        return lines

    def _upstream(self) -> list[str]:
        first = self.n_x + self.n_s + len(self.program.numbers)
        on = "on ? {} : (S)0" if self.lengths else "{}"
        lines = [f"          const S {self.ref(first)} = {on.format('GY[j]')};"]
        for k in range(self.n_s):
            total = f"g{k}[j] + GR{k}[j]" if self.variant.record else f"g{k}[j]"
            lines.append(f"          const S {self.ref(first + 1 + k)} = {on.format(total)};")
        return lines

    def _nodes(self, nodes: list[Node]) -> list[str]:
        lines = []
        for node in nodes:
            kind = "_Bool" if node.id in self.boolean else "S"
            value = OPS[node.op].c.format(*self.operands(node))
            if self.by_reciprocal(node):
                value = f"({self.ref(node.args[0])} * i{node.args[1]})"
            lines.append(f"          const {kind} u{node.id} = {value};")
        return lines

    def constant(self, value: float) -> str:
        if math.isinf(value):
            return f"((S){'-' if value < 0 else ''}INFINITY)"
        return "((S)NAN)" if math.isnan(value) else f"((S){value!r})"

    def _grad(self, ref: Ref | None) -> str:
        value = "(S)0" if ref is None else self.ref(ref)
        return f"(on ? {value} : (S)0)" if self.lengths and ref is not None else value
