"""Memory and time of a training step: a spiking VGG-11 with batch norm on 3x32x32, T=8, batch 32, Adam.

Each side runs in a process of its own: peak resident memory during two steps, less what was resident before the first.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl

T, B = 8, 32
SIDES = ("packed, checkpointed", "packed", "dense", "spikingjelly", "spikingjelly memopt 1")


class Block(nn.Sequential):
    """What SpikingJelly's optimisation may checkpoint."""


def blocks(lif: Callable[[], nn.Module]) -> list[list[nn.Module]]:
    """VGG-11: convolution, batch norm, LIF and in places a pool; then the linear layers."""
    torch.manual_seed(0)
    made, channels = [], 3
    for width, pool in ((64, 1), (128, 1), (256, 0), (256, 1), (512, 0), (512, 1), (512, 0), (512, 1)):
        block = [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), lif()]
        made.append(block + [nn.MaxPool2d(2)] * pool)
        channels = width
    return [*made, [nn.Flatten(), nn.Linear(512, 512, bias=False), lif(), nn.Linear(512, 10)]]


def ours(side: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """This project's side."""
    parts: list[nn.Module] = [nn.Sequential(*block) for block in blocks(lambda: sl.LIF(tau=2.0))]
    if "checkpointed" in side:
        parts = [sl.memory.Checkpoint(part) for part in parts[:-1]] + parts[-1:]
    net = sl.Network(*parts, spikes="packed" if "packed" in side else "dense", static_prefix=False)
    return net, lambda x: net(x)


def theirs(side: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """SpikingJelly's side."""
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    def lif() -> nn.Module:
        return neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(), step_mode="m")

    def wrap(module: nn.Module) -> nn.Module:
        return module if isinstance(module, neuron.LIFNode) else layer.SeqToANNContainer(module)

    net = nn.Sequential(*(Block(*map(wrap, block)) for block in blocks(lif)))
    if "memopt" in side:
        from spikingjelly.activation_based.memopt import optimize_memory

        def example(model: nn.Module) -> object:
            functional.reset_net(model)
            return model(torch.rand(T, B, 3, 32, 32))

        optimize_memory(net, Block, example, level=1)  # its levels above 1 need CUDA

    def forward(x: Tensor) -> Tensor:
        functional.reset_net(net)
        y: Tensor = net(x)
        return y

    return net, forward


def resident(name: str) -> float:
    """A figure of the process in MB: ``VmRSS`` now, ``VmHWM`` at most."""
    line = next(line for line in Path("/proc/self/status").read_text().split("\n") if line.startswith(name))
    return int(line.split()[1]) / 1024


def measure(side: str) -> dict[str, Any]:
    """Runs in the child: peak, seconds of the second step, loss."""
    net, forward = (theirs if side.startswith("spikingjelly") else ours)(side)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    x, labels = torch.rand(T, B, 3, 32, 32), torch.randint(10, (B,))
    torch.manual_seed(1)
    x.uniform_()
    labels.random_(10)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, losses, start = resident("VmRSS"), [], 0.0
    for _ in range(2):
        start = time.perf_counter()
        optimiser.zero_grad()
        loss = F.cross_entropy(forward(x).mean(0), labels)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return {"mb": resident("VmHWM") - before, "seconds": time.perf_counter() - start, "losses": losses}


def main() -> dict[str, Any]:
    """All sides, one after the other."""
    found: dict[str, Any] = {}
    for side in SIDES:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.training_memory", side], capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"{side}: did not run: {done.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        found[side] = json.loads(done.stdout.splitlines()[-1])
        print(side, found[side], flush=True)
    first = found[SIDES[0]]
    if any(abs(f["losses"][0] - first["losses"][0]) > 1e-3 for f in found.values()):
        raise SystemExit(f"first losses differ: { ({side: f['losses'] for side, f in found.items()}) }")
    sides = {}
    for side, f in found.items():
        name, ratio = f"{side}: peak {f['mb']:.0f} MB", f["mb"] / first["mb"]
        same = {} if f is first else {"ratio": ratio, "low": ratio, "high": ratio}
        sides[name] = {"ms": 1e3 * f["seconds"], **same}
    return {"peak memory of a training step, spiking VGG-11 (the ratio is of peaks)": {"sides": sides}}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
