"""Downloads of files: they are resumed, checked, and come from the first mirror that has them."""

from __future__ import annotations

import hashlib
import http.client
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import DataError

Progress = Callable[[str, int, int | None], None]
"""A function that gets the name of a file, the bytes that are done, and the bytes in all, or None if unknown."""
_CHUNK = 1 << 20
_TRIES = 5  # a mirror gets so many connections, fewer if one brings nothing


@dataclass(frozen=True)
class Download:
    """A file of a data set.

    Attributes:
        name: the path below the data set's folder.
        urls: the mirrors, in the order in which to try them; empty if the file must be put there by hand.
        md5, sha256: the published checksums, if there are any.
        size: the number of bytes, if known.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import spikeloom as sl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "labels.txt"
    ...     _ = file.write_bytes(b"abc")
    ...     sl.data.Download("labels.txt", size=4).problem(file)
    ...     sl.data.Download("labels.txt", md5="900150983cd24fb0d6963f7d28e17f72").problem(file) is None
    '3 bytes instead of 4'
    True
    """

    name: str
    urls: tuple[str, ...] = ()
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None

    def problem(self, file: Path, progress: Progress | None = None) -> str | None:
        """The problem of a file, or None. ``progress`` gets the number of bytes that were checked."""
        if self.size is not None and file.stat().st_size != self.size:
            return f"{file.stat().st_size:,} bytes instead of {self.size:,}"

        def told(name: str, done: int, total: int | None) -> None:
            if progress:
                progress(f"checking {self.name}", done, total)

        for kind, wanted in (("sha256", self.sha256), ("md5", self.md5)):
            if wanted and (found := checksum(file, kind, progress=told)) != wanted:
                return f"its {kind} is {found} instead of {wanted}"
        return None


def checksum(file: Path, kind: str = "sha256", *, progress: Progress | None = None) -> str:
    """Hexadecimal digest of a file.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import spikeloom as sl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "abc.txt"
    ...     _ = file.write_bytes(b"abc")
    ...     sl.data.checksum(file, "md5")  # the one in RFC 1321
    '900150983cd24fb0d6963f7d28e17f72'
    """
    digest, done, total = hashlib.new(kind, usedforsecurity=False), 0, file.stat().st_size
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if progress:
                progress(file.name, done, total)
    return digest.hexdigest()


def fetch(download: Download, folder: Path, *, progress: Progress | None = None, timeout: float = 30.0) -> Path:
    """The path of the file, which is downloaded if it is not there yet. An interrupted download goes on where it
    stopped; the file gets its name only when it is whole and its checksum is right.

    Raises DataError where no mirror gives it; it says of each what happened, and what to do. Where nothing came, no
    file and no folder is left behind.
    """
    target = folder / download.name
    if target.is_file():
        problem = download.problem(target)
        if problem:
            raise DataError(f"{target}: {problem}; remove it and fetch it again")
        return target
    if not download.urls:
        raise DataError(f"{target}: cannot be fetched; put it there by hand")
    part = target.with_name(f"{target.name}.part")
    problems, unreachable = [], True
    with _folder(folder, part):
        for url in download.urls:
            try:
                _transfer(url, part, download, progress, timeout)
            except (OSError, http.client.HTTPException, ValueError) as failed:
                problems.append(f"{url}: {_told(failed, url, timeout)}")
                unreachable &= not isinstance(failed, (urllib.error.HTTPError, ValueError))
                continue
            problem, unreachable = download.problem(part, progress), False
            if problem is None:
                part.replace(target)
                return target
            part.unlink()
            problems.append(f"{url}: {problem}")
        have = part.stat().st_size if part.exists() else 0
    if have:
        remedy = f"the {have:,} bytes that came are kept, and fetching it again goes on there"
    elif unreachable:
        remedy = "check the network (the variable HTTPS_PROXY names a proxy) and fetch it again"
    else:
        remedy = "fetch it again later"
    raise DataError(f"{target}: no mirror gave it: {'; '.join(problems)}. Now {remedy}, or put the file there by hand")


@contextmanager
def _folder(folder: Path, part: Path) -> Iterator[None]:
    """A folder to write to; what was made of it and of those above goes again, unless something lies in it then."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if part.exists() and part.stat().st_size == 0:
            part.unlink()
        with suppress(OSError):  # it holds something
            for path in made:
                path.rmdir()


def _told(problem: Exception, url: str, timeout: float) -> str:
    """What happened, in words."""
    host = urllib.parse.urlsplit(url).hostname
    if isinstance(problem, urllib.error.HTTPError):
        return f"the server answers {problem.code} {problem.reason}"
    cause = problem.reason if isinstance(problem, urllib.error.URLError) else problem
    if isinstance(cause, socket.gaierror):
        return f"the name {host} is not resolved ({cause.strerror})"
    if isinstance(cause, ConnectionRefusedError):
        return f"{host} refuses the connection"
    if isinstance(cause, TimeoutError):
        return f"{host} does not answer within {timeout:g} seconds"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate of {host} is not accepted ({cause.verify_message})"
    if isinstance(cause, (ConnectionError, http.client.HTTPException, ssl.SSLError)):
        return f"the connection to {host} broke off ({cause})"
    return str(cause)


def _transfer(url: str, part: Path, download: Download, progress: Progress | None, timeout: float) -> None:
    """Fills ``part`` from a mirror, over several connections if the first ones break."""
    if not url.startswith(("https://", "http://")):
        raise ValueError("neither http nor https")
    problem: Exception | None = None
    for attempt in range(_TRIES):
        before = part.stat().st_size if part.exists() else 0
        try:
            if _piece(url, part, before, download, progress, timeout):
                return
        except (OSError, http.client.HTTPException) as broken:
            if isinstance(broken, urllib.error.HTTPError) and broken.code == 416 and before:
                part.unlink()  # the mirror has fewer bytes than are here, so these come from another file
                continue
            if isinstance(broken, urllib.error.HTTPError) or attempt == _TRIES - 1:
                raise
            problem = broken
        if attempt and (part.stat().st_size if part.exists() else 0) <= before:
            break
        time.sleep(0.2 * attempt)
    raise problem or ConnectionError("before the file was whole")


def _piece(url: str, part: Path, have: int, download: Download, progress: Progress | None, timeout: float) -> bool:
    """Downloads over one connection and returns whether the file is whole then."""
    request = urllib.request.Request(url, headers={"User-Agent": "spikeloom"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=timeout) as reply:
        resumed = reply.status == 206 and (reply.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
        if have and not resumed:
            have = 0  # the mirror ignored the range and sends the whole file
        length = reply.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else download.size
        if download.size is not None and total not in (None, download.size):
            raise ValueError(f"offers {total:,} bytes instead of {download.size:,}")
        with part.open("ab" if have else "wb") as file:
            while chunk := reply.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                if download.size is not None and have > download.size:
                    raise ValueError(f"sends more than {download.size:,} bytes")
                if progress:
                    progress(download.name, have, total)
    return total is None or have >= total
