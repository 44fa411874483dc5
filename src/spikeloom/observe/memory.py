"""Memory of training: what a network keeps for the backward pass, and how to keep less.

``sl.memory.report`` lists it, ``sl.memory.checkpoint`` and ``Network(..., spikes="packed")`` reduce it;
``retain_memory`` and ``release_memory`` are about the allocator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._hooks import Onlooker
from ..core import Checkpoint, Network, checkpoint
from ..native import release_memory, retain_memory
from ..spikes import SpikeTensor

__all__ = ["Checkpoint", "Report", "Row", "checkpoint", "release_memory", "report", "retain_memory"]


@dataclass(frozen=True)
class Row:
    """What one module keeps: its path and class, bytes, and how many of them are spikes of one bit each."""

    path: str
    module: str
    saved: int
    bits: int


@dataclass(frozen=True)
class Report:
    """What :func:`report` found; ``str()`` is a table."""

    rows: tuple[Row, ...]
    parameters: int
    """Bytes of parameters, which their gradients take once more."""

    @property
    def saved(self) -> int:
        """Bytes kept between the forward and the backward pass."""
        return sum(row.saved for row in self.rows)

    def __str__(self) -> str:
        table = [("path", "module", "kept MB", "of it bits")]
        table += [
            (r.path, r.module, f"{r.saved / 1e6:.3f}", f"{r.bits / 1e6:.3f}" if r.bits else "") for r in self.rows
        ]
        table += [("", "all", f"{self.saved / 1e6:.3f}", ""), ("", "parameters", f"{self.parameters / 1e6:.3f}", "")]
        sizes = [max(len(row[k]) for row in table) for k in range(4)]
        left, right = str.ljust, str.rjust
        lines = [
            "  ".join(place(cell, n) for place, cell, n in zip((left, left, right, right), row, sizes, strict=True))
            for row in table
        ]
        return "\n".join(line.rstrip() for line in lines)


def _mb(size: int) -> str:
    return f"{size / 1e6:.3f}"


def report(net: Network, *args: Any, **kwargs: Any) -> Report:
    """Runs ``net(*args, **kwargs)`` and lists what each module keeps for the backward pass, each storage once.

    Parameters and the inputs of the network are not counted. In training batch norm updates its statistics.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Linear(100, 1000), sl.LIF(), torch.nn.Linear(1000, 10))
    >>> kept = {}
    >>> for net.spikes in ("dense", "packed"):
    ...     kept[net.spikes] = {row.path: row.saved for row in sl.memory.report(net, torch.rand(8, 4, 100)).rows}
    >>> kept["dense"]["body.2"], kept["packed"]["body.2"]  # what the last layer keeps: 32,000 spikes
    (128000, 4000)
    """
    names = {module: path for path, module in net.named_modules()}
    running: list[nn.Module] = []
    known = {_key(t) for t in (*net.parameters(), *net.buffers()) if _key(t) is not None}
    known |= {_key(t) for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
    found: dict[str, list[int]] = {}
    alive: list[Any] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        running.append(module)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        while running and running.pop() is not module:
            pass

    def keep(tensor: Tensor) -> Tensor:
        key = _key(tensor)
        if key not in known:
            known.add(key)
            alive.append(tensor)  # or its address might be used again
            here = next((names[m] for m in reversed(running) if m in names), "")
            size = tensor.storage_nbytes if isinstance(tensor, SpikeTensor) else tensor.untyped_storage().nbytes()
            counted = found.setdefault(here, [0, 0])
            counted[0] += size
            counted[1] += size if isinstance(tensor, SpikeTensor) else 0
        return tensor.detach()  # an output that its own graph keeps would never be freed

    hooks = torch.nn.modules.module
    before, after = Onlooker(enter), Onlooker(leave)
    handles = [hooks.register_module_forward_pre_hook(before), hooks.register_module_forward_hook(after)]
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            net(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
        alive.clear()  # which the graph refers to, and they to the graph
    kinds = {path: type(module).__name__ for module, path in names.items()}
    rows = tuple(Row(path, kinds[path], *sizes) for path, sizes in found.items())
    return Report(rows, sum(p.numel() * p.element_size() for p in net.parameters()))


def _key(tensor: Tensor) -> Any:
    inner = tensor.bits if isinstance(tensor, SpikeTensor) else tensor
    return inner.untyped_storage()._cdata
