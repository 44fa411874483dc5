"""Decoders in C, which make records in one pass over the words of a file.

They decode clean files only. At a word that makes no sense they give up, and the readers in NumPy, which say what is
wrong, decode the file instead; without a compiler these decode every file.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...native.call import call
from . import native
from .recording import EVENT, Events
from .source import Size


class Layout(NamedTuple):
    """The bits of an address where x, y and p are, and the order of a pair of address and time in the file."""

    x: tuple[int, int]
    y: tuple[int, int]
    p: tuple[int, int]
    foreign: int = 0
    needed: int = 0
    time_first: bool = False
    big_endian: bool = False
    unwrap: bool = True


def pairs(
    raw: NDArray[np.uint8], layout: Layout, size: Size | None, *, offset: int = 0, out: Events | None = None
) -> Events | None:
    """Events of pairs of 32 bits, written to the beginning of ``out``; ``offset`` is added to their times."""
    if len(raw) % 8:
        return None
    x, y, p, foreign, needed, *flags = layout
    numbers = (*x, *y, *p, foreign, needed, *map(int, flags), offset)
    return _run("pairs", raw, (len(raw) // 8, numbers), size, np.empty(len(raw) // 8, EVENT) if out is None else out)


def evt2(raw: NDArray[np.uint8], size: Size | None) -> Events | None:
    """Events of words of 32 bits."""
    n = len(raw) // 4
    return None if len(raw) % 4 else _run("evt2", raw, (n,), size, np.empty(n, EVENT))


def evt3(raw: NDArray[np.uint8], size: Size | None) -> Events | None:
    """Events of words of 16 bits."""
    c = native.library()
    if c is None or len(raw) % 2:
        return None
    n = len(raw) // 2
    room = call(c.evt3, raw, n, 0, *(size or (0, 0)), None)
    return _run("evt3", raw, (n, room), size, np.empty(room, EVENT)) if room >= 0 else None


def _run(name: str, raw: NDArray[np.uint8], about: tuple[Any, ...], size: Size | None, out: Events) -> Events | None:
    """The events that a function in C writes into ``out``; None where it gives up."""
    c = native.library()
    if c is None or not raw.flags.c_contiguous:
        return None
    found = call(getattr(c, name), raw, *about, *(size or (0, 0)), out)
    return None if found < 0 else out[:found]
