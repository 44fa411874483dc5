"""What kernels must be able to do: the axes, a pairwise cover of them, a random sample, the support matrix.

``python tests/kernel/spec.py`` prints docs/support.md.
"""

import itertools
import random
import sys
from pathlib import Path

import torch
from torch import nn

import spikeloom as sl

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


def run(case, backend, seed=0, device="cpu"):
    """Output, final states, recordings; gradients of x, start states and parameters."""
    g = torch.Generator().manual_seed(seed)
    T, shape, dtype = case["T"], case["shape"], case["dtype"]
    neuron = make(case)
    neuron = (neuron.double() if dtype == torch.float64 else neuron).to(device)
    x = case.get("gain", 1.0) * (0.5 + torch.randn(T, *shape, generator=g))
    x = LAYOUTS[case["layout"]]((x * 64).round().div(64).to(device, dtype))  # exact in every dtype
    once = case["static"] and not case["lengths"]
    x = (x[0].clone(memory_format=torch.preserve_format) if once else x).detach().requires_grad_()
    start = None
    if case["start"]:
        rest = neuron.initial_state(x if once else x[0])
        start = {
            k: (v.detach() + 0.1 * torch.randn(v.shape, generator=g).to(v)).requires_grad_() for k, v in rest.items()
        }
    lengths = torch.randint(1, T + 1, shape[:1], generator=g) if case["lengths"] else None
    names = neuron.recordable if case["record"] else ()
    from spikeloom.core import Repeated

    torch.manual_seed(seed)  # of neurons with noise
    with sl.backend(backend):
        y, final, *recorded = neuron.sequence(Repeated(x, T) if once else x, state=start, lengths=lengths, record=names)
    outs = [y, *final.values(), *(recorded[0].values() if recorded else ())]
    weights = [torch.randn(o.shape, generator=g).to(device) for o in outs]
    loss = sum((o.double() * w).sum() for o, w in zip(outs[1:], weights[1:], strict=True))
    double = y.double()
    loss = (
        loss
        + {
            "random": lambda: (double * weights[0]).sum(),
            "mean": lambda: double.mean(0).square().sum(),
            "last": lambda: (double[-1] * weights[0][-1]).sum(),
        }[case["upstream"]]()
    )
    leaves = [x, *(start or {}).values(), *neuron.parameters()]
    if not loss.requires_grad:  # STBIF
        return [o.detach() for o in outs], []
    grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return [o.detach() for o in outs], list(grads)


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


def matrix():
    """The support matrix as Markdown: each cell was run."""
    columns = {
        "float32": {},
        "float64": {"dtype": torch.float64},
        "bfloat16": {"dtype": torch.bfloat16},
        "float16": {"dtype": torch.float16},
        "static input": {"static": True},
        "lengths": {"lengths": True},
        "channels_last": {"layout": "channels_last"},
    }
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for name, kind in rows():
        cells = []
        for options in columns.values():
            torch.manual_seed(0)
            try:
                check({**BASE, "neuron": "LIF", **kind, **options})
                cells.append("kernel")
            except sl.BackendError:
                cells.append("loop")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


HEAD = """# Support

What runs as a kernel on a CPU, forward and backward with all gradients, printed by `python tests/kernel/spec.py`, which
runs each cell and compares it with the PyTorch loop. The same programs are printed for GPUs (see
[kernels](kernels.md)), where every neuron and surrogate of this table is compared in Triton's interpreter. "Two" is a
neuron that the script defines, with two states and an exponential; "LIF no decay" has `decay_input=False`, "Leaky now"
`reset_delay=False`. Options and surrogates are those of a LIF. MPBN runs as a kernel in evaluation and as a loop in
training; the modules of `sl.nn` run the kernels of the neurons inside them.

"""
TAIL = """

Everywhere else the PyTorch loop runs: on devices that Triton does not drive, in `torch.func` transforms and
forward-mode differentiation, under `torch.export`, for tensor subclasses, and for what a kernel cannot hold (see
[kernels](kernels.md)). `torch.compile` sees one operator per neuron layer.
"""

if __name__ == "__main__":
    sys.stdout.write(HEAD + matrix() + TAIL)
