"""watched: what runs while an equation is traced: users' code, and functions whose result may change later."""

from __future__ import annotations

import enum
import gc
import re
import sys
import types
from collections.abc import Callable
from typing import Any

import torch

from .code import BUILTINS, PLAIN, STATELESS, is_fixed_code, is_numpy, is_ours, place

_ASKS = re.compile(
    r"(?!is_tensor$|is_storage$)_?(is|are|get|has|initial|current|numpy|tolist|data_ptr|default)(_|$)|seed$|.*_available$"
)
"""Names of torch functions whose result depends on a mode, a device or values; all others map tensors to tensors."""


def watched(run: Callable[[], Any]) -> tuple[Any, set[types.CodeType], list[str]]:
    """The result of ``run()``, the users' code that ran, and the functions it called whose result may change later.

    If ``run()`` raises, the error takes the place of the result.
    """
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
        elif theirs and _reads_on(body) and not is_ours(body.co_filename):
            doubts.append(f"{body.co_name} {here}")

    collects = gc.isenabled()
    gc.disable()  # or callbacks and finalizers would run in between and be noted
    sys.setprofile(hook)
    try:
        found = run()
    except Exception as error:  # the caller's
        found = error
    finally:
        sys.setprofile(None)
        if collects:
            gc.enable()
    return found, ran, doubts


def _reads_on(body: types.CodeType) -> bool:
    """Whether a fixed function's result depends on a mode, or it reads all attributes of an object."""
    return bool(_ASKS.match(body.co_name)) or body.co_name in ("asdict", "astuple")


def _importing(frame: Any) -> bool:
    """Whether a module is being imported: torch imports parts of itself when they are first needed."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _tells_nothing(function: Any) -> bool:
    """Whether a function in C always gives the same result for the same arguments."""
    name, owner = function.__name__, getattr(function, "__self__", None)
    if isinstance(owner, str) and name.startswith("format"):  # format reads attributes that the text names
        return False
    if isinstance(owner, types.ModuleType) and owner.__name__ == "builtins":
        return name in BUILTINS
    if isinstance(owner, types.ModuleType):
        root = owner.__name__.split(".")[0]
        return root in STATELESS and (root != "torch" or not _ASKS.match(name))
    if isinstance(owner, torch.Tensor) or (isinstance(owner, type) and owner.__module__.startswith("torch")):
        return not _ASKS.match(name)
    module = str(getattr(function, "__module__", None) or type(owner).__module__)
    if module.startswith("torch"):
        return not _ASKS.match(name)
    plain = (
        owner is None
        or type(owner) in (*PLAIN, list, dict, set, tuple, frozenset)
        or isinstance(owner, type)
        or is_numpy(owner, "generic")
    )
    return (plain and module.split(".")[0] in STATELESS and "random" not in module) or isinstance(owner, enum.Enum)
