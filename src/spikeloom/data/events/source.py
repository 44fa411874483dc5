"""The bytes of an event file, and what becomes of those that make no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..formats import gunzip
from .recording import Events

Bytes = NDArray[np.uint8]
Size = tuple[int, ...]


class Decoded(NamedTuple):
    """What a reader finds: events, the size of the sensor if the file says it, where each event stands in the file
    (offset of the first, bytes per event) if events have one size."""

    events: Events
    size: Size | None = None
    records: tuple[int, int] | None = None


class Source:
    """A file's bytes (memory-mapped; gzip is unpacked) and what was left out of them.

    Damage goes through :meth:`damaged`: it raises with the byte, or counts what is lost and lets the reader go on.
    """

    def __init__(self, path: Path, *, lenient: bool = False, index: int | None = None) -> None:
        self.path, self.lenient, self.index = path, lenient, index
        self.skipped = 0
        self.raw = _map(path)

    def damaged(self, offset: int, what: str, lost: int) -> None:
        """Bytes ``lost`` from ``offset`` on are no use."""
        if not self.lenient:
            raise DataError(f'{self.path}: byte {offset:,}: {what}; errors="skip" reads what is intact')
        self.skipped += lost

    def error(self, what: str) -> DataError:
        """What to raise when nothing of the file can be read."""
        return DataError(f"{self.path}: {what}")

    def head(self, n: int) -> bytes:
        """The first bytes."""
        return self.raw[:n].tobytes()

    def records(self, begin: int, dtype: Any) -> NDArray[Any]:
        """The file from ``begin`` on as records of a dtype; a broken last one is damage."""
        dtype = np.dtype(dtype)
        body = self.raw[begin:]
        rest = len(body) % dtype.itemsize
        if rest:
            what = f"the file ends {rest} bytes into a record of {dtype.itemsize}"
            self.damaged(begin + len(body) - rest, what, rest)
        return body[: len(body) - rest].view(dtype)

    def lines(self, mark: bytes, stop: bytes = b"") -> tuple[list[str], int]:
        """Header lines that begin with ``mark``, up to one that begins with ``stop``, and the byte after them."""
        lines, at = [], 0
        head = self.head(1 << 14)
        while head.startswith(mark, at):
            end = head.find(b"\n", at)
            if end < 0 and len(head) < min(len(self.raw), 1 << 24):
                head = self.head(8 * len(head))  # a long header
                continue
            line = head[at:end]
            if end < 0 or not _printable(line):
                break  # binary data that happens to begin like a header line
            lines.append(line.decode("latin1").strip())
            at = end + 1
            if stop and line.startswith(stop):
                break
        return lines, at


def unwrap(t: NDArray[Any], bits: int) -> NDArray[np.int64]:
    """Times of a counter of ``bits`` bits as int64: a step back by more than half its range is an overflow, a step
    ahead after one undoes it (an event from before it), and without one it is a long pause.

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
            counts -= np.minimum.accumulate(np.minimum(counts, 0))  # never below none
            long += np.repeat(np.r_[0, counts], np.diff(np.r_[0, turns + 1, len(long)])) << bits
    return long


def latest(values: NDArray[Any], at: NDArray[Any], where: NDArray[Any]) -> NDArray[Any]:
    """For each ascending position ``where``: the value whose position ``at`` (ascending) is the last before it. The
    positions before the first ``at`` must have been left out.

    >>> latest(np.array([7, 9]), np.array([0, 4]), np.array([1, 3, 5]))
    array([7, 7, 9])
    """
    begins = np.searchsorted(where, at)
    return np.repeat(values, np.diff(np.r_[begins, len(where)]))


def _map(path: Path) -> Bytes:
    try:
        with path.open("rb") as file:
            if file.read(2) == b"\x1f\x8b":
                return np.frombuffer(gunzip(path), np.uint8)
        if path.stat().st_size == 0:
            return np.empty(0, np.uint8)
        return np.memmap(path, np.uint8, "r").view(np.ndarray)
    except OSError as missing:
        raise DataError(f"{path}: cannot be read: {missing.strerror or missing}") from missing


def _printable(line: bytes) -> bool:
    return all(b > 31 or b in b"\t\r" for b in line)
