"""The data sets by name, and the calls that take a name."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from .dataset import DataSet, Split
from .downloads import Progress
from .errors import DataError
from .file_samples import FileSamples, Options, ToTensor
from .known.arrays import ARRAY_SETS
from .known.files import FILE_SETS
from .samples import Samples, Transform

_P = ParamSpec("_P")
_R = TypeVar("_R")

SETS: dict[str, DataSet] = {**ARRAY_SETS, **FILE_SETS}
"""Known data sets by name."""


def describe(name: str) -> DataSet:
    """The data set of a name; an unknown name raises an error that lists the known ones.

    >>> import spikeloom as sl
    >>> shd = sl.data.describe("shd")
    >>> shd.title, shd.counts["train"], shd.splits
    ('Spiking Heidelberg Digits: spoken digits in English and German', 8156, ('train', 'test'))
    """
    if name not in SETS:
        raise DataError(f"there is no data set {name!r}; there are {', '.join(SETS)}")
    return SETS[name]


def data_root(root: str | Path | None = None) -> Path:
    """The folder of all data sets: ``root``, or ``SPIKELOOM_DATA``, or ``data`` in the current folder. It need not
    exist; a path that cannot be a folder raises :class:`DataError`.

    >>> import spikeloom as sl
    >>> str(sl.data.data_root("sets"))
    'sets'
    """
    named = root or os.environ.get("SPIKELOOM_DATA") or "data"
    problem = "it has a byte 0" if "\0" in str(named) else ""
    try:
        folder = Path(named).expanduser()
        if not problem and folder.exists() and not folder.is_dir():
            problem = "it is no folder"
    except (OSError, RuntimeError) as wrong:  # the name is too long, or names a user that does not exist
        problem = getattr(wrong, "strerror", None) or str(wrong)
    if problem:
        short = repr(str(named)[:80]) + ("..." if len(str(named)) > 80 else "")
        raise DataError(
            f"the folder of the data sets cannot be {short}: {problem}; --data-root, root= or SPIKELOOM_DATA names "
            f"another one"
        )
    return folder


def _told(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function with each OSError of its files turned into a :class:`DataError`."""

    @functools.wraps(function)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except OSError as problem:
            raise DataError(
                f"data set {(*args, kwargs.get('name'))[0]}: {problem}; --data-root, root= or SPIKELOOM_DATA "
                "names another folder"
            ) from problem

    return called


@_told
def load(
    name: str,
    split: Split,
    *,
    frames: ToTensor | None = None,
    root: str | Path | None = None,
    transform: Transform | None = None,
    seed: int = 0,
    options: Options | None = None,
) -> Samples | FileSamples:
    """A split of a data set: in memory, or, where its samples are files, read from an event cache on the disk.

    Args:
        name: one of ``SETS``.
        split: ``"train"``, ``"test"`` or, where it is published, ``"validation"``. Where no split is published ``seed``
            holds a stratified test set out.
        frames: what makes a tensor of a recording, such as :class:`Frames`; None gives recordings as they are.
        root: see :func:`data_root`.
        transform: a function of each sample; None is the data set's own.
        seed: the seed of the split, where it needs one, and of a random transform.
        options: the options of data sets in files: see :class:`Options`.

    Raises :class:`DataError` when files are missing (it says which, and where they were looked for) or damaged.
    """
    d = describe(name)
    if split not in d.splits:
        raise DataError(f"data set {name}: split must be {' or '.join(d.splits)}, got {split!r}")
    return d.load(split, data_root(root), frames=frames, transform=transform, seed=seed, options=options)


@_told
def files(name: str, root: str | Path | None = None) -> dict[str, str]:
    """SHA-256 of each file of a data set, by its path below the root; empty for data that come with a package. For
    sets of many files it is one digest of their names and sizes.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import spikeloom as sl
    >>> with tempfile.TemporaryDirectory() as root:
    ...     place = Path(root) / "cifar10"
    ...     place.mkdir()
    ...     for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"):
    ...         (place / name).touch()
    ...     {checksum[:8] for checksum in sl.data.files("cifar10", root).values()}  # that of no bytes at all
    {'e3b0c442'}
    """
    return describe(name).files(data_root(root))


@_told
def fetch(name: str, root: str | Path | None = None, *, progress: Progress | None = None) -> Path:
    """Downloads what is missing of a data set, unpacks its archives and returns the folder of its files.

    Interrupted downloads go on where they stopped, and checksums are verified. Where a licence forbids downloading, or
    the files are not on the network, :class:`DataError` says which files to put where.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import spikeloom as sl
    >>> with tempfile.TemporaryDirectory() as root:
    ...     place = Path(root) / "cifar10"
    ...     place.mkdir()
    ...     for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"):
    ...         (place / name).touch()
    ...     sl.data.fetch("cifar10", root).name  # nothing is missing, so that nothing is downloaded
    'cifar10'
    """
    return describe(name).fetch(data_root(root), progress=progress)


@_told
def verify(name: str, root: str | Path | None = None, *, progress: Progress | None = None) -> list[str]:
    """The problems of the files of a data set, a line for each; the list is empty if there are none.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import spikeloom as sl
    >>> with tempfile.TemporaryDirectory() as root:
    ...     place = Path(root) / "cifar10"
    ...     place.mkdir()
    ...     for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"):
    ...         _ = (place / name).write_bytes(bytes(100))
    ...     for problem in sl.data.verify("cifar10", root):
    ...         print(problem.partition(": ")[2])
    100 bytes are no whole number of records of 3,073 bytes; the last whole one ends at byte 0
    100 bytes are no whole number of records of 3,073 bytes; the last whole one ends at byte 0
    """
    return describe(name).verify(data_root(root), progress=progress)


@_told
def available(name: str, root: str | Path | None = None) -> bool:
    """Whether all files of a data set are below the root, unpacked.

    >>> import tempfile
    >>> import spikeloom as sl
    >>> with tempfile.TemporaryDirectory() as root:
    ...     sl.data.available("mnist", root)  # an empty folder
    False
    """
    d = describe(name)
    try:
        return d.here(data_root(root))
    except DataError:
        return False
