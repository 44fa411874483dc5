"""Kernels in Triton against the PyTorch loop, in Triton's interpreter; on a GPU test_gpu.py does the same."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import spikeloom as sl
from kernel import operations, spec
from kernel.test_trace import COMPUTED
from spikeloom.kernel import compiled, targets
from spikeloom.kernel.norm import Geometry, Norm
from spikeloom.kernel.triton.target import TRITON, TritonTarget
from spikeloom.native.build import BuildError

try:
    TRITON.ready(torch.device("cpu"))
except BuildError as missing:
    pytest.skip(f"Triton's interpreter does not run here: {missing}", allow_module_level=True)

from spikeloom.kernel.triton import functions as triton_functions
from spikeloom.kernel.triton import target as triton_target

# The interpreter computes with NumPy, which warns of infinities where they are meant.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
ROWS = spec.rows()
RANDOM = [name for name, sample in spec.samples.SURROGATES.items() if sample.random]


@pytest.mark.parametrize("part", range(8))
def test_every_neuron_and_every_surrogate(part):
    ran = 0
    for name, kind in ROWS[part::8]:
        if name in RANDOM:
            continue
        torch.manual_seed(0)
        rate = spec.check({**spec.BASE, "neuron": "LIF", "T": 9, **kind}, "triton")
        assert rate > 0, name
        ran += 1
    assert ran >= 7


AXES = {**spec.AXES, "T": (1, 8, 17), "shape": ((1, 1), (3, 21), (2, 5, 4, 3), (2, 130))}
AXES["surrogate"] = AXES["surrogate"][:3]
CASES = spec.pairwise(AXES)


@pytest.mark.parametrize("part", range(4))
def test_pairwise_cover(part):
    rates = [spec.check(case, "triton") for case in CASES[part::4]]
    assert len(rates) >= 4
    assert any(0.05 < r < 0.95 for r in rates)


FUNCTIONS = {  # range, bound in units of the last place of the result
    "exp": ((-104.0, 90.0), 2),
    "log": ((1e-42, 1e5), 2),
    "expm1": ((-20.0, 20.0), 4),
    "log1p": ((-0.99999, 100.0), 4),
    "tanh": ((-12.0, 12.0), 4),
    "sigmoid": ((-80.0, 80.0), 4),
    "atan": ((-30.0, 30.0), 4),
    "erfc": ((-5.0, 9.0), 12),
    "sqrt": ((0.0, 100.0), 0.5),
    "rint": ((-9.0, 9.0), 0),
}


def applied(name, x):
    import triton

    from spikeloom.kernel.program import OPS
    from spikeloom.kernel.triton.target import load

    op = OPS["round" if name == "rint" else name]
    expression = (op.triton or op.c).format("value")
    code = f"""
import triton, triton.language as tl
from spikeloom.kernel.triton.functions import *

@triton.jit
def run(x, y, n):
    at = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    value = tl.load(x + at, mask=at < n, other=0.0)
    tl.store(y + at, {expression}, mask=at < n)
"""

    y = torch.empty_like(x)
    load(code)[(triton.cdiv(x.numel(), 1024),)](x, y, x.numel())
    return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_right_to_a_few_units_in_the_last_place(name, dtype):
    """Against torch in float64; float64 itself to 1e-13, which is what gradients are compared to."""
    (low, high), ulps = FUNCTIONS[name]
    x = torch.linspace(low, high, 4000, dtype=torch.float64).to(dtype)
    x = torch.cat([x, (torch.logspace(-30, 0, 500, dtype=torch.float64) * min(1.0, high)).to(dtype)])
    x = x[(x >= low) & (x <= high)]
    exact = torch.round(x.double()) if name == "rint" else getattr(torch, name)(x.double())
    with torch.no_grad():
        error = (applied(name, x).double() - exact).abs()
    if dtype == torch.float64:
        assert (error <= 1e-13 * exact.abs().clamp(min=1e-300)).all()
        return
    tiny = torch.finfo(torch.float32).tiny
    spacing = torch.finfo(torch.float32).eps * 2.0 ** torch.floor(torch.log2(exact.abs().clamp(min=tiny)))
    kept = exact.abs() < torch.finfo(torch.float32).max
    assert float((error / spacing)[kept].max()) <= ulps


EDGES = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-40, -1e-40, 3e38, 0.5, 1.5, 2.5, -0.5, 8388609.0])


@pytest.mark.parametrize("name", [*FUNCTIONS, "abs", "floor", "ceil", "erf"])
def test_functions_of_zero_infinity_and_nan(name):
    """As torch's, the sign of zero included."""
    expected = torch.round(EDGES) if name == "rint" else getattr(torch, name)(EDGES)
    got = applied(name, EDGES)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=0, equal_nan=True)
    zero = expected == 0
    assert torch.equal(torch.signbit(got[zero]), torch.signbit(expected[zero]))


def test_nan_and_infinity_as_in_eager():
    x = torch.randn(9, 4, 6)
    x[2, 0, 0], x[3, 1, 1], x[4, 2, 2] = torch.nan, torch.inf, -torch.inf
    for make in (lambda: sl.LIF(v_threshold=0.3), lambda: sl.Leaky(beta=0.7, reset="hard"), sl.LI):
        outs = []
        for backend in ("eager", "triton"):
            with sl.backend(backend):
                y, state = make().sequence(x)
            outs.append([y, *state.values()])
        for a, b in zip(*outs, strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=0, equal_nan=True)


@pytest.fixture
def as_on_a_device(monkeypatch):
    """Numbers that cannot be read without waiting, as on a device: kernels compute what depends on them."""
    monkeypatch.setattr(compiled, "_constant_key", lambda numbers: None)
    monkeypatch.setattr(sys.modules["spikeloom.kernel.backend"], "is_plain_float", lambda number: False)


def forms(monkeypatch):
    """Collects the forms of the kernels that are made."""
    seen, made = [], triton_target._Made.__call__
    monkeypatch.setattr(triton_target._Made, "__call__", lambda self, *args: seen.append(self) or made(self, *args))
    return seen


@pytest.mark.parametrize("part", range(4))
def test_every_neuron_without_masks_and_with_numbers_of_a_device(part, monkeypatch, as_on_a_device):
    """Blocks that N is a multiple of; T is a multiple of the segment, or what is left over forward has a loop."""
    seen = forms(monkeypatch)
    monkeypatch.setattr(targets, "TRITON", TritonTarget(block=16, per_thread=2, segment=3))
    monkeypatch.setattr(compiled, "_kernels", {})
    for k, (name, kind) in enumerate(ROWS[part::4]):
        if name in RANDOM:
            continue
        torch.manual_seed(0)
        case = {**spec.BASE, "neuron": "LIF", "shape": (4, 8), "T": 9 if k % 2 else 8, **kind, "record": not k % 3}
        assert spec.check(case, "triton") > 0, name
    assert any(made.form.whole and made.backward for made in seen)
    assert any(made.form.whole and not made.backward for made in seen)
    assert sum(bool(made.form.inside) for made in seen) > 0.8 * len(seen)


WHOLE = {**AXES, "T": (3, 7, 9), "shape": ((4, 8), (2, 16, 2, 2)), "lengths": (False, True)}
WHOLE_CASES = spec.pairwise(WHOLE, seed=3)


@pytest.mark.parametrize("part", range(3))
def test_pairwise_cover_without_masks(part, monkeypatch, as_on_a_device):
    monkeypatch.setattr(targets, "TRITON", TritonTarget(block=16, per_thread=2, segment=3))
    monkeypatch.setattr(compiled, "_kernels", {})
    rates = [spec.check(case, "triton") for case in WHOLE_CASES[part::3]]
    assert len(rates) >= 4
    assert any(0.05 < r < 0.95 for r in rates)


def test_bits_without_masks(monkeypatch, as_on_a_device):
    monkeypatch.setattr(targets, "TRITON", TritonTarget(block=16, per_thread=2, segment=3))
    monkeypatch.setattr(compiled, "_kernels", {})
    x = torch.randn(7, 4, 8) + 0.3
    net = sl.Network(sl.LIF(v_threshold=0.3), spikes="packed")
    with sl.backend("eager"):
        wanted = net(x).to_dense()
    with sl.backend("triton"):
        assert torch.equal(net(x).to_dense(), wanted)
    assert 0.05 < wanted.mean() < 0.95


def test_a_number_of_a_device_that_changes_is_read_in_the_next_call(monkeypatch, as_on_a_device):
    """Also where nobody could notice, and whether or not it is a power of two."""
    monkeypatch.setattr(compiled, "_kernels", {})
    x, lif = torch.randn(9, 2, 5) + 0.4, sl.LIF(tau=2.0, v_threshold=0.3)
    seen = set()
    for tau, rest in ((2.0, 0.0), (2.3, 0.1), (4.0, -0.2)):
        lif.tau.data.fill_(tau)
        lif.v_reset.data.fill_(rest)
        spikes = []
        for backend in ("eager", "triton"):
            with sl.backend(backend):
                spikes.append(lif.sequence(x)[0])
        assert torch.equal(*spikes)
        seen.add(float(spikes[0].sum()))
    assert len(seen) == 3


@pytest.mark.parametrize("tau", [2.0, 3.0, 1.1, 1e3, 4096.0])
def test_division_by_a_number_of_a_device_is_exact(tau, monkeypatch, as_on_a_device):
    monkeypatch.setattr(compiled, "_kernels", {})
    x, out = torch.randn(4, 3, 50) * 3, []
    for backend in ("eager", "triton"):
        with sl.backend(backend):
            out.append(sl.LI(tau=tau).sequence(x)[0])
    assert torch.equal(*out)


def test_nothing_is_made_for_constants_after_the_first_call(monkeypatch, as_on_a_device):
    """No tensor of Python data, no fill, no copy: only what the kernel writes is allocated."""
    monkeypatch.setattr(compiled, "_kernels", {})
    launches = []
    monkeypatch.setattr(triton_target, "launcher", lambda *args, **options: launches.append)
    lif, x = sl.LIF(tau=3.0, v_threshold=0.3), torch.randn(9, 2, 8, requires_grad=True)

    def step():
        y = lif.sequence(x)[0]
        return torch.autograd.grad(y, x, y.detach())

    with sl.backend("triton"):
        step()
        with torch.autograd.profiler.profile() as profile:
            step()
    ran = {event.name for event in profile.function_events if event.name.startswith("aten::")}
    views = {"detach", "as_strided", "select", "expand", "empty_like", "empty", "empty_strided", "unbind", "view"}
    assert {name.removeprefix("aten::") for name in ran} <= views
    assert len(launches) == 4


@pytest.mark.parametrize("target", [TritonTarget(block=64, segment=4), TritonTarget(block=128, segment=16)])
def test_block_and_segment_change_nothing(target, monkeypatch):
    case = {**spec.BASE, "neuron": "Synaptic", "number": "learnable", "shape": (3, 5, 9), "T": 19, "record": True}
    wanted = spec.run(case, "triton")
    monkeypatch.setattr(targets, "TRITON", target)
    got = spec.run(case, "triton")
    assert all(torch.equal(a, b) for a, b in zip(wanted[0], got[0], strict=True))
    for a, b in zip(wanted[1], got[1], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "slice", "batch outermost"])
def test_batch_norm_joins(layout, dtype):
    torch.manual_seed(0)
    x = spec.LAYOUTS[layout]((torch.randn(6, 3, 5, 4, 3) * 2 + 0.7).to(dtype))
    results = []
    for backend in ("eager", "triton"):
        torch.manual_seed(1)
        module = sl.nn.NormNeuron(nn.BatchNorm2d(5), sl.LIF(v_threshold=0.4, tau=nn.Parameter(torch.tensor(2.3))))
        nn.init.uniform_(module.bn.weight, 0.5, 1.5)
        module = module.double() if dtype == torch.float64 else module
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        with sl.backend(backend), sl.kernel.watching() as seen:
            y, state = module.sequence(leaf)
        weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape)
        ((y.double() * weights).sum() + state["v"].double().sum()).backward()
        results.append([y.detach(), leaf.grad, *(p.grad for p in module.parameters()), *module.bn.buffers()])
    assert seen[0][1:] == ("triton", "fused with BatchNorm2d")
    eager, triton = results
    if dtype == torch.bfloat16:  # the loop rounds the normalised values to 8 bits
        assert (eager[0] != triton[0]).double().mean() < 0.02
        return
    assert torch.equal(eager[0], triton[0])
    limit = 1e-10 if dtype == torch.float64 else 2e-5
    for a, b in zip(eager[1:], triton[1:], strict=True):
        assert (a.double() - b.double()).abs().max() <= limit * a.double().abs().max().clamp(min=1e-6)


def test_statistics_of_one_value_per_channel_and_of_many_rows():
    """[T, B, C] with C beyond one tile of columns."""
    x = torch.randn(40, 9, 150) + 3
    mean, var, n, *_ = TRITON.moments(Norm.of(nn.BatchNorm1d(150)), Geometry.of(x, (0, 1)), x, (0, 1))
    exact = x.double().flatten(0, 1)
    assert n == 360
    torch.testing.assert_close(mean, exact.mean(0), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(var, exact.var(0, correction=0), rtol=1e-6, atol=1e-6)


def test_spikes_as_bits():
    torch.manual_seed(0)
    x = torch.randn(5, 4, 10) + 0.3
    outs = []
    for backend in ("eager", "triton"):
        net = sl.Network(sl.LIF(v_threshold=0.3), nn.Flatten(), spikes="packed")
        with sl.backend(backend):
            outs.append(net(x))
    assert all(isinstance(o, sl.SpikeTensor) for o in outs)
    assert torch.equal(outs[0].to_dense(), outs[1].to_dense())
    assert 0.05 < float(outs[1].to_dense().mean()) < 0.95
    program = sl.kernel.compiled.kernels_of(sl.LIF()).program
    assert TRITON.packs(program)
    assert not TRITON.packs(sl.kernel.compiled.kernels_of(sl.LI()).program)


def test_source_reads_as_the_equation():
    with sl.backend("triton"):
        text = sl.kernel.source(sl.LIF(tau=nn.Parameter(torch.tensor(3.0))), torch.rand(5, 2, 3))
        double = sl.kernel.source(sl.LIF(v_threshold=0.1), torch.rand(5, 2, 3).double())
    assert "= (x_ - " in text
    assert re.search(r"= tl\.div_rn\(\w+, tau_\)", text)  # the division of the equation stays one
    assert "tl.float64" in double
    assert "cuda" not in text


@pytest.mark.parametrize(
    ("size", "run"), [((3, 4), 1), ((4, 8), 16), pytest.param((16, 32), 256, marks=pytest.mark.slow)]
)
def test_learnable_numbers_of_every_kind_of_shape(size, run):
    assert TRITON.run((6, size[0] * size[1]), 256) == run
    for shape in ((), (6,), (6, *size), (1, *size)):
        grads = []
        for backend in ("eager", "triton"):
            torch.manual_seed(0)
            tau = nn.Parameter(1.5 + torch.rand(shape))
            x = torch.randn(9, 3, 6, *size) + 0.4
            with sl.backend(backend):
                (sl.LIF(tau=tau, v_threshold=0.3).sequence(x)[0].cumsum(0) * 0.1).square().sum().backward()
            grads.append(tau.grad)
        assert (grads[0] - grads[1]).abs().max() <= 1e-5 * grads[0].abs().max()
        assert grads[0].abs().max() > 0


@pytest.mark.parametrize("columns", [(8, 8), (48, 16), (12, 0)], ids=str)
@pytest.mark.parametrize(("whole", "lengths"), [(True, False), (False, False), (False, True)])
def test_gradients_that_are_summed_over_rows(columns, whole, lengths, monkeypatch):
    """Numbers per channel in channels last and per feature, beside a learnable scalar; rows that fill no block."""
    seen = forms(monkeypatch)
    (C, width), grads = columns, {}
    monkeypatch.setattr(compiled, "_kernels", {})
    for step in ((8, C), (2, C, 2, 4)) if whole else ((5, C), (3, C, 1, 3)):
        x = torch.randn(6, *step, generator=torch.Generator().manual_seed(0)) + 0.4
        if len(step) == 4:
            x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
        for backend in ("eager", "triton"):
            monkeypatch.setattr(targets, "TRITON", TritonTarget(block=64, per_thread=2, segment=3))
            tau = nn.Parameter(torch.linspace(1.5, 2.5, C))
            threshold = nn.Parameter(torch.tensor(0.3))
            valid = torch.arange(step[0]) % 4 + 3 if lengths else None
            with sl.backend(backend):
                y, _ = sl.LIF(tau=tau, v_threshold=threshold).sequence(x, lengths=valid)
            (y.cumsum(0) * 0.1).square().sum().backward()
            grads[backend] = tau.grad, threshold.grad
        for a, b in zip(*grads.values(), strict=True):
            assert (a - b).abs().max() <= 1e-5 * a.abs().max()
            assert a.abs().max() > 0
    backward = [made.form for made in seen if made.backward]
    assert {form.columns for form in backward} == {width}
    assert not width or {form.whole for form in backward} == {whole}


@pytest.mark.parametrize("seed", range(4))
def test_random_neurons(seed):
    """Four of those in test_fuzz.py; all of them would take the interpreter too long."""
    torch.manual_seed(seed)
    x = torch.randn(11, 2, 4, 5, dtype=torch.float64) + 0.5
    (outs, grads), (got, others) = (
        spec.results(spec.random_neuron(seed).double(), x, backend) for backend in ("eager", "triton")
    )
    assert torch.equal(outs[0], got[0])
    for a, b in zip(outs, got, strict=True):
        torch.testing.assert_close(b, a, atol=1e-12, rtol=1e-12)
    spec.assert_gradients(grads, others, 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_truth_values_and_whole_numbers(dtype):
    """Equations of test_trace.py, with zeros of both signs, infinities and NaN."""
    tried = operations.Tried((dtype,), at_once=999)
    for k, name in enumerate(("or", "truth of a number and of x", "a number's truth, negated", "a count of truths",
                              "negative whole numbers", "truth by choice", "truth compared", "a choice of numbers",
                              "in place", "like", "negative zero", "a bound reached", "softplus")):  # fmt: skip
        if k % 2 == (dtype == torch.float64) or name in ("truth of a number and of x", "softplus"):
            tried.add(name, name, lambda self, x, v, w, body=COMPUTED[name]: body(self, x, v)[0])
    tried.compare(lambda case: operations.run(case.neuron, dtype, case.kernels, TRITON))
    assert not tried.wrong
    assert tried.count["computed"] >= 6


def test_torch_compile_sees_one_operator_per_layer():
    torch.manual_seed(0)
    net = sl.Network(nn.Linear(5, 8), sl.LIF(v_threshold=0.3), sl.PLIF(v_threshold=0.1))
    x, seen = torch.randn(20, 3, 5), []

    def count(graph, inputs):
        seen.append(str(graph.code).count("spikeloom.scan"))
        return graph

    results = []
    with sl.backend("triton"):
        for run in (torch.compile(net, fullgraph=True, backend=count), net):
            y = run(x)
            results.append([y.detach(), *torch.autograd.grad(y.sum(), list(net.parameters()))])
    assert seen == [2]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def child(code, **environment):
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)


def test_a_cpu_without_the_interpreter_says_what_to_do():
    code = "import torch, spikeloom as sl; sl.IF().sequence(torch.ones(2, 1))"
    done = child(code, TRITON_INTERPRET="0", SPIKELOOM_BACKEND="triton")
    assert done.returncode == 1
    assert "IF cannot run on backend 'triton': Triton runs on GPUs; its interpreter runs on a CPU" in done.stderr
    assert "TRITON_INTERPRET=1" in done.stderr


COMPILED = """
import json, torch, spikeloom as sl
from benchmarks.gpu_code import NEURONS, compile_for, compile_norm, compile_spikes
from spikeloom.kernel.triton.target import TRITON
rows = {}
for device in ("sm_90", "gfx942"):
    for name in ("LIF, tau learnable per channel", "two states, an exponential"):
        found = compile_for(NEURONS[name](), 32, (16, 64, 8, 8), torch.float16, device, TRITON)
        rows.update({f"{device} {name} {kernel}": row for kernel, row in found.items()})
neuron = NEURONS["LIF, tau learnable per channel"]().double()
for kernel, row in compile_for(neuron, 32, (16, 64, 8, 8), torch.float64, "sm_80", TRITON, everything=True).items():
    rows[f"everything {kernel}"] = row
rows["packed"] = compile_for(sl.LIF(), 4, (16, 64), torch.bfloat16, "sm_90", TRITON, packed=True)["forward"]
per_feature = NEURONS["LIF, tau learnable per channel"]()
rows["sm_90 rows"] = compile_for(per_feature, 4, (4096, 64), torch.float16, "sm_90", TRITON)["backward"]
rows.update(compile_norm("sm_90"))
for device in ("sm_80", "gfx942"):
    rows.update({f"{device} {name}": row for name, row in compile_spikes(device).items()})
print(json.dumps(rows))
"""


def test_kernels_compile_for_gpus_that_are_not_here(tmp_path):
    """No multiplication is fused with an addition, nothing is spilled to memory, threads read two values at a time."""
    options = {"PYTHONPATH": str(Path(__file__).parents[2]), "TRITON_CACHE_DIR": str(tmp_path)}
    done = child(COMPILED, TRITON_INTERPRET="0", **options)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == 8 + 2 + 2 + 10 + 24
    for name, row in rows.items():
        assert row["fused"] == 0, name
        assert row["spilled"] == 0, name
        assert 0 < row["registers"] <= (128 if "LIF" in name else 255), name
        assert row["read"] >= 2 or "sm_90" not in name, name


def test_what_triton_cannot_compile_names_the_way_out(monkeypatch):
    class Fails:
        def __getitem__(self, grid):
            return self

        def __call__(self, *args, **options):
            raise ValueError("no such instruction")

    monkeypatch.setattr(compiled, "_kernels", {})
    monkeypatch.setattr(triton_target, "load", lambda source: Fails())
    with sl.backend("triton"), pytest.raises(sl.BackendError, match=r"ValueError: no such instruction; .*'eager'"):
        sl.LIF().sequence(torch.rand(3, 2))


def test_what_triton_does_not_drive_runs_as_a_loop_that_says_so():
    x = torch.rand(3, 2, device="meta")
    with sl.kernel.watching() as seen:
        neuron = sl.LIF().to("meta")
        assert neuron.sequence(x)[0].device.type == "meta"
    assert seen[0][1] == "eager"
    assert seen[0][2]


def test_every_function_has_a_kernel():
    """Each function of one number that a program may call."""
    from spikeloom.kernel.program import OPS

    for op in OPS.values():
        name = (op.triton or op.c).split("(")[0]
        assert not name.startswith("K_") or hasattr(triton_functions, name)
