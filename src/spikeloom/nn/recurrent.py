"""Recurrent: a neuron whose spikes come back to it one step later, or after delays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..core import State, TemporalModule, check_state
from ..core.module import check_steps, run_steps
from ..kernel import output_dtype
from ..neuron import Dynamics
from .learned_delay import DelayLinear

Feed = Callable[[Tensor, State], tuple[Tensor, State]]
"""``(y_t, state) -> (feedback, state)``."""


class OneToOne(nn.Module):
    """Feedback of each neuron (or channel) to itself alone: ``w y``.

    Args:
        features: number of channels; with 1 all share one weight.
        weight: initial value.

    >>> import torch
    >>> import spikeloom as sl
    >>> feedback = sl.nn.OneToOne(2, weight=-0.5)
    >>> feedback(torch.tensor([[1.0, 4.0]])).tolist()
    [[-0.5, -2.0]]
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

    >>> import torch
    >>> import spikeloom as sl
    >>> feedback = sl.nn.ILC(2, 2).requires_grad_(False)
    >>> _ = feedback.weight.fill_(1.0), feedback.bias.zero_()
    >>> feedback(torch.tensor([[1.0, 2.0, 10.0, 20.0]])).tolist()  # sums of each group of two
    [[3.0, 3.0, 30.0, 30.0]]
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
            ``nn.Conv2d(C, C, 3, padding=1)`` for neighbours, :class:`OneToOne` for each to itself. Or a module that
            knows time: with ``DelayLinear(F, F, max_delay)`` a spike of step t arrives at ``t + 1 + d``, with
            ``sl.Network(LearnedDelay(F, max_delay), nn.Linear(F, F))`` all synapses of a neuron share its delay.

    Input, output and feedback are ``[T, B, *]`` of one dtype. The states are the neuron's and ``fed_back``, the last
    output; and ``feedback``, where that has a state of its own. Steps are computed one after the other, because each
    needs the spikes of the one before. snnTorch's ``RLeaky`` and ``RSynaptic`` are this with
    :class:`spikeloom.Leaky` and :class:`spikeloom.Synaptic`.

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
        """The neuron's state at rest, an output of zeros, and the state of the feedback where it has one."""
        x = x_t[0]
        back = torch.zeros_like(x, dtype=output_dtype(x.dtype))
        state = {**self.neuron.initial_state(x), "fed_back": back}
        if isinstance(self.feedback, TemporalModule):
            state["feedback"] = self.feedback.initial_state(back)
        return state

    def check_state(self, state: State, *x_t: Any) -> None:
        """Raises ValueError unless the state fits the neuron, the input and the feedback."""
        expected = self.initial_state(*x_t)
        if isinstance(self.feedback, TemporalModule) and isinstance(state, dict) and "feedback" in state:
            self.feedback.check_state(state["feedback"], expected["fed_back"])  # which may know more than a shape
            state, expected = ({k: v for k, v in s.items() if k != "feedback"} for s in (state, expected))
        check_state(type(self).__name__, state, expected)

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, *]``: ``(y, state)``, and recordings of the neuron's states."""
        self.check_record(record)
        check_steps(self)
        start = self.initial_state(xs[0][0]) if state is None else state
        feed = self._feed()
        return run_steps(lambda x_t, s: self._step(x_t[0], s, feed, record), xs, start, lengths)

    def step(self, *x_t: Any, state: State = None) -> tuple[Any, State]:
        """One step of ``[B, *]``."""
        y, new = self._step(x_t[0], self.initial_state(*x_t) if state is None else state, self._feed())
        return y, new

    def recorded_step(
        self, *x_t: Any, state: State = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, State, dict[str, Any]]:
        """:meth:`step`, and what ``record`` names of the neuron's."""
        state = self.initial_state(*x_t) if state is None else state
        y, new, *recorded = self._step(x_t[0], state, self._feed(), record)
        return y, new, recorded[0] if recorded else {}

    def _feed(self) -> Feed:
        """What gives the feedback of an output, for as many steps as are run with the weights as they are."""
        feedback = self.feedback
        if isinstance(feedback, DelayLinear):
            return feedback.stepper()
        if isinstance(feedback, TemporalModule):
            return partial(_through, feedback)
        return lambda y, state: (feedback(y), None)

    def _step(self, x: Tensor, state: State, feed: Feed, record: tuple[str, ...] = ()) -> tuple[Any, ...]:
        """``(y, state)``, and the recordings where ``record`` names some."""
        inner = {name: v for name, v in state.items() if name not in ("fed_back", "feedback")}
        back, after = feed(state["fed_back"], state.get("feedback"))
        if back.shape != x.shape:
            raise ValueError(
                f"Recurrent: the feedback gives {list(back.shape)}, the input has {list(x.shape)}; "
                "take a layer that keeps the shape, such as nn.Linear(F, F) or a convolution with padding"
            )
        total = x + back.to(state["fed_back"].dtype)
        if record:
            y, new, *recorded = self.neuron.recorded_step(total, state=inner, record=record)
        else:
            (y, new), recorded = self.neuron.step(total, state=inner), []
        fed = {"fed_back": y, "feedback": after} if "feedback" in state else {"fed_back": y}
        return y, {**new, **fed}, *recorded


def _through(feedback: TemporalModule, y: Tensor, state: State) -> tuple[Tensor, State]:
    found, after = feedback.step(y, state=state)
    return found, after
