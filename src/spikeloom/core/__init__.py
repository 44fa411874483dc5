"""The call, temporal modules, networks, streams: all that knows time. It knows no neuron and no layer."""

from .call import Repeated, Sequence, State, active, detach
from .loop import Loop
from .module import TemporalModule, check_state, sequence_size
from .network import Network, Result, static
from .prepared import Prepared, UnfitError, prepare
from .recompute import Checkpoint, checkpoint
from .replace import Replacement, replace
from .stream import Stream
from .taps import Taps, taps

__all__ = [
    "Checkpoint",
    "Loop",
    "Network",
    "Prepared",
    "Repeated",
    "Replacement",
    "Result",
    "Sequence",
    "State",
    "Stream",
    "Taps",
    "TemporalModule",
    "UnfitError",
    "active",
    "check_state",
    "checkpoint",
    "detach",
    "prepare",
    "replace",
    "sequence_size",
    "static",
    "taps",
]
