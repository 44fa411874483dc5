"""Every reader against damaged files: what it gives is sound, or a DataError that names the file.

Damage is done to the files, and to what is packed in them and packed again, so that no checksum finds it first. A few
files of each kind in every run, 20,000 with ``-m full``.
"""

import gzip
import importlib.util
import io
import pickle
import struct
import tarfile
import tempfile
import wave
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from spikeloom import data
from spikeloom.data import archives, array_formats, cache

_found = importlib.util.spec_from_file_location("data_built", Path(__file__).with_name("built.py"))
built = importlib.util.module_from_spec(_found)
_found.loader.exec_module(built)
FEW, MANY = 40, 20_000


def events(errors="raise", **options):
    """A reader of events; what it gives lies on the sensor."""

    def read(path, draw):
        chosen = str(draw.choice(["raise", "skip"])) if errors == "any" else errors
        found = data.read_events(path, errors=chosen, **options)
        for name, side in zip(("y", "x")[-len(found.size) :], found.size, strict=True):
            assert (found.events[name] < side).all()
        assert (np.ascontiguousarray(found.events["p"]).view(np.uint8) <= 1).all()
        if np.prod(found.size) < 10**6:  # a header may say what it likes
            data.to_frames(found, steps=2)

    return read


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def zipped(*members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def tarred(*members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def matrix(name, values):
    """A variable of a MATLAB file: flags, dimensions, name and numbers, each with type, size and padding."""
    parts = ((6, struct.pack("<II", 6, 0)), (5, struct.pack("<2i", 1, len(values))), (1, name.encode()))
    parts += ((9, struct.pack(f"<{len(values)}d", *values)),)
    body = b"".join(struct.pack("<II", kind, len(c)) + c.ljust(-(-len(c) // 8) * 8, b"\0") for kind, c in parts)
    return struct.pack("<II", 14, len(body)) + body


def mat(variable):
    """A MATLAB file of compressed variables, one of which is given."""
    packed = [zlib.compress(part) for part in (variable, matrix("x", [3, 4]))]
    head = b"MATLAB 5.0 MAT-file".ljust(124, b" ") + b"\x00\x01IM"
    return head + b"".join(struct.pack("<II", 15, len(part)) + part for part in packed)


def many_hdf5():
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        for name, kind, values in (("times", np.float16, [0.25, 0.5]), ("units", np.int64, [699, 3])):
            column = opened.create_dataset(f"spikes/{name}", 2, h5py.vlen_dtype(kind))
            column[0] = column[1] = values
    return file.getvalue()


def sound():
    file = io.BytesIO()
    with wave.open(file, "wb") as opened:
        opened.setnchannels(2), opened.setsampwidth(2), opened.setframerate(8000)
        opened.writeframes(bytes(range(200)))
    return file.getvalue()


def unpacked(path, draw):
    archives.unpack(path, path.parent / "unpacked")


def cifar(path, draw):
    images, labels = data.read_cifar_python(path)
    assert (images.shape[1:], images.dtype, labels.dtype) == ((3, 32, 32), np.uint8, np.int64)


def cached(path, draw):
    """A cache of three recordings, of which one file is the damaged one: the recordings, or an error."""
    folder = path.parent
    for name, content in CACHE.items():
        (folder / name).write_bytes(content)
    name = str(draw.choice(sorted(CACHE)))
    wrong = built.damaged(CACHE[name], draw)
    (folder / name).write_bytes(wrong)
    if wrong == CACHE[name]:
        return
    try:
        found = cache.Cached(folder)
        for k in range(3):
            assert found[k].events.tolist() == RECORDINGS[k].tolist()
            assert found.size == (180, 240)
    except data.DataError as problem:
        raise data.DataError(f"{path}: {problem}") from problem


def _cache():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "source").write_bytes(b"x")
        cache.build(
            root / "cache", read=lambda k: data.Recording(RECORDINGS[k], (180, 240)), count=3,
            files=lambda k: root / "source", root=root, about={"name": "built"}, size=(180, 240),
        )  # fmt: skip
        return {path.name: path.read_bytes() for path in (root / "cache").iterdir()}


RECORDINGS = [data.events.make_events(*(np.array(c) for c in built.sample(n, seed=n))) for n in (5, 0, 9)]
CACHE = _cache()
COLUMNS = {name: np.array(c) for name, c in zip("txyp", built.sample(20), strict=True)}
STRUCTURED = np.array(list(zip(*built.sample(20), strict=True)), [("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "?")])
ROWS = np.array(built.sample(20)).T
TEXT = "\ufefft_us,x,y,p\n" + "".join("{},{},{},{}\n".format(*row) for row in ROWS.tolist())
SECONDS = "# x y p t\n240 180\n" + "".join(f"{x} {y} {p} {t * 1e-6:.6f}\n" for t, x, y, p in ROWS.tolist())
BATCH = pickle.dumps({"data": np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072), "labels": [4, 8]}, 2)
PLAIN = pickle.dumps(
    [{"t": COLUMNS["t"], "n": STRUCTURED[:2]}, (1.5, "x", b"y"), np.array([{"a": 1}, None], object)], 4
)
GREY = b"\0\0\x08\x03" + struct.pack(">3I", 2, 3, 4) + bytes(range(24))
same = bytes  # what is damaged is the file

# name: what is damaged, how a file is made of it, how that is read
READERS = {
    **{name: (raw, same, events("any")) for name, raw in built.WHOLE.items() if name not in ("dat-v1",)},
    "dat-v1": (built.WHOLE["dat-v1"], same, events("any", format="dat-1")),
    "named atis": (built.WHOLE["atis"], same, events("any", format="atis")),
    "named nas": (built.WHOLE["nas"], same, events("any", format="nas-4")),
    "gz": (built.WHOLE["dat"], gzip.compress, events("any")),
    "npz inside": (npy(COLUMNS["t"]), lambda t: zipped(("t.npy", t), ("x.npy", npy(COLUMNS["x"]))), events()),
    "npy of objects": (npy(np.array([COLUMNS], object)), same, events()),
    "npy of booleans": (npy(STRUCTURED), same, events()),
    "npy of rows": (npy(ROWS.astype(np.float64)), same, events(columns="t x y p", unit="us")),
    "shd": (many_hdf5(), same, events(index=1)),
    "mat inside": (matrix("t", [5, 7]), mat, events()),
    "csv": (TEXT.encode(), same, events("any")),
    "txt": (SECONDS.encode(), same, events("any")),
    "pickle": (PLAIN, same, lambda path, draw: array_formats.unpickle_arrays(path.read_bytes(), str(path))),
    "cifar": (BATCH, same, cifar),
    "cifar in gz": (BATCH, gzip.compress, cifar),
    "idx": (GREY, same, lambda path, draw: data.read_idx(path)),
    "idx in gz": (GREY, gzip.compress, lambda path, draw: data.read_idx(path, ndim=3)),
    "arrays": (zipped(("a.npy", npy(ROWS))), same, lambda path, draw: array_formats.read_npz(path, "a")),
    "wav": (sound(), same, lambda path, draw: data.read_wav(path)),
    "zip": (zipped(("a/b", b"bytes" * 99), ("c", b"d")), same, unpacked),
    "tar": (tarred(("a/b", b"bytes" * 99), ("c", b"d")), same, unpacked),
    "tgz": (tarred(("a/b", b"bytes" * 99), ("c", b"d")), gzip.compress, unpacked),
    "zip in tgz": (
        zipped(("a/b", b"bytes" * 99)), lambda raw: gzip.compress(tarred(("inner.zip", raw))), unpacked,
    ),
    "cache": (b"x", same, cached),
}  # fmt: skip
SUFFIXES = {"zip": ".zip", "tar": ".tar", "tgz": ".tgz", "zip in tgz": ".tar.gz"}


def try_out(name, seeds, folder):
    """Reads a damaged file for each seed; how many were read all the same."""
    content, packed, read = READERS[name]
    path, taken = folder / f"file{SUFFIXES.get(name, '')}", 0
    for seed in seeds:
        draw = np.random.default_rng([seed, *name.encode()])
        path.write_bytes(packed(built.damaged(content, draw)))
        try:
            read(path, draw)
            taken += 1
        except data.DataError as problem:
            told = problem
        except Exception as problem:
            raise AssertionError(f"{name}, seed {seed}: {type(problem).__name__}: {problem}") from problem
        else:
            continue
        assert str(path) in str(told), (name, seed)
    return taken


@pytest.mark.parametrize("name", READERS)
def test_damage_is_told(name, tmp_path):
    assert try_out(name, range(FEW), tmp_path) <= FEW


@pytest.mark.full
@pytest.mark.parametrize("name", READERS)
def test_much_damage_is_told(name, tmp_path):
    assert try_out(name, range(FEW, MANY), tmp_path) <= MANY
