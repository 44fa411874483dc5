"""Spikes of one bit each, through ordinary layers."""

from . import convolution, handlers, operators, pooling, products  # which register themselves
from .operators import is_whole
from .tensor import SpikeTensor, from_bits, pack

__all__ = [
    "SpikeTensor",
    "convolution",
    "from_bits",
    "handlers",
    "is_whole",
    "operators",
    "pack",
    "pooling",
    "products",
]
