"""``spikeloom info`` and ``spikeloom list``."""

from __future__ import annotations

import os

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import data, kernel, models, native, recipes
from ..observe import catalogue
from ..runs import ConfigError, processor, versions


def info(*, clear_cache: bool) -> None:
    """Prints versions, devices, compiler, kernel cache and data, or clears the kernel cache."""
    console = Console(soft_wrap=True, highlight=False)
    if clear_cache:
        console.print(f"removed {native.clear_cache()} files; kernels are compiled again when they are needed")
        return
    facts = native.facts()
    rows: dict[str, str] = {**versions(), "processor": f"{processor()}, {os.cpu_count()} cores"}
    rows["threads"] = str(torch.get_num_threads())
    rows |= {f"device {name}": text for name, text in _devices().items()}
    rows["backends"] = ", ".join(_backends(facts))
    rows["backend chosen"] = os.environ.get("SPIKELOOM_BACKEND", "auto")
    rows |= {f"kernels: {name}": text for name, text in facts.items()}
    rows["data folder"] = str(data.data_root().absolute())
    for name in data.SETS:
        rows[f"data: {name}"] = "found" if data.available(name) else "not found"
    width = max(map(len, rows))
    for name, text in rows.items():
        console.print(f"{name:<{width}}  {text}", markup=False)


def _backends(facts: dict[str, str]) -> list[str]:
    """Those that can run a neuron here."""
    found = ["eager"] if "problem" in facts else ["eager", "c"]
    if torch.cuda.is_available():
        try:
            kernel.target_for(torch.device("cuda"), "triton")
        except native.BuildError:
            return found
        found.append("triton")
    return found


def names(what: str) -> None:
    """Prints one list of names, or all."""
    lists = {
        "recipes": recipes.NAMES,
        "neurons": catalogue.neurons(),
        "surrogates": catalogue.surrogates(),
        "data": {name: summary(name) for name in data.SETS},
        "models": {},
    }
    if what not in (*lists, "all"):
        raise ConfigError(f"list knows {', '.join(lists)} and all; got {what!r}")
    if what in ("models", "all"):
        lists["models"] = {name: _model(name) for name in models.names()}
    console = Console()
    for title, rows in lists.items():
        if what in (title, "all"):
            table = Table(title, "", box=None, header_style="bold")
            for name, text in rows.items():
                table.add_row(name, Text(text))
            console.print(table)


def summary(name: str) -> str:
    """A line on a data set: its title, the number of samples of each split, their shape."""
    d = data.describe(name)
    sizes = " + ".join("?" if n is None else f"{n:,}" for n in d.counts.values())
    return f"{d.title}; {sizes} samples {d.sample}"


def _model(name: str) -> str:
    """A line on a model: its size, what it is given, the first published figure, and weights that are here."""
    d = models.info(name)
    shape = " x ".join(map(str, d.input))
    own = [f"weights: {', '.join(d.weights)}"] if d.weights else []
    return "; ".join([f"{d.parameters:,} parameters, {shape}, {d.classes} classes", *map(str, d.figures[:1]), *own])


def _devices() -> dict[str, str]:
    found = {"cpu": f"{torch.get_num_threads()} threads"}
    for k in range(torch.cuda.device_count()):
        size = torch.cuda.get_device_properties(k).total_memory / 2**30
        found[f"cuda:{k}"] = f"{torch.cuda.get_device_name(k)}, {size:.0f} GiB"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found
