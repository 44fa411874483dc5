"""spaces: which values namespaces and containers hold."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any, NamedTuple


class Watch(NamedTuple):
    """Names looked up in a namespace: those that it has, with their values, and those that it lacks."""

    space: Any
    read: Callable[[Any], tuple[Any, ...]]
    values: tuple[Any, ...]
    absent: frozenset[str]
    names: list[str]

    @staticmethod
    def on(space: Mapping[str, Any], names: Iterable[str]) -> Watch:
        there = sorted(n for n in names if n in space)
        read = itemgetter(*there) if len(there) > 1 else functools.partial(_few, there)
        return Watch(space, read, tuple(space[n] for n in there), frozenset(names) - frozenset(there), there)


def _few(names: list[str], space: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(space[n] for n in names)


def items(space: Any) -> list[Any]:
    """The elements of a container: keys and values of a dict, those of a set sorted by their text."""
    if isinstance(space, dict):
        return [*space, *space.values()]
    return sorted(space, key=repr) if isinstance(space, (set, frozenset)) else list(space)


def inside(value: Any) -> tuple[Any, ...] | None:
    """The objects inside a wrapper, which never change; None for other values."""
    if isinstance(value, (staticmethod, classmethod)):
        return (value.__func__,)
    if isinstance(value, types.MethodType):
        return value.__func__, value.__self__
    if isinstance(value, property):
        return (value.fget,)
    if type(value) is functools.partial:
        return value.func, value.args, value.keywords, value.__dict__
    if isinstance(value, slice):
        return value.start, value.stop, value.step
    return () if isinstance(value, types.CodeType) else None
