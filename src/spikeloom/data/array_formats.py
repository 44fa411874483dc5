"""Readers of the array formats that image data sets come in: IDX, CIFAR batches, NPZ. They need NumPy only, and accept
nothing from a pickle but plain arrays, strings and numbers.

A file that does not hold what its header says raises :class:`DataError` with the file, the byte and what was expected.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import npz
from .errors import DataError
from .packed import Room, contents
from .pickles import unpickle_arrays

_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PIXELS = 3 * 32 * 32


def read_idx(path: Path, *, ndim: int | None = None) -> NDArray[Any]:
    """The array of an IDX file, plain or gzipped; another number of dimensions than ``ndim`` raises.

    IDX: two zero bytes, a type byte, the number of dimensions, each size as a big-endian int32, then the values
    (Y. LeCun, the MNIST database).

    >>> import tempfile
    >>> from pathlib import Path
    >>> import spikeloom as sl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "labels"
    ...     _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))  # uint8, one dimension, three values
    ...     sl.data.read_idx(file).tolist()
    [7, 2, 1]
    """
    raw = contents(path)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _IDX_TYPES:
        raise DataError(f"{path}: not an IDX file: it starts with {raw[:4].hex(' ') or 'nothing'}")
    dims = raw[3]
    if ndim is not None and dims != ndim:
        raise DataError(f"{path}: expected {ndim} dimensions, the header at byte 3 says {dims}")
    if len(raw) < 4 + 4 * dims:
        raise DataError(f"{path}: ends at byte {len(raw)}, in the middle of its header of {4 + 4 * dims} bytes")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", dims, offset=4))
    dtype = np.dtype(_IDX_TYPES[raw[2]])
    begin, size = 4 + 4 * dims, dtype.itemsize
    for n in shape:
        size *= n  # sizes are Python's integers, so that a lying header cannot overflow
    if len(raw) - begin != size:
        raise DataError(
            f"{path}: shape {list(shape)} takes {size:,} bytes after byte {begin}, the file has {len(raw) - begin:,}"
        )
    try:
        values = np.frombuffer(raw, dtype, offset=begin).reshape(shape)
    except (ValueError, OverflowError) as wrong:  # the file has no values, or more dimensions than an array can have
        raise DataError(f"{path}: shape {list(shape)} in its header is none of an array ({wrong})") from None
    return values.astype(dtype.newbyteorder("=")) if dtype.byteorder == ">" else values


def read_cifar_binary(path: Path, *, label_bytes: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images ``[N, 3, 32, 32]`` and labels of a CIFAR batch in the binary form.

    A record is ``label_bytes`` labels (CIFAR-100: coarse, then fine; the last one counts) and 3,072 bytes: red, green
    and blue planes of 32 rows. A batch may have any number of records (A. Krizhevsky, 2009).

    >>> import tempfile
    >>> from pathlib import Path
    >>> import spikeloom as sl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "batch.bin"
    ...     _ = file.write_bytes(bytes([6]) + bytes([255]) * 1024 + bytes(2048))  # label 6, a red picture
    ...     images, labels = sl.data.read_cifar_binary(file)
    >>> labels.tolist(), images[0, :, 0, 0].tolist()
    ([6], [255, 0, 0])
    """
    raw, record = contents(path), label_bytes + _PIXELS
    if not raw or len(raw) % record:
        raise DataError(
            f"{path}: {len(raw):,} bytes are no whole number of records of {record:,} bytes; "
            f"the last whole one ends at byte {len(raw) // record * record:,}"
        )
    table = np.frombuffer(raw, np.uint8).reshape(-1, record)
    return table[:, label_bytes:].reshape(-1, 3, 32, 32), table[:, label_bytes - 1].astype(np.int64)


def read_cifar_python(path: Path, *, labels: str = "labels") -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images ``[N, 3, 32, 32]`` and labels of a CIFAR batch in the Python form, a pickled dictionary.

    Only plain arrays are unpickled: a file that asks for anything else raises, and nothing of it runs.

    >>> import pickle, tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import spikeloom as sl
    >>> red = np.repeat(np.array([[255, 0, 0]], np.uint8), 1024, axis=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "batch"
    ...     _ = file.write_bytes(pickle.dumps({"data": red, "labels": [6]}))
    ...     images, labels = sl.data.read_cifar_python(file)
    >>> labels.tolist(), images[0, :, 0, 0].tolist()
    ([6], [255, 0, 0])
    """
    batch = unpickle_arrays(contents(path), str(path))
    if not isinstance(batch, dict) or not {"data", labels} <= set(batch):
        raise DataError(f"{path}: expected a dictionary with 'data' and {labels!r}, got {_keys(batch)}")
    try:
        data, y = np.asarray(batch["data"]), np.asarray(batch[labels])
    except (ValueError, TypeError, OverflowError) as wrong:  # such as lists of lists of different lengths
        raise DataError(f"{path}: its data or labels are no arrays ({wrong})") from None
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS or y.shape != data.shape[:1]:
        raise DataError(
            f"{path}: expected uint8 [N, {_PIXELS}] and N labels, got {data.dtype} {list(data.shape)} and {y.size}"
        )
    if y.dtype.kind not in "iu" and y.size:
        raise DataError(f"{path}: expected labels of whole numbers, got {y.dtype}")
    return data.reshape(-1, 3, 32, 32), y.astype(np.int64)


def read_npz(path: Path, *names: str) -> tuple[NDArray[Any], ...]:
    """The named arrays of an NPZ file; object arrays are refused."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            found = npz(file, size, str(path), Room(size), names=names)
    except OSError as missing:
        raise DataError(f"{path}: cannot be read: {missing.strerror or missing}") from missing
    return tuple(found[name] for name in names)


def _keys(batch: object) -> str:
    return ", ".join(map(repr, batch)) if isinstance(batch, dict) else type(batch).__name__
