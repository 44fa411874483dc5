"""unchanged: whether a module is still the one whose computation was recorded, apart from the values of its tensors."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from itertools import chain
from operator import is_, itemgetter
from typing import Any

from torch import Tensor, nn

from .._hooks import for_all, has_hooks
from .._numbers import is_plain_float
from ..keys.code import Unseen, is_fixed_class, is_plain
from .mentions import Mentions, content
from .module import TemporalModule
from .places import named
from .prepared import UnfitError
from .watch import METHODS, Methods, all_inside

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_MACHINERY = frozenset(vars(nn.Module())) | {"_structure"}


class Unchanged:
    """A module and all modules inside it, as they were.

    What was recorded reads tensors where they lie, so that values may change in any way: by optimisers, in place,
    through ``.data``. Compared are the tensors themselves and their addresses, the numbers on the host by value, the
    modules inside, classes, methods, attributes (with what containers and objects in those of somebody's own hold),
    what temporal modules depend on besides, and what somebody's own code names outside of itself. Modes and which
    parameters are learned come with :meth:`mode`, hooks with :meth:`has_hooks`.

    Raises UnfitError, with the path, where a change could not be noticed.
    """

    def __init__(self, module: nn.Module) -> None:
        self.modules = all_inside(module)
        self.paths = named(module)
        self._kinds = list(map(type, self.modules))
        self._owns = list(map(vars, self.modules))
        self._children = Tables([m._modules for m in self.modules if m._modules])
        self._tensors = Tables([table for m in self.modules for table in (m._parameters, m._buffers)])
        self.tensors = list({id(t): t for t in self._tensors.values if t is not None}.values())
        """All parameters and buffers, each once."""
        for path, t in self.named_tensors():
            if hasattr(t, "__tensor_flatten__"):
                raise UnfitError(f"{path} is a {type(t).__name__}, which has no place of its own in memory")
        self._addresses = list(map(Tensor.data_ptr, self.tensors))
        self._larger = [t for t in self.tensors if t.ndim]
        self._layouts = self._layout()
        self._floats = [t for t in self.tensors if is_plain_float(t)]
        self._numbers = self._now()
        self.parameters = [t for t in self.tensors if isinstance(t, nn.Parameter)]
        self._without_hooks: Tables | None = None  # the tables of hooks, when nobody had to run
        self._methods = [Methods(kind) for kind in {*self._kinds}]
        self._attributes = [_Attributes(m, self.paths[m]) for m in self.modules]
        for m in self.modules:
            if type(m).__module__.startswith(("torch.distributed.", "torch.nn.parallel.")):
                raise UnfitError(f"{type(m).__name__} exchanges gradients between processes in every call")
        try:
            self._mentions = Mentions({kind for kind in self._kinds if not is_fixed_class(kind)})
        except Unseen as doubt:
            raise UnfitError(f"code of its modules {doubt}") from None
        self._temporal: list[TemporalModule] = [
            m
            for m in self.modules
            if isinstance(m, TemporalModule) and type(m).depends_on is not TemporalModule.depends_on
        ]
        self._depends = self._others()

    def hold(self) -> bool:
        """Whether all is still as it was."""
        try:
            return (
                self._tensors.hold()
                and list(map(Tensor.data_ptr, self.tensors)) == self._addresses
                and self._layout() == self._layouts
                and self._now() == self._numbers
                and list(map(type, self.modules)) == self._kinds
                and self._children.hold()
                and all(methods.same() for methods in self._methods)
                and all(attributes.hold() for attributes in self._attributes)
                and self._mentions.hold()
                and self._others() == self._depends
            )
        except (UnfitError, Unseen):
            return False

    def changed(self) -> str:
        """What is no longer as it was, as far as that has a name."""
        for attributes in self._attributes:
            if attributes.changed():
                where = self.paths[attributes.module] or "the module"
                return f"{where}: {attributes.changed()!r} of {type(attributes.module).__name__}"
        return "" if self.hold() else "a tensor, a number, a module inside, or code that they run,"

    def named_tensors(self) -> list[tuple[str, Tensor]]:
        """All parameters and buffers, and other attributes that are tensors, with their paths."""
        found: dict[int, tuple[str, Tensor]] = {}
        for m in self.modules:
            for table in (m._parameters, m._buffers, vars(m)):
                for name, value in table.items():
                    if isinstance(value, Tensor):
                        found.setdefault(id(value), (f"{self.paths[m]}.{name}".lstrip("."), value))
        return list(found.values())

    def mode(self) -> tuple[Any, ...]:
        """Which modules train and which parameters are learned."""
        return tuple([m.training for m in self.modules]), tuple([p.requires_grad for p in self.parameters])

    def has_hooks(self) -> str:
        """Which module has hooks or methods of its own that have to run at each call; an empty string for none."""
        own_methods = not all(own.keys().isdisjoint(METHODS) for own in self._owns)
        if self._without_hooks is not None and not own_methods and not for_all() and self._without_hooks.hold():
            return ""
        found = next((self._named(m) for m in self.modules if _has_to_run(m)), "")
        self._without_hooks = None if found else Tables([own[name] for own in self._owns for name in _HOOKS])
        return found

    def _named(self, m: nn.Module) -> str:
        return f"{self.paths[m] or type(m).__name__}: {type(m).__name__} has a hook or a method of its own"

    def _layout(self) -> tuple[list[Any], list[Any]]:
        return list(map(Tensor.size, self._larger)), list(map(Tensor.stride, self._larger))

    def _now(self) -> bytes:
        return struct.pack(f"{len(self._floats)}d", *[n.item() for n in self._floats])

    def _others(self) -> list[Any]:
        found = []
        for m in self._temporal:
            try:
                found.append(m.depends_on())
            except UnfitError as reason:
                raise UnfitError(f"{self.paths[m] or type(m).__name__}: {reason}") from None
        return found


class Tables:
    """What several dicts hold, by identity, compared without a step of Python for each value."""

    def __init__(self, tables: list[Any]) -> None:
        self.tables = tables
        self._keys = list(chain.from_iterable(tables))
        self.values = list(chain.from_iterable(map(dict.values, tables)))

    def hold(self) -> bool:
        """Whether they hold the same."""
        keys = list(chain.from_iterable(self.tables))
        return keys == self._keys and all(map(is_, chain.from_iterable(map(dict.values, self.tables)), self.values))


class _Attributes:
    """The attributes of one module that its code may read: plain values by value, others by what they hold."""

    def __init__(self, module: nn.Module, path: str) -> None:
        self.module, self._own = module, vars(module)
        self._names = frozenset(_names(module))
        plain = [name for name in sorted(self._names) if _never_changes(self._own[name])]
        self._read = itemgetter(*plain) if len(plain) > 1 else functools.partial(_few, plain)
        self._plain, self._then = plain, self._read(self._own)
        try:
            self._others = [(n, content(self._own[n])) for n in sorted(self._names.difference(plain))]
        except Unseen as doubt:
            raise UnfitError(f"{path or 'the module'}: {type(module).__name__} has {doubt}") from None
        self._size = len(self._own)

    def hold(self) -> bool:
        """Whether they are what they were."""
        own = self._own
        if len(own) != self._size and frozenset(_names(self.module)) != self._names:
            return False
        try:
            now = self._read(own)
        except KeyError:
            return False
        if not (all(map(is_, now, self._then)) or list(map(content, now)) == list(map(content, self._then))):
            return False
        return not self._others or all(name in own and content(own[name]) == then for name, then in self._others)

    def changed(self) -> str:
        """The name of one that is not."""
        own, names = self._own, frozenset(_names(self.module))
        there = dict(zip(self._plain, self._then, strict=True))
        changed = {n for n, then in there.items() if n not in own or content(own[n]) != content(then)}
        for n, then in self._others:
            try:
                if n in own and content(own[n]) == then:
                    continue
            except Unseen:  # it grew
                pass
            changed.add(n)
        return min(changed | (names ^ self._names), default="")


def _names(module: nn.Module) -> Iterator[str]:
    """Those of classes of torch and of this package that are public, and all those of somebody's own class.

    What an equation reads is for its signature to compare.
    """
    fixed = is_fixed_class(type(module)) or hasattr(type(module), "dynamics")
    return (n for n in vars(module) if n not in _MACHINERY and not (fixed and n[0] == "_"))


def _never_changes(value: Any) -> bool:
    """Whether a value means the same as long as it is the same object."""
    return is_plain(value) or (type(value) is tuple and all(map(_never_changes, value)))


def _few(names: list[str], space: Any) -> tuple[Any, ...]:
    return tuple(space[n] for n in names)


def _has_to_run(m: nn.Module) -> bool:
    return has_hooks(m) or not vars(m).keys().isdisjoint(METHODS)
