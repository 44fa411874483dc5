"""Walk: the values of a graph's nodes for some batches, from front to back, each computed a few times at most."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ..core import Network, TemporalModule
from ..neuron import Graded
from ..spikes import SpikeTensor, pack


class Walk(fx.Interpreter):
    """Computes nodes from what was settled before them, instead of the whole graph for each.

    Args:
        module: an ordinary network, or what was built of it; its modules may change ahead of what is settled.
        batches: the leaves of the inputs.
        T: the number of steps, where the input is there at each of them and nodes have values ``[T * B, *]``; modules
            that know time then get ``[T, B, *]``. 0: there is no time, and values are ``[B, *]``.

    What is held are the values that nodes behind the settled ones use: of neurons with binary spikes, the bits. They
    depend on the inputs and on the modules before; a change of those asks for a new Walk.
    """

    def __init__(self, module: fx.GraphModule, batches: list[list[Tensor]], *, T: int = 0) -> None:
        super().__init__(module)
        self._batches, self._T = batches, T
        self._inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        self._settled: set[fx.Node] = set()
        self._held: list[dict[fx.Node, Any]] = [{} for _ in batches]

    def values(self, *nodes: fx.Node) -> Iterator[list[Tensor]]:
        """The values of some nodes for each batch."""
        order = self._before(nodes)
        for number in range(len(self._batches)):
            self._compute(order, number)
            yield [self.env[node] for node in nodes]
            self.env = {}

    def settle(self, node: fx.Node) -> None:
        """Holds the value of a node, and what else was computed for it and is used behind; forgets what no more is."""
        order = self._before((node,))
        self._settled.update(n for n in order if n.op != "placeholder")
        for number, held in enumerate(self._held):
            self._compute(order, number)
            held.update((n, self._shrunk(n, self.env[n])) for n in order if n in self._settled)
            self._held[number] = {n: value for n, value in held.items() if not self._settled.issuperset(n.users)}
        self.env = {}

    def _before(self, nodes: tuple[fx.Node, ...]) -> list[fx.Node]:
        """The nodes to compute for some, in order."""
        found: set[fx.Node] = set()
        left = list(nodes)
        while left:
            node = left.pop()
            if node not in found and node not in self._held[0]:
                found.add(node)
                left += node.all_input_nodes
        return [node for node in self.graph.nodes if node in found]

    def _compute(self, order: list[fx.Node], number: int) -> None:
        needed = {n for node in order for n in node.all_input_nodes}
        self.env = {n: self._whole(n, value) for n, value in self._held[number].items() if n in needed}
        with torch.no_grad():
            for node in order:
                if node.op == "placeholder":
                    x = self._batches[number][self._inputs.index(node)].clone()
                    self.env[node] = x.expand(self._T, *x.shape).flatten(0, 1) if self._T else x
                else:
                    self.env[node] = self.run_node(node)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a module gives, over all steps at once."""
        module = self.module.get_submodule(str(target))  # which may have been replaced
        if not self._T or not any(isinstance(part, TemporalModule) for part in module.modules()):
            return module(*args, **kwargs)
        args = pytree.tree_map_only(Tensor, lambda x: x.unflatten(0, (self._T, -1)), args)
        return pytree.tree_map_only(Tensor, lambda y: y.flatten(0, 1), Network(module)(*args, **kwargs))

    def _shrunk(self, node: fx.Node, value: Any) -> Any:
        """The bits of a neuron's output, where it has two values."""
        neuron = self._neuron(node)
        spiking = neuron.neuron if isinstance(neuron, Graded) else neuron
        if not self._T or not getattr(spiking, "is_binary", False) or not isinstance(value, Tensor):
            return value
        return pack((value != 0).to(value.dtype))

    def _whole(self, node: fx.Node, value: Any) -> Any:
        if not isinstance(value, SpikeTensor):
            return value
        neuron, spikes = self._neuron(node), value.unpack()
        return spikes * neuron.broadcast("factor", spikes.shape, spikes.dtype) if isinstance(neuron, Graded) else spikes

    def _neuron(self, node: fx.Node) -> nn.Module | None:
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
