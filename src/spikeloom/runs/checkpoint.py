"""Checkpoints that are whole or not there.

A checkpoint is an ordinary ``torch.save`` file. It is written under another name, forced to the disk, then renamed over
the old one, so that a process that is killed in between leaves the old one. Before it is loaded, the check sum of every
record is compared, and only tensors and plain values are unpickled.
"""

from __future__ import annotations

import random
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from .files import write
from .folder import must_agree
from .settings import UserError

FORMAT = 1
_SAVED = (
    "recipe", "config", "world", "threads", "epoch", "position", "step", "history", "seconds", "reported", "random",
    "sums", "parts",
)  # fmt: skip


class CheckpointError(UserError):
    """A checkpoint cannot be read, or the run cannot continue from it."""


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Writes tensors and plain values (numbers, text, lists, dicts, tuples) as a checkpoint."""
    buffer = BytesIO()
    torch.save(dict(state), buffer)
    write(path, buffer.getbuffer())


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint on the CPU, after checking that every byte is as it was written.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> import spikeloom as sl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "checkpoint.pt"
    ...     torch.save({"step": 3, "weight": torch.ones(2)}, file)
    ...     sl.runs.load_checkpoint(file)
    {'step': 3, 'weight': tensor([1., 1.])}
    """
    try:
        with zipfile.ZipFile(path) as records:
            broken = records.testzip()
        if broken is not None:
            raise CheckpointError(f"{path}: damaged: the check sum of its record {broken} is wrong; {_REMEDY}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no checkpoint") from None
    except CheckpointError:
        raise
    except Exception as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise CheckpointError(f"{path}: damaged or no checkpoint ({reason}); {_REMEDY}") from problem
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: expected a dictionary, got {type(state).__name__}; {_REMEDY}")
    return state


def load_own(path: Path, settings: Mapping[str, Any], world: int) -> dict[str, Any]:
    """The checkpoint of a run with these settings in ``world`` processes; raises if it comes from another run."""
    saved = load(path)
    if saved.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {saved.get('format')!r} is not {FORMAT}: another version")
    missing = [name for name in _SAVED if name not in saved]
    if missing:
        raise CheckpointError(f"{path}: no checkpoint of a run: it has no {missing[0]}")
    must_agree(path, {"recipe": saved["recipe"], **saved["config"]}, settings, longer=True)
    if saved["world"] != world:
        raise CheckpointError(
            f"{path}: was saved by {saved['world']} processes, this run has {world}; start it with torchrun "
            f"--nproc-per-node {saved['world']}"
        )
    return saved


_REMEDY = "restore it from a copy, or start the run anew with --overwrite"


def random_state() -> dict[str, Any]:
    """The states of all generators: Python's, NumPy's, torch's on the CPU and on the current CUDA device."""
    name, keys, position, has_gauss, cached = cast("tuple[str, Any, int, int, float]", np.random.get_state())
    state = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Sets all generators to the states of a :func:`random_state`."""
    random.setstate(state["python"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
