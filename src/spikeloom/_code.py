"""code: what Python code may read, from its instructions, and whose code it is, from its file.

Code of torch, Python and this package is fixed: a version says what it does. All other code is somebody's, may be
edited or replaced at any time, and is known by its instructions alone.
"""

from __future__ import annotations

import dis
import enum
import functools
import gc
import hashlib
import importlib.util
import os
import re
import site
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

_STANDARD = str(Path(os.__file__).resolve().parent)
_INSTALLED = tuple(os.path.realpath(p) for p in (*site.getsitepackages(), site.getusersitepackages()))
_TORCH, OURS = (str(Path(f).resolve().parent) for f in (torch.__file__, __file__))
_STATELESS = frozenset(  # words read better than a list of strings
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
_ASKS = re.compile(
    r"(?!is_tensor$|is_storage$)_?(is|are|get|has|initial|current|numpy|tolist|data_ptr|default)(_|$)|seed$|.*_available$"
)
"""Functions of torch that tell of a mode, a device or values; all others make tensors of tensors."""


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
    found: Any = module
    for part in cls.__qualname__.split("."):
        if part == "<locals>":
            return True
        found = getattr(found, part, None)
    return found is cls or cls.__module__ in ("builtins", "torch._C", "torch")


class Names(NamedTuple):
    """What the instructions of a code object and of the code inside it name."""

    globals: dict[str, int]
    """Global names, and the line of the first use."""
    attributes: dict[str, int]
    """Attributes, and strings that may be names of attributes."""
    refused: str
    """What it does that no comparison would see, or nothing."""


@functools.cache
def names_of(code: types.CodeType) -> Names:
    """The names in a code object, nested code included."""
    found_globals: dict[str, int] = {}
    found: dict[str, int] = {}
    refused, line = "", code.co_firstlineno
    for i in dis.get_instructions(code):
        line = (i.positions.lineno if i.positions is not None else None) or line
        name = i.argval
        if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            found_globals.setdefault(name, line)
        elif i.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            refused = refused or f"writes the global {name} at {place(code, line)}"
        elif i.opname == "IMPORT_NAME" and name.split(".")[0] not in _STATELESS:
            refused = refused or f"imports {name} at {place(code, line)}"
        elif i.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM"):
            if name in _HIDDEN:
                refused = refused or f"reads {name} at {place(code, line)}"
            found.setdefault(name, line)
        elif i.opname == "LOAD_CONST" and isinstance(name, str) and name.isidentifier():
            found.setdefault(name, line)
    for inner in inner_codes(code):
        more = names_of(inner)
        found_globals = {**more.globals, **found_globals}
        found = {**more.attributes, **found}
        refused = refused or more.refused
    return Names(found_globals, found, refused)


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


_PLAIN = (
    *(bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented), range),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, torch.finfo, torch.iinfo),
    *(types.UnionType, types.GenericAlias),
)
_C_FUNCTIONS = (
    *(types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType),
    *(types.ClassMethodDescriptorType, types.GetSetDescriptorType, types.MemberDescriptorType),
)


def is_plain(value: Any) -> bool:
    """Whether a value can never change and its repr says all of it."""
    return type(value) in _PLAIN or is_numpy(value, "generic", "dtype") or type(value).__module__ == "typing"


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
    if name.split(".")[0] not in _STATELESS or "random" in name:
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


def watched(run: Callable[[], Any]) -> tuple[Any, set[types.CodeType], list[str]]:
    """``run()`` or the exception that it raised, the code of others that ran, and which functions it called that may
    tell another thing later."""
    ran: set[types.CodeType] = set()
    doubts: list[str] = []

    def hook(frame: Any, event: str, argument: Any) -> None:
        caller = frame.f_back if event == "call" else frame
        if event not in ("call", "c_call") or caller is None or _importing(frame):
            return
        theirs, here = not is_fixed_code(caller.f_code, caller.f_globals), f"at {place(caller.f_code, caller.f_lineno)}"
        if event == "c_call":
            if theirs and not _tells_nothing(argument):
                doubts.append(f"{getattr(argument, '__qualname__', argument)} {here}")
            return
        body = frame.f_code
        if not is_fixed_code(body, frame.f_globals):
            ran.add(body)
        elif theirs and _ASKS.match(body.co_name) and not is_ours(body.co_filename):
            doubts.append(f"{body.co_name} {here}")

    collects = gc.isenabled()
    gc.disable()  # callbacks and finalizers of others would run in between
    sys.setprofile(hook)
    try:
        found = run()
    except Exception as error:
        found = error
    finally:
        sys.setprofile(None)
        if collects:
            gc.enable()
    return found, ran, doubts


def _importing(frame: Any) -> bool:
    """Whether a module is being imported: torch imports parts of itself when they are first needed."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _tells_nothing(function: Any) -> bool:
    """Whether a function in C gives the same for the same arguments."""
    name, owner = function.__name__, getattr(function, "__self__", None)
    if isinstance(owner, types.ModuleType) and owner.__name__ == "builtins":
        return name in BUILTINS
    if isinstance(owner, types.ModuleType):
        root = owner.__name__.split(".")[0]
        return root in _STATELESS and (root != "torch" or not _ASKS.match(name))
    if isinstance(owner, torch.Tensor) or (isinstance(owner, type) and owner.__module__.startswith("torch")):
        return not _ASKS.match(name)
    module = str(getattr(function, "__module__", None) or type(owner).__module__)
    if module.startswith("torch"):
        return not _ASKS.match(name)
    plain = (
        owner is None
        or type(owner) in (*_PLAIN, list, dict, set, tuple, frozenset)
        or isinstance(owner, type)
        or is_numpy(owner, "generic")
    )
    return (plain and module.split(".")[0] in _STATELESS and "random" not in module) or isinstance(owner, enum.Enum)
