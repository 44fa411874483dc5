"""Data: events of spiking sensors (``events``), and data sets as tensors.

>>> from spikeloom import data
>>> ", ".join(data.SETS)
'mnist, fashion-mnist, cifar10, cifar100, digits, braille'
"""

from . import events, transforms
from .errors import DataError
from .events import Recording, read_events, time_surface, to_frames, to_sparse, voxel_grid, write_events
from .formats import read_cifar_binary, read_cifar_python, read_idx
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
    "Recording",
    "Samples",
    "Transform",
    "available",
    "data_root",
    "describe",
    "events",
    "files",
    "load",
    "loaders",
    "mix",
    "read_cifar_binary",
    "read_cifar_python",
    "read_events",
    "read_idx",
    "stratified",
    "time_surface",
    "to_frames",
    "to_sparse",
    "transforms",
    "voxel_grid",
    "write_events",
]
