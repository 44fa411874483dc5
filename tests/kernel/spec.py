"""What kernels must be able to do: axes, a pairwise cover, random cases, random neurons.

The harness of all tests of kernels: ``results`` runs a neuron on a backend, ``check`` compares a case with the loop.

``python tests/kernel/support.py`` prints docs/support.md.
"""

import itertools
import random
import sys
from pathlib import Path

import torch
from torch import nn

import spikeloom as sl
from spikeloom.core import Repeated

sys.path.append(str(Path(__file__).parents[1]))  # for those who run this file
import samples

S = sl.surrogate
RESETS = ("hard", "soft", "none")
AXES = {
    "neuron": ("IF", "LIF", "LIF no decay", "PLIF", "Leaky", "Leaky now", "Synaptic", "LI", "Two"),
    "surrogate": ("ATan", "Sigmoid", "FastSigmoid", "PiecewiseQuadratic", "Erf", "StraightThrough"),
    "reset": RESETS,
    "detach": (False, True),
    "number": ("float", "learnable", "channel", "neuron"),
    "dtype": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
    "shape": ((1, 1), (3, 21), (2, 5, 10, 10), (5, 5, 41)),  # 1, 63, 1000 and 1025 neurons
    "T": (1, 4, 17, 100),
    "layout": ("contiguous", "channels_last", "batch outermost", "slice"),
    "static": (False, True),
    "lengths": (False, True),
    "start": (False, True),
    "record": (False, True),
    "upstream": ("random", "mean", "last"),
}


class Two(sl.Neuron):
    """A user's neuron: two states, one exponential."""

    def __init__(self, tau, **options):
        super().__init__(**options)
        self.numbers(tau=tau, rho=0.8, v_threshold=0.4, v_reset=0.0)
        self.states(v=0.1, a=0.0)

    def dynamics(self, x, v, a):
        h = v + (x * torch.exp(-a) - v) / self.tau
        s = self.fire(h - self.v_threshold)
        return s, self.reset_voltage(h, s), a * self.rho + s * (1 - self.rho)


def make(case):
    """The neuron of a case; its main number is of the case's kind."""
    if "make" in case:
        return case["make"]()
    name, C = case["neuron"], case["shape"][1] if len(case["shape"]) > 1 else 1

    def number(low, high):
        g = torch.Generator().manual_seed(7)
        shape = {"channel": (C,), "neuron": case["shape"][1:]}.get(case["number"], ())
        value = low + (high - low) * torch.rand(shape, generator=g)
        return float(value) if case["number"] == "float" else nn.Parameter(value)

    options = {"surrogate": getattr(S, case["surrogate"])()}
    if name == "LI":
        return sl.LI(tau=number(1.5, 3.0))
    options.update(detach_reset=case["detach"], reset=case["reset"])
    threshold = {"v_threshold": 0.4}
    makers = {
        "IF": lambda: sl.IF(v_threshold=number(0.5, 0.9), **options),
        "LIF": lambda: sl.LIF(tau=number(1.5, 3.0), **threshold, **options),
        "LIF no decay": lambda: sl.LIF(tau=number(1.5, 3.0), decay_input=False, **threshold, **options),
        "PLIF": lambda: sl.PLIF(tau=2.3, v_threshold=number(0.3, 0.5), **options),
        "Leaky": lambda: sl.Leaky(beta=number(0.4, 0.9), **threshold, **options),
        "Leaky now": lambda: sl.Leaky(beta=number(0.4, 0.9), reset_delay=False, **threshold, **options),
        "Synaptic": lambda: sl.Synaptic(alpha=number(0.3, 0.6), beta=0.7, **options),
        "Two": lambda: Two(number(1.5, 3.0), **options),
    }
    return makers[name]()


def pairwise(axes, seed=0):
    """Cases in which every pair of values of two axes occurs; greedy, the same each time."""
    r, names = random.Random(seed), list(axes)
    left = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i in range(len(axes[a]))
        for j in range(len(axes[b]))
    }
    cases = []
    while left:
        best, covered = None, set()
        for _ in range(30):
            first = min(left) if not cases else r.choice(sorted(left))
            pick = dict(first)
            for name in r.sample(names, len(names)):
                if name not in pick:
                    gain = [
                        sum(
                            tuple(sorted([(name, k), p], key=lambda q: names.index(q[0]))) in left for p in pick.items()
                        )
                        for k in range(len(axes[name]))
                    ]
                    top = max(gain)
                    pick[name] = r.choice([k for k, g in enumerate(gain) if g == top])
            ordered = [(n, pick[n]) for n in names]
            got = left & set(itertools.combinations(ordered, 2))
            if len(got) > len(covered):
                best, covered = pick, got
        cases.append({n: axes[n][best[n]] for n in names})
        left -= covered
    return cases


def sample(axes, n, seed=0):
    """Random cases of the full product."""
    r = random.Random(seed)
    return [{name: r.choice(values) for name, values in axes.items()} for _ in range(n)]


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: (
        x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
        if x.ndim == 5
        else x.transpose(-1, -2).contiguous().transpose(-1, -2)
    ),
    "batch outermost": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "slice": lambda x: torch.stack([x, x], 1).flatten(0, 1)[::2],
}


def results(neuron, x, backend, *, state=None, lengths=None, record=None, T=None, loss=None):
    """Output, final states, recordings; then the gradients of x, start states and parameters.

    ``record`` are names of states, by default all; with ``T`` x is one step, repeated T times. ``loss`` is a function
    of outputs, by default a sum in which each value has a random weight.
    """
    x = x.detach().requires_grad_()  # not cloned: a slice stays one
    start = None if state is None else {k: v.detach().requires_grad_() for k, v in state.items()}
    names = neuron.recordable if record is None else record
    with sl.backend(backend):
        sequence = x if T is None else Repeated(x, T)
        y, final, *recorded = neuron.sequence(sequence, state=start, lengths=lengths, record=names)
    outs = [y, *final.values(), *(recorded[0].values() if recorded else ())]
    total = (loss or weighted)(outs)
    outs = [o.detach() for o in outs]
    if not total.requires_grad:  # STBIF
        return outs, []
    leaves = [x, *(start or {}).values(), *neuron.parameters()]
    return outs, list(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))


def weighted(outs, generator=None):
    """The sum of all values, each with a random weight."""
    g = generator or torch.Generator().manual_seed(3)
    return sum((o.double() * torch.randn(o.shape, generator=g).to(o.device)).sum() for o in outs)


def assert_gradients(wanted, got, limit, what=""):
    """Each gradient agrees up to ``limit`` of its largest value."""
    for a, b in zip(wanted, got, strict=True):
        assert a.dtype == b.dtype, what
        assert (a - b).abs().max() <= limit * a.abs().max().clamp(min=1e-6), what


def run(case, backend, seed=0, device="cpu"):
    """The results of a case."""
    g = torch.Generator().manual_seed(seed)
    T, shape, dtype = case["T"], case["shape"], case["dtype"]
    neuron = make(case)
    neuron = (neuron.double() if dtype == torch.float64 else neuron).to(device)
    x = case.get("gain", 1.0) * (0.5 + torch.randn(T, *shape, generator=g))
    x = LAYOUTS[case["layout"]]((x * 64).round().div(64).to(device, dtype))  # exact in every dtype
    once = case["static"] and not case["lengths"]
    x = x[0] if once else x
    start = None
    if case["start"]:
        rest = neuron.initial_state(x if once else x[0])
        start = {k: v + 0.1 * torch.randn(v.shape, generator=g).to(v) for k, v in rest.items()}
    lengths = torch.randint(1, T + 1, shape[:1], generator=g) if case["lengths"] else None

    def loss(outs):
        weights = torch.randn(outs[0].shape, generator=g).to(device)
        double = outs[0].double()
        of_output = {
            "random": lambda: (double * weights).sum(),
            "mean": lambda: double.mean(0).square().sum(),
            "last": lambda: (double[-1] * weights[-1]).sum(),
        }[case["upstream"]]()
        return of_output + weighted(outs[1:], g)

    torch.manual_seed(seed)  # of neurons with noise
    names = neuron.recordable if case["record"] else ()
    options = {"state": start, "lengths": lengths, "record": names, "T": T if once else None, "loss": loss}
    return results(neuron, x, backend, **options)


def check(case, backend="c", device="cpu"):
    """Asserts that kernels give what the loop gives; returns the mean output."""
    (outs, grads), (got, got_grads) = run(case, "eager", device=device), run(case, backend, device=device)
    smooth = not case.get("exact", case["neuron"] not in ("Two", "PLIF"))  # an exponential in the step, or in a number
    for a, b in zip(outs, got, strict=True):
        assert a.dtype == b.dtype, case
        if smooth:
            off = (a.double() - b.double()).abs() > 1e-4 * a.double().abs().max().clamp(min=1.0)
            assert off.double().mean() <= 0.01, case  # a spike next to the threshold moves what follows it
        elif (backend, device, a.dtype) == (
            "triton",
            "cpu",
            torch.bfloat16,
        ):  # Triton's interpreter cuts off where it should round
            assert ((a.double() - b.double()).abs() <= 2**-7 * a.double().abs()).all(), case
        else:
            assert torch.equal(a, b), case
    if smooth and not torch.equal(outs[0], got[0]):
        return float(outs[0].double().mean())
    exact = None
    for i, (a, b) in enumerate(zip(grads, got_grads, strict=True)):
        assert a.dtype == b.dtype, case
        limit = {torch.float64: 1e-10, torch.float32: 2e-5}.get(a.dtype, 0.02)
        if a.dtype == torch.float32 and case["dtype"] in (torch.bfloat16, torch.float16):
            limit = 0.02
        if (a.double() - b.double()).abs().max() <= limit * a.double().abs().max().clamp(min=1e-6):
            continue
        # Sums that cancel, and sums over T that the loop rounds to half precision at each step, are the loop's own
        # error: a wider loop decides, and the kernel's distance from it has to be of the size of the loop's.
        wider = torch.float64 if case["dtype"] in (torch.float32, torch.float64) else torch.float32
        exact = exact or run({**case, "dtype": wider}, "eager", device=device)[1]
        loop, kernel = ((g.double() - exact[i].double()).abs().max() for g in (a, b))
        assert kernel <= 4 * loop, (case, i, float(loop), float(kernel))
    return float(outs[0].double().mean())


def formula(program, ref):
    """A value of a program as an expression of names, whatever ids the values between them have."""
    if not isinstance(ref, int):
        return repr(ref.value)
    node = next((n for n in program.nodes if n.id == ref), None)
    return f"{node.op}({', '.join(formula(program, a) for a in node.args)})" if node else program.inputs[ref]


UNARY = ["abs", "relu", "neg", "square", "clamp", "floor_frac", "sqrt", "reciprocal"]
BINARY = ["add", "sub", "mul", "div", "minimum", "maximum", "where"]


def grow(r, depth):
    """A random expression over x, v, a and the numbers tau, rho."""
    if depth == 0 or r.random() < 0.15:
        return r.choice(["x", "v", "a", "tau", "rho", r.choice([0.25, 0.5, 1.5, -0.75])])
    if r.random() < 0.35:
        return (r.choice(UNARY), grow(r, depth - 1))
    return (r.choice(BINARY), grow(r, depth - 1), grow(r, depth - 1))


def evaluate(tree, env):
    if isinstance(tree, str):
        return env[tree]
    if isinstance(tree, float):
        return env["x"] * 0 + tree if env["fill"] else tree
    op, *args = tree
    a, *rest = (evaluate(t, {**env, "fill": True}) for t in args)
    b = rest[0] if rest else None
    return {
        "abs": lambda: a.abs(),
        "relu": lambda: torch.relu(a),
        "neg": lambda: -a,
        "square": lambda: a * a,
        "clamp": lambda: a.clamp(-1.5, 1.25),
        "floor_frac": lambda: a - torch.floor(a),
        "sqrt": lambda: torch.sqrt(a.abs() + 0.5),
        "reciprocal": lambda: 1 / (a.abs() + 1.25),
        "add": lambda: a + b,
        "sub": lambda: a - b,
        "mul": lambda: a * b,
        "div": lambda: a / (b.abs() + 1.0),
        "minimum": lambda: torch.minimum(a, b),
        "maximum": lambda: torch.maximum(a, b),
        "where": lambda: torch.where(a > b, a, b * 0.5),
    }[op]()


def random_neuron(seed):
    r = random.Random(seed)
    drive, slow, tau_kind = grow(r, 4), grow(r, 3), r.choice(["scalar", "channel", "neuron"])
    reset = r.choice(["hard", "soft", "none"])
    shape = {"scalar": (), "channel": (4,), "neuron": (4, 5)}[tau_kind]

    class Fuzzed(sl.Neuron):
        exact = "sqrt" not in repr((drive, slow))  # torch's own square root is not correctly rounded

        def __init__(self):
            super().__init__(reset=reset, detach_reset=r.random() < 0.5, surrogate=sl.surrogate.ATan(2.0))
            g = torch.Generator().manual_seed(seed)
            tau = nn.Parameter(1.5 + torch.rand(shape, generator=g, dtype=torch.float64))
            self.numbers(tau=tau, rho=0.8, v_threshold=0.6, v_reset=0.0)
            self.states(v=0.0, a=0.25)

        def dynamics(self, x, v, a):
            env = {"x": x, "v": v, "a": a, "tau": self.tau, "rho": self.rho, "fill": False}
            h = v + (x + (evaluate(drive, env) + 0 * x).clamp(-2.0, 2.0) - v) / self.tau
            s = self.fire(h - self.v_threshold)
            return s, self.reset_voltage(h, s), (a * self.rho + 0.2 * evaluate(slow, env) + 0 * x).clamp(-3.0, 3.0)

    return Fuzzed()


BASE = {name: values[0] for name, values in AXES.items()} | {"shape": (2, 5, 3, 3), "T": 17, "number": "channel"}


def rows():
    """Every neuron and every surrogate (in a LIF) by name, as what a case must say of it."""
    found = [(n, {"neuron": n}) for n in AXES["neuron"] if " " in n or n == "Two"]
    for name in sorted(name.removeprefix("options.") for name in sl.neurons() if not name.startswith("nn.")):
        if name != "MPBN":
            sample = samples.IN_ONE_STEP[name]
            found.append((name, {"neuron": name, "gain": sample.gain, "exact": sample.exact, "make": sample.make}))
    for name in sl.surrogates():
        make = samples.SURROGATES[name].make
        found.append((name, {"make": lambda make=make: sl.LIF(v_threshold=0.4, surrogate=make())}))
    return found
