"""Files of a million events, and two million events as frames, against tonic, SpikingJelly and expelliarmus."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spikeloom import data
from spikeloom.data import events as ev

from .common import compare

N = 1_000_000
WRONG_TIMES = "expelliarmus (C; its times gain 4,096 us with every upper half)"
Side = Callable[[], Any]


def sample(n: int, size: tuple[int, int], span: int) -> ev.Recording:
    """Events uniform in time, place and polarity."""
    draw = np.random.default_rng(0)
    t = np.sort(draw.integers(0, span, n))
    x, y, p = draw.integers(0, size[1], n), draw.integers(0, size[0], n), draw.integers(0, 2, n)
    return ev.Recording(ev.make_events(t, x, y, p), size)


def frames() -> dict[str, Any]:
    """Two million events in 20 frames of 128 x 128; equal counts first."""
    recording = sample(2_000_000, (128, 128), 10**6)
    e = recording.events
    ours = data.to_frames(recording, steps=20)
    sides: dict[str, Side] = {"spikeloom": lambda: data.to_frames(recording, steps=20)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from tonic.transforms import ToFrame
        except ImportError:
            pass
        else:
            theirs = np.empty(len(e), [("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "?")])
            for name in "xytp":
                theirs[name] = e[name]
            to_frame = ToFrame(sensor_size=(128, 128, 2), n_time_bins=20)
            found = torch.from_numpy(to_frame(theirs).astype(np.float32))
            if not torch.equal(found[:-1], ours[:-1]):  # the last one lacks what the others leave over
                raise SystemExit("tonic's frames differ; nothing was timed")
            sides["tonic"] = lambda: to_frame(theirs)
        try:
            from spikingjelly.datasets.utils import integrate_events_by_fixed_frames_number as integrate
        except ImportError:
            pass
        else:
            columns = {name: np.ascontiguousarray(e[name]) for name in "txyp"}
            if not np.array_equal(integrate(columns, "time", 20, 128, 128), ours.numpy()):
                raise SystemExit("SpikingJelly's frames differ; nothing was timed")
            sides["SpikingJelly"] = lambda: integrate(columns, "time", 20, 128, 128)
    sides["copy of the events"] = e.view(np.uint8).copy
    return {"2 M events to 20 frames of 128x128": {"sides": compare(sides)}}


def reading() -> dict[str, Any]:
    """A million events in each format; equal columns first. What takes seconds is timed once."""
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, write, sides, slow in FORMATS:
            path, wanted = write(folder)
            found = data.read_events(path).events
            if not np.array_equal(found, wanted):
                raise SystemExit(f"{title}: what was read is not what was written; nothing was timed")
            fast: dict[str, Side] = {"spikeloom": lambda path=path: data.read_events(path)}
            for peer, make in sides.items():
                side = _matched(make, path, wanted, f"{title}, {peer}")
                if side:
                    fast[peer] = side
            fast["copy of the events"] = found.view(np.uint8).copy
            result = compare(fast, seconds=6.0)
            for peer, make in slow.items():
                side = _matched(make, path, wanted, f"{title}, {peer}")
                if side:
                    start = time.perf_counter()
                    side()
                    ms = (time.perf_counter() - start) * 1e3
                    result[f"{peer} (one run)"] = {"ms": ms, "ratio": ms / result["spikeloom"]["ms"]}
            rows[f"read {title}, {len(wanted):,} events, {path.stat().st_size / 1e6:.0f} MB"] = {"sides": result}
    return rows


def _matched(make: Callable[[Path], Side], path: Path, wanted: Any, title: str) -> Side | None:
    try:
        side = make(path)
    except ImportError:
        return None
    found = side()
    for column in "xyp" if WRONG_TIMES in title else "txyp":
        if not np.array_equal(np.asarray(found[column]).astype(np.int64), wanted[column].astype(np.int64)):
            raise SystemExit(f"{title}: column {column} differs; nothing was timed")
    return side


def _written(suffix: str, size: tuple[int, int]) -> Callable[[Path], tuple[Path, Any]]:
    def write(folder: Path) -> tuple[Path, Any]:
        recording = sample(N, size, 2 * 10**6)
        data.write_events(folder / f"events{suffix}", recording)
        return folder / f"events{suffix}", recording.events

    return write


def _aedat2(folder: Path) -> tuple[Path, Any]:
    e = sample(N, (128, 128), 2 * 10**6).events
    words = np.empty((N, 2), ">u4")
    words[:, 0] = e["x"].astype(np.uint32) << 1 | e["y"].astype(np.uint32) << 8 | e["p"]
    words[:, 1] = e["t"]
    path = folder / "events2.aedat"
    path.write_bytes(b"#!AER-DAT2.0\r\n# made for a benchmark\r\n" + words.tobytes())
    return path, e


def _evt3(folder: Path) -> tuple[Path, Any]:
    """Words of time, row and column before every event that changes them."""
    e = sample(N, (720, 1280), 2 * 10**6).events
    t, y = e["t"], e["y"].astype(np.int64)
    words = np.stack(
        (8 << 12 | t >> 12, 6 << 12 | t & 4095, y, 2 << 12 | e["p"].astype(np.int64) << 11 | e["x"].astype(np.int64)), 1
    )
    new = np.ones((N, 4), bool)
    new[1:, 0] = (t[1:] >> 12) != (t[:-1] >> 12)
    new[1:, 1] = t[1:] != t[:-1]
    new[1:, 2] = y[1:] != y[:-1]
    path = folder / "events3.raw"
    path.write_bytes(b"% evt 3.0\n% geometry 1280x720\n% end\n" + words[new].astype("<u2").tobytes())
    return path, e


def _expelliarmus(encoding: str) -> Callable[[Path], Side]:
    def make(path: Path) -> Side:
        from expelliarmus import Wizard

        wizard = Wizard(encoding=encoding)
        return lambda: wizard.read(path)

    return make


def _jelly_aedat3(path: Path) -> Side:
    from spikingjelly.datasets.utils import load_aedat_v3

    return lambda: load_aedat_v3(path)


def _jelly_dat(path: Path) -> Side:
    from spikingjelly.datasets.nav_gesture import _readATIS_tddat

    def read() -> dict[str, Any]:
        t, xy, p, _ = _readATIS_tddat(str(path), orig_at_zero=False)
        return {"t": t, "x": xy[:, 0], "y": xy[:, 1], "p": p}

    return read


def _jelly_aedat2(path: Path) -> Side:
    from spikingjelly.datasets.cifar10_dvs import _load_origin_data

    def read() -> dict[str, Any]:
        found = _load_origin_data(path)  # upright; here as the file has it
        return {"t": found["t"], "x": 127 - found["y"], "y": 127 - found["x"], "p": 1 - found["p"]}

    return read


def _dat1(folder: Path) -> tuple[Path, Any]:
    """Version 1, which SpikingJelly reads."""
    e = sample(N, (240, 304), 2 * 10**6).events
    words = np.empty((N, 2), "<u4")
    words[:, 0] = e["t"]
    words[:, 1] = e["x"].astype(np.uint32) | e["y"].astype(np.uint32) << 9 | e["p"].astype(np.uint32) << 17
    path = folder / "events1.dat"
    path.write_bytes(b"% made for a benchmark\n" + bytes((0, 8)) + words.tobytes())
    return path, e


FORMATS: tuple[tuple[str, Any, dict[str, Any], dict[str, Any]], ...] = (
    ("AEDAT 3.1", _written(".aedat", (128, 128)), {}, {"SpikingJelly": _jelly_aedat3}),
    ("AEDAT 2.0", _aedat2, {"SpikingJelly": _jelly_aedat2}, {}),
    ("DAT 1 (ATIS)", _dat1, {}, {"SpikingJelly": _jelly_dat}),
    ("DAT 2", _written(".dat", (720, 1280)), {"expelliarmus (C)": _expelliarmus("dat")}, {}),
    ("EVT 2.0", _written(".raw", (720, 1280)), {"expelliarmus (C)": _expelliarmus("evt2")}, {}),
    ("EVT 3.0", _evt3, {WRONG_TIMES: _expelliarmus("evt3")}, {}),
)


def main() -> dict[str, Any]:
    """Frames, then files."""
    return {**frames(), **reading()}
