"""Folders of models: ``model.safetensors`` with weights and constants, ``config.json`` with how to build the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from .._extras import install
from .blocks import Model, NeuronFactory
from .registry import create

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_FORMAT = 1


def save(model: nn.Module, folder: str | Path, *, facts: Mapping[str, Any] | None = None) -> Path:
    """Writes a model of :func:`create` into a folder, which is made if there is none; returns the folder.

    Args:
        model: the model, or a network around it.
        folder: where ``model.safetensors`` and ``config.json`` go; those of an earlier model are replaced.
        facts: what else belongs to the weights, as JSON holds it: data set, split, seed, T, accuracy and how the epoch
            was chosen. They are written down as they are.

    Weights go with the constants of neurons, so that a load with other neurons raises. A neuron factory cannot be
    written: ``load`` asks for it again. Raises TypeError for a module that :func:`create` did not make, and
    ModuleNotFoundError without safetensors (the extra ``cli``).
    """
    from ..data.atomic import atomically

    body = getattr(model, "body", model)
    if not isinstance(body, Model) or body.built is None:
        raise TypeError(f"models.save: expected a model of sl.models.create, got {type(body).__name__}")
    folder, built = Path(folder), body.built
    state = {name: t.detach().cpu().contiguous() for name, t in body.state_dict().items()}
    weights: bytes = _safetensors().save(state)
    config = {
        "format": _FORMAT,
        "name": built.name,
        "arguments": dict(built.arguments),
        "own_neuron": built.own_neuron,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "facts": dict(facts or {}),
    }
    text = json.dumps(config, indent=1, allow_nan=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    atomically(folder / WEIGHTS, lambda path: path.write_bytes(weights))
    atomically(folder / CONFIG, lambda path: path.write_text(text))
    return folder


def load(folder: str | Path, *, neuron: NeuronFactory | None = None) -> Model:
    """The model of a folder that :func:`save` wrote, with its weights, in ``eval`` mode on the CPU.

    ``neuron`` is the factory that the model was created with, where it was given one. Raises FileNotFoundError for
    missing files, ValueError for damaged ones and for a factory that is missing, and RuntimeError, as
    ``load_state_dict``, where the neurons are others than those that were saved.

    ::

        sl.models.save(net, "weights/digits", facts={"data": "digits", "T": 6, "seed": 0})
        net = sl.Network(sl.models.load("weights/digits"))
    """
    folder = Path(folder)
    config = _config(folder / CONFIG)
    name, arguments, own = config["name"], config["arguments"], config["own_neuron"]
    if own and neuron is None:
        raise ValueError(f"{folder}: {name} was created with neurons of its own; give the factory again, neuron=...")
    weights = (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(weights).hexdigest() != config["sha256"]:
        raise ValueError(f"{folder / WEIGHTS}: damaged, or not the weights that {CONFIG} beside it was written with")
    model = create(name, **arguments, **({} if neuron is None else {"neuron": neuron}))
    model.load_state_dict(_safetensors().load(weights))
    return model.eval()


def _config(file: Path) -> dict[str, Any]:
    kinds = {"name": str, "arguments": dict, "own_neuron": bool, "sha256": str}
    try:
        config: Any = json.loads(file.read_text())
    except ValueError as problem:
        raise ValueError(f"{file}: no JSON: {problem}") from problem
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise ValueError(f"{file}: expected format {_FORMAT} of sl.models.save, got another file or a later format")
    wrong = [name for name, kind in kinds.items() if not isinstance(config.get(name), kind)]
    if wrong:
        raise ValueError(f"{file}: damaged, {', '.join(wrong)} is missing or of another kind")
    return config


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            f"models.save and load need safetensors; install the extra: {install('cli')}", name=missing.name
        ) from missing
    return safetensors.torch
