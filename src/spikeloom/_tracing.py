"""Tracing: what code asks that torch.compile or torch.export may be tracing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])


def known_while_tracing(function: _Function) -> _Function:
    """Lets Dynamo call a function while it traces, in place of tracing it; its result is a constant of the graph.

    This sets what ``torch.compiler.assume_constant_result`` sets, which would import a second's worth of torch.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@known_while_tracing
def exporting() -> bool:
    """Whether torch.export traces. Code that Dynamo traces may not ask torch itself, whose answer there is always yes
    before PyTorch 2.12."""
    return torch.compiler.is_exporting()


@known_while_tracing
def has_autocast(kind: str) -> bool:
    """Whether a kind of device has autocast, which Dynamo of PyTorch 2.11 cannot ask."""
    return torch.amp.is_autocast_available(kind)
