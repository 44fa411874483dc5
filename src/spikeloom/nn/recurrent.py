"""Recurrent: a neuron whose spikes come back to it one step later."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..core import State, TemporalModule
from ..kernel import output_dtype
from ..neuron import Dynamics


class OneToOne(nn.Module):
    """Feedback of each neuron (or channel) to itself alone: ``w y``.

    Args:
        features: number of channels; with 1 all share one weight.
        weight: initial value.
    """

    def __init__(self, features: int = 1, *, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((features,), weight))

    def forward(self, y: Tensor) -> Tensor:
        """The feedback of ``y`` ``[B, C, *]``, in the same shape."""
        if len(self.weight) not in (1, y.shape[1]):
            raise ValueError(f"OneToOne: {len(self.weight)} weights do not fit the channels of {list(y.shape)}")
        return y * self.weight.to(y.dtype).reshape(-1, *(1,) * (y.ndim - 2))


class ILC(nn.Module):
    """Feedback inside groups of neurons, as in a population that decodes one action: ``y_g -> W_g y_g + b_g``.

    Args:
        groups: number of groups.
        size: number of neurons in a group; the step is ``[B, groups size]``.

    ``Recurrent(neuron, ILC(act_dim, dec_pop_dim))`` is SpikingJelly's ``ILCIFNode`` and its kin.
    """

    paper = "Chen et al., Fully Spiking Actor Network with Intralayer Connections for RL, IEEE TNNLS 2024"

    def __init__(self, groups: int, size: int) -> None:
        super().__init__()
        if groups < 1 or size < 1:
            raise ValueError(f"ILC: groups and size must be at least 1, got {groups} and {size}")
        self.groups, self.size = groups, size
        self.weight = nn.Parameter(torch.empty(groups, size, size))
        self.bias = nn.Parameter(torch.empty(groups, size))
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -(size**-0.5), size**-0.5)

    def forward(self, y: Tensor) -> Tensor:
        """The feedback of ``y`` ``[B, groups size]``, in the same shape."""
        if y.ndim != 2 or y.shape[1] != self.groups * self.size:
            raise ValueError(f"ILC: expected [B, {self.groups * self.size}], got {list(y.shape)}")
        back = torch.einsum("bgi,goi->bgo", y.unflatten(1, (self.groups, self.size)), self.weight)
        return (back + self.bias.to(back.dtype)).flatten(1)


class Recurrent(TemporalModule):
    """``y[t] = neuron(x[t] + feedback(y[t-1]))``, with ``y[-1] = 0``.

    Args:
        neuron: any neuron, with options around it or without.
        feedback: a layer from the neuron's output to its input, of the same shape: ``nn.Linear(F, F)`` for all to all,
            ``nn.Conv2d(C, C, 3, padding=1)`` for neighbours, :class:`OneToOne` for each to itself.

    Input, output and feedback are ``[T, B, *]`` of one dtype. The states are the neuron's and ``fed_back``, the last
    output. Steps are computed one after the other, because each needs the spikes of the one before. snnTorch's
    ``RLeaky`` and ``RSynaptic`` are this with :class:`spikeloom.Leaky` and :class:`spikeloom.Synaptic`.

    A feedback whose shape is not the input's raises ValueError.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Linear(3, 5), sl.nn.Recurrent(sl.LIF(), torch.nn.Linear(5, 5)))
    >>> net(torch.rand(6, 4, 3)).shape
    torch.Size([6, 4, 5])
    """

    opaque = True

    def __init__(self, neuron: Dynamics, feedback: nn.Module) -> None:
        super().__init__()
        if not isinstance(neuron, Dynamics):
            raise TypeError(f"Recurrent: expected a neuron such as sl.LIF(), got {type(neuron).__name__}")
        self.neuron, self.feedback = neuron, feedback
        self.recordable = neuron.recordable

    @property
    def recordable_by_name(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the neuron."""
        return self.neuron.recordable_by_name

    def not_recordable(self, name: str) -> str:
        """The neuron's reason."""
        return self.neuron.not_recordable(name)

    def initial_state(self, *x_t: Any) -> State:
        """The neuron's state at rest, and an output of zeros."""
        x = x_t[0]
        return {**self.neuron.initial_state(x), "fed_back": torch.zeros_like(x, dtype=output_dtype(x.dtype))}

    def step(self, *x_t: Any, state: State = None) -> tuple[Any, State]:
        """One step of ``[B, *]``."""
        x, inner = self._fed(x_t, state)
        y, new = self.neuron.step(x, state=inner)
        return y, {**new, "fed_back": y}

    def recorded_step(
        self, *x_t: Any, state: State = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, State, dict[str, Any]]:
        """:meth:`step`, and what ``record`` names of the neuron's."""
        x, inner = self._fed(x_t, state)
        y, new, recorded = self.neuron.recorded_step(x, state=inner, record=record)
        return y, {**new, "fed_back": y}, recorded

    def _fed(self, x_t: tuple[Any, ...], state: State) -> tuple[Tensor, State]:
        """What the neuron takes: the input with what comes back, and its own state."""
        state = self.initial_state(*x_t) if state is None else state
        x, inner = x_t[0], {name: v for name, v in state.items() if name != "fed_back"}
        back = self.feedback(state["fed_back"])
        if back.shape != x.shape:
            raise ValueError(
                f"Recurrent: the feedback gives {list(back.shape)}, the input has {list(x.shape)}; "
                "take a layer that keeps the shape, such as nn.Linear(F, F) or a convolution with padding"
            )
        return x + back.to(state["fed_back"].dtype), inner
