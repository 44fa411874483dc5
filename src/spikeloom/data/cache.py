"""Recordings on the disk in the form that is read fastest: the events of one after those of another, memory-mapped.

A cache is a folder whose name is a digest of what is in it: data set, files with their sizes and times of change, how
they were read, and the version of this format. It counts as whole once its manifest, written last, is there. An
interrupted conversion goes on where it stopped, and any number of processes may convert at once.

Everything read from it is checked. Digests check the manifest and the tables of where recordings begin each time they
are opened; a sum checks the events of a recording the first time that a process reads them.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from .arrays import npy
from .atomic import atomically
from .downloads import Progress, checksum
from .errors import DataError
from .events import EVENT, EVENT_1D, Events, Recording

VERSION = 3
_PART = 512  # a part holds at most so many recordings
_EVENTS = 1 << 24  # a part ends with the recording that takes it beyond so many events
Content = Recording | Tensor


class Store(Protocol):
    """Recordings by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Content: ...


class Direct:
    """Recordings read from their files each time.

    Args:
        read: the function that reads the recording of a given number.
        count: the number of recordings.
    """

    def __init__(self, read: Callable[[int], Content], count: int) -> None:
        self._read, self._count = read, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Content:
        return self._read(index)


class Cached:
    """Recordings from a whole cache. Each process maps a part into memory when it first asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = _manifest(folder)
        self._ends = list(itertools.accumulate(int(n) for n in manifest["parts"]))
        self.size, self.format = tuple(manifest["size"]), str(manifest["format"])
        self._sums = [str(digest) for digest in manifest["tables"]]
        for k, (events, table) in enumerate(manifest["bytes"]):
            for path, wanted in zip(_names(folder, k), (events, table), strict=True):
                have = path.stat().st_size if path.is_file() else 0
                if have != wanted:
                    raise _damaged(path, f"{have:,} bytes instead of {wanted:,}")
        self._open = functools.lru_cache(maxsize=64)(self._map)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Recording:
        part = bisect.bisect_right(self._ends, index)
        opened = self._open(part)
        k = index - (self._ends[part - 1] if part else 0)
        try:
            return Recording(opened[k], self.size, self.format)
        except ValueError as problem:
            raise _damaged(_names(self.folder, part)[0], str(problem)) from None

    def _map(self, part: int) -> Part:
        try:
            return Part(*_names(self.folder, part), self._sums[part])
        except Exception as problem:  # NumPy parses headers as Python, which can fail in many ways
            raise _damaged(_names(self.folder, part)[1], str(problem)) from None

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = functools.lru_cache(maxsize=64)(self._map)


class Part:
    """Some recordings after each other, and their table ``[n + 1, 2]``: where each begins, and the CRC-32 of its
    events. The last row has the end of the last recording.

    A table that differs from ``digest``, or events that differ from their sum, raise ValueError.
    """

    def __init__(self, events: Path, table: Path, digest: str | None = None) -> None:
        raw = table.read_bytes()
        if digest is not None and hashlib.sha256(raw).hexdigest() != digest:
            raise ValueError("not the table that was written")
        self._table = npy(raw, str(table))
        self._events = np.load(events, mmap_mode="r").view(np.ndarray)
        if self._table.dtype != np.int64 or self._table.shape[1:] != (2,) or not len(self._table):
            raise ValueError(f"{self._table.dtype} {list(self._table.shape)} instead of a table of recordings")
        begins = self._table[:, 0]
        if begins[0] != 0 or (np.diff(begins) < 0).any():
            raise ValueError("recordings that begin before those before them")
        if self._events.dtype not in (EVENT, EVENT_1D) or self._events.shape != (int(begins[-1]),):
            raise ValueError(f"{self._events.dtype} {list(self._events.shape)} instead of {begins[-1]:,} events")
        self._known = np.zeros(len(self), bool)

    def __len__(self) -> int:
        return len(self._table) - 1

    def __getitem__(self, k: int) -> Events:
        (begin, wanted), end = self._table[k].tolist(), int(self._table[k + 1, 0])
        events: Events = self._events[begin:end]
        if not self._known[k]:
            if _sum(events) != wanted:
                raise ValueError(f"the events from {begin:,} to {end:,} are not those that were written")
            self._known[k] = True
        return events


def key(description: Mapping[str, Any], files: Sequence[Path], root: Path) -> str:
    """The name of a cache: a digest of what it holds and from which files."""
    state = hashlib.sha256(json.dumps([VERSION, description], sort_keys=True).encode())
    for file in files:
        about = file.stat()
        state.update(f"{file.relative_to(root).as_posix()} {about.st_size} {about.st_mtime_ns}\n".encode())
    return state.hexdigest()[:16]


def build(
    folder: Path,
    *,
    read: Callable[[int], Recording],
    count: int,
    files: Callable[[int], Path],
    root: Path,
    about: Mapping[str, Any],
    size: tuple[int, ...],
    progress: Progress | None = None,
) -> Cached:
    """The cache in ``folder``, after the parts that are missing were written.

    Args:
        read, files: the function that reads the recording of a given number, and the file of each recording.
        count: the number of recordings.
        root: the folder below which the files lie; the manifest names them from there.
        about: what the manifest says about the content.
        size: the size of the sensor.
    """
    if (folder / "manifest.json").is_file():
        return Cached(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = str(about.get("name", folder.name))
    parts: list[int] = []
    sizes, tables, done = [], [], 0
    while done < count:
        part = len(parts)
        n = _whole(folder, part) or _convert(folder, part, map(read, range(done, count)), size)
        parts.append(n)
        done += n
        sizes.append([p.stat().st_size for p in _names(folder, part)])
        tables.append(checksum(_names(folder, part)[1]))
        if progress:
            progress(f"{name}: recordings", done, count)
    sums = dict.fromkeys((files(i).relative_to(root).as_posix() for i in range(count)), "")
    for k, path in enumerate(sums):
        sums[path] = checksum(root / path)
        if progress:
            progress(f"{name}: checksums", k + 1, len(sums))
    manifest = {
        "version": VERSION, **about, "recordings": count, "parts": parts, "size": list(size), "format": name,
        "bytes": sizes, "tables": tables, "sha256": sums,
    }  # fmt: skip
    manifest["digest"] = _digest(manifest)
    atomically(folder / "manifest.json", lambda path: path.write_text(json.dumps(manifest, indent=1)))
    return Cached(folder)


def _convert(folder: Path, part: int, recordings: Iterator[Recording], size: tuple[int, ...]) -> int:
    """Writes a part with the next recordings and returns their number."""
    taken: list[Events] = []
    for recording in recordings:
        if len(recording.size) != len(size):
            raise DataError(f"{folder}: a recording of a sensor of {recording.size} among those of {size}")
        taken.append(recording.events)
        if len(taken) == _PART or sum(map(len, taken)) >= _EVENTS:
            break
    at_events, at_table = _names(folder, part)
    atomically(at_events, lambda path: _save(path, np.concatenate(taken)))
    begins = np.cumsum([0, *map(len, taken)])
    table = np.stack((begins, np.array([*map(_sum, taken), 0])), 1).astype(np.int64)
    atomically(at_table, lambda path: _save(path, table))  # the table comes last: a part that has one is whole
    return len(taken)


def _whole(folder: Path, part: int) -> int:
    """The number of recordings in a part; 0 if the part is not whole."""
    events, table = _names(folder, part)
    if not (events.is_file() and table.is_file()):
        return 0
    try:
        found = Part(events, table)
        return len([found[k] for k in range(len(found))])
    except Exception:  # NumPy parses headers as Python, which can fail in many ways
        return 0


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a cache; one that is not what was written raises."""
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        if manifest.pop("digest") == _digest(manifest):
            return manifest
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise _damaged(path, "not the manifest that was written")


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sum(events: Events) -> int:
    return zlib.crc32(np.ascontiguousarray(events).view(np.uint8).data)


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path}: {what}; remove the folder {path.parent}, and it is made anew")


def _names(folder: Path, part: int) -> tuple[Path, Path]:
    return folder / f"{part:05}.events.npy", folder / f"{part:05}.offsets.npy"


def _save(path: Path, array: Any) -> None:
    with path.open("wb") as file:
        np.save(file, array)
