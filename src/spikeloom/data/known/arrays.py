"""Data sets that are read into memory as a whole: their descriptions, and the functions that read their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..._extras import install
from ..array_formats import read_cifar_binary, read_cifar_python, read_idx, read_npz
from ..array_set import Arrays, ArraySet, Form
from ..downloads import Download
from ..errors import DataError
from ..finders import CIFAR10, DIGITS
from ..packed import contents
from ..pickles import unpickle_arrays
from ..samples import Transform
from ..transforms import Normalize, RandomCrop, RandomFlip, ToFloat

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
BRAILLE = ("Space", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")


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
            f"the data set digits comes with scikit-learn; install the extra: {install('demo')}"
        ) from missing
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.uint8).reshape(-1, 1, 8, 8), torch.tensor(labels, dtype=torch.int64)


def _published_braille(files: Sequence[Path]) -> Arrays:
    """The file as its authors give it: a list of recordings of 76 or 77 steps, of which the first 76 are taken."""
    letters: Any = unpickle_arrays(contents(files[0]), str(files[0]))
    try:
        taxels = np.stack([np.asarray(one["taxel_data"])[:76] for one in letters])
        labels = [BRAILLE.index(one["letter"]) for one in letters]
    except (TypeError, KeyError, ValueError, IndexError) as wrong:
        raise DataError(
            f"{files[0]}: expected a list of recordings with letter and taxel_data [T, 12]; {wrong}"
        ) from wrong
    bytes_alone = taxels.dtype.kind in "iuf" and bool((taxels == np.clip(np.rint(taxels), 0, 255)).all())
    if taxels.shape[1:] != (76, 12) or not bytes_alone:
        raise DataError(
            f"{files[0]}: expected taxel_data [76, 12] of whole numbers from 0 to 255, got {taxels.dtype} "
            f"{list(taxels.shape[1:])}"
        )
    return torch.tensor(taxels.astype(np.uint8)), torch.tensor(labels)


_Pair = tuple[Callable[[], Transform], Callable[[], Transform]]


def _cifar(mean: Sequence[float], std: Sequence[float]) -> _Pair:
    still = (ToFloat(), Normalize(mean, std))
    return lambda: nn.Sequential(RandomCrop(4), RandomFlip(), *still), lambda: nn.Sequential(*still)


# These are means and standard deviations of each channel over the 50,000 training images, for values from 0 to 1.
_CIFAR10 = _cifar((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_CIFAR100 = _cifar((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
_FIVE = tuple(f"data_batch_{k}" for k in range(1, 6))
_IDX = ("images-idx3-ubyte", "labels-idx1-ubyte")


def _idx_form(*folders: str) -> Form:
    return Form(
        folders=folders, train=tuple(f"train-{n}" for n in _IDX), test=tuple(f"t10k-{n}" for n in _IDX), read=_idx
    )


def _idx_downloads(mirrors: Sequence[str], *md5: str) -> tuple[Download, ...]:
    names = [f"{split}-{n}.gz" for split in ("train", "t10k") for n in _IDX]
    return tuple(
        Download(name, tuple(f"{mirror}/{name}" for mirror in mirrors), md5=one)
        for name, one in zip(names, md5, strict=True)
    )


def _cifar_download(name: str, md5: str) -> tuple[Download, ...]:
    return (Download(name, (f"https://www.cs.toronto.edu/~kriz/{name}",), md5=md5),)


ARRAY_SETS = {
    d.name: d
    for d in (
        ArraySet(
            name="mnist", title="MNIST: handwritten digits", sample="[1, 28, 28]", classes=DIGITS,
            counts={"train": 60_000, "test": 10_000}, forms=(_idx_form("mnist", "MNIST/raw", "MNIST"),),
            source="LeCun, Cortes and Burges, 1998",
            downloads=_idx_downloads(
                ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
                "f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c",
            ),
        ),
        ArraySet(
            name="fashion-mnist", title="Fashion-MNIST: articles of clothing", sample="[1, 28, 28]", classes=FASHION,
            counts={"train": 60_000, "test": 10_000},
            forms=(_idx_form("fashion_mnist", "fashion-mnist", "FashionMNIST/raw", "FashionMNIST"),),
            source="Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747; MIT licence",
            downloads=_idx_downloads(
                (
                    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
                    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
                ),
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310",
            ),
        ),
        ArraySet(
            name="cifar10", title="CIFAR-10: small photographs", sample="[3, 32, 32]", classes=CIFAR10,
            counts={"train": 50_000, "test": 10_000},
            forms=(
                Form(
                    folders=("cifar10/cifar-10-batches-py", "cifar-10-batches-py"), train=_FIVE, test=("test_batch",),
                    read=partial(_batches, read=read_cifar_python),
                ),
                Form(
                    folders=("cifar10/cifar-10-batches-bin", "cifar-10-batches-bin"),
                    train=tuple(f"{n}.bin" for n in _FIVE), test=("test_batch.bin",),
                    read=partial(_batches, read=read_cifar_binary),
                ),
            ),
            source="Krizhevsky, 2009",
            downloads=_cifar_download("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
            train_transform=_CIFAR10[0], test_transform=_CIFAR10[1],
        ),
        ArraySet(
            name="cifar100", title="CIFAR-100: small photographs", sample="[3, 32, 32]", classes=CIFAR100,
            counts={"train": 50_000, "test": 10_000},
            forms=(
                Form(
                    folders=("cifar100/cifar-100-python", "cifar-100-python"), train=("train",), test=("test",),
                    read=partial(_batches, read=partial(read_cifar_python, labels="fine_labels")),
                ),
                Form(
                    folders=("cifar100/cifar-100-binary", "cifar-100-binary"), train=("train.bin",), test=("test.bin",),
                    read=partial(_batches, read=partial(read_cifar_binary, label_bytes=2)),
                ),
            ),
            source="Krizhevsky, 2009",
            downloads=_cifar_download("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
            train_transform=_CIFAR100[0], test_transform=_CIFAR100[1],
        ),
        ArraySet(
            name="digits", title="scikit-learn's handwritten digits", sample="[1, 8, 8]", classes=DIGITS,
            counts={"train": 1_437, "test": 360}, forms=(Form(package="sklearn", read=_sklearn_digits),),
            source="Alpaydin and Kaynak, 1998, UCI; comes with scikit-learn",
            train_transform=partial(ToFloat, 16.0), test_transform=partial(ToFloat, 16.0), test_size=360,
        ),
        ArraySet(
            name="braille", title="Braille letters read by a tactile sensor: 12 taxels, 76 steps", sample="[76, 12]",
            classes=BRAILLE, counts={"train": 1_080, "test": 270},
            forms=(
                Form(folders=("braille",), train=("braille_taxels.npz",), read=_braille),
                Form(
                    folders=("braille",), train=("tutorial5_braille_spiking_data.pkl",), read=_published_braille
                ),
            ),
            source="Mueller-Cleve et al., 2022, doi:10.3389/fnins.2022.951164; CC BY 4.0",
            downloads=(
                Download(
                    "tutorial5_braille_spiking_data.pkl.gz",
                    ("https://raw.githubusercontent.com/fzenke/spytorch/d8d98f42568cef5ca8f9b5ea5405bbbb9a63e79f/"
                     "notebooks/data/tutorial5_braille_spiking_data.pkl.gz",),
                    sha256="f48a449264a00ee665df62329f2364059e49d0d0faeee4993e595d08616e5a1c",
                ),
            ),
            test_size=270, timed=True,
        ),
    )
}  # fmt: skip
