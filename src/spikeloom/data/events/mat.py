"""Numeric arrays of MATLAB files of version 5 to 7.2 (The MathWorks, "MAT-File Format").

scipy's reader does more, but a damaged file can crash the process in it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..packed import SPACE, bounded

_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_STRUCTURE, _NUMBERS = 2, range(6, 16)  # classes of arrays in the format; others are left out
_COMPLEX = 1 << 11
Content = dict[str, Any]


class MatError(ValueError):
    """A file is damaged, or no MATLAB file of these versions."""


def read(raw: memoryview, take: Callable[[int], None] = lambda _: None) -> Content:
    """Numeric variables by name, as arrays; structures become dictionaries of arrays. Other kinds are left out.
    ``take`` is called with the number of bytes that were unpacked."""
    if len(raw) < 128 or bytes(raw[126:128]) not in (b"IM", b"MI"):
        raise MatError("it has no header of 128 bytes")
    order = "<" if bytes(raw[126:128]) == b"IM" else ">"
    found: Content = {}
    at = 128
    while at < len(raw):
        kind, body, at = _element(raw, at, order)
        if kind == _COMPRESSED:
            unpacked = _inflate(body)
            take(len(unpacked))
            kind, body, _ = _element(unpacked, 0, order)
        if kind == _MATRIX:
            name, value = _matrix(body, order, depth=0)
            if value is not None:
                found[name] = value
    return found


def _element(raw: memoryview, at: int, order: str) -> tuple[int, memoryview, int]:
    """The type and the content of the element at a byte, and the byte where the next one begins."""
    if at + 8 > len(raw):
        raise MatError(f"it ends at byte {len(raw):,}, in the tag of an element")
    kind, size = struct.unpack_from(f"{order}II", raw, at)
    if kind >> 16:  # the tag itself holds the content, four bytes at most
        kind, size = kind & 0xFFFF, kind >> 16
        if size > 4:
            raise MatError(f"a small element of {size} bytes at byte {at:,}")
        return kind, raw[at + 4 : at + 4 + size], at + 8
    if at + 8 + size > len(raw):
        raise MatError(f"an element of {size:,} bytes at byte {at:,}, of which {len(raw) - at - 8:,} are there")
    padded = size if kind == _COMPRESSED else -(-size // 8) * 8
    return kind, raw[at + 8 : at + 8 + size], at + 8 + padded


def _inflate(body: memoryview) -> memoryview:
    state, given = zlib.decompressobj(), [bytes(body)]

    def piece(n: int) -> bytes:
        data, given[0] = given[0], b""
        found = state.decompress(data or state.unconsumed_tail, n)
        return found if found or state.eof else state.flush(n)

    try:
        unpacked = bounded(piece, min(1100 * len(body) + 1024, SPACE))
    except zlib.error as broken:
        raise MatError(f"zlib: {broken}") from None
    if unpacked is None:
        raise MatError("it unpacks to more than zlib can pack")
    return memoryview(unpacked)


def _matrix(body: memoryview, order: str, *, depth: int) -> tuple[str, NDArray[Any] | Content | None]:
    """The name and the value of an array."""
    if depth > 4 or not len(body):
        return "", None
    _, flags, at = _element(body, 0, order)
    kind, dims, at = _element(body, at, order)
    _, name, at = _element(body, at, order)
    if len(flags) < 8 or kind != 5 or len(dims) < 8 or len(dims) % 4:
        raise MatError("an array without flags or dimensions")
    (flag,) = struct.unpack_from(f"{order}I", flags)
    shape = np.frombuffer(dims, f"{order}i4").tolist()
    title = bytes(name).decode("latin1")
    if flag & 255 == _STRUCTURE:
        return title, _structure(body, at, order, shape, depth)
    if flag & 255 not in _NUMBERS or flag & _COMPLEX:
        return title, None
    kind, data, _ = _element(body, at, order)
    if kind not in _TYPES:
        raise MatError(f"numbers of type {kind}")
    dtype = np.dtype(order + _TYPES[kind])
    count = 1
    for n in shape:
        count *= n
    if min(shape) < 0 or count * dtype.itemsize != len(data):
        raise MatError(f"array {title}: shape {shape} of {dtype} does not take {len(data):,} bytes")
    return title, np.frombuffer(data, dtype).reshape(shape, order="F").astype(dtype.newbyteorder("="))


def _structure(body: memoryview, at: int, order: str, shape: list[int], depth: int) -> Content | None:
    """The fields of a structure; arrays of structures are left out."""
    if any(n != 1 for n in shape):
        return None
    _, length, at = _element(body, at, order)
    _, names, at = _element(body, at, order)
    if len(length) != 4:
        raise MatError("a structure without the length of its names")
    (width,) = struct.unpack(f"{order}i", length)
    if width < 1 or len(names) % width:
        raise MatError(f"a structure with names of {width} bytes")
    fields: Content = {}
    for k in range(0, len(names), width):
        _, inner, at = _element(body, at, order)
        _, value = _matrix(inner, order, depth=depth + 1)
        if value is not None:
            fields[bytes(names[k : k + width]).split(b"\0", 1)[0].decode("latin1")] = value
    return fields
