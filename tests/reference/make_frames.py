"""Makes frames.npz beside it: frames as SpikingJelly's integrators make them, from events in and out of order.

In the peers' environment of make_golden.py: peers/bin/python tests/reference/make_frames.py
SpikingJelly's data sets import torchvision and torchaudio; benchmarks/stubs.py puts empty packages in their place.
"""

from pathlib import Path

import numpy as np
from spikingjelly.datasets import utils

H, W, N = 5, 6, 400


def main():
    draw = np.random.default_rng(20261124)
    store = {}
    for case in ("ordered", "shuffled"):
        t = np.sort(draw.integers(1000, 9000, N))
        if case == "shuffled":  # neighbours out of order, as cameras write them
            t = t + draw.integers(-300, 300, N)
        e = dict(t=t, x=draw.integers(0, W, N), y=draw.integers(0, H, N), p=draw.integers(0, 2, N))
        for key, column in e.items():
            store[f"{case}/{key}"] = column
        for steps in (1, 7, 16):
            for by in ("time", "number"):
                frames = utils.integrate_events_by_fixed_frames_number(e, by, steps, H, W)
                store[f"{case}/{by}/{steps}"] = frames.astype(np.uint16)
        for duration in (500, 1234):
            frames = utils.integrate_events_by_fixed_duration(e, duration, H, W)
            store[f"{case}/duration/{duration}"] = frames.astype(np.uint16)
    np.savez_compressed(Path(__file__).with_name("frames.npz"), **store)
    print(", ".join(f"{k} {v.shape}" for k, v in store.items()))


main()
