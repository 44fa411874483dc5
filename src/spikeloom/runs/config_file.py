"""Config files in TOML or YAML: names with one plain value each, and nothing ambiguous.

A value is text, a number, true, false or nothing. Everything else raises an error that explains it: names given twice,
in one spelling or in two, lists and tables however deep, dates, infinities, and what YAML 1.1 and 1.2 read differently.
YAML is read event by event, so that nothing is built from a file before it is known to be flat: no alias is followed,
no tag is obeyed.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .._extras import install
from .settings import ConfigError, shown

MOST = 1 << 14
"""Bytes: a larger config file raises, because dotted keys and brackets take parsers quadratic time."""

_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULL = ("", "~", "null", "Null", "NULL")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_KINDS = {"bool": "true or false", "int": "a whole number", "float": "a number", "null": "nothing", "str": "text"}


def read_file(path: Path) -> dict[str, Any]:
    """The settings in a TOML or YAML file, by name. Hyphens in names are read as underscores.

    Raises ConfigError for a file that cannot be read, and for anything in it that is no plain setting.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import spikeloom as sl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "settings.toml"
    ...     _ = file.write_text('recipe = "digits"\\nbatch-size = 128\\nlr = 2e-3\\n')
    ...     sl.runs.read_file(file)
    {'recipe': 'digits', 'batch_size': 128, 'lr': 0.002}
    """
    if path.suffix not in (".toml", ".yaml", ".yml"):
        raise ConfigError(f"{path}: a config file ends in .toml, .yaml or .yml")
    text = _text(path)
    pairs = _toml(path, text) if path.suffix == ".toml" else _yaml(path, text)
    found: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for name, value in pairs:
        _check(path, name, value)
        plain = name.replace("-", "_")
        if plain in found:
            both = "is given twice" if spelled[plain] == name else f"and {spelled[plain]} are the same setting"
            raise ConfigError(f"{path}: {_named(name)} {both}; give it once")
        found[plain], spelled[plain] = value, name
    return found


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: cannot be read: it is no file")
        with path.open("rb") as file:
            content = file.read(MOST + 1)
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{path}: cannot be read: {getattr(problem, 'strerror', None) or problem}") from problem
    if len(content) > MOST:
        raise ConfigError(f"{path}: is larger than {MOST // 1024} KiB; a config file names settings, one a line")
    try:
        return content.decode("utf-8-sig")  # editors on Windows begin a file with a mark
    except UnicodeDecodeError as problem:
        raise ConfigError(f"{path}: cannot be read: byte {problem.start} is not UTF-8; save it as UTF-8") from problem


def _check(path: Path, name: str, value: Any) -> None:
    if isinstance(value, dict):
        raise ConfigError(
            f"{path}: {_named(name)} is a table; settings stand at the top level, one name with one value"
        )
    if isinstance(value, list):
        raise ConfigError(f"{path}: {_named(name)} is a list; a setting has one value")
    if isinstance(value, (datetime.date, datetime.time)):
        raise ConfigError(f"{path}: {_named(name)} is a date or time, {value}; write text in quotes")


def _named(name: str) -> str:
    return name if re.fullmatch(r"[\w-]{1,60}", name) else shown(name)


# -- TOML --------------------------------------------------------------------------------------------------------------


def _toml(path: Path, text: str) -> Iterable[tuple[str, Any]]:
    try:
        return tomllib.loads(text).items()
    except RecursionError as problem:
        raise ConfigError(
            f"{path}: not valid TOML: brackets are nested too deeply; a setting has one value"
        ) from problem
    except ValueError as problem:  # numbers of too many digits raise a ValueError that is no TOMLDecodeError
        reason = str(problem).splitlines()[0][:200].replace("Cannot overwrite a value", "a name is given twice")
        if "digits" in reason:
            reason = "a whole number has too many digits"
        raise ConfigError(f"{path}: not valid TOML: {reason}") from problem


# -- YAML --------------------------------------------------------------------------------------------------------------


def _yaml(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        import yaml
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"{path}: reading YAML needs pyyaml; install the extra: {install('cli')}, or write TOML"
        ) from missing
    resolver = yaml.resolver.Resolver()
    try:
        for name, event in _flat(path, yaml.parse(text, Loader=yaml.SafeLoader)):
            meant = resolver.resolve(yaml.ScalarNode, event.value, event.implicit).rpartition(":")[2]
            yield name, _scalar(f"{path}: line {event.start_mark.line + 1}: {_named(name)}", event, meant)
    except (yaml.YAMLError, ValueError, OverflowError) as problem:  # escapes beyond Unicode raise the last two
        mark = getattr(problem, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = str(getattr(problem, "problem", None) or problem).splitlines()[0][:200]
        raise ConfigError(f"{path}: not valid YAML: {where}{reason}") from problem


def _flat(path: Path, events: Iterator[Any]) -> Iterator[tuple[str, Any]]:
    """The names and the events of their values, from one document with one mapping of scalars; others raise."""
    kind = _kind(next(events))
    while kind in ("StreamStart", "DocumentStart"):
        event = next(events)
        kind = _kind(event)
    if kind == "StreamEnd":
        return
    if kind != "MappingStart":
        what = {"SequenceStart": "list", "Scalar": "text"}.get(kind, kind.lower())
        raise ConfigError(f"{path}: expected names with values, got {what}")
    _refuse_marks(path, "the file", event)
    while _kind(key := next(events)) != "MappingEnd":
        if _kind(key) != "Scalar" or (key.implicit[0] and key.value == "<<"):
            raise ConfigError(
                f"{path}: line {key.start_mark.line + 1}: a name is a word; lists, aliases (*) and merges (<<) are none"
            )
        name = str(key.value)
        value = next(events)
        for event in (key, value):
            _refuse_marks(path, _named(name), event)
        if _kind(value) != "Scalar":
            _check(path, name, [] if _kind(value) == "SequenceStart" else {})
        yield name, value
    if _kind(next(events)) != "DocumentEnd" or _kind(next(events)) != "StreamEnd":
        raise ConfigError(f"{path}: holds several documents (---); a config file is one")


def _refuse_marks(path: Path, name: str, event: Any) -> None:
    if _kind(event) == "Alias" or getattr(event, "anchor", None):
        raise ConfigError(f"{path}: {name} has an anchor or an alias (&, *); write the value itself")
    if getattr(event, "tag", None):
        raise ConfigError(f"{path}: {name} has a tag, {shown(event.tag)}; write a plain value")


def _kind(event: Any) -> str:
    return type(event).__name__.removesuffix("Event")


def _scalar(where: str, event: Any, meant: str) -> Any:
    """A value that YAML 1.1 (its type there is ``meant``) and 1.2 read alike; others raise. 1e-3, text in YAML 1.1, is
    read as a number."""
    text: str = event.value
    if not event.implicit[0]:  # the value stands in quotes
        return text
    kind = "bool" if text in _BOOL else "null" if text in _NULL else "str"
    if _INT.fullmatch(text):
        kind = "int"
    elif _FLOAT.fullmatch(text):
        kind = "float"
    if (kind, meant) not in ((kind, kind), ("float", "str")) or (kind == "int" and _LEADING_ZERO.fullmatch(text)):
        kinds = _KINDS.get(meant, f"a {meant}"), _KINDS[kind]
        read = f"is {kinds[0]} in YAML 1.1 and {kinds[1]} in YAML 1.2" if kinds[0] != kinds[1] else "begins with 0"
        raise ConfigError(f"{where}: {shown(text)} {read}; write true, false, a plain number, or text in quotes")
    if kind == "int":
        if len(text) > 100:
            raise ConfigError(f"{where} is a whole number of {len(text):,} digits, which is too large")
        return int(text, 16 if text.startswith("0x") else 10)
    if kind == "float":
        return float(text.replace(".", "", 1) if text[-1] in "fFnN" else text)
    return {"bool": _BOOL.get(text), "null": None}.get(kind, text)
