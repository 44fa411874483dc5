"""What a network does and how: which backend runs what, what is kept in memory, what there is to choose from."""

from . import memory
from .catalogue import cite, neurons, surrogates
from .explain import Explanation, explain

__all__ = ["Explanation", "cite", "explain", "memory", "neurons", "surrogates"]
