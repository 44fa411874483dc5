"""A data set whose samples are files: what is said about it, and how a sample is read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from .audio import Cochlea
from .downloads import Download
from .errors import DataError
from .events import Recording, read_events
from .samples import Transform


class Item(NamedTuple):
    """A sample: its file below the set's folder and its label; where it begins and ends in it (microseconds) or which
    of several recordings it is, if the file holds more than it."""

    file: str
    label: int
    start: int | None = None
    stop: int | None = None
    number: int | None = None


Read = Callable[[Path, Item], Recording | Tensor]
Index = Callable[[Path, str], tuple[Sequence[Item], Sequence[str]]]


@dataclass(frozen=True)
class FileSet:
    """A data set whose samples are files, or lie in files.

    Attributes:
        name, title: for people.
        sample: the shape of a sample.
        size: of the sensor; empty for pictures.
        counts: published number of samples of each split; None where it is not known for sure. A set without a
            published split has ``"all"`` alone.
        marks: patterns of files that its folder must hold.
        index: samples of a split and names of the classes, from the folder.
        source: where it comes from.
        read: the content of a sample; None is :func:`read_item`.
        downloads: its files.
        folders: where its files may lie, below the root.
        licence: why it must be fetched by hand, if so.
        rule: how train and test are told apart.
        held_out: the share that a seed holds out for testing where no split is published.
        cochlea: what makes spikes of its sounds, if it holds sounds.
        fixed: name of what ``read`` does to the recordings, so that caches tell versions apart.
        transform: of train and test; None is none.
    """

    name: str
    title: str
    sample: str
    size: tuple[int, ...]
    counts: Mapping[str, int | None]
    marks: tuple[str, ...]
    index: Index
    source: str
    read: Read | None = None
    downloads: tuple[Download, ...] = ()
    folders: tuple[str, ...] = ()
    licence: str = ""
    rule: str = "published split"
    held_out: float | None = None
    cochlea: Cochlea | None = None
    fixed: str = ""
    transform: tuple[Callable[[], Transform] | None, Callable[[], Transform] | None] = (None, None)

    def find(self, folder: Path, split: str) -> tuple[Sequence[Item], Sequence[str]]:
        """Samples of a split and names of the classes; what is not as published is a :class:`DataError`."""
        try:
            items, classes = self.index(folder, split)
        except (OSError, LookupError, ValueError, TypeError) as wrong:
            if isinstance(wrong, DataError):
                raise
            raise DataError(f"data set {self.name}: the split {split} cannot be found in {folder}: {wrong}") from wrong
        for item in items:
            if not 0 <= item.label < len(classes):
                raise DataError(
                    f"{folder / item.file}: its label is {item.label}, which must be from 0 to {len(classes) - 1}"
                )
            if item.file.startswith("/") or ".." in item.file.split("/"):
                raise DataError(f"data set {self.name}: its lists name {item.file!r}, which leads out of {folder}")
        return items, classes

    @property
    def timed(self) -> bool:
        """Whether a sample has a dimension of time: recordings and sounds have, pictures have not."""
        return bool(self.size) or self.cochlea is not None

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """Published numbers of samples, a number for each split."""
        return tuple(self.counts.values())

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that :func:`load` gives."""
        return ("train", "test") if "all" in self.counts else tuple(self.counts)


def read_item(folder: Path, item: Item, *, size: tuple[int, ...] | None = None, format: str | None = None) -> Recording:  # noqa: A002
    """The recording of an item, by its file's format. A file that holds several items is decoded once for all that
    follow each other."""
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
