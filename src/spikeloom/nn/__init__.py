"""Modules that know time, besides neurons."""

from .norm_neuron import NormNeuron

__all__ = ["NormNeuron"]
