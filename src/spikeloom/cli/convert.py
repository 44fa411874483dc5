"""``spikeloom convert``: makes a spiking network of a trained ordinary one, and measures it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from .. import convert as conversion
from .. import runs
from ..core import CaptureError
from ..runs import CONFIG, ConfigError, Trained, UserError, average, choose_device, choose_progress, to_toml, write_json

HELP = """Convert the network of a run whose recipe trains an ordinary one, and measure the spiking network.

spikeloom convert runs/ann2snn-mnist --method delta --T 4

spikeloom eval runs/ann2snn-mnist-delta

spikeloom convert resnet20.safetensors --model ann2snn-cifar10 --method calibrated --T 16

Writes conversion.txt, which has the error of each layer, conversion.json, and what `spikeloom eval` needs to make the
same network again."""

FILE, REPORT = "conversion.json", "conversion.txt"
METHODS: Mapping[str, type[conversion.Method]] = {
    "rate": conversion.Rate,
    "balanced": conversion.Balanced,
    "calibrated": conversion.Calibrated,
    "delta": conversion.Delta,
    "exact": conversion.Exact,
    "few-spikes": conversion.FewSpikes,
}
_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Spiking(nn.Module):
    """A converted network that is called as the ordinary one was: values in, values out, T steps between.

    Args:
        result: the conversion.
        T: the number of steps.
    """

    def __init__(self, result: conversion.Result, T: int) -> None:
        super().__init__()
        self.network, self.T = result.network, T
        self._result = result

    def forward(self, *args: Any) -> Any:
        """The decoded output."""
        return self._result(*args, T=self.T)


def convert(
    path: Path,
    *,
    model: str | None,
    method: str,
    T: int,
    out: Path | None,
    calibration: int,
    options: Mapping[str, Any],
    device: str,
    data_root: str | None,
    workers: int,
) -> dict[str, Any]:
    """Converts, prints and writes; returns what ``conversion.json`` holds."""
    trained = runs.load(path) if model is None else runs.load_weights(path, model)
    named = trained.folder if model is None else path.with_suffix("")
    out = out or named.with_name(f"{named.name}-{method}")
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / FILE).exists())):
        raise UserError(f"--out {out} holds something else than a conversion; choose another folder")
    told: dict[str, Any] = {"method": method, "options": dict(options), "T": T, "calibration": calibration}
    result = _made(trained, told, device=device, root=data_root, workers=workers)
    loader = trained.loaders(data_root, workers=workers).test
    assert loader is not None
    steps = [t for t in _STEPS if result.method.delay < t < T] + [T]

    def measures(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {str(t): scores.argmax(1) == y for t, scores in result.after(x, steps=steps).items()}

    progress, where = choose_progress(first=True), choose_device(device)
    seed = trained.config.seed
    found = average(trained.net, loader, measures, device=where, seed=seed, progress=progress, label="test")
    told["accuracy"] = {t: found[str(t)] for t in steps}
    _write(out, trained, told, result, source=None if model is None else path)
    console = Console(soft_wrap=True, highlight=False)
    console.print(str(result.report), markup=False)
    for t, share in told["accuracy"].items():
        console.print(f"T = {t:<4} {100 * share:.2f} % of {len(loader.dataset):,} test samples", markup=False)  # type: ignore[arg-type]
    console.print(f"written into {out}/", markup=False)
    return told


def as_spiking(trained: Trained, *, device: str, root: str | None, workers: int) -> Trained:
    """The run with its spiking network, where its folder is that of a conversion; else as it is."""
    file = trained.folder / FILE
    if not file.exists():
        return trained
    try:
        told = json.loads(file.read_text())
        result = _made(trained, told, device=device, root=root, workers=workers)
    except (KeyError, ValueError) as problem:
        raise UserError(f"{file}: no conversion can be made of it: {problem}") from problem
    return replace(trained, net=Spiking(result, told["T"]).eval())


def _made(trained: Trained, told: Mapping[str, Any], *, device: str, root: str | None, workers: int) -> Any:
    """The conversion that ``conversion.json`` describes, on the device."""
    method = method_of(told["method"], told["options"], told["T"])
    if told["T"] <= method.delay:
        raise ConfigError(f"--T must be more than --delay, {method.delay}; got {told['T']}")
    loader = trained.loaders(root, workers=workers).train
    n = -(-told["calibration"] // trained.config.batch_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trained.config.seed)
        samples = torch.cat([x for x, _ in islice(loader, n)])[: told["calibration"]]
    where = choose_device(device)
    try:
        return conversion.convert(
            trained.net.to(where), method, calibrate=samples.to(where).split(100), spikes="packed", T=told["T"]
        )
    except (conversion.ConversionError, CaptureError) as problem:
        raise UserError(f"{trained.folder}: {problem}") from problem


def method_of(name: str, options: Mapping[str, Any], T: int) -> conversion.Method:
    """The method of a name with the options that are not None. Raises ConfigError."""
    if name not in METHODS:
        raise ConfigError(f"--method is one of {', '.join(METHODS)}; got {name!r}")
    kind = METHODS[name]
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    target = conversion.Rate if kind is conversion.Calibrated else kind
    own = {key: given.pop(key) for key in ("rounds", "weights", "voltages") if key in given and kind is not target}
    known = {field.name for field in fields(target)}  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            raise ConfigError(f"--{key.replace('_', '-')} is no option of the method {name}")
    if kind is conversion.Calibrated and "quantile" not in given:
        given.setdefault("threshold", "mse")
    if given.get("threshold") == "mse":
        given["T"] = T
    try:
        if kind is conversion.Calibrated:
            return conversion.Calibrated(conversion.Rate(**given), T=T, **own)
        return kind(**given)
    except ValueError as problem:
        raise ConfigError(str(problem)) from problem


def _write(
    out: Path, trained: Trained, told: Mapping[str, Any], result: conversion.Result, *, source: Path | None
) -> None:
    """The files of a conversion, and those of the run that say what was converted.

    A file of weights has its settings from ``--model``, whatever else lies in its folder.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"--out {out}: no folder can be made there: {problem.strerror}") from problem
    from safetensors.torch import save_file

    if source is None:
        for name in (CONFIG, "environment.json"):
            if (trained.folder / name).exists() and out.resolve() != trained.folder.resolve():
                shutil.copyfile(trained.folder / name, out / name)
    else:
        recipe = trained.recipe.__name__.rpartition(".")[2].replace("_", "-")
        (out / CONFIG).write_text(to_toml({"recipe": recipe, **asdict(trained.config)}))
    state = {name: t.detach().cpu().contiguous() for name, t in trained.net.state_dict().items()}
    save_file(state, out / "weights.safetensors")
    (out / REPORT).write_text(f"{result.report}\n")
    write_json(out / FILE, {"run": str(source or trained.folder), **told})
