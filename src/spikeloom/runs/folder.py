"""The folder of a run: which run owns it, what is in it, and what may be replaced."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from . import environment, files, lock
from .config_file import read_file
from .settings import ConfigError, UserError, shown, to_toml

CHECKPOINT, CONFIG, RESULT, WEIGHTS = "checkpoint.pt", "config.toml", "result.json", "weights.safetensors"
"""Names of files in the folder of a run."""
SPLIT, INIT_FROM = "split.json", "init_from"
_OWN = {
    CHECKPOINT, CONFIG, RESULT, WEIGHTS, "environment.json", "git.diff", SPLIT, "metrics.jsonl", "metrics.csv",
}  # fmt: skip


def claim(
    out: Path, settings: Mapping[str, Any], *, resume: bool, overwrite: bool, held: ExitStack
) -> Callable[[], None]:
    """Makes the folder and locks it until ``held`` is closed; raises if it holds something else or is in use.

    Args:
        settings: the content of ``config.toml``; a run that goes on must have the same. Where they do not say what
            weights it begins with, those that ``config.toml`` names stay.

    Returns a function that raises if the folder has been removed or replaced by the time it is called. Where an
    exception closes ``held`` before the run has saved anything, a folder that was made here is removed again.
    """
    try:
        taken = out.exists() and not out.is_dir()
    except (OSError, ValueError) as problem:  # no folder can have this name
        raise ConfigError(
            f"{shown(str(out))}: no folder can be there: {getattr(problem, 'strerror', problem)}"
        ) from problem
    if taken:
        raise UserError(f"{out} is a file; give --out a folder")
    if out.is_dir() and any(out.iterdir()) and not _is_run(out):
        raise UserError(f"{out} holds something else than a run; choose another folder with --out")
    made = [path for path in (out, *out.parents) if not path.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"{out} cannot be made: {problem.strerror}") from problem
    check = held.enter_context(lock.held(out))
    held.push(partial(_forget, out, made))
    began = _began(out)
    if began and not resume and not overwrite:
        raise UserError(f"{out} holds a run; go on with it by --resume, replace it by --overwrite, or choose --out")
    if not resume:
        _clear(out)
    elif (out / CONFIG).exists():
        before = read_file(out / CONFIG)
        begun = before.get(INIT_FROM) if settings.get(INIT_FROM) is None else settings[INIT_FROM]
        must_agree(out / CONFIG, before, {**settings, INIT_FROM: begun}, longer=True)
    return check


def describe(out: Path, settings: Mapping[str, Any], described: Callable[[], Mapping[str, Any]]) -> None:
    """Writes the files that a run begins with, unless they are there; ``described`` gives ``environment.json``.

    If a run goes on for more epochs, their number is written, and the result and the weights are removed.
    """
    if (out / CONFIG).exists():
        if read_file(out / CONFIG) != {k: v for k, v in settings.items() if v is not None}:
            for name in (RESULT, WEIGHTS):
                (out / name).unlink(missing_ok=True)
            files.write(out / CONFIG, to_toml(settings))
        return
    files.write_json(out / "environment.json", described())
    if diff := environment.git_diff(Path.cwd()):
        files.write(out / "git.diff", diff)
    files.write(out / CONFIG, to_toml(settings))  # this comes last: a folder without it holds a run that never began


def begun_with(out: Path) -> str | None:
    """What ``config.toml`` names as the weights that the run in a folder begins with."""
    found = read_file(out / CONFIG).get(INIT_FROM) if (out / CONFIG).exists() else None
    return found if isinstance(found, str) else None


def _began(folder: Path) -> bool:
    """Whether a folder holds something that a run has computed."""
    return any((folder / name).exists() for name in (CHECKPOINT, RESULT, WEIGHTS))


def _forget(out: Path, made: list[Path], kind: type[BaseException] | None, *_: object) -> None:
    """Removes the folders that were made for a run which ``kind`` ended before it saved anything."""
    if kind is None or out not in made or not out.is_dir() or _began(out):
        return
    with suppress(OSError):  # it holds something else, or an open file on Windows
        _clear(out)
        (out / lock.LOCK).unlink(missing_ok=True)
        for path in made:
            path.rmdir()


def _is_run(folder: Path) -> bool:
    """Whether a folder belongs to a run, or holds only files that a run begins with."""
    try:
        if "recipe" in read_file(folder / CONFIG):
            return True
    except ConfigError:
        pass
    names = {p.name for p in folder.iterdir()}
    return bool(names) and all(name.startswith(".") or name in _OWN for name in names)


def _clear(folder: Path) -> None:
    """Removes the files that a run wrote, and nothing else. Pictures stay until the new run overwrites them."""
    for path in folder.iterdir():
        if path.name == "tensorboard":
            shutil.rmtree(path)
        elif (
            path.name in _OWN or path.match("eval-*.json") or path.match("confusion-*.png") or path.match(".*.partial")
        ):
            path.unlink()


def must_agree(path: Path, before: Mapping[str, Any], now: Mapping[str, Any], *, longer: bool = False) -> None:
    """Raises unless the settings ``before``, which ``path`` holds, are those of ``now``; None counts as not given.

    With ``longer``, ``now`` may have more epochs.
    """
    for name in [*before, *now]:
        if longer and name == "epochs" and type(before.get(name)) is int and before[name] <= now.get(name, 0):
            continue
        if before.get(name) != now.get(name):
            was, is_now = ("not given" if v.get(name) is None else v[name] for v in (before, now))
            raise ConfigError(
                f"{path}: {name} was {shown(was)} when the run began, and is now {shown(is_now)}; a run that goes on "
                "keeps its settings (but it may have more epochs)"
            )
