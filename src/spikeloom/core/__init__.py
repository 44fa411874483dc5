"""The call, temporal modules, networks, streams: all that knows time. It knows no neuron and no layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .call import Repeated, Result, Sequence, State, active, detach
from .graphed import Graphed, graphed
from .loop import Loop
from .module import TemporalModule, check_state, sequence_size
from .network import Network, static
from .prepared import Prepared, UnfitError, prepare
from .promise import MAKERS, Late, Promise, checkpoint_hooks
from .recompute import Checkpoint, checkpoint
from .replace import Replacement, replace
from .replay import can_record
from .stream import Stream
from .taps import Taps, taps

if TYPE_CHECKING:
    from .graph import CaptureError, capture
    from .nodes import Graph, Node


def __getattr__(name: str) -> Any:
    if name in ("CaptureError", "Graph", "Node", "capture"):  # most programs ask for no graph
        from . import graph

        return getattr(graph, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "MAKERS",
    "CaptureError",
    "Checkpoint",
    "Graph",
    "Graphed",
    "Late",
    "Loop",
    "Network",
    "Node",
    "Prepared",
    "Promise",
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
    "can_record",
    "capture",
    "check_state",
    "checkpoint",
    "checkpoint_hooks",
    "detach",
    "graphed",
    "prepare",
    "replace",
    "sequence_size",
    "static",
    "taps",
]
