"""Neurons: each is the equation of one time step. ``__all__`` is what ``spikeloom`` exports; options and what ``sl.nn``
exports are apart."""

from .adaptive import ALIF, SEAdLIF
from .alpha import Alpha
from .base import Dynamics, Neuron
from .converted import ActivationAwareIF, FewSpike, FewSpikeTable, SigmaDelta
from .exponential import EIF, AdEx
from .leaky import Leaky
from .levels import ILIF, LIAF, STBIF, TernaryIF, TernaryLIF
from .li import LI
from .lif import IF, LIF
from .mpbn import MPBN as MPBN
from .noise import Noisy as Noisy
from .options import SLTT as SLTT
from .options import Adaptive as Adaptive
from .options import Graded as Graded
from .options import HalfThreshold as HalfThreshold
from .options import Option as Option
from .options import Refractory as Refractory
from .options import StateQuant as StateQuant
from .plif import PLIF
from .quadratic import QIF, Izhikevich
from .resonate import ResonateFire
from .synapse_filter import SynapseFilter as SynapseFilter
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
    "ActivationAwareIF",
    "AdEx",
    "Alpha",
    "DeltaLeaky",
    "Dynamics",
    "FewSpike",
    "FewSpikeTable",
    "Izhikevich",
    "Lapicque",
    "Leaky",
    "Neuron",
    "ResonateFire",
    "SEAdLIF",
    "SigmaDelta",
    "Synaptic",
    "TernaryIF",
    "TernaryLIF",
]
