"""Import, and the first call of a neuron: new, from the cache, each in a process of its own."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

_IMPORT = "import time, torch; t = time.perf_counter(); import spikeloom; print(time.perf_counter() - t)"
_CALL = """
import time, torch, spikeloom as sl
x = torch.rand(20, 8, 16, requires_grad={grad})
{warm}
t = time.perf_counter()
y, _ = sl.LIF().sequence(x)
{backward}
print(time.perf_counter() - t)
"""
_WARM = "from spikeloom.kernel.trace import trace; trace(sl.IF(reset='soft'))"  # torch's own imports


def seconds(code: str, cache: str, times: int) -> list[float]:
    """What ``code`` prints, each time in a new process."""
    env = {**os.environ, "SPIKELOOM_CACHE": cache}
    run = lambda: subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)  # noqa: E731
    return [float(run().stdout) for _ in range(times)]


def main() -> dict[str, Any]:
    """Seconds, medians of several processes."""
    train = {"grad": True, "backward": "y.sum().backward()"}
    infer = {"grad": False, "backward": ""}
    new = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as empty:
            new += seconds(_CALL.format(warm=_WARM, **train), empty, 1)
    with tempfile.TemporaryDirectory() as cache:
        seconds(_CALL.format(warm="", **train), cache, 1)
        seconds(_CALL.format(warm="", **infer), cache, 1)
        found = {
            "import spikeloom, over import torch": seconds(_IMPORT, cache, 5),
            "new neuron, forward and backward": new,
            "from the cache, forward and backward": seconds(_CALL.format(warm=_WARM, **train), cache, 3),
            "inference from the cache, cold process": seconds(_CALL.format(warm="", **infer), cache, 3),
        }
    return {name: {"seconds": statistics.median(measured)} for name, measured in found.items()}
