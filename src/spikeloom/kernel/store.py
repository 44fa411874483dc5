"""store: programs on disk, so that a process which has seen a neuron before need not trace it again.

Tracing imports a second's worth of torch. A program is found by a hash of everything that it depends on: the code of
the neuron's and its surrogate's methods and of the functions they call, their options, names of numbers and states, and
the versions of torch and of this package. Where that cannot be said for sure (a global tensor, an object, a module of
the user's), there is no hash, and the neuron is traced.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch

from .build import cache_folder, is_own, replace_text
from .program import Const, Node, Program, Ref

_PLAIN = (bool, int, float, str, bytes, type(None))


class _UnsureError(Exception):
    """Something that a program may depend on has no reliable hash."""


def fingerprint(parts: Any) -> str | None:
    """A hash of ``parts`` (classes, functions, plain values, tuples of them), or None where there is no sure one."""
    digest = hashlib.sha256(f"1 {torch.__version__} {_own_code()}".encode())
    try:
        _feed(digest, parts, set())
    except _UnsureError:
        return None
    return digest.hexdigest()[:32]


@functools.cache
def plain_globals(cls: type) -> tuple[tuple[dict[str, Any], str], ...]:
    """Global numbers and strings that the user's code of a class reads, as (dictionary, name)."""
    found: list[tuple[dict[str, Any], str]] = []
    todo = [f for base in cls.__mro__ if not _is_versioned(base) for f in vars(base).values()]
    seen: set[int] = set()
    while todo:
        function = todo.pop()
        if not isinstance(function, types.FunctionType) or id(function) in seen or _is_versioned(function):
            continue
        seen.add(id(function))
        for name in _names(function.__code__):
            value = function.__globals__.get(name, found)
            if isinstance(value, _PLAIN):
                found.append((function.__globals__, name))
            else:
                todo.append(value)
    return tuple(found)


def read(name: str) -> Program | None:
    """The stored program, or None."""
    path = cache_folder() / f"{name}.program"
    try:
        return loads(path.read_text()) if is_own(path) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(name: str, program: Program) -> None:
    """Stores a program; a cache that cannot be written is no error."""
    replace_text(cache_folder() / f"{name}.program", dumps(program))


def dumps(program: Program) -> str:
    """A program as JSON."""
    found = {
        "xs": program.xs,
        "states": program.states,
        "numbers": program.numbers,
        "nodes": [(n.id, n.op, n.args) for n in program.nodes],
        "outputs": program.outputs,
        "grads": program.grads,
        "number_grads": program.number_grads,
    }
    return json.dumps(found, default=lambda constant: {"constant": constant.value})


def loads(text: str) -> Program:
    """The inverse of :func:`dumps`."""
    found = json.loads(text)
    return Program(
        tuple(found["xs"]),
        tuple(found["states"]),
        tuple(found["numbers"]),
        tuple(Node(i, op, tuple(map(_ref, args))) for i, op, args in found["nodes"]),
        tuple(map(_ref, found["outputs"])),
        tuple(None if ref is None else _ref(ref) for ref in found["grads"]),
        tuple((i, _ref(ref)) for i, ref in found["number_grads"]),
    )


def _ref(stored: Any) -> Ref:
    return Const(stored["constant"]) if isinstance(stored, dict) else int(stored)


@functools.cache
def _own_code() -> str:
    """A hash of this package's source."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def _feed(digest: Any, value: Any, seen: set[int]) -> None:
    if isinstance(value, _PLAIN):
        digest.update(f"{type(value).__name__}:{value!r};".encode())
    elif isinstance(value, (tuple, frozenset)):
        for item in value if isinstance(value, tuple) else sorted(value, key=repr):
            _feed(digest, item, seen)
        digest.update(b")")
    elif _is_versioned(value):
        digest.update(f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)};".encode())
    elif id(value) in seen:
        digest.update(b"again;")
    elif isinstance(value, type):
        seen.add(id(value))
        _feed_class(digest, value, seen)
    elif isinstance(value, types.FunctionType):
        seen.add(id(value))
        _feed_function(digest, value, seen)
    elif isinstance(value, (staticmethod, classmethod, types.MethodType)):
        _feed(digest, value.__func__, seen)
    elif isinstance(value, property):
        _feed(digest, (value.fget,), seen)
    elif isinstance(value, types.CodeType):
        _feed_code(digest, value, seen)
    else:
        raise _UnsureError


def _is_versioned(value: Any) -> bool:
    """Functions, classes and modules of torch, Python and this package: name and version say what they do."""
    module = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None) or ""
    builtin = isinstance(value, (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType))
    root = str(module).split(".")[0]
    named = isinstance(value, (type, types.FunctionType, types.ModuleType))
    return builtin or (named and (root in ("torch", "spikeloom") or root in sys.stdlib_module_names))


def _feed_class(digest: Any, cls: type, seen: set[int]) -> None:
    digest.update(f"class {cls.__module__}.{cls.__qualname__};".encode())
    for base in cls.__mro__:
        if _is_versioned(base):
            digest.update(f"{base.__module__}.{base.__qualname__};".encode())
            continue
        for name, attribute in sorted(vars(base).items()):
            if not (name.startswith("__") and name.endswith("__")) and name not in ("limits", "_abc_impl"):
                digest.update(f"{name}=".encode())
                _feed(digest, attribute, seen)


def _feed_function(digest: Any, function: types.FunctionType, seen: set[int]) -> None:
    code = function.__code__
    _feed_code(digest, code, seen)
    _feed(digest, function.__defaults__ or (), seen)
    for cell in function.__closure__ or ():
        _feed(digest, cell.cell_contents, seen)
    for name in _names(code):
        if name in function.__globals__:
            digest.update(f"{name}=".encode())
            _feed(digest, function.__globals__[name], seen)


def _feed_code(digest: Any, code: types.CodeType, seen: set[int]) -> None:
    digest.update(code.co_code)
    digest.update(" ".join((*code.co_names, *code.co_varnames)).encode())
    for constant in code.co_consts:
        if constant is not Ellipsis:
            _feed(digest, constant, seen)


def _names(code: types.CodeType) -> list[str]:
    inner = [name for c in code.co_consts if isinstance(c, types.CodeType) for name in _names(c)]
    return [*code.co_names, *inner]
