"""HDF5 that points elsewhere, or lies about lengths."""

import struct
import zlib

import numpy as np
import pytest

from spikeloom import data
from spikeloom.data.events import heap


def test_hdf5_stays_in_its_file(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(bytes(range(24)))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.arange(3)

    def external(group):
        storage = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        storage.set_external(str(tmp_path / "secret").encode(), 0, 24)
        h5py.h5d.create(group.id, b"x", h5py.h5t.STD_I64LE, h5py.h5s.create_simple((3,)), storage)

    def virtual(group):
        layout = h5py.VirtualLayout((3,), "i8")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "x", (3,))
        group.create_virtual_dataset("x", layout)

    def filtered(group):
        group.create_dataset("x", data=np.arange(3), chunks=(3,), scaleoffset=0)

    makers = {
        "values are in other files": (external, virtual),
        "is a link to another place or file": (
            lambda g: g.__setitem__("x", h5py.ExternalLink(tmp_path / "other.h5", "x")),
            lambda g: g.__setitem__("x", h5py.SoftLink("/events/t")),
        ),
        "packed by filter 6": (filtered,),
        "none of plain numbers": (
            lambda g: g.create_dataset("x", (3,), h5py.vlen_dtype(np.int64)),
            lambda g: g.create_dataset("x", (3,), h5py.ref_dtype),
            lambda g: g.create_dataset("x", data=["a", "b", "c"]),
        ),
        "claims 8,000,000,000,000 bytes": (lambda g: g.create_dataset("x", (10**12,), "i8", chunks=(10**6,)),),
    }
    for message, several in makers.items():
        for make in several:
            with h5py.File(tmp_path / "a.h5", "w") as file:
                group = file.create_group("events")
                group["t"] = np.arange(3)
                make(group)
            with pytest.raises(data.DataError, match=f"a.h5: .*{message}"):
                data.read_events(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["events"] = h5py.ExternalLink(tmp_path / "other.h5", "/")
    with pytest.raises(data.DataError, match="events in it is a link"):
        data.read_events(tmp_path / "a.h5")


def test_lengths_in_hdf5_are_not_believed(tmp_path):
    h5py = pytest.importorskip("h5py")
    for options in ({}, dict(chunks=(2,))):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for name, kind in (("times", np.float16), ("units", np.int64)):
                column = file.create_dataset(f"spikes/{name}", 3, h5py.vlen_dtype(kind), **options)
                column[0], column[2] = [1, 2, 3, 4, 5], [6, 7]
        for k, wanted in enumerate(([1, 2, 3, 4, 5], [], [6, 7])):
            assert data.read_events(tmp_path / "a.h5", index=k).events["x"].tolist() == wanted
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, kind in (("times", np.float16), ("units", np.int64)):
            column = file.create_dataset(f"spikes/{name}", 1, h5py.vlen_dtype(kind))
            column[0] = [1, 2, 3, 4, 5]
            place = column.id.get_offset()
    raw = (tmp_path / "a.h5").read_bytes()
    for n in (0, 4, 6, 2**31, 2**32 - 1):
        (tmp_path / "a.h5").write_bytes(raw[:place] + struct.pack("<I", n) + raw[place + 4 :])
        with pytest.raises(
            data.DataError, match=r"a.h5: .*(array 0 of [\d,]+ values of int64 has 40 bytes|units \[0\])"
        ):
            data.read_events(tmp_path / "a.h5", index=0)


def test_filters_of_lengths_in_hdf5():
    """What shuffle, deflate and fletcher32 made of two references, undone."""
    chunk = bytes(range(32))
    shuffled = bytes(k + 16 * n for k in range(16) for n in range(2))
    packed = zlib.compress(shuffled) + b"sums"
    for kind in (3, 1, 2):
        packed = heap._unfiltered(packed, kind, 32)
    assert packed == chunk
