"""Memory of training: what a network keeps for the backward pass, and how to keep less.

``sl.memory.report`` lists it, ``sl.memory.checkpoint`` and ``Network(..., spikes="packed")`` reduce it;
``retain_memory`` and ``release_memory`` are about the allocator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._text import table
from ..core import Checkpoint, Network, checkpoint
from ..core.running import running
from ..native import release_memory, retain_memory
from ..spikes import SpikeTensor

__all__ = ["Checkpoint", "Report", "Row", "checkpoint", "release_memory", "report", "retain_memory"]


@dataclass(frozen=True)
class Row:
    """What one module keeps: its path and class, bytes, and how many of them are spikes of one bit each.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Linear(100, 1000), sl.LIF(), torch.nn.Linear(1000, 10), spikes="packed")
    >>> row = sl.memory.report(net, torch.rand(8, 4, 100)).rows[-1]
    >>> row.path, row.module, row.saved, row.bits  # 32,000 spikes in 4,000 bytes
    ('2', 'Linear', 4000, 4000)
    """

    path: str
    module: str
    saved: int
    bits: int


@dataclass(frozen=True)
class Report:
    """What :func:`report` found; ``str()`` is a table.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Linear(2, 4), sl.LIF())
    >>> report = sl.memory.report(net, torch.ones(10, 1, 2))
    >>> report.parameters, report.saved == sum(row.saved for row in report.rows)  # (2 * 4 + 4) * 4 bytes
    (48, True)
    """

    rows: tuple[Row, ...]
    parameters: int
    """Bytes of parameters, which their gradients take once more."""

    @property
    def saved(self) -> int:
        """Bytes kept between the forward and the backward pass."""
        return sum(row.saved for row in self.rows)

    def __str__(self) -> str:
        rows = [("path", "module", "kept MB", "of it bits")]
        rows += [(r.path, r.module, f"{r.saved / 1e6:.3f}", f"{r.bits / 1e6:.3f}" if r.bits else "") for r in self.rows]
        rows += [("", "all", f"{self.saved / 1e6:.3f}", ""), ("", "parameters", f"{self.parameters / 1e6:.3f}", "")]
        return table(rows, right=(2, 3))


def report(net: Network, *args: Any, **kwargs: Any) -> Report:
    """Runs ``net(*args, **kwargs)`` and lists what each module keeps for the backward pass, each storage once.

    Parameters and the inputs of the network are not counted. In training batch norm updates its statistics. Paths are
    those of states; what an equation is made of goes by its neuron's.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Linear(100, 1000), sl.LIF(), torch.nn.Linear(1000, 10))
    >>> kept = {}
    >>> for net.spikes in ("dense", "packed"):
    ...     kept[net.spikes] = {row.path: row.saved for row in sl.memory.report(net, torch.rand(8, 4, 100)).rows}
    >>> kept["dense"]["2"], kept["packed"]["2"]  # what the last layer keeps: 32,000 spikes
    (128000, 4000)
    """
    known = {_key(t) for t in (*net.parameters(), *net.buffers()) if _key(t) is not None}
    known |= {_key(t) for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
    found: dict[str, list[int]] = {}
    kinds: dict[str, str] = {}
    alive: list[Any] = []

    def keep(tensor: Tensor) -> Tensor:
        key = _key(tensor)
        if key not in known:
            known.add(key)
            alive.append(tensor)  # or its address might be used again
            here, module = now() or ("", net)
            kinds.setdefault(here, type(module).__name__)
            size = tensor.storage_nbytes if isinstance(tensor, SpikeTensor) else tensor.untyped_storage().nbytes()
            counted = found.setdefault(here, [0, 0])
            counted[0] += size
            counted[1] += size if isinstance(tensor, SpikeTensor) else 0
        return tensor.detach()  # an output that its own graph keeps would never be freed

    try:
        with running(net) as now, torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            net(*args, **kwargs)
    finally:
        alive.clear()  # which the graph refers to, and they to the graph
    rows = tuple(Row(path, kinds[path], *sizes) for path, sizes in found.items())
    return Report(rows, sum(p.numel() * p.element_size() for p in net.parameters()))


def _key(tensor: Tensor) -> Any:
    inner = tensor.bits if isinstance(tensor, SpikeTensor) else tensor
    return inner.untyped_storage()._cdata
