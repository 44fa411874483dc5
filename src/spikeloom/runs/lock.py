"""One run in a folder at a time, by a lock of the operating system that ends with the process that holds it.

The file ``.lock`` names the process that holds the lock, for the message that a second run gets; the file may remain
when no run holds it. On file systems without locks, the folder counts as locked while the process named in it lives.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .settings import ConfigError, UserError

if sys.platform == "win32":  # pragma: no cover
    import msvcrt
else:
    import fcntl

LOCK = ".lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_SETTLED = 0.5  # seconds to wait without locks: of two runs that came at once, the one that wrote last stays
_FAR = 1 << 30  # the byte to lock on Windows: locked bytes cannot be read by others, so that it lies beyond the content
_open: set[IO[bytes]] = set()


@contextmanager
def held(folder: Path) -> Iterator[Callable[[], None]]:
    """Holds the lock of a folder; raises ConfigError if another process, or another run of this one, holds it.

    It yields a function to call before anything is written, which raises UserError if the folder was removed or
    replaced by then.
    """
    path = folder / LOCK
    try:
        file = path.open("a+b")
    except OSError as problem:
        raise UserError(f"{path} cannot be written: {problem.strerror or problem}") from problem
    with file:
        _claim(folder, file)
        _open.add(file)
        mine = os.fstat(file.fileno())

        def check() -> None:
            try:
                same = os.path.samestat(path.stat(), mine)
            except OSError:
                same = False
            if not same:
                raise UserError(
                    f"{folder} was removed or replaced while the run was in it, which ends without writing there"
                )

        try:
            yield check
        finally:
            _open.discard(file)
            if not file.closed:
                _write(file, {})


def _claim(folder: Path, file: IO[bytes]) -> None:
    me = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    taken = _take(file)
    if taken or (taken is None and not _lives(_owner(file))):
        _write(file, me)
        if taken:
            return
        time.sleep(_SETTLED)
        if _owner(file) == me:
            return
    hint = f"; if it has ended, remove {LOCK} there" if taken is None else ""
    raise ConfigError(
        f"{folder}: {_described(_owner(file))} is in this folder; wait until it has ended, or choose another one with "
        f"--out{hint}"
    )


def _take(file: IO[bytes]) -> bool | None:
    """Whether this call got the lock; None on file systems without locks."""
    try:
        if sys.platform == "win32":  # pragma: no cover
            file.seek(_FAR)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        return None if problem.errno in _NO_LOCKS else False
    return True


def _owner(file: IO[bytes]) -> dict[str, Any]:
    """The process that wrote the file last; empty if none holds the lock, or nothing can be read."""
    file.seek(0)
    try:
        found = json.loads(file.read(1000))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(file: IO[bytes], owner: dict[str, Any]) -> None:
    file.seek(0)
    file.truncate()
    if owner:
        file.write(json.dumps(owner).encode())
    file.flush()


def _lives(owner: dict[str, Any]) -> bool:
    """Whether an owner's process is alive; one on another machine counts as alive."""
    process = owner.get("process")
    if type(process) is not int or owner.get("host") != socket.gethostname():
        return bool(owner)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # the process is alive, and another user's
        return True
    return True


def _described(owner: dict[str, Any]) -> str:
    if not owner:
        return "another run"
    return f"a run (process {owner.get('process')} on {owner.get('host')}, since {owner.get('since')})"


def _let_go() -> None:
    """Closes the locks in a forked child, such as one that loads data, so that they do not outlive the parent."""
    for file in _open:
        file.close()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
