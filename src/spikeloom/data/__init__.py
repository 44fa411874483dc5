"""Data sets as tensors: MNIST, Fashion-MNIST, CIFAR-10 and 100, scikit-learn's digits, Braille.

>>> from spikeloom import data
>>> ", ".join(data.SETS)
'mnist, fashion-mnist, cifar10, cifar100, digits, braille'
"""

from . import transforms
from .formats import DataError, read_cifar_binary, read_cifar_python, read_idx
from .loading import Loader, Loaders, loaders
from .samples import Batches, Samples, Transform, mix, stratified
from .sets import SETS, Description, available, data_root, describe, files, load

__all__ = [
    "SETS",
    "Batches",
    "DataError",
    "Description",
    "Loader",
    "Loaders",
    "Samples",
    "Transform",
    "available",
    "data_root",
    "describe",
    "files",
    "load",
    "loaders",
    "mix",
    "read_cifar_binary",
    "read_cifar_python",
    "read_idx",
    "stratified",
    "transforms",
]
