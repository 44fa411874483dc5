"""NumPy's files, NPY and NPZ. Only plain arrays are read, and none whose header asks for more than the file has."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .packed import SPACE, Room
from .pickles import is_plain, of_bytes, unpickle_arrays


def npy(raw: bytes, where: str, *, objects: bool = False) -> NDArray[Any]:
    """The array of an NPY file in memory; its header must agree with its size.

    Args:
        objects: whether an array of objects is read too, if they are plain arrays, containers, strings and numbers.
    """
    file = io.BytesIO(raw[: 1 << 17])
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except Exception as broken:  # NumPy parses the header as Python, which can fail in many ways
        what = re.sub(r" at 0x[0-9a-f]+", "", str(broken))
        raise DataError(f"{where}: not a readable NPY file of plain arrays ({what[:200]})") from None
    begin = file.tell()
    if dtype == np.dtype(object) and objects:
        found = unpickle_arrays(raw[begin:], where)
        if not isinstance(found, np.ndarray) or found.dtype != object or found.shape != shape:
            raise DataError(f"{where}: its header says objects {list(shape)}, its content is none")
        return found
    if not is_plain(dtype):
        raise DataError(f"{where}: holds {str(dtype)[:80]}; only plain arrays of numbers are loaded")
    size = dtype.itemsize
    for n in shape:
        size *= n  # sizes are Python's integers, so that a lying header cannot overflow
    have = len(raw) - begin
    if size != have or any(n < 0 for n in shape):
        raise DataError(f"{where}: shape {list(shape)} of {dtype} takes {size:,} bytes, {have:,} are there")
    try:
        return of_bytes(memoryview(raw)[begin:], dtype, shape, fortran=fortran)
    except (ValueError, OverflowError) as wrong:
        raise DataError(f"{where}: shape {list(shape)} of {dtype} is none of an array ({wrong})") from None


def npz(
    file: IO[bytes], size: int, where: str, room: Room, *, names: Sequence[str] | None = None, objects: bool = False
) -> dict[str, NDArray[Any]]:
    """The arrays of an NPZ file of ``size`` bytes by name: all of them, or those in ``names``."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {e.filename.removesuffix(".npy"): e for e in archive.infolist() if e.filename.endswith(".npy")}
            missing = [n for n in names or () if n not in entries]
            if missing:
                raise DataError(f"{where}: has no array {missing[0]!r}; it holds {', '.join(entries)}")
            wanted = entries if names is None else {name: entries[name] for name in names}
            return {name: _member(archive, e, size, where, room, objects) for name, e in wanted.items()}
    except DataError:
        raise
    except Exception as broken:  # zipfile, zlib and struct each have errors of their own
        raise DataError(f"{where}: not a readable NPZ file of plain arrays ({broken})") from broken


def _member(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, size: int, where: str, room: Room, objects: bool
) -> NDArray[Any]:
    """An array of an NPZ file, whose size is checked before any of it is unpacked."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{where}: {entry.filename} is packed in a way that NumPy does not write; save it anew")
    if entry.file_size > min(1100 * entry.compress_size + 1024, SPACE) or entry.compress_size > size:
        raise DataError(f"{where}: {entry.filename} would take {entry.file_size:,} bytes from {entry.compress_size:,}")
    room.take(entry.file_size, where)
    try:
        raw = archive.read(entry)
    except (zipfile.BadZipFile, zlib.error, EOFError) as broken:
        raise DataError(f"{where}: {entry.filename} is damaged ({broken}); fetch the file again") from None
    return npy(raw, f"{where}: {entry.filename}", objects=objects)
