"""signature: all that an equation may read, found from the names in its code and compared before each use.

:mod:`spikeloom.keys.reads` finds these values; :meth:`Signature.prove` watches one run and checks that no other code
ran.

Values are compared by identity; lists, dicts and sets by content. A value that could change without either (an array, a
file, a clock) is a doubt: no kernel replaces an equation that ran code which names one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from operator import attrgetter, is_
from typing import Any

from . import code
from .code import Unseen
from .reads import UNREAD, Reads, hooked, is_our_class, parts_of
from .spaces import Watch, items
from .watched import watched


class Signature:
    """What a neuron's equation was found to read; it can tell whether that is still so.

    ``digest`` is a hash of all of it, which is the same in another process. ``refused`` is the reason why no kernel can
    replace the equation, or an empty string.
    """

    def __init__(self, found: Reads) -> None:
        self.refused = found.refused
        self.digest = found.digest()
        self.known: dict[Any, Any] = {}
        """A store for results that callers derive from the equation, valid as long as this signature."""
        self._codes, self._bad, self._doubts = found.codes, found.bad, found.doubts
        self._parts = found.parts[1:]  # the neuron holds this signature: a reference to it would be a cycle
        self._own = [_Part(part, frozenset(found.names | found.roots(part))) for part in found.parts]
        self._spaces = found.spaces()
        self._functions, self._cells, self._contents = found.functions, found.cells, found.contents
        self._kinds = found.kinds
        self._orders = [(cls, order) for cls, order in found.orders if not is_our_class(cls)]

    @property
    def watched(self) -> bool:
        """Whether the equation contains code from outside this package, so that a run has to be watched."""
        return bool(self._codes)

    @staticmethod
    def of(neuron: Any) -> Signature:
        """The signature of all that ``neuron.dynamics`` may read now."""
        return Signature(Reads(neuron))

    def holds(self, neuron: Any) -> bool:
        """Whether all that the equation may read is still what it was."""
        if self.refused:  # the neuron runs as a loop, which is right whatever else changes
            return hooked(parts_of(neuron)) == self.refused
        try:
            return self._holds(neuron)
        except (KeyError, ValueError, AttributeError):  # something that was read no longer exists
            return False

    def _holds(self, neuron: Any) -> bool:
        if hooked((neuron, *self._parts)):
            return False
        for part, own in zip((neuron, *self._parts), self._own, strict=True):
            if not own.holds(part):
                return False
        for space, read, values, absent, _ in self._spaces:
            if not (all(map(is_, read(space), values)) and space.keys().isdisjoint(absent)):
                return False
        for function, body, defaults, keywords, values in self._functions:
            if function.__code__ is not body or function.__defaults__ is not defaults:
                return False
            now = function.__kwdefaults__
            if now is not keywords or (now and not _same(now, values)):
                return False
        for thing, kind in self._kinds:
            if thing.__class__ is not kind:
                return False
        for cls, order in self._orders:
            if cls.__mro__ is not order:
                return False
        for cell, value in self._cells:
            if cell.cell_contents is not value:
                return False
        return all(_same(space, values) for space, values in self._contents)

    def prove(self, run: Callable[[], Any]) -> Any:
        """The result of ``run()``, which runs the equation; raises Unseen if what it does could change unnoticed."""
        if not self._codes:
            return run()
        found, ran, doubts = watched(run)
        for body in sorted(ran, key=lambda c: (c.co_filename, c.co_firstlineno)):
            if body in self._bad:
                raise Unseen(self._bad[body])
            names = code.names_of(body)
            for name, line in (*names.globals.items(), *names.attributes.items(), *names.cells.items()):
                if name in self._doubts:
                    raise Unseen(f"reads {name} at {code.place(body, line)}: {self._doubts[name]}")
        for body in ran - self._codes:
            raise Unseen(f"runs {body.co_name} at {code.place(body, body.co_firstlineno)}, to which no name leads")
        if doubts:
            raise Unseen(f"calls {doubts[0]}, which may tell another thing later")
        if isinstance(found, Exception):
            raise found
        return found


class _Part:
    """The attributes of a neuron's part, and of its classes in this package, that are compared."""

    def __init__(self, part: Any, names: frozenset[str]) -> None:
        mine, self.cls = part.__dict__, type(part)
        own = Watch.on(mine, names - UNREAD)
        self.read, self.values, self.absent = own.read, own.values, own.absent
        self.numbers, self.states = list(part._declared), list(mine.get("_rest", ()))
        self.modules, self.size, self.changes = items(mine["_modules"]), len(mine), mine["_changes"]
        self.bases = [vars(base) for base in self.cls.__mro__ if is_our_class(base)]
        self.sizes = [len(base) for base in self.bases]
        there = [n for n in sorted(names) if any(n in base for base in self.bases) and _stays(self.cls, n)]
        self.inherited: Any = attrgetter(*there) if len(there) > 1 else functools.partial(_attributes, there)
        self.methods = self.inherited(self.cls)

    def holds(self, part: Any) -> bool:
        """Whether all that is compared is unchanged."""
        mine = part.__dict__
        return (
            part.__class__ is self.cls
            and (mine["_changes"] == self.changes or self._still(mine))
            and len(mine) == self.size
            and all(map(is_, self.read(mine), self.values))
            and _same(mine["_modules"], self.modules)
            and all(map(is_, self.inherited(self.cls), self.methods))
            and list(map(len, self.bases)) == self.sizes
        )

    def _still(self, mine: dict[str, Any]) -> bool:
        """Whether an attribute that was set or deleted is none of those that are read."""
        names = list(mine["_declared"]), list(mine.get("_rest", ()))
        if names != (self.numbers, self.states) or not mine.keys().isdisjoint(self.absent):
            return False
        self.changes, self.size = mine["_changes"], len(mine)
        return True


def _attributes(names: list[str], cls: type) -> tuple[Any, ...]:
    return tuple(getattr(cls, n) for n in names)


def _stays(cls: type, name: str) -> bool:
    """Whether an attribute of a class is the same object at each access; a class method is not."""
    missing = object()
    found = getattr(cls, name, missing)
    return found is not missing and getattr(cls, name) is found


def _same(space: Any, values: list[Any]) -> bool:
    """Whether a container holds these elements, see :func:`spikeloom.keys.spaces.items`."""
    found = items(space)
    return len(found) == len(values) and all(map(is_, found, values))
