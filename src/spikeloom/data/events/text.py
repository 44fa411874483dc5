"""Events as lines of numbers."""

from __future__ import annotations

import io
import itertools
import re
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .columns import field_of, microseconds, scaled
from .recording import Recording, as_events
from .source import Decoded, Size, Source

_BOM = b"\xef\xbb\xbf"
_BLANKS = re.compile(rb"[\s,;]+")
_NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_WHOLE = re.compile(rb"[+-]?\d+")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_MOST = 64  # a first line of more numbers than this is no event: the file is not text


class _Form(NamedTuple):
    """What is known of a text before its numbers are read: the fields of its columns, whether the file or the user
    names them, the unit of time, the sensor's size, and the byte of the first line of numbers."""

    fields: tuple[str, ...]
    said: bool
    unit: str | None
    size: Size | None
    begin: int


def is_text(head: bytes, whole: int) -> bool:
    """Whether the first line of numbers can be an event, or, without such a line, a line names columns."""
    if _CONTROL.search(head):
        return False
    lines = [line.strip() for line in re.split(rb"[\r\n]+", head.removeprefix(_BOM))]
    lines = lines[: -1 if whole > len(head) else None]
    rows = (len(_split(line)) for line in lines if line and not line.startswith(b"#") and _is_numbers(line))
    sizes = itertools.islice(rows, 2)
    first = next(sizes, 0)
    first = next(sizes, 0) if first == 2 else first  # two numbers are the sensor's size
    return 3 <= first <= _MOST if first else any(_names(line)[0] for line in lines)


def read_text(source: Source) -> Decoded:
    """A line ``t x y p`` for each event (``t x p`` in one dimension), between blanks, commas or semicolons.

    A line of names, commented out with ``#`` or not, may come first and name other columns: usual names, in any order,
    with a unit after that of the time (``time_us``, ``t [ms]``). A line of names that is not understood raises, as does
    a column p of anything but -1, 0 and 1; then ``columns=`` must name the columns. A first line of two numbers is the
    sensor's width and height. Without a unit, times are microseconds where all of them are whole and seconds elsewhere;
    times that may be either raise, and then ``unit=`` must be given.
    """
    raw = source.raw.tobytes().replace(b"\r", b"\n")  # one byte for one, so that positions do not shift
    form = _form(source, raw)
    body = raw[form.begin :]
    for separator in (b",", b";"):
        if separator in body[:4096]:
            body = body.replace(separator, b" ")
    table = _table(body, form) or _careful(source, body, form)
    return Decoded(as_events({**table.values, "t": _times(source, table, form)}), form.size)


def write_text(path: Path, recording: Recording) -> None:
    """Writes a line ``t x y p`` for each event, with microseconds, below a line of names."""
    events = recording.events
    names = list(events.dtype.names or ())
    size = " ".join(map(str, reversed(recording.size)))
    with path.open("w") as file:
        file.write(f"# {' '.join(names)}\n" + (f"{size}\n" if len(recording.size) == 2 else ""))
        np.savetxt(file, np.stack([events[name].astype(np.int64) for name in names], 1), fmt="%d")


def _form(source: Source, raw: bytes) -> _Form:
    """The form that the lines before the first event give."""
    at = len(_BOM) if raw.startswith(_BOM) else 0
    names: set[tuple[tuple[str, ...], str | None]] = set()
    size, first = None, 0
    while at < len(raw):
        end = raw.find(b"\n", at) + 1 or len(raw)
        line = raw[at:end].strip()
        parts = _split(line.split(b"#", 1)[0])
        if any(_NUMBER.fullmatch(part) for part in parts):
            if len(parts) != 2 or not _is_numbers(line) or len(source.columns or ()) == 2:
                first = next((n for n in map(_row, io.BytesIO(raw[at:])) if n), 0)
                break
            if size is not None:
                raise source.error(f"byte {at:,}: a second line of two numbers; the first one is the sensor's size")
            size = _sides(source, parts, at)
        elif line:
            found, unit, problem = _names(line)
            if problem and source.columns is None:
                raise source.error(
                    f"byte {at:,}: a line of names that is not understood: {problem}; say what the columns are with "
                    f'columns=, such as columns="x y p t", where _ is none of them'
                )
            if found:
                names.add((found, unit))
        at = end
    if len(names) > 1 and source.columns is None:
        several = " and ".join(f"{' '.join(fields)} ({unit or 'no unit'})" for fields, unit in sorted(names, key=str))
        raise source.error(f"lines of names that differ, {several}; choose with columns= and unit=")
    own, unit = next(iter(names), ((), None)) if len(names) < 2 else ((), None)
    return _Form(*_fields(source, own, first, at), source.unit or unit, size, at)


def _fields(source: Source, own: tuple[str, ...], n: int, at: int) -> tuple[tuple[str, ...], bool]:
    """The fields of ``n`` columns, and whether the file or the user names them."""
    fields = source.columns or own
    if fields and n not in (0, len(fields)):
        raise source.error(f"byte {at:,}: {n} columns, of which {len(fields)} are named ({' '.join(fields)})")
    if not fields and n not in (3, 4):
        what = f"{n} columns without names; say what they are with columns=, where _ is none of t, x, y and p"
        raise source.error(f"byte {at:,}: {what}" if n else "no line of numbers and no names of columns")
    return (fields, True) if fields else (tuple("txp" if n == 3 else "txyp"), False)


def _names(line: bytes) -> tuple[tuple[str, ...], str | None, str]:
    """The fields that a line names, the unit of time, and the problem of the line, empty if it has none. A comment
    without names has no fields and no problem."""
    comment = line.startswith(b"#")
    text = line.removeprefix(_BOM).lstrip(b"# \t").decode("utf8", "replace").replace('"', "").replace("'", "")
    text = text.rpartition(":")[2] if comment else text
    text = re.sub(r"\s+(?=[(\[])", "", text.strip())
    words = [word for word in re.split(r"\s*[,;\t]\s*" if re.search(r"[,;\t]", text) else r"\s+", text) if word]
    found = [field_of(word) for word in words]
    fields = tuple(field for field, _ in found)
    known = [field for field in fields if field != "_"]
    if comment and (len(known) < 2 or 2 * len(known) <= len(words)):  # a sentence may have a few of these words
        return (), None, ""
    if "_" in fields:
        return (), None, f"{text[:60]!r}, of which {words[fields.index('_')][:20]!r} is no known name"
    if len(set(fields)) != len(fields) or not {"t", "x"} <= set(fields):
        return (), None, f"{text[:60]!r}, which does not name t and x once each"
    return fields, next((unit for _, unit in found if unit), None), ""


def _sides(source: Source, parts: list[bytes], at: int) -> Size:
    if not all(n.isdigit() and len(n) < 6 and int(n) for n in parts):
        raise source.error(f"byte {at:,}: expected the sensor's width and height, got {b' '.join(parts)[:40]!r}")
    return int(parts[1]), int(parts[0])


class _Table(NamedTuple):
    """Columns of numbers, without the times; the times as they are written; the times in floating point."""

    values: dict[str, NDArray[Any]]
    t: NDArray[Any]
    rounded: NDArray[np.float64]


def _table(body: bytes, form: _Form) -> _Table | None:
    """Reads all columns at once; None if one of them has something wrong in it."""
    if not body.strip():
        none = np.empty(0, np.int64)
        return _Table({name: none for name in form.fields if name not in "t_"}, none, none.astype(np.float64))
    whole = not any(mark in body for mark in (b".", b"e", b"E", b"n", b"N"))  # n and N are in nan and inf
    kinds = [np.int64 if whole else "S48" if name == "t" else np.float64 for name in form.fields]
    names = [f"{name}{k}" if name == "_" else name for k, name in enumerate(form.fields)]
    try:
        rows = np.loadtxt(io.BytesIO(body), list(zip(names, kinds, strict=True)), ndmin=1)
        rounded = rows["t"].astype(np.float64)
    except (ValueError, OverflowError, DeprecationWarning):
        return None
    values = {name: rows[name] for name in form.fields if name not in "t_"}
    cut = not whole and (b"_" in body or bool((np.char.str_len(rows["t"]) == 48).any()))
    if cut or not np.isfinite(rounded).all() or not all(_fits(name, column).all() for name, column in values.items()):
        return None
    return _Table(values, rows["t"], rounded)


def _fits(name: str, column: NDArray[Any]) -> NDArray[np.bool_]:
    """A mask of the numbers that may stand in a column."""
    fine: NDArray[np.bool_]
    if name == "p":
        fine = (column == 1) | (column == 0) | (column == -1)
    else:
        fine = (column >= 0) & (column < 1 << 16) & (column == np.floor(column))
    return fine


def _careful(source: Source, body: bytes, form: _Form) -> _Table:
    """Reads line by line, to report the line in which something is wrong."""
    kept: list[list[bytes]] = []
    lost, at = 0, form.begin
    for line in body.split(b"\n"):
        parts = line.split(b"#", 1)[0].split()
        problem = _problem(parts, form) if parts else ""
        if problem:
            lost += 1
            source.damaged(at, f"{problem}: {line[:60].decode('latin1')!r}", len(line))
        elif parts:
            kept.append(parts)
        at += len(line) + 1
    if lost > len(kept) and not form.said:
        raise source.error(f"its columns are not {' '.join(form.fields)}; say what they are with columns=")
    columns = dict(zip(form.fields, np.array(kept, "S48").reshape(-1, len(form.fields)).T, strict=True))
    values = {name: column.astype(np.float64) for name, column in columns.items() if name not in "t_"}
    return _Table(values, columns["t"], columns["t"].astype(np.float64))


def _problem(parts: list[bytes], form: _Form) -> str:
    """The problem of a line, or an empty string."""
    if len(parts) != len(form.fields) or not all(_NUMBER.fullmatch(part) and len(part) < 48 for part in parts):
        return f"a line that is not {len(form.fields)} numbers"
    for name, part in zip(form.fields, parts, strict=True):
        if name == "t" and (not np.isfinite(float(part)) or (_WHOLE.fullmatch(part) and abs(int(part)) >> 63)):
            return "a line whose time is none"
        if name not in "t_" and not _fits(name, np.array([float(part)])).all():
            hint = "" if form.said or name != "p" else " (if the columns are others, columns= says which)"
            return f"a line whose {name} is {part.decode()}, which is none{hint}"
    return ""


def _times(source: Source, table: _Table, form: _Form) -> NDArray[np.int64]:
    """The times in microseconds; numbers beyond 2^53 are exact."""
    where, t = str(source.path), table.t
    if t.dtype.kind == "i":
        return scaled(t, form.unit or "us", where)
    fraction = np.char.find(t, b".") >= 0
    exponent = (np.char.find(t, b"e") >= 0) | (np.char.find(t, b"E") >= 0)
    plain = ~(fraction | exponent)
    if plain.all():
        whole = np.array([int(n) for n in t.tolist()], object)  # Python's integers have no limit
        return scaled(whole, form.unit or "us", where)
    values = table.rounded
    unit = form.unit or _unit(source, t, values, plain, exponent)
    if len(t) and float(np.abs(values).max()) >= 2**31:  # seconds beyond this lose microseconds in float64
        exact = [int((Decimal(n.decode()) * _SCALE[unit]).to_integral_value(ROUND_HALF_EVEN)) for n in t.tolist()]
        return scaled(np.array(exact, object), "us", where)
    return microseconds(values, where, unit=unit)


_SCALE = {"s": Decimal(10**6), "ms": Decimal(1000), "us": Decimal(1), "ns": Decimal("0.001")}


def _unit(
    source: Source, t: NDArray[Any], values: NDArray[np.float64], plain: NDArray[np.bool_], exponent: NDArray[np.bool_]
) -> str:
    """The unit of times with decimal points, from how they are written; raises where that leaves it open."""
    if plain.any():
        i = int((plain != plain[0]).argmax())
        what = f"time {i:,} is {t[i].decode()} and time 0 {t[0].decode()}: some are whole and some have a decimal point"
    elif (values != np.floor(values)).any():
        return "s"
    elif exponent.all() or not values.any():
        return "us"  # some programs print whole numbers in this way; and 0 is the same in any unit
    else:
        what = f"time 0 is {t[0].decode()}, and all are whole: seconds or microseconds?"
    raise source.error(f'{what} Say so with unit="s" or unit="us"')


def _row(line: bytes) -> int:
    """The number of numbers in a line; 0 if it has anything else in it."""
    line = line.split(b"#", 1)[0].strip()
    return len(_split(line)) if line and _is_numbers(line) else 0


def _is_numbers(line: bytes) -> bool:
    return all(_NUMBER.fullmatch(part) for part in _split(line))


def _split(line: bytes) -> list[bytes]:
    return _BLANKS.split(line.strip(b" \t\r,;"))
