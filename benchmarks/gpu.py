"""On a GPU, in one run of under ten minutes: ``.peers/bin/python -m benchmarks.gpu``.

A neuron layer against a copy from the device to itself, SpikingJelly and snnTorch; training steps of a residual
convolutional SNN and of a spiking transformer; products of spikes from bits against dense ones; with peak memory.
``--rehearse`` runs all of it in tiny sizes on a CPU (with TRITON_INTERPRET=1), to see that it runs; it writes nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl
from spikeloom.spikes import device
from spikeloom.spikes.bits import unpack_bits

from .common import compare, machine, must_match, require_idle
from .neuron_layer import training


class Bench:
    """The device, and whether this is only a rehearsal."""

    def __init__(self, rehearse: bool) -> None:
        self.rehearse = rehearse
        self.device = torch.device("cpu" if rehearse else "cuda")
        self.seconds = 0.1 if rehearse else 15.0

    def synchronised(self, run: Callable[[], Any]) -> Callable[[], None]:
        """``run``, until the device is done with it."""

        def wait() -> None:
            run()
            if not self.rehearse:
                torch.cuda.synchronize()

        return wait

    def peak(self, run: Callable[[], Any]) -> float:
        """Most memory that a run takes besides what is there before, in MB."""
        if self.rehearse:
            return float("nan")
        run()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def compare(self, sides: dict[str, Callable[[], Any]]) -> dict[str, dict[str, float]]:
        """Times in turn, and peak memory."""
        rows = compare({n: self.synchronised(r) for n, r in sides.items()}, seconds=self.seconds)
        for name, run in sides.items():
            rows[name]["peak MB"] = self.peak(run)
        return rows


def jelly_node(bench: Bench) -> Callable[[], nn.Module] | None:
    """SpikingJelly's LIF, which chooses its kernels (CUDA or Triton) by the device."""
    try:
        from spikingjelly.activation_based import neuron, surrogate
    except ImportError:
        return None
    options = {"tau": 2.0, "surrogate_function": surrogate.ATan(), "step_mode": "m"}
    return lambda: neuron.LIFNode(**options).to(bench.device)


def layer(bench: Bench, dtype: torch.dtype) -> dict[str, Any]:
    """LIF, T=32, 64 x 64*32*32, forward and backward."""
    T, shape = (9, (2, 40)) if bench.rehearse else (32, (64, 64 * 32 * 32))
    g = torch.Generator(bench.device).manual_seed(0)
    x = (0.6 + torch.randn(T, *shape, device=bench.device, generator=g)).to(dtype)
    upstream = torch.randn(T, *shape, device=bench.device, generator=g).to(dtype)
    lif = sl.LIF(tau=2.0).to(bench.device)
    run, ours = training(lambda x: lif.sequence(x)[0], x, upstream)
    sides: dict[str, Callable[[], Any]] = {"spikeloom": run}
    make = jelly_node(bench)
    if make is not None:
        from spikingjelly.activation_based import functional

        node = make()

        def jelly(x: Tensor) -> Tensor:
            functional.reset_net(node)
            y: Tensor = node(x)
            return y

        sides["spikingjelly"], theirs = training(jelly, x, upstream)
        if dtype == torch.float32:
            must_match("spikingjelly", ours, theirs)
        else:  # their states are in half precision
            print(f"spikingjelly: {float((ours[0] != theirs[0]).float().mean()):.2e} of the spikes differ", flush=True)
    try:
        import snntorch
    except ImportError:
        pass
    else:
        leaky = snntorch.Leaky(beta=0.5, reset_mechanism="zero", reset_delay=False).to(bench.device)

        def by_steps(x: Tensor) -> Tensor:
            mem, spikes = leaky.reset_mem(), []
            for x_t in 0.5 * x:
                spike, mem = leaky(x_t, mem)
                spikes.append(spike)
            return torch.stack(spikes)

        sides["snntorch"], theirs = training(by_steps, x, upstream)
        print(f"snntorch: {float((ours[0] != theirs[0]).float().mean()):.2e} of the spikes differ", flush=True)
    to = torch.empty_like(x)
    rows = bench.compare({**sides, "copy": lambda: to.copy_(x)})
    passes = 5 + 2 * 4 / x.itemsize / 8  # x twice, spikes, both gradients; a float32 state every 8 steps, twice
    moved, copied = passes * x.nbytes / rows["spikeloom"]["ms"], 2 * x.nbytes / rows["copy"]["ms"]
    return {"sides": rows, "spikes": float(ours[0].float().mean()), "GB/s": moved / 1e6, "copy GB/s": copied / 1e6,
            "share of copy": moved / copied}  # fmt: skip


class Residual(nn.Module):
    """conv - bn - spike - conv - bn - spike, added to its input (SEW, ADD)."""

    def __init__(self, side: Side, channels: int) -> None:
        super().__init__()
        self.conv1 = side.still(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
        self.conv2 = side.still(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
        self.spike1, self.spike2 = (side.spike(nn.BatchNorm2d(channels)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.spike2(self.conv2(self.spike1(self.conv1(x))))
        return y + x


class Attention(nn.Module):
    """Spiking self-attention, without softmax, and an MLP; on ``[..., C, tokens]``. Zhou et al., Spikformer, 2023."""

    def __init__(self, side: Side, C: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.ModuleList(side.still(nn.Conv1d(C, C, 1, bias=False)) for _ in range(3))
        self.spikes = nn.ModuleList(side.spike(nn.BatchNorm1d(C)) for _ in range(3))
        self.attend = side.spike(None, v_threshold=0.5)
        self.out, self.out_spike = side.still(nn.Conv1d(C, C, 1, bias=False)), side.spike(nn.BatchNorm1d(C))
        self.wide, self.wide_spike = side.still(nn.Conv1d(C, 4 * C, 1, bias=False)), side.spike(nn.BatchNorm1d(4 * C))
        self.narrow, self.narrow_spike = side.still(nn.Conv1d(4 * C, C, 1, bias=False)), side.spike(nn.BatchNorm1d(C))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            spike(conv(x)).unflatten(-2, (self.heads, -1)) for conv, spike in zip(self.qkv, self.spikes, strict=True)
        )
        mixed = (v @ k.transpose(-1, -2)) @ q * 0.125  # heads x d x d first: without softmax the order is free
        x = x + self.out_spike(self.out(self.attend(mixed.flatten(-3, -2))))
        y: Tensor = x + self.narrow_spike(self.narrow(self.wide_spike(self.wide(x))))
        return y


class Mean(nn.Module):
    """The mean over all that follows the channels."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(tuple(range(-self.dims, 0)))


class Side:
    """How a framework writes layers without time, a batch norm with a neuron after it, and a network."""

    def __init__(self, node: Callable[[], nn.Module] | None = None) -> None:
        self.node = node

    def still(self, module: nn.Module) -> nn.Module:
        """A layer without time."""
        if self.node is None:
            return module
        from spikingjelly.activation_based import layer

        wrapped: nn.Module = layer.SeqToANNContainer(module)
        return wrapped

    def spike(self, norm: Any, v_threshold: float = 1.0) -> nn.Module:
        """A neuron after a batch norm, or alone."""
        if self.node is None:
            neuron = sl.LIF(tau=2.0, v_threshold=v_threshold)
            return neuron if norm is None else sl.nn.NormNeuron(norm, neuron)
        node: Any = self.node()
        node.v_threshold = v_threshold
        return node if norm is None else nn.Sequential(self.still(norm), node)

    def network(self, layers: list[nn.Module]) -> Callable[[Tensor], Tensor]:
        """From ``[T, B, *]`` to ``[T, B, *]``."""
        if self.node is None:
            return sl.Network(*layers)
        from spikingjelly.activation_based import functional

        net = nn.Sequential(*layers)

        class Reset(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = net

            def forward(self, x: Tensor) -> Tensor:
                functional.reset_net(self.net)
                y: Tensor = self.net(x)
                return y

        return Reset()


def convolutional(side: Side, rehearse: bool) -> list[nn.Module]:
    """A residual SNN on [*, 3, 32, 32]."""
    C, blocks = (8, 1) if rehearse else (128, 4)
    torch.manual_seed(0)
    return [side.still(nn.Conv2d(3, C, 3, padding=1, bias=False)), side.spike(nn.BatchNorm2d(C)),
            *(Residual(side, C) for _ in range(blocks)), side.still(Mean(2)), side.still(nn.Linear(C, 10))]  # fmt: skip


def transformer(side: Side, rehearse: bool) -> list[nn.Module]:
    """A spiking transformer on [*, 3, 32, 32], patches of 4 x 4."""
    C, blocks = (16, 1) if rehearse else (384, 4)
    torch.manual_seed(0)
    return [side.still(nn.Conv2d(3, C, 4, 4, bias=False)), side.still(nn.Flatten(2)), side.spike(nn.BatchNorm1d(C)),
            *(Attention(side, C, 2 if rehearse else 8) for _ in range(blocks)), side.still(Mean(1)),
            side.still(nn.Linear(C, 10))]  # fmt: skip


def step(bench: Bench, build: Callable[[Side, bool], list[nn.Module]], dtype: torch.dtype | None) -> dict[str, Any]:
    """A training step of ours against SpikingJelly's, Adam, T=4, batch 64."""
    T, B, size = (2, 2, 8) if bench.rehearse else (4, 64, 32)
    g = torch.Generator(bench.device).manual_seed(1)
    x = torch.rand(T, B, 3, size, size, device=bench.device, generator=g)
    labels = torch.randint(10, (B,), device=bench.device, generator=g)
    built, make = {"spikeloom": Side()}, jelly_node(bench)
    if make is not None:
        built["spikingjelly"] = Side(make)
    sides, grads = {}, {}
    for name, side in built.items():
        net: Any = side.network(build(side, bench.rehearse))
        net = net.to(bench.device)
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)

        def loss(net: Any = net) -> Tensor:
            with torch.autocast(bench.device.type, dtype) if dtype else nullcontext():
                return F.cross_entropy(net(x).float().mean(0), labels)

        def run(loss: Callable[[], Tensor] = loss, optimiser: Any = optimiser) -> None:
            optimiser.zero_grad()
            loss().backward()
            optimiser.step()

        grads[name] = torch.cat([p.flatten().double() for p in torch.autograd.grad(loss(), list(net.parameters()))])
        cosine = float(F.cosine_similarity(grads["spikeloom"], grads[name], dim=0))
        print(f"{name}: the gradient has a cosine of {cosine:.4f} with ours", flush=True)
        if cosine < (0.97 if dtype is None else 0.8):
            raise SystemExit(f"{name}: not the same network; nothing was timed")
        sides[name] = run
    return {"sides": bench.compare(sides)}


def product(bench: Bench, *, gradient: bool) -> dict[str, Any]:
    """Spikes (10 %) @ W, or the gradient of W, from bits and dense; errors against float64 are printed first."""
    M, K, N = (70, 40, 24) if bench.rehearse else (16384, 2048, 2048)
    g = torch.Generator(bench.device).manual_seed(2)
    d = (torch.rand(M, K, device=bench.device, generator=g) < 0.1).float()
    W = torch.randn(M if gradient else K, N, device=bench.device, generator=g)
    packed = sl.pack(d).bits
    few, half = (packed, M, K), (d.bfloat16(), W.bfloat16())

    def times(a: Tensor, b: Tensor) -> Tensor:
        return b.t() @ a if gradient else a @ b

    def in_tf32() -> Tensor:
        torch.set_float32_matmul_precision("high")
        try:
            return times(d, W)
        finally:
            torch.set_float32_matmul_precision("highest")

    run = device.weight_gradient if gradient else device.times
    sides: dict[str, Callable[[], Any]] = {
        "bits, two parts of float16": lambda: run(*few, W),
        "bits, unpacked, float32": lambda: times(unpack_bits(packed, M * K, torch.float32).view(M, K), W),
        "dense float32": lambda: times(d, W),
        "dense TF32": in_tf32,
        "bits, unpacked, bfloat16": lambda: times(unpack_bits(packed, M * K, torch.bfloat16).view(M, K), half[1]),
        "dense bfloat16": lambda: times(*half),
    }
    exact = times(d.double(), W.double())
    for name, side in sides.items():
        error = float((side().double() - exact).abs().max() / exact.abs().max())
        print(f"{name}: largest error {error:.1e} of the largest value", flush=True)
        if error > (2e-2 if "bfloat16" in name or "TF32" in name else 1e-5):
            raise SystemExit(f"{name}: another product; nothing was timed")
    return {"sides": bench.compare(sides)}


def table(results: dict[str, dict[str, Any]], about: dict[str, str]) -> str:
    """Markdown: ratio first, then milliseconds and memory."""
    lines = ["# Results on a GPU", "", "; ".join(f"{k} {v}" for k, v in about.items()), ""]
    lines += ["| work | side | times as long as ours (quartiles) | ms | peak MB |", "|---|---|---|---|---|"]
    for work, row in results.items():
        for side, found in row["sides"].items():
            ratio = f"{found['ratio']:.2f} ({found['low']:.2f} to {found['high']:.2f})" if "ratio" in found else "1"
            lines.append(f"| {work} | {side} | {ratio} | {found['ms']:.3g} | {found['peak MB']:.0f} |")
    lines += [
        f"\n{work}: {row['GB/s']:.0f} GB/s, {100 * row['share of copy']:.0f} % of a copy "
        f"({row['copy GB/s']:.0f} GB/s), {100 * row['spikes']:.0f} % spikes"
        for work, row in results.items()
        if "GB/s" in row
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on a CPU; writes nothing")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the result files")
    args = parser.parse_args()
    if not args.rehearse:
        if not torch.cuda.is_available():
            raise SystemExit("no GPU on this machine; --rehearse runs the benchmark with tiny sizes on a CPU")
        require_idle()
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    bench = Bench(args.rehearse)
    with sl.backend("triton" if args.rehearse else "auto"):
        results = {f"LIF, T=32, 64 x 65536, {str(d)[6:]}": layer(bench, d) for d in (torch.float16, torch.float32)}
        for name, build in (("residual SNN", convolutional), ("spiking transformer", transformer)):
            for dtype in (None, torch.bfloat16 if args.rehearse else torch.float16):
                label = "float32" if dtype is None else f"autocast {str(dtype)[6:]}"
                results[f"training step, {name}, {label}"] = step(bench, build, dtype)
        for name, gradient in (("spikes @ W", False), ("gradient of W", True)):
            results[f"{name}, 16384 x 2048 x 2048"] = product(bench, gradient=gradient)
    about = {"gpu": "none" if args.rehearse else torch.cuda.get_device_name(), **machine()}
    print(table(results, about))
    if args.rehearse:
        print("a rehearsal: these times say nothing")
    else:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "gpu.json").write_text(json.dumps({"machine": about, **results}, indent=1) + "\n")
        (args.out / "gpu.md").write_text(table(results, about))


if __name__ == "__main__":
    main()
