"""Data: events of spiking sensors (``events``), and data sets as tensors.

>>> from spikeloom import data
>>> ", ".join(data.SETS)
'mnist, fashion-mnist, cifar10, cifar100, digits, braille, n-mnist, n-caltech101, cifar10-dvs, dvs128-gesture, asl-dvs,
es-imagenet, hardvs, bullying10k, dvs-lip, nav-gesture-walk, nav-gesture-sit, shd, ssc, speech-commands, fsdd, n-cars,
st-mnist, imagenet'
"""

from .._time import valid_steps
from . import events, transforms
from .audio import Cochlea, read_wav
from .downloads import Download, Progress, checksum
from .errors import DataError
from .events import Recording, read_events, time_surface, to_frames, to_sparse, voxel_grid, write_events
from .file_set import FileSet, Item
from .formats import read_cifar_binary, read_cifar_python, read_idx
from .loading import Loader, Loaders, loaders
from .recordings import FileSamples, Frames, Options, Waveforms
from .samples import Batches, Indexed, Samples, Transform, mix, stratified
from .sets import SETS, Description, available, data_root, describe, fetch, files, load, verify

__all__ = [
    "SETS",
    "Batches",
    "Cochlea",
    "DataError",
    "Description",
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
