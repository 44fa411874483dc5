"""code: what Python code may read, from its instructions, and whose code it is, from its file.

Code of torch, Python and this package is fixed: a version says what it does. All other code is somebody's, may be
edited or replaced at any time, and is known by its instructions alone.
"""

from __future__ import annotations

import builtins
import dis
import functools
import hashlib
import importlib.util
import os
import site
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

_STANDARD = str(Path(os.__file__).resolve().parent)
_INSTALLED = tuple(os.path.realpath(p) for p in (*site.getsitepackages(), site.getusersitepackages()))
_TORCH, OURS = (str(folder) for folder in (Path(torch.__file__).resolve().parent, Path(__file__).resolve().parents[1]))
STATELESS = frozenset(  # words read better than a list of strings
    [
        "torch",
        "spikeloom",
        "numpy",
        "math",
        "cmath",
        "operator",
        "_operator",
        "functools",
        "_functools",
        "itertools",
        "collections",
        "typing",
        "types",
        "builtins",
        "enum",
        "dataclasses",
        "contextlib",
        "copy",
        "numbers",
        "abc",
        "__future__",
        "fractions",
        "decimal",
    ]
)
"""Modules whose functions depend on their arguments alone."""
BUILTINS = frozenset(
    [
        "abs",
        "all",
        "any",
        "bool",
        "bytes",
        "complex",
        "dict",
        "divmod",
        "enumerate",
        "filter",
        "float",
        "frozenset",
        "int",
        "isinstance",
        "issubclass",
        "iter",
        "len",
        "list",
        "map",
        "max",
        "min",
        "next",
        "object",
        "pow",
        "range",
        "repr",
        "reversed",
        "round",
        "set",
        "slice",
        "sorted",
        "str",
        "sum",
        "super",
        "tuple",
        "type",
        "zip",
        "property",
        "staticmethod",
        "classmethod",
        "callable",
        "ArithmeticError",
        "AssertionError",
        "AttributeError",
        "Exception",
        "IndexError",
        "KeyError",
        "NotImplemented",
        "NotImplementedError",
        "OverflowError",
        "RuntimeError",
        "StopIteration",
        "TypeError",
        "ValueError",
        "ZeroDivisionError",
        "Ellipsis",
        "__build_class__",
        "__debug__",
    ]
)
_HIDDEN = frozenset(
    [
        "random",
        "__dict__",
        "__globals__",
        "__getattribute__",
        "__subclasses__",
        "f_back",
        "gi_frame",
        "attrgetter",
        "methodcaller",
    ]
)
"""Attributes through which code reaches what its names do not say."""
_MADE_BY_CODE = 1 << 9  # of a type's flags: it is no static one


class Unseen(Exception):  # noqa: N818  # no error of the user's: something could change without a trace
    """Something that no comparison would see change; the message names it."""


@functools.cache
def is_fixed_file(path: str) -> bool:
    """Whether a file is torch's, numpy's, Python's or this package's."""
    if path.startswith("<frozen"):
        return True
    real = os.path.realpath(path)
    if any(real.startswith(folder + os.sep) for folder in (_TORCH, _numpy_folder(), OURS)):
        return True
    return real.startswith(_STANDARD + os.sep) and not any(real.startswith(f + os.sep) for f in _INSTALLED)


@functools.cache
def _numpy_folder() -> str:
    spec = importlib.util.find_spec("numpy")  # without importing it
    return "" if spec is None or spec.origin is None else str(Path(spec.origin).resolve().parent)


def is_numpy(value: Any, *names: str) -> bool:
    """Whether a value is of one of NumPy's types; if it is not imported there are none."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, tuple(getattr(numpy, name) for name in names))


def is_fixed_code(body: types.CodeType, space: dict[str, Any]) -> bool:
    """Whether code, with its globals, is fixed; what ``exec`` made (dataclasses do) belongs to the module it is in."""
    path = body.co_filename
    if path.startswith("<") and not path.startswith("<frozen"):
        path = space.get("__file__") or path
    return is_fixed_file(path)


@functools.cache
def is_ours(path: str) -> bool:
    """Whether a file is this package's."""
    return os.path.realpath(path).startswith(OURS + os.sep)


def is_fixed_module(module: types.ModuleType) -> bool:
    """Whether a module is torch's, numpy's, Python's or this package's."""
    file = getattr(module, "__file__", None)
    return module.__name__ in sys.builtin_module_names if file is None else is_fixed_file(file)


def is_fixed_class(cls: type) -> bool:
    """Whether a class is one that a fixed module defines, and not only says so."""
    module = sys.modules.get(cls.__module__)
    if module is None or not is_fixed_module(module):
        return False
    if module is builtins:  # what code without a __name__ defines says so too
        return not cls.__flags__ & _MADE_BY_CODE
    found: Any = module
    for part in cls.__qualname__.split("."):
        if part == "<locals>":
            return True
        found = getattr(found, part, None)
    return found is cls or cls.__module__ in ("torch._C", "torch")


class Names(NamedTuple):
    """What the instructions of a code object and of the code inside it name."""

    globals: dict[str, int]
    """Global names, and the line of the first use."""
    attributes: dict[str, int]
    """Attributes, and strings that may be names of attributes."""
    cells: dict[str, int]
    """Variables of functions around it."""
    refused: str
    """What it does that no comparison would see, or nothing."""


@functools.cache
def names_of(code: types.CodeType) -> Names:
    """The names in a code object, nested code included."""
    found_globals: dict[str, int] = {}
    found: dict[str, int] = {}
    cells: dict[str, int] = {}
    refused, line, before = "", code.co_firstlineno, [0, 0]
    for i in dis.get_instructions(code):
        line = (i.positions.lineno if i.positions is not None else None) or line
        name = i.argval
        if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            found_globals.setdefault(name, line)
        elif i.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            refused = refused or f"writes the global {name} at {place(code, line)}"
        elif i.opname == "IMPORT_NAME" and (before[0] != 0 or not _imports_fixed(name)):  # 0: not relative
            refused = refused or f"imports {name} at {place(code, line)}"
        elif i.opname == "MATCH_CLASS" and i.arg:
            refused = refused or f"matches attributes of a class by their places at {place(code, line)}"
        elif i.opname.endswith("DEREF"):
            cells.setdefault(name, line)
        elif i.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM"):
            if name in _HIDDEN:
                refused = refused or f"reads {name} at {place(code, line)}"
            found.setdefault(name, line)
        elif i.opname == "LOAD_CONST":
            words = name if isinstance(name, tuple) else (name,)  # tuples are of class patterns
            found.update((w, line) for w in words if isinstance(w, str) and w.isidentifier() and w not in found)
        before = [before[1], name]
    for inner in inner_codes(code):
        more = names_of(inner)
        found_globals = {**more.globals, **found_globals}
        found = {**more.attributes, **found}
        cells = {**more.cells, **cells}
        refused = refused or more.refused
    return Names(found_globals, found, cells, refused)


def _imports_fixed(name: str) -> bool:
    root = name.split(".")[0]
    module = sys.modules.get(root)
    return root in STATELESS and (module is None or is_fixed_module(module))


def place(code: types.CodeType, line: int) -> str:
    """``file:line``."""
    return f"{code.co_filename}:{line}"


def inner_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code objects directly inside of one: comprehensions, lambdas, functions, classes."""
    return (c for c in code.co_consts if isinstance(c, types.CodeType))


def all_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code object and all inside of it."""
    yield code
    for inner in inner_codes(code):
        yield from all_codes(inner)


def text_of(code: types.CodeType) -> str:
    """All that makes a code object do what it does, without where it stands."""
    constants = [text_of(c) if isinstance(c, types.CodeType) else _constant(c) for c in code.co_consts]
    sizes = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return repr((sizes, names, code.co_code.hex(), code.co_exceptiontable.hex(), constants))


def _constant(value: Any) -> str:
    if not isinstance(value, (tuple, frozenset)):
        return f"{type(value).__name__} {value!r}"
    items = [_constant(v) for v in value]
    return f"{type(value).__name__} {items if isinstance(value, tuple) else sorted(items)}"


class _Named(NamedTuple):
    """Its field is of the type that reads fields of named tuples."""

    first: int


PLAIN = (
    *(bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented), range),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, torch.finfo, torch.iinfo),
    *(types.UnionType, types.GenericAlias, type(_Named.first)),
)
_C_FUNCTIONS = (
    *(types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType),
    *(types.ClassMethodDescriptorType, types.GetSetDescriptorType, types.MemberDescriptorType),
)


def is_plain(value: Any) -> bool:
    """Whether a value can never change and its repr says all of it."""
    return type(value) in PLAIN or is_numpy(value, "generic", "dtype") or type(value).__module__ == "typing"


def is_c_function(value: Any) -> bool:
    """Whether a value is a function in C; Unseen for one that belongs to an object or to a module with a state."""
    if isinstance(value, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return True
    if not isinstance(value, _C_FUNCTIONS):
        return is_numpy(value, "ufunc")
    owner = getattr(value, "__self__", None)
    if isinstance(owner, types.ModuleType):
        check_module_name(owner.__name__)
    elif owner is not None and not isinstance(owner, type) and not type(owner).__module__.startswith("torch"):
        raise Unseen(f"a method of an object of {type(owner).__name__}")
    return True


def check_module_name(name: str) -> None:
    """Raises Unseen for a fixed module whose functions depend on more than their arguments."""
    if name.split(".")[0] not in STATELESS or "random" in name:
        raise Unseen(f"the module {name} has a state")


def title(value: Any) -> str:
    """The name by which a fixed function, class or module is known."""
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)) or is_numpy(value, "ufunc"):
        return str(value)
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))}"


@functools.cache
def own_text() -> str:
    """A hash of this package's source."""
    files = sorted(Path(OURS).rglob("*.py"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()
