"""Pictures of spike trains, membranes, layers, events and training runs, drawn with matplotlib (extra ``plot``).

Functions with an argument ``ax`` draw into it (None makes a new figure) and return it; none shows or saves anything,
and none changes matplotlib's settings (see :func:`style`). Tensors may have any real dtype (bfloat16, booleans, packed
spikes), be on any device and require gradients; arrays, nested lists of numbers and lists of tensors, one a step, are
taken too.
"""

import sys

from .._peers import tell
from .camera import events
from .films import animate
from .look import figure, style
from .maps import feature_maps, images
from .parts import neuron_response, surrogate, weights
from .states import bars3d, heatmap, neuron, traces
from .training import confusion, curves
from .trains import firing_rates, raster, spike_count

__all__ = [
    "animate",
    "bars3d",
    "confusion",
    "curves",
    "events",
    "feature_maps",
    "figure",
    "firing_rates",
    "heatmap",
    "images",
    "neuron",
    "neuron_response",
    "raster",
    "spike_count",
    "style",
    "surrogate",
    "traces",
    "weights",
]

tell(sys.modules[__name__])
