"""Spikes of one bit each, through ordinary layers."""

from . import convolution, handlers, products  # which register themselves
from .tensor import SpikeTensor, pack

__all__ = ["SpikeTensor", "convolution", "handlers", "pack", "products"]
