"""Readers and writers of events: files built from the specifications event by event, real files against counts and
hashes of other decoders, damage, and random bytes."""

import contextlib
import gzip
import hashlib
import importlib.util
import io
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spikeloom import data
from spikeloom.data import events as ev
from spikeloom.data.events import mat, native
from spikeloom.data.events.source import unwrap

_found = importlib.util.spec_from_file_location("data_built", Path(__file__).with_name("built.py"))
built = importlib.util.module_from_spec(_found)
_found.loader.exec_module(built)
sample, atis, dat, nas = built.sample, built.atis, built.dat, built.nas
aedat2, aedat3, aedat4 = built.aedat2, built.aedat3, built.aedat4
evt2, evt21, evt3 = built.evt2, built.evt21, built.evt3
SMALL, BUILT, WHOLE = built.SMALL, built.BUILT, built.WHOLE

ROOT = os.environ.get("SPIKELOOM_DATA")
real = pytest.mark.skipif(not ROOT, reason="SPIKELOOM_DATA names no folder with the real files")


def columns(recording):
    return [recording.events[name].astype(np.int64).tolist() for name in recording.events.dtype.names]


def put(tmp_path, raw, name="file"):
    path = tmp_path / name
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("name", BUILT)
def test_files_built_from_the_specification(name, tmp_path):
    raw, wanted, size = BUILT[name]
    for file in (put(tmp_path, raw), put(tmp_path, gzip.compress(raw), "packed.gz")):
        found = data.read_events(file)
        assert found.format == name.split("-")[0]
        assert columns(found) == wanted
        assert found.events.dtype == ev.EVENT
        assert found.measured == (size is None)
        assert found.size == (size or (max(wanted[2]) + 1, max(wanted[1]) + 1))
        assert found.skipped == 0


@pytest.mark.parametrize("kind", ["lz4", "zstd"])
def test_aedat4_compressed(kind, tmp_path):
    if kind == "lz4":
        compress = pytest.importorskip("lz4.frame").compress
    else:
        compress = pytest.importorskip("zstandard").ZstdCompressor().compress
    file = put(tmp_path, aedat4(*sample(), compress=compress, kind={"lz4": 1, "zstd": 3}[kind]))
    assert columns(data.read_events(file)) == sample()


def test_aedat3_leaves_out_what_is_invalid_and_other_packets(tmp_path):
    t, x, y, p = SMALL
    valid = [k % 3 > 0 for k in range(len(t))]
    frames = struct.pack("<hhiiiiii", 2, 1, 36, 4, 0, 2, 2, 2) + bytes(72)
    found = data.read_events(put(tmp_path, aedat3(t, x, y, p, valid=valid, extra=frames)))
    assert columns(found) == [[v for v, ok in zip(c, valid, strict=True) if ok] for c in SMALL]


def test_times_beyond_the_counters(tmp_path):
    """31 bits and a packet's counter (AEDAT 3.1), 32 unsigned bits that overflow (AEDAT 2, DAT), 28 + 6 (EVT 2)."""
    t, x, y, p = sample(size=(120, 120), span=200_000)
    late = [a + 2**31 - 100_000 for a in t]
    assert columns(data.read_events(put(tmp_path, aedat3(late, x, y, p, per_packet=1))))[0] == late
    assert columns(data.read_events(put(tmp_path, aedat2(late, x, y, p))))[0] == late  # unsigned: no step at 2^31
    over = [a + 2**32 - 100_000 for a in t]
    assert over[0] < 2**32 <= over[-1]
    assert columns(data.read_events(put(tmp_path, aedat2(over, x, y, p))))[0] == over
    assert columns(data.read_events(put(tmp_path, dat(over, x, y, p))))[0] == over
    further = [a + 2**34 - 100_000 for a in t]
    assert columns(data.read_events(put(tmp_path, evt2(further, x, y, p))))[0] == further


def test_unwrap_goes_back_over_an_overflow():
    """An event from before the overflow, written after it."""
    t = np.array([250, 254, 1, 255, 2, 100, 200, 10], np.uint8)
    assert unwrap(t, 8).tolist() == [250, 254, 257, 255, 258, 356, 456, 522]
    assert unwrap(t[:0], 8).tolist() == []
    assert unwrap(np.array([10, 250, 5, 240, 100], np.uint8), 8).tolist() == [10, 250, 261, 240, 356]  # a pause first


def test_long_pauses_are_kept(tmp_path):
    """Of more than half the counter's range, while it has not overflown."""
    t = [5, 3 * 2**30, 3 * 2**30 + 7]
    events = ev.make_events(t, [1, 2, 3], [1, 2, 3], [1, 0, 1])
    data.write_events(tmp_path / "a.dat", events, size=(8, 8))
    assert columns(data.read_events(tmp_path / "a.dat"))[0] == t
    read_both_ways(tmp_path / "a.dat")
    assert columns(data.read_events(put(tmp_path, aedat2(t, [1, 2, 3], [1, 2, 3], [1, 0, 1]))))[0] == t


def test_atis_overflow_markers(tmp_path):
    """Row 240 adds 2^13 us to all that follows, and is no event."""
    raw = atis([5, 100, 0, 7, 9], [1, 2, 3, 4, 5], [1, 2, 240, 240, 5], [0, 1, 0, 0, 1])
    assert columns(data.read_events(put(tmp_path, raw), format="atis")) == [
        [5, 100, 9 + 2 * 8192],
        [1, 2, 5],
        [1, 2, 5],
        [0, 1, 1],
    ]


def test_davis_words_of_frames_and_motion_are_no_events(tmp_path):
    head = b"#!AER-DAT2.0\r\n# AEChip: eu.seebetter.ini.chips.davis.DAVIS240C\r\n"
    words = [(1 << 31 | 5, 1), (7 << 12 | 9 << 22 | 1 << 11, 2), (1 << 10, 3), (239 << 12 | 179 << 22, 4)]
    found = data.read_events(put(tmp_path, head + b"".join(struct.pack(">II", *w) for w in words)))
    assert columns(found) == [[2, 4], [7, 239], [9, 179], [1, 0]]
    assert found.skipped == 0


def test_evt3_states_and_vectors(tmp_path):
    low, high, row, one, base, v12, v8 = 6 << 12, 8 << 12, 0, 2 << 12, 3 << 12, 4 << 12, 5 << 12
    raw = evt3(
        one | 5,  # before any time: not known when, left out
        high | 3, low | 7, row | 100, one | 2048 | 9, one | 10,
        base | 2048 | 20, v12 | 0b100000000001, v8 | 0b10000001, one | 1, v8 | 0b10,
        low | 4,  # three microseconds back: no overflow
        one | 11,
        high | 4,  # lower bits begin at 0
        one | 12,
        row | 101, low | 1, base | 30, v12 | 0b11,
        10 << 12, 14 << 12 | 5, 7 << 12, 15 << 12,  # triggers and others
        one | 13,
    )  # fmt: skip
    a = 3 << 12
    b = 4 << 12
    t = [a + 7] * 7 + [a + 7, a + 4, b, b + 1, b + 1, b + 1]
    x = [9, 10, 20, 31, 32, 39, 1, 41, 11, 12, 30, 31, 13]
    y = [100] * 10 + [101] * 3
    p = [1, 0, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0]
    assert columns(data.read_events(put(tmp_path, raw))) == [t, x, y, p]
    again = evt3(high | 3, row | 5, low | 9, one | 1, high | 3, one | 2, high | 4, one | 3)  # the upper bits said again
    assert columns(data.read_events(put(tmp_path, again)))[0] == [a + 9, a + 9, b]


def test_evt3_upper_time_overflows(tmp_path):
    raw = evt3(8 << 12 | 4095, 6 << 12 | 5, 100, 2 << 12 | 1, 8 << 12 | 0, 6 << 12 | 6, 2 << 12 | 2)
    assert columns(data.read_events(put(tmp_path, raw)))[0] == [(4095 << 12) + 5, (1 << 24) + 6]


def test_evt21_vectors(tmp_path):
    def event(p, t, x, y, valid):
        return p << 60 | (t & 63) << 54 | x << 43 | y << 32 | valid

    words = [
        event(1, 3, 64, 5, 1),  # before any time
        8 << 60 | 7 << 32, event(1, 3, 64, 5, 1 << 31 | 1), event(0, 4, 96, 6, 0b110), 0xE << 60, event(1, 5, 0, 1, 0),
        8 << 60 | 9 << 32, event(0, 0, 32, 7, 1 << 8),
    ]  # fmt: skip
    found = data.read_events(put(tmp_path, evt21(words)))
    t = 7 << 6
    assert columns(found) == [
        [t + 3, t + 3, t + 4, t + 4, 9 << 6],
        [64, 95, 97, 98, 40],
        [5, 5, 6, 6, 7],
        [1, 1, 0, 0, 0],
    ]
    with pytest.raises(data.DataError, match="legacy"):
        data.read_events(put(tmp_path, b"% format EVT21;endianness=legacy;height=480;width=640\n" + bytes(8)))


def test_auditory_sensor(tmp_path):
    t, a = list(range(0, 3000, 10)), [k % 64 for k in range(300)]
    wide = data.read_events(put(tmp_path, nas(t, a, True)))
    assert (wide.format, wide.size) == ("nas-4", (32,))
    assert columns(wide) == [t, [b // 2 for b in a], [b % 2 == 0 for b in a]]
    narrow = data.read_events(put(tmp_path, nas(t, a, False)))
    assert narrow.format == "nas-2"
    assert columns(narrow)[0] == [b // 5 for b in t]  # 0.2 us a tick
    assert narrow.events.dtype == ev.EVENT_1D
    assert narrow.shape == (32,)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0.000010 3 4 1\n1.5 5 6 0\n", [[10, 1_500_000], [3, 5], [4, 6], [1, 0]]),
        ("10 3 4 1\n20 5 6 -1\n", [[10, 20], [3, 5], [4, 6], [1, 0]]),
        ("# a comment\n240 180\n10,3,4,1\n20,5,6,0", [[10, 20], [3, 5], [4, 6], [1, 0]]),
        ("x,y,p,t\n3,4,1,10\n5,6,0,20\n", [[10, 20], [3, 5], [4, 6], [1, 0]]),
        ("timestamp;x;polarity\n10;3;1\n20;5;0\n", [[10, 20], [3, 5], [1, 0]]),
    ],
)
def test_text(text, wanted, tmp_path):
    found = data.read_events(put(tmp_path, text.encode()))
    assert (found.format, columns(found)) == ("text", wanted)
    assert found.size == ((180, 240) if "240 180" in text else found.size)


def test_arrays_and_their_usual_names(tmp_path):
    t, x, y, p = sample(n=10)
    wide = dict(t=np.array(t), x=np.array(x), y=np.array(y), p=np.array(p))
    np.savez(tmp_path / "a.npz", **wide)
    np.savez_compressed(tmp_path / "b.npz", ts=np.array(t) * 1e-6, x=wide["x"], y=wide["y"], pol=wide["p"] * 2 - 1)
    structured = np.array(list(zip(x, y, p, t, strict=True)), [("x", "i2"), ("y", "i2"), ("p", "i1"), ("t", "i8")])
    np.save(tmp_path / "c.npy", structured)
    np.save(tmp_path / "d.npy", np.array([t, x, y, p]).T)
    for name in ("a.npz", "b.npz", "c.npy", "d.npy"):
        assert columns(data.read_events(tmp_path / name)) == [t, x, y, p], name
    np.savez(tmp_path / "whole.npz", **{**wide, "t": np.array(t, np.float64)})  # microseconds, as MATLAB has numbers
    assert columns(data.read_events(tmp_path / "whole.npz")) == [t, x, y, p]
    # rows of (y, x, t) for each polarity
    pos = [[c, b, a] for a, b, c, d in zip(t, x, y, p, strict=True) if d]
    neg = [[c, b, a] for a, b, c, d in zip(t, x, y, p, strict=True) if not d]
    np.savez(tmp_path / "e.npz", pos=np.array(pos), neg=np.array(neg))
    assert columns(data.read_events(tmp_path / "e.npz")) == [t, x, y, p]


def test_objects_are_not_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    np.save(tmp_path / "a.npy", np.array([{"t": [1], "x": Evil()}], dtype=object), allow_pickle=True)
    with pytest.raises(data.DataError, match="no plain array"):
        data.read_events(tmp_path / "a.npy")
    assert not (tmp_path / "touched").exists()
    np.save(tmp_path / "b.npy", np.array([{"t": np.array([1]), "x": np.array([2])}], dtype=object), allow_pickle=True)
    assert columns(data.read_events(tmp_path / "b.npy")) == [[1], [2], [1]]


def test_matlab(tmp_path):
    scipy = pytest.importorskip("scipy.io")
    t, x, y, p = sample(n=10)
    scipy.savemat(tmp_path / "a.mat", dict(ts=np.c_[t], x=np.c_[x], y=np.c_[y], pol=np.c_[p]))
    assert columns(data.read_events(tmp_path / "a.mat")) == [t, x, y, p]
    scipy.savemat(tmp_path / "b.mat", dict(TD=dict(ts=t, x=x, y=y, p=p)))
    assert columns(data.read_events(tmp_path / "b.mat")) == [t, x, y, p]
    for packed in (False, True):  # every type of numbers, in a structure in a structure, among other things
        kinds = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
        many = {n: np.array([[1, 2], [3, 100]], n) for n in kinds}
        named = {f"v{n}": v for n, v in many.items()}
        scipy.savemat(
            tmp_path / "all.mat", dict(named, text="text", inner=dict(deep=dict(named)), z=1j), do_compression=packed
        )
        found = mat.read(memoryview((tmp_path / "all.mat").read_bytes()))
        assert set(found) == {*named, "inner"}
        for part in (found, found["inner"]["deep"]):
            for n, v in named.items():
                assert np.array_equal(part[n], v), n
                assert part[n].dtype == v.dtype
    train = np.zeros((101, 3))
    train[-1] = 0.001, 0.002, 0.5
    train[13, 0], train[99, 2], train[0, 2] = 1, -1, 1
    scipy.savemat(tmp_path / "c.mat", dict(spiketrain=train))
    found = data.read_events(tmp_path / "c.mat")
    assert columns(found) == [[1000, 500_000, 500_000], [3, 0, 9], [1, 0, 9], [1, 1, 0]]
    assert found.size == (10, 10)


def test_hdf5_of_many_recordings(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "shd.h5", "w") as file:
        kind = h5py.vlen_dtype(np.float16)
        times = file.create_dataset("spikes/times", 2, kind)
        units = file.create_dataset("spikes/units", 2, h5py.vlen_dtype(np.int64))
        times[0], units[0] = [0.25, 0.5], [699, 3]
        times[1], units[1] = [1.0], [7]
    found = data.read_events(tmp_path / "shd.h5", index=0)
    assert columns(found) == [[250_000, 500_000], [699, 3], [1, 1]]
    assert found.size == (700,)
    assert columns(data.read_events(tmp_path / "shd.h5", index=1)) == [[1_000_000], [7], [1]]
    with pytest.raises(data.DataError, match="2 recordings; choose one with index=0 to 1, got None"):
        data.read_events(tmp_path / "shd.h5")


# --- writers ---

WRITTEN = {
    "a.aedat": "aedat3", "a.dat": "dat", "a.raw": "evt2", "a.npz": "npz", "a.h5": "hdf5", "a.txt": "text",
    "a.csv": "text", "a.bin": "atis",
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(0, 300), seed=st.integers(0, 10**6), span=st.sampled_from([1, 1000, 8_000_000]))
def test_round_trip(name, tmp_path, n, seed, span):
    wanted = sample(n, (180, 240), span, seed)
    events = ev.make_events(*(np.array(c, np.int64) for c in wanted))
    data.write_events(tmp_path / name, events, size=(180, 240))
    if n == 0 and name == "a.bin":
        with pytest.raises(data.DataError, match="is empty"):
            data.read_events(tmp_path / name)
        return
    if n == 0 and name in ("a.txt", "a.csv"):
        return  # a text without a line of numbers says nothing
    given = WRITTEN[name] if n < 5 or span == 1 else None  # without a header, times that run forward must tell
    found = data.read_events(tmp_path / name, format=given)
    assert columns(found) == wanted
    assert found.format == WRITTEN[name]
    if name not in ("a.bin", "a.aedat"):
        assert found.size == (180, 240)
    assert not [p for p in tmp_path.iterdir() if "part" in p.name]


def test_round_trip_beyond_the_counters(tmp_path):
    wanted = sample(200, (180, 240), 2**33)
    events = ev.make_events(*(np.array(c, np.int64) for c in wanted))
    for name in ("a.aedat", "a.npz", "a.h5", "a.txt", "a.raw"):
        data.write_events(tmp_path / name, events, size=(180, 240))
        assert columns(data.read_events(tmp_path / name)) == wanted, name
    for name, message in (("a.dat", "DAT holds times from 0 to 4,294,967,295"), ("a.bin", "8,388,607 us")):
        with pytest.raises(data.DataError, match=message):
            data.write_events(tmp_path / name, events, size=(180, 240))
        assert not (tmp_path / name).exists()


def test_one_dimension_round_trips(tmp_path):
    events = ev.make_events([1, 5, 9], [0, 63, 2], None, [1, 0, 1])
    for name in ("a.npz", "a.h5", "a.txt"):
        data.write_events(tmp_path / name, events, size=(64,))
        found = data.read_events(tmp_path / name)
        assert columns(found) == [[1, 5, 9], [0, 63, 2], [1, 0, 1]]
    with pytest.raises(data.DataError, match="no place for a sensor of size \\(64,\\)"):
        data.write_events(tmp_path / "a.dat", events, size=(64,))
    with pytest.raises(data.DataError, match="only read"):
        data.write_events(tmp_path / "a.x", events, format="evt3")
    with pytest.raises(data.DataError, match="which format"):
        data.write_events(tmp_path / "a.x", events)


# --- what other programs' events look like ---


def test_events_by_name():
    foreign = np.array([(1, 2, True, 3)], [("x", "i2"), ("y", "i2"), ("p", "?"), ("t", "i8")])  # tonic's order
    assert ev.as_events(foreign).tolist() == [(3, 1, 2, True)]
    assert ev.as_events({"t": [3.0], "x": [1], "p": [-1]}).tolist() == [(3, 1, False)]
    same = ev.make_events([3], [1], [2], [1])
    assert ev.as_events(same) is same
    for wrong, message in (
        ({"x": [1]}, "need columns t and x"),
        ({"t": [0.5], "x": [1]}, "whole microseconds"),
        ({"t": [1], "x": [70_000]}, r"x\[0\] = 70000 does not fit"),
        ({"t": [1], "x": [-1]}, r"x\[0\] = -1 does not fit"),
        ({"t": [1, 2], "x": [1]}, "different lengths"),
        ({"t": [float("nan")], "x": [1]}, "does not fit"),
    ):
        with pytest.raises(data.DataError, match=message):
            ev.as_events(wrong)
    with pytest.raises(data.DataError, match=r"event 0 of 1 has y = 2, outside 0 to 1"):
        ev.as_recording(same, (2, 2))


# --- damage ---


@pytest.mark.parametrize("name", [n for n in BUILT if n != "aedat4"])
def test_a_file_cut_short(name, tmp_path):
    raw, wanted, size = BUILT[name]
    file = put(tmp_path, raw[:-3])
    with pytest.raises(data.DataError, match=r"byte [\d,]+: (the file ends|a packet of)"):
        data.read_events(file, format=name.split("-")[0])
    found = data.read_events(file, format=name.split("-")[0], errors="skip", size=size)
    assert columns(found) == [c[:-1] for c in wanted]
    assert 0 < found.skipped < 200


def test_aedat4_cut_short(tmp_path):
    """A packet that is not whole is lost; here the last one is of another stream, so no event is."""
    raw, wanted, _ = BUILT["aedat4"]
    for cut, events in ((3, 50), (30, 40)):
        with pytest.raises(data.DataError, match=r"byte [\d,]+: a packet of"):
            data.read_events(put(tmp_path, raw[:-cut]))
        found = data.read_events(put(tmp_path, raw[:-cut]), errors="skip")
        assert columns(found) == [c[:events] for c in wanted]


def test_events_outside_the_sensor(tmp_path):
    t, x, y, p = sample(n=6)
    x[4] = 250
    for raw, at in ((dat(t, x, y, p), len(dat([], [], [], [])) + 32), (evt2(t, x, y, p), None)):
        with pytest.raises(data.DataError, match="x = 250") as error:
            data.read_events(put(tmp_path, raw))
        assert at is None or f"byte {at:,}" in str(error.value)
        found = data.read_events(put(tmp_path, raw), errors="skip")
        assert columns(found)[0] == t[:4] + t[5:]
        assert found.skipped > 0


def test_headers_that_lie(tmp_path):
    raw = aedat3(*SMALL)
    at = raw.index(b"#!END-HEADER\r\n") + 14
    for field, value, message in (
        (16, 2**31 - 1, "a packet of 17,179,869,176 bytes"),
        (4, -8, "no header of a packet"),
        (4, 7, "polarity events of 7 bytes"),
        (20, 999, "no header of a packet"),
    ):
        wrong = raw[: at + field] + struct.pack("<i", value) + raw[at + field + 4 :]
        with pytest.raises(data.DataError, match=rf"byte [\d,]+: {message}"):
            data.read_events(put(tmp_path, wrong))
    npy = io.BytesIO()
    np.lib.format.write_array_header_1_0(npy, dict(shape=(10**12,), fortran_order=False, descr="<i8"))
    with pytest.raises(data.DataError, match="takes 8,000,000,000,000 bytes, 8 are there"):
        data.read_events(put(tmp_path, npy.getvalue() + bytes(8)))
    words = evt2(*sample()) + struct.pack("<I", 5 << 28)
    with pytest.raises(data.DataError, match="a word of type 5"):
        data.read_events(put(tmp_path, words))
    assert data.read_events(put(tmp_path, words), errors="skip").skipped == 4
    with pytest.raises(data.DataError, match="its header is damaged"):
        data.read_events(put(tmp_path, b"#!AER-DAT4.0\r\n" + b"\xff" * 40))
    with pytest.raises(data.DataError, match=r"address layout of chip 'some\.Chip'"):
        data.read_events(put(tmp_path, b"#!AER-DAT2.0\r\n# AEChip: some.Chip\r\n" + bytes(8)))


def test_what_is_no_event_file(tmp_path):
    with pytest.raises(data.DataError, match="the file is empty"):
        data.read_events(put(tmp_path, b""))
    with pytest.raises(data.DataError, match="none of the known event formats"):
        data.read_events(put(tmp_path, b"\x89PNG\r\n\x1a\n" + bytes(range(256))))
    with pytest.raises(data.DataError, match="cannot be read: No such file"):
        data.read_events(tmp_path / "missing")
    with pytest.raises(data.DataError, match="there is no event format 'evt4'"):
        data.read_events(put(tmp_path, b"1 2 3 4\n"), format="evt4")
    with pytest.raises(ValueError, match='errors must be "raise" or "skip"'):
        data.read_events(put(tmp_path, b"1 2 3 4\n"), errors="ignore")


MAGIC = [
    b"", b"#!AER-DAT2.0\r\n", b"#!AER-DAT3.1\r\n#!END-HEADER\r\n", b"#!AER-DAT4.0\r\n", b"% evt 2.0\n", b"% evt 2.1\n",
    b"% evt 3.0\n", b"% Version 2\n\x0c\x08", b"\x93NUMPY", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"MATLAB 5.0",
    b"1 2 3 4\n", b"\x1f\x8b",
]  # fmt: skip


@contextlib.contextmanager
def in_numpy():
    """Without the decoders in C."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: None)
        yield


def read_both_ways(path, **options):
    """What a file gives, which must be the same from the decoders in C and in NumPy: events or an error."""
    found = []
    for way in (contextlib.nullcontext, in_numpy):
        with way():
            try:
                r = data.read_events(path, **options)
                found.append((r.events.tobytes(), r.size, r.format, r.measured, r.skipped))
            except data.DataError as problem:
                found.append(str(problem))
    assert found[0] == found[1]
    return found[0]


def read_within_bounds(path, raw, errors):
    """Events on the sensor, or an error; memory within a small multiple of the file; C and NumPy agree."""
    if not raw.startswith(b"\x89HDF"):  # of damaged ones libhdf5 makes what it likes
        read_both_ways(path, errors=errors)
    tracemalloc.start()
    found = problem = None
    try:
        found = data.read_events(path, errors=errors)
    except data.DataError as error:
        problem = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 300 * len(raw) + 2**23, f"{peak:,} bytes for a file of {len(raw):,}"
    if found is None:
        assert str(path) in problem
        return
    for name, side in zip(("y", "x")[-len(found.size) :], found.size, strict=True):
        assert (found.events[name] < side).all()


@pytest.mark.parametrize("name", BUILT)
def test_decoders_in_c_are_those_in_numpy(name, tmp_path):
    assert isinstance(read_both_ways(put(tmp_path, BUILT[name][0])), tuple)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), geometry=st.booleans(), clean=st.booleans())
def test_random_words_of_evt3(seed, geometry, clean, tmp_path):
    """Every order of words, with and without a known sensor; unknown words in some."""
    draw = np.random.default_rng(seed)
    kinds = [0, 2, 3, 4, 5, 6, 8, 10, 15] if clean else [0, 2, 3, 4, 5, 6, 8, 1]
    words = (draw.choice(kinds, 400) * 4096 + draw.integers(0, 4096, 400)).tolist()
    raw = evt3(*words) if geometry else evt3(*words).replace(b"% geometry 1280x720\n", b"")
    for errors in ("raise", "skip"):
        read_both_ways(put(tmp_path, raw), errors=errors)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(magic=st.sampled_from(MAGIC), body=st.binary(max_size=2000), errors=st.sampled_from(["raise", "skip"]))
def test_random_bytes(magic, body, errors, tmp_path):
    read_within_bounds(put(tmp_path, magic + body), magic + body, errors)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([*BUILT, "evt3", "evt21", "npz", "npy", "text", "nas", "h5", "mat"]),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.floats(0.2, 1),
    errors=st.sampled_from(["raise", "skip"]),
)
def test_damaged_files(name, changes, cut, errors, tmp_path):
    raw = bytearray(WHOLE[name])
    for place, value in changes:
        raw[int(place * (len(raw) - 1))] = value
    raw = bytes(raw[: int(cut * len(raw))])
    read_within_bounds(put(tmp_path, raw), raw, errors)


# --- real files ---

# Number of events, first and last time, and the SHA-256 (first 16 digits) of the packed records t int64, x and y
# uint16, p uint8, as other programs decode them: faery 0.7.1 and expelliarmus 1.1.12 (EVT 2.0), faery and aedat 2.3.0
# (AEDAT 4), expelliarmus (DAT), tonic 1.7.0 (N-MNIST; addresses and times of AEDAT 2.0).
REAL = {
    "prophesee_evt2/evt2.raw": (521_252, 913716224, 913812095, "58773c06cd3098d1"),
    "aedat4/sample.aedat4": (111_954, 1605537493718345, 1605537494308262, "8e8467d9ac3912a5"),
    "ncars_dat/sample_ncars.dat": (2_009, 0, 99_952, "ad3600a8858f0dd6"),
    "nmnist/sample_nmnist.bin": (4_325, 654, 311_175, "35feb1bcb32c1ccf"),
    "aedat2_dvs128/alex_walking_again.aedat": (19_182, 41306606, 48193156, "c26eae2e27114bb7"),
    "aedat2_dvs128/objects/Caixa.aedat": (201_523, 3151642323, 3170134272, "a9e993c9e9da99bf"),
}


def digest(events):
    return hashlib.sha256(np.ascontiguousarray(events).tobytes()).hexdigest()[:16]


@real
@pytest.mark.parametrize("name", REAL)
def test_real_files_against_other_decoders(name):
    found = data.read_events(Path(ROOT, "events", name))
    t = found.events["t"]
    assert (len(found), t[0], t[-1], digest(found.events)) == REAL[name]


# What the README of the data states: number of events, sensor, seconds (to the digits given there).
STATED = {
    "aedat2_davis240/IMU_translBoxes.aedat": (162_771, (180, 240), 2.07),
    "aedat2_dvs128/sample_aedat_header.aedat": (0, (260, 346), 0.0),
    "aedat2_dvs128/alex_walking_again.aedat": (19_182, (128, 128), 6.9),
    "aedat4/sample.aedat4": (111_954, (240, 320), None),
    "davis240_txt/events_chunk.txt": (50_000, (180, 240), None),
    "nas_cochlea_aedat/130Hz_mono_64ch_ONOFF_addr2b_ts02.aedat": (331_949, None, None),
    "nas_cochlea_aedat/sound_mono_32ch_ONOFF_addr2b_ts02.aedat": (49_864, (32,), None),
    "nas_cochlea_aedat/enun_stereo_64ch_ONOFF_addr4b_ts1.aedat": (428_635, None, None),
    "prophesee_evt2/evt2.raw": (521_252, (480, 640), None),
    "prophesee_evt3/evt3_sample.raw": (219_596, (720, 1280), 0.0088),
    "stmnist_mat/sample_stmnist.mat": (None, (10, 10), None),
}


@real
@pytest.mark.parametrize("name", sorted({*REAL, *STATED, "prophesee_evt3/evt3_sample.raw"}))
def test_real_files_in_c_and_in_numpy(name):
    assert isinstance(read_both_ways(Path(ROOT, "events", name)), tuple)


@real
@pytest.mark.parametrize("name", STATED)
def test_real_files_as_stated(name):
    count, size, seconds = STATED[name]
    found = data.read_events(Path(ROOT, "events", name))
    assert count in (None, len(found))
    assert size in (None, found.size)
    if seconds is not None:
        digits = len(f"{seconds}".split(".")[1])
        assert round(found.duration * 1e-6, digits) == seconds
    assert found.skipped == 0


@real
def test_real_evt3_against_a_loop():
    """The specification, word by word. faery 0.7.1 finds the same x, y and p; it holds times back where the camera
    stepped back, so that 1,455 of its 219,596 times are up to 11 us later."""
    path = Path(ROOT, "events/prophesee_evt3/evt3_sample.raw")
    raw = path.read_bytes()
    begin = 0
    while raw[begin : begin + 2] == b"% ":
        begin = raw.index(b"\n", begin) + 1
    high = low = y = x = p = 0
    rows, backwards = [], 0
    for (word,) in struct.iter_unpack("<H", raw[begin:]):
        kind, value = word >> 12, word & 0xFFF
        if kind == 0:
            y = value & 2047
        elif kind == 2:
            rows.append((high << 12 | low, value & 2047, y, value >> 11))
        elif kind == 3:
            x, p = value & 2047, value >> 11
        elif kind in (4, 5):
            width = 12 if kind == 4 else 8
            rows += [(high << 12 | low, x + k, y, p) for k in range(width) if value >> k & 1]
            x += width
        elif kind == 6:
            backwards += value < low
            low = value
        elif kind == 8:
            if value != high:
                low = 0
            high = value
    found = data.read_events(path).events
    assert np.array_equal(found, np.array(rows, ev.EVENT))
    assert backwards == 9  # the camera writes ahead, and these are no overflows: the recording lasts 8.8 ms
    assert digest(found[["x", "y", "p"]].astype([("x", "<u2"), ("y", "<u2"), ("p", "?")])) == "816c6c308b9a35e4"


@real
def test_real_objects_have_times_above_31_bits():
    for file in sorted(Path(ROOT, "events/aedat2_dvs128/objects").glob("*.aedat")):
        found = data.read_events(file)
        t = found.events["t"]
        assert t[0] > 2**31, file
        assert (np.diff(t) >= 0).all()
        assert 17e6 <= found.duration < 21e6
        assert 126_000 <= len(found) <= 352_000


@real
def test_real_auditory_sensor():
    """The first records of the file, read off its bytes: address and time in 0.2 us, or in 1 us."""
    narrow = data.read_events(Path(ROOT, "events/nas_cochlea_aedat/130Hz_mono_64ch_ONOFF_addr2b_ts02.aedat"))
    by_hand = [(0x02, 0x00), (0x0C, 0x06), (0x51, 0x08), (0x18, 0x0B), (0x3F, 0x0E), (0x05, 0x11)]
    assert narrow.events[:6].tolist() == [(round(t * 0.2), a // 2, a % 2 == 0) for a, t in by_hand]
    wide = data.read_events(Path(ROOT, "events/nas_cochlea_aedat/enun_stereo_64ch_ONOFF_addr4b_ts1.aedat"))
    by_hand = [(0xEA, 0x00), (0x81, 0x191A), (0x82, 0x1B0D), (0x84, 0x1C29), (0x88, 0x1EBB), (0x8A, 0x2037)]
    assert wide.events[:6].tolist() == [(t, a // 2, a % 2 == 0) for a, t in by_hand]


@real
def test_real_tactile_sensor_against_scipy():
    loadmat = pytest.importorskip("scipy.io").loadmat
    path = Path(ROOT, "events/stmnist_mat/sample_stmnist.mat")
    train = loadmat(path)["spiketrain"]
    assert train.shape == (101, 2346)
    found = data.read_events(path)
    assert len(found) == np.count_nonzero(train[:-1])
    assert int(found.events["p"].sum()) == int((train[:-1] == 1).sum())
    assert np.array_equal(
        np.bincount(found.events["y"].astype(int) * 10 + found.events["x"], minlength=100),
        np.count_nonzero(train[:-1], axis=1),
    )
    assert found.events["t"][-1] == round(train[-1, -1] * 1e6)


@real
def test_real_cars_have_the_events_that_their_sizes_say():
    files = sorted(Path(ROOT, "events/ncars_dat").rglob("*.dat"))
    assert len(files) == 7
    for file in files:
        lines = file.read_bytes().split(b"\n")
        header = sum(len(line) + 1 for line in lines[: sum(line.startswith(b"% ") for line in lines[:5])])
        found = data.read_events(file)
        assert 8 * len(found) == file.stat().st_size - header - 2
        assert 99_000 < found.duration <= 100_000
        assert max(found.size) <= 120


@real
def test_real_gesture_labels():
    rows = np.loadtxt(Path(ROOT, "events/dvs128_gesture_labels/user01_natural_labels.csv"), delimiter=",", skiprows=1)
    assert rows.shape == (12, 3)
    assert set(rows[:, 0]) == set(range(1, 12))


@real
def test_real_nmnist_folder():
    files = sorted(Path(ROOT, "events/nmnist/Test").glob("[07]/*.bin"))
    assert len(files) == 40
    for file in files:
        found = data.read_events(file)
        assert found.format == "atis"
        assert max(found.size) <= 34
        assert 0.29e6 < found.duration < 0.32e6
        assert 2_000 < len(found) < 9_000
