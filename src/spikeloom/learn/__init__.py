"""Learning rules: without backpropagation through all steps, or with less of it.

Local rules are pure functions of the spikes before and after a layer: :class:`STDP`, :class:`TripletSTDP`,
:class:`Hebb`, :class:`Oja` and :class:`BCM`; :class:`Modulated` lets them wait for a reward. Their changes are written
to a gradient by :func:`write`, or to the weights by :func:`apply`; :class:`Homeostasis` moves thresholds.

Gradients in pieces of a sequence, in memory that does not grow with it: :func:`online`, and :class:`EProp` for
recurrent layers.

>>> import torch
>>> import spikeloom as sl
>>> net = sl.Network(torch.nn.Linear(4, 3), sl.LIF(v_threshold=0.2))
>>> y, result = net(torch.rand(20, 8, 4).round(), record=("0.input", "1.output"))
>>> dw, _ = sl.learn.STDP().sequence(net.body[0], result.record["0.input"], result.record["1.output"])
>>> sl.learn.apply(net.body[0], dw, lr=1e-3, low=0.0, high=1.0)
"""

from .decolle import DECOLLE, decolle_activity
from .eprop import EProp, RandomFeedback
from .eventprop import EventPropLIF, first_spike_time
from .fptt import FPTT
from .homeostasis import Homeostasis
from .local import LocalRule
from .modulated import Modulated
from .online import Piece, online
from .products import apply, write
from .rates import BCM, Hebb, Oja
from .stdp import STDP, TripletSTDP, soft_bound
from .times import FirstSpike, Tempotron, tempotron_loss
from .traces import trace

__all__ = [
    "BCM",
    "DECOLLE",
    "FPTT",
    "STDP",
    "EProp",
    "EventPropLIF",
    "FirstSpike",
    "Hebb",
    "Homeostasis",
    "LocalRule",
    "Modulated",
    "Oja",
    "Piece",
    "RandomFeedback",
    "Tempotron",
    "TripletSTDP",
    "apply",
    "decolle_activity",
    "first_spike_time",
    "online",
    "soft_bound",
    "tempotron_loss",
    "trace",
    "write",
]
