"""``spikeloom train``: a sub-command for each recipe, whose options are the fields of its Config."""

from __future__ import annotations

import difflib
import inspect
import statistics
import typing
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from .. import recipes
from ..runs import CONFIG, Config, ConfigError, Machine, Run, Settings, read_file, split, write_json
from ..runs.folder import INIT_FROM
from ..runs.settings import metadata, option_name, shown
from ..runs.trained import must_not_have_seen

_SUFFIXES = (".toml", ".yaml", ".yml")


def explain() -> None:
    """Train a recipe, or what a config file or a run folder names.

    spikeloom train digits --epochs 5         a recipe, with options

    spikeloom train mine.toml                 a file: recipe = "digits", lr = 0.01

    spikeloom train runs/digits --resume      go on with a run that was stopped

    torchrun --nproc-per-node 2 -m spikeloom train digits

    Ctrl-C saves after the running step. The options of a recipe: spikeloom train digits --help.
    """


class Recipes(TyperGroup):
    """A group of commands that finds a recipe by its name, or by the config file or run folder that names it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the recipes."""
        return list(recipes.NAMES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a recipe, whose defaults are the settings of the file, if one is given."""
        if cmd_name in recipes.NAMES:
            return command(cmd_name, {}, where="", out=Path("runs") / cmd_name)
        path = Path(cmd_name)
        try:
            is_run = (path / CONFIG).exists()
        except (OSError, ValueError) as problem:  # no file can have this name
            raise ConfigError(f"{shown(cmd_name)}: cannot be read: {getattr(problem, 'strerror', problem)}") from None
        if is_run:
            file, out = path / CONFIG, path
        elif path.suffix in _SUFFIXES:
            file, out = path, Path("runs") / path.stem
        else:
            near = difflib.get_close_matches(cmd_name, recipes.NAMES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(recipes.NAMES)}"
            raise ConfigError(f"{shown(cmd_name)} is no recipe, config file (.toml, .yaml) or run folder; {hint}")
        values = read_file(file)
        name = values.pop("recipe", None)
        if not isinstance(name, str):
            raise ConfigError(f'{file}: has to name its recipe, as in recipe = "digits"')
        begun = values.pop(INIT_FROM, None)
        if not isinstance(begun, str | None):
            raise ConfigError(f"{file}: {INIT_FROM} must name a run or weights file, got {shown(begun)}")
        return command(name, values, where=str(file), out=out, init_from=begun)


def command(name: str, given: Mapping[str, Any], *, where: str, out: Path, init_from: str | None = None) -> Any:
    """The command of one recipe, with the settings ``given`` (read from ``where``) and the others as defaults."""
    recipe = recipes.get(name)
    for values, kind in zip(split(given, recipe.Config, Machine, where=where), (recipe.Config, Machine), strict=True):
        _made(kind, values, where)

    def run(
        *, out: Path, resume: bool, overwrite: bool, seeds: int, init_from: str | None = None, **values: Any
    ) -> None:
        config, machine = split(values, recipe.Config, Machine, where=name)
        made = recipe.Config(**config), Machine(**machine)
        train(name, recipe, *made, out=out, resume=resume, overwrite=overwrite, seeds=seeds, init_from=init_from)

    parameters = [
        *_parameters(recipe.Config, given, "Settings of the recipe"),
        *_parameters(Machine, given, "Machine"),
        _parameter("out", Path, out, "folder of the run", "Run"),
        _parameter(
            "resume",
            bool,
            False,
            "go on with the run in --out, or for more --epochs; begin it, if there is none",
            "Run",
        ),
        _parameter("overwrite", bool, False, "replace a run in --out", "Run"),
        _parameter(INIT_FROM, str | None, init_from, "begin with the weights of a run or weights file", "Run"),
        _parameter("seeds", int, 1, "train so many seeds, from --seed on, each in a folder of its own", "Run"),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__doc__ = _unwrapped(recipe.__doc__ or "")
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command(name)(run)
    return typer.main.get_command(app)


def train(
    name: str,
    recipe: ModuleType,
    config: Config,
    machine: Machine,
    *,
    out: Path,
    resume: bool,
    overwrite: bool,
    seeds: int,
    init_from: str | None = None,
) -> None:
    """Trains one seed, or several one after the other, whose figures are also written to ``summary.json``."""
    if seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {seeds}")
    results = []
    last = replace(
        config, seed=config.seed + seeds - 1
    )  # else a last seed out of range raises after all others trained
    if seeds > 1 and init_from is not None and not resume:  # the same of a last seed whose test samples were trained on
        loading = {**last.loading(), "workers": 0, "root": machine.data_root}
        must_not_have_seen(init_from, recipe.data(last, **loading).split)
    for seed in range(config.seed, config.seed + seeds):
        one = replace(config, seed=seed)
        folder = out if seeds == 1 else out / f"seed-{seed}"
        with Run(name, one, machine, out=folder, resume=resume, overwrite=overwrite, init_from=init_from) as run:
            recipe.train(one, run)
            first = run.processes.first
        results.append(run.result)
    if seeds > 1 and first:
        figures = _figures(results)
        write_json(out / "summary.json", {"recipe": name, "seeds": [r["seed"] for r in results], "figures": figures})
        typer.echo(_summary(len(results), figures))


def _figures(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """All values of each figure over several seeds, with their mean and their standard deviation."""
    found = {}
    for name in results[0]:
        if name not in ("recipe", "seed", "epochs", "steps", "seconds"):
            values = [r[name] for r in results]
            found[name] = {"mean": statistics.mean(values), "deviation": statistics.stdev(values), "values": values}
    return found


def _summary(seeds: int, figures: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f"{seeds} seeds:"]
    for name, row in figures.items():
        factor, unit, form = (100, " %", "{:.2f}") if name.endswith("accuracy") else (1, "", "{:.4g}")
        each = ", ".join(form.format(factor * v) for v in row["values"])
        mean, deviation = (form.format(factor * row[k]) for k in ("mean", "deviation"))
        lines.append(f"{name.replace('_', ' ')}: mean {mean}{unit}, standard deviation {deviation} ({each})")
    return "\n".join(lines)


def _made(kind: type[Settings], values: Mapping[str, Any], where: str) -> Settings:
    try:
        return kind(**values)
    except ConfigError as problem:
        raise ConfigError(f"{where}: {problem}") from None


def _parameters(kind: type[Settings], given: Mapping[str, Any], panel: str) -> list[inspect.Parameter]:
    """An option for each field, whose default is the value that the file gives, or else that of the class."""
    types = typing.get_type_hints(kind)
    found = []
    for f in fields(kind):
        about = metadata(kind, f.name)
        choices = about.get("choices")
        text = f"{about['help']}: {', '.join(choices)}" if choices else about["help"]
        found.append(_parameter(f.name, types[f.name], given.get(f.name, f.default), text, panel))
    return found


def _parameter(name: str, kind: Any, default: Any, text: str, panel: str) -> inspect.Parameter:
    shown = text[0].upper() + text[1:] + "."
    typed = option_name(name)
    if kind is bool and panel != "Run":
        typed += f"/--no-{typed.removeprefix('--')}"  # a file, or the recipe, may have said yes
    option = typer.Option(typed, help=shown, rich_help_panel=panel)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _unwrapped(text: str) -> str:
    """A docstring for a terminal of any width: each paragraph is one line, each indented example a paragraph.

    Quotation marks of code are removed, and square brackets are escaped, so that they are no markup.
    """
    text, blocks = escape(text.replace("``", "")), []
    for block in inspect.cleandoc(text).split("\n\n"):
        blocks += [line.strip() for line in block.split("\n")] if block.startswith(" ") else [block.replace("\n", " ")]
    return "\n\n".join(blocks)
