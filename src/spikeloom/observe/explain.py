"""sl.explain: which backend runs each neuron of a network, which layers use spikes as bits, and why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .._text import table
from ..core import Network
from ..core.places import named
from ..core.running import Now, running
from ..kernel.backend import watching


@dataclass(frozen=True)
class Row:
    """One neuron, one layer that was given spikes of one bit, or one batch norm of a model with a forward of its own,
    and how it ran: its path, its class, and why so.

    ``backend`` is ``"c"``, ``"triton"`` or ``"eager"`` for a neuron, ``"bits"`` or ``"unpacked"`` for a layer, and for
    a batch norm ``"joined"``, with the neuron, or ``"alone"``, with what needed its output.
    """

    path: str
    module: str
    backend: str
    reason: str


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found; ``str()`` is a table."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        return table(
            [("path", "module", "backend", "why"), *((r.path, r.module, r.backend, r.reason) for r in self.rows)]
        )


def explain(net: Network, *args: Any, **kwargs: Any) -> Explanation:
    """Runs ``net(*args, **kwargs)`` without gradient and tells which backend ran each neuron, and why.

    Layers that were given spikes of one bit each (``spikes="packed"``) are there too: whether they computed from the
    bits, and of what share of spikes, or for which operator these were unpacked. So are batch norms that could join a
    neuron wherever the model calls the two: which neuron each joined, or what else looked at its output. The network's
    training flag stays as it is, so batch norm in training updates its statistics; call ``net.eval()`` first where
    that matters.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Linear(4, 3), sl.LIF())
    >>> with sl.backend("eager"):
    ...     print(sl.explain(net, torch.rand(5, 2, 4)))
    path  module  backend  why
    1     LIF     eager    chosen
    """
    if not hasattr(net, "temporal_modules"):  # a compiled network has them too
        raise TypeError(f"explain: expected a Network, got {type(net).__name__}; wrap the model, sl.Network(model)")
    paths = named(net)
    net.structure()[2].forget()
    with running(net) as now:
        notes = _Notes(now)
        with watching(notes), torch.no_grad():
            net(*args, **kwargs)
    rows = (Row(paths.get(ran, "?") or "the body", type(ran).__name__, name, why) for ran, name, why in notes)
    return Explanation(tuple(dict.fromkeys(rows)))


class _Notes(list[tuple[Any, str, str]]):
    """Notes of what ran; where nobody is named, the module that runs now."""

    def __init__(self, now: Now) -> None:
        super().__init__()
        self._now = now

    def append(self, note: tuple[Any, str, str]) -> None:
        here = self._now() if note[0] is None else None
        super().append(note if here is None else (here[1], *note[1:]))
