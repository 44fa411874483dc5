"""Neurons: each is the equation of one time step."""

from .adaptive import ALIF, SEAdLIF
from .base import Neuron
from .exponential import EIF, AdEx
from .leaky import Leaky
from .levels import ILIF, TernaryIF, TernaryLIF
from .li import LI
from .lif import IF, LIF
from .plif import PLIF
from .quadratic import QIF, Izhikevich
from .resonate import ResonateFire
from .synaptic import Synaptic
from .variants import CLIF, KLIF, Lapicque

__all__ = [
    "ALIF",
    "CLIF",
    "EIF",
    "IF",
    "ILIF",
    "KLIF",
    "LI",
    "LIF",
    "PLIF",
    "QIF",
    "AdEx",
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
