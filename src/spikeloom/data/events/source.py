"""The bytes of an event file, and the treatment of those that make no sense."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..packed import Room, gunzip, is_gzip
from .recording import Events

Bytes = NDArray[np.uint8]
Size = tuple[int, ...]
_SURE = re.compile(rb"(?:#[\t\x20-\x7e]|% +[A-Za-z])[\t\x20-\x7e]{2,}\r?")


class Decoded(NamedTuple):
    """The result of a reader: the events, the size of the sensor if the file gives it, and, if all events have one
    length, their places in the file (byte of the first, bytes per event)."""

    events: Events
    size: Size | None = None
    records: tuple[int, int] | None = None


class Source:
    """A file's bytes (memory-mapped; gzip is unpacked), and the number of those that were left out.

    Readers report damage to :meth:`damaged`, which raises with the byte, or counts what is lost and lets them go on.

    Args:
        path, lenient, index: see ``read_events``, where ``lenient`` is ``errors="skip"``.
        columns, unit: the names of a table's columns, and the unit of its times; None is what the file says.
    """

    def __init__(
        self,
        path: Path,
        *,
        lenient: bool = False,
        index: int | None = None,
        columns: tuple[str, ...] | None = None,
        unit: str | None = None,
    ) -> None:
        self.path, self.lenient, self.index, self.columns, self.unit = path, lenient, index, columns, unit
        self.skipped = 0
        self.raw, self.room = _map(path)

    def damaged(self, offset: int, what: str, lost: int) -> None:
        """Reports that ``lost`` bytes from ``offset`` on are damaged: raises, or counts them as skipped."""
        if not self.lenient:
            raise DataError(f'{self.path}: byte {offset:,}: {what}; errors="skip" reads what is intact')
        self.skipped += lost

    def open(self) -> IO[bytes]:
        """The file, open for reading, or its unpacked content if it is gzip."""
        return io.BytesIO(self.raw.tobytes()) if is_gzip(_first(self.path)) else self.path.open("rb")

    def error(self, what: str) -> DataError:
        """The error to raise when nothing of the file can be read."""
        return DataError(f"{self.path}: {what}")

    def named(self) -> None:
        """Raises if the user names columns; readers of files that name their own columns call it."""
        if self.columns is not None:
            raise self.error("its columns have names; columns= is for arrays of rows and for text")

    def head(self, n: int) -> bytes:
        """The first ``n`` bytes."""
        return self.raw[:n].tobytes()

    def records(self, begin: int, dtype: Any) -> NDArray[Any]:
        """The file from ``begin`` on as records of a dtype; an incomplete last one is reported as damage."""
        dtype = np.dtype(dtype)
        body = self.raw[begin:]
        rest = len(body) % dtype.itemsize
        if rest:
            what = f"the file ends {rest} bytes into a record of {dtype.itemsize}"
            self.damaged(begin + len(body) - rest, what, rest)
        return body[: len(body) - rest].view(dtype)

    def lines(self, mark: bytes, stop: bytes = b"", *, record: int = 1, lead: int = 0) -> tuple[list[str], int]:
        """The lines of the header and the byte after them; see :func:`header`."""
        return header(self.raw, mark, stop, record=record, lead=lead)


def header(
    raw: Bytes | bytes, mark: bytes, stop: bytes = b"", *, whole: int | None = None, record: int = 1, lead: int = 0
) -> tuple[list[str], int]:
    """The lines at the beginning of a file that begin with ``mark``, and the byte after them.

    They end with the line ``stop``. Without that line, data may follow that look like a header line. The header then
    ends with the last line that can be nothing else (four characters or more, all of them ASCII, after ``%`` a blank
    and a word), or with the first line from there on after which the file is a whole number of records.

    Args:
        whole: the size of the file, where ``raw`` is only its beginning.
        record, lead: the number of bytes in a record, and between the header and the first record.
    """
    whole = len(raw) if whole is None else whole
    lines, ends, sure, at = list[str](), [0], 0, 0
    while (line := _line(raw, at)) is not None and line.startswith(mark) and all(b > 31 or b in b"\t\r" for b in line):
        lines.append(line.decode("latin1").strip())
        at += len(line) + 1
        ends.append(at)
        if stop and line.rstrip() == stop:
            return lines, at
        sure = len(lines) if _SURE.fullmatch(line) else sure
    fitting = (n for n in range(sure, len(ends)) if (whole - ends[n] - lead) % record == 0)
    n = next(fitting, sure) if sure else 0
    return lines[:n], ends[n]


def _line(raw: Bytes | bytes, at: int) -> bytes | None:
    """The line that begins at a byte; None if it does not end within 64 kB."""
    for n in (256, 1 << 16):
        piece = bytes(raw[at : at + n])
        if (end := piece.find(b"\n")) >= 0:
            return piece[:end]
    return None


def _first(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def unwrap(t: NDArray[Any], bits: int) -> NDArray[np.int64]:
    """The times of a counter of ``bits`` bits as int64, without its overflows. A step back by more than half the range
    is an overflow. A step ahead by as much undoes an overflow (the event is from before it), or, if there was none, is
    a long pause.

    >>> unwrap(np.array([250, 255, 3, 1], np.uint8), 8)
    array([250, 255, 259, 257])
    """
    long = t.astype(np.int64)
    if len(long) > 1:
        step = np.diff(long)
        half = 1 << (bits - 1)
        turns = np.flatnonzero((step < -half) | (step > half))
        if len(turns):
            wraps = np.where(step[turns] < 0, 1, -1)
            counts = np.cumsum(wraps)
            counts -= np.minimum.accumulate(np.minimum(counts, 0))  # the number of overflows never falls below 0
            long += np.repeat(np.r_[0, counts], np.diff(np.r_[0, turns + 1, len(long)])) << bits
    return long


def latest(values: NDArray[Any], at: NDArray[Any], where: NDArray[Any]) -> NDArray[Any]:
    """For each position in ``where`` (ascending), the value whose position in ``at`` (ascending) is the last before it.
    Positions before the first of ``at`` must have been left out.

    >>> latest(np.array([7, 9]), np.array([0, 4]), np.array([1, 3, 5]))
    array([7, 7, 9])
    """
    begins = np.searchsorted(where, at)
    return np.repeat(values, np.diff(np.r_[begins, len(where)]))


def _map(path: Path) -> tuple[Bytes, Room]:
    """The bytes of a file, and the limit on what is unpacked from it."""
    try:
        packed = is_gzip(_first(path))
        size = path.stat().st_size
        room = Room(size)
        if packed:
            return np.frombuffer(gunzip(path, room), np.uint8), room
        return (np.memmap(path, np.uint8, "r").view(np.ndarray) if size else np.empty(0, np.uint8)), room
    except (OSError, ValueError) as missing:
        if isinstance(missing, DataError):
            raise
        raise DataError(f"{path}: cannot be read: {getattr(missing, 'strerror', None) or missing}") from missing
