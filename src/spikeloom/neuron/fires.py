"""fires: whether a neuron's equation calls ``fire``, read off its code."""

from __future__ import annotations

from types import CodeType, FunctionType
from typing import Any


def may_fire(cls: type) -> bool:
    """Whether the code of ``dynamics``, and what its names lead to, names ``fire``; True where that cannot be told."""
    todo, seen = [vars(cls)["dynamics"]], set[Any]()
    while todo:
        function = todo.pop()
        if not isinstance(function, FunctionType) or set(function.__code__.co_freevars) - {"__class__"}:
            return True  # a decorated one, of which the code is somewhere else
        seen.add(function)
        names = _names(function.__code__)
        if "fire" in names:
            return True
        spaces = (*map(vars, cls.__mro__), function.__globals__)
        found = (space.get(name) for name in names for space in spaces)
        todo += [f for f in found if isinstance(f, FunctionType) and f not in seen and not _is_torchs(f)]
    return False


def _names(body: CodeType) -> set[str]:
    inner = (constant for constant in body.co_consts if isinstance(constant, CodeType))
    return set(body.co_names).union(*map(_names, inner))


def _is_torchs(function: FunctionType) -> bool:
    return function.__module__.partition(".")[0] == "torch"
