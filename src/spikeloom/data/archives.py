"""Archives unpacked safely: nothing outside the folder, no links, no more than the archive may hold."""

from __future__ import annotations

import errno
import gzip
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from .downloads import Progress
from .errors import DataError
from .packed import Room, is_gzip

LIMIT = 1 << 40  # bytes: an archive that unpacks to more is refused
_BLOCK = 4096  # bytes: each file or folder counts as at least so many, even an empty one
_HEADER = 1 << 26  # bytes: an archive that needs more of its content in one read is refused
_DEEP = 200  # a path with more folders than this, those above the archive included, is refused
_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_MARK = re.compile(r"\..*\.(unpacked|unpacking)")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)


def is_archive(name: str) -> bool:
    """Whether :func:`unpack` takes files of this name."""
    return name.lower().endswith(_SUFFIXES)


def unpack(archive: Path, folder: Path, *, limit: int = LIMIT, progress: Progress | None = None) -> None:
    """Unpacks ``archive``, and the archives in it, into ``folder``.

    The content is moved to its place once all of it is unpacked. A mark is written last, so that an interrupted call
    unpacks again and a finished one does not. Names that lead out of the folder, links and devices raise
    :class:`DataError`, and then nothing is left behind. Archives inside an archive count against its limit.
    ``progress`` gets the number of bytes of the archive that have been read.
    """
    mark = folder / f".{archive.name}.unpacked"
    stamp = f"{archive.stat().st_size} bytes"
    if mark.is_file() and mark.read_bytes() == stamp.encode():
        return
    room = Room(archive.stat().st_size, limit=limit)
    part = folder / f".{archive.name}.unpacking"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _unpack(archive, part, room, str(archive), progress)
        while found := sorted(p for p in part.rglob("*") if p.is_file() and is_archive(p.name)):
            for inner in found:
                place = inner.with_name(_stem(inner.name) or "_")
                _unpack(inner, place, room, f"{archive}: {inner.relative_to(part)} in it")
                inner.unlink()
        _move(part, folder)
        mark.write_text(stamp)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def by_hand(archive: Path, folder: Path) -> str:
    """A message that tells the user to unpack an archive of another kind by hand."""
    return (
        f"{archive}: .rar is not unpacked here; do it with unrar or 7-Zip (of several parts, the first one: "
        f"unrar x {archive.name} {folder}/)"
    )


def _unpack(archive: Path, folder: Path, room: Room, where: str, progress: Progress | None = None) -> None:
    total = archive.stat().st_size
    try:
        with archive.open("rb") as file:

            def told() -> None:
                if progress:
                    progress(f"unpacking {archive.name}", min(file.tell(), total), total)

            if archive.name.lower().endswith(".zip"):
                with zipfile.ZipFile(file) as opened:
                    _write(_zipped(where, opened), where, folder, room, told)
                return
            packed = is_gzip(file.read(4))
            file.seek(0)
            plain: Any = _Bounded(gzip.GzipFile(fileobj=file) if packed else file)
            with tarfile.open(fileobj=plain, mode="r:") as opened_tar:
                _write(_tarred(where, opened_tar), where, folder, room, told)
                plain.seek(opened_tar.offset)
                last = plain.read(tarfile.BLOCKSIZE)
            if not last or last.strip(b"\0"):  # tarfile mistakes a damaged header for the end
                raise tarfile.ReadError(f"byte {opened_tar.offset:,}: neither a file nor the end of the archive")
    except DataError:
        raise
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as clash:
        raise DataError(f"{where}: two of its files cannot both exist ({clash})") from clash
    except Exception as broken:  # zipfile, tarfile, gzip and zlib have errors of their own, and let others through
        if isinstance(broken, OSError) and broken.errno in _DISK:
            raise
        raise DataError(f"{where}: damaged or cut short ({broken}); fetch it again") from broken


class _Bounded:
    """A file that refuses to read more at once than a sound archive needs, whatever size a header claims."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.seek: Callable[..., int] = file.seek
        self.tell: Callable[[], int] = file.tell

    def read(self, n: int = -1) -> bytes:
        """The next ``n`` bytes."""
        if not 0 <= n <= _HEADER:
            raise tarfile.ReadError(f"a header of {n:,} bytes")
        content: bytes = self._file.read(n)
        return content


def _zipped(where: str, opened: zipfile.ZipFile) -> Iterator[tuple[str, bool, Any]]:
    for entry in opened.infolist():
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise DataError(f"{where}: {entry.filename} is a link; links are not unpacked")
        yield entry.filename, entry.is_dir(), lambda entry=entry: opened.open(entry)


def _tarred(where: str, opened: tarfile.TarFile) -> Iterator[tuple[str, bool, Any]]:
    for entry in opened:
        if not (entry.isreg() or entry.isdir()):
            raise DataError(f"{where}: {entry.name} is a link or a device; those are not unpacked")
        yield entry.name, entry.isdir(), lambda entry=entry: opened.extractfile(entry)


def _write(
    entries: Iterator[tuple[str, bool, Any]], where: str, folder: Path, room: Room, told: Callable[[], None]
) -> None:
    for name, is_folder, content in entries:
        target = folder / _safe(name, where)
        room.take(_BLOCK, where)
        if len(target.parts) > _DEEP:
            raise DataError(f"{where}: folders in folders, more than {_DEEP} deep; nothing is unpacked")
        if is_folder:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with content() as source, target.open("wb") as file:
            _copy(source, file, room, where)
        told()


def _copy(source: IO[bytes], target: IO[bytes], room: Room, where: str) -> None:
    while chunk := source.read(1 << 20):
        room.take(len(chunk), where)
        target.write(chunk)


def _safe(name: str, where: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    first = path.parts[0] if path.parts else ""
    if path.is_absolute() or ".." in path.parts or ":" in first or "\0" in name:
        raise DataError(f"{where}: {name!r} leads out of its folder; nothing is unpacked")
    if _MARK.fullmatch(first):
        raise DataError(f"{where}: {name!r} has the name of a mark of this program's; nothing is unpacked")
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
