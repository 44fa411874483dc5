"""Augmentations and filters of events, against loops over single events and what they must keep."""

import numpy as np
import pytest
import torch

from spikeloom.data import events as ev


def recording(n=400, size=(12, 17), span=20_000, seed=0):
    draw = np.random.default_rng(seed)
    t = np.sort(draw.integers(100, 100 + span, n))
    return ev.as_recording(
        {"t": t, "x": draw.integers(0, size[1], n), "y": draw.integers(0, size[0], n), "p": draw.integers(0, 2, n)},
        size,
    )


def rows(r):
    return r.events.tolist()


ALL = [
    ev.Flip("x"), ev.Flip("y"), ev.Flip("t"), ev.Flip("p"), ev.Roll(3), ev.Crop((5, 6)), ev.Crop((5, 6), "centre"),
    ev.Resize((6, 8)), ev.CropTime(5000), ev.CropTime(5000, "start"), ev.Drop(0.3), ev.Drop(0.3, up_to=True),
    ev.DropTime(0.2), ev.DropArea(0.3), ev.Jitter(time=50.0, space=1.0), ev.Noise(20.0), ev.Refractory(500),
    ev.HotPixels(), ev.Background(1000), ev.NDA(),
    ev.Compose([ev.Flip("x"), ev.Roll(2), ev.Drop(0.1)]),
]  # fmt: skip


@pytest.mark.parametrize("transform", ALL, ids=str)
def test_what_every_transform_keeps(transform):
    """Events on the sensor in order of time, the given recording untouched, the same seed the same events."""
    given = recording()
    before = given.events.copy()
    for seed in range(8):
        torch.manual_seed(seed)
        once = transform(given)
        torch.manual_seed(seed)
        again = transform(given)
        assert rows(once) == rows(again)
        assert once.events.dtype == ev.EVENT
        assert (once.events["x"] < once.size[1]).all()
        assert (once.events["y"] < once.size[0]).all()
        assert (np.diff(once.events["t"]) >= 0).all()
        assert np.array_equal(given.events, before)
    empty = ev.Recording(given.events[:0], given.size)
    assert len(transform(empty)) == 0


def test_flips():
    r = ev.as_recording({"t": [0, 4, 10], "x": [0, 1, 4], "y": [0, 1, 2], "p": [1, 0, 1]}, (3, 5))
    assert rows(ev.Flip("x", 1.0)(r)) == [(0, 4, 0, True), (4, 3, 1, False), (10, 0, 2, True)]
    assert rows(ev.Flip("y", 1.0)(r)) == [(0, 0, 2, True), (4, 1, 1, False), (10, 4, 0, True)]
    assert rows(ev.Flip("t", 1.0)(r)) == [(0, 4, 2, False), (6, 1, 1, True), (10, 0, 0, False)]
    assert rows(ev.Flip("p", 1.0)(r)) == [(0, 0, 0, False), (4, 1, 1, True), (10, 4, 2, False)]
    assert ev.Flip("x", 0.0)(r) is r
    flipped = [rows(ev.Flip("x")(r)) != rows(r) for _ in range(400)]
    assert 150 < sum(flipped) < 250


def test_crop_resize_and_time():
    r = ev.as_recording({"t": [0, 4, 10], "x": [0, 2, 4], "y": [0, 1, 2], "p": [1, 0, 1]}, (3, 5))
    assert rows(ev.Crop((1, 3), "centre")(r)) == [(4, 1, 0, False)]
    assert ev.Crop((1, 3), "centre")(r).size == (1, 3)
    assert rows(ev.Resize((6, 10))(r)) == [(0, 0, 0, True), (4, 4, 2, False), (10, 8, 4, True)]
    assert rows(ev.Resize((1, 2))(r)) == [(0, 0, 0, True), (4, 0, 0, False), (10, 1, 0, True)]
    assert rows(ev.CropTime(5, "start")(r)) == rows(r)[:2]
    assert rows(ev.CropTime(100)(r)) == rows(r)
    with pytest.raises(ValueError, match=r"\(9, 9\) does not fit into the sensor of \(3, 5\)"):
        ev.Crop((9, 9))(r)


def test_roll_moves_all_alike():
    r = ev.as_recording({"t": np.arange(300) * 7, "x": np.arange(300) % 17, "y": np.arange(300) % 12}, (12, 17))
    old = {e[0]: e for e in rows(r)}
    seen = set()
    for _ in range(60):
        moved = rows(ev.Roll(2)(r))
        shifts = {(e[1] - old[e[0]][1], e[2] - old[e[0]][2]) for e in moved}
        assert len(shifts) == 1
        ((dx, dy),) = shifts
        stay = [e for e in rows(r) if 0 <= e[1] + dx < 17 and 0 <= e[2] + dy < 12]
        assert len(moved) == len(stay)
        seen |= shifts
    assert {dx for dx, _ in seen} == {dy for _, dy in seen} == {-2, -1, 0, 1, 2}


def test_shares_that_are_dropped():
    r = recording(20_000)
    assert abs(len(ev.Drop(0.3)(r)) / 20_000 - 0.7) < 0.02
    kept = ev.DropTime(0.25)(r)
    gaps = np.diff(kept.events["t"]).max()
    lost = r.duration - kept.duration
    assert abs(max(gaps, lost) - 0.25 * r.duration) < 0.01 * r.duration
    assert abs(len(kept) / 20_000 - 0.75) < 0.02
    kept = ev.DropArea(0.5)(r)
    missing = np.bincount(kept.events["y"] * 17 + kept.events["x"], minlength=12 * 17).reshape(12, 17) == 0
    assert missing.sum() == 6 * 8  # half of each side
    noisy = ev.Noise(1000.0)(r)  # 1000 per second and pixel in 0.02 s
    assert abs(len(noisy) - 20_000 - 1000 * 12 * 17 * r.duration * 1e-6) < 300
    for wrong in (ev.Drop, ev.DropTime, ev.DropArea):
        with pytest.raises(ValueError, match=r"must be from 0 to 1, got 1\.5"):
            wrong(1.5)


def test_jitter_has_its_deviation():
    r = recording(50_000, size=(400, 400), span=10**7)
    moved = ev.Jitter(space=2.0)(r)
    assert len(moved) > 49_000
    r = recording(5_000, span=10**7)
    moved = ev.Jitter(time=300.0)(r)
    steps = np.sort(r.events["t"]) - moved.events["t"]
    assert 100 < np.abs(steps).mean() < 300  # order hides a part of it
    inner = recording(20_000, size=(400, 400))
    torch.manual_seed(1)
    shifted = ev.Jitter(space=2.0)(ev.Recording(np.tile(inner.events[:1], 20_000), (400, 400)))
    assert abs(shifted.events["x"].std() - (4 + 1 / 12) ** 0.5) < 0.05  # rounding adds 1/12


def test_refractory_against_a_loop():
    r = recording(3_000, size=(3, 4))
    last, wanted = {}, []
    for e in rows(r):
        if e[0] - last.get(e[1:3], -(10**9)) >= 700:
            wanted.append(e)
            last[e[1:3]] = e[0]
    assert 0 < len(wanted) < 3_000
    assert sorted(rows(ev.Refractory(700)(r))) == sorted(wanted)
    assert [e[0] for e in rows(ev.Refractory(700)(r))] == [e[0] for e in wanted]


def test_background_against_a_loop():
    r = recording(800)
    events = rows(r)
    wanted = [
        e
        for e in events
        if any(
            max(abs(o[1] - e[1]), abs(o[2] - e[2])) == 1 and e[0] - 150 <= o[0] <= e[0]  # o is a neighbour
            for o in events
        )
    ]
    assert 0 < len(wanted) < 800
    assert rows(ev.Background(150)(r)) == wanted


def test_hot_pixels():
    r = recording(3_000, size=(20, 20), span=10**6)
    hot = ev.make_events(np.linspace(0, 10**6, 500), np.full(500, 3), np.full(500, 4), np.ones(500))
    both = ev.as_recording(np.concatenate((r.events, hot)), (20, 20))
    for clean in (ev.HotPixels()(both), ev.HotPixels(100.0)(both)):
        counts = np.bincount(clean.events["y"] * 20 + clean.events["x"].astype(int), minlength=400)
        assert counts[4 * 20 + 3] == 0
        others = r.events[(r.events["x"] != 3) | (r.events["y"] != 4)]
        assert len(clean) == len(others)


def test_event_mix_takes_events_of_both():
    a, b = recording(2_000, seed=1), recording(2_000, seed=2)
    shares = []
    for _ in range(30):
        mixed, share = ev.event_mix(a, b)
        own = {(t - int(a.events["t"].min()), x, y, p) for t, x, y, p in rows(a)}
        assert share == pytest.approx(sum(e in own for e in rows(mixed)) / max(len(mixed), 1), abs=0.02)
        assert (np.diff(mixed.events["t"]) >= 0).all()
        shares.append(share)
    assert min(shares) < 0.4 < 0.6 < max(shares)
    with pytest.raises(ValueError, match="one sensor size"):
        ev.event_mix(a, recording(size=(3, 3)))


def test_cut_mix():
    frames = torch.arange(4.0)[:, None, None, None, None].expand(4, 3, 2, 10, 10)
    labels = torch.arange(4)
    for _ in range(20):
        mixed, others, share = ev.cut_mix(frames, labels)
        for i in range(4):
            own = (mixed[i] == i).double().mean().item()
            assert own == pytest.approx(1.0 if others[i] == i else share)
            assert set(mixed[i].unique().tolist()) <= {float(i), float(others[i])}
    assert torch.equal(frames[:, 0, 0, 0, 0], torch.arange(4.0))
    square = torch.arange(4.0)[None, :, None, None, None].expand(4, 4, 2, 10, 10)  # T = B
    for _ in range(20):
        mixed, others, share = ev.cut_mix(square, labels, batch_first=False)
        for i in range(4):
            assert (mixed[:, i] == i).double().mean().item() == pytest.approx(1.0 if others[i] == i else share)
    with pytest.raises(ValueError, match=r"for 4 labels, got \[3, 4, 2, 10, 10\]; batch_first=False"):
        ev.cut_mix(square[:3], labels)


def test_one_dimension():
    r = ev.as_recording(ev.make_events(np.arange(50), np.arange(50) % 7, None, np.ones(50)), (7,))
    for transform in (
        ev.Flip("x", 1.0),
        ev.Roll(2),
        ev.Drop(0.2),
        ev.Jitter(space=1.0),
        ev.Noise(1e5),
        ev.Refractory(9),
    ):
        assert transform(r).events.dtype == ev.EVENT_1D
    assert rows(ev.Flip("x", 1.0)(r))[0] == (0, 6, True)
    for transform in (ev.Flip("y", 1.0), ev.Crop((1, 1)), ev.DropArea(0.2), ev.Background(5), ev.NDA()):
        with pytest.raises(ValueError, match="needs the events of a camera"):
            transform(r)
