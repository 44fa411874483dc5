"""Events as lines: what their columns are, in which unit times are, and what is refused rather than guessed."""

import numpy as np
import pytest

from spikeloom import data
from spikeloom.data import events as ev

TWO = [(70, 5, 6, 1), (90, 7, 8, 0)]


def read(tmp_path, text, **options):
    path = tmp_path / "file.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [tuple(map(int, e)) for e in data.read_events(path, **options).events]


@pytest.mark.parametrize(
    "text",
    [
        "t x y p\n70 5 6 1\n90 7 8 0\n",
        "\ufeffp,t,x,y\n1,70,5,6\n0,90,7,8\n",
        '"x";"y";"t";"p"\n5;6;70;1\n7;8;90;-1\n',
        "'ts', 'x', 'y', 'pol'\n70, 5, 6, 1\n90, 7, 8, 0\n",
        "Timestamp_us,X[px],Y[px],Polarity\r\n70,5,6,1\r\n90,7,8,0\r\n",
        "t [us]\tx\ty\ton\n70\t5\t6\t1\n90\t7\t8\t0\n",
        "time(ms),x,y,p\n0.07,5,6,1\n0.09,7,8,0\n",
        "t_s x y p\n0.00007 5 6 1\n9e-5 7 8 0\n",
        "x,y,p,time_ns\n5,6,1,70499\n7,8,0,89500\n",
        "# columns: x y p t\n# seen by a camera in the garden, at dawn\n5 6 1 70\n7 8 0 90\n",
        "# a comment of four words\n# another\n70 5 6 1\n90 7 8 0\n",
        "# seen on the second row from 9 o'clock\n70 5 6 1\n90 7 8 0\n",
        "# row col polarity t\n640 480\n6 5 1 70\n8 7 0 90",
        "70 5.0 6.0 1\n90 7.0 8.0 0\n",
        "70 5 6 1.0\n90 7 8 0.0\n",
        "7.0e+01 5 6 1\n9.0e+01 7 8 0\n",
        "0.000070 5 6 1\n0.000090 7 8 0\n",
        "70 5 6 1 # the first\n\n90 7 8 0\n\n",
        "70 5 6 1\r90 7 8 0\r",
    ],
)
def test_forms(text, tmp_path):
    assert read(tmp_path, text) == TWO


def test_what_numpy_writes_of_floating_point(tmp_path):
    rows = np.array(TWO, float)
    for fmt in ("%.18e", "%d", ["%d", "%.1f", "%.2f", "%g"]):
        np.savetxt(tmp_path / "a.txt", rows, fmt=fmt)
        assert [tuple(map(int, e)) for e in data.read_events(tmp_path / "a.txt").events] == TWO


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "x,y,p,speed\n5,6,1,70\n",
            r"byte 0: a line of names that is not understood: .*'speed' is no known name; .*columns=",
        ),
        ("t,x,y,p_us\n70,5,6,1\n", "'p_us' is no known name"),
        ("t,x,x,p\n70,5,6,1\n", "does not name t and x once each"),
        ("recorded today\n70 5 6 1\n", "'recorded' is no known name"),
        ("# t x y speed\n70 5 6 1\n", "'speed' is no known name"),
        (
            "# t x y p\n# x y p t\n70 5 6 1\n",
            "lines of names that differ, t x y p .no unit. and x y p t .no unit.; choose",
        ),
        ("# t_us x y p\nt_ms,x,y,p\n70,5,6,1\n", r"t x y p \(ms\) and t x y p \(us\); choose with columns= and unit="),
        ("t,x,y,p\n70,5,6\n", r"byte 8: 3 columns, of which 4 are named"),
        ("5 6 1 70\n7 8 0 90\n", r"byte 0: a line whose p is 70, which is none \(if the columns are others, columns="),
        ("70 5 6 2\n", "a line whose p is 2"),
        ("70 5 6 1\n90 7 8 nan\n", r"byte 9: a line whose p is nan"),
        ("70 5 inf 1\n", "a line whose y is inf"),
        ("nan 5 6 1\n", "a line whose time is none"),
        ("70 5.5 6 1\n", "a line whose x is 5.5"),
        ("70 70000 6 1\n", "a line whose x is 70000"),
        ("70 -1 6 1\n", "a line whose x is -1"),
        ("9223372036854775808 5 6 1\n", "a line whose time is none"),
        ("1 2 3 4 5\n", r"5 columns without names; .*columns="),
        ("0 180\n70 5 6 1\n", "byte 0: expected the sensor's width and height"),
        ("1.000 5 6 1\n2.000 7 8 0\n", 'seconds or microseconds. Say so with unit="s" or unit="us"'),
        ("70 5 6 1\n90.5 7 8 0\n", "time 1 is 90.5 and time 0 70: some are whole"),
    ],
)
def test_what_is_not_understood_raises(text, message, tmp_path):
    with pytest.raises(data.DataError, match=f"file.txt: .*{message}"):
        read(tmp_path, text)


def test_columns_and_unit_say_it(tmp_path):
    rows = "5 6 1 1.000\n7 8 0 2.000\n"
    assert read(tmp_path, rows, columns="x y p t", unit="us") == [(1, 5, 6, 1), (2, 7, 8, 0)]
    assert read(tmp_path, rows, columns=("x", "y", "polarity", "ts"), unit="s")[1][0] == 2_000_000
    assert read(tmp_path, "how,many,are,these\n5,6,1,70\n7,8,0,90\n", columns="x,y,p,t") == TWO
    assert read(tmp_path, "70 5\n90 7\n", columns="t x", format="text") == [(70, 5, 1), (90, 7, 1)]
    assert read(tmp_path, "9 70 5 6 1\n9 90 7 8 0\n", columns="_ t x y p") == TWO
    assert read(tmp_path, "t_us x y p\n70 5 6 1\n", unit="ms") == [(70_000, 5, 6, 1)]  # who says so is believed
    assert read(tmp_path, "70499 5 6 1\n89500 7 8 0\n", unit="ns") == TWO
    for wrong in ("x y p", "t x x p", "t x speed p", ()):
        with pytest.raises(ValueError, match="columns must name t and x"):
            read(tmp_path, rows, columns=wrong)
    with pytest.raises(ValueError, match="unit must be one of s, ms, us, ns, got 'h'"):
        read(tmp_path, rows, unit="h")
    with pytest.raises(data.DataError, match=r"byte 4: a second line of two numbers; the first one is the sensor's"):
        read(tmp_path, "5 6\n7 8\n70 5 6 1\n", format="text")
    with pytest.raises(data.DataError, match="4 columns, of which 3 are named"):
        read(tmp_path, rows, columns="t x p")


def test_columns_and_unit_of_arrays(tmp_path):
    x, y, p, t = (np.array(c) for c in ([5, 7], [6, 8], [1, 0], [70, 90]))
    np.save(tmp_path / "a.npy", np.stack((x, y, p, t), 1))
    np.savez(tmp_path / "a.npz", t=t * 1e6, x=x, y=y, p=p)
    for name, options in (("a.npy", dict(columns="x y p t")), ("a.npz", dict(unit="ns"))):
        found = data.read_events(tmp_path / name, **options).events
        assert found["x"].tolist() == [5, 7]
        assert found["t"].tolist() == ([70, 90] if name == "a.npy" else [70_000, 90_000])
    for name in ("a.npz", "a.h5"):
        data.write_events(tmp_path / name, {"t": t, "x": x, "y": y, "p": p})
        assert data.read_events(tmp_path / name, unit="ms").events["t"].tolist() == [70_000, 90_000]
        with pytest.raises(data.DataError, match=f"{name}: its columns have names"):
            data.read_events(tmp_path / name, columns="x y p t")
    data.write_events(tmp_path / "a.dat", {"t": t, "x": x, "y": y, "p": p})
    with pytest.raises(data.DataError, match=r"DAT says itself what its events are; it takes no unit="):
        data.read_events(tmp_path / "a.dat", unit="us")


@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
@pytest.mark.parametrize("t", [[], [0], [6], [3, 8], [2**53 + 5, 2**53 + 7], [2**62 + 1, 2**63 - 1], [-(2**60) - 1, 4]])
def test_what_is_written_is_read_again(name, t, tmp_path):
    n = np.arange(len(t))
    for events, size in (
        (ev.make_events(np.array(t, np.int64), n, n + 1, n % 2), (9, 8)),
        (ev.make_events(np.array(t, np.int64), n, None, n % 2), (8,)),
    ):
        data.write_events(tmp_path / name, events, size=size)
        found = data.read_events(tmp_path / name)
        assert found.events.dtype == events.dtype
        assert found.events.tolist() == events.tolist()


def test_seconds_beyond_floating_point_are_exact(tmp_path):
    """2^53 + 1 microseconds, which float64 cannot hold."""
    assert read(tmp_path, "9007199254.740993 5 6 1\n")[0][0] == 2**53 + 1
    with pytest.raises(data.DataError, match="do not fit 64 bits"):
        read(tmp_path, "1e300 5 6 1\n", unit="s")
    with pytest.raises(data.DataError, match="do not fit 64 bits"):
        read(tmp_path, f"{2**62} 5 6 1\n", unit="ms")


def test_damaged_lines_are_left_out_if_asked(tmp_path):
    text = "t x y p\n10 1 1 1\n20 x 1 1\n30 2 2 5\n40 3 3\n50 4 4 nan\n60 5 5 0\n"
    assert read(tmp_path, text, errors="skip") == [(10, 1, 1, 1), (60, 5, 5, 0)]
    assert data.read_events(tmp_path / "file.txt", errors="skip").skipped == len("20 x 1 130 2 2 540 3 350 4 4 nan")
    with pytest.raises(data.DataError, match=r"byte 17: a line that is not 4 numbers: '20 x 1 1'"):
        read(tmp_path, text)
    assert read(tmp_path, "1O 1 1 1\n20 2 2 0\n30 3 3 0\n", errors="skip") == [(20, 2, 2, 0), (30, 3, 3, 0)]
    with pytest.raises(data.DataError, match="its columns are not t x y p; say what they are with columns="):
        read(tmp_path, "5 6 1 70\n7 8 0 90\n", errors="skip")


@pytest.mark.parametrize(
    "text",
    [
        b"we say so\n",  # ten bytes, two records of five whose times run forward
        "\uff11 2 3 1\n".encode(),
        b"1 2 3 ON \n",
    ],
)
def test_lines_that_are_not_understood_are_no_binary_recording(tmp_path, text):
    assert len(text) % 5 == 0
    with pytest.raises(data.DataError, match="none of the known event formats"):
        read(tmp_path, text)


def test_a_binary_recording_with_bytes_of_letters_is_read(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(b"ab\x00\x00\x07cd\x80\x00\x09")
    found = data.read_events(file)
    assert [tuple(map(int, e)) for e in found.events] == [(7, 97, 98, 0), (9, 99, 100, 1)]


@pytest.mark.parametrize("columns", [3, (None, "x", "y", "t"), [1, 2]])
def test_columns_that_are_no_names(tmp_path, columns):
    with pytest.raises(TypeError, match="columns must be text"):
        read(tmp_path, "70 5 6 1\n", columns=columns)
