"""The results of a run: its network with the trained weights, its settings and its data."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..data.loading import GIVEN, Loaders
from .checkpoint import load as load_checkpoint
from .config_file import read_file
from .folder import CHECKPOINT, CONFIG, INIT_FROM, RESULT, SPLIT, WEIGHTS, must_agree
from .settings import Config, ConfigError, UserError, shown, split


@dataclass(frozen=True)
class Trained:
    """A run that was loaded.

    Attributes:
        net: the network with the trained weights, in ``eval`` mode on the CPU.
        config: the settings that it was trained with.
        recipe: the module of its recipe, with ``scores(net, x, config)`` if it classifies.
        folder: the folder of the run.
        result: the figures that the run ended with; empty if it was stopped.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> import spikeloom as sl
    >>> recipe = sl.recipes.get("digits")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save(recipe.build(recipe.Config()).state_dict(), Path(folder) / "digits.pt")
    ...     trained = sl.runs.load_weights(Path(folder) / "digits.pt", "digits")
    >>> trained.config == recipe.Config(), trained.net.training, trained.result
    (True, False, {})
    >>> trained.recipe.scores(trained.net, torch.rand(5, 1, 8, 8), trained.config).shape
    torch.Size([5, 10])
    """

    net: nn.Module
    config: Config
    recipe: ModuleType
    folder: Path
    result: dict[str, Any]

    def loaders(self, root: str | Path | None = None, *, workers: int = 0) -> Loaders:
        """The loaders of its data, with the samples split and transformed as in training: see ``Loaders.transforms``.

        ``root`` is the folder of the data sets; None is the one that the run was given.
        """
        found = root if root is not None else _root_of(self.folder)
        loaders: Loaders = self.recipe.data(self.config, **self.config.loading(), workers=workers, root=found)
        return loaders


def load(path: str | Path) -> Trained:
    """The network of a run folder, or of a checkpoint or weights file in one, with its settings and its data.

    Raises UserError if there is no run, if it saved nothing yet, or if the weights do not fit.

    ::

        trained = sl.runs.load("runs/digits")
        images, labels = next(iter(trained.loaders().test))
        trained.recipe.scores(trained.net, images, trained.config).argmax(-1)

    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> from safetensors.torch import save_file
    >>> import spikeloom as sl
    >>> recipe = sl.recipes.get("digits")
    >>> with tempfile.TemporaryDirectory() as folder:  # as a run leaves it
    ...     _ = (Path(folder) / sl.runs.CONFIG).write_text('recipe = "digits"\\nseed = 7\\n')
    ...     save_file(recipe.build(recipe.Config()).state_dict(), Path(folder) / sl.runs.WEIGHTS)
    ...     sl.runs.write_json(Path(folder) / sl.runs.RESULT, {"test_accuracy": 0.97})
    ...     trained = sl.runs.load(folder)
    >>> trained.config.seed, trained.result["test_accuracy"]
    (7, 0.97)
    """
    path = Path(path)
    folder = _folder_of(path)
    values = read_file(folder / CONFIG)
    name = str(values.pop("recipe", ""))
    recipe, config, net = _built(name, values, str(folder / CONFIG))
    file = _weights_file(path, folder)
    fill(net, file, _read(file, {"recipe": name, **asdict(config)}), f"the network of {folder / CONFIG}")
    try:
        result = json.loads((folder / RESULT).read_text())
    except (OSError, ValueError):
        result = {}
    return Trained(net.eval(), config, recipe, folder, result)


def load_weights(file: str | Path, model: str) -> Trained:
    """The network of a weights file that is in no run folder, with the settings of a recipe.

    Args:
        file: a ``.safetensors`` file, a ``state_dict`` that ``torch.save`` wrote, or a checkpoint of a run.
        model: the name of the recipe whose ``build`` makes the network, with its default settings, or a file of
            settings (.toml, .yaml) that names its recipe.

    Raises UserError if the weights do not fit.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> import spikeloom as sl
    >>> recipe = sl.recipes.get("digits")
    >>> state = recipe.build(recipe.Config()).state_dict()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save(state, Path(folder) / "digits.pt")
    ...     trained = sl.runs.load_weights(Path(folder) / "digits.pt", "digits")
    >>> all(torch.equal(p, state[name]) for name, p in trained.net.named_parameters())
    True
    """
    file = Path(file)
    if not _is_file(file):
        raise UserError(f"{file} is a folder; give a weights file, or a run folder without a model")
    recipes = importlib.import_module("spikeloom.recipes")
    values: dict[str, Any] = {"recipe": model} if model in recipes.NAMES else {}
    if not values and Path(model).suffix in (".toml", ".yaml", ".yml"):
        values = read_file(Path(model))
    recipe, config, net = _built(str(values.pop("recipe", model)), values, model)
    fill(net, file, _read(file, None), f"the network of {model}")
    return Trained(net.eval(), config, recipe, file.parent, {})


def _built(name: str, values: dict[str, Any], where: str) -> tuple[ModuleType, Any, nn.Module]:
    """A recipe, its settings and its network, of settings by name; ``where`` says where they stand."""
    recipe: ModuleType = importlib.import_module("spikeloom.recipes").get(name)  # the config gives the name
    values.pop(INIT_FROM, None)
    (settings,) = split(values, recipe.Config, where=where)
    config = recipe.Config(**settings)
    return recipe, config, recipe.build(config)


def weights(path: str | Path) -> tuple[Path, dict[str, Tensor]]:
    """The file of weights of a run folder, or the given one, and the network's state in it."""
    file = _weights_file_of(Path(path))
    return file, _read(file, None)


def described(source: str | Path) -> dict[str, str]:
    """The file of weights that a run begins with, and its SHA-256, for ``environment.json``."""
    file = _weights_file_of(Path(source))
    return {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def must_not_have_seen(source: str | Path, split: Mapping[str, Any]) -> str | None:
    """Raises ConfigError if the run that gave the weights split the same data set in another way.

    Then samples that ``split`` has for testing were among those that the weights were trained on. What is compared is
    the ``split.json`` beside the weights; weights without one, and samples that the user gave, tell nothing.
    Where only the validation samples differ, the test is sound, and a note for the user is returned.
    """
    path = Path(source)
    try:
        folder = path if path.is_dir() else path.parent
        seen = json.loads((folder / SPLIT).read_text())
        data, files, tested, seed = seen["data"], seen.get("files"), seen["test"]["sha256"], seen["seed"]
        validated = seen["validation"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if data == GIVEN or (data, files) != (split["data"], split.get("files")):
        return None
    if tested == split["test"]["sha256"]:
        if not split["validation"]["samples"] or validated == split["validation"]["sha256"]:
            return None
        return (
            f"note: validation samples of this run were among the training samples of {shown(str(folder))}, which held "
            "out others; its validation figures are too good, those of the test are not concerned"
        )
    remedy = f"use --seed {seed}" if seed != split["seed"] else "use the settings that choose the samples there"
    raise ConfigError(
        f"init_from: test samples of this run were among the training samples of {shown(str(folder))}, which split "
        f"{data} with seed {seed}, this run with seed {split['seed']}; {remedy}",
        setting="init_from",
    )


def must_be_of(recipe: str, net: nn.Module, file: Path, state: Mapping[str, Tensor]) -> None:
    """Raises UserError if the parameters do not fit because the file is of a run of another recipe."""
    expected = {name: p.shape for name, p in net.named_parameters() if not is_lazy(p)}
    if all(name in state and state[name].shape == shape for name, shape in expected.items()):
        return
    try:
        theirs = read_file(file.parent / CONFIG).get("recipe", recipe)
    except ConfigError:
        return
    if theirs != recipe:
        raise UserError(
            f"{file} is of a run of recipe {theirs}, not {recipe}, and its weights do not fit the network of {recipe}; "
            f"give a run of {recipe}"
        )


def fill(net: nn.Module, file: Path, state: dict[str, Tensor], who: str) -> None:
    """Loads a state into a network; raises UserError if it does not fit."""
    try:
        net.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError) as problem:
        raise UserError(f"{file}: the weights do not fit {who}: {problem}") from problem


def _is_file(path: Path) -> bool:
    """Whether a path names a file, not a folder. Raises UserError where there is neither."""
    try:
        if path.exists():
            return not path.is_dir()
    except (OSError, ValueError):  # no file can have this name
        pass
    raise UserError(f"{shown(str(path))}: there is no such run folder, checkpoint or weights file")


def _folder_of(path: Path) -> Path:
    folder = path.parent if _is_file(path) else path
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder}: no run folder, it has no {CONFIG}")
    return folder


def _weights_file_of(path: Path) -> Path:
    return _weights_file(path, path.parent if _is_file(path) else _folder_of(path))


def _weights_file(path: Path, folder: Path) -> Path:
    if path.is_file():
        return path
    for name in (WEIGHTS, CHECKPOINT):
        if (folder / name).exists():
            return folder / name
    raise UserError(f"{folder}: has neither {WEIGHTS} nor {CHECKPOINT}; was the run stopped before its first save?")


def _read(file: Path, settings: dict[str, Any] | None) -> dict[str, Tensor]:
    """The network's state in a file. If ``settings`` are given, a checkpoint that was saved with others raises."""
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except SafetensorError as problem:
            raise UserError(f"{file}: damaged or no weights file: {problem}") from problem
    state = load_checkpoint(file)
    if state and settings is None and all(isinstance(value, Tensor) for value in state.values()):
        return state
    if "parts" not in state or "net" not in state["parts"]:
        raise UserError(f"{file}: no checkpoint of a run: it has no parts, net")
    if settings is not None:
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
