"""Formats without a header: ATIS (N-MNIST, N-Caltech101) and the neuromorphic auditory sensor. A file counts as one of
them if its bytes, read in that format, give times that run forward.
"""

from __future__ import annotations

import codecs
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .recording import Recording, make_events
from .source import Bytes, Decoded, Source, unwrap

_OVERFLOW_ROW = 240  # no ATIS sensor has this row: a record with it is no event, and adds 2^13 us to all later times
_TICKS = 23


def read_atis(source: Source) -> Decoded:
    """Five bytes an event: column, row, one bit polarity with 23 bits of microseconds, big-endian.

    A record with row 240 is no event: it adds 2^13 us to all times after it (G. Orchard et al., 2015, N-MNIST).
    """
    table = source.records(0, "V5").view(np.uint8).reshape(-1, 5)
    t = _atis_times(table)
    marks = table[:, 1] == _OVERFLOW_ROW
    if not marks.any():
        return Decoded(make_events(t, table[:, 0], table[:, 1], table[:, 2] >> 7), None, (0, 5))
    t = t + (np.cumsum(marks) << 13)
    t, table = t[~marks], table[~marks]
    return Decoded(make_events(t, table[:, 0], table[:, 1], table[:, 2] >> 7))


def write_atis(path: Path, recording: Recording) -> None:
    """Writes the layout of :func:`read_atis`; overflow marks lead to times beyond 23 bits where they suffice."""
    events = recording.events
    t = events["t"]
    if len(events) and (t.min() < 0 or t.max() >> _TICKS or max(recording.size) > _OVERFLOW_ROW):
        raise DataError(
            f"ATIS .bin holds times from 0 to {2**_TICKS - 1:,} us and sensors up to {_OVERFLOW_ROW} pixels "
            f"a side; these events reach {int(t.max()):,} us on {recording.size}. Shift t, or write .npz or .dat"
        )
    table = np.empty((len(events), 5), np.uint8)
    table[:, 0], table[:, 1] = events["x"], events["y"]
    table[:, 2] = (events["p"].astype(np.uint8) << 7) | (t >> 16).astype(np.uint8)
    table[:, 3], table[:, 4] = (t >> 8) & 255, t & 255
    table.tofile(path)


def is_atis(head: bytes, whole: int) -> bool:
    """Whether the bytes make sense as :func:`read_atis` reads them."""
    table = np.frombuffer(head[: len(head) // 5 * 5], np.uint8).reshape(-1, 5)
    return len(table) > 0 and not _reads_as_text(head) and _forward(_atis_times(table), whole, 5)


def _reads_as_text(head: bytes) -> bool:
    """Whether these bytes are printable text, although the reader of text found no events in them."""
    try:
        # The decoder is incremental, because the head may end inside a character.
        text = codecs.getincrementaldecoder("utf-8")().decode(head.removeprefix(codecs.BOM_UTF8))
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)


def _atis_times(table: Bytes) -> NDArray[np.int64]:
    t = (table[:, 2] & 127).astype(np.int64) << 16
    t |= table[:, 3].astype(np.int64) << 8
    t |= table[:, 4]
    return t


_NAS = {
    "nas-2": (np.dtype([("a", ">u2"), ("t", ">u4")]), 0.2),
    "nas-4": (np.dtype([("a", ">u4"), ("t", ">u4")]), 1.0),
}


def _read_nas(source: Source, name: str) -> Decoded:
    dtype, tick = _NAS[name]
    table = source.records(0, dtype)
    address = table["a"]
    if len(table) and int(address.max()) >> 17:
        i = int((address >> 17 != 0).argmax())
        raise source.error(
            f"byte {i * dtype.itemsize:,}: address {int(address[i]):,} is none of an auditory sensor; is it of "
            f"another format? Name it with format="
        )
    t = unwrap(table["t"], 32)
    if tick != 1.0:
        t = (t * 2 + 5) // 10  # from ticks of 0.2 us to whole microseconds, rounded half up
    return Decoded(make_events(t, address >> 1, None, (address & 1) == 0), None)


def _is_nas(head: bytes, whole: int, name: str) -> bool:
    dtype, _ = _NAS[name]
    table = np.frombuffer(head[: len(head) // dtype.itemsize * dtype.itemsize], dtype)
    return (
        len(table) > 1 and int(table["a"].max()) < 4096 and _forward(table["t"].astype(np.int64), whole, table.itemsize)
    )


def _forward(t: NDArray[Any], whole: int, record: int) -> bool:
    """Whether times run forward almost everywhere in a sample of records, and are not all the same."""
    if whole % record > 0 and len(t) < 100:
        return False
    steps = np.diff(t)
    return bool(len(t)) and (not len(steps) or (float((steps >= 0).mean()) >= 0.98 and bool(t[-1] > t[0])))


read_nas_2, read_nas_4 = (partial(_read_nas, name=name) for name in _NAS)
is_nas_2, is_nas_4 = (partial(_is_nas, name=name) for name in _NAS)
