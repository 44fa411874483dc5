"""code: what Python code may read, from its instructions, and whose code it is, from its file.

Code of torch, NumPy, Python and this package is fixed: its version tells what it does. All other code belongs to the
user, may be edited or replaced at any time, and is identified by its instructions alone.
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
"""Attributes through which code can reach values that it does not name."""
_MADE_BY_CODE = 1 << 9  # a bit of type.__flags__ that only static types in C lack


class Unseen(Exception):  # noqa: N818  # it reports a finding, not an error of the user's
    """Something could change without any comparison noticing; the message names it."""


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
    spec = importlib.util.find_spec("numpy")  # find_spec does not import it
    return "" if spec is None or spec.origin is None else str(Path(spec.origin).resolve().parent)


def is_numpy(value: Any, *names: str) -> bool:
    """Whether a value is of one of these NumPy types; False if NumPy is not imported."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, tuple(getattr(numpy, name) for name in names))


def is_fixed_code(body: types.CodeType, space: dict[str, Any]) -> bool:
    """Whether code with these globals is fixed. Code made by ``exec``, as in dataclasses, belongs to its module."""
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
    """Whether a fixed module really defines a class, beyond being named in its ``__module__``."""
    module = sys.modules.get(cls.__module__)
    if module is None or not is_fixed_module(module):
        return False
    if module is builtins:  # classes of code without a __name__ have this module too
        return not cls.__flags__ & _MADE_BY_CODE
    found: Any = module
    for part in cls.__qualname__.split("."):
        if part == "<locals>":
            return True
        found = getattr(found, part, None)
    return found is cls or cls.__module__ in ("torch._C", "torch")


class Names(NamedTuple):
    """The names in the instructions of a code object and of the code inside it, each with its line."""

    globals: dict[str, int]
    """The global names, each with the line of its first use."""
    attributes: dict[str, int]
    """The names of attributes, and strings that may be such names."""
    cells: dict[str, int]
    """The variables of enclosing functions."""
    refused: str
    """What the code does that no comparison would notice, or an empty string."""


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
        elif i.opname == "IMPORT_NAME" and (before[0] != 0 or not _imports_fixed(name)):  # 0 is absolute
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
            words = name if isinstance(name, tuple) else (name,)  # class patterns in match have tuples of names
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
    """The place of a line, as ``file:line``."""
    return f"{code.co_filename}:{line}"


def inner_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code objects directly inside another: comprehensions, lambdas, functions and classes."""
    return (c for c in code.co_consts if isinstance(c, types.CodeType))


def all_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code object and all code objects inside it, at any depth."""
    yield code
    for inner in inner_codes(code):
        yield from all_codes(inner)


def text_of(code: types.CodeType) -> str:
    """A text of all that decides what a code object does; it leaves out file and lines."""
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
    """A named tuple whose field shows the type of the descriptors that read such fields."""

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
    """Whether a value can never change and its repr describes it completely."""
    return type(value) in PLAIN or is_numpy(value, "generic", "dtype") or type(value).__module__ == "typing"


def is_c_function(value: Any) -> bool:
    """Whether a value is a function in C; raises Unseen if it belongs to an object or to a module with state."""
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
    """The name that identifies a fixed function, class or module."""
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
