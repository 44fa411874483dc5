"""Stream: a temporal module in deployment, one step at a time."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .arguments import check_stream_arguments, explain
from .call import Result, State, autocasts, detach, in_dtypes_of
from .module import TemporalModule
from .replayed import Replayed, Step
from .steps import Steps


class Stream:
    """Runs a network, or any other temporal module, step by step and keeps its state.

    Call :meth:`refresh` after writing to weights through ``.data``, through NumPy or from another process: nobody can
    see that. Everything else is seen by the next step (optimisers, ``load_state_dict``, in-place operations, new
    tensors, numbers of neurons, options, modes, layers).

    ``y_t = stream(x_t)`` takes and gives ``[B, *]``. ``stream.state`` is the state (None at rest; it may be
    set), ``stream.reset()`` returns to rest, ``stream.detach()`` cuts it from the graph. Feeding a sequence to a
    stream gives what the module gives for the whole sequence (in ``eval`` mode). A step of another batch size,
    dtype or device than the running state raises ValueError, and so does a module that is not causal.

    In ``eval`` mode, on a CPU and without gradients, steps of a neuron and of a network whose body is an
    ``nn.Sequential`` are prepared: what runs where in memory is decided once, and what layers of bits read of their
    weights is copied. On a GPU and without gradients, steps become a CUDA graph at the third of their kind (shape and
    dtype of the input, modes, autocast), as :func:`graphed` says; states then stay where the graph has them, and
    ``stream.state`` is a copy. ``stream.prepared`` tells whether the last step was one of these.

    ``y_t, result = stream(x_t, record=("1.v",))`` gives recordings of the step as a network's call does, each
    ``[B, *]``; of another temporal module than a network, its states by name.

    With ``frozen=True`` the caller promises that the module, its hooks, taps, the backend and autocast stay as they are
    until :meth:`refresh`. No look whether they have precedes a step then, which takes longer than a small step itself.

    A batch norm in training mode counts the samples of one step, which a stream refuses with ValueError unless it was
    made with ``training=True``. A stream that records a graph over 1,000 steps warns. One that two threads use at once
    raises RuntimeError.

    >>> import torch
    >>> import spikeloom as sl
    >>> stream = sl.Stream(sl.LIF(tau=2.0, decay_input=False))  # the same as sl.Network(...).stream()
    >>> [int(stream(torch.tensor([[0.6]]))) for _ in range(4)]
    [0, 0, 1, 0]
    """

    def __init__(self, module: TemporalModule, *, training: bool = False, frozen: bool = False) -> None:
        module = getattr(module, "_orig_mod", module)  # what torch.compile gives has the step of what it was given
        if not isinstance(module, TemporalModule):
            raise TypeError(
                f"Stream: expected a network or another temporal module, got {type(module).__name__}; wrap plain "
                "layers, sl.Stream(sl.Network(model))"
            )
        module.check_causal("be streamed")
        self.module, self.training = module, training
        self._state: State | Step = None  # where a graph runs the steps, what holds the state
        self.prepared = False
        self._steps, self._replayed = Steps(frozen=frozen), Replayed(training=training, frozen=frozen)
        self._free = [True]  # empty while a step runs; taking the item is one operation of the interpreter
        self._graph = 0  # steps in a row whose state is part of a graph

    def __call__(self, *x_t: Any, record: tuple[str, ...] = (), **kwargs: Any) -> Any:
        try:
            self._free.pop()
        except IndexError:
            raise RuntimeError(
                "Stream: another thread runs a step of this stream, whose state would be lost; give each thread a "
                "stream of its own (they may share the network)"
            ) from None
        try:
            return self._recorded(x_t, record, kwargs) if record else self._step(x_t, kwargs)
        finally:
            self._free.append(True)

    @property
    def state(self) -> State:
        """The state after the last step, None at rest; of steps on a GPU, which a graph runs, a copy."""
        return self._state.state() if isinstance(self._state, Step) else self._state

    @state.setter
    def state(self, value: State) -> None:
        self._state = value

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_state": self.state}

    def _step(self, x_t: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found: tuple[Any, Any] | None = None
        if len(x_t) == 1 and not kwargs:
            if not isinstance(self._state, Step):
                found = self._steps.run(self.module, x_t[0], self._state)
            found = found or self._replayed.run(self.module, x_t[0], self._state)
        self.prepared = found is not None
        if found is not None:
            y, self._state = found
            return y
        return self._usual(x_t, kwargs)[0]

    def _recorded(self, x_t: tuple[Any, ...], record: tuple[str, ...], kwargs: dict[str, Any]) -> tuple[Any, Result]:
        self.prepared = False
        if hasattr(self.module, "temporal_modules"):  # a network, which knows places
            y, _, recorded = self._usual(x_t, {**kwargs, "record": record})
        else:
            self.module.check_record(record)
            y, _, recorded = self._usual(x_t, {**kwargs, "record": record}, self.module.recorded_step)
        return y, Result(self.state, recorded)

    def _usual(self, x_t: tuple[Any, ...], kwargs: dict[str, Any], step: Any = None) -> tuple[Any, ...]:
        before = self.state
        self._state = before
        if not self.training:
            _refuse_training(self.module)
        if before is not None:
            self.module.check_state(before, *x_t)
        if kwargs and not torch.compiler.is_compiling():
            check_stream_arguments(self.module, {name: value for name, value in kwargs.items() if name != "record"})
        try:
            made: tuple[Any, ...] = (step or self.module.step)(*x_t, state=before, **kwargs)
        except (TypeError, AttributeError) as error:
            explain(error, self.module, "step" if step is None else "recorded_step", x_t, state=before, **kwargs)
            raise
        y, new = made[:2]
        if autocasts(x_t):
            new = in_dtypes_of(self.module.initial_state(*x_t) if before is None else before, new)
        self._state = new
        self._look_at_graph()
        return y, new, *made[2:]

    def _look_at_graph(self) -> None:
        """Warns once where the states of many steps in a row belong to one graph, which grows with each step."""
        grows = torch.is_grad_enabled() and any(
            isinstance(value, Tensor) and value.requires_grad for value in pytree.tree_leaves(self.state)
        )
        self._graph = self._graph + 1 if grows else 0
        if self._graph == _MANY:
            warnings.warn(
                f"this stream has recorded the graph of {_MANY:,} steps, which takes memory for each of them: run it "
                "under torch.no_grad(), or call stream.detach() where backpropagation is to end",
                stacklevel=4,
            )

    @property
    def network(self) -> TemporalModule:
        """The older name of ``module``."""
        warnings.warn("Stream.network is called Stream.module now", DeprecationWarning, stacklevel=2)
        return self.module

    def reset(self) -> None:
        """Returns to rest."""
        self._state, self._graph = None, 0

    def refresh(self) -> None:
        """Reads all weights again at the next step."""
        self._steps.refresh()
        self._replayed.refresh()

    def detach(self) -> None:
        """Cuts the state from the graph of earlier steps."""
        self.state, self._graph = detach(self.state), 0


_MANY = 1000  # steps of a graph after which a stream warns
_NORMS = nn.modules.batchnorm._BatchNorm


def _refuse_training(module: nn.Module) -> None:
    """Raises ValueError for a batch norm that would take its statistics from one step."""
    for path, layer in module.named_modules():
        if isinstance(layer, _NORMS) and layer.training:
            raise ValueError(
                f"Stream: {type(layer).__name__} at {path!r} is in training mode and would count the samples of one "
                "step; call eval() first, or ask for it with training=True"
            )
