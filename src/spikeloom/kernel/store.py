"""store: programs on disk, so that a process which has seen a neuron before need not trace it again.

Tracing imports a second's worth of torch. A program is found by the digest of its neuron's signature, which says all
that the equation may read and the versions of torch, Python and this package.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ..native.build import cache_folder, is_own, replace_text
from .program import Const, Node, Program, Ref


def read(name: str) -> Program | None:
    """The stored program, or None where there is none, or one that is not what was written."""
    path = cache_folder() / f"{name}.program"
    try:
        total, text = path.read_text().split("\n", 1) if is_own(path) else ("", "")
        return loads(text) if total == _sum(text) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(name: str, program: Program) -> None:
    """Stores a program; a cache that cannot be written is no error."""
    text = dumps(program)
    replace_text(cache_folder() / f"{name}.program", f"{_sum(text)}\n{text}")


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
        "depends": program.depends,
    }
    return json.dumps(found, default=lambda constant: {"constant": constant.value})


def loads(text: str) -> Program:
    """The program that :func:`dumps` made a text of."""
    found = json.loads(text)
    return Program(
        tuple(found["xs"]),
        tuple(found["states"]),
        tuple(found["numbers"]),
        tuple(Node(i, op, tuple(map(_ref, args))) for i, op, args in found["nodes"]),
        tuple(map(_ref, found["outputs"])),
        tuple(None if ref is None else _ref(ref) for ref in found["grads"]),
        tuple((i, _ref(ref)) for i, ref in found["number_grads"]),
        tuple(map(tuple, found["depends"])),
    )


def _ref(stored: Any) -> Ref:
    return Const(stored["constant"]) if isinstance(stored, dict) else int(stored)
