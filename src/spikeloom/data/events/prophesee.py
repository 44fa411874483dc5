"""Prophesee's formats: DAT, and RAW files in EVT 2.0, 2.1 and 3.0 (Metavision, "Data encoding formats")."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from . import decoders
from .decoders import Layout
from .recording import Recording, make_events
from .source import Decoded, Size, Source, latest, unwrap

_DAT = np.dtype([("t", "<u4"), ("a", "<u4")])
_DAT_1 = Layout((0, 0x1FF), (9, 0xFF), (17, 1), time_first=True)
_DAT_2 = Layout((0, 0x3FFF), (14, 0x3FFF), (28, 15), time_first=True)
_GEOMETRY = re.compile(r"geometry\s+(\d{1,5})x(\d{1,5})\b", re.ASCII)
_PLUGINS: dict[str, Size] = {
    "gen31": (480, 640), "gen3": (480, 640), "gen41": (720, 1280), "gen4": (720, 1280), "imx636": (720, 1280),
    "genx320": (320, 320),
}  # fmt: skip


def read_atis_dat(source: Source) -> Decoded:
    """A DAT file of version 1, whatever its header says, and also without a header."""
    return read_dat(source, old=True)


def read_dat(source: Source, *, old: bool | None = None) -> Decoded:
    """Eight bytes an event after lines that begin with ``%`` and two bytes of type and size: 32 bits of microseconds,
    then 14 bits column, 14 bits row, 4 bits polarity (version 2), or 9 bits column, 8 bits row, 1 bit polarity (version
    1, ATIS, as in the gesture data set of N. Maro et al., 2020).
    """
    lines, at = source.lines(b"%", stop=b"% end", record=8, lead=2)
    fields = _fields(lines)
    kind = source.raw[at : at + 2].tolist()
    if old and not lines:
        at -= 2  # a file without a header has no bytes of type and size either
    elif len(kind) < 2 or kind[1] != 8:
        raise source.error(f"byte {at:,}: expected the type and the size 8 of the events, got {kind}")
    size = _size(lines, fields)
    old = fields.get("version", "1") == "1" if old is None else old
    events = decoders.pairs(source.raw[at + 2 :], _DAT_1 if old else _DAT_2, size)
    if events is not None:
        return Decoded(events, size, (at + 2, 8))
    table = source.records(at + 2, _DAT)
    a = table["a"]
    if old:
        x, y, p = a & 0x1FF, (a >> 9) & 0xFF, (a >> 17) & 1
    else:
        x, y, p = a & 0x3FFF, (a >> 14) & 0x3FFF, a >> 28
    return Decoded(make_events(unwrap(table["t"], 32), x, y, p), size, (at + 2, 8))


def write_dat(path: Path, recording: Recording) -> None:
    """Writes DAT, version 2."""
    events = recording.events
    _fits(recording, "DAT", bits_t=32, bits_clock=32, bits_x=14)
    table = np.empty(len(events), _DAT)
    table["t"] = events["t"]
    x, y = events["x"].astype(np.uint32), events["y"].astype(np.uint32)
    table["a"] = x | (y << 14) | (events["p"].astype(np.uint32) << 28)
    H, W = recording.size
    with path.open("wb") as file:
        file.write(f"% Data file containing CD events.\n% Version 2\n% Height {H}\n% Width {W}\n".encode())
        file.write(bytes((12, 8)))
        file.write(table.tobytes())


def read_evt2(source: Source) -> Decoded:
    """EVT 2.0 has words of 32 bits. Types 0 and 1 are events (6 bits of time, column, row), type 8 has the upper 28
    bits of time. Events before the first such word are left out, because their time is not known.
    """
    lines, begin = source.lines(b"%", stop=b"% end", record=4)
    size = _size(lines, _fields(lines))
    if (events := decoders.evt2(source.raw[begin:], size)) is not None:
        return Decoded(events, size)
    words = source.records(begin, "<u4")
    event, t = _timed(source, words, begin, 4)
    w = words[event]
    return _inside(source, (t, (w >> 11) & 2047, w & 2047, w >> 28), begin + 4 * event, size)


def _timed(source: Source, words: NDArray[Any], begin: int, length: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The indices of the words of 32 bits that are events, and their times; a word in the file has ``length`` bytes."""
    kind = words >> 28
    _known(source, kind, begin, length, (0, 1, 8, 10, 14, 15))
    high = np.flatnonzero(kind == 8)
    event = np.flatnonzero(kind <= 1)
    event = event[np.searchsorted(event, high[0]) :] if len(high) else event[:0]
    t = latest(unwrap(words[high] & 0x0FFFFFFF, 28) << 6, high, event)
    t |= (words[event] >> 22) & 63
    return event, t


def write_evt2(path: Path, recording: Recording) -> None:
    """Writes EVT 2.0, with a word of time wherever the upper bits change. Steps back in time that the format cannot
    express raise."""
    events = recording.events
    _fits(recording, "EVT 2.0", bits_t=34, bits_clock=28, bits_x=11)
    t = events["t"]
    x, y = events["x"].astype(np.uint32), events["y"].astype(np.uint32)
    words = (events["p"].astype(np.uint32) << 28) | ((t & 63).astype(np.uint32) << 22) | (x << 11) | y
    high = (t >> 6).astype(np.uint32)
    new = np.flatnonzero(np.r_[True, np.diff(high.astype(np.int64)) != 0]) if len(high) else np.empty(0, np.int64)
    _write_raw(path, recording, "2.0", "EVT2", np.insert(words, new, (8 << 28) | high[new]).astype("<u4"))


def read_evt21(source: Source) -> Decoded:
    """EVT 2.1 has words of 64 bits. The upper half is a word of EVT 2.0; the lower half has a bit for each of up to 32
    events in a row.
    """
    lines, begin = source.lines(b"%", stop=b"% end", record=8)
    if any("endianness=legacy" in line for line in lines):
        raise source.error("EVT 2.1 in the legacy byte order is not read; convert it with the camera's software")
    words = source.records(begin, "<u8")
    upper = (words >> np.uint64(32)).astype(np.uint32)
    event, t = _timed(source, upper, begin, 8)
    row, bit = _bits(words[event].astype(np.uint32).astype("<u4"))
    event, t = event[row], t[row]
    upper = upper[event]
    x = ((upper >> 11) & 2047) + bit.astype(np.uint32)
    return _inside(source, (t, x, upper & 2047, upper >> 28), begin + 8 * event, _size(lines, _fields(lines)))


_WIDTHS = {4: 12, 5: 8}  # the number of events that a vector word of each type may hold


def read_evt3(source: Source) -> Decoded:
    """EVT 3.0 has words of 16 bits that change a state: row (0), column with an event (2), column of a vector (3),
    vectors of 12 and 8 events (4, 5), lower and upper 12 bits of time (6, 8).

    Only the upper bits of time overflow. The lower ones may step back by some microseconds, as cameras write them
    ahead.
    """
    lines, begin = source.lines(b"%", stop=b"% end", record=2)
    size = _size(lines, _fields(lines))
    if (events := decoders.evt3(source.raw[begin:], size)) is not None:
        return Decoded(events, size)
    words = source.records(begin, "<u2")
    kind = (words >> 12).astype(np.uint8)
    _known(source, kind, begin, 2, (0, 2, 3, 4, 5, 6, 7, 8, 10, 14, 15))
    rows, bases = np.flatnonzero(kind == 0), np.flatnonzero(kind == 3)
    clock, at_clock = _evt3_clock(words, kind)
    event = np.flatnonzero((kind == 2) | (kind == 4) | (kind == 5))
    known = max((int(p[0]) if len(p) else len(words)) for p in (rows, at_clock))
    event = event[np.searchsorted(event, known) :]
    if not len(bases):
        event = event[kind[event] == 2]
    elif (event < bases[0]).any():
        event = event[(kind[event] == 2) | (event > bases[0])]
    w, k = words[event], kind[event]
    mask = np.where(k == 2, 1, w & np.where(k == 4, 0xFFF, 0xFF)).astype("<u2")
    x = (w & 2047).astype(np.int64)
    p = (w >> 11) & 1
    vector = k != 2
    if vector.any():
        base = words[bases]
        widths = np.zeros(len(words) + 1, np.int64)
        for code, width in _WIDTHS.items():
            widths[1:][kind == code] = width
        before = np.cumsum(widths)  # the sum of the widths of all vectors before each word
        at = event[vector]
        origin = latest((base & 2047).astype(np.int64) - before[bases], bases, at)
        x[vector] = origin + before[at]
        p[vector] = latest((base >> 11) & 1, bases, at)
    row, bit = _bits(mask)
    event = event[row]
    y = latest(words[rows] & 2047, rows, event)
    t = latest(clock, at_clock, event)
    return _inside(source, (t, x[row] + bit, y, p[row]), begin + 2 * event, size)


def _evt3_clock(words: NDArray[Any], kind: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The times that words of time set, and the indices of these words. A new upper part sets the lower bits to 0; one
    that is repeated changes nothing."""
    high = np.flatnonzero(kind == 8)
    if not len(high):
        return np.empty(0, np.int64), high
    high = high[np.diff(words[high] & 0xFFF, prepend=np.uint16(0xFFFF)) != 0]
    base = unwrap(words[high] & 0xFFF, 12) << 12
    low = np.flatnonzero(kind == 6)
    low = low[np.searchsorted(low, high[0]) :]
    at = np.concatenate((high, low))
    clock = np.concatenate((base, latest(base, high, low) | (words[low] & 0xFFF)))
    order = np.argsort(at, kind="stable")
    return clock[order], at[order]


def _bits(masks: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """For every bit that is set, in order: the index of its mask, and its number in the mask."""
    width = 8 * masks.itemsize
    if len(masks) and (masks == 1).all():
        return np.arange(len(masks)), np.zeros(len(masks), np.int64)
    found = np.flatnonzero(np.unpackbits(masks.view(np.uint8), bitorder="little"))
    return found // width, found % width


def _known(source: Source, kind: NDArray[Any], begin: int, word: int, types: tuple[int, ...]) -> None:
    """Reports words of a type that the format does not have as damage."""
    table = np.zeros(16, bool)
    table[list(types)] = True
    wrong = np.flatnonzero(~table[kind])
    if len(wrong):
        first = int(wrong[0])
        what = f"a word of type {int(kind[first])}, which the format does not have"
        source.damaged(begin + word * first, what, word * len(wrong))


def _inside(source: Source, columns: tuple[Any, ...], at: NDArray[Any], size: Size | None) -> Decoded:
    """The events inside the sensor; the words of those outside are reported as damage."""
    t, x, y, p = columns
    H, W = size or (1 << 16, 1 << 16)
    outside = (x >= W) | (y >= H)
    if outside.any():
        first = int(outside.argmax())
        what = f"an event at x = {int(x[first])}, y = {int(y[first])} is outside the sensor of {H} x {W}"
        source.damaged(int(at[first]), what, len(np.unique(at[outside])) * 2)
        t, x, y, p = (column[~outside] for column in columns)
    return Decoded(make_events(t, x, y, p), size)


def _fields(lines: list[str]) -> dict[str, str]:
    """The fields of ``% name value`` lines, by name; ``format`` is split at its semicolons."""
    fields = {}
    for line in lines:
        name, _, value = line.lstrip("% ").partition(" ")
        fields[name.lower()] = value.strip()
        if name == "format":
            for pair in value.split(";"):
                key, _, setting = pair.partition("=")
                fields[key.strip().lower()] = setting.strip().lower()
    return fields


def _size(lines: list[str], fields: dict[str, str]) -> Size | None:
    """The size of the sensor that the header gives; None if it gives none."""
    H, W = fields.get("height", ""), fields.get("width", "")
    if all(n.isdecimal() and len(n) < 6 and 0 < int(n) <= 1 << 14 for n in (H, W)):
        return int(H), int(W)
    for line in lines:
        found = _GEOMETRY.search(line)
        if found and int(found.group(1)) and int(found.group(2)):
            return int(found.group(2)), int(found.group(1))
    plugin = fields.get("plugin_name", "")
    return next((size for name, size in _PLUGINS.items() if name in plugin), None)


def _fits(recording: Recording, name: str, *, bits_t: int, bits_clock: int, bits_x: int) -> None:
    """Raises for events that a format cannot hold, whose times have ``bits_t`` bits and overflow in the upper
    ``bits_clock``."""
    t, top = recording.events["t"], 1 << bits_t
    if len(t) and (int(t.min()) < 0 or int(t.max()) >= top):
        raise DataError(f"{name} holds times from 0 to {top - 1:,} us, got {int(t.min()):,} to {int(t.max()):,}")
    clock = t >> (bits_t - bits_clock)
    if not np.array_equal(unwrap(clock, bits_clock), clock):
        raise DataError(
            f"{name} has a clock of {bits_t} bits: an event earlier than the one before it by more than half of its "
            f"range would be read as later; put the events in order of time"
        )
    if max(recording.size) > 1 << bits_x:
        raise DataError(f"{name} holds sensors up to {1 << bits_x:,} pixels a side, got {recording.size}")


def _write_raw(path: Path, recording: Recording, version: str, name: str, words: NDArray[Any]) -> None:
    H, W = recording.size
    with path.open("wb") as file:
        file.write(f"% evt {version}\n% format {name};height={H};width={W}\n% geometry {W}x{H}\n% end\n".encode())
        file.write(words.tobytes())
