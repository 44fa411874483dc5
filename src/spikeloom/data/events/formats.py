"""All formats in one table, and the two calls that use it: :func:`read_events` and :func:`write_events`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..atomic import atomically
from ..errors import DataError
from . import aedat, aedat4, binary, hdf5, prophesee, tables, text
from .columns import UNITS, field_of
from .recording import Recording, as_recording, check_size, extent, sides, whole_number
from .source import Decoded, Source, header

_HEAD = 1 << 16


@dataclass(frozen=True)
class Format:
    """A file format of events.

    Attributes:
        name: the name for ``format=`` and in messages.
        title: a description for people.
        fits: tells from its first bytes and its size whether a file is of this format; never true of a format that
            must be named.
        read: its reader.
        write: its writer, if there is one.
        suffixes: the suffixes of files that :func:`write_events` writes in this format.
        dims: the numbers of dimensions of the sensors that it can hold.
        options: those of ``columns`` and ``unit`` that its reader takes.

    >>> import spikeloom as sl
    >>> aedat = sl.data.events.FORMATS["aedat4"]
    >>> aedat.fits(b"#!AER-DAT4.0", 12), aedat.fits(b"% evt 3.0", 9), aedat.dims
    (True, False, (2,))
    """

    name: str
    title: str
    fits: Callable[[bytes, int], bool]
    read: Callable[[Source], Decoded]
    write: Callable[[Path, Recording], None] | None = None
    suffixes: tuple[str, ...] = ()
    dims: tuple[int, ...] = (2,)
    options: tuple[str, ...] = ()


def _starts(*marks: bytes) -> Callable[[bytes, int], bool]:
    return lambda head, _: head.startswith(marks)


def _evt(version: str, name: str) -> Callable[[bytes, int], bool]:
    def fits(head: bytes, _: int) -> bool:
        lines = [line.lower() for line in header(head, b"%", b"% end")[0]]
        marks = (f"% evt {version}", f"% format {name}")
        return any(line.split(";")[0].rstrip() in marks for line in lines)

    return fits


def _dat(head: bytes, _: int) -> bool:
    return bool(header(head, b"%", b"% end")[0]) and not any(_evt(*v)(head, 0) for v in _EVT)


def _hdf5(head: bytes, _: int) -> bool:
    return head.startswith(b"\x89HDF\r\n\x1a\n") or (head.startswith(b"MATLAB 7.3") and b"\x89HDF" in head[:1024])


_EVT = (("2.0", "evt2"), ("2.1", "evt21"), ("3.0", "evt3"))

FORMATS = {
    f.name: f
    for f in (
        Format("aedat4", "AEDAT 4.0 (DV)", _starts(b"#!AER-DAT4"), aedat4.read_aedat4),
        Format(
            "aedat3", "AEDAT 3.1 (cAER)", _starts(b"#!AER-DAT3"), aedat.read_aedat3, aedat.write_aedat3, (".aedat",)
        ),
        Format("aedat2", "AEDAT 2.0 (jAER)", _starts(b"#!AER-DAT2"), aedat.read_aedat2),
        Format("evt2", "Prophesee RAW, EVT 2.0", _evt(*_EVT[0]), prophesee.read_evt2, prophesee.write_evt2, (".raw",)),
        Format("evt21", "Prophesee RAW, EVT 2.1", _evt(*_EVT[1]), prophesee.read_evt21),
        Format("evt3", "Prophesee RAW, EVT 3.0", _evt(*_EVT[2]), prophesee.read_evt3),
        Format("dat", "Prophesee and ATIS DAT", _dat, prophesee.read_dat, prophesee.write_dat, (".dat",)),
        Format("dat-1", "ATIS DAT, with or without a header", lambda *_: False, prophesee.read_atis_dat),
        Format(
            "npz", "NumPy archive of columns", _starts(b"PK\x03\x04"), tables.read_npz, tables.write_npz, (".npz",),
            dims=(1, 2), options=("columns", "unit"),
        ),
        Format("npy", "NumPy array", _starts(b"\x93NUMPY"), tables.read_npy, options=("columns", "unit")),
        Format(
            "hdf5", "HDF5", _hdf5, hdf5.read_hdf5, hdf5.write_hdf5, (".h5", ".hdf5"), dims=(1, 2),
            options=("columns", "unit"),
        ),
        Format("mat", "MATLAB up to 7.2", _starts(b"MATLAB 5.0"), tables.read_mat, options=("unit",)),
        Format(
            "text", "lines of t x y p", text.is_text, text.read_text, text.write_text, (".txt", ".csv"), dims=(1, 2),
            options=("columns", "unit"),
        ),
        Format("nas-4", "auditory sensor, 32-bit addresses, 1 us", binary.is_nas_4, binary.read_nas_4),
        Format("nas-2", "auditory sensor, 16-bit addresses, 0.2 us", binary.is_nas_2, binary.read_nas_2),
        Format("atis", "ATIS .bin (N-MNIST)", binary.is_atis, binary.read_atis, binary.write_atis, (".bin",)),
    )
}  # fmt: skip
"""Formats of event files by name, in the order in which a file is tried."""


def read_events(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002
    size: tuple[int, ...] | None = None,
    errors: Literal["raise", "skip"] = "raise",
    index: int | None = None,
    columns: str | Sequence[str] | None = None,
    unit: Literal["s", "ms", "us", "ns"] | None = None,
) -> Recording:
    """The events of a file; its format is found from its content.

    Args:
        path: the file; gzip is unpacked.
        format: one of ``FORMATS``, for files whose content does not tell; None finds it from the content.
        size: the size of the sensor, ``(H, W)`` or ``(channels,)``; None is what the file says, else the extent of
            the events. An event outside is damage.
        errors: ``"raise"`` raises a :class:`DataError` with the byte where the file makes no sense; ``"skip"`` leaves
            such bytes out and counts them (``skipped``).
        index: the number of the recording in a file that holds several (SHD, SSC).
        columns: the names of the columns of a text or of an array of rows, in their order: ``"x y p t"``, or a
            sequence of names; ``_`` is a column of something else. None is what the file says, else t x y p.
        unit: the unit of the times of text, arrays, HDF5 and MATLAB; None is what the file says, else microseconds
            where all times are whole and seconds elsewhere.

    Times are whole microseconds on the file's own clock, unwrapped where its counter overflows; nothing is sorted,
    shifted or mirrored. Memory stays within a small multiple of the file, whatever its header promises.
    """
    if errors not in ("raise", "skip"):
        raise ValueError(f'read_events: errors must be "raise" or "skip", got {errors!r}')
    if not isinstance(path, (str, PathLike)):
        raise TypeError(f"read_events: path must be text or a Path, got {type(path).__name__}")
    fields = _order(columns)
    index = None if index is None else whole_number(index, "read_events: index", least=0)
    if unit is not None and unit not in UNITS:
        raise ValueError(f"read_events: unit must be one of {', '.join(UNITS)}, got {unit!r}")
    source = Source(Path(path), lenient=errors == "skip", index=index, columns=fields, unit=unit)
    if not len(source.raw):
        raise DataError(f"{path}: the file is empty")
    chosen = find_format(source) if format is None else _named(format)
    for name, value in (("columns", fields), ("unit", unit)):
        if value is not None and name not in chosen.options:
            raise DataError(f"{path}: {chosen.title} says itself what its events are; it takes no {name}=")
    decoded = chosen.read(source)
    events, measured = decoded.events, size is None and decoded.size is None
    size = sides(size, str(path)) if size is not None else decoded.size or extent(events)
    if source.lenient and not measured:
        inside = _inside(decoded, size)
        if inside is not None:
            source.skipped += (decoded.records or (0, events.itemsize))[1] * int((~inside).sum())
            events = events[inside]
    if not measured:
        try:
            check_size(events, size, str(path))
        except DataError as outside:
            raise DataError(f"{outside}{_where(decoded, size)}") from None
    return Recording(events, size, chosen.name, measured, source.skipped)


def _order(columns: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """The fields that the user's ``columns`` name; None if there are none."""
    if columns is None:
        return None
    words = re.split(r"[\s,;]+", columns.strip()) if isinstance(columns, str) else columns
    if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
        raise TypeError(f'read_events: columns must be text such as "x y p t", or a sequence of names, got {columns!r}')
    fields = tuple(word if word == "_" else field_of(word)[0] for word in words)
    known = [field for field in fields if field != "_"]
    wrong = [word for word, field in zip(words, fields, strict=True) if field == "_" != word]
    if wrong or not {"t", "x"} <= set(known) or len(set(known)) != len(known):
        raise ValueError(
            f"read_events: columns must name t and x, and y and p where they are there, once each, and _ what is none "
            f"of them; got {columns!r}"
        )
    return fields


def find_format(source: Source) -> Format:
    """The format of a file's content."""
    head, whole = source.head(_HEAD), len(source.raw)
    for candidate in FORMATS.values():
        if candidate.fits(head, whole):
            return candidate
    raise source.error(
        f"none of the known event formats ({', '.join(FORMATS)}): it begins with {head[:8].hex(' ')}; "
        f"if you know what it is, say so with format="
    )


def write_events(
    path: str | Path,
    events: Any,
    *,
    size: tuple[int, ...] | None = None,
    format: str | None = None,  # noqa: A002
) -> None:
    """Writes events (a :class:`Recording`, or anything :func:`as_events` takes) to a file.

    Args:
        path: the file; it appears whole or not at all.
        events: what to write; its order is kept.
        size: the size of the sensor; None is the recording's.
        format: one of those in ``FORMATS`` that can be written; None goes by the suffix.
    """
    if not isinstance(path, (str, PathLike)):
        raise TypeError(f"write_events: path must be text or a Path, got {type(path).__name__}")
    path = Path(path)
    recording = as_recording(events, size)
    check_size(recording.events, recording.size, str(path))
    chosen = _by_suffix(path) if format is None else _named(format)
    if chosen.write is None:
        raise DataError(f"{path}: {chosen.title} is only read; written are {', '.join(_written())}")
    if len(recording.size) not in chosen.dims:
        raise DataError(f"{path}: {chosen.title} has no place for a sensor of size {recording.size}")
    write = chosen.write
    try:
        atomically(path, lambda part: write(part, recording))
    except DataError as unfit:
        raise DataError(f"{path}: {unfit}") from None
    except (OSError, ValueError) as problem:
        raise DataError(f"{path}: cannot be written: {getattr(problem, 'strerror', None) or problem}") from problem


def _named(name: str) -> Format:
    if name not in FORMATS:
        raise DataError(f"there is no event format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]


def _by_suffix(path: Path) -> Format:
    for candidate in FORMATS.values():
        if path.suffix.lower() in candidate.suffixes:
            return candidate
    raise DataError(f"{path}: which format? Use a suffix of {', '.join(_written())}, or format=")


def _written() -> list[str]:
    return [f"{f.name} ({', '.join(f.suffixes)})" for f in FORMATS.values() if f.write]


def _inside(decoded: Decoded, size: tuple[int, ...]) -> Any:
    """A mask of the events inside the sensor; None if all are."""
    events = decoded.events
    if "y" not in (events.dtype.names or ()):
        fine = events["x"] < size[0]
    elif len(size) == 2:
        fine = (events["x"] < size[1]) & (events["y"] < size[0])
    else:
        return None
    return None if fine.all() else fine


def _where(decoded: Decoded, size: tuple[int, ...]) -> str:
    """The byte of the first event outside the sensor, where events have one length."""
    inside = _inside(decoded, size) if decoded.records else None
    if inside is None or decoded.records is None:
        return ""
    begin, length = decoded.records
    return f' (byte {begin + length * int(np.argmin(inside)):,}); errors="skip" leaves such events out'
