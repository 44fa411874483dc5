"""Events as columns of numbers, under any of their usual names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .recording import Events, as_events

Columns = Mapping[str, Any]
ALIASES = {
    "t": ("t", "ts", "timestamp", "timestamps", "time", "times"),
    "x": ("x", "xs", "units", "addr", "col", "column"),
    "y": ("y", "ys", "row"),
    "p": ("p", "pol", "polarity", "polarities", "on", "ps"),
}
_FIELDS = {alias: field for field, aliases in ALIASES.items() for alias in aliases}
_UNITS = {
    "s": ("s", "sec", "secs", "second", "seconds"),
    "ms": ("ms", "msec", "millisecond", "milliseconds"),
    "us": ("us", "usec", "µs", "μs", "microsecond", "microseconds"),
    "ns": ("ns", "nsec", "nanosecond", "nanoseconds"),
}
_UNIT = {alias: unit for unit, aliases in _UNITS.items() for alias in aliases}
_PIXELS = ("px", "pixel", "pixels")
UNITS = tuple(_UNITS)


def field_of(word: str) -> tuple[str, str | None]:
    """The field that the name of a column stands for, or ``_`` if it is none, and the unit of time in the name.

    >>> field_of("time_us"), field_of("Polarity"), field_of("x[px]"), field_of("speed")
    (('t', 'us'), ('p', None), ('x', None), ('_', None))
    """
    parts = re.fullmatch(r"([a-z]+)(?:[\s_./\[(-]+([a-zµμ]+)[\])]*)?", word.strip().lower())
    field, unit = (_FIELDS.get(parts[1], "_"), parts[2]) if parts else ("_", None)
    if unit is None:
        return field, None
    if field == "t" and unit in _UNIT:
        return field, _UNIT[unit]
    return (field, None) if field in ("x", "y") and unit in _PIXELS else ("_", None)


def from_columns(columns: Columns, where: str, *, unit: str | None = None) -> Events:
    """Events from columns under any of their usual names. Without a unit, times that are all whole numbers, of whatever
    type, are microseconds; others are seconds.

    Instead, ``pos`` and ``neg`` (ES-ImageNet) may hold rows of (y, x, t) for each polarity.
    """
    names = {str(name).lower(): name for name in columns}
    if {"pos", "neg"} <= set(names):
        columns = _by_polarity(columns[names["pos"]], columns[names["neg"]], where)
        names = {name: name for name in columns}
    found = {
        field: _column(columns[names[alias]], f"{where}: column {names[alias]}")
        for field, aliases in ALIASES.items()
        if (alias := next((a for a in aliases if a in names), None)) is not None
    }
    if not {"t", "x"} <= set(found):
        raise DataError(f"{where}: no columns t and x; it holds {', '.join(map(str, columns)) or 'nothing'}")
    t = found["t"]
    if t.dtype.kind == "f" and not (unit is None and _all_whole(t)):
        found["t"] = microseconds(t, where, unit=unit or "s")
    elif unit is not None:
        found["t"] = scaled(t, unit, where)
    try:
        return as_events(found)
    except DataError as wrong:
        raise DataError(f"{where}: {wrong}") from None


def _column(values: Any, where: str) -> NDArray[Any]:
    """A flat array of numbers or booleans."""
    try:
        column = np.asarray(values).reshape(-1)
    except (ValueError, TypeError, OverflowError) as wrong:  # such as lists of lists of different lengths
        raise DataError(f"{where} is no array of numbers ({wrong})") from None
    if column.dtype.kind not in "biuf":
        raise DataError(f"{where} holds {column.dtype}, which are no numbers")
    return column


def _by_polarity(pos: Any, neg: Any, where: str) -> Columns:
    parts = [_column(part, f"{where}: {name}") for name, part in (("pos", pos), ("neg", neg))]
    if any(len(part) % 3 for part in parts):
        raise DataError(f"{where}: pos and neg must be rows of y, x and t, got {[len(part) for part in parts]} numbers")
    rows = np.concatenate([part.reshape(-1, 3) for part in parts])
    p = np.repeat([True, False], [len(part) // 3 for part in parts])
    order = np.argsort(rows[:, 2], kind="stable")
    return {"t": rows[order, 2], "x": rows[order, 1], "y": rows[order, 0], "p": p[order]}


def of_array(
    array: NDArray[Any], where: str, *, unit: str | None = None, fields: tuple[str, ...] | None = None
) -> Events:
    """Events of a structured array, or of rows of (t, x, y, p) or of the columns that ``fields`` names."""
    if array.dtype.names and fields is None:
        return from_columns({name: array[name] for name in array.dtype.names}, where, unit=unit)
    fields = fields or tuple("txyp")
    if array.ndim == 2 and array.shape[1] == len(fields) and array.dtype.kind in "iuf":
        taken = {name: column for name, column in zip(fields, array.T, strict=True) if name != "_"}
        return from_columns(taken, where, unit=unit)
    raise DataError(
        f"{where}: expected a structured array or rows of {', '.join(fields)}, got {array.dtype} {list(array.shape)}"
    )


def _all_whole(t: NDArray[Any]) -> bool:
    """Whether all floating-point numbers are whole and fit int64."""
    with np.errstate(invalid="ignore"):
        return bool(((t % 1 == 0) & (np.abs(t) < 2**62)).all())


def microseconds(times: NDArray[Any], where: str, *, unit: str = "s") -> NDArray[np.int64]:
    """Converts times in floating point to whole microseconds."""
    with np.errstate(over="ignore", invalid="ignore"):  # times that are no numbers raise below
        t = np.asarray(times, np.float64) * {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}[unit]
    if len(t) and not np.abs(t).max() < 2**62:  # NaN fails this comparison too
        i = int(np.argmax(~(np.abs(t) < 2**62)))
        raise DataError(f"{where}: time {i:,} is {times[i]} {unit}, which no clock has")
    return np.rint(t).astype(np.int64)


def scaled(times: NDArray[Any], unit: str, where: str) -> NDArray[np.int64]:
    """Converts whole times of a unit to microseconds, exactly."""
    factor = {"s": 10**6, "ms": 1000, "us": 1, "ns": 1}[unit]
    outside = [int(times.min()), int(times.max())] if len(times) else []
    if any(abs(t) * factor >> 63 for t in outside):
        raise DataError(f"{where}: times from {outside[0]} to {outside[1]} {unit} do not fit 64 bits of microseconds")
    t: NDArray[np.int64] = times.astype(np.int64)
    return (t // 1000 + (t % 1000 >= 500)) if unit == "ns" else t * factor
