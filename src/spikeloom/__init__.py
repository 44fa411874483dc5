"""spikeloom: spiking neural networks in PyTorch. Write one time step, train at kernel speed.

>>> import torch
>>> import spikeloom as sl
>>> net = sl.Network(torch.nn.Linear(4, 8), sl.LIF(), torch.nn.Linear(8, 2))
>>> net(torch.rand(10, 3, 4)).shape  # [T, B, features] in, from rest; nothing to reset
torch.Size([10, 3, 2])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import decode, encode, loss, metrics, nn, surrogate
from .core import (
    Loop,
    Network,
    Replacement,
    Result,
    Stream,
    TemporalModule,
    detach,
    replace,
    static,
    taps,
)
from .kernel import BackendError, backend
from .native import release_memory, retain_memory
from .neuron import (
    ALIF,
    CLIF,
    EIF,
    IF,
    ILIF,
    KLIF,
    LI,
    LIAF,
    LIF,
    MPBN,
    PLIF,
    QIF,
    SLTT,
    STBIF,
    ActivationAwareIF,
    Adaptive,
    AdEx,
    Alpha,
    DeltaLeaky,
    FewSpike,
    FewSpikeTable,
    Graded,
    HalfThreshold,
    Izhikevich,
    Lapicque,
    Leaky,
    Neuron,
    Noisy,
    Option,
    Refractory,
    ResonateFire,
    SEAdLIF,
    SigmaDelta,
    StateQuant,
    Synaptic,
    TernaryIF,
    TernaryLIF,
)
from .observe import cite, explain, memory, neurons, surrogates
from .spikes import SpikeTensor, pack

if TYPE_CHECKING:
    from . import data, plot, recipes, runs

__version__ = "0.1.0"

_LAZY = {
    "plot": "plot",
    "data": "data",
    "runs": "cli",
    "recipes": "cli",
}  # loaded on first use, with the extra that each needs


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        try:
            return importlib.import_module(f".{name}", __name__)
        except ModuleNotFoundError as missing:
            remedy = f"install the extra: pip install 'spikeloom[{_LAZY[name]}]'"
            raise ModuleNotFoundError(
                f"spikeloom.{name} needs {missing.name}; {remedy}", name=missing.name
            ) from missing
    raise AttributeError(f"module 'spikeloom' has no attribute {name!r}")


__all__ = [
    "ALIF",
    "CLIF",
    "EIF",
    "IF",
    "ILIF",
    "KLIF",
    "LI",
    "LIAF",
    "LIF",
    "MPBN",
    "PLIF",
    "QIF",
    "SLTT",
    "STBIF",
    "ActivationAwareIF",
    "AdEx",
    "Adaptive",
    "Alpha",
    "BackendError",
    "DeltaLeaky",
    "FewSpike",
    "FewSpikeTable",
    "Graded",
    "HalfThreshold",
    "Izhikevich",
    "Lapicque",
    "Leaky",
    "Loop",
    "Network",
    "Neuron",
    "Noisy",
    "Option",
    "Refractory",
    "Replacement",
    "ResonateFire",
    "Result",
    "SEAdLIF",
    "SigmaDelta",
    "SpikeTensor",
    "StateQuant",
    "Stream",
    "Synaptic",
    "TemporalModule",
    "TernaryIF",
    "TernaryLIF",
    "backend",
    "cite",
    "data",
    "decode",
    "detach",
    "encode",
    "explain",
    "loss",
    "memory",
    "metrics",
    "neurons",
    "nn",
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
