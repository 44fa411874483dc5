"""Truncated: neurons across which gradients pass within pieces of K steps alone, though more steps run at once.

A network of plain layers and neurons whose sequence is run in pieces from detached states has the same values, and the
same gradients, as one call of it with such neurons: plain layers do not know time.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .._hooks import has_hooks
from ..core import Network, State
from ..core.layers import layers_of, runs_layers
from ..core.places import opened
from ..neuron import Dynamics, Option

_AGE = "step_of_piece"


class Truncated(Option):
    """A neuron into whose every ``length``-th step no gradient passes from the step before.

    Args:
        neuron: any neuron.
        length: K, steps of a piece; the first begins where the state is at rest.

    The state ``step_of_piece`` counts from 0 to K - 1.
    """

    def __init__(self, neuron: Dynamics, *, length: int) -> None:
        super().__init__(neuron)
        self.length = length
        self.states(**{_AGE: 0.0})
        where = next((t.device for t in (*neuron.parameters(), *neuron.buffers())), None)
        for name, own in self._buffers.items():
            self._buffers[name] = None if own is None else own.to(where)

    def dynamics(self, x: Tensor, *states: Tensor) -> Any:
        *before, age = states
        begins = age == 0
        y, *new = self.neuron.dynamics(x, *(torch.where(begins, s.detach(), s) for s in before))
        age = age + 1
        return y, *new, torch.where(age >= self.length, torch.zeros_like(age), age)


class Cut:
    """A network whose gradients stop after every ``length`` steps, counted from the first step of each call.

    It shares layers, neurons and their parameters with ``net``, which is looked at anew at each call: the containers
    and the neurons around which :class:`Truncated` stands are kept as long as the network's structure is the same
    object, and its options are taken over each time.

    Raises ValueError for a network that is no ``nn.Sequential`` of plain layers and neurons, or where something looks
    at a neuron.
    """

    def __init__(self, net: Network, length: int) -> None:
        self._of, self._length = net, length
        self._made: tuple[Any, Network, list[str]] | None = None

    def sequence(
        self, x: Tensor, *, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """As that of the network, with its states."""
        net, neurons = self._current()
        if state is not None:
            state = {path: self._begun(s) if path in neurons else s for path, s in state.items()}
        y, new, *recorded = net.sequence(x, state=state, lengths=lengths, record=record)
        new = {path: {k: t for k, t in s.items() if k != _AGE} if path in neurons else s for path, s in new.items()}
        return y, new, *recorded

    @staticmethod
    def _begun(state: State) -> State:
        return {**state, _AGE: torch.zeros_like(next(iter(state.values())))}

    def _current(self) -> tuple[Network, list[str]]:
        of, structure = self._of, self._of.structure()
        if self._made is None or self._made[0] is not structure:
            self._made = structure, *_around(of, self._length)
        _, net, neurons = self._made
        if opened():  # which would look for the neurons inside
            raise ValueError("learn.online: sl.taps look on; give block=1, or name places by record=")
        for module in structure[1]:
            if has_hooks(module):
                raise ValueError(f"learn.online: something hooks into {structure[1][module]!r}; give block=1")
        net.fuse, net.spikes, net.static_prefix = of.fuse, of.spikes, of.static_prefix
        return net, neurons


def _around(net: Network, length: int) -> tuple[Network, list[str]]:
    """The network with :class:`Truncated` around its neurons, and what states go by."""
    if not runs_layers(net.body):
        raise ValueError(
            "learn.online: block= needs a network of layers in order, sl.Network(layer, neuron, ...), and no forward "
            f"of its own; the body is a {type(net.body).__name__}"
        )
    layers = set(layers_of(net.body))
    paths = net.temporal_modules()
    for module, path in paths.items():
        if module not in layers or not isinstance(module, Dynamics) or not module.nestable:
            raise ValueError(
                f"learn.online: gradients cannot be cut inside a block at {path!r} ({type(module).__name__}), which is "
                "no neuron alone; give block=1"
            )
    made: dict[nn.Module, nn.Module] = {
        m: Truncated(m, length=length)
        for m in paths
        if isinstance(m, Dynamics) and m._rest  # what has no state hands no gradient on
    }

    def copied(module: nn.Module) -> nn.Module:
        if module in layers:
            return made.get(module, module)
        clone = copy.copy(module)
        clone._modules = {name: None if m is None else copied(m) for name, m in module._modules.items()}
        return clone

    found = Network(copied(net.body), batch_first=net.batch_first)
    truncated = {path for m, path in found.temporal_modules().items() if isinstance(m, Truncated)}
    return found, sorted(truncated)
