"""What each data set is: files, classes, splits, default transforms. One description each, one engine for all."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from .downloads import Progress
from .errors import DataError
from .file_set import FileSet
from .file_sets import FILE_SETS
from .finders import CIFAR10, DIGITS
from .formats import read_cifar_binary, read_cifar_python, read_idx, read_npz
from .places import listing, locate, prepare
from .places import verify as check_files
from .recordings import FileSamples, Options, ToTensor, load_files
from .samples import Samples, Transform, stratified
from .transforms import Normalize, RandomCrop, RandomFlip, ToFloat

Split = Literal["train", "validation", "test"]
Arrays = tuple[Tensor, Tensor]
_P = ParamSpec("_P")
_R = TypeVar("_R")

FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_HUNDRED = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
CIFAR100 = tuple(_HUNDRED.split())


@dataclass(frozen=True)
class Form:
    """One of the forms in which a data set is published.

    Attributes:
        folders: where the files may lie, below the root, tried in turn.
        files: of each split, in the order in which their samples count.
        read: the arrays of the files of a split.
    """

    folders: tuple[str, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]
    read: Callable[[Sequence[Path]], Arrays]


@dataclass(frozen=True)
class Description:
    """A data set that is read into memory as a whole. ``test_size`` is None where a test split is published, else the
    number that a seed holds out, ``timed`` says that the first dimension of a sample is time."""

    splits = ("train", "test")

    name: str
    title: str
    sample: str
    classes: tuple[str, ...]
    sizes: tuple[int, int]
    forms: tuple[Form, ...]
    source: str
    train_transform: Callable[[], Transform] = ToFloat
    test_transform: Callable[[], Transform] = ToFloat
    test_size: int | None = None
    timed: bool = False


def _idx(files: Sequence[Path]) -> Arrays:
    images, labels = read_idx(files[0], ndim=3), read_idx(files[1], ndim=1)
    if len(images) != len(labels):
        raise DataError(f"{files[0]} has {len(images):,} images, {files[1]} has {len(labels):,} labels")
    return torch.tensor(images).unsqueeze(1), torch.tensor(labels, dtype=torch.int64)


def _batches(files: Sequence[Path], read: Callable[[Path], tuple[Any, Any]]) -> Arrays:
    parts = [read(file) for file in files]
    images, labels = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    return torch.tensor(images), torch.tensor(labels)


def _braille(files: Sequence[Path]) -> Arrays:
    taxels, labels = read_npz(files[0], "taxel_data", "label")
    if taxels.ndim != 3 or taxels.shape[2] != 12 or taxels.dtype.kind not in "iuf" or not np.isfinite(taxels).all():
        raise DataError(
            f"{files[0]}: expected taxel_data [N, T, 12] of finite numbers, got {taxels.dtype} {list(taxels.shape)}"
        )
    if labels.shape != taxels.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"{files[0]}: expected {len(taxels):,} labels of whole numbers, got {labels.dtype} {list(labels.shape)}"
        )
    return torch.tensor(taxels), torch.tensor(labels.astype(np.int64))


def _sklearn_digits(files: Sequence[Path]) -> Arrays:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as missing:
        raise DataError(
            "the data set digits comes with scikit-learn; install the extra: pip install 'spikeloom[demo]'"
        ) from missing
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.uint8).reshape(-1, 1, 8, 8), torch.tensor(labels, dtype=torch.int64)


def _idx_form(*folders: str) -> Form:
    names = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return Form(folders, tuple(f"train-{n}" for n in names), tuple(f"t10k-{n}" for n in names), _idx)


_Pair = tuple[Callable[[], Transform], Callable[[], Transform]]


def _cifar(mean: Sequence[float], std: Sequence[float]) -> _Pair:
    still = (ToFloat(), Normalize(mean, std))
    return lambda: nn.Sequential(RandomCrop(4), RandomFlip(), *still), lambda: nn.Sequential(*still)


# Means and standard deviations of the channels of the 50,000 training images.
_CIFAR10 = _cifar((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_CIFAR100 = _cifar((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
_FIVE = tuple(f"data_batch_{k}" for k in range(1, 6))

_ARRAYS = {
    d.name: d
    for d in (
        Description(
            "mnist", "MNIST: handwritten digits", "[1, 28, 28]", DIGITS, (60_000, 10_000),
            (_idx_form("mnist", "MNIST/raw", "MNIST"),),
            "LeCun, Cortes and Burges, 1998",
        ),
        Description(
            "fashion-mnist", "Fashion-MNIST: articles of clothing", "[1, 28, 28]", FASHION, (60_000, 10_000),
            (_idx_form("fashion_mnist", "fashion-mnist", "FashionMNIST/raw", "FashionMNIST"),),
            "Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747; MIT licence",
        ),
        Description(
            "cifar10", "CIFAR-10: small photographs", "[3, 32, 32]", CIFAR10, (50_000, 10_000),
            (
                Form(
                    ("cifar10/cifar-10-batches-py", "cifar-10-batches-py"), _FIVE, ("test_batch",),
                    partial(_batches, read=read_cifar_python),
                ),
                Form(
                    ("cifar10/cifar-10-batches-bin", "cifar-10-batches-bin"),
                    tuple(f"{n}.bin" for n in _FIVE), ("test_batch.bin",),
                    partial(_batches, read=read_cifar_binary),
                ),
            ),
            "Krizhevsky, 2009", *_CIFAR10,
        ),
        Description(
            "cifar100", "CIFAR-100: small photographs", "[3, 32, 32]", CIFAR100, (50_000, 10_000),
            (
                Form(
                    ("cifar100/cifar-100-python", "cifar-100-python"), ("train",), ("test",),
                    partial(_batches, read=partial(read_cifar_python, labels="fine_labels")),
                ),
                Form(
                    ("cifar100/cifar-100-binary", "cifar-100-binary"), ("train.bin",), ("test.bin",),
                    partial(_batches, read=partial(read_cifar_binary, label_bytes=2)),
                ),
            ),
            "Krizhevsky, 2009", *_CIFAR100,
        ),
        Description(
            "digits", "scikit-learn's handwritten digits", "[1, 8, 8]", DIGITS, (1_437, 360),
            (Form((), (), (), _sklearn_digits),),
            "Alpaydin and Kaynak, 1998, UCI; comes with scikit-learn",
            partial(ToFloat, 16.0), partial(ToFloat, 16.0), test_size=360,
        ),
        Description(
            "braille", "Braille letters read by a tactile sensor: 12 taxels, 76 steps", "[76, 12]",
            ("Space", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"), (1_080, 270),
            (Form(("braille",), ("braille_taxels.npz",), (), _braille),),
            "Mueller-Cleve et al., 2022, doi:10.3389/fnins.2022.951164; CC BY 4.0",
            test_size=270, timed=True,
        ),
    )
}  # fmt: skip

SETS: dict[str, Description | FileSet] = {**_ARRAYS, **FILE_SETS}


def describe(name: str) -> Description | FileSet:
    """The description of a data set; an unknown name raises and says which there are."""
    if name not in SETS:
        raise DataError(f"there is no data set {name!r}; there are {', '.join(SETS)}")
    return SETS[name]


def data_root(root: str | Path | None = None) -> Path:
    """The folder of all data sets: ``root``, or ``SPIKELOOM_DATA``, or ``data`` in the current folder. It need not be
    there; what cannot be a folder raises :class:`DataError`."""
    named = root or os.environ.get("SPIKELOOM_DATA") or "data"
    problem = "it has a byte 0" if "\0" in str(named) else ""
    try:
        folder = Path(named).expanduser()
        if not problem and folder.exists() and not folder.is_dir():
            problem = "it is no folder"
    except (OSError, RuntimeError) as wrong:  # too long a name, a user that does not exist
        problem = getattr(wrong, "strerror", None) or str(wrong)
    if problem:
        short = repr(str(named)[:80]) + ("..." if len(str(named)) > 80 else "")
        raise DataError(
            f"the folder of the data sets cannot be {short}: {problem}; --data-root, root= or SPIKELOOM_DATA names "
            f"another one"
        )
    return folder


def _told(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function whose files cannot be read or written says so in a :class:`DataError`."""

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
        frames: for recordings: what makes a tensor of one, such as :class:`Frames`; None gives them as they are.
        root: see :func:`data_root`.
        transform: of each sample; None is the data set's own.
        seed: of the split, where it needs one, and of a random transform.
        options: of data sets in files: see :class:`Options`.

    Raises :class:`DataError` when files are missing (it says which, and where they were looked for) or damaged.
    """
    d = describe(name)
    if split not in d.splits:
        raise DataError(f"data set {name}: split must be {' or '.join(d.splits)}, got {split!r}")
    if isinstance(d, FileSet):
        own = options or Options()
        return load_files(d, split, data_root(root), frames=frames, transform=transform, seed=seed, options=own)
    if frames is not None or options is not None:
        raise DataError(f"data set {name} holds tensors, not recordings: it takes neither frames nor options")
    data, labels = _read(d, split, data_root(root))
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(d.classes):
        raise DataError(
            f"data set {name}: the {split} split has labels from {int(labels.min())} to {int(labels.max())}, which "
            f"must be from 0 to {len(d.classes) - 1}; its files are damaged or of another set"
        )
    chosen = torch.arange(len(labels))
    if d.test_size is not None:
        chosen = stratified(labels, d.test_size, seed=seed)[split == "test"]
        data, labels = data[chosen], labels[chosen]
    expected = d.sizes[split == "test"]
    if len(labels) != expected:
        raise DataError(f"data set {name}: the {split} split has {len(labels):,} samples instead of {expected:,}")
    if transform is None:
        transform = (d.train_transform if split == "train" else d.test_transform)()
    return Samples(data, labels, classes=d.classes, transform=transform, seed=seed, indices=chosen)


@_told
def files(name: str, root: str | Path | None = None) -> dict[str, str]:
    """SHA-256 of each file of a data set, by its path below the root; empty for data that come with a package. Of sets
    of many files, a digest of their names and sizes."""
    d, top = describe(name), data_root(root)
    if isinstance(d, FileSet):
        return listing(d, top)
    form, folder = _locate(d, top)
    found = dict.fromkeys(file for n in (*form.train, *form.test) if (file := _file(folder, n)))
    return {str(f.relative_to(top)): hashlib.sha256(f.read_bytes()).hexdigest() for f in found}


@_told
def fetch(name: str, root: str | Path | None = None, *, progress: Progress | None = None) -> Path:
    """Downloads what is missing of a data set, unpacks its archives and returns the folder of its files.

    Downloads that were interrupted go on; checksums are verified. Where a licence forbids it, or the files are not on
    the network, :class:`DataError` says which files to put where.
    """
    d = describe(name)
    if isinstance(d, FileSet):
        return prepare(d, data_root(root), progress=progress)
    return _locate(d, data_root(root))[1]  # says what is missing


@_told
def verify(name: str, root: str | Path | None = None) -> list[str]:
    """What is wrong with the files of a data set, a line for each problem; nothing is an empty list."""
    d, top = describe(name), data_root(root)
    if isinstance(d, FileSet):
        return check_files(d, top)
    problems = []
    for split in ("train", "test"):
        try:
            load(name, split, root=top)
        except DataError as problem:
            problems.append(str(problem))
    return problems


@_told
def available(name: str, root: str | Path | None = None) -> bool:
    """Whether all files of a data set are there."""
    d = describe(name)
    try:
        if isinstance(d, FileSet):
            locate(d, data_root(root), unpack=False)
            return True
        form, _ = _locate(d, data_root(root))
    except DataError:
        return False
    return form.read is not _sklearn_digits or importlib.util.find_spec("sklearn") is not None


def _read(d: Description, split: Split, root: Path) -> Arrays:
    form, folder = _locate(d, root)
    names = form.train if split == "train" or d.test_size is not None else form.test
    return form.read([file for n in names if (file := _file(folder, n))])


def _locate(d: Description, root: Path) -> tuple[Form, Path]:
    """The first form and folder that have all files."""
    nearest: tuple[int, list[str], Path] | None = None
    for form in d.forms:
        wanted = [*form.train, *form.test]
        for folder in [root / f for f in form.folders] or [root]:
            missing = [n for n in wanted if _file(folder, n) is None]
            if not missing:
                return form, folder
            if nearest is None or len(wanted) - len(missing) > nearest[0]:
                nearest = len(wanted) - len(missing), missing, folder
    assert nearest is not None
    _, missing, folder = nearest
    gz = " (or with .gz)" if d.forms[0].read is _idx else ""
    others = [str(root / f) for form in d.forms for f in form.folders if root / f != folder]
    also = f"; also looked in {', '.join(others)}" if others else ""
    put = f"Put {'it' if len(missing) == 1 else 'them'} there{gz}"
    raise DataError(
        f"data set {d.name}: {', '.join(missing)} not found in {folder}{also}. {put}, or name the folder above with "
        f"--data-root or SPIKELOOM_DATA. Source: {d.source}"
    )


def _file(folder: Path, name: str) -> Path | None:
    return next((f for f in (folder / name, folder / f"{name}.gz") if f.is_file()), None)
