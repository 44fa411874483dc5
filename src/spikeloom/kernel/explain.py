"""sl.explain: which backend runs each neuron of a network, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..core import Network
from .backend import watching


@dataclass(frozen=True)
class Row:
    """One neuron and how it ran: its path, its class, ``"c"`` or ``"eager"``, and why it is not a kernel."""

    path: str
    neuron: str
    backend: str
    reason: str


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found; ``str()`` is a table."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        table = [("path", "neuron", "backend", "why"), *((r.path, r.neuron, r.backend, r.reason) for r in self.rows)]
        widths = [max(len(row[k]) for row in table) for k in range(3)]
        lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in table]
        return "\n".join(line.rstrip() for line in lines)


def explain(net: Network, *args: Any, **kwargs: Any) -> Explanation:
    """Runs ``net(*args, **kwargs)`` without gradient and tells which backend ran each neuron, and why.

    The network's training flag stays as it is, so batch norm in training updates its statistics; call ``net.eval()``
    first where that matters.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Linear(4, 3), sl.LIF())
    >>> with sl.backend("eager"):
    ...     print(sl.explain(net, torch.rand(5, 2, 4)))
    path  neuron  backend  why
    1     LIF     eager    chosen
    """
    modules = net.temporal_modules()
    paths = {id(module): path for module, path in modules.items()}
    for module, path in modules.items():  # what runs inside another one goes by its name
        for inner in module.modules():
            paths.setdefault(id(inner), path)
    with watching() as seen, torch.no_grad():
        net(*args, **kwargs)
    rows = (Row(paths.get(id(neuron), "?"), type(neuron).__name__, name, reason) for neuron, name, reason in seen)
    return Explanation(tuple(dict.fromkeys(rows)))
