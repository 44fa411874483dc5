"""The call, temporal modules, networks, streams: all that knows time. It knows no neuron and no layer."""

from .call import Repeated, Result, Sequence, State, active, detach
from .graph import CaptureError, capture
from .loop import Loop
from .module import TemporalModule, check_state, sequence_size
from .network import Network, static
from .nodes import Graph, Node
from .prepared import Prepared, UnfitError, prepare
from .recompute import Checkpoint, checkpoint
from .replace import Replacement, replace
from .stream import Stream
from .taps import Taps, taps

__all__ = [
    "CaptureError",
    "Checkpoint",
    "Graph",
    "Loop",
    "Network",
    "Node",
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
    "capture",
    "check_state",
    "checkpoint",
    "detach",
    "prepare",
    "replace",
    "sequence_size",
    "static",
    "taps",
]
