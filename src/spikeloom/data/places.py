"""Where the files of a data set are, and how they get there."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from pathlib import Path

from ..native.build import cache_folder
from . import archives, downloads
from .downloads import Progress
from .errors import DataError
from .file_set import FileSet
from .whole import atomically


def locate(d: FileSet, root: Path, *, unpack: bool = True) -> Path:
    """The folder that holds the files of a data set; archives that lie there are unpacked first."""
    candidates = [root / name for name in (*d.folders, d.name, f"{d.name}/files")]
    candidates.append(writable(d, root) / "files")
    for folder in candidates:
        found_here = _with_marks(d, folder)
        if found_here is not None:
            return found_here
    found = _archives(d, root)
    if unpack and found is not None:
        place = writable(d, root) / "files"
        for archive in found:
            if archives.is_archive(archive.name):
                archives.unpack(archive, place)
            elif archive.name.lower().endswith(".rar"):
                raise DataError(archives.by_hand(archive, place))
            elif not (place / archive.name).exists():
                place.mkdir(parents=True, exist_ok=True)
                atomically(place / archive.name, functools.partial(shutil.copyfile, archive))
        found_here = _with_marks(d, place)
        if found_here is not None:
            return found_here
        raise DataError(f"data set {d.name}: the archives in {found[0].parent} hold no {', '.join(d.marks)}")
    raise DataError(_missing(d, root))


def prepare(d: FileSet, root: Path, *, progress: Progress | None = None) -> Path:
    """Downloads what can be, unpacks it, and returns the folder of the files."""
    try:
        return locate(d, root, unpack=False)
    except DataError:
        absent = [file for file in d.downloads if _lying(d, root, file.name) is None]
        if not d.downloads or not all(file.urls for file in absent):
            raise
    for file in d.downloads:
        if _lying(d, root, file.name) is None:
            downloads.fetch(file, root / d.name, progress=progress)
    return locate(d, root)


def verify(d: FileSet, root: Path) -> list[str]:
    """What is wrong with the files of a data set: checksums of archives, numbers of samples."""
    problems = []
    for file in d.downloads:
        there = _lying(d, root, file.name)
        if there is not None and (problem := file.problem(there)):
            problems.append(f"{there}: {problem}")
    folder = locate(d, root)
    for split, expected in d.counts.items():
        items, _ = d.find(folder, split)
        if expected is not None and len(items) != expected:
            problems.append(f"split {split}: {len(items):,} samples instead of {expected:,}")
        missing = [item.file for item in dict.fromkeys(items) if not (folder / item.file).is_file()]
        if missing:
            problems.append(f"split {split}: {len(set(missing)):,} files are missing, such as {missing[0]}")
    return problems


def _with_marks(d: FileSet, folder: Path) -> Path | None:
    """The folder, or one in it, that has all marks: archives may have a folder of their own around their files."""
    if not folder.is_dir():
        return None
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return next((f for f in (folder, *inside) if all(any(f.glob(mark)) for mark in d.marks)), None)


def listing(d: FileSet, root: Path) -> dict[str, str]:
    """A digest of the names and sizes of a data set's files: enough to tell whether two runs had the same."""
    folder = locate(d, root)
    paths = ((p, p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    lines = sorted(
        f"{name.as_posix()} {p.stat().st_size}" for p, name in paths if not any(n.startswith(".") for n in name.parts)
    )
    return {"files": f"{len(lines):,}", "names and sizes": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


def _archives(d: FileSet, root: Path) -> list[Path] | None:
    """All archives of a data set, if they are there."""
    there = [_lying(d, root, file.name) for file in d.downloads]
    return [p for p in there if p is not None] if there and None not in there else None


def _lying(d: FileSet, root: Path, name: str) -> Path | None:
    return next((p for f in (d.name, *d.folders) if (p := root / f / name).is_file()), None)


def _missing(d: FileSet, root: Path) -> str:
    home = root / d.name
    absent = [file.name for file in d.downloads if _lying(d, root, file.name) is None]
    fetched = bool(d.downloads) and all(file.urls for file in d.downloads if file.name in absent)
    places = ", ".join(str(root / f) for f in (d.name, *d.folders))
    how = (
        f"fetch it with: spikeloom data fetch {d.name}"
        if fetched
        else f"{d.licence or 'it cannot be fetched automatically'}. Put {', '.join(absent) or 'its files'} into {home}"
    )
    return (
        f"data set {d.name}: no {', '.join(d.marks)} in {places}; {how}. Source: {d.source}. --data-root or "
        f"SPIKELOOM_DATA names another folder above"
    )


def writable(d: FileSet, root: Path) -> Path:
    """The data set's folder below the root, or, where nothing can be written there, a folder in the user's cache."""
    home = root / d.name
    above = next(p for p in (home, *home.parents) if p.exists())
    return home if os.access(above, os.W_OK) else cache_folder() / "data" / d.name
