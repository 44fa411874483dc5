"""Data: events of spiking sensors (``events``), and data sets as tensors.

>>> from spikeloom import data
>>> ", ".join(data.SETS)
'mnist, fashion-mnist, cifar10, cifar100, digits, braille, n-mnist, n-caltech101, cifar10-dvs, dvs128-gesture, asl-dvs,
es-imagenet, hardvs, bullying10k, dvs-lip, nav-gesture-walk, nav-gesture-sit, shd, ssc, speech-commands, fsdd, n-cars,
st-mnist, imagenet'
"""

import warnings
from typing import Any

from .._time import valid_steps
from . import events, transforms
from .array_formats import read_cifar_binary, read_cifar_python, read_idx
from .array_set import ArraySet
from .audio import Cochlea, read_wav
from .dataset import DataSet
from .downloads import Download, Progress, checksum
from .errors import DataError
from .events import Recording, read_events, time_surface, to_frames, to_sparse, voxel_grid, write_events
from .file_samples import FileSamples, Frames, Options, Waveforms
from .file_set import FileSet
from .items import Item
from .loading import Loader, Loaders, loaders
from .registry import SETS, available, data_root, describe, fetch, files, load, verify
from .samples import Batches, Indexed, Samples, Transform, mix, stratified


def __getattr__(name: str) -> Any:
    if name == "Description":
        warnings.warn("data.Description is now data.ArraySet", DeprecationWarning, stacklevel=2)
        return ArraySet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "SETS",
    "ArraySet",
    "Batches",
    "Cochlea",
    "DataError",
    "DataSet",
    "Download",
    "FileSamples",
    "FileSet",
    "Frames",
    "Indexed",
    "Item",
    "Loader",
    "Loaders",
    "Options",
    "Progress",
    "Recording",
    "Samples",
    "Transform",
    "Waveforms",
    "available",
    "checksum",
    "data_root",
    "describe",
    "events",
    "fetch",
    "files",
    "load",
    "loaders",
    "mix",
    "read_cifar_binary",
    "read_cifar_python",
    "read_events",
    "read_idx",
    "read_wav",
    "stratified",
    "time_surface",
    "to_frames",
    "to_sparse",
    "transforms",
    "valid_steps",
    "verify",
    "voxel_grid",
    "write_events",
]
