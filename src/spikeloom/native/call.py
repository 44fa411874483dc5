"""call: how Python calls the C functions of this package: addresses, integers of 64 bits, and the number of threads.

A C function takes the address of the first value of a tensor or of an array (NULL for None), ``int64_t`` for an
integer, and the address of an ``int64_t[]`` or of a struct of ``int64_t`` for a tuple of integers. It returns
``int64_t`` or nothing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def call(function: Any, *values: Any) -> int:
    """Calls a C function on tensors, arrays, integers and tuples of integers.

    The caller has to see to it that tensors and arrays are contiguous and of the types that the function expects. What
    comes back from a function that returns nothing is no number of any meaning.
    """
    function.restype = ctypes.c_int64
    found: int = function(*map(_argument, values))
    return found


def bound(function: Any, *values: Any) -> Callable[[], int]:
    """A call of a C function on values that stay where they are in memory; it keeps them alive."""
    function.restype = ctypes.c_int64
    arguments = tuple(map(_argument, values))

    def run(kept: Any = values) -> int:
        found: int = function(*arguments)
        return found

    return run


def threads(work: int, *, at_least: int) -> int:
    """The number of threads that a function is to use: torch's, or one where there is less work than ``at_least``.

    Below that, starting threads takes longer than they save. What a unit of work is, each caller says.
    """
    return 1 if work < at_least else torch.get_num_threads()


def integers(*values: int) -> Any:
    """An ``int64_t[]``, for functions that are called many times with the same one."""
    return (ctypes.c_int64 * len(values))(*values)


def addresses(count: int) -> Callable[[Iterable[Tensor | None]], Any]:
    """What makes a ``void *[]`` of the first values of so many tensors."""
    kind = ctypes.c_void_p * count
    return lambda tensors: kind(*[None if t is None else t.data_ptr() for t in tensors])


def _argument(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if value is None:
        return None
    if isinstance(value, int):
        return ctypes.c_int64(value)
    if isinstance(value, tuple):
        return integers(*value)
    return ctypes.c_void_p(value.ctypes.data)  # an array of NumPy
