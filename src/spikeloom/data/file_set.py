"""A data set whose samples are files, or parts of files: events, sounds, pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from . import cache
from .audio import Cochlea
from .dataset import Split
from .downloads import Download, Progress
from .errors import DataError
from .events import Recording
from .file_samples import FileSamples, Options, ToTensor, Waveforms
from .items import Index, Item, Read, read_item
from .samples import Transform, stratified
from .storage import Storage


@dataclass(frozen=True, kw_only=True)
class FileSet:
    """A data set whose samples are files, or parts of files.

    Attributes:
        name, title: the name that calls take, and the one that is shown to people.
        sample: the shape of a sample.
        size: the size of the sensor; empty for pictures.
        counts: the published number of samples of each split; None where it is not known for sure. A set without a
            published split has ``"all"`` alone.
        marks: the patterns of files that its folder must hold.
        index: the function that finds the samples of a split and the names of the classes in the folder.
        source: where it comes from.
        read: the function that reads the content of a sample; None is :func:`read_item`.
        downloads, folders, licence: see :class:`Storage`.
        rule: how train and test are told apart.
        held_out: the share that a seed holds out for testing where no split is published.
        cochlea: what makes spikes of its sounds, if it holds sounds.
        fixed: the name of what ``read`` does to the recordings, so that caches tell versions apart.
        transform: the functions that make the transforms of train and test; None is no transform.

    >>> import spikeloom as sl
    >>> gestures = sl.data.describe("dvs128-gesture")
    >>> type(gestures).__name__, gestures.size, gestures.counts["test"], gestures.recorded
    ('FileSet', (128, 128), 288, True)
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

    @property
    def storage(self) -> Storage:
        """The places of its files on the disk."""
        return Storage(
            name=self.name,
            forms=(self.marks,),
            source=self.source,
            folders=self.folders,
            downloads=self.downloads,
            licence=self.licence,
        )

    @property
    def timed(self) -> bool:
        """Whether a sample has a dimension of time, as recordings and sounds do and pictures do not."""
        return bool(self.size) or self.cochlea is not None

    @property
    def recorded(self) -> bool:
        """Whether samples are recordings; sounds become recordings of spikes."""
        return self.timed

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that :func:`load` gives."""
        return ("train", "test") if "all" in self.counts else tuple(self.counts)

    def find(self, folder: Path, split: str) -> tuple[Sequence[Item], Sequence[str]]:
        """The samples of a split and the names of the classes.

        Raises DataError for a split that cannot be found, a label without a class, and a path that leads out of the
        folder.
        """
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

    def load(
        self,
        split: Split,
        root: Path,
        *,
        frames: ToTensor | None,
        transform: Transform | None,
        seed: int,
        options: Options | None,
    ) -> FileSamples:
        """The samples of a split; recordings come from an event cache on the disk."""
        options = options or Options()
        if isinstance(frames, Waveforms) and self.cochlea is None:
            raise DataError(f"data set {self.name} holds no sounds, so that there are no waveforms; use Frames")
        partly = self._partly(root) if options.partial else None
        folder = partly or self.storage.locate(root, progress=options.progress)
        part = "all" if self.held_out is not None else split
        items, classes = self.find(folder, part)
        expected = self.counts[part]
        if not items:
            raise DataError(f"data set {self.name}: {folder} has no samples of the split {part}")
        if expected not in (None, len(items)) and not options.partial:
            raise DataError(
                f"data set {self.name}: {folder} has {len(items):,} samples of the split {part} instead of "
                f"{expected:,}; partial=True takes what is there"
            )
        labels = torch.tensor([item.label for item in items])
        store = self._store(folder, part, items, root, isinstance(frames, Waveforms), options)
        chosen = torch.arange(len(items))
        if self.held_out is not None:
            count = max(round(self.held_out * len(items)), 1)
            chosen = stratified(labels, count, seed=seed)[split == "test"]
        own = self.transform[split != "train"]
        return FileSamples(
            store,
            labels[chosen],
            classes=classes,
            frames=frames,
            augment=options.augment if split == "train" else None,
            transform=own() if transform is None and own is not None else transform,
            seed=seed,
            indices=chosen,
        )

    def here(self, root: Path) -> bool:
        """Whether all files are below ``root``, unpacked."""
        return self.storage.find(root) is not None

    def files(self, root: Path) -> dict[str, str]:
        """A digest of the names and sizes of the files."""
        return self.storage.listing(root)

    def fetch(self, root: Path, *, progress: Progress | None) -> Path:
        """Downloads what can be, unpacks it, and returns the folder of the files."""
        return self.storage.fetch(root, progress=progress)

    def verify(self, root: Path, *, progress: Progress | None) -> list[str]:
        """The problems of the files: wrong checksums of archives, and wrong numbers of samples."""
        problems = self.storage.damaged(root, progress=progress)
        folder = self.storage.locate(root, progress=progress)
        for split, expected in self.counts.items():
            items, _ = self.find(folder, split)
            if expected is not None and len(items) != expected:
                problems.append(f"split {split}: {len(items):,} samples instead of {expected:,}")
            missing = [item.file for item in dict.fromkeys(items) if not (folder / item.file).is_file()]
            if missing:
                problems.append(f"split {split}: {len(set(missing)):,} files are missing, such as {missing[0]}")
        return problems

    def _partly(self, root: Path) -> Path | None:
        """The folder that holds all files or, if none does, some of them: one archive of several, say."""
        some = replace(self.storage, forms=tuple((mark,) for mark in self.marks))
        return self.storage.find(root) or some.find(root)

    def _store(
        self, folder: Path, split: str, items: Sequence[Item], root: Path, sounds: bool, options: Options
    ) -> cache.Direct | cache.Cached:
        cochlea = options.cochlea or self.cochlea
        if self.cochlea is None and options.cochlea is not None:
            raise DataError(f"data set {self.name} holds no sounds for a cochlea")
        read = functools.partial(_content, self.read or read_item, folder, None if sounds else cochlea, tuple(items))
        if options.lazy or sounds or not self.size:
            return cache.Direct(read, len(items))
        about = {"name": self.name, "split": split, "read": self.fixed, "cochlea": repr(cochlea)}
        files = [folder / item.file for item in items]
        size = (cochlea.channels,) if cochlea else self.size
        known = tuple(tuple(item) for item in items)
        name = cache.key({**about, "items": known}, list(dict.fromkeys(files)), folder)
        place = self.storage.writable(root) / ".cache" / f"{split}-{name}"
        return cache.build(
            place,
            read=read,  # type: ignore[arg-type]  # reads sounds and events alone, which are recordings here
            count=len(items),
            files=files.__getitem__,
            root=folder,
            about=about,
            size=size,
            progress=options.progress,
        )


def _content(
    read: Read, folder: Path, cochlea: Cochlea | None, items: Sequence[Item], number: int
) -> Recording | Tensor:
    content = read(folder, items[number])
    if cochlea is not None and isinstance(content, Tensor):
        return cochlea(content.numpy())
    return content
