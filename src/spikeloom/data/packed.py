"""What is packed in files, with bounds: gzip, and the room that everything in a file shares."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

from .errors import DataError

SPACE = 1 << 30  # bytes that one packed thing may take unpacked, whatever its header promises
_RATIO = 1200  # deflate packs no better than 1032 to 1


class Room:
    """Bytes that may come out of a file of ``size`` bytes in all. What is packed in what is packed takes from it too.

    >>> room = Room(1000)
    >>> room.take(2_000_000, "a.zip")
    >>> room.take(2_000_000, "a.zip")
    Traceback (most recent call last):
    spikeloom.data.errors.DataError: a.zip: unpacks to far more than a file of its size can hold; nothing of it is kept
    """

    def __init__(self, size: int, *, limit: int = 1 << 40) -> None:
        self.left = min(limit, _RATIO * size + (1 << 20))

    def take(self, n: int, where: str) -> None:
        """Some of it is used up; more than there is raises."""
        self.left -= n
        if n < 0 or self.left < 0:
            raise DataError(f"{where}: unpacks to far more than a file of its size can hold; nothing of it is kept")


def is_gzip(head: bytes) -> bool:
    """Whether a file begins as gzip does: mark, deflate, no flag that gzip does not have. Events can begin with the
    mark alone."""
    return len(head) >= 4 and head[:3] == b"\x1f\x8b\x08" and not head[3] & 0xE0


def contents(path: Path, room: Room | None = None) -> bytes:
    """The bytes of a file, unpacked if it is gzip."""
    try:
        with path.open("rb") as file:
            packed = is_gzip(file.read(4))
        return gunzip(path, room) if packed else path.read_bytes()
    except OSError as missing:
        raise DataError(f"{path}: cannot be read: {missing.strerror or missing}") from missing


def gunzip(path: Path, room: Room | None = None) -> bytes:
    """What a gzip file holds."""
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
