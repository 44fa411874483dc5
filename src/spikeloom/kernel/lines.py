"""lines: finds the line of a user's code that runs while a neuron is traced, for messages."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch

_OURS = str(Path(__file__).parents[1])
TORCH = str(Path(torch.__file__).parent)
"""The folder of torch: what begins with it is no code of the user's."""


def line_of(neuron: Any, running: list[FrameType]) -> str:
    """`` at file:line: code`` for the frame of ``dynamics``, or else for the innermost of the user's frames."""
    code = getattr(type(neuron).dynamics, "__code__", None)
    found = [f for f in running if f.f_code is code] or [f for f in running if is_users(f)]
    if not found:
        return ""
    file, line = found[0].f_code.co_filename, found[0].f_lineno
    return f" at {file}:{line}: {linecache.getline(file, line).strip()}"


def is_users(frame: FrameType) -> bool:
    """Whether a frame runs code from a file outside this package and torch."""
    return not frame.f_code.co_filename.startswith((_OURS, TORCH, "<"))


def frames() -> list[FrameType]:
    """The frames that are running, the innermost first, without those of the file that asks."""
    found, frame = [], sys._getframe(1)
    asking = frame.f_code.co_filename
    while frame is not None:
        if frame.f_code.co_filename != asking:
            found.append(frame)
        frame = frame.f_back  # type: ignore[assignment]
    return found
