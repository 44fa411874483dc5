"""arguments: a docstring says "see :class:`IF`" where an argument is as that class has it; its page says what it is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

_ENTRY = re.compile(r"    (?P<names>\w+(?:, \w+)*): (?P<text>\S.*)")
_SEE = re.compile(r"see :class:`~?(?P<name>[\w.]+)`[.,;]? ?(?P<more>.*)")

Find = Callable[[str], Any]
"""The object that a docstring means by a name, or None."""


def entries(lines: list[str]) -> tuple[int, int, list[tuple[list[str], str]]]:
    """Where the list of arguments begins and ends in a docstring, and names and text of each entry."""
    try:
        start = lines.index("Args:") + 1
    except ValueError:
        return 0, 0, []
    found: list[tuple[list[str], str]] = []
    end = start
    while end < len(lines) and lines[end].startswith("    "):
        entry = _ENTRY.fullmatch(lines[end])
        if entry:
            found.append((entry["names"].split(", "), entry["text"]))
        elif found:
            found[-1] = (found[-1][0], f"{found[-1][1]} {lines[end].strip()}")
        end += 1
    return start, end, found


def spelled_out(lines: list[str], find: Find) -> list[str]:
    """A docstring with what other classes say of their arguments in the place of their names."""
    start, end, found = entries(lines)
    if not any(_SEE.fullmatch(text) for _, text in found):
        return lines
    out = []
    for names, text in found:
        see = _SEE.fullmatch(text)
        there = _described(find(see["name"]), find) if see else {}
        told = [name for name in names if name in there]
        out += [f"    {name}: {there[name]} {see['more'] if see else ''}".rstrip() for name in told]
        if rest := [name for name in names if name not in there]:
            out.append(f"    {', '.join(rest)}: {text}")
    return [*lines[:start], *out, *lines[end:]]


def _described(value: Any, find: Find) -> dict[str, str]:
    doc = inspect.cleandoc(getattr(value, "__doc__", None) or "").split("\n")
    return {name: text for names, text in entries(spelled_out(doc, find))[2] for name in names}
