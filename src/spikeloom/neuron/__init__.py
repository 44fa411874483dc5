"""Neurons: each is the equation of one time step."""

from .adaptive import ALIF, SEAdLIF
from .alpha import Alpha
from .base import Neuron
from .converted import ActivationAwareIF, FewSpike, FewSpikeTable, SigmaDelta
from .exponential import EIF, AdEx
from .leaky import Leaky
from .levels import ILIF, LIAF, STBIF, TernaryIF, TernaryLIF
from .li import LI
from .lif import IF, LIF
from .mpbn import MPBN
from .noise import Noisy
from .options import SLTT, Adaptive, Graded, HalfThreshold, Option, Refractory, StateQuant
from .plif import PLIF
from .quadratic import QIF, Izhikevich
from .resonate import ResonateFire
from .synaptic import Synaptic
from .variants import CLIF, KLIF, DeltaLeaky, Lapicque

__all__ = [
    "ALIF",
    "CLIF",
    "EIF",
    "IF",
    "ILIF",
    "KLIF",
    "LI",
    "LIAF",
    "LIF",
    "MPBN",
    "PLIF",
    "QIF",
    "SLTT",
    "STBIF",
    "ActivationAwareIF",
    "AdEx",
    "Adaptive",
    "Alpha",
    "DeltaLeaky",
    "FewSpike",
    "FewSpikeTable",
    "Graded",
    "HalfThreshold",
    "Izhikevich",
    "Lapicque",
    "Leaky",
    "Neuron",
    "Noisy",
    "Option",
    "Refractory",
    "ResonateFire",
    "SEAdLIF",
    "SigmaDelta",
    "StateQuant",
    "Synaptic",
    "TernaryIF",
    "TernaryLIF",
]
