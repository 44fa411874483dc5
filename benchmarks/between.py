"""Two checkouts of this project against each other, in one run: what a change costs or saves.

``python -m benchmarks.between ANOTHER_CHECKOUT`` runs the same workloads from both, in processes of their own that take
turns, and prints the shortest time of each and the ratio. Outputs are compared first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import spikeloom as sl

sys.path.append(str(Path(__file__).parents[1]))
from benchmarks.common import require_idle

TURNS = 4
OPTIONS: Any = getattr(sl, "options", sl)  # where an older checkout has them


def net(spikes: str) -> sl.Network:
    """The convolutional SNN of the benchmark of streams."""
    torch.manual_seed(0)
    layers = [
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), sl.LIF(v_threshold=0.3), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), sl.LIF(v_threshold=0.3), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 128), sl.LIF(v_threshold=0.1), nn.Linear(128, 10), sl.LI()),
    ]
    return sl.Network(*layers, spikes=spikes)


def stream(spikes: str) -> Callable[[], torch.Tensor]:
    """20 steps of one image."""
    network, x = net(spikes).eval(), torch.rand(20, 1, 1, 28, 28)
    running = network.stream()

    def run() -> torch.Tensor:
        running.reset()
        with torch.no_grad():
            return torch.stack([torch.as_tensor(running(x_t)) for x_t in x])

    return run


def layer(shape: tuple[int, ...], neuron: sl.Neuron, train: bool) -> Callable[[], torch.Tensor]:
    """One neuron layer on a sequence, with its gradient where asked."""
    x = (torch.rand(shape) * 2).requires_grad_(train)

    def run() -> torch.Tensor:
        y: torch.Tensor = neuron.sequence(x)[0]
        if train:
            x.grad = None
            y.sum().backward()
        return y.detach()

    return run


def training(spikes: str) -> Callable[[], torch.Tensor]:
    """A training step on 16 images, T = 4."""
    network, x = net(spikes), torch.rand(4, 16, 1, 28, 28)
    optimiser = torch.optim.SGD(network.parameters(), 0.0)

    def run() -> torch.Tensor:
        optimiser.zero_grad()
        y: torch.Tensor = network(x)
        y.square().mean().backward()
        optimiser.step()
        return y.detach()

    return run


def evaluation(rows: int, rate: float) -> Callable[[], torch.Tensor]:
    """A linear layer on a few rows of spikes in evaluation."""
    linear, s = nn.Linear(512, 512).eval(), sl.pack((torch.rand(rows, 512) < rate).float())

    def run() -> torch.Tensor:
        with torch.no_grad():
            return torch.as_tensor(linear(s))

    return run


def sparse() -> Callable[[], torch.Tensor]:
    """SparseLinear with 1 % of its synapses, forward and backward."""
    linear, x = sl.nn.SparseLinear(1000, 1000, density=0.01), torch.rand(32, 1000)

    def run() -> torch.Tensor:
        y: torch.Tensor = linear(x)
        y.sum().backward()
        return y.detach()

    return run


WORK: dict[str, Callable[[], Callable[[], torch.Tensor]]] = {
    "stream, 20 steps, dense": lambda: stream("dense"),
    "stream, 20 steps, bits": lambda: stream("packed"),
    "LIF 4x2x8, no gradient": lambda: layer((4, 2, 8), sl.LIF(), False),
    "LIF 4x2x8, training": lambda: layer((4, 2, 8), sl.LIF(), True),
    "Refractory(Adaptive(IF)) 4x2x8, no gradient": lambda: layer(
        (4, 2, 8), OPTIONS.Refractory(OPTIONS.Adaptive(sl.IF()), steps=1), False
    ),
    "LIF 100x64x512, training": lambda: layer((100, 64, 512), sl.LIF(), True),
    "PLIF 16x16x128x16x16, training": lambda: layer((16, 16, 128, 16, 16), sl.PLIF(), True),
    "CSNN training step, dense": lambda: training("dense"),
    "CSNN training step, bits": lambda: training("packed"),
    "Linear of bits, 1 row, 2 %": lambda: evaluation(1, 0.02),
    "Linear of bits, 8 rows, 10 %": lambda: evaluation(8, 0.1),
    "Linear of bits, 32 rows, 10 %": lambda: evaluation(32, 0.1),
    "SparseLinear, training": sparse,
}
FIRST = """
import time, torch
import spikeloom as sl
t = time.perf_counter()
sl.Network(torch.nn.Linear(3, 4), sl.LIF(), torch.nn.Linear(4, 5), sl.ALIF())(torch.rand(4, 2, 3)).sum().backward()
print(time.perf_counter() - t)
"""


def measure() -> dict[str, list[float]]:
    """Of each workload, a sum of its output and the shortest of many times."""
    found = {}
    for name, make in WORK.items():
        torch.manual_seed(1)
        work = make()
        check = float(work().double().sum())
        times: list[float] = []
        started = time.perf_counter()
        while time.perf_counter() - started < 1.0 or len(times) < 5:
            t = time.perf_counter()
            work()
            times.append(time.perf_counter() - t)
        found[name] = [check, min(times)]
    return found


def _run(checkout: Path, cache: Path, *command: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(checkout / "src"), "SPIKELOOM_CACHE": str(cache)}
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=True)
    return done.stdout


def main() -> None:
    """Prints a table: this checkout, the other one, and their ratio."""
    here, other = Path(__file__).parents[1], Path(sys.argv[1]).resolve()
    require_idle()
    best: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        caches = [Path(folder) / "here", Path(folder) / "other"]
        for cache in caches:
            cache.mkdir(mode=0o700)
        for _ in range(TURNS):
            checks = []
            for side, (checkout, cache) in enumerate(zip((here, other), caches, strict=True)):
                found = json.loads(_run(checkout, cache, str(Path(__file__)), "--measure"))
                found["first call, kernels on disk"] = [
                    0.0,
                    min(float(_run(checkout, cache, "-c", FIRST)) for _ in "abc"),
                ]
                checks.append({name: check for name, (check, _) in found.items()})
                for name, (_, seconds) in found.items():
                    times = best.setdefault(name, [float("inf"), float("inf")])
                    times[side] = min(times[side], seconds)
            for name, check in checks[0].items():
                if abs(check - checks[1][name]) > 1e-3 * max(1.0, abs(check)):
                    raise SystemExit(f"{name}: outputs differ, {check} and {checks[1][name]}; nothing is claimed")
    print(f"{'':46}{'here':>10}{'other':>10}  here / other")
    for name, (mine, theirs) in best.items():
        print(f"{name:46}{1e3 * mine:8.3f}ms{1e3 * theirs:8.3f}ms{mine / theirs:10.2f}")


if __name__ == "__main__":
    if "--measure" in sys.argv:
        print(json.dumps(measure()))
    else:
        main()
