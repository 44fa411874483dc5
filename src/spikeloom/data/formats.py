"""Readers of the array formats that image data sets come in: IDX, CIFAR batches. NumPy only; nothing is unpickled
but plain arrays, strings and numbers.

A file that does not hold what its header says raises :class:`DataError` with the file, the byte and what was expected.
"""

from __future__ import annotations

import gzip
import io
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PIXELS = 3 * 32 * 32
SPACE = 1 << 30  # bytes that something packed may take unpacked, whatever its header promises


def read_idx(path: Path, *, ndim: int | None = None) -> NDArray[Any]:
    """The array of an IDX file, plain or gzipped; ``ndim`` is the number of dimensions that it must have.

    IDX: two zero bytes, a type byte, the number of dimensions, each size as a big-endian int32, then the values
    (Y. LeCun, the MNIST database).
    """
    raw = _bytes(path)
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
        size *= n  # Python's integers: a lying header cannot overflow
    if len(raw) - begin != size:
        raise DataError(
            f"{path}: shape {list(shape)} takes {size:,} bytes after byte {begin}, the file has {len(raw) - begin:,}"
        )
    values = np.frombuffer(raw, dtype, offset=begin).reshape(shape)
    return values.astype(dtype.newbyteorder("=")) if dtype.byteorder == ">" else values


def read_cifar_binary(path: Path, *, label_bytes: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images ``[N, 3, 32, 32]`` and labels of a CIFAR batch in the binary form.

    A record is ``label_bytes`` labels (CIFAR-100: coarse, then fine; the last one counts) and 3,072 bytes: red, green
    and blue planes of 32 rows. A batch may have any number of records (A. Krizhevsky, 2009).
    """
    raw, record = _bytes(path), label_bytes + _PIXELS
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
    """
    batch = unpickle_arrays(_bytes(path), str(path))
    if not isinstance(batch, dict) or not {"data", labels} <= set(batch):
        raise DataError(f"{path}: expected a dictionary with 'data' and {labels!r}, got {_keys(batch)}")
    data, y = np.asarray(batch["data"]), np.asarray(batch[labels], np.int64)
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS or y.shape != data.shape[:1]:
        raise DataError(
            f"{path}: expected uint8 [N, {_PIXELS}] and N labels, got {data.dtype} {list(data.shape)} and {len(y)}"
        )
    return data.reshape(-1, 3, 32, 32), y


def read_npz(path: Path, *names: str) -> tuple[NDArray[Any], ...]:
    """The named arrays of an NPZ file; object arrays are refused."""
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [n for n in names if n not in file]
            if missing:
                raise DataError(f"{path}: has no array {missing[0]!r}; it holds {', '.join(file)}")
            return tuple(file[n] for n in names)
    except DataError:
        raise
    except Exception as broken:
        raise DataError(f"{path}: not a readable NPZ file of plain arrays ({broken})") from broken


def unpickle_arrays(raw: bytes, where: str) -> Any:
    """What a pickle holds, if that is plain arrays, containers, strings and numbers; anything else raises, and nothing
    of it runs."""
    try:
        return _ArraysOnly(io.BytesIO(raw), encoding="latin1").load()
    except DataError as refused:
        raise DataError(f"{where}: {refused}") from None
    except Exception as broken:
        raise DataError(f"{where}: not a pickle of plain arrays ({broken})") from broken


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gunzip(path) if packed else path.read_bytes()


def gunzip(path: Path) -> bytes:
    """What a gzip file holds."""
    try:
        with gzip.open(path) as file:
            raw = bounded(file.read, SPACE)
    except (EOFError, zlib.error, gzip.BadGzipFile) as broken:
        raise DataError(f"{path}: its gzip data are damaged or cut short ({broken}); fetch the file again") from broken
    if raw is None:
        raise DataError(f"{path}: unpacks to more than {SPACE:,} bytes; unpack it yourself")
    return raw


def bounded(read: Callable[[int], bytes], room: int) -> bytes | None:
    """All that ``read(n)`` gives, piece by piece, or None if that is more than ``room`` bytes."""
    pieces, left = [], room
    while piece := read(1 << 20):
        left -= len(piece)
        if left < 0:
            return None
        pieces.append(piece)
    return b"".join(pieces)


def _keys(batch: object) -> str:
    return ", ".join(map(repr, batch)) if isinstance(batch, dict) else type(batch).__name__


class _ArraysOnly(pickle.Unpickler):
    _ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),  # how Python 3 writes bytes for Python 2
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise DataError(f"asks for {module}.{name}, which is no plain array; it was not loaded")
        if name == "_reconstruct":
            module = "numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray"
        return super().find_class(module, name)
