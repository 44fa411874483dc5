"""waiting: a batch norm that is called, and waits for the neuron whose kernel it may join, see :mod:`.norm`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..core import MAKERS, Late, checkpoint_hooks
from ..native.build import BuildError
from . import launch
from .backend import chosen, debugging, note, transformed
from .norm import KINDS, Norm
from .request import Request
from .targets import target_for

WORTH = 1 << 17
"""Values from which a norm waits. For fewer, the neuron takes longer with it than torch takes for the norm."""


def called(module: Any, x: Any, T: int) -> Late | None:
    """Calls a batch norm on ``[T * B, C, *]``: its running statistics move, and its output is not computed yet.

    None where it has to run by itself.
    """
    asked = chosen()
    if asked == "eager" or debugging() or type(x) is not Tensor or x.ndim < 2 or not x.numel() or x.shape[0] % T:
        return None
    if transformed() or torch._C._len_torch_dispatch_stack() or torch._C._get_tracing_state() is not None:
        return None
    if checkpoint_hooks() is not None:  # it counts what is saved, also where it computes once more
        note(module, "alone", "inside a checkpoint")
        return None
    if x.numel() < WORTH:
        note(module, "alone", f"fewer than {WORTH:,} values")
        return None
    norm = Norm.of(module)
    steps: Tensor = x.unflatten(0, (T, -1))
    leaves = (x, norm.weight, norm.bias)
    if norm.why_not(steps) or any(t is not None and t.is_inference() for t in leaves):  # which count no writes
        return None
    try:
        moments = launch.with_moments(target_for(x.device, asked), Request.of((steps,), (), norm=norm)).moments
    except BuildError:
        return None
    assert moments is not None
    tells: list[Callable[[str], None]] = [lambda by: note(module, "alone", f"looked at by {by}")]

    def in_vain() -> None:
        for tell in tells:
            tell("a neuron that it cannot join")

    joins = replace(norm, moments=moments, in_vain=in_vain)
    return Late(module, leaves, joins, partial(norm.again, moments), tells)


MAKERS.update(dict.fromkeys(KINDS, called))
