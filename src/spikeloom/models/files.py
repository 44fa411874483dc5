"""Folders of models: ``model.safetensors`` with weights and constants, ``config.json`` with how to build the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from .blocks import Model, NeuronFactory
from .registry import create
from .stored import CONFIG, FORMAT, WEIGHTS, described, safetensors, state


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
    kept = {name: t.detach().cpu().contiguous() for name, t in body.state_dict().items()}
    weights: bytes = safetensors().save(kept)
    config = {
        "format": FORMAT,
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
    stored = described(folder)
    if stored.own_neuron and neuron is None:
        raise ValueError(
            f"{folder}: {stored.name} was created with neurons of its own; give the factory again, neuron=..."
        )
    weights = state(folder, stored)
    model = create(stored.name, **stored.arguments, neuron=neuron)
    model.load_state_dict(weights)
    return model.eval()
