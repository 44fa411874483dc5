"""Bounds on what is unpacked from files: gzip, and the limit that everything in a file shares."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

from .errors import DataError

SPACE = 1 << 30  # bytes: a packed file or array that unpacks to more is refused, whatever its header promises
_RATIO = 1200  # deflate packs at most 1032 to 1; a file that unpacks to more than this many times its size is refused


class Room:
    """The number of bytes that may still be unpacked from a file of ``size`` bytes, archives inside it included.

    >>> room = Room(1000)
    >>> room.take(2_000_000, "a.zip")
    >>> room.take(2_000_000, "a.zip")
    Traceback (most recent call last):
    spikeloom.data.errors.DataError: a.zip: unpacks to far more than a file of its size can hold; nothing of it is kept
    """

    def __init__(self, size: int, *, limit: int = 1 << 40) -> None:
        self.left = min(limit, _RATIO * size + (1 << 20))

    def take(self, n: int, where: str) -> None:
        """Uses up ``n`` bytes; raises DataError if fewer are left."""
        self.left -= n
        if n < 0 or self.left < 0:
            raise DataError(f"{where}: unpacks to far more than a file of its size can hold; nothing of it is kept")


def is_gzip(head: bytes) -> bool:
    """Whether a file begins as gzip does: mark, deflate, and no flag that gzip does not have. The mark alone proves
    nothing: events can begin with it."""
    return len(head) >= 4 and head[:3] == b"\x1f\x8b\x08" and not head[3] & 0xE0


def contents(path: Path, room: Room | None = None) -> bytes:
    """The bytes of a file, unpacked if the file is gzip."""
    try:
        with path.open("rb") as file:
            packed = is_gzip(file.read(4))
        return gunzip(path, room) if packed else path.read_bytes()
    except OSError as missing:
        raise DataError(f"{path}: cannot be read: {missing.strerror or missing}") from missing


def gunzip(path: Path, room: Room | None = None) -> bytes:
    """The unpacked bytes of a gzip file."""
    try:
        with gzip.open(path) as file:
            raw = bounded(file.read, SPACE)
    except (EOFError, zlib.error, gzip.BadGzipFile) as broken:
        raise DataError(f"{path}: its gzip data are damaged or cut short ({broken}); fetch the file again") from broken
    if raw is None:
        raise DataError(f"{path}: unpacks to more than {SPACE:,} bytes; unpack it yourself")
    if room is not None:
        room.take(len(raw), str(path))
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
