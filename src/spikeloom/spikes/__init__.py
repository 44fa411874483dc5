"""Spikes of one bit each, through ordinary layers."""

from . import arithmetic, averaging, convolution, pooling, products, views  # whose handlers register themselves
from .handlers import handles
from .operators import is_whole, one_call
from .tensor import SpikeTensor, from_bits, pack

__all__ = [
    "SpikeTensor",
    "arithmetic",
    "averaging",
    "convolution",
    "from_bits",
    "handles",
    "is_whole",
    "one_call",
    "pack",
    "pooling",
    "products",
    "views",
]
