"""NormNeuron: a batch norm and a neuron as one module, for models with a forward of their own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..core import Prepared, State, TemporalModule, prepare
from ..core.layers import joined
from ..kernel import FUSED_NORMS
from ..neuron import Dynamics
from .rows import on_valid_steps


class NormNeuron(TemporalModule):
    """``neuron(bn(x))``, computed in one kernel where the neuron has one::

        y[t] = neuron((x[t] - mean) / sqrt(var + eps) * weight + bias)

    In training, mean and var are taken over T, B and space; in eval mode they are the running ones. A network finds
    such neighbours in an ``nn.Sequential`` by itself; this module is for a model with a forward of its own.

    Args:
        bn: ``nn.BatchNorm1d``, ``2d`` or ``3d``; its parameters, running statistics and ``state_dict`` stay its own.
        neuron: any neuron, with options around it or without.

    Input and output are ``[T, B, C, *]``; state and recordings are the neuron's. The normalised tensor is neither
    written nor saved. Where ``bn`` has hooks, it runs as a layer of its own so that they run. Hooks on ``neuron``
    do not run, because it is never called: put them on the NormNeuron. Other modules raise TypeError.

    >>> import torch
    >>> import spikeloom as sl
    >>> class Block(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv = torch.nn.Conv2d(4, 4, 3, padding=1)
    ...         self.spike = sl.nn.NormNeuron(torch.nn.BatchNorm2d(4), sl.LIF())
    ...     def forward(self, x):
    ...         return self.spike(self.conv(x)) + x
    >>> sl.Network(Block())(torch.rand(5, 2, 4, 8, 8)).shape
    torch.Size([5, 2, 4, 8, 8])
    """

    opaque = True

    def __init__(self, bn: nn.Module, neuron: Dynamics) -> None:
        super().__init__()
        if type(bn) not in FUSED_NORMS:
            names = ", ".join(f"nn.{kind.__name__}" for kind in FUSED_NORMS)
            raise TypeError(f"NormNeuron: expected one of {names}, got {type(bn).__name__}")
        if not isinstance(neuron, Dynamics):
            raise TypeError(f"NormNeuron: expected a neuron such as sl.LIF(), got {type(neuron).__name__}")
        self.bn, self.neuron = bn, neuron
        self.recordable = neuron.recordable

    @property
    def recordable_by_name(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the neuron."""
        return self.neuron.recordable_by_name

    @property
    def own_dtypes(self) -> bool:  # type: ignore[override]
        """As the neuron."""
        return self.neuron.own_dtypes and self.neuron.still("own_dtypes")

    def not_recordable(self, name: str) -> str:
        """The neuron's reason."""
        return self.neuron.not_recordable(name)

    def initial_state(self, *x_t: Any) -> State:
        """The neuron's state at rest."""
        return self.neuron.initial_state(*x_t)

    def check_state(self, state: State, *x_t: Any) -> None:
        """Raises what the neuron raises for a state that does not fit."""
        self.neuron.check_state(state, *x_t)

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, C, *]``: ``(spikes, state)`` and recordings. Statistics count valid steps only."""
        self.check_record(record)
        x = xs[0]
        if lengths is None:
            both, flat = joined(self.bn, self.neuron, x.flatten(0, 1))
            if both is not None:
                return both(flat.unflatten(0, x.shape[:2]), state=state, record=record)
        x = on_valid_steps(self.bn, x, lengths)
        return self.neuron.sequence(x, state=state, lengths=lengths, record=record)

    def step(self, *x_t: Any, state: State = None) -> tuple[Any, State]:
        """One step of ``[B, C, *]``."""
        return self.neuron.step(self.bn(x_t[0]), state=state)

    def recorded_step(
        self, *x_t: Any, state: State = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, State, dict[str, Any]]:
        """:meth:`step`, and what ``record`` names of the neuron's."""
        return self.neuron.recorded_step(self.bn(x_t[0]), state=state, record=record)

    def prepared(self, x: Any, *, previous: nn.Module | None = None, last: bool = True) -> Prepared | None:
        """The neuron's run, prepared with the batch norm before it; None where it cannot be."""
        return None if previous is not None else prepare(self.neuron, x, previous=self.bn, last=last)
