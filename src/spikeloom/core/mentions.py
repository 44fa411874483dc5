"""mentions: the values outside of a module that the code of its class names: globals, helpers, closures.

Code of torch, NumPy, Python and this package never changes, and what it does follows from its arguments. A class of
somebody's own may read a global or call a helper, which a notebook changes between two cells.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..keys import code
from ..keys.code import Unseen

_DEPTH = 3  # containers and objects inside others that are compared by what they hold
_LARGEST = 1000  # elements of one that is
_QUIET = frozenset(["logging", "warnings"])  # fixed modules with a state that computes nothing


class Same:
    """An object that equals itself alone."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def content(value: Any, depth: int = _DEPTH) -> Any:
    """What equals the same of a value as long as the value means the same, whoever wrote into it.

    Raises Unseen for a container that is too large to be compared.
    """
    if code.is_plain(value):
        return type(value), value
    if isinstance(value, Tensor):
        return Same(value), value.shape, value.data_ptr() if type(value) is Tensor else 0
    if isinstance(value, (nn.Module, type, types.ModuleType)) or depth == 0:
        return Same(value)
    if isinstance(value, types.FunctionType):
        cells = tuple(content(c.cell_contents, depth - 1) for c in value.__closure__ or () if _is_filled(c))
        return Same(value), Same(value.__code__), content(value.__defaults__, depth - 1), cells
    if isinstance(value, types.MethodType):
        return content(value.__func__, depth - 1), Same(value.__self__)
    if isinstance(value, (list, tuple, dict, set, frozenset)) and len(value) > _LARGEST:
        raise Unseen(f"a {type(value).__name__} of {len(value):,} values, too many to be compared at each call")
    if isinstance(value, (list, tuple)):
        return type(value), tuple(content(v, depth - 1) for v in value)
    if isinstance(value, dict):
        return dict, tuple((content(k, depth - 1), content(v, depth - 1)) for k, v in value.items())
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(content(v, 0) for v in value)
    inner = getattr(value, "__dict__", None)
    return Same(value), content(dict(inner), depth - 1) if isinstance(inner, dict) else None


class Mentions:
    """What the classes of somebody's own, and functions that they call, name outside of themselves.

    Raises :class:`spikeloom.keys.code.Unseen` with the place where a value could change unnoticed.
    """

    def __init__(self, kinds: set[type]) -> None:
        self._seen: set[int] = set()
        self._watched: list[tuple[Any, str, Any]] = []  # namespace, name, what it held
        for kind in sorted(kinds, key=lambda k: (k.__module__, k.__qualname__)):
            self._class(kind)

    def hold(self) -> bool:
        """Whether all of it is what it was."""
        try:
            return all(name in space and content(space[name]) == then for space, name, then in self._watched)
        except Unseen:
            return False

    def _class(self, kind: type) -> None:
        for base in kind.__mro__:
            if code.is_fixed_class(base) or id(base) in self._seen:
                continue
            self._seen.add(id(base))
            for name, value in list(vars(base).items()):
                if name[:2] != "__" or isinstance(value, types.FunctionType):
                    self._watch(vars(base), name)

    def _watch(self, space: Any, name: str) -> None:
        value = space[name]
        try:
            self._watched.append((space, name, content(value)))
        except Unseen as doubt:
            raise Unseen(f"names {name}: {doubt}") from None
        for function in _functions(value):
            self._function(function)
        if isinstance(value, type) and not code.is_fixed_class(value):
            self._class(value)

    def _function(self, function: types.FunctionType) -> None:
        body, space = function.__code__, function.__globals__
        if id(function) in self._seen or code.is_fixed_code(body, space):
            return
        self._seen.add(id(function))
        names = code.names_of(body)
        if names.refused:
            raise Unseen(names.refused)
        for cell in function.__closure__ or ():
            for inner in _functions(cell.cell_contents) if _is_filled(cell) else ():
                self._function(inner)
        for name, line in names.globals.items():
            if name not in space:
                continue  # a builtin
            value = space[name]
            if not isinstance(value, types.ModuleType):
                self._watch(space, name)
            elif not code.is_fixed_module(value):
                for attribute in names.attributes:
                    if attribute in vars(value):
                        self._watch(vars(value), attribute)
            elif value.__name__ not in _QUIET:
                try:
                    code.check_module_name(value.__name__)
                except Unseen as doubt:
                    raise Unseen(f"names {name} at {code.place(body, line)}: {doubt}") from None


def _functions(value: Any) -> Iterator[types.FunctionType]:
    """The function in Python that an attribute is, or that it wraps."""
    if isinstance(value, property):
        value = value.fget
    value = getattr(value, "__func__", value)
    if isinstance(value, types.FunctionType):
        yield value
        wrapped = getattr(value, "__wrapped__", None)
        if isinstance(wrapped, types.FunctionType):
            yield wrapped


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
