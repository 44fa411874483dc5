"""Choice of the backend, tracing, building and the cache."""

import dataclasses
import hashlib
import logging
import math
import os
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import spikeloom as sl
from kernel import spec
from spikeloom.kernel import compiled, watching
from spikeloom.kernel.c.emit import emit_forward
from spikeloom.kernel.trace import RefusedError, trace
from spikeloom.kernel.variant import Layout, Variant
from spikeloom.native import build

try:
    build.ready()
    HAVE_COMPILER = True
except build.BuildError:
    HAVE_COMPILER = False
needs_compiler = pytest.mark.skipif(not HAVE_COMPILER, reason="no C compiler on this machine")


def neuron_of(body, **numbers):
    class Custom(sl.Neuron):
        def __init__(self):
            super().__init__()
            self.numbers(tau=2.0, **numbers)
            self.states(v=0.0)

        dynamics = body

    return Custom()


def test_the_program_of_lif_reads_as_its_equation():
    program = trace(sl.LIF())
    assert program.inputs == ("x", "v", "tau", "v_threshold", "v_reset", "surrogate.scale", "g_out", "g_v")
    h = "add(v, div(sub(x, sub(v, v_reset)), tau))"
    spike = f"to_float(ge(sub({h}, v_threshold), 0.0))"
    v = f"add(mul(sub(1.0, {spike}), {h}), mul({spike}, v_reset))"
    assert [spec.formula(program, ref) for ref in program.outputs] == [spike, v]
    assert program.digest() == trace(sl.LIF(tau=7.0)).digest()
    assert program.digest() != trace(sl.LIF(reset="soft")).digest()


def test_what_depends_on_numbers_alone_leaves_the_program():
    program = trace(sl.PLIF())
    w = program.inputs.index("w")
    sigmoid = next(n for n in program.nodes if n.op == "sigmoid" and n.args == (w,))
    assert sigmoid.id in program.number_ids()
    assert sigmoid not in program.needed(program.outputs)
    assert sigmoid.id in Layout(program).forward_params
    numbers = [torch.tensor(0.0 if name == "w" else 1.0) for name in program.numbers]
    assert [float(value) for value in program.evaluate(numbers, [sigmoid.id], torch.float32)] == [0.5]


def test_a_selection_among_numbers_is_one_number():
    """Found by fuzzing: the comparison of two numbers is one too, else a gradient is lost."""

    def body(self, x, v):
        return x * torch.sqrt(torch.where(self.tau > self.rho, self.rho, self.tau * 0.5)), v

    program = trace(neuron_of(body, rho=1.0))
    assert [n.op for n in program.needed(program.outputs)] == ["mul"]
    (param,) = Layout(program).forward_params
    assert param in Layout(program).differentiable


def test_a_value_is_not_the_number_of_its_id():
    """Found by fuzzing: value 2 and the constant 2.0 are different operands."""

    def body(self, x, v):
        return (x * 0.0 + x * x) * 2.0 + x * self.tau + v * 1.0, v

    program = trace(neuron_of(body))
    assert program.inputs[:3] == ("x", "v", "tau")
    twice = "mul(add(mul(x, 0.0), mul(x, x)), 2.0)"
    assert spec.formula(program, program.outputs[0]) == f"add(add({twice}, mul(x, tau)), v)"


REFUSED = {
    "a random number": (lambda self, x, v: (x + torch.rand_like(x), v), "aten.rand_like|uniform"),
    "a sum": (lambda self, x, v: (x, v + x.sum()), "aten.sum"),
    "an index": (lambda self, x, v: (x, v[:1] + x), "aten.slice"),
    "a captured tensor": (lambda self, x, v: (x * CAPTURED, v), "captured from outside"),
    "a change in place": (lambda self, x, v: (x, v.add_(x)), "which writes to an input"),
    "a conversion": (lambda self, x, v: (x, v.double()), "a conversion from torch.float32 to torch.float64"),
    "a branch on a number": (lambda self, x, v: (x if self.tau > 1 else v, v), "Boolean value of Tensor"),
    "an unknown operation": (lambda self, x, v: (torch.lgamma(x), v), "aten.lgamma"),
}
CAPTURED = torch.ones(())


@pytest.mark.parametrize("name", REFUSED)
def test_refused_operations_are_named_with_their_line(name):
    body, what = REFUSED[name]
    with pytest.raises(RefusedError, match=rf"Custom.dynamics (uses|could not be traced:) .*({what})") as refused:
        trace(neuron_of(body))
    assert f"test_backend.py:{body.__code__.co_firstlineno}" in str(refused.value)


def test_auto_says_once_why_it_runs_eager_and_c_raises(caplog):
    def body(self, x, v):
        return torch.lgamma(x), v

    neuron, x = neuron_of(body), torch.rand(3, 2) + 1
    with caplog.at_level(logging.WARNING, "spikeloom"):
        y, _ = neuron.sequence(x)
        neuron.sequence(x)
    assert torch.equal(y, torch.lgamma(x))
    if HAVE_COMPILER:
        assert len(caplog.records) == 1
        assert "aten.lgamma" in caplog.text
        assert "it runs as a PyTorch loop" in caplog.text
    with sl.backend("c"), pytest.raises(sl.BackendError, match=r"cannot run on backend 'c': .*lgamma"):
        neuron.sequence(x)


@needs_compiler
def test_the_block_wins_over_the_environment(monkeypatch):
    x = torch.rand(3, 2)

    def used():
        with watching() as seen:
            sl.LIF().sequence(x)
        return seen[0][1]

    assert used() == "c"
    monkeypatch.setenv("SPIKELOOM_BACKEND", "eager")
    assert used() == "eager"
    with sl.backend("c"):
        assert used() == "c"
        with sl.backend("auto"):
            assert used() == "c"
    monkeypatch.setenv("SPIKELOOM_BACKEND", "cuda")
    with pytest.raises(ValueError, match="SPIKELOOM_BACKEND must be one of auto, eager, c, triton; got 'cuda'"):
        used()
    with pytest.raises(ValueError, match="backend must be one of"), sl.backend("fast"):
        pass


@needs_compiler
@pytest.mark.filterwarnings("ignore:`torch.jit.script.*` is deprecated")  # torch.func's own
def test_transforms_run_eager_and_refuse_a_forced_kernel():
    x = torch.rand(3, 2)

    def loss(x):
        return sl.LIF().sequence(x)[0].sum()

    assert torch.func.grad(loss)(x).abs().sum() > 0
    with sl.backend("c"):
        with pytest.raises(sl.BackendError, match=r"torch.func transform"):
            torch.func.grad(loss)(x)
        with pytest.raises(sl.BackendError, match=r"forward-mode"):
            torch.func.jvp(loss, (x,), (x,))
        with pytest.raises(sl.BackendError, match="on meta"):
            sl.LIF().sequence(x.to("meta"))


@needs_compiler
def test_second_derivatives_raise_with_the_remedy():
    x = torch.rand(3, 2, requires_grad=True)
    with sl.backend("c"):
        (g,) = torch.autograd.grad(sl.LIF().sequence(x)[0].sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match=r"sl.backend\('eager'\)"):
            g.sum().backward()
    with sl.backend("eager"):
        (g,) = torch.autograd.grad(sl.LIF().sequence(x)[0].sum(), x, create_graph=True)
        g.sum().backward()
    assert x.grad.abs().sum() > 0


def child(code, **environment):
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)


def test_a_machine_without_a_compiler_runs_everything():
    code = "import torch, spikeloom as sl; print(float(sl.IF().sequence(torch.ones(2, 1))[0].sum()))"
    done = child(code, CC="/nowhere/cc")
    assert (done.returncode, done.stdout.strip()) == (0, "2.0")
    assert "C kernels are not available, neurons run as PyTorch loops: no C compiler" in done.stderr
    forced = child(code, CC="/nowhere/cc", SPIKELOOM_BACKEND="c")
    assert forced.returncode == 1
    assert "cannot run on backend 'c': no C compiler" in forced.stderr


def test_a_compiler_that_does_not_work_counts_as_none(tmp_path):
    broken = tmp_path / "cc"
    broken.write_text(f"#!/bin/sh\necho called >> {tmp_path}/calls\necho 'cc: out of order' >&2\nexit 1\n")
    broken.chmod(0o755)
    code = "import torch, spikeloom as sl; [sl.IF().sequence(torch.ones(2, 1)) for _ in range(5)]"
    done = child(code, CC=str(broken))
    assert done.returncode == 0
    assert "neurons run as PyTorch loops" in done.stderr
    assert done.stderr.count("out of order") == 1
    assert (tmp_path / "calls").read_text().count("called") <= 7  # its version and six sets of flags, once


@pytest.fixture
def called(tmp_path):
    """Runs a neuron in a process of its own, and says how often its compiler, ``tmp_path / "cc"``, was called."""
    compiler, calls = tmp_path / "cc", tmp_path / "calls"
    compiler.write_text(f'#!/bin/sh\necho called >> {calls}\nexec {build.compiler()} "$@"\n')
    compiler.chmod(0o755)
    code = "import torch, spikeloom as sl; print(float(sl.IF().sequence(torch.ones(2, 1))[0].sum()))"

    def run():
        calls.write_text("")
        done = child(code, CC=str(compiler), SPIKELOOM_CACHE=str(tmp_path / "cache"), SPIKELOOM_BACKEND="c")
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "2.0"
        return calls.read_text().count("called")

    return run


@needs_compiler
def test_a_compiler_is_tried_once_until_it_changes(called, tmp_path):
    """The second process starts no other."""
    compiler = tmp_path / "cc"
    assert called() >= 3  # its version, its flags, a kernel
    assert called() == 0
    compiler.write_text(compiler.read_text() + "# another one\n")
    assert called() == 2  # the kernel is there, since it says that it is the same version


@needs_compiler
@pytest.mark.slow
def test_what_is_kept_of_a_compiler_may_be_damaged(called, tmp_path):
    """Flags that were damaged, or are refused by now, are found anew."""
    assert called() >= 3
    compiler = tmp_path / "cc"
    compiler.write_text(compiler.read_text() + "# another one\n")
    assert called() == 2  # the kernel is there, since it says that it is the same version
    stored = list((tmp_path / "cache").glob("*.toolchain"))
    assert len(stored) == 2
    good = stored[0].read_bytes()
    for bad in (b"", b"\xff\xfe\x00", good + b"\n-DFOO", good[:-1], bytes(1 << 20), b"x\n-DFOO\n"):
        for file in stored:
            file.write_bytes(bad)
            assert build._read_lines(file) is None
    assert called() == 2  # its version and its flags
    assert called() == 0
    lines = "\n".join(("another compiler", "-no-such-flag"))
    for file in stored:
        file.write_text(f"{hashlib.sha256(lines.encode()).hexdigest()}\n{lines}")
    assert called() == 3  # the kernel, which fails with that flag, and its version and flags once more
    assert called() == 0
    for file in (tmp_path / "cache").glob("*.sha256"):
        file.write_bytes(b"\xff\xfe")
    assert called() == 1


@needs_compiler
def test_a_compiler_with_arguments(tmp_path, monkeypatch):
    """As make and ccache have it in CC; what it is told about arithmetic does not change a kernel's."""
    found, spaced = build.command()[0], tmp_path / "a folder" / "cc"
    spaced.parent.mkdir()
    spaced.symlink_to(found)
    for cc, words in (
        (f"{found} -O2 '-DA=b c'", (found, "-O2", "-DA=b c", *build._EXACT)),
        (f"{spaced}", (str(spaced),)),
        (f" '{spaced}' -g", (str(spaced), "-g", *build._EXACT)),
        (f"  {found}  ", (found,)),
        (f"'{spaced}'", (str(spaced),)),
        ("  ", build.command()),
        ("'gcc", ()),
        ("nowhere -O2", ()),
    ):
        monkeypatch.setenv("CC", cc)
        assert build.command() == words
    wrapper = tmp_path / "cc"  # which says what it is in no encoding
    wrapper.write_text(f'#!/bin/sh\nprintf "\\377\\n"\nexec {found} "$@"\n')
    wrapper.chmod(0o755)
    code = """
import torch, spikeloom as sl
x = torch.rand(9, 99)
y, state = sl.LIF(tau=3.0).sequence(x)
with sl.backend("eager"):
    assert torch.equal(state["v"], sl.LIF(tau=3.0).sequence(x)[1]["v"])
"""
    cc = f"{wrapper} -O2 -ffast-math"  # with which a quotient is a product, and another number
    done = child(code, CC=cc, SPIKELOOM_CACHE=str(tmp_path / "cache"), SPIKELOOM_BACKEND="c")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("cc", "said"), [("nowhere -O2", "CC is nowhere -O2"), ("{text}", "")])
def test_what_is_no_compiler(cc, said, tmp_path):
    text = tmp_path / "text"
    text.write_text("no program")
    text.chmod(0o755)
    code = "import torch, spikeloom as sl; print(float(sl.IF().sequence(torch.ones(2, 1))[0].sum()))"
    done = child(code, CC=cc.format(text=text))
    assert (done.returncode, done.stdout.strip()) == (0, "2.0"), done.stderr
    assert "neurons run as PyTorch loops" in done.stderr
    assert said in done.stderr


@needs_compiler
def test_the_cache_is_private_checked_and_reused(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("SPIKELOOM_CACHE", str(folder))
    source = emit_forward(trace(sl.IF()), Variant("float32", False, (), (), False))
    build.load(source)
    monkeypatch.setattr(build, "_loaded", {})
    build.load(source)
    assert folder.stat().st_mode & 0o777 == 0o700
    (library,) = folder.glob("*.so")
    first = library.stat().st_mtime_ns
    monkeypatch.setattr(build, "_loaded", {})
    build.load(source)
    assert library.stat().st_mtime_ns == first
    good = library.read_bytes()
    library.unlink()
    library.write_bytes(b"not a library")  # damaged, or planted: the digest tells
    monkeypatch.setattr(build, "_loaded", {})
    build.load(source)
    assert len(library.read_bytes()) == len(good)
    folder.chmod(0o777)  # others may write: not used
    assert build.cache_folder() != folder
    for name in ("SPIKELOOM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(build.Path, "home", homeless)
    assert build.cache_folder() == build._private_folder()


@needs_compiler
def test_a_compiler_that_fails_says_what_it_said(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKELOOM_CACHE", str(tmp_path))
    with pytest.raises(build.BuildError, match=r"failed: [\s\S]*error"):
        build.load("this is not C")


@needs_compiler
def test_a_kernel_that_cannot_be_built_runs_eager_unless_forced(monkeypatch, caplog):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "_compile", full)
    monkeypatch.setattr(build, "_trusted", lambda *args: False)
    monkeypatch.setattr(build, "_loaded", {})
    neuron, x = UsesGlobals(), torch.ones(1, 1)
    monkeypatch.setattr(compiled, "_kernels", {})
    assert float(neuron.sequence(x)[0]) == 2.0
    assert "could not be built, it runs as a PyTorch loop" in caplog.text
    assert "No space left" in caplog.text
    with watching() as seen:
        neuron.sequence(x)
    assert [name for _, name, _ in seen] == ["eager"]  # what ran, not what was tried
    with sl.backend("c"), pytest.raises(sl.BackendError, match="No space left"):
        neuron.sequence(x)


@needs_compiler
def test_exp_is_right_to_two_ulp():
    class Exp(sl.Neuron):
        def __init__(self):
            super().__init__()
            self.states()

        def dynamics(self, x):
            return torch.exp(x)

    edges = torch.tensor(
        [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 88.72, 88.73, -87.4, -103.9, -104.1, 709.7, -745.0]
    )
    for dtype in (torch.float32, torch.float64):
        x = torch.cat([torch.linspace(-110, 95, 200_001, dtype=torch.float64), edges.double()]).to(dtype).view(1, -1)
        with sl.backend("c"):
            y = Exp().sequence(x)[0].flatten()
        exact = torch.exp(x.double()).flatten()
        near = exact.abs() < torch.finfo(dtype).max
        ulp = torch.finfo(dtype).eps * exact.clamp(min=torch.finfo(dtype).tiny)
        assert ((y.double() - exact)[near].abs() <= 2 * ulp[near]).all()
        assert torch.equal(y[~near].isinf(), torch.exp(x.flatten())[~near].isinf())
        assert y[torch.isnan(x.flatten())].isnan().all()


def test_programs_are_found_again_per_kind_of_neuron():
    first = compiled.kernels_of(sl.LIF(tau=2.0))
    assert compiled.kernels_of(sl.LIF(tau=nn.Parameter(torch.tensor(3.0)))) is first
    assert compiled.kernels_of(sl.LIF(reset="soft")) is not first
    assert compiled.kernels_of(sl.LIF(surrogate=sl.surrogate.Sigmoid())) is not first


@needs_compiler
def test_explain_says_what_ran_and_why():
    class Refuses(sl.Neuron):
        def __init__(self):
            super().__init__()
            self.states(v=0.0)

        def dynamics(self, x, v):
            return torch.lgamma(x), v

    net = sl.Network(nn.Linear(2, 2), sl.LIF(), sl.Loop(sl.IF()), Refuses())
    rows = sl.explain(net, torch.rand(3, 1, 2)).rows
    assert [(r.path, r.module, r.backend) for r in rows] == [
        ("1", "LIF", "c"),
        ("2.module", "IF", "c"),
        ("3", "Refuses", "eager"),
    ]
    assert "aten.lgamma" in rows[2].reason
    text = str(sl.explain(net, torch.rand(3, 1, 2)))
    assert text.split("\n")[1].split() == ["1", "LIF", "c"]


@needs_compiler
def test_explain_says_which_layers_use_bits():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1, groups=2)

        def forward(self, x):
            return self.conv(x) + x

    net = sl.Network(
        sl.IF(), nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), sl.IF(v_threshold=0.1), Skip(), sl.LIF(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3), sl.LI(), spikes="packed",
    )  # fmt: skip
    x = torch.zeros(4, 1, 2, 4, 4)
    x[0] = 2.0  # a spike in a quarter of the steps
    rows = [(r.path, r.module, r.backend) for r in sl.explain(net, x).rows]
    bits = [("0", "IF", "c"), ("1", "Conv2d", "bits"), ("3", "IF", "c")]
    skip = [("4.conv", "Conv2d", "unpacked"), ("4", "Skip", "unpacked"), ("5", "LIF", "c")]
    assert rows == [*bits, *skip, ("6", "MaxPool2d", "bits"), ("8", "Linear", "bits"), ("9", "LI", "c")]
    reasons = {r.path: r.reason for r in sl.explain(net, x).rows}
    assert reasons["1"] == "25.0 % spikes"
    assert reasons["4.conv"] == "for aten.convolution.default"
    assert reasons["3"] == "fused with BatchNorm2d"
    assert not nn.modules.module._global_forward_hooks


@needs_compiler
def test_source_is_readable_and_for_the_input_at_hand():
    text = sl.kernel.source(sl.LIF(tau=nn.Parameter(torch.tensor(3.0))), torch.rand(5, 2, 3))
    assert "typedef float S;" in text
    assert " / tau_)" in text  # the division of the equation stays one
    assert "(x_ - " in text
    assert "gp" in text
    assert "typedef double S;" in sl.kernel.source(sl.LIF(), torch.rand(5, 2, 3).double())
    assert "/ tau_" not in sl.kernel.source(sl.LIF(tau=2.0), torch.rand(5, 2, 3))  # a power of two: times its inverse
    with pytest.raises(sl.BackendError, match="on meta"):
        sl.kernel.source(sl.LIF(), torch.rand(5, 2, 3, device="meta"))


@needs_compiler
def test_debug_checks_every_call(monkeypatch):
    monkeypatch.setenv("SPIKELOOM_DEBUG", "1")
    x = torch.rand(20, 3, 4)
    sl.LIF().sequence(x, record=("v",))
    kernels = compiled.kernels_of(sl.LIF())
    broken = compiled.kernels_of(sl.LIF(decay_input=False))
    monkeypatch.setattr(kernels, "program", broken.program)
    monkeypatch.setattr(kernels, "_functions", {})
    monkeypatch.setattr(kernels, "plans", {})
    with pytest.raises(RuntimeError, match=r"SPIKELOOM_DEBUG: the forward kernel of LIF differs from eager in \d+ of"):
        sl.LIF().sequence(x)


def test_memory_is_retained_and_released():
    import platform

    glibc = platform.libc_ver()[0] == "glibc"
    assert sl.retain_memory() is glibc
    kept = torch.rand(1 << 22)
    total = float(kept.sum())
    del kept
    assert sl.release_memory() is glibc
    assert total > 0


GAIN = 2.0


def gained(x):
    return x * GAIN


class UsesGlobals(sl.Neuron):
    def __init__(self):
        super().__init__()
        self.states(v=0.0)

    def dynamics(self, x, v):
        return gained(x), v


def test_a_global_number_that_changes_is_seen(monkeypatch):
    neuron, x = UsesGlobals(), torch.ones(1, 1)
    assert float(neuron.sequence(x)[0]) == 2.0
    monkeypatch.setitem(globals(), "GAIN", 3.0)
    assert float(neuron.sequence(x)[0]) == 3.0


SCRIPT = """
import sys, torch, spikeloom as sl
GAIN = {gain}
class Mine(sl.Neuron):
    def __init__(self):
        super().__init__()
        self.states(v=0.0)
    def dynamics(self, x, v):
        v = 0.5 * v + {factor} * x * GAIN
        return v, v
with sl.backend("c"):
    print(float(Mine().sequence(torch.ones(2, 1))[0][-1]), "spikeloom.kernel.trace" in sys.modules)
"""


@pytest.fixture
def run_script(tmp_path):
    """Runs SCRIPT with values in a process of its own, all of which share a cache."""
    script = tmp_path / "script.py"

    def run(**values):
        script.write_text(SCRIPT.format(**values))
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, check=False,
            env={**os.environ, "SPIKELOOM_CACHE": str(tmp_path / "cache")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run


@needs_compiler
def test_a_program_is_found_again_in_another_process_if_nothing_changed(run_script):
    assert run_script(gain=1.0, factor=1.0) == ["1.5", "True"]
    assert run_script(gain=1.0, factor=1.0) == ["1.5", "False"]  # not traced again
    assert run_script(gain=2.0, factor=1.0) == ["3.0", "True"]
    assert run_script(gain=1.0, factor=3.0) == ["4.5", "True"]


@needs_compiler
@pytest.mark.slow
def test_a_program_that_was_damaged_is_traced_again(run_script, tmp_path):
    assert run_script(gain=1.0, factor=1.0) == ["1.5", "True"]
    for stored in (tmp_path / "cache").glob("*.program"):
        stored.write_text("damaged")
    assert run_script(gain=1.0, factor=1.0) == ["1.5", "True"]
    for stored in (tmp_path / "cache").glob("*.program"):
        stored.write_text(stored.read_text().replace("0.5", "0.25"))  # which reads well, and is another equation
    assert run_script(gain=1.0, factor=1.0) == ["1.5", "True"]


@needs_compiler
@pytest.mark.parametrize(
    ("name", "low", "high"), [("exp", -104.0, 88.7), ("log", 1e-38, 1e38), ("tanh", -12.0, 12.0), ("tanh", -0.5, 0.5)]
)
def test_our_own_functions_are_within_two_units_in_the_last_place(name, low, high):
    """Against float64, over the whole range; infinities, zeros, NaN and denormals as in torch."""

    class Apply(sl.Neuron):
        def __init__(self):
            super().__init__()
            self.states(v=0.0)
            self.function = getattr(torch, name)

        def dynamics(self, x, v):
            return self.function(x), v

    if name == "log":
        x = torch.logspace(-38, 38, 200_001, dtype=torch.float64).float()
        x = torch.cat([x, torch.linspace(0.5, 2.0, 100_001)])
    else:
        x = torch.linspace(low, high, 300_001)
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, -1e-40, 88.8, 120.0, -120.0])
    with sl.backend("c"):
        y = Apply().sequence(x.view(1, 1, -1))[0].flatten()
        edge = Apply().sequence(special.view(1, 1, -1))[0].flatten()
    exact = getattr(torch, name)(x.double())
    unit = torch.maximum(exact.abs(), torch.tensor(1.2e-38)) * 2.0**-23
    assert float(((y - exact).abs() / unit).max()) <= 2.0
    wanted = getattr(torch, name)(special)
    torch.testing.assert_close(edge, wanted, atol=1e-44, rtol=1e-6, equal_nan=True)


@needs_compiler
def test_debug_checks_the_backward_kernel_too(monkeypatch):
    monkeypatch.setenv("SPIKELOOM_DEBUG", "1")
    x = torch.rand(20, 3, 4, requires_grad=True)
    sl.LIF(tau=3.0).sequence(x)
    kernels = compiled.kernels_of(sl.LIF())
    g_x, g_v = kernels.program.grads
    monkeypatch.setattr(kernels, "program", dataclasses.replace(kernels.program, grads=(g_v, g_x)))
    monkeypatch.setattr(kernels, "_functions", {})
    monkeypatch.setattr(kernels, "plans", {})
    with torch.no_grad():
        sl.LIF(tau=3.0).sequence(x)
    with pytest.raises(RuntimeError, match=r"SPIKELOOM_DEBUG: the backward kernel of LIF differs from eager in \d+ of"):
        sl.LIF(tau=3.0).sequence(x)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_loop_over_neurons_is_vectorised(dtype, tmp_path):
    """By the compiler's own report: one loop in the forward kernel, two in the backward kernel."""
    flags, found = build._tools()[1:], build.compiler()
    if "Free Software Foundation" not in subprocess.run([found, "--version"], capture_output=True, text=True).stdout:
        pytest.skip("only gcc reports vectorised loops in this form")
    if not any("native" in flag for flag in flags):
        pytest.skip("this compiler takes no -march=native, and plain x86-64 has no vector selection")
    neuron = sl.LIF(tau=nn.Parameter(torch.full((6,), 2.0)))
    text = sl.kernel.source(neuron, torch.rand(20, 3, 6, 8, dtype=torch.float32).to(dtype))
    second = text.index("/* Variant", 10)
    for source in (text[:second], text[second:]):
        path = tmp_path / "kernel.c"
        path.write_text(source)
        report = subprocess.run(
            [found, *flags, "-fopt-info-vec", "-o", str(tmp_path / "kernel.so"), str(path), "-lm"],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
        lines = source.split("\n")
        start = next(k for k, line in enumerate(lines) if line.startswith("void run"))
        loops = [k + 2 for k in range(start, len(lines)) if "#pragma omp simd" in lines[k]]  # their lines, from 1
        vectorised = [int(n) for n in re.findall(r"kernel\.c:(\d+):\d+: optimized: loop vectorized", report)]
        assert len(loops) == (1 if source == text[:second] else 2)
        for line, after in zip(loops, [*loops[1:], len(lines)], strict=True):
            assert any(line <= n < after for n in vectorised), lines[line - 1]


@pytest.mark.parametrize("backend", ["auto", "c", "eager"])
@pytest.mark.parametrize("shape", [(5, 2, 0), (5, 2, 0, 4), (5, 2, 3, 0)])
@pytest.mark.parametrize("spikes", ["dense", "packed"])
def test_steps_without_values_run_on_every_backend(backend, shape, spikes):
    x = torch.rand(*shape, requires_grad=True)
    net = sl.Network(sl.PLIF(), sl.Leaky(beta=0.9), spikes=spikes)
    with sl.backend(backend):
        y, result = net(x, return_state=True, record=("0.v",))
        assert (y.shape, result.state["1"]["v"].shape, result.record["0.v"].shape) == (shape, shape[1:], shape)
        assert net(x, lengths=torch.tensor([2, 4])).shape == shape
        assert net(x[0], repeat=7).shape == (7, *shape[1:])
        y.sum().backward()
        assert x.grad.shape == shape
        assert net.body[0].w.grad == 0
        assert sl.LIF().step(torch.rand(0, 3))[0].shape == (0, 3)  # nor samples
    stream = net.eval().stream()
    with torch.no_grad():
        assert [stream(x[0].detach()).shape for _ in range(2)] == [shape[1:]] * 2


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # torch, about surrogates that it traces
def test_compiled_steps_without_values_run():
    net = sl.Network(nn.Tanh(), sl.LIF())
    assert torch.compile(net, backend="eager")(torch.rand(4, 2, 0)).shape == (4, 2, 0)
