"""Events: read and write them, turn them into frames, augment them.

>>> from spikeloom.data import events
>>> ", ".join(events.FORMATS)
'aedat4, aedat3, aedat2, evt2, evt21, evt3, dat, dat-1, npz, npy, hdf5, mat, text, nas-4, nas-2, atis'
"""

from .augment import (
    NDA,
    Compose,
    Crop,
    CropTime,
    Drop,
    DropArea,
    DropTime,
    EventTransform,
    Flip,
    Jitter,
    Noise,
    Resize,
    Roll,
    cut_mix,
    event_mix,
)
from .filters import Background, HotPixels, Refractory
from .formats import FORMATS, Format, read_events, write_events
from .frames import segments, time_surface, to_frames, to_sparse, voxel_grid
from .recording import EVENT, EVENT_1D, Events, Recording, as_events, as_recording, make_events

__all__ = [
    "EVENT",
    "EVENT_1D",
    "FORMATS",
    "NDA",
    "Background",
    "Compose",
    "Crop",
    "CropTime",
    "Drop",
    "DropArea",
    "DropTime",
    "EventTransform",
    "Events",
    "Flip",
    "Format",
    "HotPixels",
    "Jitter",
    "Noise",
    "Recording",
    "Refractory",
    "Resize",
    "Roll",
    "as_events",
    "as_recording",
    "cut_mix",
    "event_mix",
    "make_events",
    "read_events",
    "segments",
    "time_surface",
    "to_frames",
    "to_sparse",
    "voxel_grid",
    "write_events",
]
