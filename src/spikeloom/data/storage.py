"""The places where the files of a data set lie, and how the files get there."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..native.build import cache_folder
from . import archives, downloads
from .atomic import atomically
from .downloads import Download, Progress
from .errors import DataError


@dataclass(frozen=True, kw_only=True)
class Storage:
    """The files of a data set, below the root of all data sets.

    Attributes:
        name: the name of the data set, and of its own folder, where downloads go.
        forms: the forms in which the set is published, each the patterns of the files that a folder must hold. A file
            may have ``.gz`` at its end.
        folders: other folders in which the files may lie.
        downloads: the files that are fetched; archives are unpacked into the folder ``files`` of the set's own folder.
        licence: the reason why the files must be fetched by hand, if so.
        source: where they come from, as shown to people.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from spikeloom.data.storage import Storage
    >>> storage = Storage(name="toy", forms=(("train*.npz", "test.npz"),), source="nowhere")
    >>> with tempfile.TemporaryDirectory() as root:
    ...     _ = (Path(root) / "train0.npz").write_bytes(b"")
    ...     storage.missing(Path(root), storage.forms[0])
    ['test.npz']
    """

    name: str
    forms: tuple[tuple[str, ...], ...]
    source: str
    folders: tuple[str, ...] = ()
    downloads: tuple[Download, ...] = ()
    licence: str = ""

    def find(self, root: Path) -> Path | None:
        """The folder that holds all files of a form, or None. Nothing is unpacked."""
        for folder in self._candidates(root):
            for inside in _folders_in(folder):  # archives may put a folder around their files
                if any(not self.missing(inside, form) for form in self.forms):
                    return inside
        return None

    def missing(self, folder: Path, form: tuple[str, ...]) -> list[str]:
        """The patterns of a form that no file in the folder matches."""
        return [p for p in form if not (any(folder.glob(p)) or any(folder.glob(f"{p}.gz")))]

    def locate(self, root: Path, *, progress: Progress | None = None) -> Path:
        """The folder that holds the files; archives of them are unpacked first.

        Raises DataError where files are missing; it says which, where they were looked for, and what to do.
        """
        folder = self.find(root)
        if folder is not None:
            return folder
        found = self._archives(root)
        if found is None:
            raise DataError(self._what_is_missing(root))
        place = self.writable(root) / "files"
        for archive in found:
            if archives.is_archive(archive.name):
                archives.unpack(archive, place, progress=progress)
            elif archive.name.lower().endswith(".rar"):
                raise DataError(archives.by_hand(archive, place))
            elif not (place / archive.name).exists():
                place.mkdir(parents=True, exist_ok=True)
                atomically(place / archive.name, functools.partial(shutil.copyfile, archive))
        folder = self.find(root)
        if folder is None:
            wanted = " or ".join(", ".join(form) for form in self.forms)
            raise DataError(f"data set {self.name}: the archives in {found[0].parent} hold no {wanted}")
        return folder

    def fetch(self, root: Path, *, progress: Progress | None = None) -> Path:
        """Downloads what can be, unpacks it, and returns the folder of the files."""
        folder = self.find(root)
        if folder is not None:
            return folder
        absent = self._absent(root)
        if not self.downloads or not all(file.urls for file in absent):
            raise DataError(self._what_is_missing(root))
        for file in absent:
            downloads.fetch(file, root / self.name, progress=progress)
        return self.locate(root, progress=progress)

    def damaged(self, root: Path, *, progress: Progress | None = None) -> list[str]:
        """The problems of the downloads that are below ``root``, a line for each."""
        problems = []
        for file in self.downloads:
            there = self._lying(root, file.name)
            if there is not None and (problem := file.problem(there, progress)):
                problems.append(f"{there}: {problem}")
        return problems

    def listing(self, root: Path) -> dict[str, str]:
        """A digest of the names and sizes of all files, by which two runs can tell whether they had the same ones."""
        folder = self.locate(root)
        paths = ((p, p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
        lines = sorted(
            f"{name.as_posix()} {p.stat().st_size}"
            for p, name in paths
            if not any(n.startswith(".") for n in name.parts)
        )
        return {"files": f"{len(lines):,}", "names and sizes": hashlib.sha256("\n".join(lines).encode()).hexdigest()}

    def writable(self, root: Path) -> Path:
        """The set's own folder, or, where nothing can be written there, a folder in the user's cache."""
        home = root / self.name
        above = next(p for p in (home, *home.parents) if p.exists())
        return home if os.access(above, os.W_OK) else cache_folder() / "data" / self.name

    def _candidates(self, root: Path) -> list[Path]:
        named = [root / name for name in (*self.folders, self.name, f"{self.name}/files")]
        return [*dict.fromkeys((*named, self.writable(root) / "files"))]

    def _archives(self, root: Path) -> list[Path] | None:
        """The paths of all downloads; None if one is missing."""
        there = [self._lying(root, file.name) for file in self.downloads]
        return [p for p in there if p is not None] if there and None not in there else None

    def _absent(self, root: Path) -> list[Download]:
        return [file for file in self.downloads if self._lying(root, file.name) is None]

    def _lying(self, root: Path, name: str) -> Path | None:
        return next((p for f in (self.name, *self.folders) if (p := root / f / name).is_file()), None)

    def _what_is_missing(self, root: Path) -> str:
        """A message for the user: the missing files of the most complete folder, the other folders, and what to do."""
        looked = [root / folder for folder in (*self.folders, self.name)]
        tried = [(self.missing(folder, form), k, folder) for k, folder in enumerate(looked) for form in self.forms]
        lacks, _, nearest = min(tried, key=lambda one: (len(one[0]), one[1]))
        others = ", ".join(str(folder) for folder in dict.fromkeys(looked) if folder != nearest)
        absent = self._absent(root)
        if self.downloads and all(file.urls for file in absent):
            how = f"fetch it with: spikeloom data fetch {self.name}"
        else:
            wanted = ", ".join(file.name for file in absent) or ("it" if len(lacks) == 1 else "them")
            how = f"{self.licence or 'it cannot be fetched automatically'}. Put {wanted} into {root / self.name}"
        return (
            f"data set {self.name}: {', '.join(lacks)} not found in {nearest}"
            f"{f'; also looked in {others}' if others else ''}. Source: {self.source}. --data-root or SPIKELOOM_DATA "
            f"names another folder above; {how}"
        )


def _folders_in(folder: Path) -> list[Path]:
    """The folder and those directly in it; an empty list if it is no folder."""
    if not folder.is_dir():
        return []
    return [folder, *sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))]
