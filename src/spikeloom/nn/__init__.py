"""Modules that know time, made of others."""

from .dsr import DSRIF, DSRLIF
from .glif import GLIF
from .norm_neuron import NormNeuron
from .parallel import PSN, MaskedPSN, SlidingPSN
from .recurrent import OneToOne, Recurrent

__all__ = ["DSRIF", "DSRLIF", "GLIF", "PSN", "MaskedPSN", "NormNeuron", "OneToOne", "Recurrent", "SlidingPSN"]
