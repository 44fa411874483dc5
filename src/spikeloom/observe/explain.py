"""sl.explain: which backend runs each neuron of a network, which layers use spikes as bits, and why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .._hooks import Onlooker
from ..core import Network
from ..kernel.backend import note, watching


@dataclass(frozen=True)
class Row:
    """One neuron, or one layer that was given spikes of one bit, and how it ran: its path, its class, and why so.

    ``backend`` is ``"c"``, ``"triton"`` or ``"eager"`` for a neuron; ``"bits"`` or ``"unpacked"`` for a layer.
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
        table = [("path", "module", "backend", "why"), *((r.path, r.module, r.backend, r.reason) for r in self.rows)]
        widths = [max(len(row[k]) for row in table) for k in range(3)]
        lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in table]
        return "\n".join(line.rstrip() for line in lines)


def explain(net: Network, *args: Any, **kwargs: Any) -> Explanation:
    """Runs ``net(*args, **kwargs)`` without gradient and tells which backend ran each neuron, and why.

    Layers that were given spikes of one bit each (``spikes="packed"``) are there too: whether they computed from the
    bits, and of what share of spikes, or for which operator these were unpacked. The network's training flag stays as
    it is, so batch norm in training updates its statistics; call ``net.eval()`` first where that matters.

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
    modules = net.temporal_modules()
    paths = {id(module): path for module, path in modules.items()}
    for module, path in modules.items():  # what runs inside another one goes by its name
        for inner in module.modules():
            paths.setdefault(id(inner), path)
    for path, layer in net.body.named_modules():
        paths.setdefault(id(layer), path or "the body")
    with watching() as seen, _marking(paths), torch.no_grad():
        net(*args, **kwargs)
    rows: list[Row] = []
    running: list[object] = []
    for who, name, reason in seen:
        if name == "begins":
            running.append(who)
        elif name == "ends":
            running.pop()
        else:
            ran = running[-1] if who is None and running else who
            rows.append(Row(paths.get(id(ran), "?"), type(ran).__name__, name, reason))
    return Explanation(tuple(dict.fromkeys(rows)))


@contextmanager
def _marking(modules: Any) -> Iterator[None]:
    """Notes when modules begin and end. By hooks for all modules, since a layer with one of its own is not fused."""

    def begin(module: nn.Module, args: Any) -> None:
        if id(module) in modules:
            note(module, "begins", "")

    def end(module: nn.Module, args: Any, output: Any) -> None:
        if id(module) in modules:
            note(module, "ends", "")

    hooks = nn.modules.module
    first = hooks.register_module_forward_pre_hook(Onlooker(begin))
    last = hooks.register_module_forward_hook(Onlooker(end))
    try:
        yield
    finally:
        first.remove()
        last.remove()
