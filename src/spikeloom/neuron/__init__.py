"""Neurons: each is the equation of one time step."""

from .base import Neuron
from .leaky import Leaky
from .li import LI
from .lif import IF, LIF
from .plif import PLIF
from .synaptic import Synaptic

__all__ = ["IF", "LI", "LIF", "PLIF", "Leaky", "Neuron", "Synaptic"]
