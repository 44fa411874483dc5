"""Spikes of one bit each, through ordinary layers."""

from . import handlers, products  # which register themselves
from .tensor import SpikeTensor, pack

__all__ = ["SpikeTensor", "handlers", "pack", "products"]
