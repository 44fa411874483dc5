"""Operations of torch's own test list as the equations of neurons: the PyTorch loop against C kernels.

``op_db`` is torch's list of what it tests itself, with sample arguments. A sample becomes an equation in several forms:
its tensors are the input and the states, numbers, truth values, whole numbers, literals, and so on. Kernels of many
equations are compiled in one file.
"""

import ctypes
import hashlib
import math
import re
import tempfile
import warnings
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

import spikeloom as sl
from spikeloom.kernel import launch
from spikeloom.kernel.c.source import prelude
from spikeloom.kernel.c.target import C
from spikeloom.kernel.compiled import Kernels
from spikeloom.kernel.program import OPS
from spikeloom.kernel.trace import RefusedError, trace
from spikeloom.native import build

T, B, F = 2, 8, 24
NOT_TRIED = (
    "empty",
    "nn.functional.scaled_dot_product_attention",
    "_segment_reduce",
    "lu",
    "svd",
    "linalg",
    "fft",
    "stft",
)
SPECIAL = (
    0.0, -0.0, math.nan, math.inf, -math.inf, 1e-40, -1e-40, 0.5, 1.5, 2.5, -0.5, -1.5, 1.0, -1.0, 3.0, 1e30, -1e30,
    0.25,
)  # fmt: skip


class Equation(sl.Neuron):
    """``y = form(x, v, w)`` with numbers a and b; the states stay as they are."""

    def __init__(self, form, kind):
        super().__init__()
        number = {
            "float": lambda v: v,
            "learnable": lambda v: nn.Parameter(torch.tensor(v)),
            "feature": lambda v: nn.Parameter(torch.full((F,), v)),
        }[kind]
        self.numbers(a=number(0.7), b=number(1.6) if kind != "feature" else 1.6)
        self.states(v=0.0, w=0.0)
        self.__dict__["form"] = form

    def dynamics(self, x, v, w):
        return self.form(self, x, v, w), v, w


def _fill(value, tensors):
    """A sample's argument with its tensors replaced, in order."""
    if isinstance(value, Tensor):
        return next(tensors)(value)
    if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
        return type(value)(_fill(v, tensors) for v in value)
    return value


def _typed(value, sources):
    """What stands for a sample's tensor: by its dtype a number, a truth value or a whole number."""
    if value.dtype == torch.bool:
        return sources["truth"]()
    return sources["real"]() if value.dtype.is_floating_point else sources["whole"]()


def _call(function, sample, replace):
    """The call of a sample, whose k-th tensor is ``replace(k)``."""
    count = iter(range(99))
    tensors = iter(lambda: lambda value: replace(next(count), value), None)
    args = [_fill(a, tensors) for a in (sample.input, *sample.args)]
    kwargs = {k: _fill(v, tensors) for k, v in sample.kwargs.items()}
    return function(*args, **kwargs)


def _truth(t):
    return t > 0.3


def _whole(t):
    return torch.where(t > 0.3, 3, -2)


def forms(op, sample):
    """Name and equation of each form of a sample."""
    function = op.op

    def of(*kinds, last=lambda x, r: r):
        """Tensor k is made by the k-th of ``kinds``, the last of them for all that follow."""

        def form(self, x, v, w):
            real = (x, v, w, x)

            def replace(k, value):
                kind = kinds[min(k, len(kinds) - 1)]
                t = real[min(k, 3)]
                if value.dtype == torch.bool:
                    return _truth(t)
                if not value.dtype.is_floating_point and kind == "real":
                    return _whole(t)
                return {
                    "real": lambda: t,
                    "truth": lambda: _truth(t),
                    "whole": lambda: _whole(t),
                    "float": lambda: _truth(t).float(),
                    "number": lambda: self.a if k == 0 else self.b,
                    "literal": lambda: torch.tensor(0.3),
                    "scalar": lambda: 0.3,
                    "integer": lambda: 3,
                    "true": lambda: True,
                    "zeros": lambda: torch.zeros_like(t),
                }[kind]()

            return last(x, _call(function, sample, replace))

        return form

    def times(x, r):
        return x * r

    found = {
        "real": of("real"),
        "real, used": of("real", last=lambda x, r: 0.5 * x + r * x),
        "twice": of("real", last=lambda x, r: x * (r + r)),
        "not": of("real", last=lambda x, r: x * ~r),
        "minus": of("real", last=lambda x, r: x * -r),
        "compared": of("real", last=lambda x, r: torch.where(r > 0.4, x, 0.5)),
        "numbers": of("number", last=times),
        "numbers, used": of("number", last=lambda x, r: x * (r + 0.3) + r * 2),
        "truth": of("truth", last=times),
        "truth, alone": of("truth"),
        "truth, halved": of("truth", last=lambda x, r: x + r * 0.3),
        "whole": of("whole", last=times),
        "float": of("float", last=times),
    }
    for other in ("truth", "whole", "float", "number", "literal", "scalar", "integer", "true", "zeros"):
        found[f"real, {other}"] = of("real", other)
        found[f"{other}, real"] = of(other, "real")
        found[f"truth, {other}"] = of("truth", other, last=times)
        found[f"whole, {other}"] = of("whole", other, last=times)
        found[f"number, {other}"] = of("number", other, last=times)
    if op.inplace_variant is not None:
        in_place = op.inplace_variant

        def changed(self, x, v, w):
            return _call(in_place, sample, lambda k, value: (x * 1, v, w, x)[min(k, 3)])

        def changed_by_truth(self, x, v, w):
            return _call(in_place, sample, lambda k, value: x * 1 if k == 0 else _truth(v))

        found["in place"], found["in place, truth"] = changed, changed_by_truth
    return found


def samples_of(op, most):
    """Sample arguments that are not the same but for values and shapes of tensors."""
    seen, found = set(), []
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dtype = torch.float32 if torch.float32 in op.supported_dtypes("cpu") else torch.int64
            for sample in list(op.sample_inputs("cpu", dtype, requires_grad=False)):
                plain = repr([_plain(v) for v in (sample.input, *sample.args, *sample.kwargs.items())])
                if plain not in seen and isinstance(sample.input, Tensor):
                    seen.add(plain)
                    found.append(sample)
                if len(found) == most:
                    break
        except Exception:  # some need libraries or devices that are not here
            return found
    return found


def _plain(value):
    if isinstance(value, Tensor):
        return str(value.dtype)
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def inputs(dtype, seed=0):
    """x ``[T, B, F]`` and states ``[B, F]``: each special value against each."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(T, B, F, generator=g, dtype=torch.float64) * 1.5
    states = [torch.randn(B, F, generator=g, dtype=torch.float64) * 1.5 for _ in range(2)]
    special = torch.tensor(SPECIAL, dtype=torch.float64)
    x[:, :, : len(SPECIAL)] = special
    for k, (b, state) in enumerate((b, s) for b in range(B - 2) for s in states):
        state[b] = special[(3 * k) % len(SPECIAL)]
    state = torch.float64 if dtype == torch.float64 else torch.float32
    return x.to(dtype), [s.to(state) for s in states]


@dataclass
class Case:
    name: str
    neuron: Equation
    kernels: Kernels
    loop: dict = field(default_factory=dict)


class Tried:
    """Collects cases, compiles many at a time, compares; ``wrong`` says what differs."""

    def __init__(self, dtypes=(torch.float32, torch.float64), at_once=50):
        self.dtypes, self.at_once = dtypes, at_once
        self.count, self.wrong, self.refusals = Counter(), [], Counter()
        self.waiting, self.computed, self.refused, self.functions = [], set(), set(), {}

    def add(self, op_name, name, form):
        """Tries an equation, with numbers of one kind or another."""
        kind = ("float", "learnable", "feature")[int(hashlib.md5(name.encode()).hexdigest(), 16) % 3]
        self.add_neuron(op_name, name, Equation(form, kind))

    def add_neuron(self, op_name, name, neuron):
        """Runs the loop, and keeps the equation for its kernels; counts what is refused."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            loop = {dtype: attempt(lambda d=dtype: run(neuron, d, None)) for dtype in self.dtypes}
            refuses = all(isinstance(found, str) for found in loop.values())
            try:
                kernels = Kernels(trace(neuron))
            except RefusedError as refused:
                if refuses:
                    self.count["the loop refuses too"] += 1
                    return
                self.count["refused"] += 1
                self.refused.add(op_name)
                self.refusals[str(refused).split(" at ")[0]] += 1
                if " at " not in str(refused) and "returned" not in str(refused):
                    self.wrong.append((name, "refused without a line", str(refused)))
                return
        self.count["computed"] += 1
        self.computed.add(op_name)
        self.waiting.append(Case(name, neuron, kernels, loop))
        if len(self.waiting) >= self.at_once:
            self.compare()

    def compare(self, kernel=None):
        """Compares the cases that wait: by default with kernels in C, compiled in one file for each dtype."""
        for dtype in self.dtypes:
            with nullcontext() if kernel else self._compiled(dtype):
                for case in self.waiting:
                    run_it = kernel or (lambda c, d=dtype: run(c.neuron, d, c.kernels))
                    self._judge(case, dtype, case.loop[dtype], attempt(lambda c=case, f=run_it: f(c)))
        self.waiting = []

    def _compiled(self, dtype):
        """Finds the kernels of the cases that wait; compiles those that no other equation had."""
        wanted = {}
        with found_in(wanted, missing=lambda source: wanted.setdefault(source, lambda pointers, integers: None)):
            for case in self.waiting:
                attempt(lambda c=case: run(c.neuron, dtype, c.kernels))
                case.kernels = Kernels(case.kernels.program)  # which forgets what it loaded
        new = [source for source in wanted if source not in self.functions]
        if new:
            self.functions.update(zip(new, together(new, str(dtype).removeprefix("torch.")), strict=True))
        return found_in(self.functions)

    def _judge(self, case, dtype, loop, kernel):
        if isinstance(loop, str) or isinstance(kernel, str):
            if isinstance(loop, str) != isinstance(kernel, str):
                self.wrong.append((case.name, dtype, f"loop: {short(loop)}; kernel: {short(kernel)}"))
            return
        exact = not any(OPS[n.op].approximate for n in case.kernels.program.nodes)
        for part, a, b in zip(("output", "x", "v", "w", "a", "b"), loop, kernel, strict=True):
            if (a is None) != (b is None) and not (a if b is None else b).count_nonzero():
                continue
            if a is not None and differ(a, b, exact=exact and part == "output"):
                off = ~same(a, b, exact=exact and part == "output")
                at = off.nonzero()[0].tolist()
                self.wrong.append(
                    (case.name, dtype, part, int(off.sum()), at, a[tuple(at)].item(), b[tuple(at)].item())
                )


def state_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def short(found):
    return found[:150] if isinstance(found, str) else "computes"


def attempt(function):
    try:
        return function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def run(neuron, dtype, kernels, target=C):
    """Output and gradients, of the loop or of kernels."""
    x, states = inputs(dtype)
    module = neuron.double() if dtype == torch.float64 else neuron.float()
    leaves = [x.requires_grad_(), *(s.requires_grad_() for s in states)]
    if kernels is None:
        with sl.backend("eager"):
            y, final = module.sequence(x, state=dict(zip("vw", states, strict=True)))
        if any(s.dtype != state_dtype(dtype) for s in final.values()):
            raise ValueError("a state of another dtype")
    else:
        y, _, _ = launch.run(target, kernels, module, sl.kernel.Request.of((x,), tuple(states)))
    numbers = [module.a, module.b]
    learned = [p for p in numbers if isinstance(p, nn.Parameter)]
    grads = [None] * (len(leaves) + len(learned))
    if y.requires_grad:
        upstream = torch.linspace(0.5, 1.5, y.numel(), dtype=torch.float64).view(y.shape).to(y.dtype)
        grads = torch.autograd.grad(y, [*leaves, *learned], upstream, allow_unused=True)
    by_number = dict(zip(map(id, learned), grads[len(leaves) :], strict=True))
    return [y.detach(), *grads[: len(leaves)], *(by_number.get(id(n)) for n in numbers)]


def same(a, b, *, exact):
    """Where two results agree: bit by bit but for the sign of zero, or up to rounding."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return torch.zeros(a.shape, dtype=torch.bool)
    limit = {torch.float64: 1e-11, torch.float32: 2e-5}.get(a.dtype, 0.02)
    a, b = a.double(), b.double()
    if exact:
        return (a == b) | (a.isnan() & b.isnan())
    return torch.isclose(a, b, rtol=limit, atol=limit, equal_nan=True)


def differ(a, b, *, exact):
    return not bool(same(a, b, exact=exact).all())


def together(sources, io):
    """Functions of many sources from one library: each but for what they begin with, which is the same."""
    head, parts = prelude(io), []
    for k, source in enumerate(sources):
        before, functions = source.split(head)
        assert functions.count("void run(") == 1
        names = set(re.findall(r"^(?:void|INLINE|typedef).*?(\w+)(?:\(|;$)", functions, re.MULTILINE))
        parts.append(re.sub(rf"\b({'|'.join(names)})\b", rf"\1_{k}", functions))
    text = before[before.index("*/") + 2 :] + head + "\n".join(parts)
    with tempfile.TemporaryDirectory() as folder:  # optimising would change no result, and takes longer than it saves
        library = ctypes.CDLL(str(build._run_compiler(text, Path(folder), [*build._tools()[1:], "-O0"])))
    return [getattr(library, f"run_{k}") for k in range(len(sources))]


@contextmanager
def found_in(functions, missing=None):
    """Inside, kernels are found by their source instead of being compiled."""

    class Found:
        def __init__(self, source):
            self.run = functions[source] if missing is None else missing(source)

    load, build.load = build.load, Found
    try:
        yield
    finally:
        build.load = load
