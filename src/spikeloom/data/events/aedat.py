"""AEDAT 2.0 and 3.1, the formats of jAER and cAER (iniVation, "AEDAT file formats")."""

from __future__ import annotations

import itertools
import re
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from . import decoders
from .decoders import Layout
from .recording import EVENT, Events, Recording, make_events
from .source import Decoded, Size, Source, unwrap

_PAIR = np.dtype([("a", ">u4"), ("t", ">u4")])
_DAVIS: dict[str, Size] = {"DAVIS240": (180, 240), "DAVIS346": (260, 346), "DAVIS128": (128, 128)}


def read_aedat2(source: Source) -> Decoded:
    """Big-endian pairs of 32 bits: address and unsigned microseconds, after lines that begin with ``#``.

    DVS128: ``x = a >> 1 & 127``, ``y = a >> 8 & 127``, ``p = a & 1``; words above 15 bits are signals. DAVIS: words
    with bit 31 are frames and motion (skipped, as are external signals, bit 10); ``x = a >> 12 & 1023``,
    ``y = a >> 22 & 511``, ``p = a >> 11 & 1``. jAER draws DVS128 mirrored, and with the polarity the other way round.
    """
    lines, begin = source.lines(b"#", stop=b"#End Of ASCII Header", record=8)
    chip = next((line.split(":", 1)[1] for line in lines if line.startswith("# AEChip:")), "DVS128")
    dvs128 = "DVS128" in chip.upper()
    size = (128, 128) if dvs128 else next((s for name, s in _DAVIS.items() if name in chip.upper()), None)
    if size is not None:
        events = decoders.pairs(source.raw[begin:], _DVS128_WORDS if dvs128 else _DAVIS_WORDS, size)
        if events is not None:
            return Decoded(events, size)
    table = source.records(begin, _PAIR)
    a, t = table["a"], unwrap(table["t"], 32)
    if dvs128:
        of_camera = a < 1 << 15
        if not of_camera.all():
            a, t = a[of_camera], t[of_camera]
        return Decoded(make_events(t, (a >> 1) & 127, (a >> 8) & 127, a & 1), (128, 128))
    if size is None:
        known = ", ".join(["DVS128", *_DAVIS])
        raise source.error(f"the address layout of chip {chip.strip()!r} is not known; there are {known}")
    of_camera = (a & (1 << 31 | 1 << 10)) == 0
    a, t = a[of_camera].astype(np.uint32), t[of_camera]
    x, y = (a >> 12) & 1023, (a >> 22) & 511
    outside = (x >= size[1]) | (y >= size[0])
    if outside.any():
        at = begin + 8 * int(np.flatnonzero(of_camera)[outside.argmax()])
        what = f"an event at x = {x[outside][0]}, y = {y[outside][0]} is outside the {size[0]} x {size[1]} of {chip}"
        source.damaged(at, what.strip(), 8 * int(outside.sum()))
        a, t, x, y = (column[~outside] for column in (a, t, x, y))
    return Decoded(make_events(t, x, y, a >> 11 & 1), size)


_DVS128_WORDS = Layout((1, 127), (8, 127), (0, 1), foreign=0xFFFF8000, big_endian=True)
_DAVIS_WORDS = Layout((12, 1023), (22, 511), (11, 1), foreign=1 << 31 | 1 << 10, big_endian=True)
_EVENTS_3 = Layout((17, 0x7FFF), (2, 0x7FFF), (1, 1), needed=1, unwrap=False)

_PACKET = np.dtype(
    [("type", "<i2"), ("source", "<i2"), ("size", "<i4"), ("offset", "<i4"), ("overflow", "<i4"),
     ("capacity", "<i4"), ("number", "<i4"), ("valid", "<i4")]
)  # fmt: skip
_HEAD = struct.Struct("<2h6i")
_POLARITY = np.dtype([("data", "<u4"), ("t", "<u4")])
_SIZES_3: dict[str, Size] = {"DVS128": (128, 128), "DAVIS240": (180, 240), "DAVIS346": (260, 346), "EDVS": (128, 128)}
_NAMED = re.compile(r"^#\s*Source\s+\d+:\s*(\S+)")


def read_aedat3(source: Source) -> Decoded:
    """Packets of events, each led by 28 bytes. Those of type 1 hold polarity events: ``data`` has validity (bit 0),
    polarity (bit 1), row (bits 2 to 16) and column (bits 17 to 31); 31 bits of microseconds follow, above which the
    packet's overflow counter stands. Events marked invalid, and packets of frames, motion and signals, are left out.
    """
    lines, at = source.lines(b"#", stop=b"#!END-HEADER")
    if not any(line.startswith("#!END-HEADER") for line in lines):
        raise source.error("its header has no line #!END-HEADER")
    parts, whole = [], len(source.raw)
    while at < whole:
        if whole - at < _PACKET.itemsize:
            source.damaged(at, f"the file ends {whole - at} bytes into the header of a packet", whole - at)
            break
        head = dict(zip(_PACKET.names or (), _HEAD.unpack_from(source.raw.data, at), strict=True))
        size, capacity, number = head["size"], head["capacity"], head["number"]
        body = at + _PACKET.itemsize
        if min(size, capacity, number) < 0 or number > capacity or not 0 <= head["type"] < 32 or head["overflow"] < 0:
            source.damaged(at, f"no header of a packet: {head}", whole - at)
            break
        end = body + size * capacity
        present = min(number, (whole - body) // size) if size else 0
        if head["type"] == 1:
            if size != _POLARITY.itemsize:
                source.damaged(at + 4, f"polarity events of {size} bytes instead of 8", min(end, whole) - at)
            else:
                parts.append((source.raw[body : body + 8 * present].view(_POLARITY), head["overflow"]))
        if end > whole:
            source.damaged(
                at, f"a packet of {size * capacity:,} bytes, of which {whole - body:,} are there", whole - body
            )
            break
        at = end
    chip = next((m.group(1).upper() for line in lines if (m := _NAMED.match(line))), "")
    sensor = next((size for name, size in _SIZES_3.items() if name in chip), None)
    if (events := _decoded(parts)) is not None:
        return Decoded(events, sensor)
    if parts:
        table = np.concatenate([events for events, _ in parts])
        overflow = np.repeat([n for _, n in parts], [len(events) for events, _ in parts])
    else:
        table, overflow = np.empty(0, _POLARITY), np.empty(0, np.int64)
    valid = (table["data"] & 1) == 1
    if not valid.all():
        table, overflow = table[valid], overflow[valid]
    data = table["data"]
    events = make_events(
        table["t"].astype(np.int64) + (overflow.astype(np.int64) << 31),
        (data >> 17) & 0x7FFF, (data >> 2) & 0x7FFF, (data >> 1) & 1,
    )  # fmt: skip
    return Decoded(events, sensor)


def _decoded(parts: list[tuple[NDArray[np.void], int]]) -> Events | None:
    """The events of packets with their overflow counters, in one array; None without a compiler. Packets in a row with
    the same counter, as nearly all have, are decoded at once."""
    events, n = np.empty(sum(len(table) for table, _ in parts), EVENT), 0
    for overflow, group in itertools.groupby(parts, key=lambda part: part[1]):
        raw = np.concatenate([table.view(np.uint8) for table, _ in group])
        found = decoders.pairs(raw, _EVENTS_3, None, offset=overflow << 31, out=events[n:])
        if found is None:
            return None
        n += len(found)
    return events[:n]


_CAPACITY = 4096


def write_aedat3(path: Path, recording: Recording) -> None:
    """Writes AEDAT 3.1, with polarity packets only."""
    events = recording.events
    t = events["t"]
    if len(events) and (t.min() < 0 or t.max() >> 62 or max(recording.size) > 1 << 15):
        raise DataError(
            f"AEDAT 3.1 holds times from 0 to {2**62 - 1:,} us and sensors up to 32,768 pixels a side; got "
            f"{int(t.min()):,} to {int(t.max()):,} us on {recording.size}"
        )
    chip = next((name for name, size in _SIZES_3.items() if size == recording.size), "unknown")
    table = np.empty(len(events), _POLARITY)
    x, y = events["x"].astype(np.uint32), events["y"].astype(np.uint32)
    table["data"] = (x << 17) | (y << 2) | (events["p"].astype(np.uint32) << 1) | 1
    table["t"] = t & 0x7FFFFFFF
    overflow = t >> 31
    cuts = np.union1d(np.arange(0, len(events), _CAPACITY), np.flatnonzero(np.diff(overflow)) + 1)
    with path.open("wb") as file:
        file.write(f"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: {chip}\r\n#!END-HEADER\r\n".encode())
        for begin, end in zip(cuts, [*cuts[1:], len(events)], strict=False):  # a file without events has no packet
            n = int(end - begin)
            head = np.array([(1, 1, 8, 4, overflow[begin], n, n, n)], _PACKET)
            file.write(head.tobytes() + table[begin:end].tobytes())
