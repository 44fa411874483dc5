"""C code on this machine: compiling it, calling it, and the memory of large tensors."""

from .allocator import release_memory, retain_memory
from .build import BuildError, clear_cache, facts

__all__ = ["BuildError", "clear_cache", "facts", "release_memory", "retain_memory"]
