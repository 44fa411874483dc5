"""Rows of ``benchmarks.gpu`` for single layers: neurons, batch norm with a neuron, spikes of one bit, products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl

from .common import must_match
from .gpu_bench import Bench, Row, Run, jelly_node
from .neuron_layer import training

Made = Callable[[], Run]


def neuron(bench: Bench, dtype: torch.dtype) -> Row:
    """LIF, T=32, 64 x 64*32*32, forward and backward, against a copy of x."""
    T, shape = (9, (2, 40)) if bench.rehearse else (32, (64, 64 * 32 * 32))
    x = (0.6 + bench.random(T, *shape)).to(dtype)
    upstream = bench.random(T, *shape, seed=1).to(dtype)
    lif = sl.LIF(tau=2.0).to(bench.device)
    run, ours = training(lambda x: lif.sequence(x)[0], x, upstream)
    to = torch.empty_like(x)

    def forward() -> Tensor:
        with torch.no_grad():
            return lif.sequence(x)[0]

    def jelly(*, capture: bool = False) -> Made:
        def make() -> Run:
            from spikingjelly.activation_based import functional

            node: Any = jelly_node(bench)()  # type: ignore[misc]  # it was found above

            def forward(x: Tensor) -> Tensor:
                functional.reset_net(node)
                y: Tensor = node(x)
                return y

            run, theirs = training(forward, x, upstream)
            _differ("spikingjelly", ours[0], theirs[0])
            if dtype == torch.float32:
                must_match("spikingjelly", ours, theirs)
            return bench.captured(run) if capture else run

        return make

    def snn() -> Run:
        import snntorch

        leaky = snntorch.Leaky(beta=0.5, reset_mechanism="zero", reset_delay=False).to(bench.device)

        def by_steps(x: Tensor) -> Tensor:
            mem, spikes = leaky.reset_mem(), []
            for x_t in 0.5 * x:
                spike, mem = leaky(x_t, mem)
                spikes.append(spike)
            return torch.stack(spikes)

        run, theirs = training(by_steps, x, upstream)
        _differ("snntorch", ours[0], theirs[0])
        return run

    sides: dict[str, Made] = {
        "spikeloom, captured": lambda: bench.captured(run),
        "spikeloom": lambda: run,
        "spikeloom, forward without gradient, captured": lambda: bench.captured(forward),
        "copy, captured": lambda: bench.captured(lambda: to.copy_(x)),
        "a kernel that negates x, captured": lambda: bench.captured(lambda: torch.neg(x, out=to)),
    }
    if jelly_node(bench) is not None:
        sides |= {"spikingjelly": jelly(), "spikingjelly, captured": jelly(capture=True), "snntorch": snn}
    return _with_share(bench.compare(sides), 5, x.nbytes, float(ours[0].float().mean()))


def normed(bench: Bench, dtype: torch.dtype, layout: torch.memory_format) -> Row:
    """Batch norm and LIF, T=4, 64 x 128 x 32 x 32, forward and backward, in training mode."""
    T, B, C, size = (2, 2, 8, 4) if bench.rehearse else (4, 64, 128, 32)
    x, upstream = (
        (mean + bench.random(T * B, C, size, size, seed=seed)).to(dtype).contiguous(memory_format=layout)
        for seed, mean in ((0, 0.6), (1, 0.0))
    )
    x, upstream = (t.unflatten(0, (T, B)) for t in (x, upstream))
    to = torch.empty_like(x)
    net = sl.Network(sl.nn.NormNeuron(nn.BatchNorm2d(C), sl.LIF(tau=2.0))).to(bench.device)

    def forward(x: Tensor) -> Tensor:
        net.zero_grad()
        y: Tensor = net(x)
        return y

    run, ours = training(forward, x, upstream)

    def jelly(*, capture: bool = False) -> Made:
        def make() -> Run:
            from spikingjelly.activation_based import functional
            from spikingjelly.activation_based import layer as layers

            node: Any = jelly_node(bench)()  # type: ignore[misc]  # it was found above
            other = nn.Sequential(layers.SeqToANNContainer(nn.BatchNorm2d(C).to(bench.device)), node)

            def forward(x: Tensor) -> Tensor:
                functional.reset_net(other)
                other.zero_grad()
                y: Tensor = other(x)
                return y

            run, theirs = training(forward, x, upstream)
            _differ("spikingjelly", ours[0], theirs[0])
            cosine = float(F.cosine_similarity(ours[1].flatten().double(), theirs[1].flatten().double(), dim=0))
            if cosine < 0.97:
                raise ValueError(f"its gradient has a cosine of {cosine:.4f} with ours")
            return bench.captured(run) if capture else run

        return make

    sides: dict[str, Made] = {
        "spikeloom, captured": lambda: bench.captured(run),
        "spikeloom": lambda: run,
        "copy, captured": lambda: bench.captured(lambda: to.copy_(x)),
        "a kernel that negates x, captured": lambda: bench.captured(lambda: torch.neg(x, out=to)),
    }
    if jelly_node(bench) is not None:
        sides |= {"spikingjelly": jelly(), "spikingjelly, captured": jelly(capture=True)}
    row = bench.compare(
        sides, launches=True
    )  # x for the statistics, x and spikes; x, upstream and gradient; both again
    return _with_share(row, 8, x.nbytes, float(ours[0].float().mean()))


def bits(bench: Bench) -> Row:
    """Packing and unpacking 33.5 million spikes of float16, against a fill and a copy of them; twenty in a graph."""
    n = 1 << 10 if bench.rehearse else 1 << 25
    d = (bench.random(n) > 1.3).half()
    packed, to = sl.pack(d), torch.empty_like(d)
    if not torch.equal(packed.unpack(), d):
        raise ValueError("what was packed is unpacked as something else; nothing was timed")
    works: dict[str, Run] = {
        "unpack": packed.unpack,
        "pack": lambda: sl.pack(d, check=False),
        "fill": lambda: to.fill_(1.0),
        "copy": lambda: to.copy_(d),
    }
    return bench.compare({name: _captured(bench, run, 20) for name, run in works.items()})


def product(bench: Bench, *, gradient: bool) -> Row:
    """Spikes (10 %) @ W, or the gradient of W, from bits and dense; errors against float64 are printed first."""
    M, K, N = (70, 40, 24) if bench.rehearse else (16384, 2048, 2048)
    d = (bench.random(M, K, seed=2) > 1.2816).float()
    W = bench.random(M if gradient else K, N, seed=3)
    s, half = sl.pack(d), (d.bfloat16(), W.bfloat16())
    s_half = sl.pack(half[0])

    def times(a: Tensor, b: Tensor) -> Tensor:
        return torch.mm(b.t(), a) if gradient else torch.mm(a, b)

    def in_tf32() -> Tensor:
        torch.set_float32_matmul_precision("high")
        try:
            return times(d, W)
        finally:
            torch.set_float32_matmul_precision("highest")

    def from_bits() -> Tensor:
        with sl.backend("triton"):
            return times(s, W)

    works: dict[str, Run] = {
        "bits, float32": from_bits,
        "bits, unpacked, float32": lambda: times(s.unpack(), W),
        "dense float32": lambda: times(d, W),
        "dense TF32": in_tf32,
        "bits, unpacked, bfloat16": lambda: times(s_half.unpack(), half[1]),
        "dense bfloat16": lambda: times(*half),
    }
    exact = times(d.double(), W.double())

    def checked(name: str, work: Run) -> Made:
        def make() -> Run:
            error = float((work().double() - exact).abs().max() / exact.abs().max())
            print(f"  {name}: largest error {error:.1e} of the largest value", flush=True)
            if error > (2e-2 if "bfloat16" in name or "TF32" in name else 1e-5):
                raise ValueError("another product")
            return bench.captured(work)

        return make

    return bench.compare({name: checked(name, work) for name, work in works.items()})


def _captured(bench: Bench, run: Run, calls: int) -> Made:
    return lambda: bench.captured(run, calls=calls)


def _differ(name: str, ours: Tensor, theirs: Tensor) -> None:
    print(f"  {name}: {float((ours != theirs).float().mean()):.2e} of the spikes differ", flush=True)


def _with_share(row: Row, passes: int, nbytes: int, spikes: float) -> Row:
    """With the speed at which ``passes`` tensors like x move, the fewest that have to, states besides.

    What reads x and writes as much is a copy, or a kernel that negates it: the faster of both.
    """
    ms = {name: side["ms"] for name, side in row["sides"].items()}
    least = min(ms[name] for name in ("copy, captured", "a kernel that negates x, captured") if name in ms)
    if not least > 0:  # a rehearsal
        return row
    moved, copied = passes * nbytes / ms["spikeloom, captured"], 2 * nbytes / least
    return {**row, "spikes": spikes, "GB/s": moved / 1e6, "copy GB/s": copied / 1e6, "share of copy": moved / copied}
