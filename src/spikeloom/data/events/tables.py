"""Events in files of columns: NPZ, NPY, text, MATLAB and HDF5."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..formats import SPACE, unpickle_arrays
from . import mat
from .recording import EVENT_1D, Events, Recording, as_events, make_events
from .source import Decoded, Size, Source

Columns = Mapping[str, Any]
_ALIASES = {
    "t": ("t", "ts", "timestamp", "timestamps", "time", "times"),
    "x": ("x", "xs", "units", "addr"),
    "y": ("y", "ys"),
    "p": ("p", "pol", "polarity", "polarities", "on", "ps"),
}


def from_columns(columns: Columns, where: str) -> Events:
    """Events from columns under any of their usual names. Times that are all whole numbers, of whatever type, are
    microseconds; others are seconds.

    ``pos`` and ``neg`` (ES-ImageNet) hold rows of (y, x, t) for each polarity instead.
    """
    names = {name.lower(): name for name in columns}
    if {"pos", "neg"} <= set(names):
        return _by_polarity(columns[names["pos"]], columns[names["neg"]], where)
    found = {
        field: np.asarray(columns[names[alias]]).reshape(-1)
        for field, aliases in _ALIASES.items()
        if (alias := next((a for a in aliases if a in names), None)) is not None
    }
    if not {"t", "x"} <= set(found):
        raise DataError(f"{where}: no columns t and x; it holds {', '.join(map(str, columns)) or 'nothing'}")
    if found["t"].dtype.kind == "f" and not _all_whole(found["t"]):
        found["t"] = microseconds(found["t"], where)
    try:
        return as_events(found)
    except DataError as wrong:
        raise DataError(f"{where}: {wrong}") from None


def _all_whole(t: NDArray[Any]) -> bool:
    """Whether floating-point numbers are whole ones that int64 can hold."""
    with np.errstate(invalid="ignore"):
        return bool(((t % 1 == 0) & (np.abs(t) < 2**62)).all())


def microseconds(seconds: NDArray[Any], where: str) -> NDArray[np.int64]:
    """Seconds as whole microseconds."""
    t = np.asarray(seconds, np.float64) * 1e6
    if len(t) and not np.abs(t).max() < 2**62:  # NaN too
        i = int(np.argmax(~(np.abs(t) < 2**62)))
        raise DataError(f"{where}: time {i:,} is {seconds[i]} seconds")
    return np.rint(t).astype(np.int64)


def _by_polarity(pos: Any, neg: Any, where: str) -> Events:
    parts = [np.asarray(part).reshape(-1, 3) for part in (pos, neg)]
    rows = np.concatenate(parts)
    p = np.repeat([True, False], [len(part) for part in parts])
    order = np.argsort(rows[:, 2], kind="stable")
    columns = {"t": rows[order, 2], "x": rows[order, 1], "y": rows[order, 0], "p": p[order]}
    try:
        return as_events(columns)
    except DataError as wrong:
        raise DataError(f"{where}: {wrong}") from None


def _of_array(array: NDArray[Any], where: str) -> Events:
    """A structured array, or rows of (t, x, y, p)."""
    if array.dtype.names:
        return from_columns({name: array[name] for name in array.dtype.names}, where)
    if array.ndim == 2 and array.shape[1] == 4 and array.dtype.kind in "iuf":
        return from_columns(dict(zip("txyp", array.T, strict=True)), where)
    raise DataError(
        f"{where}: expected a structured array or rows of t, x, y, p, got {array.dtype} {list(array.shape)}"
    )


def read_npz(source: Source) -> Decoded:
    """Arrays t, x, y, p (or an array ``events``, or pos and neg); ``size`` beside them is the sensor's."""
    try:
        with zipfile.ZipFile(source.path) as archive:
            columns = {
                entry.filename.removesuffix(".npy"): _member(source, archive, entry)
                for entry in archive.infolist()
                if entry.filename.endswith(".npy")
            }
    except DataError:
        raise
    except Exception as broken:
        raise source.error(f"not a readable NPZ file of plain arrays ({broken})") from None
    size = columns.pop("size", None)
    events = columns.get("events")
    where = str(source.path)
    found = from_columns(columns, where) if events is None else _of_array(events, where)
    return Decoded(found, _size(size))


def _member(source: Source, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    """An array of an NPZ file, whose size is checked before any of it is unpacked."""
    packed = min(entry.compress_size, len(source.raw))
    if entry.file_size > min(1100 * packed + 1024, SPACE) or entry.compress_size > len(source.raw):
        raise source.error(f"{entry.filename} would take {entry.file_size:,} bytes from {entry.compress_size:,}")
    return _array(archive.read(entry), f"{source.path}: {entry.filename}")


def _array(raw: bytes, where: str) -> NDArray[Any]:
    """The array of an NPY file in memory; its header must agree with its size. Objects go through a reader that makes
    plain arrays only."""
    file = io.BytesIO(raw)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception as broken:  # the header is Python's syntax, with all that can be wrong with that
        what = re.sub(r" at 0x[0-9a-f]+", "", str(broken))
        raise DataError(f"{where}: not a readable NPY file of plain arrays ({what})") from None
    if dtype.hasobject:
        return np.asarray(unpickle_arrays(raw[file.tell() :], where), dtype=object).reshape(shape)
    size = dtype.itemsize
    for n in shape:
        size *= n
    if size != len(raw) - file.tell():
        have = len(raw) - file.tell()
        raise DataError(f"{where}: shape {list(shape)} of {dtype} takes {size:,} bytes, {have:,} are there")
    file.seek(0)
    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def read_npy(source: Source) -> Decoded:
    """A structured array, rows of (t, x, y, p), or a dictionary of columns in an array of objects."""
    array = _array(source.raw.tobytes(), str(source.path))
    if array.dtype.hasobject:
        parts = [part for part in array.reshape(-1) if part is not None]
        if len(parts) == 1 and isinstance(parts[0], Mapping):
            return Decoded(from_columns(parts[0], str(source.path)))
        try:
            array = np.concatenate([np.asarray(part) for part in parts])
        except (ValueError, TypeError) as broken:
            raise source.error(f"an array of objects that are no events ({broken})") from None
    return Decoded(_of_array(array, str(source.path)))


def write_npz(path: Path, recording: Recording) -> None:
    """Arrays t, x, y, p (as SpikingJelly writes them) and size."""
    events = recording.events
    names = events.dtype.names or ()
    columns: dict[str, Any] = {name: events[name] for name in names}
    with path.open("wb") as file:
        np.savez_compressed(file, size=np.array(recording.size), **columns)


_NUMBERS = re.compile(rb"^[\s\d.,;eE+-]*$")


def is_text(head: bytes) -> bool:
    """Whether the last whole line of the head is of three or four numbers."""
    lines = [line for line in head.splitlines()[:-1] or head.splitlines() if line.strip()]
    if not lines or not _NUMBERS.match(lines[-1]):
        return False
    return len(re.split(rb"[\s,;]+", lines[-1].strip())) in (3, 4)


def read_text(source: Source) -> Decoded:
    """A line ``t x y p`` for each event (``t x p`` in one dimension), between blanks, commas or semicolons.

    Times with a decimal point are seconds, others microseconds. Lines that begin with ``#`` and one line of names may
    come first; a first line of two numbers is the sensor's width and height.
    """
    raw = source.raw.tobytes()
    lines = raw[: 1 << 16].split(b"\n")
    names, size, at = "", None, 0
    for line in lines:
        text = line.strip()
        numbers = bool(_NUMBERS.match(text))
        if text and not text.startswith(b"#") and numbers:
            first = re.split(rb"[\s,;]+", text)
            if len(first) != 2:
                break
            size = (int(first[1]), int(first[0])) if all(n.isdigit() and len(n) < 6 for n in first) else None
        elif text and not numbers:
            names = text.decode("latin1").lstrip("# ").lower()
        at += len(line) + 1
    body = raw[at:]
    if b"," in body[:4096] or b";" in body[:4096]:
        body = body.replace(b",", b" ").replace(b";", b" ")
    columns = _columns(source, body, at)
    fields = re.split(r"[\s,;]+", names.strip())
    known = {alias: field for field, aliases in _ALIASES.items() for alias in aliases}
    if len(fields) == len(columns) and set(fields) <= set(known):
        order = [known[name] for name in fields]
    else:
        order = list("txp") if len(columns) == 3 else list("txyp")
    found = dict(zip(order, columns, strict=True))
    if b"." in body[:4096].split(b"\n", 1)[0]:
        found["t"] = microseconds(found["t"], str(source.path))
    return Decoded(from_columns(found, str(source.path)), size)


def _columns(source: Source, body: bytes, begin: int) -> NDArray[np.float64]:
    """Columns of numbers; a line that is none is damage."""
    first = body.split(b"\n", 1)[0].split()
    if len(first) not in (3, 4):
        raise source.error(f"byte {begin:,}: expected lines of t x y p or t x p, got {first[:6]}")
    try:
        return np.loadtxt(io.BytesIO(body), ndmin=2).T
    except ValueError:
        pass
    rows = []  # something is wrong somewhere: find out where
    at = begin
    for line in body.split(b"\n"):
        fields = line.split(b"#", 1)[0].split()
        try:
            values = [float(field) for field in fields]
        except ValueError:
            values = []
        if len(values) == len(first):
            rows.append(values)
        elif fields:
            what = f"a line that is not {len(first)} numbers: {line[:60].decode('latin1')!r}"
            source.damaged(at, what, len(line))
        at += len(line) + 1
    return np.array(rows, np.float64).reshape(-1, len(first)).T


def write_text(path: Path, recording: Recording) -> None:
    """A line ``t x y p`` for each event, in microseconds, below a line of names."""
    events = recording.events
    names = list(events.dtype.names or ())
    size = " ".join(map(str, reversed(recording.size)))
    with path.open("w") as file:
        file.write(f"# {' '.join(names)}\n" + (f"{size}\n" if len(recording.size) == 2 else ""))
        np.savetxt(file, np.stack([events[name].astype(np.int64) for name in names], 1), fmt="%d")


def read_mat(source: Source) -> Decoded:
    """MATLAB files up to version 7.2: columns (ASL-DVS: ts, x, y, pol), also in a structure, or ST-MNIST's
    ``spiketrain``: taxels by samples of -1, 0 and 1, and a last row of seconds. Later ones are HDF5.
    """
    try:
        content = mat.read(source.raw.data)
    except mat.MatError as broken:
        raise source.error(f"not a readable MATLAB file ({broken})") from None
    if "spiketrain" in content:
        return _taxels(np.asarray(content["spiketrain"]), str(source.path))
    for value in content.values():
        if isinstance(value, dict):
            content = value
            break
    return Decoded(from_columns(content, str(source.path)))


def _taxels(train: NDArray[Any], where: str) -> Decoded:
    """Spikes of a 10 x 10 tactile sensor; taxel ``i`` is at row ``i // 10``, column ``i % 10``."""
    if train.ndim != 2 or train.shape[0] != 101:
        raise DataError(f"{where}: spiketrain must be [101, samples], got {list(train.shape)}")
    t = microseconds(train[-1], where)
    at, taxel = np.nonzero(train[:-1].T)
    return Decoded(make_events(t[at], taxel % 10, taxel // 10, train[taxel, at] > 0), (10, 10))


def open_hdf5(path: Path) -> Any:
    """An HDF5 file, open for reading; close it yourself."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise DataError(f"{path}: HDF5 needs h5py; pip install 'spikeloom[data]'") from None
    try:
        return h5py.File(path, "r")
    except Exception as broken:
        raise DataError(f"{path}: not a readable HDF5 file ({broken})") from None


def read_hdf5(source: Source) -> Decoded:
    """One recording: columns t, x, y, p, or a compound data set, at the root or in a group ``events`` (or CD/events);
    an attribute ``size`` is the sensor's. Or many, as in SHD and SSC: ``spikes/times`` in seconds and ``spikes/units``;
    then ``index`` says which.
    """
    with open_hdf5(source.path) as file:
        try:
            return _hdf5(source, file)
        except DataError:
            raise
        except Exception as broken:
            raise source.error(f"its HDF5 content is damaged ({broken})") from None


def _hdf5(source: Source, file: Any) -> Decoded:
    where = str(source.path)
    if "spikes/times" in file:
        n = len(file["spikes/times"])
        if source.index is None or not 0 <= source.index < n:
            raise source.error(f"holds {n:,} recordings; choose one with index=0 to {n - 1}, got {source.index}")
        return Decoded(hdf5_spikes(file, source.index, where), (700,))
    for name in ("CD/events", "events", ""):
        node = file.get(name) if name else file
        if node is None:
            continue
        size = _size(node.attrs.get("size"))
        if hasattr(node, "shape"):
            _room(source, node)
            return Decoded(_of_array(node[()], where), size)
        columns = {key: value for key, value in node.items() if getattr(value, "ndim", 0) == 1}
        if {"t", "x"} <= {key.lower()[:1] for key in columns}:
            for value in columns.values():
                _room(source, value)
            return Decoded(from_columns({key: value[()] for key, value in columns.items()}, where), size)
    raise source.error(f"no events in it; it holds {', '.join(file) or 'nothing'}")


def _room(source: Source, dataset: Any) -> None:
    """A data set may not claim more room than deflate could have packed."""
    size = dataset.dtype.itemsize
    for n in dataset.shape:
        size *= n
    if size > 1100 * len(source.raw) + 1024 or size > SPACE * 16:
        raise source.error(f"{dataset.name} claims {size:,} bytes in a file of {len(source.raw):,}")


def hdf5_spikes(file: Any, index: int, where: str) -> Events:
    """Spikes of one sample of SHD or SSC."""
    times, units = file["spikes/times"][index], np.asarray(file["spikes/units"][index])
    events = np.empty(len(times), EVENT_1D)
    if len(units) != len(times) or (len(units) and not 0 <= int(units.min()) <= int(units.max()) < 700):
        raise DataError(f"{where}: sample {index}: {len(times)} times, {len(units)} units, which must be from 0 to 699")
    events["t"], events["x"], events["p"] = microseconds(times, where), units, True
    return events


def write_hdf5(path: Path, recording: Recording) -> None:
    """A group ``events`` with data sets t, x, y, p, compressed and with checksums, and an attribute ``size``."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise DataError("HDF5 needs h5py; pip install 'spikeloom[data]'") from None
    with h5py.File(path, "w") as file:
        group = file.create_group("events")
        group.attrs["size"] = recording.size
        for name in recording.events.dtype.names or ():
            column = recording.events[name]
            some = {"compression": "gzip", "shuffle": True, "fletcher32": True} if len(column) else {}
            group.create_dataset(name, data=column, **some)


def _size(value: Any) -> Size | None:
    if value is None:
        return None
    sides = np.asarray(value).reshape(-1)
    fine = sides.dtype.kind in "iu" and len(sides) in (1, 2) and 0 < sides.min() <= sides.max() <= 1 << 16
    return tuple(int(n) for n in sides) if fine else None
