"""emit_c: prints a Program as C. All T steps of a block of neurons run in one pass.

Forward, for each block of neurons: states in local arrays; per step read x, write the output. When a gradient will be
needed, the states are stored every K steps. Backward, per block and segment of K steps from the last to the first:
recompute the segment's states from x, then the transposed steps. Nothing else is stored.

Arguments of both functions are two arrays: pointers ``p`` and integers ``n``, laid out by :class:`Layout`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .program import OPS, Node, Program, Ref

BLOCK = 256
SEGMENT = 16

_PRELUDE = r"""
#include <math.h>
#include <stdint.h>
#include <string.h>
#define BLOCK {block}
#define SEGMENT {segment}
typedef {ctype} S;
#define LOCAL __attribute__((aligned(64)))

static inline S K_abs(S x) {{ return {fabs}(x); }}
static inline S K_sqrt(S x) {{ return {sqrt}(x); }}
static inline S K_floor(S x) {{ return {floor}(x); }}
static inline S K_ceil(S x) {{ return {ceil}(x); }}
static inline S K_rint(S x) {{ return {rint}(x); }}
static inline S K_expm1(S x) {{ return {expm1}(x); }}
static inline S K_log(S x) {{ return {log}(x); }}
static inline S K_log1p(S x) {{ return {log1p}(x); }}
static inline S K_tanh(S x) {{ return {tanh}(x); }}
static inline S K_sin(S x) {{ return {sin}(x); }}
static inline S K_cos(S x) {{ return {cos}(x); }}
static inline S K_atan(S x) {{ return {atan}(x); }}
static inline S K_erf(S x) {{ return {erf}(x); }}
static inline S K_erfc(S x) {{ return {erfc}(x); }}
{exp}
/* Values of a number for one block: size values, each for `inner` neighbours, over and over. */
static void fill(S *out, const S *number, int64_t size, int64_t inner, int64_t first, int n) {{
  if (size == 1) {{ for (int j = 0; j < n; j++) out[j] = number[0]; return; }}
  int64_t at = (first / inner) % size, left = inner - first % inner;
  for (int j = 0; j < n;) {{
    int run = left < n - j ? (int)left : n - j;
    S value = number[at];
    for (int k = 0; k < run; k++) out[j + k] = value;
    j += run; left = inner; at = at + 1 == size ? 0 : at + 1;
  }}
}}
"""

# exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2, Taylor polynomial in r; 2^n in two factors, so that
# denormal results are right. Branch-free, so that it vectorises.
_EXP_FLOAT = """
static inline S K_exp(S x) {
  S c = x > 89.0f ? 89.0f : x; c = c < -104.0f ? -104.0f : c;
  S n = rintf(c * 1.44269504088896341f);
  S r = c - n * 0.693145751953125f; r = r - n * 1.428606765330187045e-6f;
  S p = 1.0f/5040; p = p * r + 1.0f/720; p = p * r + 1.0f/120; p = p * r + 1.0f/24;
  p = p * r + 1.0f/6; p = p * r + 0.5f; p = p * r + 1.0f; p = p * r + 1.0f;
  int32_t k = (int32_t)n, h = k >> 1;
  union { int32_t i; float f; } a, b; a.i = (h + 127) << 23; b.i = (k - h + 127) << 23;
  S y = p * a.f * b.f;
  return x != x ? x : y;
}
"""
_EXP_DOUBLE = """
static inline S K_exp(S x) {
  S c = x > 710.0 ? 710.0 : x; c = c < -746.0 ? -746.0 : c;
  S n = rint(c * 1.4426950408889634074);
  S r = c - n * 6.93147180369123816490e-01; r = r - n * 1.90821492927058770002e-10;
  S p = 1.0/6227020800.0; p = p * r + 1.0/479001600.0; p = p * r + 1.0/39916800.0; p = p * r + 1.0/3628800.0;
  p = p * r + 1.0/362880.0; p = p * r + 1.0/40320.0; p = p * r + 1.0/5040.0; p = p * r + 1.0/720.0;
  p = p * r + 1.0/120.0; p = p * r + 1.0/24.0; p = p * r + 1.0/6.0; p = p * r + 0.5; p = p * r + 1.0; p = p * r + 1.0;
  int64_t k = (int64_t)n, h = k >> 1;
  union { int64_t i; double f; } a, b; a.i = (h + 1023) << 52; b.i = (k - h + 1023) << 52;
  S y = p * a.f * b.f;
  return x != x ? x : y;
}
"""
_MATH = "fabs sqrt floor ceil rint expm1 log log1p tanh sin cos atan erf erfc"


@dataclass(frozen=True)
class Layout:
    """Which number values (params) the kernels take, and the gradients that ``backward`` can compute.

    Pointers of the forward kernel: xs, start states, out, final states, recordings, checkpoints, lengths, forward
    params. Of the backward kernel: xs, start states, checkpoints, lengths, backward params, upstream gradients of out,
    of final states and of recordings, then gradients of xs, start states and wanted params. Recordings, checkpoints,
    upstream gradients and gradients of xs and start states may be null.

    Integers: N, T, neurons per sample, threads, time strides of xs and of out's upstream gradient, then (size, inner)
    of each param.
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
    both = tuple(sorted({*forward, *backward}))
    divisors = {n.args[1] for n in program.nodes if n.op == "div"} & set(both)
    return Layout(
        tuple(forward),
        both,
        tuple(sorted(i for i, _ in program.number_grads if i in both)),
        tuple(sorted(i for i in divisors if isinstance(i, int))),
    )


@dataclass(frozen=True)
class Variant:
    """What a kernel is made for. Each variant is compiled when it is first needed."""

    ctype: str
    """``float`` or ``double``: of inputs, states and outputs."""
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


def emit_forward(program: Program, variant: Variant) -> str:
    """C source with the function ``run``: all steps, forward."""
    return _source(program, variant, _Writer(program, variant).forward())


def emit_backward(program: Program, variant: Variant) -> str:
    """C source with the function ``run``: the vector-Jacobian product of all steps."""
    return _source(program, variant, _Writer(program, variant).backward())


def _source(program: Program, variant: Variant, function: str) -> str:
    suffix = "f" if variant.ctype == "float" else ""
    names = {name: name + suffix for name in _MATH.split()}
    exp = _EXP_FLOAT if suffix else _EXP_DOUBLE
    prelude = _PRELUDE.format(block=BLOCK, segment=SEGMENT, ctype=variant.ctype, exp=exp, **names)
    equation = "\n".join(f" * {line}" for line in str(program).split("\n"))
    return f"/* {variant}\n *\n * One step:\n{equation}\n */{prelude}\n{function}\n"


class _Writer:
    def __init__(self, program: Program, variant: Variant) -> None:
        self.program, self.variant, self.lengths = program, variant, variant.lengths
        self.layout = layout(program)
        self.n_x, self.n_s = len(program.xs), len(program.states)
        self.boolean = {node.id for node in program.nodes if OPS[node.op].boolean}
        self.own = {node.id for node in program.needed(program.outputs)}  # nodes of the step itself

    def forward(self) -> str:
        params, S = self.layout.forward_params, range(self.n_s)
        at = self._pointers(
            [*(f"x{k}" for k in range(self.n_x)), *(f"s0_{k}" for k in S), "out", *(f"sT_{k}" for k in S),
             *(f"rec_{k}" for k in S), *(f"ck_{k}" for k in S), "len", *(f"P{i}" for i in params)]
        )  # fmt: skip
        body = ["void run(void **p, const int64_t *n) {", *at, *self._sizes()]
        body += self._block_start(params)
        body += [f"    S LOCAL v{k}[BLOCK]; memcpy(v{k}, s0_{k} + i0, m * sizeof(S));" for k in S]
        body += ["    for (int64_t t = 0; t < T; t++) {"]
        body += [
            f"      if (ck_{k} && t && t % SEGMENT == 0) "
            f"memcpy(ck_{k} + (t / SEGMENT - 1) * N + i0, v{k}, m * sizeof(S));"
            for k in S
        ]
        body += [f"      const S *X{k} = x{k} + t * xstride{k} + i0;" for k in range(self.n_x)]
        body += ["      S *Y = out + t * N + i0;"]
        record = S if self.variant.record else range(0)
        body += [f"      S *R{k} = rec_{k} ? rec_{k} + t * N + i0 : r_none;" for k in record]
        body += ["      #pragma omp simd", "      for (int j = 0; j < m; j++) {"]
        body += self._load_step("v{k}[j]", params)
        body += self._nodes(self.program.needed(self.program.outputs))
        out, *states = (self._ref(r) for r in self.program.outputs)
        if self.lengths:
            body += [f"        Y[j] = on ? (S)({out}) : (S)0;"]
            body += [f"        S w{k} = {s};" for k, s in enumerate(states)]
            body += [f"        R{k}[j] = on ? w{k} : (S)0;" for k in record]
            body += [f"        v{k}[j] = on ? w{k} : v{k}[j];" for k in S]
        else:
            body += [f"        S w{k} = {s};" for k, s in enumerate(states)]
            body += [f"        Y[j] = {out};", *(f"        R{k}[j] = w{k};" for k in record)]
            body += [f"        v{k}[j] = w{k};" for k in S]
        body += ["      }", "    }"]
        body += [f"    memcpy(sT_{k} + i0, v{k}, m * sizeof(S));" for k in S]
        body += ["  }", "}"]
        return "\n".join(body)

    def backward(self) -> str:
        program, S, X = self.program, range(self.n_s), range(self.n_x)
        params = self.layout.backward_params
        at = self._pointers(
            [*(f"x{k}" for k in X), *(f"s0_{k}" for k in S), *(f"ck_{k}" for k in S), "len", *(f"P{i}" for i in params),
             "gout", *(f"gT_{k}" for k in S), *(f"grec_{k}" for k in S),
             *(f"gx{k}" for k in X), *(f"gs0_{k}" for k in S)]
        )  # fmt: skip
        base = len(at)
        at += [f"  double *gp{i} = (double *)p[{base + k}];" for k, i in enumerate(self.variant.wanted)]
        body = ["void run(void **p, const int64_t *n) {", *at, *self._sizes(upstream=True)]
        body += self._block_start(params)
        body += [f"    S LOCAL g{k}[BLOCK]; S LOCAL h{k}[SEGMENT][BLOCK];" for k in S]
        body += [
            f"    if (gT_{k}) memcpy(g{k}, gT_{k} + i0, m * sizeof(S)); else memset(g{k}, 0, sizeof g{k});" for k in S
        ]
        body += [f"    double LOCAL a{i}[BLOCK]; memset(a{i}, 0, sizeof a{i});" for i in self.variant.wanted]
        x_grads = self.variant.x_grads
        body += [f"    S LOCAL sum{k}[BLOCK]; memset(sum{k}, 0, sizeof sum{k});" for k in X if x_grads[k] == "sum"]
        body += ["    for (int64_t seg = (T - 1) / SEGMENT; seg >= 0; seg--) {"]
        body += ["      int64_t t0 = seg * SEGMENT, t1 = t0 + SEGMENT < T ? t0 + SEGMENT : T;"]
        body += [f"      memcpy(h{k}[0], (seg ? ck_{k} + (seg - 1) * N : s0_{k}) + i0, m * sizeof(S));" for k in S]
        # recompute the states of the segment
        body += ["      for (int64_t t = t0; t + 1 < t1; t++) {"]
        body += [f"        const S *X{k} = x{k} + t * xstride{k} + i0;" for k in X]
        body += [f"        const S *V{k} = h{k}[t - t0]; S *W{k} = h{k}[t - t0 + 1];" for k in S]
        body += ["        #pragma omp simd", "        for (int j = 0; j < m; j++) {"]
        body += self._load_step("V{k}[j]", params)
        states = program.outputs[1:]
        body += self._nodes(program.needed(states))
        for k, ref in enumerate(states):
            value = self._ref(ref)
            body += [f"          W{k}[j] = " + (f"on ? {value} : V{k}[j];" if self.lengths else f"{value};")]
        body += ["        }", "      }"]
        # the transposed steps
        body += ["      for (int64_t t = t1 - 1; t >= t0; t--) {"]
        body += [f"        const S *X{k} = x{k} + t * xstride{k} + i0;" for k in X]
        body += [f"        const S *V{k} = h{k}[t - t0];" for k in S]
        body += ["        const S *GY = gout ? gout + t * gstride + i0 : zero;"]
        if self.variant.record:
            body += [f"        const S *GR{k} = grec_{k} ? grec_{k} + t * N + i0 : zero;" for k in S]
        body += [f"        S *GX{k} = gx{k} + t * N + i0;" for k in X if x_grads[k] == "steps"]
        body += ["        #pragma omp simd", "        for (int j = 0; j < m; j++) {"]
        body += self._load_step("V{k}[j]", params)
        body += self._upstream()
        chosen = [(i, ref) for i, ref in program.number_grads if i in self.variant.wanted]
        x_roots = tuple(program.grads[k] for k in X if x_grads[k] != "none")
        body += self._nodes(program.needed((*x_roots, *program.grads[self.n_x :], *(ref for _, ref in chosen))))
        for k in X:
            value = self._grad(program.grads[k])
            body += [f"          GX{k}[j] = {value};"] if x_grads[k] == "steps" else []
            body += [f"          sum{k}[j] += {value};"] if x_grads[k] == "sum" else []
        for k in S:
            value = self._grad(program.grads[self.n_x + k])
            keep = f" + (on ? (S)0 : g{k}[j])" if self.lengths else ""
            body += [f"          S d{k} = {value}{keep};"]
        body += [f"          g{k}[j] = d{k};" for k in S]
        body += [f"          a{i}[j] += (double)({self._grad(ref)});" for i, ref in chosen]
        body += ["        }", "      }", "    }"]
        body += [f"    if (gs0_{k}) memcpy(gs0_{k} + i0, g{k}, m * sizeof(S));" for k in S]
        body += [f"    memcpy(gx{k} + i0, sum{k}, m * sizeof(S));" for k in X if x_grads[k] == "sum"]
        body += [f"    memcpy(gp{i} + i0, a{i}, m * sizeof(double));" for i in self.variant.wanted]
        body += ["  }", "}"]
        return "\n".join(body)

    def _pointers(self, names: list[str]) -> list[str]:
        kind = {"len": "const int64_t"}
        return [f"  {kind.get(name, 'S')} *{name} = p[{k}];" for k, name in enumerate(names)]

    def _sizes(self, *, upstream: bool = False) -> list[str]:
        lines = ["  const int64_t N = n[0], T = n[1], per = n[2]; const int threads = (int)n[3];"]
        lines += [f"  const int64_t xstride{k} = n[{4 + k}];" for k in range(self.n_x)]
        if upstream:
            lines += [f"  const int64_t gstride = n[{4 + self.n_x}];"]
        lines += [f"  const int64_t *shape = n + {5 + self.n_x}; (void)shape; (void)per;"]
        if not self.lengths:
            lines += ["  (void)len;"]
        return lines

    def _block_start(self, params: tuple[int, ...]) -> list[str]:
        lines = [
            "  #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)",
            "  for (int64_t block = 0; block < (N + BLOCK - 1) / BLOCK; block++) {",
            "    const int64_t i0 = block * BLOCK; const int m = N - i0 < BLOCK ? (int)(N - i0) : BLOCK;",
            "    S LOCAL r_none[BLOCK]; (void)r_none; S LOCAL zero[BLOCK]; memset(zero, 0, sizeof zero); (void)zero;",
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
            lines += ["    int64_t LOCAL until[BLOCK]; for (int j = 0; j < m; j++) until[j] = len[(i0 + j) / per];"]
        return lines

    def _load_step(self, state: str, params: tuple[int, ...]) -> list[str]:
        lines = ["          const int on = t < until[j];"] if self.lengths else []
        for k in range(self.n_x):
            lines.append(
                f"          const S {self._ref(k)} = " + (f"on ? X{k}[j] : (S)0;" if self.lengths else f"X{k}[j];")
            )
        lines += [f"          const S {self._ref(self.n_x + k)} = {state.format(k=k)};" for k in range(self.n_s)]
        for i in params:
            at = "" if i in self.variant.scalars else "[j]"
            lines.append(f"          const S {self._ref(i)} = q{i}{at};")
            if i in self.layout.divisors:
                lines.append(f"          const S i{i} = inv{i}{at}; (void)i{i};")
        return lines

    def _upstream(self) -> list[str]:
        first = self.n_x + self.n_s + len(self.program.numbers)
        on = "on ? {} : (S)0" if self.lengths else "{}"
        lines = [f"          const S {self._ref(first)} = {on.format('GY[j]')};"]
        for k in range(self.n_s):
            total = f"g{k}[j] + GR{k}[j]" if self.variant.record else f"g{k}[j]"
            lines.append(f"          const S {self._ref(first + 1 + k)} = {on.format(total)};")
        return lines

    def _nodes(self, nodes: list[Node]) -> list[str]:
        lines = []
        for node in nodes:
            kind = "_Bool" if node.id in self.boolean else "S"
            value = OPS[node.op].c.format(*(self._ref(a) for a in node.args))
            # The step itself must divide as eager does, bit by bit; its gradient may multiply by the reciprocal.
            exact = node.id not in self.own or node.args[-1] in self.variant.exact
            if node.op == "div" and node.args[1] in self.layout.divisors and exact:
                value = f"({self._ref(node.args[0])} * i{node.args[1]})"
            lines.append(f"          const {kind} u{node.id} = {value};")
        return lines

    def _ref(self, ref: Ref) -> str:
        if isinstance(ref, int):
            names = self.program.inputs
            return f"{names[ref].replace('.', '_')}_" if ref < len(names) else f"u{ref}"
        if math.isinf(ref.value):
            return f"((S){'-' if ref.value < 0 else ''}INFINITY)"
        return "((S)NAN)" if math.isnan(ref.value) else f"((S){ref.value!r})"

    def _grad(self, ref: Ref | None) -> str:
        value = "(S)0" if ref is None else self._ref(ref)
        return f"(on ? {value} : (S)0)" if self.lengths and ref is not None else value
