"""NumPy's files and pickles that were forged, or run away: refused before anything is made of them."""

import gzip
import io
import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest

from spikeloom import data
from spikeloom.data import array_formats as formats
from spikeloom.data.array_formats import unpickle_arrays
from spikeloom.data.arrays import npy


class Call:
    """Pickled as a call, with a state to set after it."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


RECONSTRUCT = np.empty(1).__reduce__()[0]
FORGED = Call(  # an address as an object: a dtype that says that it holds none
    np.dtype, ("V16", False, True),
    (3, "|", None, ("t", "x"), {"t": (np.dtype("i8"), 0), "x": (np.dtype("O"), 8)}, 16, 1, 0),
)  # fmt: skip
NAMES = ("t", "x")


def array(shape, dtype, content, fortran=False):
    return Call(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, dtype, fortran, content))


def struct_dtype(itemsize, places, names=NAMES):
    return Call(np.dtype, (f"V{itemsize}", False, True), (3, "|", None, names, places, itemsize, 1, 0))


I8 = np.dtype("i8")


@pytest.mark.parametrize(
    ("forged", "message"),
    [
        (array((2,), FORGED, bytes(32)), "none of plain numbers"),
        (array((10**6,), I8, bytes(8)), "takes 8,000,000 bytes, 8 are there"),
        (array((2**40, 2**40), I8, b""), "0 are there"),
        (array((-1, -8), I8, bytes(64)), "an array of shape"),
        (array((True,), I8, bytes(8)), "an array of shape"),
        (array((1,), np.dtype("O"), b"\x41" * 8), "objects that are not there"),
        (array((3,), np.dtype("O"), [1]), "objects that are not there"),
        (array((1,), struct_dtype(16, {"t": (I8, 0), "x": (I8, 12)}), bytes(16)), "not a pickle of plain arrays"),
        (array((1,), struct_dtype(16, {"t": (I8, 0), "x": (I8, -8)}), bytes(16)), "fields without places"),
        (array((1,), struct_dtype(8, {"t": (I8, 0), "x": (FORGED, 0)}), bytes(8)), "a record of other records"),
        (array((9,), np.dtype("S0"), b""), "none of plain numbers"),
        (array((1,), np.dtype("M8[s]"), bytes(8)), "none of plain numbers"),
        (Call(np.dtype, ("i8", False, True)), "is no array, container, string or number"),
        (Call(np.ndarray, ((2,),)), "calls something that makes no array"),
        (Call(os.system, ("true",)), "asks for (posix|nt).system"),
        ({1.5: 2}, "a dictionary has a float for a key"),
        ({1, 2}, "asks for __builtin__.set"),
        (np.ma.zeros(2), "asks for numpy.ma"),
    ],
)
def test_forged_pickles_are_refused_wherever_they_are(forged, message, tmp_path):
    with pytest.raises(data.DataError, match=f"here: .*{message}"):
        unpickle_arrays(pickle.dumps(forged, 2), "here")
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, dict(descr="|O", fortran_order=False, shape=()))
    raw = head.getvalue() + pickle.dumps(forged, 2)
    (tmp_path / "a.npy").write_bytes(raw)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("events.npy", raw)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(data.DataError, match=f"{name}.*{message}"):
            data.read_events(tmp_path / name)
    (tmp_path / "batch").write_bytes(pickle.dumps({"data": forged, "labels": [1]}, 2))
    with pytest.raises(data.DataError, match=f"batch: .*{message}"):
        data.read_cifar_python(tmp_path / "batch")


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_are_what_they_were(protocol):
    record = np.array([(5, 3, True), (6, 4, False)], [("t", ">i8"), ("x", "u2"), ("p", "?")])
    arrays = [
        np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)), record, np.zeros((0, 3)),
        np.array(["a", "bcd"]), np.array([b"ef"]), np.array(7), np.arange(10)[::3], np.array([True, False]),
    ]  # fmt: skip
    raw = pickle.dumps({"arrays": arrays, "rest": (1.5, 2**70, None, b"x", [np.int64(3)])}, protocol)
    for form in (raw, raw.replace(b"numpy._core", b"numpy.core") if protocol < 4 else raw):
        found = unpickle_arrays(form, "here")
        assert found["rest"] == (1.5, 2**70, None, b"x", [3])
        for got, wanted in zip(found["arrays"], arrays, strict=True):
            assert got.dtype == wanted.dtype
            assert np.array_equal(got, wanted)
    objects = np.array([{"a": np.arange(3)}, None, [1, 2]], object)
    got = unpickle_arrays(pickle.dumps(objects, protocol), "here")
    assert got[0]["a"].tolist() == [0, 1, 2]
    assert got[1:].tolist() == [None, [1, 2]]


def test_pickles_that_run_away():
    """One thing named twice in what is named twice, and so on; a memo of 2^31 places; a deep tuple as a key."""
    doubling = b"\x80\x02]q\x00" + b"".join(b"]q%c(h%ch%ce" % (k + 1, k, k) for k in range(25)) + b"."
    shared = pickle.dumps([np.zeros(10**4)] * 10**4, 4)
    cases = (
        (doubling, "names what it holds so often"),
        (shared, "names what it holds so often"),
        (b"\x80\x02]q\x00h\x00a.", "nests containers"),
        (b"\x80\x02})" + b"\x85" * 10**5 + b"Ns.", "a dictionary has a tuple for a key"),
        (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "not a pickle"),
    )
    for raw, message in cases:
        tracemalloc.start()
        with pytest.raises(data.DataError, match=message):
            unpickle_arrays(raw, "here")
        assert tracemalloc.get_traced_memory()[1] < 200 * len(raw) + 2**22
        tracemalloc.stop()
    assert unpickle_arrays(b"\x80\x02]r\xff\xff\xff\x7f.", "here") == []


def test_headers_of_npy():
    def made(content=b"", **head):
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, dict(descr="<i8", fortran_order=False, shape=(1,)) | head)
        return file.getvalue() + content

    for raw, message in (
        (made(bytes(8), descr=[("t", "O")]), "only plain arrays of numbers"),
        (made(shape=(2**70,), descr="|S0"), "only plain arrays of numbers"),
        (made(shape=(0, 2**70)), "none of an array"),
        (made(bytes(8), shape=(-1, -1)), "takes 8 bytes"),
        (made(shape=(2**62,)), "0 are there"),
        (made().replace(b"'<i8'", b"(" * 5), "not a readable NPY file"),
        (b"\x93NUMPY\x09\x00", "not a readable NPY file"),
    ):
        with pytest.raises(data.DataError, match=f"here: .*{message}"):
            npy(raw, "here")
    assert npy(made(b"\x00\x07", descr="|b1", shape=(2,)), "here").view(np.uint8).tolist() == [0, 1]  # 7 is true, not 7


def test_what_is_packed_twice_has_one_room(tmp_path):
    """64 MB of zeros in an NPZ of 65 kB, in a gzip of less than 1 kB."""
    file = io.BytesIO()
    np.savez_compressed(file, t=np.zeros(2**23), x=np.zeros(4))
    (tmp_path / "a.npz").write_bytes(gzip.compress(file.getvalue()))
    assert (tmp_path / "a.npz").stat().st_size < 2000
    tracemalloc.start()
    with pytest.raises(data.DataError, match=r"a.npz: unpacks to far more than a file of its size"):
        data.read_events(tmp_path / "a.npz")
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
    file = io.BytesIO()
    np.savez_compressed(file, t=np.arange(9), x=np.arange(9))
    (tmp_path / "b.npz").write_bytes(gzip.compress(file.getvalue()))
    assert data.read_events(tmp_path / "b.npz").events["x"].tolist() == list(range(9))
    content = io.BytesIO()
    np.save(content, np.zeros(9))
    with zipfile.ZipFile(tmp_path / "c.npz", "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr("a.npy", content.getvalue())
    with pytest.raises(data.DataError, match=r"a.npy is packed in a way that NumPy does not write"):
        formats.read_npz(tmp_path / "c.npz", "a")
