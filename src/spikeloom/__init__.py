"""spikeloom: spiking neural networks in PyTorch. Write one time step, train at kernel speed.

>>> import torch
>>> import spikeloom as sl
>>> net = sl.Network(torch.nn.Linear(4, 8), sl.LIF(), torch.nn.Linear(8, 2))
>>> net(torch.rand(10, 3, 4)).shape  # [T, B, features] in, from rest; nothing to reset
torch.Size([10, 3, 2])
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from . import decode, encode, learn, loss, metrics, models, neuron, nn, options, surrogate
from ._extras import install
from ._peers import of_name, tell
from .core import (
    Loop,
    Network,
    Replacement,
    Result,
    Stream,
    TemporalModule,
    detach,
    graphed,
    replace,
    static,
    taps,
)
from .kernel import BackendError, backend
from .native import release_memory, retain_memory
from .neuron import *  # noqa: F403  # all neurons, which are listed there alone
from .observe import cite, explain, memory, neurons, surrogates
from .spikes import SpikeTensor, pack

if TYPE_CHECKING:
    from . import convert, data, plot, recipes, runs

__version__ = "0.1.0"

tell(decode, encode, learn, loss, metrics, neuron, nn, options, surrogate)

_LAZY = {
    "convert": "",
    "plot": "plot",
    "data": "data",
    "runs": "cli",
    "recipes": "cli",
}  # loaded on first use, with the extra that each needs, if any


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        try:
            return importlib.import_module(f".{name}", __name__)
        except ModuleNotFoundError as missing:
            remedy = f"install the extra: {install(_LAZY[name])}"
            raise ModuleNotFoundError(
                f"spikeloom.{name} needs {missing.name}; {remedy}", name=missing.name
            ) from missing
    if name in options.__all__:
        warnings.warn(
            f"sl.{name} is sl.options.{name} now; the old name will go in the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(options, name)
    raise AttributeError(f"module 'spikeloom' has no attribute {name!r}{of_name(name)}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


__all__ = [
    "BackendError",
    "Loop",
    "Network",
    "Replacement",
    "Result",
    "SpikeTensor",
    "Stream",
    "TemporalModule",
    "backend",
    "cite",
    "convert",
    "data",
    "decode",
    "detach",
    "encode",
    "explain",
    "graphed",
    "learn",
    "loss",
    "memory",
    "metrics",
    "models",
    "neurons",
    "nn",
    "options",
    "pack",
    "plot",
    "recipes",
    "release_memory",
    "replace",
    "retain_memory",
    "runs",
    "static",
    "surrogate",
    "surrogates",
    "taps",
]
__all__ += neuron.__all__
