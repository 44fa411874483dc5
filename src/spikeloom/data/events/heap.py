"""Arrays of different lengths in HDF5 files, read from the file's bytes (The HDF Group, "HDF5 File Format
Specification", III.E, "Disk Format: Level 1E - Global Heap").

libhdf5 trusts the lengths in the file: a damaged one can take all memory, or end the process.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

_REFERENCE = struct.Struct("<IQI")  # a reference: the number of values, the address of a heap, the index in it
_HEAP = struct.Struct("<4sB3xQ")
_OBJECT = struct.Struct("<HH4xQ")
_MOST = 1 << 24  # bytes: a larger chunk of references is refused


def ragged(dataset: Any, at: int, dtype: np.dtype[Any], where: str) -> NDArray[Any]:
    """The array at index ``at`` of a data set of arrays of different lengths."""
    plist = dataset.file.id.get_create_plist()
    if plist.get_sizes() != (8, 8) or dataset.ndim != 1:
        raise DataError(f"{where}: {dataset.name} is no list of arrays with addresses of 64 bits")
    try:
        with Path(where).open("rb") as file:
            count, address, index = _REFERENCE.unpack(_reference(file, dataset, at))
            raw = _object(file, address + plist.get_userblock(), index) if count else b""
    except (struct.error, zlib.error, EOFError, OSError, RuntimeError) as broken:
        raise DataError(f"{where}: {dataset.name}: array {at} is damaged ({broken})") from None
    if len(raw) != count * dtype.itemsize:
        raise DataError(f"{where}: {dataset.name}: array {at} of {count:,} values of {dtype} has {len(raw):,} bytes")
    return np.frombuffer(raw, dtype)


def _reference(file: IO[bytes], dataset: Any, at: int) -> bytes:
    """The bytes of the reference to the array at an index."""
    size = _REFERENCE.size
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        if offset is None:
            raise EOFError("it has no place in the file")
        return _piece(file, offset + size * at, size)
    (n,) = dataset.chunks
    begin = at // n * n
    about = dataset.id.get_chunk_info_by_coord((begin,))
    if about.byte_offset is None or n * size > _MOST:
        raise EOFError("its chunk is not in the file")
    raw = _piece(file, about.byte_offset, about.size)
    plist = dataset.id.get_create_plist()
    for k in reversed(range(plist.get_nfilters())):
        if not about.filter_mask >> k & 1:
            raw = _unfiltered(raw, plist.get_filter(k)[0], n * size)
    return raw[size * (at - begin) :][:size]


def _unfiltered(raw: bytes, kind: int, size: int) -> bytes:
    """A chunk with one filter undone: deflate, shuffle or fletcher32. It has ``size`` bytes before filtering."""
    if kind == 1:
        return zlib.decompressobj().decompress(raw, size + 4)
    if kind == 2:
        return np.frombuffer(raw, np.uint8).reshape(_REFERENCE.size, -1).T.tobytes()
    if kind == 3:
        return raw[:-4]
    raise EOFError(f"its references are packed by filter {kind}")


def _object(file: IO[bytes], address: int, index: int) -> bytes:
    """An object of a global heap."""
    mark, version, size = _HEAP.unpack(_piece(file, address, _HEAP.size))
    if mark != b"GCOL" or version != 1:
        raise EOFError(f"there is no heap at byte {address:,}")
    at, end = address + _HEAP.size, address + size
    while at + _OBJECT.size <= end:
        number, _, length = _OBJECT.unpack(_piece(file, at, _OBJECT.size))
        at += _OBJECT.size
        if number == index and index:
            if at + length > end:
                raise EOFError(f"an object of {length:,} bytes is longer than its heap")
            return _piece(file, at, length)
        if number == 0:
            break
        at += -(-length // 8) * 8
    raise EOFError(f"the heap at byte {address:,} has no object {index}")


def _piece(file: IO[bytes], at: int, n: int) -> bytes:
    """``n`` bytes of the file; raises if there are fewer."""
    whole = file.seek(0, 2)
    if not 0 <= at <= at + n <= whole:
        raise EOFError(f"bytes {at:,} to {at + n:,} of {whole:,} are asked for")
    file.seek(at)
    return file.read(n)
