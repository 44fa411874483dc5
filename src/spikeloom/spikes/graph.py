"""graph: operators of this package's own, which are what ``torch.compile`` sees of spikes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from .._tracing import known_while_tracing as known_while_tracing

_Function = Callable[..., Any]
_declared: list[tuple[str, str, _Function, _Function]] = []


def in_graphs(name: str, schema: str, *, fake: _Function) -> Callable[[_Function], _Function]:
    """Declares a function as the operator ``spikeloom::<name>``; ``fake`` gives empty results of the right shape."""

    def declare(function: _Function) -> _Function:
        _declared.append((name, schema, function, fake))
        return function

    return declare


@known_while_tracing
def define() -> bool:
    """Registers all declared operators when the first is needed: a graph from torch's cache may hold any of them."""
    return _define()


@functools.cache
def _define() -> bool:
    for name, schema, function, fake in _declared:
        torch.library.custom_op(f"spikeloom::{name}", function, mutates_args=(), schema=schema).register_fake(fake)
    return True
