"""replayed: the steps of one stream on a GPU, each launched as one graph that writes the new states over the old.

A step of one sample is hundreds of launches of some microseconds each, and its states are small: they stay where the
graph has them, and are copied when somebody asks for them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..keys.code import is_plain
from .captures import Arguments, Captures, Fixed, check_outputs, without_cache
from .prepared import Kept, UnfitError, copied
from .rehearsal import rehearse
from .replay import RECORDERS, Recorder
from .unchanged import Unchanged

_NORMS = nn.modules.batchnorm._BatchNorm


class Replayed:
    """The graphs of one stream's steps.

    ``training``: whether batch norms may count the samples of one step. ``frozen``: whether the module and all modes
    stay as they are until :meth:`refresh`.
    """

    def __init__(self, *, training: bool, frozen: bool) -> None:
        self._training, self._frozen, self._since = training, frozen, object()
        self._captures: Captures[Step] | None = None
        self._module: nn.Module | None = None
        self._state: Any = None

    def __reduce__(self) -> Any:
        return partial(Replayed, training=self._training, frozen=self._frozen), ()  # a copy captures graphs of its own

    def run(self, module: nn.Module, x: Any, state: Any) -> tuple[Any, Step] | None:
        """The output of a step, and what holds the new state; None where the module's own step has to run.

        ``state``: a state, or what holds it. From rest the module's own step runs, since it makes the first state.
        """
        if type(x) is not Tensor or x.device.type not in RECORDERS or state is None or torch.is_grad_enabled():
            return None
        if self._frozen and isinstance(state, Step) and state.input_is(x) and state.since is self._since:
            return state.run(x, state), state
        if self._captures is None or self._module is not module:
            self._module, self._captures = module, Captures(module)
        kind = state.kind if isinstance(state, Step) else kind_of(state)
        if kind is None:
            return None
        self._state = state
        try:
            found = self._captures.find(Arguments((x,), {}), self._make, extra=kind)
        finally:
            self._state = None
        if found is None:
            return None
        found.since = self._since
        return found.run(x, state), found

    def refresh(self) -> None:
        """Forgets all graphs."""
        self._captures, self._since = None, object()

    def _make(self, recorder: Recorder, unchanged: Unchanged, given: Arguments) -> Step:
        state = self._state.state() if isinstance(self._state, Step) else self._state
        if not self._training and any(isinstance(m, _NORMS) and m.training for m in unchanged.modules):
            raise UnfitError("a batch norm is in training mode, which the module's own step refuses")
        return Step(recorder, unchanged, given, state)


class Step:
    """The graph of one kind of step, and the memory of its states.

    ``since``: the last refresh before it was found.
    """

    since: object = None

    def __init__(self, recorder: Recorder, unchanged: Unchanged, given: Arguments, state: Any) -> None:
        module: Any = unchanged.modules[0]
        leaves, self._structure = pytree.tree_flatten(state)
        self.kind = kind_of(state)
        self._recorder, self._input = recorder, Fixed(given.tensors[0])
        self._strides = given.tensors[0].stride()
        with torch.inference_mode(False), torch.no_grad():
            self._states = [s.detach().clone() if isinstance(s, Tensor) else s for s in leaves]
        args, _ = given.filled([self._input.tensor])
        memory = Kept()
        for s in self._states:
            if isinstance(s, Tensor):
                memory.add(s)

        def step() -> list[Any]:
            with without_cache(recorder.device.type):
                y, new = module.step(*args, state=pytree.tree_unflatten(self._states, self._structure))
            made, self._spec = pytree.tree_flatten(y)
            fresh, structure = pytree.tree_flatten(new)
            if structure != self._structure or not all(map(_fits, fresh, self._states)):
                raise UnfitError("the new state is of another kind than the old")
            outputs: list[Any] = memory.own(made)  # apart from memory that the next lines write over
            fresh = memory.own(fresh)
            for before, after in zip(self._states, fresh, strict=True):
                if isinstance(before, Tensor):
                    before.copy_(after)
            return outputs

        rehearse(recorder, unchanged, step)
        self._outputs, self._replay = recorder.record(step)
        check_outputs(self._outputs)

    def input_is(self, x: Tensor) -> bool:
        """Whether an input is of the kind of this graph's."""
        own = self._input.tensor
        return x.shape == own.shape and x.dtype == own.dtype and x.device == own.device and self._strides == x.stride()

    def run(self, x: Tensor, state: Any) -> Any:
        """The output of a step from a state, in memory of its own."""
        self._recorder.enter()
        if state is not self:
            self._take(state.state() if isinstance(state, Step) else state)
        self._input.take(x)
        self._replay()
        leaves = [copied(y) if isinstance(y, Tensor) else y for y in self._outputs]
        return leaves[0] if self._spec.is_leaf() else pytree.tree_unflatten(leaves, self._spec)

    def state(self) -> Any:
        """A copy of the state."""
        self._recorder.enter()
        leaves = [s.clone() if isinstance(s, Tensor) else s for s in self._states]
        return pytree.tree_unflatten(leaves, self._structure)

    def _take(self, state: Any) -> None:
        with torch.no_grad():
            for memory, value in zip(self._states, pytree.tree_leaves(state), strict=True):
                if isinstance(memory, Tensor):
                    memory.copy_(value)


def kind_of(state: Any) -> Any:
    """What of a state decides on the graph; None where it holds what no graph does."""
    leaves, structure = pytree.tree_flatten(state)
    found: list[Any] = []
    for x in leaves:
        if type(x) is Tensor and not x.requires_grad:
            found.append((x.shape, x.dtype, x.device))
        elif is_plain(x):
            found.append((type(x), x))
        else:
            return None
    return str(structure), tuple(found)


def _fits(after: Any, before: Any) -> bool:
    if isinstance(before, Tensor):
        return isinstance(after, Tensor) and after.shape == before.shape and after.device == before.device
    return type(after) is type(before) and bool(after == before)
