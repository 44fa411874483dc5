"""Events as tensors: against SpikingJelly's frames, loops over the equations, and closed forms."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from spikeloom import data
from spikeloom.data import events as ev
from spikeloom.data.events import frames as module

REFERENCE = Path(__file__).parents[1] / "reference" / "frames.npz"


@pytest.fixture(params=["compiled", "plain"])
def way(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(module, "_library", lambda events: None)
    return request.param


def golden(case):
    with np.load(REFERENCE) as file:
        return {key.split("/", 1)[1]: file[key] for key in file if key.startswith(case)}


@pytest.mark.parametrize("case", ["ordered", "shuffled"])
def test_frames_are_spikingjellys(case, way):
    """Also of events out of order, which it cuts where the first and the last of a frame's time stand."""
    g = golden(case)
    recording = ev.as_recording({n: g[n] for n in "txyp"}, (5, 6))
    compared = 0
    for key, wanted in g.items():
        kind, _, n = key.partition("/")
        if not n:
            continue
        cut = {"duration": dict(duration=int(n)), "time": dict(steps=int(n)), "number": dict(steps=int(n), by="count")}
        found = data.to_frames(recording, **cut[kind])
        assert found.dtype == torch.float32
        assert np.array_equal(found.numpy(), wanted), key
        sparse = data.to_sparse(recording, **cut[kind])
        assert np.array_equal(sparse.to_dense().numpy(), wanted), key
        compared += 1
    assert compared == 8


def test_the_last_bin_and_empty_bins(way):
    """By hand: dt = floor(10 / 3) = 3, and the last frame takes what is at 9 and 10 too."""
    events = {"t": [0, 1, 7, 9, 10], "x": [0, 1, 2, 3, 0], "y": [0] * 5, "p": [1] * 5}
    found = data.to_frames(events, steps=3, size=(1, 4))
    assert found[:, 1, 0].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 1]]
    assert found[:, 0].sum() == 0
    found = data.to_frames(events, duration=5, size=(1, 4))  # 2 frames; the event at 10 joins the last
    assert found[:, 1, 0].tolist() == [[1, 1, 0, 0], [1, 0, 1, 1]]
    found = data.to_frames(events, count=2, size=(1, 4))
    assert found[:, 1, 0].tolist() == [[1, 1, 0, 0], [1, 0, 1, 1]]
    found = data.to_frames(events, steps=2, by="count", size=(1, 4))
    assert found[:, 1, 0].tolist() == [[1, 1, 0, 0], [1, 0, 1, 1]]


def test_few_events_or_none(way):
    none = ev.Recording(np.empty(0, ev.EVENT), (2, 3))
    for cut in (dict(steps=4), dict(steps=4, by="count")):
        assert data.to_frames(none, **cut).shape == (4, 2, 2, 3)
        assert data.to_frames(none, **cut).sum() == 0
    assert data.to_frames(none, duration=5).shape == (1, 2, 2, 3)
    one = {"t": [7], "x": [1], "y": [1], "p": [0]}
    for cut in (dict(steps=3), dict(steps=3, by="count"), dict(duration=10), dict(count=5)):
        found = data.to_frames(one, size=(2, 3), **cut)
        assert found.sum() == 1
        assert found[-1, 0, 1, 1] == 1
    assert data.voxel_grid(none, 4).sum() == 0
    assert data.time_surface(none, 10.0).sum() == 0


def test_one_dimension(way):
    """No polarity channel; steps are cut without rounding: dt = 10 / 4 = 2.5."""
    events = ev.make_events([0, 2, 3, 5, 10], [0, 1, 1, 2, 3], None, [1, 0, 1, 1, 1])
    found = data.to_frames(events, steps=4, size=(5,))
    assert found.tolist() == [[1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]
    assert data.to_frames(events, steps=1, size=(5,), values="binary").tolist() == [[1, 1, 1, 1, 0]]


def test_values(way):
    events = {"t": [0, 1, 2, 3], "x": [0, 0, 1, 1], "y": [0] * 4, "p": [1, 1, 1, 0]}
    assert data.to_frames(events, steps=1, size=(1, 2))[0, :, 0].tolist() == [[0, 1], [2, 1]]
    assert data.to_frames(events, steps=1, size=(1, 2), values="binary")[0, :, 0].tolist() == [[0, 1], [1, 1]]
    assert data.to_frames(events, steps=1, size=(1, 2), values="one-hot")[0, :, 0].tolist() == [[0, 1], [1, 0]]


def test_both_ways_agree_on_many_events(monkeypatch):
    draw = np.random.default_rng(0)
    n = 100_000
    t = np.sort(draw.integers(0, 10**6, n))
    events = ev.make_events(t, draw.integers(0, 90, n), draw.integers(0, 70, n), draw.integers(0, 2, n))
    fast = data.to_frames(events, steps=13, size=(70, 90))
    sliced = data.to_frames(events[::2], steps=13, size=(70, 90))  # not contiguous
    monkeypatch.setattr(module, "_library", lambda e: None)
    assert torch.equal(fast, data.to_frames(events, steps=13, size=(70, 90)))
    assert torch.equal(sliced, data.to_frames(events[::2].copy(), steps=13, size=(70, 90)))
    assert fast.sum() == n


def test_wrong_calls(way):
    events = {"t": [0, 5], "x": [0, 9], "y": [0, 0], "p": [1, 1]}
    for options, message in (
        ({}, "give one of steps, duration and count, got none of them"),
        (dict(steps=2, count=2), "give one of"),
        (dict(steps=0), "steps must be positive and whole, got 0"),
        (dict(steps=1.5), "steps must be positive and whole"),
        (dict(duration=-1), "duration must be positive, got -1"),
        (dict(steps=2, by="number"), 'by must be "time" or "count"'),
        (dict(steps=2, values="sum"), 'values must be "count", "binary" or "one-hot"'),
    ):
        with pytest.raises(ValueError, match=message):
            data.to_frames(events, **options)
    with pytest.raises(data.DataError, match=r"event 1 of 2 has x = 9, outside 0 to 4; the size given is \(1, 5\)"):
        data.to_frames(events, steps=1, size=(1, 5))
    wrong = ev.Recording(ev.as_events(events), (1, 5))  # made by hand, so nobody has looked yet
    with pytest.raises(data.DataError, match="event 1 of 2 has x = 9"):
        data.to_frames(wrong, steps=1)


def test_voxel_grid_is_bilinear_in_time():
    events = {"t": [0, 25, 60, 100], "x": [0, 1, 0, 1], "y": [0, 0, 1, 1], "p": [1, 0, 1, 1]}
    found = data.voxel_grid(events, 5, size=(2, 2))
    wanted = torch.zeros(5, 2, 2)
    for t, x, y, p in zip(*events.values(), strict=True):
        s = 4 * t / 100
        for b in range(5):
            wanted[b, y, x] += (1 if p else -1) * max(0.0, 1 - abs(b - s))
    torch.testing.assert_close(found, wanted)
    assert events["p"] == [1, 0, 1, 1]  # nothing of the caller's is written
    with pytest.raises(ValueError, match="needs the events of a camera"):
        data.voxel_grid(ev.make_events([1], [1], None, [1]), 3)


def test_time_surface():
    events = {"t": [0, 10, 40, 100], "x": [0, 1, 0, 1], "y": [0] * 4, "p": [1, 0, 1, 1]}
    found = data.time_surface(events, 20.0, steps=2, size=(1, 2))
    wanted = torch.zeros(2, 2, 1, 2)
    wanted[0, 1, 0, 0], wanted[0, 0, 0, 1] = math.exp(-10 / 20), math.exp(-40 / 20)
    wanted[1, 1, 0, 0], wanted[1, 0, 0, 1], wanted[1, 1, 0, 1] = math.exp(-3), math.exp(-4.5), 1.0
    torch.testing.assert_close(found, wanted)


def test_recordings():
    recording = ev.as_recording({"t": [5, 10, 20], "x": [1, 2, 0], "y": [0, 3, 1], "p": [1, 0, 1]})
    assert (recording.size, recording.measured, recording.duration) == ((4, 3), True, 15)
    assert recording.rate == 3 / 15e-6
    assert recording.between(10, 20).events["t"].tolist() == [10]
    assert repr(recording) == "Recording(3 events, 4 x 3, 15 us)"
    assert ev.Recording(recording.events[:0], (4, 3)).rate == 0


@pytest.mark.parametrize("value", [4.0, True, "4", float("nan"), 0, -3, 2**40, np.float64(4)])
def test_counts_are_whole_numbers(value):
    """Integers of anybody's, and nothing that only looks like one."""
    events = {"t": [0, 10], "x": [0, 1], "y": [0, 0], "p": [1, 0]}
    for call, what in (
        (lambda: data.to_frames(events, steps=value), "to_frames: steps"),
        (lambda: data.to_sparse(events, count=value), "to_frames: count"),
        (lambda: data.to_frames(events, steps=value, by="count"), "to_frames: steps"),
        (lambda: data.Frames(steps=2, length=value), "Frames: length"),
        (lambda: data.Frames(count=value), "Frames: count"),
        (lambda: data.voxel_grid(events, value), "voxel_grid: bins"),
        (lambda: data.time_surface(events, 5.0, steps=value), "time_surface: steps"),
    ):
        with pytest.raises(ValueError, match=f"{what} must be positive and whole, got"):
            call()
    for good in (4, np.int64(4), np.uint8(4), torch.tensor(4)):
        assert data.to_frames(events, steps=good).shape == (4, 2, 1, 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1.5, True, "5"])
def test_durations_are_finite_and_positive(value):
    events = {"t": [0, 10], "x": [0, 1], "y": [0, 0], "p": [1, 0]}
    for call, what in (
        (lambda: data.to_frames(events, duration=value), "to_frames: duration"),
        (lambda: data.Frames(duration=value), "Frames: duration"),
        (lambda: data.time_surface(events, value), "time_surface: tau"),
    ):
        with pytest.raises(ValueError, match=f"{what} must be positive, got"):
            call()
    with pytest.raises(ValueError, match=r"duration=1e-300 makes more than 2,147,483,648 frames"):
        data.to_frames(events, duration=1e-300)
    assert data.to_frames(events, duration=np.float32(2.5)).shape == (4, 2, 1, 2)


@pytest.mark.parametrize("size", [(2.0, 2), 2, "22", (True, 2), (0, 2), (2, 2, 2), ()])
def test_sizes_are_whole_numbers(size):
    with pytest.raises(data.DataError, match="size"):
        data.to_frames({"t": [0], "x": [0], "y": [0], "p": [1]}, steps=1, size=size)


def test_the_whole_range_of_times_has_a_duration():
    events = ev.make_events([-(2**63), 2**63 - 1], [0, 1], [0, 0], [1, 0])
    assert ev.as_recording(events).duration == 2**64 - 1
    assert data.to_frames(events, steps=2).sum((1, 2, 3)).tolist() == [1, 1]
