"""Events in files of arrays: NPZ, NPY and MATLAB."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import arrays
from ..errors import DataError
from . import mat
from .columns import from_columns, microseconds, of_array
from .recording import Recording, make_events
from .source import Decoded, Size, Source


def read_npz(source: Source) -> Decoded:
    """Arrays t, x, y, p (or an array ``events``, or pos and neg), with the sensor's size in an array ``size``."""
    where = str(source.path)
    with source.open() as file:
        columns = arrays.npz(file, len(source.raw), where, source.room, objects=True)
    size = columns.pop("size", None)
    events = columns.get("events")
    if events is None:
        source.named()
        return Decoded(from_columns(columns, where, unit=source.unit), size_of(size))
    return Decoded(of_array(events, where, unit=source.unit, fields=source.columns), size_of(size))


def read_npy(source: Source) -> Decoded:
    """A structured array, rows of (t, x, y, p), or a dictionary of columns in an array of objects."""
    where = str(source.path)
    array = arrays.npy(source.raw.tobytes(), where, objects=True)
    if array.dtype.hasobject:
        parts = [part for part in array.reshape(-1) if part is not None]
        if len(parts) == 1 and isinstance(parts[0], Mapping):
            source.named()
            return Decoded(from_columns(parts[0], where, unit=source.unit))
        try:
            array = np.concatenate([np.asarray(part) for part in parts])
        except (ValueError, TypeError, OverflowError) as broken:
            raise source.error(f"an array of objects that are no events ({broken})") from None
    return Decoded(of_array(array, where, unit=source.unit, fields=source.columns))


def write_npz(path: Path, recording: Recording) -> None:
    """Writes arrays t, x, y, p, as SpikingJelly does, and ``size``."""
    events = recording.events
    names = events.dtype.names or ()
    columns: dict[str, Any] = {name: events[name] for name in names}
    with path.open("wb") as file:
        np.savez_compressed(file, size=np.array(recording.size), **columns)


def read_mat(source: Source) -> Decoded:
    """MATLAB files up to version 7.2 hold columns (ASL-DVS: ts, x, y, pol), also in a structure, or ST-MNIST's
    ``spiketrain``: taxels by samples of -1, 0 and 1, and a last row of seconds. Files of later versions are HDF5.
    """
    where = str(source.path)
    try:
        content = mat.read(source.raw.data, lambda n: source.room.take(n, where))
    except mat.MatError as broken:
        raise source.error(f"not a readable MATLAB file ({broken})") from None
    if isinstance(train := content.get("spiketrain"), np.ndarray):
        return _taxels(train, where, source.unit or "s")
    for value in content.values():
        if isinstance(value, dict):
            content = value
            break
    return Decoded(from_columns(content, where, unit=source.unit))


def _taxels(train: NDArray[Any], where: str, unit: str) -> Decoded:
    """Spikes of a 10 x 10 tactile sensor; taxel ``i`` is at row ``i // 10``, column ``i % 10``."""
    if train.ndim != 2 or train.shape[0] != 101:
        raise DataError(f"{where}: spiketrain must be [101, samples], got {list(train.shape)}")
    if not np.isin(train[:-1], (-1, 0, 1)).all():
        raise DataError(f"{where}: spiketrain must be of -1, 0 and 1 in all rows but the last")
    t = microseconds(train[-1], where, unit=unit)
    at, taxel = np.nonzero(train[:-1].T)
    return Decoded(make_events(t[at], taxel % 10, taxel // 10, train[taxel, at] > 0), (10, 10))


def size_of(value: Any) -> Size | None:
    """The sensor's size from a file's value, or None if the value is no size."""
    if value is None:
        return None
    sides = np.asarray(value).reshape(-1)
    fine = sides.dtype.kind in "iu" and len(sides) in (1, 2) and 0 < sides.min() <= sides.max() <= 1 << 16
    return tuple(int(n) for n in sides) if fine else None
