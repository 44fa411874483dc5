"""build: compiles C source with the system's compiler and keeps the result in a cache that only its owner can write."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

ABI = 1
_FLAGS = "-std=gnu11 -O3 -fno-math-errno -fno-trapping-math -ffp-contract=off -shared -fPIC"
_EXACT = ("-fno-fast-math", "-fno-unsafe-math-optimizations", "-fno-finite-math-only")  # they undo unsafe flags in CC
_OPTIONAL = ("-march=native -fopenmp", "-mcpu=native -fopenmp", "-march=native", "-mcpu=native", "")  # first that works
_PROBE = """
int probe(int n) {
  int s = 0;
  #pragma omp parallel for reduction(+ : s)
  for (int i = 0; i < n; i++) s += i;
  return s;
}
"""
_INSTALL = {
    "linux": "; install one: apt install gcc (dnf install gcc, apk add gcc musl-dev)",
    "darwin": "; install one: xcode-select --install",
    "win32": "; install one: MinGW-w64's gcc, in a folder of PATH",
}
_lock = threading.Lock()
_loaded: dict[str, ctypes.CDLL] = {}


class BuildError(Exception):
    """There is no working compiler on this machine, or it failed; the message tells which of the two."""


def load(source: str) -> ctypes.CDLL:
    """The shared library of ``source``, from memory, from the cache, or compiled now. Raises BuildError."""
    try:
        return _load(source)
    except BuildError:  # the compiler may no longer accept the flags that it accepted once
        if not _tries_flags_again():
            raise
        return _load(source)


def _load(source: str) -> ctypes.CDLL:
    key = _digest(f"{ABI}\n{_toolchain()}\n{source}".encode())[:32]
    with _lock:
        if key not in _loaded:
            folder = cache_folder()
            library, digest = folder / f"{key}.so", folder / f"{key}.sha256"
            try:
                if not _trusted(library, digest):
                    _compile(source, library, digest)
                _loaded[key] = ctypes.CDLL(str(library))
            except OSError as error:
                raise BuildError(f"the kernel cache {folder} cannot be used: {error}") from error
        return _loaded[key]


def ready() -> None:
    """Raises BuildError where there is no working compiler. A process tries the compiler only once."""
    problem = _problem()
    if problem:
        raise BuildError(problem)


@functools.cache
def compiled(source: str) -> Any:
    """The functions of a C source, or None without a compiler; for callers that can do without."""
    try:
        ready()
        return load(source)
    except BuildError:
        return None


@functools.cache
def _problem() -> str:
    try:
        _toolchain()
    except BuildError as error:
        return str(error)
    return ""


def compiler() -> str | None:
    """The command of the C compiler as one line for a shell; None if there is none."""
    words = command()
    return shlex.join(words) if words else None


def command() -> tuple[str, ...]:
    """The words that start the C compiler: ``CC`` if set, with its arguments, else the first of cc, gcc, clang.

    The tuple is empty if there is none.
    """
    named = os.environ.get("CC", "").strip()
    if not named:
        return next(((found,) for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), ())
    if whole := shutil.which(named):  # a path may have spaces
        return (whole,)
    try:
        first, *arguments = shlex.split(named)
    except ValueError:  # a quotation mark is not closed
        return ()
    found = shutil.which(first)
    return (found, *arguments, *(_EXACT if arguments else ())) if found else ()


def cache_folder() -> Path:
    """``$SPIKELOOM_CACHE`` or ``spikeloom`` in the user's cache folder, made with mode 0700.

    Where it belongs to somebody else, or others may write to it, a fresh temporary folder takes its place.
    """
    named = os.environ.get("SPIKELOOM_CACHE")
    try:
        folder = (
            Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spikeloom"
        )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_uid == _user() and not status.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        pass
    return _private_folder()


def facts() -> dict[str, str]:
    """The compiler, its flags and the cache folder of kernels; also ``problem`` where none can be built."""
    folder = cache_folder()
    kept = _kept(folder)
    size = sum(f.stat().st_size for f in kept) / 2**20
    found = {"compiler": compiler() or "none", "cache": f"{folder} ({len(kept)} files, {size:.1f} MB)"}
    try:
        version, *flags = _toolchain().split("\n")[1:-3]
        return {**found, "compiler": f"{found['compiler']} ({version})", "flags": " ".join(flags)}
    except BuildError as problem:
        return {**found, "problem": str(problem)}


def clear_cache() -> int:
    """Removes the kernels and programs kept on the disk, and nothing else; returns how many files it removed.

    Kernels that this process has loaded stay in use.
    """
    kept = _kept(cache_folder())
    for file in kept:
        file.unlink(missing_ok=True)
    return len(kept)


def _kept(folder: Path) -> list[Path]:
    name = re.compile(r"[0-9a-f]{32,64}\.(so|sha256|program|toolchain)")
    return [f for f in folder.iterdir() if name.fullmatch(f.name)]


@functools.cache
def _private_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="spikeloom-"))


@functools.cache
def _toolchain() -> str:
    """All that a binary depends on besides its source, one a line: compiler, flags, processor, system."""
    found = compiler()
    if found is None:
        named = os.environ.get("CC", "").strip()
        asked = f"CC is {named}" if named else "cc, gcc or clang"
        how = next((text for name, text in _INSTALL.items() if sys.platform.startswith(name)), "")
        raise BuildError(f"no C compiler ({asked}) was found{'' if named else how}")
    return "\n".join((found, *_tools(), sys.platform, platform.machine(), _features()))


@functools.cache
def _tools() -> list[str]:
    """The compiler's version and the flags that it accepts; read from the disk if its file is unchanged."""
    stored = _kept_tools()
    lines = _read_lines(stored)
    if lines is None:
        lines = [_run([*command(), "--version"]).stdout.split("\n")[0], *_probed_flags()]
        text = "\n".join(lines)
        replace_text(stored, f"{_digest(text.encode())}\n{text}")
    return lines


def _kept_tools() -> Path:
    """The file of :func:`_tools`. Its name depends on the compiler's words and on the programs that they name."""
    files = [Path(found).resolve() for word in command() if (found := shutil.which(word))]
    try:
        stamps = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    except OSError as error:
        raise BuildError(f"the C compiler cannot be used: {error}") from error
    known = (ABI, command(), stamps, _FLAGS, _OPTIONAL, sys.platform, platform.machine(), _features())
    return cache_folder() / f"{_digest(repr(known).encode())[:32]}.toolchain"


def _read_lines(file: Path) -> list[str] | None:
    """The lines after the first, which must be their check sum; None if it is not or the file is not this user's."""
    try:
        digest, _, text = file.read_bytes().partition(b"\n") if is_own(file) else (b"", b"", b"")
    except OSError:
        return None
    return text.decode().split("\n") if digest and digest == _digest(text).encode() else None


@functools.cache
def _tries_flags_again() -> bool:
    """Finds the flags anew, once in a process, and returns whether they differ from those that were kept."""
    try:
        before = _tools()
        _kept_tools().unlink(missing_ok=True)
        for cached in (_tools, _toolchain):
            cached.cache_clear()
        return _tools() != before
    except (BuildError, OSError):
        return False


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _probed_flags() -> list[str]:
    """The first flags with which the compiler builds a small function that runs."""
    problem = ""
    have = _features().split()
    width = 512 if "avx512f" in have else 256 if "avx2" in have else None
    # With -march=native a compiler may choose narrower vectors than the processor has.
    widest = (f"{_OPTIONAL[0]} -mprefer-vector-width={width}",) if width else ()
    for optional in (*widest, *_OPTIONAL):
        flags = [*_FLAGS.split(), *optional.split()]
        with tempfile.TemporaryDirectory() as folder:
            try:
                built = _run_compiler(_PROBE, Path(folder), flags)
                if ctypes.CDLL(str(built)).probe(5) == 10:
                    return flags
            except (BuildError, OSError) as error:
                problem = problem or str(error)
    raise BuildError(problem)


def replace_text(file: Path, text: str) -> None:
    """Writes a file of the cache completely or not at all. A cache that cannot be written to raises no error."""
    try:
        handle, temporary = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(handle, "w") as opened:
            opened.write(text)
        Path(temporary).replace(file)
    except OSError:
        return


def _features() -> str:
    """The processor's features; a binary depends on them, because several machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n")
    except OSError:
        return platform.processor()
    found = [line for line in lines if line.startswith(("flags", "Features"))]
    return " ".join(sorted(found[0].split(":")[1].split())) if found else ""


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0  # on Windows files belong to user 0


def is_own(path: Path) -> bool:
    """Whether a file exists and belongs to this user."""
    try:
        return path.stat().st_uid == _user()
    except OSError:
        return False


def _trusted(library: Path, digest: Path) -> bool:
    try:
        return is_own(library) and is_own(digest) and _digest(library.read_bytes()).encode() == digest.read_bytes()
    except OSError:
        return False


def _compile(source: str, library: Path, digest: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built, checksum = _run_compiler(source, Path(folder), _tools()[1:]), Path(folder) / "kernel.sha256"
        checksum.write_text(_digest(built.read_bytes()))
        built.replace(library)
        checksum.replace(digest)


def _run_compiler(source: str, folder: Path, flags: list[str]) -> Path:
    code, built = folder / "kernel.c", folder / "kernel.so"
    code.write_text(source)
    done = _run([*command(), *flags, "-o", str(built), str(code), "-lm"])
    if done.returncode:
        raise BuildError(f"{compiler()} failed: {done.stderr.strip()[:2000]}")
    return built


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise BuildError(f"{words[0]} could not be started: {error}") from error
