"""Readers against bytes written by hand, damaged files, and the real ones."""

import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from spikeloom import data
from spikeloom.data.array_formats import read_npz

ROOT = os.environ.get("SPIKELOOM_DATA")
real = pytest.mark.skipif(not ROOT, reason="SPIKELOOM_DATA names no folder with the real files")


def test_idx_of_every_type(tmp_path):
    for code, form, values in (
        (0x08, ">6B", (0, 1, 2, 253, 254, 255)),
        (0x09, ">6b", (0, 1, 2, -3, -2, -128)),
        (0x0B, ">6h", (0, 1, 2, -300, 300, -32768)),
        (0x0C, ">6i", (0, 1, 2, -70000, 70000, 2**31 - 1)),
        (0x0D, ">6f", (0.0, 1.0, 2.0, -0.5, 0.25, 1e9)),
        (0x0E, ">6d", (0.0, 1.0, 2.0, -0.5, 0.1, 1e99)),
    ):
        raw = bytes([0, 0, code, 2]) + struct.pack(">2I", 2, 3) + struct.pack(form, *values)
        for name, packed in (("plain", raw), ("packed.gz", gzip.compress(raw))):
            (tmp_path / name).write_bytes(packed)
            found = data.read_idx(tmp_path / name, ndim=2)
            assert found.dtype.isnative
            assert np.array_equal(found, np.array(values, found.dtype).reshape(2, 3))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "starts with nothing"),
        (b"\x89PNG....", "starts with 89 50 4e 47"),
        (
            b"\0\0\x08\x02" + struct.pack(">2I", 2, 3) + b"12345",
            r"\[2, 3\] takes 6 bytes after byte 12, the file has 5",
        ),
        (b"\0\0\x08\x02" + struct.pack(">2I", 2, 3) + b"1234567", "the file has 7"),
        (b"\0\0\x08\x02" + struct.pack(">I", 2), "ends at byte 8, in the middle of its header of 12 bytes"),
        (b"\0\0\x08\x01" + struct.pack(">I", 2) + b"ab", "expected 2 dimensions, the header at byte 3 says 1"),
        (b"\0\0\x08\x02" + struct.pack(">2I", 2**32 - 1, 2**32 - 1) + b"x", "the file has 1"),  # no allocation
        (
            gzip.compress(b"\0\0\x08\x01" + bytes(500), mtime=0)[:-9],
            "damaged or cut short",
        ),  # names of tests have no time
        (gzip.compress(bytes(range(256)) * 9, mtime=0)[:60] + b"\xff" * 40, "damaged or cut short"),
    ],
)
def test_damaged_idx(tmp_path, raw, message):
    path = tmp_path / "train-images"
    path.write_bytes(raw)
    with pytest.raises(data.DataError, match=f"train-images.*{message}"):
        data.read_idx(path, ndim=2)


def record(*labels, shift=0):
    """A CIFAR record: labels, then red, green and blue planes whose bytes say where they are."""
    at = np.indices((3, 32, 32))
    return bytes(labels) + ((at[0] * 7 + at[1] * 3 + at[2] + shift) % 256).astype(np.uint8).tobytes()


def test_cifar_binary(tmp_path):
    file = tmp_path / "data_batch_1.bin"
    file.write_bytes(record(3) + record(9, shift=100))
    images, labels = data.read_cifar_binary(file)
    assert (images.shape, images.dtype, labels.tolist()) == ((2, 3, 32, 32), np.uint8, [3, 9])
    assert images[0, 2, 5, 4] == 2 * 7 + 5 * 3 + 4
    assert images[1, 1, 31, 31] == (7 + 93 + 31 + 100) % 256
    file.write_bytes(record(3, 55) + record(1, 99))  # coarse, fine
    assert data.read_cifar_binary(file, label_bytes=2)[1].tolist() == [55, 99]
    file.write_bytes(record(3) + record(9)[:-1])
    with pytest.raises(data.DataError, match=r"6,145 bytes are no whole .* of 3,073.*ends at byte 3,073"):
        data.read_cifar_binary(file)


def test_cifar_python(tmp_path):
    file = tmp_path / "data_batch_1"
    rows = np.frombuffer(record() + record(shift=1), np.uint8).reshape(2, 3072)
    for protocol in (2, 4):
        file.write_bytes(pickle.dumps({"data": rows, "labels": [4, 8], "batch_label": "one"}, protocol))
        images, labels = data.read_cifar_python(file)
        assert labels.tolist() == [4, 8]
        assert images[1, 2, 5, 4] == 2 * 7 + 5 * 3 + 4 + 1
    # What Python 2 and NumPy 1 wrote in 2009: text as bytes, numpy.core.
    old = pickle.dumps({"data": rows, "labels": [4, 8]}, 2).replace(b"numpy._core", b"numpy.core")
    file.write_bytes(old)
    assert data.read_cifar_python(file)[1].tolist() == [4, 8]


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_a_pickle_that_runs_something_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("batch").write_bytes(pickle.dumps({"data": Harmful(), "labels": []}))
    with pytest.raises(data.DataError, match=r"batch: asks for (posix|nt)\.system, which is no plain array"):
        data.read_cifar_python(Path("batch"))
    assert not Path("harmed").exists()
    Path("batch").write_bytes(b"no pickle")
    with pytest.raises(data.DataError, match="batch: not a pickle of plain arrays"):
        data.read_cifar_python(Path("batch"))
    Path("batch").write_bytes(pickle.dumps({"data": np.zeros((2, 5), np.uint8), "labels": [1, 2]}))
    with pytest.raises(data.DataError, match=r"expected uint8 \[N, 3072\] and N labels, got uint8 \[2, 5\] and 2"):
        data.read_cifar_python(Path("batch"))
    Path("batch").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(data.DataError, match="expected a dictionary with 'data' and 'labels', got list"):
        data.read_cifar_python(Path("batch"))


def test_npz(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(3), o=np.array([None, {}], object))
    assert read_npz(tmp_path / "a.npz", "x")[0].tolist() == [0, 1, 2]
    with pytest.raises(data.DataError, match="has no array 'y'; it holds x, o"):
        read_npz(tmp_path / "a.npz", "y")
    with pytest.raises(data.DataError, match="plain arrays"):
        read_npz(tmp_path / "a.npz", "o")


@real
@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        (  # the counts that are published with MNIST
            "mnist",
            [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
            [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
        ),
        ("fashion-mnist", [6000] * 10, [1000] * 10),
    ],
)
def test_the_real_files(name, train, test):
    for split, counts in (("train", train), ("test", test)):
        samples = data.load(name, split, root=ROOT)
        assert samples.labels.bincount().tolist() == counts
        assert samples.data.shape == (sum(counts), 1, 28, 28)
        image, label = samples[0]
        assert (float(image.min()), float(image.max())) == (0.0, 1.0)
    first = {"mnist": 7, "fashion-mnist": 9}[name]  # a 7, and an ankle boot
    assert int(label) == first


@real
def test_real_cifar_records_and_braille():
    folder = Path(ROOT) / "cifar10" / "cifar-10-batches-bin"
    images, labels = data.read_cifar_binary(folder / "data_batch_1.bin")
    assert (images.shape, np.bincount(labels).tolist()) == ((1000, 3, 32, 32), [100] * 10)
    with pytest.raises(data.DataError, match=r"cifar10: data_batch_2.bin, .* not found in .*cifar-10-batches-bin"):
        data.load("cifar10", "train", root=ROOT)
    train, test = (data.load("braille", split, root=ROOT) for split in ("train", "test"))
    assert (train.data.shape, test.data.shape) == ((1080, 76, 12), (270, 76, 12))
    assert test.labels.bincount().tolist() == [10] * 27
    assert train.classes[:3] == ("Space", "A", "B")
