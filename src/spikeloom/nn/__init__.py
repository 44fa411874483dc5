"""Modules that know time, made of others."""

from .norm_neuron import NormNeuron
from .parallel import PSN, MaskedPSN, SlidingPSN
from .recurrent import OneToOne, Recurrent

__all__ = ["PSN", "MaskedPSN", "NormNeuron", "OneToOne", "Recurrent", "SlidingPSN"]
