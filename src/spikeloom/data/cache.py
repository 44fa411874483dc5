"""Recordings on the disk in the form in which they are read fastest: their events after each other, memory-mapped.

A cache is a folder whose name says what is in it: data set, files with their sizes and times of change, how they were
read, and the version of this format. It counts as whole once its manifest, written last, says so; conversion goes on
where it was interrupted, and any number of processes may do it at once.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from .downloads import Progress, checksum
from .errors import DataError
from .events import Events, Recording
from .whole import atomically

VERSION = 2
_PART = 512  # recordings in a part, at most
_EVENTS = 1 << 24  # a part ends with the recording that takes it beyond so many events
Content = Recording | Tensor


class Store(Protocol):
    """Recordings by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Content: ...


class Direct:
    """Recordings read from their files each time.

    Args:
        read: makes the recording of a number.
        count: how many there are.
    """

    def __init__(self, read: Callable[[int], Content], count: int) -> None:
        self._read, self._count = read, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Content:
        return self._read(index)


class Cached:
    """Recordings from a whole cache. Parts are mapped into memory when they are asked for, in each process anew."""

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        self.folder = folder
        self._ends = list(itertools.accumulate(int(n) for n in manifest["parts"]))
        self.size, self.format = tuple(manifest["size"]), str(manifest["format"])
        for k, (events, offsets) in enumerate(manifest["bytes"]):
            for path, wanted in zip(_names(folder, k), (events, offsets), strict=True):
                have = path.stat().st_size if path.is_file() else 0
                if have != wanted:
                    raise DataError(f"{path}: {have:,} bytes instead of {wanted:,}; remove the folder {folder}")
        self._open = functools.lru_cache(maxsize=64)(self._map)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Recording:
        part = bisect.bisect_right(self._ends, index)
        events, offsets = self._open(part)
        k = index - (self._ends[part - 1] if part else 0)
        return Recording(events[offsets[k] : offsets[k + 1]], self.size, self.format)

    def _map(self, part: int) -> tuple[Events, Any]:
        events, offsets = _names(self.folder, part)
        return np.load(events, mmap_mode="r").view(np.ndarray), np.load(offsets)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = functools.lru_cache(maxsize=64)(self._map)


def key(description: Mapping[str, Any], files: Sequence[Path], root: Path) -> str:
    """The name of a cache: what it holds and from which files, as a digest."""
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
    """The cache in ``folder``, made of what is missing.

    Args:
        read, files: the recording of a number, and the file that it comes from.
        count: how many recordings there are.
        root: below which the files lie; the manifest names them from there.
        about: what the manifest says about the content.
        size: of the sensor.
    """
    if (folder / "manifest.json").is_file():
        return Cached(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = str(about.get("name", folder.name))
    parts: list[int] = []
    sizes, done = [], 0
    while done < count:
        part = len(parts)
        n = _whole(folder, part) or _convert(folder, part, map(read, range(done, count)), size)
        parts.append(n)
        done += n
        sizes.append([p.stat().st_size for p in _names(folder, part)])
        if progress:
            progress(f"{name}: recordings", done, count)
    sums = dict.fromkeys((files(i).relative_to(root).as_posix() for i in range(count)), "")
    for k, path in enumerate(sums):
        sums[path] = checksum(root / path)
        if progress:
            progress(f"{name}: checksums", k + 1, len(sums))
    manifest = {
        "version": VERSION, **about, "recordings": count, "parts": parts, "size": list(size), "format": name,
        "bytes": sizes, "sha256": sums,
    }  # fmt: skip
    atomically(folder / "manifest.json", lambda path: path.write_text(json.dumps(manifest, indent=1)))
    return Cached(folder)


def _convert(folder: Path, part: int, recordings: Iterator[Recording], size: tuple[int, ...]) -> int:
    """Writes a part of the next recordings; how many they are."""
    taken: list[Events] = []
    for recording in recordings:
        if len(recording.size) != len(size):
            raise DataError(f"{folder}: a recording of a sensor of {recording.size} among those of {size}")
        taken.append(recording.events)
        if len(taken) == _PART or sum(map(len, taken)) >= _EVENTS:
            break
    at_events, at_offsets = _names(folder, part)
    atomically(at_events, lambda path: _save(path, np.concatenate(taken)))
    offsets = np.cumsum([0, *map(len, taken)])
    atomically(at_offsets, lambda path: _save(path, offsets))  # last: a part with its offsets is whole
    return len(taken)


def _whole(folder: Path, part: int) -> int:
    """How many recordings a part has that is whole; 0 for others."""
    events, offsets = _names(folder, part)
    if not (events.is_file() and offsets.is_file()):
        return 0
    try:
        ends = np.load(offsets)
        return len(ends) - 1 if len(np.load(events, mmap_mode="r")) == ends[-1] else 0
    except (ValueError, OSError, EOFError):
        return 0


def _names(folder: Path, part: int) -> tuple[Path, Path]:
    return folder / f"{part:05}.events.npy", folder / f"{part:05}.offsets.npy"


def _save(path: Path, array: Any) -> None:
    with path.open("wb") as file:
        np.save(file, array)
