"""The place of a sample in the files of a data set, and how its recording is read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from .errors import DataError
from .events import Recording, read_events


class Item(NamedTuple):
    """A sample: its file below the set's folder, and its label. If the file holds more than the sample, the item also
    says where the sample begins and ends (microseconds), or which of several recordings it is.

    >>> import spikeloom as sl
    >>> item = sl.data.Item("user01.aedat", 3, start=80_000_000, stop=85_000_000)
    >>> (item.stop - item.start) / 1e6  # seconds
    5.0
    """

    file: str
    label: int
    start: int | None = None
    stop: int | None = None
    number: int | None = None


Read = Callable[[Path, Item], Recording | Tensor]
"""A function that reads the content of an item, whose file lies below the folder."""
Index = Callable[[Path, str], tuple[Sequence[Item], Sequence[str]]]
"""A function that finds the items of a split and the names of the classes in the folder of the files."""


def read_item(folder: Path, item: Item, *, size: tuple[int, ...] | None = None, format: str | None = None) -> Recording:  # noqa: A002
    """The recording of an item. Items of one file that are read after each other share one decoding of it.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import spikeloom as sl
    >>> recording = sl.data.events.as_recording({"t": [0, 100, 199, 200], "x": [0, 1, 2, 3], "y": [0] * 4}, (1, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sl.data.write_events(Path(folder) / "a.npz", recording)
    ...     part = sl.data.items.read_item(Path(folder), sl.data.Item("a.npz", 0, start=100, stop=200))
    >>> part.events["x"].tolist()
    [1, 2]
    """
    if item.start is None or item.stop is None:
        return read_events(folder / item.file, index=item.number, size=size, format=format)
    path = folder / item.file
    return _whole_file(str(path), _version(path), size, format).between(item.start, item.stop)


def _version(path: Path) -> tuple[int, ...]:
    try:
        about = path.stat()
    except OSError as missing:
        raise DataError(f"{path}: cannot be read: {missing.strerror or missing}") from missing
    return about.st_mtime_ns, about.st_size, about.st_ino


@functools.lru_cache(maxsize=2)
def _whole_file(path: str, version: tuple[int, ...], size: tuple[int, ...] | None, format: str | None) -> Recording:  # noqa: A002
    return read_events(path, size=size, format=format)
