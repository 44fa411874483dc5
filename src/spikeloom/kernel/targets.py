"""targets: chooses the language of the kernels that run on a device."""

from __future__ import annotations

import torch

from .backend import Backend, chosen
from .c.target import C
from .target import Target
from .triton.target import TRITON

TARGETS: dict[str, Target] = {target.name: target for target in (C, TRITON)}
"""All targets by name."""


def target_for(device: torch.device, name: Backend | None = None) -> Target:
    """The target of a backend, the one in force, or the one that ``auto`` takes on ``device``. Raises BuildError."""
    name = name or chosen()
    target: Target = TRITON if name == "triton" or (name != "c" and device.type != "cpu") else C
    target.ready(device)
    return target
