"""reads: what an equation may read, followed from the names in its code through all that they may lead to.

Code reads a value by name: the name of a global, of an attribute, or a string that holds one. So every name in the code
that ``dynamics`` may lead to is looked up in every namespace that it may lead to (the neuron and its parts, their
classes, modules, objects, functions), whether or not the code looks it up there. What is found may be more than what is
read, but never less.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import enum
import functools
import hashlib
import importlib.metadata
import operator
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._hooks import for_all
from . import code
from .code import Unseen
from .spaces import Watch, inside, items

_LARGEST = 1000  # elements; a larger container is not compared, and an equation that reads it runs as a loop
_MOST = 2000  # objects to follow; a neuron that leads to more runs as a loop (those of this package lead to 30)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_MACHINERY = frozenset(vars(nn.Module())) | {"_declared", "_changes", "_signature", "_rest", "_bound", "_packed"}
UNREAD = _MACHINERY - {"training"}
"""Attributes of modules that are not compared, because no equation reads them by name."""
_IMPLICIT = frozenset(["__call__", "__getattr__", "__getattribute__", "__get__"])
"""Methods that Python calls without any code naming them."""
_ROOTS = {"dynamics": frozenset(["dynamics"]), "forward": frozenset(["forward"])}
_FUNCTION = frozenset(["forward", "backward", "setup_context", "jvp", "vjp"])
"""Methods of a torch.autograd.Function, which autograd calls."""
_BASES = (object, nn.Module, torch.autograd.Function)
"""Fixed classes whose instances hold nothing but attributes."""


class Reads:
    """Follows names from a neuron's ``dynamics`` to all that they may lead to."""

    def __init__(self, neuron: Any) -> None:
        self.parts: list[Any] = parts_of(neuron)
        self.names: set[str] = set()
        self.doubts: dict[str, str] = {}  # for a name, the reason why its value may change unnoticed
        self.bad: dict[types.CodeType, str] = {}
        self.codes: set[types.CodeType] = set()
        self.functions: list[Any] = []
        self.cells: list[tuple[Any, Any]] = []
        self.kinds: list[tuple[Any, type]] = []  # objects, each with its class
        self.orders: list[tuple[type, tuple[type, ...]]] = []  # the user's classes, with their resolution order
        self.contents: list[tuple[Any, list[Any]]] = []
        self.refused = hooked(self.parts)
        self._number: dict[int, int] = {}  # of each object reached, by its id, in order
        self._failed: dict[int, str] = {}
        self._kept: list[Any] = []
        self._spaces: list[tuple[Any, frozenset[str], bool]] = []  # namespace, extra names, whether it is ours
        self._fixed: list[dict[str, Any]] = []  # namespaces of fixed modules, into which users may put values
        self._globals: dict[int, tuple[dict[str, Any], set[str]]] = {}
        self._ours: set[types.CodeType] = set()
        for part in self.parts:
            self._reach(part)
        for part in self.parts:
            self._class(type(part), self.roots(part) | _IMPLICIT)
        self._follow()

    def roots(self, part: Any) -> frozenset[str]:
        """The methods of a part that run without being named."""
        return _ROOTS["dynamics" if hasattr(type(part), "dynamics") else "forward"]

    def spaces(self) -> list[Watch]:
        """The names and values of all namespaces except those of the parts and of this package's classes."""
        found = [Watch.on(space, self.names | own) for space, own, ours in self._spaces if not ours]
        found += [Watch.on(space, names) for space, names in self._globals.values()]
        found += [Watch.on(space, self.names) for space in self._fixed]
        return [w for w in found if w.values or w.absent]

    def _follow(self) -> None:
        done = (-1, -1, -1)
        while done != (found := (len(self.names), len(self._spaces), len(self._fixed))):
            done = found
            if len(self._number) > _MOST:
                self.refused = self.refused or f"what its code reads leads to more than {_MOST:,} objects"
                return
            for part in self.parts:
                for name in sorted((self.names | self.roots(part)) - UNREAD):
                    self._named(part.__dict__, name)
                    self._named(part._modules, name)
            for space, own, _ in list(self._spaces):
                for name in sorted(self.names | own):
                    self._named(space, name)
            for space in list(self._fixed):
                for name in sorted(self.names & space.keys()):
                    if isinstance(space[name], types.ModuleType):
                        with contextlib.suppress(Unseen):  # its functions are watched when they run
                            self._value(space[name])
                    elif not _is_fixed(space[name]):
                        self._named(space, name)

    def _named(self, space: Mapping[str, Any], name: str) -> None:
        if name in space:
            try:
                self._value(space[name])
            except Unseen as doubt:
                self.doubts.setdefault(name, str(doubt))

    def _reach(self, value: Any) -> bool:
        """Gives an object its number; returns False if it has one already."""
        if id(value) in self._number or len(self._number) > _MOST:
            return False
        self._number[id(value)] = len(self._number)
        self._kept.append(value)
        return True

    def _value(self, value: Any) -> None:
        """Follows a value; raises Unseen if it can change unnoticed."""
        if code.is_plain(value) or isinstance(value, Tensor) or code.is_c_function(value):
            return
        if id(value) in self._failed:
            raise Unseen(self._failed[id(value)])
        if self._reach(value):
            try:
                self._visit(value)
            except Unseen as doubt:
                self._failed[id(value)] = str(doubt)
                raise

    def _visit(self, value: Any) -> None:
        kind = type(value)
        if kind in (list, dict, set, frozenset) or (kind is not dict and isinstance(value, tuple)):
            self._container(value)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.ModuleType):
            self._module(value)
        elif isinstance(value, type):
            if value is operator.attrgetter or value is operator.methodcaller:
                raise Unseen(f"{value.__name__} reads what no name says")
            self._class(value, _FUNCTION if issubclass(value, torch.autograd.Function) else frozenset(), called=True)
        elif isinstance(value, nn.Module):
            self._layer(value)
        elif isinstance(value, enum.Enum):
            self._value(kind)
            self._spaces.append((value.__dict__, frozenset(["_value_"]), False))
        elif code.is_numpy(value, "ndarray"):
            raise Unseen("an array, whose values can change unseen; take a tuple, or declare it with self.numbers(...)")
        else:
            inner = inside(value)
            self._object(value) if inner is None else self._all(inner)

    def _container(self, value: Any) -> None:
        if len(value) > _LARGEST:
            raise Unseen(f"a {type(value).__name__} of {len(value)} values, too many to be compared at each call")
        if not isinstance(value, tuple):
            self.contents.append((value, items(value)))
        elif type(value) is not tuple:
            self._class(type(value), frozenset(), called=True)
        self._all(items(value))

    def _all(self, values: Iterable[Any]) -> None:
        """Follows several values; raises Unseen if one of them can change unnoticed."""
        doubt: Unseen | None = None
        for value in values:
            try:
                self._value(value)
            except Unseen as found:
                doubt = doubt or found
        if doubt is not None:
            raise doubt

    def _function(self, function: types.FunctionType) -> None:
        body, cells = function.__code__, function.__closure__ or ()
        if code.is_fixed_code(body, function.__globals__):
            if code.is_ours(body.co_filename):
                self._own_code(body, function.__globals__)
            else:
                code.check_module_name(str(function.__globals__.get("__name__")))
            self._all(cell.cell_contents for cell in cells)  # a wrapper around a user's function holds it in a cell
            return
        defaults, keywords = function.__defaults__, function.__kwdefaults__
        self.functions.append((function, body, defaults, keywords, items(keywords or {})))
        self._names(body, function.__globals__)
        self._spaces.append((function.__dict__, frozenset(), False))
        self._all((*(defaults or ()), *(keywords or {}).values()))
        for name, cell in zip(body.co_freevars, cells, strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # the cell is still empty
                self.doubts.setdefault(name, "a variable that has no value yet")
                continue
            self.cells.append((cell, value))
            if name != "__class__":
                self._named({name: value}, name)

    def _names(self, body: types.CodeType, space: dict[str, Any]) -> None:
        """Adds the names in a user's code, and follows its globals."""
        self.codes.update(code.all_codes(body))
        found = code.names_of(body)
        self.names.update(found.attributes)
        if found.refused:
            self.bad.update((c, found.refused) for c in code.all_codes(body) if code.names_of(c).refused)
        there = self._globals.setdefault(id(space), (space, set()))[1]
        built_in = self._globals.setdefault(id(builtins.__dict__), (builtins.__dict__, set()))[1]
        for name in found.globals:
            there.add(name)
            if name in space:
                self._named(space, name)
            else:
                built_in.add(name)
                if name not in code.BUILTINS:
                    self.doubts.setdefault(name, "a builtin that reads what no name says, or does more than compute")

    def _own_code(self, body: types.CodeType, space: dict[str, Any]) -> None:
        """Adds the attributes that this package's code reads; its globals never change and need no following."""
        if body in self._ours:
            return
        self._ours.add(body)
        found = code.names_of(body)
        self.names.update(n for n in found.attributes if n[:2] != "__" and n not in UNREAD)
        for name in found.globals:
            value = space.get(name)
            inner = (
                vars(value).values() if isinstance(value, type) and issubclass(value, torch.autograd.Function) else ()
            )
            for f in (value, *inner):
                f = f.__func__ if isinstance(f, staticmethod) else f
                if isinstance(f, types.FunctionType) and code.is_ours(f.__code__.co_filename):
                    self._own_code(f.__code__, f.__globals__)

    def _module(self, module: types.ModuleType) -> None:
        if code.is_fixed_module(module):
            code.check_module_name(module.__name__)
            self._fixed.append(vars(module))
        else:
            self._spaces.append((vars(module), frozenset(["__getattr__"]), False))

    def _class(self, cls: type, roots: frozenset[str], *, called: bool = False) -> None:
        """Follows a class and its bases; ``called`` says that the equation may create and use instances of it."""
        bases = [base for base in cls.__mro__ if not code.is_fixed_class(base) or is_our_class(base)]
        if isinstance(cls, enum.EnumMeta):
            roots = roots | {"_member_map_"}
        if called:
            methods = {n for base in bases for n in vars(base) if n[:2] == n[-2:] == "__" and callable(vars(base)[n])}
            roots = roots | _IMPLICIT | (methods - {"__class__", "__doc__"})
        for base in bases:
            self._reach(base)
            self._spaces.append((base.__dict__, roots, is_our_class(base)))
        self.orders.append((cls, cls.__mro__))
        if not code.is_fixed_class(type(cls)):
            self._value(type(cls))

    def _layer(self, layer: nn.Module) -> None:
        """Follows a module that is no part: another neuron, or a layer without numbers."""
        if "_declared" in layer.__dict__:
            raise Unseen(f"a {type(layer).__name__} that is no part of the neuron; make it an attribute")
        if isinstance(layer, torch.jit.ScriptModule):
            raise Unseen("a scripted module, whose attributes can change unseen")
        if any(layer.__dict__[name] for name in _HOOKS):
            raise Unseen(f"a {type(layer).__name__} with a hook")
        self._class(type(layer), frozenset(["forward"]) | _IMPLICIT)
        own = frozenset(layer.__dict__) - UNREAD  # torch's code reads these attributes
        self._spaces.append((layer.__dict__, own | {"training"}, False))
        for name in (*_HOOKS, "_modules"):
            self.contents.append((layer.__dict__[name], items(layer.__dict__[name])))
        self.kinds.append((layer, type(layer)))
        self._all(layer._modules.values())

    def _object(self, value: Any) -> None:
        cls = type(value)
        fixed = [b for b in cls.__mro__ if code.is_fixed_class(b) and b.__module__ not in ("typing", "abc")]
        slots = any(vars(b).get("__slots__") for b in cls.__mro__ if b not in fixed)
        plain = all(b in _BASES for b in fixed) or isinstance(value, (argparse.Namespace, types.SimpleNamespace))
        if not plain or slots or not hasattr(value, "__dict__"):
            raise Unseen(f"an object of {cls.__name__}, which can change unseen")
        self._class(cls, frozenset(), called=True)
        self.kinds.append((value, cls))
        self._spaces.append((value.__dict__, frozenset(), False))

    # -- the digest: all that was found, as text

    def digest(self) -> str:
        """A hash of everything that was found."""
        lines = [_versions()]
        for part in self.parts:
            mine = Watch.on(part.__dict__, (self.names | self.roots(part)) - UNREAD)
            modules = [(name, self._text(m)) for name, m in part._modules.items()]
            lines.append(
                f"{self._title(type(part))} {list(part._declared)} {list(getattr(part, '_rest', ()))} {modules}"
            )
            lines.append(self._space_text(part.__dict__, mine))
        for function, body, defaults, keywords, _ in self.functions:
            items = sorted((keywords or {}).items())
            options = [self._text(v) for v in defaults or ()], [(k, self._text(v)) for k, v in items]
            lines.append(f"{self._number[id(function)]} {options} {code.text_of(body)}")
        lines += [f"{self._number[id(thing)]} {self._title(kind)}" for thing, kind in self.kinds]
        lines += [self._text(value) for _, value in self.cells]
        lines += [str([self._text(v) for v in values]) for _, values in self.contents]
        lines += [self._space_text(space, Watch.on(space, self.names | own)) for space, own, _ in self._spaces]
        for space, names in self._globals.values():
            lines.append(self._space_text(space, Watch.on(space, names)))
        for space in self._fixed:  # without modules, because torch imports some of them only when needed
            there = sorted(n for n in self.names & space.keys() if not isinstance(space[n], types.ModuleType))
            lines.append(str([(n, self._text(space[n])) for n in there]))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]

    def _space_text(self, space: Mapping[str, Any], watch: Watch) -> str:
        return str([(n, self._text(space[n])) for n in watch.names]) + str(sorted(watch.absent))

    def _title(self, cls: type) -> str:
        return code.title(cls) if code.is_fixed_class(cls) else f"{self._number.get(id(cls))} {cls.__qualname__}"

    def _text(self, value: Any) -> str:
        if code.is_plain(value):
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, Tensor):
            return "tensor"
        number = self._number.get(id(value))
        if isinstance(value, tuple):
            return f"{type(value).__name__} {[self._text(v) for v in value]}"
        if isinstance(value, types.CodeType):
            return code.text_of(value)
        if isinstance(value, type):
            return self._title(value)
        inner = inside(value)
        if inner is not None:
            return f"{type(value).__name__} {[self._text(v) for v in inner]}"
        fixed = isinstance(value, types.FunctionType) and code.is_fixed_code(value.__code__, value.__globals__)
        fixed = fixed or (isinstance(value, types.ModuleType) and code.is_fixed_module(value))
        try:
            named = fixed or code.is_c_function(value)
        except Unseen:
            named = True
        return code.title(value) if named else f"{type(value).__name__} {number}"


def _is_fixed(value: Any) -> bool:
    """Whether a value in a module of torch or Python is plain or determined by the version."""
    if isinstance(value, types.FunctionType):
        return code.is_fixed_code(value.__code__, value.__globals__)
    return code.is_plain(value) or (code.is_fixed_class(value) if isinstance(value, type) else _is_in_c(value))


def _is_in_c(value: Any) -> bool:
    try:
        return code.is_c_function(value)
    except Unseen:
        return False


def parts_of(neuron: Any) -> list[Any]:
    return [part for _, part in neuron.parts()]


def is_our_class(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "spikeloom" and code.is_fixed_class(cls)


def hooked(parts: Sequence[Any]) -> str:
    """Names a hook, of all modules or of a part, that a kernel would not call; the neuron's own are called anyway."""
    if for_all():
        return "hooks on all modules are registered, which a kernel would not call"
    for part in parts[1:]:
        if any(part.__dict__[name] for name in _HOOKS):
            return f"its {type(part).__name__} has a hook, which a kernel would not call"
    return ""


@functools.cache
def _versions() -> str:
    return f"2 {sys.version} {torch.__version__} {importlib.metadata.version('numpy')} {code.own_text()}"
