"""Data that look like header lines, headers that lie, columns of anything, and what a format cannot hold."""

import struct

import numpy as np
import pytest

from spikeloom import data
from spikeloom.data import events as ev


def pairs(events, chip):
    shifts = (1, 8, 0) if chip == "DVS128" else (12, 22, 11)
    return b"".join(struct.pack(">II", x << shifts[0] | y << shifts[1] | p << shifts[2], t) for t, x, y, p in events)


@pytest.mark.parametrize("end", [b"#End Of ASCII Header\r\n", b""])
@pytest.mark.parametrize("x", [159, 160, 164, 168, 175, 176, 208, 330])
def test_aedat2_whose_first_event_looks_like_a_header_line(end, x, tmp_path):
    """y = 140 is ``#``, and x = 160 to 175 a line feed after it."""
    events = [(9, x, 140, 1), (10, 12, 70, 0), (11, 1, 2, 1)]
    head = b"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n#\r\n# AEChip: DAVIS346\r\n"
    (tmp_path / "a.aedat").write_bytes(head + end + pairs(events, "DAVIS346"))
    assert data.read_events(tmp_path / "a.aedat").events.tolist() == events


@pytest.mark.parametrize("end", [b"% end\n", b""])
def test_evt_whose_first_word_begins_with_a_percent_sign(end, tmp_path):
    for low in (0x0A, 0x20, 0x41, 0x82):  # what may follow the percent sign
        words = [8 << 12 | low << 8 & 0xFFF | 0x25, 6 << 12 | 0x0A, 0, 2 << 12 | 1]
        (tmp_path / "a.raw").write_bytes(b"% evt 3.0\n% geometry 640x480\n" + end + struct.pack("<4H", *words))
        assert data.read_events(tmp_path / "a.raw").events.tolist() == [((words[0] & 0xFFF) << 12 | 10, 1, 0, 0)]
        high = 8 << 28 | low << 8 | 0x25
        (tmp_path / "a.raw").write_bytes(
            b"% evt 2.0\n% geometry 640x480\n" + end + struct.pack("<2I", high, 1 << 28 | 3 << 22 | 5 << 11 | 7)
        )
        assert data.read_events(tmp_path / "a.raw").events.tolist() == [((low << 8 | 0x25) << 6 | 3, 5, 7, 1)]
        (tmp_path / "a.raw").write_bytes(
            b"% evt 2.1\n% geometry 640x480\n"
            + end
            + struct.pack("<4I", 0x25 | low << 8, high, 2, 1 << 28 | 5 << 11 | 7)
        )
        assert data.read_events(tmp_path / "a.raw").events["x"].tolist() == [6]


def test_files_without_a_header_that_begin_as_one(tmp_path):
    """ATIS: column 37, row 32 is ``% ``, and column 31, row 139 the mark of gzip."""
    for x, y, late in ((37, 32, 0), (35, 33, 0), (31, 139, 0), (80, 75, 0)):
        t = np.arange(300) * 50 + late
        events = ev.make_events(t, np.full(300, x), np.full(300, y), t % 2)
        data.write_events(tmp_path / "a.bin", events, size=(180, 240))
        found = data.read_events(tmp_path / "a.bin")
        assert (found.format, found.events.tolist()) == ("atis", events.tolist())
    words = struct.pack("<8I", 0x000A2025, 5 | 6 << 9 | 1 << 17, 0x000A2026, 7 | 8 << 9, 0x0A2027, 9, 0x0A2028, 11)
    (tmp_path / "a.dat").write_bytes(words)
    found = data.read_events(tmp_path / "a.dat", format="dat-1")
    assert found.events.tolist()[:2] == [(0x000A2025, 5, 6, True), (0x000A2026, 7, 8, False)]
    (tmp_path / "b.dat").write_bytes(b"% Version 1\n\x00\x08" + words)
    assert data.read_events(tmp_path / "b.dat").events.tolist() == found.events.tolist()


def test_headers_with_numbers_that_are_none(tmp_path):
    word = struct.pack("<2I", 8 << 28, 1 << 28 | 5 << 11 | 7)
    for line in ("geometry " + "9" * 5000 + "x1", "Height " + "9" * 5000 + "\n% Width 5", "geometry 0x0"):
        (tmp_path / "a.raw").write_bytes(f"% evt 2.0\n% {line}\n% end\n".encode() + word)
        assert data.read_events(tmp_path / "a.raw").size == (8, 6)


def test_what_a_format_cannot_hold_is_not_written(tmp_path):
    def three(*t):
        return {"t": t, "x": [0, 1, 2], "y": [0, 0, 0], "p": [1, 0, 1]}

    late, back = three(1, 2, 2**62), three(2**31 + 9, 0, 1)
    for name, events, message in (
        ("a.aedat", late, "AEDAT 3.1 holds times from 0 to 4,611,686,018,427,387,903 us"),
        ("a.aedat", three(-1, 0, 1), "AEDAT 3.1 holds .*got -1 to 1 us"),
        ("a.dat", back, "DAT has a clock of 32 bits: an event earlier"),
        ("a.raw", three(2**33 + 64, 0, 1), "EVT 2.0 has a clock of 34 bits"),
        ("a.bin", late, "ATIS .bin holds times"),
    ):
        with pytest.raises(data.DataError, match=f"{name}: {message}"):
            data.write_events(tmp_path / name, events)
        assert not list(tmp_path.iterdir())
    data.write_events(tmp_path / "a.aedat", three(2**62 - 3, 2**62 - 2, 2**62 - 1))
    assert data.read_events(tmp_path / "a.aedat").events["t"].tolist() == [2**62 - 3, 2**62 - 2, 2**62 - 1]
    for name in ("no/folder/a.npz", "no/folder/a.h5", "y" * 300 + ".txt", "a\0b.dat"):
        with pytest.raises(data.DataError, match=r"cannot be (written|read)"):
            data.write_events(tmp_path / name, three(1, 2, 3))
        with pytest.raises(data.DataError, match="cannot be read"):
            data.read_events(tmp_path / name)
    wide = ev.Recording(ev.make_events([1], [5], [0], [1]), (4, 4))
    with pytest.raises(data.DataError, match="x = 5, outside 0 to 3"):
        data.write_events(tmp_path / "b.raw", wide)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (dict(p=np.array(["a", "b"])), "column p holds <U1"),
        (dict(p=np.array([0.0, np.nan])), "p.1. = nan is no polarity"),
        (dict(p=np.array([1 + 1j, 0])), "column p holds complex128"),
        (dict(t=np.array([0, np.inf])), "time 1 is inf s"),
        (dict(t=np.array(["2020", "2021"], "M8[s]")), "only plain arrays"),
        (dict(x=np.array([0.5, 1])), r"x\[0\] = 0.5 does not fit"),
        (dict(x=np.array([[0, 1, 2]])), "different lengths"),
    ],
)
def test_columns_of_anything_but_numbers(columns, message, tmp_path):
    plain = {name: np.arange(2) for name in "txyp"}
    np.savez(tmp_path / "a.npz", **(plain | columns))
    with pytest.raises(data.DataError, match=f"a.npz.*{message}"):
        data.read_events(tmp_path / "a.npz")


def test_booleans_are_0_or_1_whatever_the_file_says(tmp_path):
    raw = np.zeros(3, [("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])
    raw["p"] = 0, 7, 255
    np.save(tmp_path / "a.npy", raw.view(ev.EVENT))
    found = data.read_events(tmp_path / "a.npy", size=(1, 1))
    assert np.ascontiguousarray(found.events["p"]).view(np.uint8).tolist() == [0, 1, 1]
    assert data.to_frames(found, steps=1, values="one-hot").tolist() == [[[[0.0]], [[1.0]]]]
