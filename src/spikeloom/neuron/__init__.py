"""Neurons: each is the equation of one time step."""

from .adaptive import ALIF, SEAdLIF
from .alpha import Alpha
from .base import Neuron
from .exponential import EIF, AdEx
from .leaky import Leaky
from .levels import ILIF, LIAF, STBIF, TernaryIF, TernaryLIF
from .li import LI
from .lif import IF, LIF
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
    "PLIF",
    "QIF",
    "STBIF",
    "AdEx",
    "Alpha",
    "DeltaLeaky",
    "Izhikevich",
    "Lapicque",
    "Leaky",
    "Neuron",
    "ResonateFire",
    "SEAdLIF",
    "Synaptic",
    "TernaryIF",
    "TernaryLIF",
]
