"""The folder of a run: whose it is, what is in it, and what may be replaced."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import environment, files
from .config_file import read_file
from .settings import ConfigError, UserError, to_toml

CHECKPOINT, CONFIG, RESULT, WEIGHTS = "checkpoint.pt", "config.toml", "result.json", "weights.safetensors"
_OWN = {
    CHECKPOINT, CONFIG, RESULT, WEIGHTS, "environment.json", "git.diff", "split.json", "metrics.jsonl", "metrics.csv",
}  # fmt: skip


def prepare(
    out: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool,
    overwrite: bool,
    described: Callable[[], Mapping[str, Any]],
) -> None:
    """Makes the folder, or checks that of the run to go on with; raises where it is somebody else's.

    Args:
        settings: what ``config.toml`` says; a run that goes on must have the same.
        described: what ``environment.json`` says.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give --out a folder")
    is_run = out.is_dir() and _is_run(out)
    if out.is_dir() and any(out.iterdir()) and not is_run:
        raise UserError(f"{out} holds something else than a run; choose another folder with --out")
    began = is_run and any((out / name).exists() for name in (CHECKPOINT, RESULT, WEIGHTS))
    if began and not resume and not overwrite:
        raise UserError(f"{out} holds a run; go on with it by --resume, replace it by --overwrite, or choose --out")
    if is_run and not resume:
        _clear(out)
    if is_run and resume and (out / CONFIG).exists():
        _must_agree(out / CONFIG, settings)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"{out} cannot be made: {problem.strerror}") from problem
    if not (out / CONFIG).exists():
        files.write_json(out / "environment.json", described())
        if diff := environment.git_diff(Path.cwd()):
            files.write(out / "git.diff", diff)
        files.write(out / CONFIG, to_toml(settings))  # last: a folder without it is a run that never began


def _is_run(folder: Path) -> bool:
    """Whether a folder is a run's, or holds nothing but what a run begins with."""
    try:
        if "recipe" in read_file(folder / CONFIG):
            return True
    except ConfigError:
        pass
    names = {p.name for p in folder.iterdir()}
    return bool(names) and all(name.startswith(".") or name in _OWN for name in names)


def _clear(folder: Path) -> None:
    """Removes what a run wrote, and nothing else; its pictures are written over."""
    for path in folder.iterdir():
        if path.name == "tensorboard":
            shutil.rmtree(path)
        elif (
            path.name in _OWN or path.match("eval-*.json") or path.match("confusion-*.png") or path.match(".*.partial")
        ):
            path.unlink()


def _must_agree(path: Path, settings: Mapping[str, Any]) -> None:
    """Raises unless the run's own settings are these."""
    before = read_file(path)
    now = {name: value for name, value in settings.items() if value is not None}
    for name in [*before, *now]:
        if before.get(name) != now.get(name):
            raise ConfigError(
                f"{path.parent}: {name} was {before.get(name, 'not given')!r} when the run began, and is now "
                f"{now.get(name, 'not given')!r}; a run that goes on keeps its settings"
            )
