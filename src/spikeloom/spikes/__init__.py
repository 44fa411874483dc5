"""Spikes of one bit each, through ordinary layers."""

from . import convolution, handlers, pooling, products  # which register themselves
from .tensor import SpikeTensor, from_bits, pack

__all__ = ["SpikeTensor", "convolution", "from_bits", "handlers", "pack", "pooling", "products"]
