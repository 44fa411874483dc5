"""Folders that hold a model: ``model.safetensors`` with weights and constants, ``config.json`` with how it is built.

Those that come with the package lie in ``weights``, below the model's name.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from .._extras import install

WEIGHTS, CONFIG, FORMAT = "model.safetensors", "config.json", 1
OWN = Path(__file__).parent / "weights"
"""Where the weights that come with the package are."""


class Stored(NamedTuple):
    """What ``config.json`` says: the model's name, its arguments, whether it had neurons of its own, and facts."""

    name: str
    arguments: dict[str, Any]
    own_neuron: bool
    sha256: str
    facts: dict[str, Any]


def described(folder: Path) -> Stored:
    """What the folder's ``config.json`` says; raises ValueError if it is none of :func:`spikeloom.models.save`."""
    file = folder / CONFIG
    kinds = {"name": str, "arguments": dict, "own_neuron": bool, "sha256": str, "facts": dict}
    try:
        config: Any = json.loads(file.read_text())
    except ValueError as problem:
        raise ValueError(f"{file}: no JSON: {problem}") from problem
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{file}: expected format {FORMAT} of sl.models.save, got another file or a later format")
    wrong = [name for name, kind in kinds.items() if not isinstance(config.get(name), kind)]
    if wrong:
        raise ValueError(f"{file}: damaged, {', '.join(wrong)} is missing or of another kind")
    return Stored(*(config[name] for name in kinds))


def state(folder: Path, stored: Stored) -> dict[str, Tensor]:
    """The weights and constants in the folder; raises ValueError if they are not those that its config names."""
    weights = (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(weights).hexdigest() != stored.sha256:
        raise ValueError(f"{folder / WEIGHTS}: damaged, or not the weights that {CONFIG} beside it was written with")
    loaded: dict[str, Tensor] = safetensors().load(weights)
    return loaded


def safetensors() -> Any:
    """The module ``safetensors.torch``; raises ModuleNotFoundError, which names the extra, without it."""
    try:
        import safetensors.torch
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            f"models.save and load need safetensors; install the extra: {install('cli')}", name=missing.name
        ) from missing
    return safetensors.torch


def own(name: str) -> dict[str, Path]:
    """The folders of the weights that come with the package for a model, by the weights' names."""
    found = OWN / name
    return {folder.name: folder for folder in sorted(found.iterdir())} if found.is_dir() else {}
