"""``spikeloom eval``: measures a trained network on a split."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from .. import data, runs
from ..runs import (
    CONFIG,
    ConfigError,
    Confusion,
    Trained,
    UserError,
    average,
    choose_device,
    choose_progress,
    confusion_picture,
    write_json,
    write_picture,
)
from ..runs.lock import held
from .convert import as_spiking

HELP = """Measure a trained network: the figures of its recipe, and for a classifier precision, recall and F1 of each
class and the confusion matrix.

spikeloom eval runs/digits
spikeloom eval runs/digits/checkpoint.pt --split validation

Writes eval-SPLIT.json and, for a classifier, confusion-SPLIT.png."""


def evaluate(
    path: Path, *, split: str, out: Path | None, device: str, data_root: str | None, workers: int
) -> dict[str, Any]:
    """Measures the network, prints and writes the figures, and returns them."""
    trained = as_spiking(runs.load(path), device=device, root=data_root, workers=workers)
    out = out or trained.folder
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    with held(out) if (out / CONFIG).exists() else nullcontext():  # the run in this folder may be running
        return _measured(trained, split, out=out, device=device, data_root=data_root, workers=workers)


def _measured(
    trained: Trained, split: str, *, out: Path, device: str, data_root: str | None, workers: int
) -> dict[str, Any]:
    where = choose_device(device)
    loader, classes = _loader(trained, split, data_root, workers)
    net = trained.net.to(where)
    recipe, config = trained.recipe, trained.config

    def measures(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = recipe.measures(net, x, y, config)
        return found

    counted = Confusion(lambda net, x: recipe.scores(net, x, config), len(classes))
    progress = choose_progress(first=True)
    counts, chosen = counted.counts, counted if classes else measures
    figures = average(net, loader, chosen, device=where, seed=config.seed, progress=progress, label=split)
    result: dict[str, Any] = {"run": str(trained.folder), "split": split, "samples": len(loader.dataset), **figures}  # type: ignore[arg-type]
    if classes:
        result["classes"] = by_class(counts, classes)
        result["confusion"] = counts.tolist()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"--out {out}: no folder can be made there: {problem.strerror}") from problem
    write_json(out / f"eval-{split}.json", result)
    _show(result, Console())
    if classes:
        write_picture(out / f"confusion-{split}.png", partial(confusion_picture, counts, classes, split))
    return result


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


def _loader(trained: Trained, split: str, root: str | None, workers: int) -> tuple[data.Loader, tuple[str, ...]]:
    loaders = trained.loaders(root, workers=workers)
    if split not in ("train", "validation", "test"):
        raise ConfigError(f"--split must be one of test, validation, train; got {split!r}")
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
