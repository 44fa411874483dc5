"""Kernels in C take chunks of neurons through a segment: all widths, rows past the cache, registers, what is kept."""

import os
import platform
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import spikeloom as sl
from kernel import spec
from spikeloom.kernel.c import target
from spikeloom.kernel.c.kept import kept
from spikeloom.kernel.program import Const, Node, Program
from spikeloom.native import build

try:
    build.ready()
except build.BuildError as missing:
    pytest.skip(f"no C kernels on this machine: {missing}", allow_module_level=True)

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def both(make, x, *, past, **options):
    """The outputs and gradients of the loop and of kernels; the latter have rows past the cache where ``past``."""
    assert f"#define PAST {int(past)}" in sl.kernel.source(make(), x)
    return [spec.results(make(), x, backend, **options) for backend in ("eager", "c")]


def assert_same(pair, dtype):
    (outs, grads), (got, got_grads) = pair
    for a, b in zip(outs, got, strict=True):
        assert torch.equal(a, b)
    spec.assert_gradients(grads, got_grads, {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 1e-2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [16, 48, 80, 2144])
def test_rows_go_past_the_cache(width, dtype, monkeypatch):
    """From some size on; where rows are whole vectors, but chunks need not be full."""
    monkeypatch.setattr(target, "_LARGE", 0)
    torch.manual_seed(width)
    make = lambda: sl.LIF(tau=nn.Parameter(torch.tensor(2.3)), v_threshold=0.3).to(  # noqa: E731
        torch.float64 if dtype == torch.float64 else torch.float32
    )
    x = (torch.randn(19, 2, width) + 0.4).to(dtype)
    assert_same(both(make, x, past=True), dtype)
    assert_same(both(make, x, past=True, lengths=torch.tensor([19, 7])), dtype)


def test_rows_that_begin_anywhere_do_not_go_past_the_cache(monkeypatch):
    monkeypatch.setattr(target, "_LARGE", 0)
    x = torch.randn(5, 3, 7)
    assert_same(both(lambda: sl.LIF(v_threshold=0.3), x, past=False), x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("neurons", [8, 56, 64, 72, 2120])
def test_bits_of_chunks_that_are_not_full(neurons, dtype):
    x = (torch.randn(18, 1, neurons) + 0.4).to(dtype)
    neuron = sl.LIF(v_threshold=0.3)
    with sl.backend("eager"):
        expected = neuron.sequence(x)[0]
    neuron.packed = True
    with sl.backend("c"):
        got = neuron.sequence(x)[0]
    assert isinstance(got, sl.SpikeTensor)
    assert torch.equal(got.unpack(), expected)


def test_an_output_that_is_no_bit_is_told_in_a_chunk_that_is_not_full():
    class Half(sl.Neuron):
        is_binary = True

        def __init__(self):
            super().__init__()
            self.states(v=0.0)

        def dynamics(self, x, v):
            return x, v + x

    neuron, x = Half(), torch.zeros(3, 1, 72)
    neuron.packed = True
    with sl.backend("c"):
        assert int(neuron.sequence(x)[0].unpack().sum()) == 0
        x[1, 0, 71] = 0.5
        with pytest.raises(ValueError, match="neither 0 nor 1"):
            neuron.sequence(x)


def loops_of(assembly):
    """The innermost loops of a program: from a label to the jump back to it, with no other such pair inside."""
    lines, labels, found = assembly.split("\n"), {}, []
    for i, line in enumerate(lines):
        if label := re.match(r"(\.L\w+):", line):
            labels[label.group(1)] = i
        if (jump := re.match(r"\s+j\w+\s+(\.L\w+)", line)) and jump.group(1) in labels:
            found.append((labels[jump.group(1)], i))
    inner = [(a, b) for a, b in found if not any((a <= c and d < b) or (a < c and d <= b) for c, d in found)]
    return ["\n".join(lines[a:b]) for a, b in inner]


def known_compiler():
    version = subprocess.run([*build.command(), "--version"], capture_output=True, text=True, check=True).stdout
    return platform.machine() == "x86_64" and "Free Software Foundation" in version and "avx" in build._features()


def test_the_state_of_a_lif_stays_in_registers(tmp_path):
    """In the loops over the steps of a segment no vector goes to the stack and back."""
    if not known_compiler():
        pytest.skip("the assembly is known for gcc on x86-64 with AVX alone")
    source = sl.kernel.source(sl.LIF(tau=2.3), torch.zeros(16, 4, 64))
    forward, backward = (f"/* Variant{part}" for part in source.split("/* Variant")[1:])
    for name, text, operations in (("forward", forward, ("cmpps",)), ("backward", backward, ("divps",))):
        file = tmp_path / f"{name}.c"
        file.write_text(text)
        made = subprocess.run(
            [*build.command(), *build._tools()[1:], "-S", "-o", "-", str(file)],
            capture_output=True,
            text=True,
            check=True,
        )
        steps = [loop for loop in loops_of(made.stdout) if all(o in loop for o in operations)]
        assert steps, name
        for loop in steps:
            wide = [line for line in loop.split("\n") if re.search(r"%[yz]mm", line)]
            assert len(wide) > 20
            assert not [line for line in wide if "(%rsp)" in line or "(%rbp)" in line], name


X, V, N, GY, GV = range(5)  # the ids of input, state, number and upstream gradients


@pytest.mark.parametrize(
    ("step", "transposed", "expected"),
    [
        # The gradient reads h = v + x n: to keep h costs less than to have x and v and to add them again.
        ([("mul", (X, N)), ("add", (V, 5))], [("mul", (GY, 6))], {6}),
        # It reads nothing of the step.
        ([("mul", (X, N))], [("mul", (GY, N))], set()),
        # exp(v) is dear, and kept v would be no cheaper.
        ([("exp", (V,))], [("mul", (GY, 5))], {5}),
        # It reads v as well: v + 1 is cheaper to compute again than to keep beside v.
        ([("add", (V, Const(1.0)))], [("mul", (V, 5)), ("mul", (GY, 6))], {V}),
    ],
)
def test_what_is_kept_of_a_step_costs_least(step, transposed, expected):
    nodes = tuple(Node(5 + k, *node) for k, node in enumerate([*step, *transposed]))
    outputs, root = (4 + len(step),) * 2, nodes[-1].id
    program = Program(("x",), ("v",), ("n",), nodes, outputs, (root, None), (), ((), ()))
    assert kept(program, (root,), lambda node: False) == expected


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["-mno-avx512f", "-mno-avx"])
def test_kernels_without_the_processors_vectors_compute_the_same(flags, tmp_path):
    """AVX-512 is not everywhere; neither is AVX."""
    if not known_compiler():
        pytest.skip("the flags are those of gcc on x86-64")
    program = """
import torch, spikeloom as sl
torch.manual_seed(0)
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    x = (torch.randn(19, 3, 44) + 0.4).to(dtype)
    found = []
    for backend in ("eager", "c"):
        neuron, leaf = sl.LIF(v_threshold=0.3), x.clone().requires_grad_()
        with sl.backend(backend):
            y = neuron.sequence(leaf)[0]
            (y * torch.linspace(-1, 1, 44)).sum().backward()
        neuron.packed = True
        with sl.backend(backend), torch.no_grad():
            bits = neuron.sequence(x[..., :40].contiguous())[0].unpack()
        found.append((y, bits, leaf.grad))
    (y, bits, g), (z, packed, h) = found
    assert torch.equal(y, z) and torch.equal(bits, packed) and y.sum() > 0
    limit = 1e-2 if dtype.itemsize == 2 else 1e-5
    torch.testing.assert_close(g, h, atol=limit, rtol=limit)
print("equal")
"""
    file = tmp_path / "program.py"
    file.write_text(program)
    done = subprocess.run(
        [sys.executable, str(file)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CC": f"gcc {flags}", "SPIKELOOM_CACHE": str(tmp_path / "cache")},
    )
    assert done.stdout == "equal\n", done.stderr
