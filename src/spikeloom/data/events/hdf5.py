"""HDF5: recordings, and lists of them as SHD and SSC have them. Links to other files are refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._extras import install
from ..errors import DataError
from ..packed import SPACE
from ..pickles import is_plain
from .columns import from_columns, microseconds, of_array
from .heap import ragged
from .recording import EVENT_1D, Events, Recording
from .source import Decoded, Size, Source
from .tables import size_of

_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}  # others raise: they can load foreign code


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file, open for reading. Any error of reading it becomes a :class:`DataError`."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise DataError(f"{path}: HDF5 needs h5py; {install('data')}") from None
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DataError:
        raise
    except Exception as broken:  # h5py passes on what libhdf5 says, in errors of many kinds
        raise DataError(f"{path}: not a readable HDF5 file, or damaged ({broken})") from None


def node(group: Any, name: str, where: str) -> Any:
    """The object under a path in a group, or None. Links to other places and files raise and are not followed."""
    import h5py

    for part in name.split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            return None
        if type(link) is not h5py.HardLink:
            raise DataError(f"{where}: {part} in it is a link to another place or file, which is not followed")
        group = group[part]
    return group


def values(dataset: Any, where: str, *, at: int | None = None) -> NDArray[Any]:
    """The numbers of a data set, or, if it holds arrays of different lengths, the array at an index. Content in other
    files, foreign filters, and sizes that deflate cannot have packed raise."""
    import h5py

    _checked(dataset, where)
    kind = dataset.dtype if at is None else h5py.check_vlen_dtype(dataset.dtype)
    if kind is None or not is_plain(np.dtype(kind)):
        raise DataError(f"{where}: {dataset.name} holds {dataset.dtype}, which are none of plain numbers")
    return np.asarray(_whole(dataset, where)) if at is None else ragged(dataset, at, np.dtype(kind), where)


def texts(dataset: Any, where: str) -> list[str]:
    """The strings of a data set, of fixed or of variable length."""
    import h5py

    _checked(dataset, where)
    kind = h5py.check_string_dtype(dataset.dtype)
    if kind is None or dataset.ndim != 1:
        raise DataError(f"{where}: {dataset.name} holds {dataset.dtype} {list(dataset.shape)}, which are no names")
    several = kind.length is None
    found = (
        (ragged(dataset, k, np.dtype("u1"), where) for k in range(len(dataset))) if several else _whole(dataset, where)
    )
    return [bytes(text).decode("utf8", "replace") for text in found]


def _checked(dataset: Any, where: str) -> None:
    """Raises unless a data set lies in its file alone, in a known form, and with a size that the file can hold."""
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise DataError(f"{where}: {getattr(dataset, 'name', None)} is no data set")
    name, plist = dataset.name, dataset.id.get_create_plist()
    if plist.get_external_count() or plist.get_layout() == h5py.h5d.VIRTUAL:
        raise DataError(f"{where}: {name} says that its values are in other files, which are not read")
    filters = [plist.get_filter(k)[0] for k in range(plist.get_nfilters())]
    foreign = [n for n in filters if n not in _FILTERS]
    if foreign:
        raise DataError(
            f"{where}: {name} is packed by filter {foreign[0]}; there are {', '.join(_FILTERS.values())}: write it "
            f"anew with one of these"
        )
    size, most = dataset.dtype.itemsize, dataset.file.id.get_filesize()
    for n in dataset.shape or ():
        size *= n
    if dataset.shape is None or size > 1100 * most + 1024 or size > SPACE * 16:
        raise DataError(f"{where}: {name} claims {size:,} bytes in a file of {most:,}")


def _whole(dataset: Any, where: str) -> Any:
    """All values of a data set. Chunks outside the file or of an impossible size raise here, because libhdf5's filters
    do not check them."""
    most, size = dataset.file.id.get_filesize(), dataset.dtype.itemsize * math.prod(dataset.chunks or ())
    packed = bool(dataset.id.get_create_plist().get_nfilters())
    wrong: list[str] = []

    def look(chunk: Any) -> bool | None:
        fine = 4 < chunk.size <= size + size // 8 + 64 if packed else chunk.size == size
        if fine and chunk.byte_offset is not None and 0 <= chunk.byte_offset <= most - chunk.size:
            return None
        wrong.append(f"a chunk of {chunk.size:,} bytes at byte {chunk.byte_offset}")
        return True

    if dataset.chunks is not None:
        dataset.id.chunk_iter(look)
    if wrong:
        raise DataError(f"{where}: {dataset.name} has {wrong[0]}, which cannot be; the file is damaged")
    return dataset[()]


def read_hdf5(source: Source) -> Decoded:
    """A file may hold one recording: columns t, x, y, p, or a compound data set, at the root or in a group ``events``
    (or CD/events), with the sensor's size as an attribute ``size``. Or it holds many, as SHD and SSC do:
    ``spikes/times`` in seconds and ``spikes/units``, of which ``index`` chooses one.
    """
    with opened(source.path) as file:
        return _read(source, file)


def _read(source: Source, file: Any) -> Decoded:
    where = str(source.path)
    times = node(file, "spikes/times", where)
    if times is not None:
        n = times.shape[0] if getattr(times, "shape", None) else 0
        if source.index is None or not 0 <= source.index < n:
            raise source.error(f"holds {n:,} recordings; choose one with index=0 to {n - 1}, got {source.index}")
        return Decoded(spikes(file, source.index, where, unit=source.unit or "s"), (700,))
    for name in ("CD/events", "events", ""):
        group = node(file, name, where) if name else file
        if group is None:
            continue
        size = _size(group)
        if hasattr(group, "shape"):
            return Decoded(of_array(values(group, where), where, unit=source.unit, fields=source.columns), size)
        columns = {key: column for key in group if getattr(column := node(group, key, where), "ndim", 0) == 1}
        if {"t", "x"} <= {key.lower()[:1] for key in columns}:
            source.named()
            found = {key: values(column, where) for key, column in columns.items()}
            return Decoded(from_columns(found, where, unit=source.unit), size)
    raise source.error(f"no events in it; it holds {', '.join(file) or 'nothing'}")


def _size(group: Any) -> Size | None:
    """The sensor's size in the attribute ``size`` of a group or a data set, if it is plain numbers."""
    if "size" not in group.attrs:
        return None
    about = group.attrs.get_id("size")
    return size_of(group.attrs["size"]) if about.dtype.kind in "iu" and about.shape in ((1,), (2,)) else None


def spikes(file: Any, index: int, where: str, *, unit: str = "s") -> Events:
    """The spikes of one sample of SHD or SSC."""
    times, units = (values(node(file, f"spikes/{n}", where), where, at=index) for n in ("times", "units"))
    if times.shape != units.shape or times.ndim != 1 or times.dtype.kind != "f" or units.dtype.kind not in "iu":
        raise DataError(
            f"{where}: sample {index}: times {list(times.shape)} of {times.dtype}, units {list(units.shape)}"
        )
    if len(units) and not 0 <= int(units.min()) <= int(units.max()) < 700:
        raise DataError(f"{where}: sample {index}: units must be from 0 to 699, got {units.min()} to {units.max()}")
    events = np.empty(len(times), EVENT_1D)
    events["t"], events["x"], events["p"] = microseconds(times, where, unit=unit), units, True
    return events


def write_hdf5(path: Path, recording: Recording) -> None:
    """Writes a group ``events`` with data sets t, x, y, p, compressed and with checksums, and an attribute ``size``."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise DataError(f"HDF5 needs h5py; {install('data')}") from None
    with h5py.File(path, "w") as file:
        group = file.create_group("events")
        group.attrs["size"] = recording.size
        for name in recording.events.dtype.names or ():
            column = recording.events[name]
            some = {"compression": "gzip", "shuffle": True, "fletcher32": True} if len(column) else {}
            group.create_dataset(name, data=column, **some)
