"""What all benchmarks share: matching before timing, interleaved timing, idleness, machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_UNITS = {"amx_tile": " with AMX", "avx512f": " with AVX-512", "avx2": " with AVX2"}
TURN = 50.0  # milliseconds
PACKAGES = ("spikeloom", "torch", "spikingjelly", "snntorch", "norse", "tonic", "expelliarmus")


def machine() -> dict[str, str]:
    """Processor, threads, versions, date."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        text = cpuinfo.read_text()
        lines = [line.split(":")[1].strip() for line in text.split("\n") if line.startswith("model name")]
        units = next((name for flag, name in _UNITS.items() if f" {flag}" in text), "")
        model = f"{lines[0]}{units}, {len(lines)} logical cores" if lines else model
    found = {"processor": model, "threads": str(torch.get_num_threads()), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {**found, "date": time.strftime("%Y-%m-%d")}


def require_idle(limit: float = 0.1) -> None:
    """Stops unless other processes use less than ``limit`` of the processor during a second."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return

    def busy() -> tuple[int, int]:
        fields = [int(f) for f in stat.read_text().split("\n")[0].split()[1:]]
        return sum(fields) - fields[3] - fields[4], sum(fields)

    own, (before, start) = time.process_time(), busy()
    time.sleep(1.0)
    after, end = busy()
    ticks = os.sysconf("SC_CLK_TCK")
    other = ((after - before) - (time.process_time() - own) * ticks) / max(1, end - start)
    if other > limit:
        raise SystemExit(f"other processes use {100 * other:.0f} % of the processor; run benchmarks on an idle machine")


def must_match(name: str, ours: list[torch.Tensor], theirs: list[torch.Tensor], tolerance: float = 1e-5) -> None:
    """Stops unless outputs (the first tensor, exactly) and gradients (relative to their largest value) agree."""
    if not torch.equal(ours[0], theirs[0]):
        raise SystemExit(f"{name}: spikes differ in {int((ours[0] != theirs[0]).sum())} places; nothing was timed")
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        error = float((a - b).abs().max() / b.abs().max())
        if error > tolerance:
            raise SystemExit(f"{name}: gradients differ by {error:.1e} of the largest; nothing was timed")


def compare(sides: dict[str, Callable[[], object]], *, seconds: float = 12.0) -> dict[str, dict[str, float]]:
    """Times the sides in turn for about ``seconds``; the first is ours.

    In its turn each side runs once uncounted, then for ``TURN`` milliseconds, of which the mean counts: a first run
    finds the caches full of what another side left, memory where that put it, and a processor that has to be woken.
    Of neighbouring turns the ratio is taken, so that a processor whose speed drifts changes none. A side that runs in
    a process of its own returns, as a float, the milliseconds that it took there.

    Returns for each side the median in milliseconds and, for the others, the median and quartiles of the ratio to
    ours of neighbouring turns.
    """
    for run in sides.values():
        for _ in range(3):
            run()
    times: dict[str, list[float]] = {name: [] for name in sides}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(sides))]) < 7:
        for name, run in sides.items():
            run()
            turn: list[float] = []
            while sum(turn) < TURN:
                start = time.perf_counter()
                there = run()
                here = (time.perf_counter() - start) * 1e3
                turn.append(there if isinstance(there, float) else here)
                del there  # or freeing it, and the graph behind it, would count as the next run's time
            times[name].append(statistics.mean(turn))
    ours = times[next(iter(sides))]
    rows: dict[str, dict[str, float]] = {}
    for name, measured in times.items():
        rows[name] = {"ms": statistics.median(measured)}
        if measured is not ours:
            ratios = [b / a for a, b in zip(ours, measured, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            rows[name].update(ratio=middle, low=low, high=high)
    return rows
