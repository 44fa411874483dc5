"""What is public, read from the package: the names in ``__all__`` of ``spikeloom`` and of the modules listed there.

Nothing here is kept by hand but ``ALSO``. An object that several modules list is one entry, under its shortest name.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import typing
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import spikeloom as sl

ALSO = {
    "core.Prepared": "",
    "core.Repeated": "",
    "core.UnfitError": "",
    "data.audio.erb": "data",
    "data.items.read_item": "data",
    "data.storage.Storage": "data",
    "kernel.source": "",
    "learn.local.Term": "learn",
    "spikes.handles": "",
    "spikes.one_call": "",
}
"""Names that pages and docstrings speak of in modules that are otherwise private, and where they are listed."""


@dataclass
class Entry:
    """A public object."""

    name: str
    """Below ``sl``: ``"nn.PSN"``."""
    shelf: str
    """The module on whose page it is listed: ``"nn"``; ``""`` is the package, ``"neurons"`` its neurons."""
    value: Any
    kind: str
    """``"class"``, ``"exception"``, ``"function"`` or ``"data"``."""
    aliases: list[str] = field(default_factory=list)
    """Its other names, below ``sl``."""
    results: list[type] = field(default_factory=list)
    """Classes without a name of their own in public modules, which this function or class returns."""

    @property
    def path(self) -> str:
        """Under which it is imported."""
        return f"spikeloom.{self.name}"


def shelves() -> dict[str, ModuleType]:
    """Public modules by their names below ``sl``, those that are in the package's list and in theirs."""
    found: dict[str, ModuleType] = {}

    def walk(prefix: str, module: ModuleType) -> None:
        for name in listed(module):
            value = getattr(module, name)
            if inspect.ismodule(value) and value.__name__.startswith("spikeloom.") and value not in found.values():
                found[prefix + name] = value
                walk(f"{prefix}{name}.", value)

    walk("", sl)
    return dict(sorted(found.items()))


def listed(module: ModuleType) -> list[str]:
    """The public names of a module: its ``__all__``, or where there is none what it defines."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            n
            for n, v in vars(module).items()
            if not n.startswith("_") and getattr(v, "__module__", "") == module.__name__
        ]
    return sorted(names)


@functools.cache
def entries() -> dict[str, Entry]:
    """Every public object that is no module, by its name below ``sl``."""
    named: list[tuple[str, str, Any]] = []
    for shelf, module in {"": sl, **shelves()}.items():
        for name in listed(module):
            named.append((f"{shelf}.{name}".lstrip("."), shelf, getattr(module, name)))
    for name, shelf in ALSO.items():
        home, _, last = name.rpartition(".")
        named.append((name, shelf, getattr(importlib.import_module(f"spikeloom.{home}"), last)))
    found: dict[str, Entry] = {}
    known: dict[int, Entry] = {}
    for name, shelf, value in sorted(named, key=lambda n: (n[0].count("."), n[0])):
        if inspect.ismodule(value):
            continue
        first = known.get(id(value))
        if first is not None and first.name.rpartition(".")[2] == name.rpartition(".")[2]:
            first.aliases.append(name)
            continue
        shelf = "neurons" if not shelf and name in sl.neuron.__all__ else shelf
        found[name] = known[id(value)] = Entry(name, shelf, value, kind(value))
    _attach_results(found)
    return dict(sorted(found.items()))


def named(target: str, module: str) -> Entry | None:
    """The object that a name in a docstring of ``module`` means: a public name, that of the file where it is defined,
    one of the module's own, or one that is the only one of its kind."""
    known = entries()
    short = target.removeprefix("spikeloom.").removeprefix("sl.")
    shelf = module.removeprefix("spikeloom").lstrip(".")
    for name in (short, f"{shelf}.{short}"):
        for entry in known.values():
            if name == entry.name or name in entry.aliases:
                return entry
    last = target.rpartition(".")[2]
    same = [entry for entry in known.values() if entry.name.rpartition(".")[2] == last]
    if "." in target:
        same = [e for e in same if getattr(e.value, "__module__", "").startswith(target.rpartition(".")[0])]
    return same[0] if len(same) == 1 else None


def kind(value: object) -> str:
    """What sort of object this is, as Sphinx names it."""
    if inspect.isclass(value):
        return "exception" if issubclass(value, BaseException) else "class"
    return "function" if inspect.isroutine(value) else "data"


def _attach_results(found: dict[str, Entry]) -> None:
    """Gives classes that are nowhere listed to the first function that returns them."""
    taken = {id(entry.value) for entry in found.values()}
    for entry in found.values():
        for result in _returned(entry.value) if entry.kind == "function" else ():
            if id(result) not in taken and not result.__name__.startswith("_"):
                taken.add(id(result))
                entry.results.append(result)


def _returned(function: Any) -> list[type]:
    """Classes of this package in the return annotation of a function."""
    try:
        todo = [typing.get_type_hints(function).get("return")]
    except (NameError, TypeError):  # names that are imported for type checkers alone
        return []
    classes: list[type] = []
    while todo:
        hint = todo.pop()
        todo += typing.get_args(hint)
        if inspect.isclass(hint) and hint.__module__.startswith("spikeloom."):
            classes.append(hint)
    return classes


def documentation(entry: Entry) -> str:
    """The docstring of an object; of data that which follows the assignment in its module."""
    if entry.kind != "data":
        return inspect.getdoc(entry.value) or ""
    module, _, name = entry.path.rpartition(".")
    return _beside(module, name)


def _beside(module: str, name: str) -> str:
    """The string after the assignment of ``name``, in ``module`` or where that imports it from."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    body = ast.parse(Path(spec.origin).read_text()).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(n, ast.Name) and n.id == name for t in targets for n in ast.walk(t)):
            text = after.value if isinstance(after, ast.Expr) else None
            return (
                inspect.cleandoc(text.value) if isinstance(text, ast.Constant) and isinstance(text.value, str) else ""
            )
        if isinstance(node, ast.ImportFrom) and any(a.name == name for a in node.names):
            package = module if Path(spec.origin).name == "__init__.py" else module.rpartition(".")[0]
            return _beside(importlib.util.resolve_name("." * node.level + (node.module or ""), package), name)
    return ""


def summary(text: str) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join(text.partition("\n\n")[0].split())
