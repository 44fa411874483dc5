"""Archives unpacked safely: nothing outside the folder, no links, no more than the archive may hold."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from .errors import DataError

LIMIT = 1 << 40  # bytes that an archive may unpack to
_RATIO = 1200  # ... and how many times its own size: deflate packs no better than 1032 to 1
_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")


def is_archive(name: str) -> bool:
    """Whether :func:`unpack` takes files of this name."""
    return name.lower().endswith(_SUFFIXES)


def unpack(archive: Path, folder: Path, *, limit: int = LIMIT) -> None:
    """Unpacks ``archive``, and the archives in it, into ``folder``.

    The content gets its place when all of it is unpacked; a mark, written last, says that it is, so that an interrupted
    run is done again and a finished one is not. Names that lead out of the folder, links and devices raise
    :class:`DataError`, and then nothing is left behind.
    """
    mark = folder / f".{archive.name}.unpacked"
    stamp = f"{archive.stat().st_size} bytes"
    if mark.is_file() and mark.read_text() == stamp:
        return
    room = min(limit, _RATIO * archive.stat().st_size + (1 << 20))
    part = folder / f".{archive.name}.unpacking"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _unpack(archive, part, room)
        for inner in sorted(p for p in part.rglob("*") if p.is_file() and is_archive(p.name)):
            _unpack(inner, inner.with_name(_stem(inner.name)), room)
            inner.unlink()
        _move(part, folder)
        mark.write_text(stamp)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def by_hand(archive: Path, folder: Path) -> str:
    """What to do with an archive that is not unpacked here."""
    return (
        f"{archive}: .rar is not unpacked here; do it with unrar or 7-Zip (of several parts, the first one: "
        f"unrar x {archive.name} {folder}/)"
    )


def _unpack(archive: Path, folder: Path, room: int) -> None:
    try:
        if archive.name.lower().endswith(".zip"):
            with zipfile.ZipFile(archive) as opened:
                room = _write(_zipped(archive, opened), archive, folder, room)
        else:
            with tarfile.open(archive) as opened_tar:
                room = _write(_tarred(archive, opened_tar), archive, folder, room)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, RuntimeError) as broken:
        raise DataError(f"{archive}: damaged or cut short ({broken}); fetch it again") from broken
    except OSError as broken:
        if isinstance(broken, (FileExistsError, NotADirectoryError, IsADirectoryError)):
            raise DataError(f"{archive}: two of its files cannot both exist ({broken})") from broken
        raise


def _zipped(archive: Path, opened: zipfile.ZipFile) -> Iterator[tuple[str, bool, Any]]:
    for entry in opened.infolist():
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise DataError(f"{archive}: {entry.filename} is a link; links are not unpacked")
        yield entry.filename, entry.is_dir(), lambda entry=entry: opened.open(entry)


def _tarred(archive: Path, opened: tarfile.TarFile) -> Iterator[tuple[str, bool, Any]]:
    for entry in opened:
        if not (entry.isreg() or entry.isdir()):
            raise DataError(f"{archive}: {entry.name} is a link or a device; those are not unpacked")
        yield entry.name, entry.isdir(), lambda entry=entry: opened.extractfile(entry)


def _write(entries: Iterator[tuple[str, bool, Any]], archive: Path, folder: Path, room: int) -> int:
    for name, is_folder, content in entries:
        target = folder / _safe(name, archive)
        if is_folder:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with content() as source, target.open("wb") as file:
            room = _copy(source, file, room, archive)
    return room


def _copy(source: IO[bytes], target: IO[bytes], room: int, archive: Path) -> int:
    while chunk := source.read(1 << 20):
        room -= len(chunk)
        if room < 0:
            raise DataError(f"{archive}: unpacks to far more than an archive of its size can hold; nothing is kept")
        target.write(chunk)
    return room


def _safe(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    first = path.parts[0] if path.parts else ""
    if path.is_absolute() or ".." in path.parts or ":" in first or "\0" in name:
        raise DataError(f"{archive}: {name!r} leads out of its folder; nothing is unpacked")
    return path


def _move(source: Path, folder: Path) -> None:
    """Moves all files of one tree into another."""
    for path in sorted(source.rglob("*")):
        target = folder / path.relative_to(source)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            path.replace(target)


def _stem(name: str) -> str:
    return next(
        name[: -len(suffix)] for suffix in sorted(_SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix)
    )
