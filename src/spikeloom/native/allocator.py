"""allocator: memory of the C allocator, kept for the next tensors when one is freed, or given back to the system.

glibc returns the memory of a large tensor to the system when it is freed, and the next tensor faults its pages in
again, one by one. On a CPU that costs more than computing a neuron does.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import platform
import sys

from torch import Tensor

_HUGE, _MADV_HUGEPAGE = 1 << 21, 14  # bytes of a huge page; Linux's number of the advice to use them
_NEVER_KEPT = 1 << 25  # bytes; glibc returns larger blocks at once when freed, so each new one faults its pages in
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1

logger = logging.getLogger("spikeloom")


def retain_memory() -> bool:
    """Lets this process keep the memory of freed tensors for the next ones (glibc only).

    Resident memory then stays at its peak until :func:`release_memory`. Returns whether it took effect; with
    other allocators it changes nothing and logs a warning.

    >>> import spikeloom as sl
    >>> kept = sl.retain_memory()  # True on Linux with glibc
    >>> sl.release_memory() == kept
    True
    """
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, _NEVER))


def release_memory() -> bool:
    """Returns to glibc's defaults and gives freed memory back to the system. Returns whether it took effect.

    >>> import spikeloom as sl
    >>> kept = sl.retain_memory()
    >>> sl.release_memory() == kept  # both are True on Linux with glibc
    True
    """
    libc = _glibc()
    if libc is None:
        return False
    libc.mallopt(_M_MMAP_MAX, 65536)
    libc.mallopt(_M_TRIM_THRESHOLD, 128 * 1024)
    libc.malloc_trim(0)
    return True


def huge_pages(tensor: Tensor) -> Tensor:
    """Asks Linux to back a large fresh tensor with 2 MB pages, so that its first write causes 512 times fewer faults.

    This applies to tensors of 32 MB or more, whose memory glibc never keeps when they are freed. Smaller ones mostly
    get memory that has been written to before. Returns the tensor.
    """
    size = tensor.nbytes
    if size >= _NEVER_KEPT and (libc := _linux()) is not None:
        start = -(-tensor.data_ptr() // _HUGE) * _HUGE
        libc.madvise(start, (tensor.data_ptr() + size - start) // _HUGE * _HUGE, _MADV_HUGEPAGE)
    return tensor


@functools.cache
def _linux() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc


def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] == "glibc":
        return ctypes.CDLL(None)
    logger.warning("retain_memory: this system's allocator is not glibc's; nothing to set")
    return None
