"""What all rows of ``benchmarks.gpu`` share: the device, timing, CUDA graphs, launches and peak memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from .common import compare

Run = Callable[[], Any]
Row = dict[str, Any]
NAN = float("nan")


class Captured:
    """``run``, recorded once in a CUDA graph; a call replays it."""

    def __init__(self, run: Run, calls: int) -> None:
        self.run, self.calls = run, calls  # a graph does not keep the tensors that it reads
        before = _settled()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for _ in range(calls):
                self.kept = run()  # freed memory could be given to others, and the graph would write there
        torch.cuda.synchronize()
        self.peak = (torch.cuda.max_memory_allocated() - before) / 2**20

    def __call__(self) -> None:
        self.graph.replay()


class Bench:
    """The device, and whether this is only a rehearsal."""

    def __init__(self, *, rehearse: bool, seconds: float) -> None:
        self.rehearse = rehearse
        self.device = torch.device("cpu" if rehearse else "cuda")
        self.seconds = seconds

    def random(self, *shape: int, seed: int = 0) -> torch.Tensor:
        """Normal random numbers on the device."""
        g = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(*shape, device=self.device, generator=g)

    def captured(self, run: Run, *, calls: int = 1) -> Run:
        """What runs ``run`` ``calls`` times in one CUDA graph; in a rehearsal ``run`` itself."""
        return run if self.rehearse else Captured(run, calls)

    def compare(self, makers: Mapping[str, Callable[[], Run]], *, launches: bool = False) -> Row:
        """A row: times in turn, peak memory and, if asked for, launches of each side that can be made.

        The first side is ours and has to be there; of others the error is printed.
        """
        sides: dict[str, Run] = {}
        for name, make in makers.items():
            try:
                sides[name] = make()
            except Exception as error:
                if not sides:
                    raise
                print(f"  {name} is left out: {said(error)}", flush=True)
        if self.rehearse:
            for run in sides.values():
                run()
            return {"sides": {name: {"ms": NAN, "peak MB": NAN} for name in sides}}
        rows = compare({name: self._synchronised(run) for name, run in sides.items()}, seconds=self.seconds)
        for name, run in sides.items():
            rows[name]["ms"] /= getattr(run, "calls", 1)
            rows[name]["peak MB"] = run.peak if isinstance(run, Captured) else self._peak(run)
            if launches and not isinstance(run, Captured):
                rows[name]["launches"] = float(len(launched(run)))
        return {"sides": rows}

    def _synchronised(self, run: Run) -> Run:
        """``run``, until the device is done with it."""

        def wait() -> None:
            run()
            torch.cuda.synchronize()

        return wait

    def _peak(self, run: Run) -> float:
        """Most memory that a run takes besides what is there before, in MB."""
        run()
        before = _settled()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20


def launched(run: Run) -> list[str]:
    """The names of the kernels, copies and fills that a GPU runs in one call."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize()
    on_device = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return [e.name for e in on_device if not getattr(e, "is_user_annotation", False) and "#" not in e.name]


def said(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def jelly_node(bench: Bench, **options: Any) -> Callable[[], nn.Module] | None:
    """SpikingJelly's LIF, which chooses its kernels (CUDA or Triton) by the device."""
    try:
        from spikingjelly.activation_based import neuron, surrogate
    except ImportError:
        return None
    given = {"tau": 2.0, "surrogate_function": surrogate.ATan(), "step_mode": "m", **options}
    return lambda: neuron.LIFNode(**given).to(bench.device)


def _settled() -> int:
    """The memory in use when the device is done, from which a peak is counted."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()
