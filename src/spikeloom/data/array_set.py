"""A data set that is read into memory as a whole: pictures, and short sequences of numbers."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .dataset import Split
from .downloads import Download, Progress
from .errors import DataError
from .file_samples import Options, ToTensor
from .samples import Samples, Transform, stratified
from .storage import Storage
from .transforms import ToFloat

Arrays = tuple[Tensor, Tensor]
"""The data ``[N, *]`` and the labels ``[N]`` of a split."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """One of the forms in which a data set is published.

    Attributes:
        folders: the folders below the root where the files may lie, tried in turn.
        train, test: the files of each split, in the order of their samples.
        read: the function that makes arrays of the files of a split.
        package: the package that brings the data, if no file holds them.
    """

    read: Callable[[Sequence[Path]], Arrays]
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    package: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The files of both splits."""
        return (*self.train, *self.test)


@dataclass(frozen=True, kw_only=True)
class ArraySet:
    """A data set that is read into memory as a whole.

    Attributes:
        name, title: the name that calls take, and the one that is shown to people.
        sample: the shape of a sample.
        classes: the names of the classes.
        counts: the number of samples of each split.
        forms: the forms in which it is published.
        source: where it comes from.
        downloads: the files of one of the forms, or an archive of them.
        train_transform, test_transform: functions that make the default transform of a split.
        test_size: None where a test split is published, else the number of samples that a seed holds out.
        timed: whether the first dimension of a sample is time.

    >>> import spikeloom as sl
    >>> mnist = sl.data.describe("mnist")
    >>> type(mnist).__name__, mnist.sample, mnist.counts["train"], mnist.rule
    ('ArraySet', '[1, 28, 28]', 60000, 'published test split')
    """

    name: str
    title: str
    sample: str
    classes: tuple[str, ...]
    counts: Mapping[str, int | None]
    forms: tuple[Form, ...]
    source: str
    downloads: tuple[Download, ...] = ()
    train_transform: Callable[[], Transform] = ToFloat
    test_transform: Callable[[], Transform] = ToFloat
    test_size: int | None = None
    timed: bool = False

    @property
    def storage(self) -> Storage:
        """The places of its files on the disk."""
        return Storage(
            name=self.name,
            forms=tuple(form.names for form in self.forms),
            source=self.source,
            folders=tuple(dict.fromkeys(folder for form in self.forms for folder in form.folders)),
            downloads=self.downloads,
        )

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that :func:`load` gives."""
        return tuple(self.counts)

    @property
    def recorded(self) -> bool:
        """False: the samples are tensors, not recordings."""
        return False

    @property
    def rule(self) -> str:
        """How the samples are split into train and test, in words."""
        if self.test_size is None:
            return "published test split"
        return f"{self.test_size} samples held out, stratified, by seed"

    def load(
        self,
        split: Split,
        root: Path,
        *,
        frames: ToTensor | None,
        transform: Transform | None,
        seed: int,
        options: Options | None,
    ) -> Samples:
        """The samples of a split, in memory."""
        if frames is not None or options is not None:
            raise DataError(f"data set {self.name} holds tensors, not recordings: it takes neither frames nor options")
        data, labels = self._read(split, root)
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            raise DataError(
                f"data set {self.name}: the {split} split has labels from {int(labels.min())} to {int(labels.max())}, "
                f"which must be from 0 to {len(self.classes) - 1}; its files are damaged or of another set"
            )
        chosen = torch.arange(len(labels))
        if self.test_size is not None:
            chosen = stratified(labels, self.test_size, seed=seed)[split == "test"]
            data, labels = data[chosen], labels[chosen]
        expected = self.counts[split]
        if len(labels) != expected:
            raise DataError(
                f"data set {self.name}: the {split} split has {len(labels):,} samples instead of {expected:,}"
            )
        if transform is None:
            transform = (self.train_transform if split == "train" else self.test_transform)()
        return Samples(data, labels, classes=self.classes, transform=transform, seed=seed, indices=chosen)

    def here(self, root: Path) -> bool:
        """Whether all files, or the package that brings the data, can be found."""
        packages = [form.package for form in self.forms if form.package]
        if packages:
            return any(importlib.util.find_spec(package) is not None for package in packages)
        return self.storage.find(root) is not None

    def files(self, root: Path) -> dict[str, str]:
        """SHA-256 of each file by its path below the root; empty for data that come with a package."""
        form, folder = self._form(root)
        found = dict.fromkeys(_file(folder, name) for name in form.names)
        return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in found}

    def fetch(self, root: Path, *, progress: Progress | None) -> Path:
        """Downloads what is missing and returns the folder of the files."""
        return root if self.forms[0].package else self.storage.fetch(root, progress=progress)

    def verify(self, root: Path, *, progress: Progress | None) -> list[str]:
        """The problems of the files: wrong checksums of downloads, and all that loading finds."""
        problems = self.storage.damaged(root, progress=progress)
        for split in ("train", "test"):
            try:
                self.load(split, root, frames=None, transform=None, seed=0, options=None)
            except DataError as problem:
                problems.append(str(problem))
        return problems

    def _read(self, split: Split, root: Path) -> Arrays:
        form, folder = self._form(root)
        names = form.train if split == "train" or self.test_size is not None else form.test
        return form.read([_file(folder, name) for name in names])

    def _form(self, root: Path) -> tuple[Form, Path]:
        """The form in which the files were found, and their folder."""
        if self.forms[0].package:
            return self.forms[0], root
        folder = self.storage.locate(root)
        return next(form for form in self.forms if not self.storage.missing(folder, form.names)), folder


def _file(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.is_file() else folder / f"{name}.gz"
