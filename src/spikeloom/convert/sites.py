"""Sites: the places of a model where an activation becomes a neuron."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from .errors import ConversionError
from .qcfs import QCFS
from .statistics import Histogram
from .vocabulary import Operation
from .working import Working


@dataclass(eq=False)
class Site:
    """One call of an operation that a method replaces.

    Args:
        path: where its neuron will be; that of the module it replaces, where there is one.
        where: ``file:line`` of the user's code.
        operation: what it is.
        module: the module it was; None for a function.
        shape: of its output on the example.
        dim: the dimension of its output that holds channels.
        histogram: the absolute values of its output on the calibration data, by channel.
        inputs: those of its inputs, all together.
        node: the node of the graph.
    """

    path: str
    where: str
    operation: Operation
    module: nn.Module | None
    shape: torch.Size
    dim: int
    node: fx.Node
    histogram: Histogram
    inputs: Histogram

    @property
    def channels(self) -> int:
        """How many channels the output has; a value for each sample has one."""
        return self.shape[self.dim] if self.dim else 1

    def number(self, values: Tensor) -> Tensor | float:
        """Values by channel as a number of a neuron: dimension 1 of the step is the first of such a number."""
        if values.numel() == 1:
            return float(values)
        return values.reshape(
            *(1,) * (self.dim - 1), -1, *(1,) * (0 if self.dim == 1 else len(self.shape) - 1 - self.dim)
        )

    def decoded(self, threshold: Tensor) -> Tensor:
        """Values by channel that broadcast against the output."""
        if threshold.numel() == 1:
            return threshold.reshape(())
        return threshold.reshape(-1, *(1,) * (len(self.shape) - 1 - self.dim))

    def learned(self) -> Tensor | None:
        """The threshold that was trained, of a QCFS."""
        if not isinstance(self.module, QCFS):
            return None
        found = self.module.scale.detach().double().cpu().reshape(1)
        if not bool(found > 0):
            raise ConversionError(
                f"{self} has learned the scale {float(found):.4g}, which is no threshold: train with a smaller rate, "
                "or set it to a positive value"
            )
        return found

    def function(self) -> Callable[[Tensor], Tensor]:
        """The activation of a tensor on the CPU."""
        if isinstance(self.module, QCFS):
            return copy.deepcopy(self.module).cpu()
        assert self.operation.function is not None
        return self.operation.function

    def __str__(self) -> str:
        return f"{self.operation.name} at {self.path!r}" + (f" ({self.where})" if self.where else "")


def sites_of(work: Working, nodes: list[fx.Node]) -> list[Site]:
    """The sites of some nodes, in order; a module that is called twice is two of them."""
    seen: set[nn.Module] = set()
    taken: set[str] = set()
    found: list[Site] = []
    for node in nodes:
        operation, module = node.meta["operation"], None
        if node.op == "call_module":
            module, path = work.at(node), str(node.target)
            if module in seen:
                prefix, _, name = path.rpartition(".")
                path = work.free_path(prefix, name, taken)
            seen.add(module)
        else:
            path = work.free_path(node.meta["path"], operation.name, taken)
        taken.add(path)
        shape = node.meta["shape"] or torch.Size(())  # none where a rule is for what gives several tensors
        dim = _channels(work, node) if len(shape) else 0
        histogram = Histogram(shape[dim] if dim else 1)
        found.append(Site(path, node.meta["where"], operation, module, shape, dim, node, histogram, Histogram(1)))
    return found


def calibrate(work: Working, sites: list[Site], batches: list[list[Tensor]]) -> None:
    """Runs the model on the batches and notes the values at each site."""
    at = {site.node: site for site in sites}
    sources = {site: work.signals(site.node) for site in sites}

    def seen(node: fx.Node, value: Any) -> Any:
        site = at.get(node)
        if site is not None and isinstance(value, Tensor):
            site.histogram.add(value, site.dim)
        for user in node.users:
            if user in at and node in sources[at[user]]:
                at[user].inputs.add(value, 0)
        return value

    for tensors in batches:
        work.run(tensors, seen)


_IN_PLACE = ("addition", "scaling", "avg", "adaptive", "pad", "zeropad", "upsample", "interpolate")
"""Linear operations that leave channels in their dimension."""


def _channels(work: Working, node: fx.Node) -> int:
    """The dimension of channels: 1, or the last one where a linear layer that sees tokens was the last with weights."""
    ndim = len(node.meta["shape"])
    if ndim <= 2:
        return ndim - 1
    before = node
    while True:
        signals = work.signals(before)
        if not signals:
            return 1 if ndim != 3 else 2
        before = signals[0]
        operation = before.meta.get("operation")
        if operation is None or (operation.group not in ("affine", "activation") and operation.name != "norm"):
            moves = operation is not None and operation.group == "linear" and not operation.name.startswith(_IN_PLACE)
            if moves:
                return 1 if ndim != 3 else 2
            continue
        if operation.group == "affine":
            linear = isinstance(work.at(before), nn.Linear) if before.op == "call_module" else "linear" in before.name
            return ndim - 1 if linear and len(before.meta["shape"]) == ndim else 1
