"""``spikeloom eval``: what a trained network does on a split."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from .. import data, recipes
from ..runs import (
    CHECKPOINT,
    CONFIG,
    WEIGHTS,
    Config,
    ConfigError,
    UserError,
    average,
    choose_device,
    choose_progress,
    load_checkpoint,
    read_file,
    write_json,
    write_picture,
)  # fmt: skip
from ..runs import (
    split as share_out,
)
from ..runs.folder import must_agree
from ..runs.lock import held
from ..runs.settings import shown

HELP = """Measure a trained network: the figures of its recipe, and for a classifier precision, recall and F1 of each
class and the confusion matrix.

spikeloom eval runs/digits
spikeloom eval runs/digits/checkpoint.pt --split validation

Writes eval-SPLIT.json and, for a classifier, confusion-SPLIT.png."""


@dataclass(frozen=True)
class Trained:
    """What a run folder holds."""

    recipe: ModuleType
    config: Config
    net: nn.Module
    folder: Path


def evaluate(
    path: Path, *, split: str, out: Path | None, device: str, data_root: str | None, workers: int
) -> dict[str, Any]:
    """Measures, prints and writes; returns the figures."""
    trained = load(path)
    out = out or trained.folder
    with held(out) if (out / CONFIG).exists() else nullcontext():  # the folder of a run that may be running
        return _measured(trained, split, out=out, device=device, data_root=data_root, workers=workers)


def _measured(
    trained: Trained, split: str, *, out: Path, device: str, data_root: str | None, workers: int
) -> dict[str, Any]:
    where = choose_device(device)
    root = data_root or _root_of(trained.folder)
    loader, classes = _loader(trained, split, root, workers)
    net = trained.net.to(where)
    recipe, config = trained.recipe, trained.config
    counts = torch.zeros(len(classes), len(classes), dtype=torch.int64)

    def measures(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        if not classes:
            found: dict[str, Tensor] = recipe.measures(net, x, y, config)
            return found
        predicted = recipe.scores(net, x, config).argmax(-1)
        counts.index_put_((y.cpu(), predicted.cpu()), torch.tensor(1), accumulate=True)
        return {"accuracy": predicted == y}

    progress = choose_progress(first=True)
    figures = average(net, loader, measures, device=where, seed=config.seed, progress=progress, label=split)
    result: dict[str, Any] = {"run": str(trained.folder), "split": split, "samples": len(loader.dataset), **figures}  # type: ignore[arg-type]
    if classes:
        result["classes"] = by_class(counts, classes)
        result["confusion"] = counts.tolist()
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"eval-{split}.json", result)
    _show(result, Console())
    if classes:
        write_picture(out / f"confusion-{split}.png", partial(_picture, counts, classes, result))
    return result


def load(path: Path) -> Trained:
    """The network of a run folder, or of a file in one, with its weights."""
    try:
        folder = path if path.is_dir() else path.parent
        there = path.exists()
    except (OSError, ValueError):  # a name that no file can have
        there = False
    if not there:
        raise UserError(f"{shown(str(path))}: there is no such run folder, checkpoint or weights file")
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder}: no run folder, it has no {CONFIG}")
    values = read_file(folder / CONFIG)
    name = str(values.pop("recipe", ""))
    recipe = recipes.get(name)
    (settings,) = share_out(values, recipe.Config, where=str(folder / CONFIG))
    config = recipe.Config(**settings)
    file = path if path.is_file() else folder / WEIGHTS
    if not file.exists():
        file = folder / CHECKPOINT
    if not file.exists():
        raise UserError(f"{folder}: has neither {WEIGHTS} nor {CHECKPOINT}; was the run stopped before its first save?")
    net = recipe.build(config)
    try:
        net.load_state_dict(_weights(file, {"recipe": name, **asdict(config)}))
    except (RuntimeError, ValueError, KeyError) as problem:
        raise UserError(f"{file}: the weights do not fit the network of {folder / CONFIG}: {problem}") from problem
    return Trained(recipe, config, net, folder)


def by_class(counts: Tensor, classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and number of samples of each class, from a confusion matrix (rows: true class).

    A class that was never predicted has precision 0.
    """
    right = counts.diagonal().double()
    predicted, true = counts.sum(0).double(), counts.sum(1).double()
    precision, recall = right / predicted.clamp(min=1), right / true.clamp(min=1)
    f1 = 2 * right / (predicted + true).clamp(min=1)
    rows = zip(classes, precision.tolist(), recall.tolist(), f1.tolist(), true.long().tolist(), strict=True)
    return {name: {"precision": p, "recall": r, "f1": f, "samples": n} for name, p, r, f, n in rows}


def _weights(file: Path, settings: dict[str, Any]) -> dict[str, Tensor]:
    """The network's state in a file; a checkpoint says which settings it is of, and they must be these."""
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except SafetensorError as problem:
            raise UserError(f"{file}: damaged or no weights file: {problem}") from problem
    state = load_checkpoint(file)
    if "parts" not in state or "net" not in state["parts"]:
        raise UserError(f"{file}: no checkpoint of a run: it has no parts, net")
    must_agree(file, {"recipe": state.get("recipe"), **state.get("config", {})}, settings)
    found: dict[str, Tensor] = state["parts"]["net"]
    return found


def _root_of(folder: Path) -> str | None:
    """The data folder that the run was given."""
    try:
        found = json.loads((folder / "environment.json").read_text())["machine"]["data_root"]
    except (OSError, ValueError, KeyError):
        return None
    return found if isinstance(found, str) else None


def _loader(trained: Trained, split: str, root: str | None, workers: int) -> tuple[data.Loader, tuple[str, ...]]:
    c = trained.config
    loaders: data.Loaders = trained.recipe.data(c, **c.loading(), workers=workers, root=root)
    if split not in ("train", "validation", "test"):
        raise ConfigError(f"split must be one of test, validation, train; got {split!r}")
    loader = getattr(loaders, split)
    if loader is None:
        raise ConfigError(f"{trained.folder}: the run held no validation samples out; choose --split test or train")
    return loader, loaders.classes if hasattr(trained.recipe, "scores") else ()


def _show(result: dict[str, Any], console: Console) -> None:
    for name, value in result.items():
        if isinstance(value, float):
            shown = f"{100 * value:.2f} %" if name == "accuracy" else f"{value:.6g}"
            console.print(f"{name.replace('_', ' ')} {shown} on {result['samples']:,} {result['split']} samples")
    if "classes" not in result:
        return
    table = Table("class", "precision", "recall", "F1", "samples")
    for name, row in result["classes"].items():
        shares = (f"{100 * row[k]:.2f} %" for k in ("precision", "recall", "f1"))
        table.add_row(name, *shares, f"{row['samples']:,}")
    console.print(table)


def _picture(counts: Tensor, classes: tuple[str, ...], result: dict[str, Any]) -> Any:
    from .. import plot

    title = f"{100 * result['accuracy']:.2f} % of {result['samples']:,} {result['split']} samples"
    return plot.confusion(counts, classes, title=title).figure
