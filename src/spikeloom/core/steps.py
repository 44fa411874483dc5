"""steps: the prepared steps of one stream: when they are made, and before each one, whether they still hold.

A plan is made of one module and one kind of input (shape, strides, number of threads, inference mode). It depends on
what :class:`spikeloom.core.watch.Watch` looks at, on the facts and the layers' options that each
:class:`spikeloom.core.prepared.Prepared` names, and on weights of which there are copies. What is written to these
through ``.data``, NumPy or by another process moves no version: a look at 32 values of each shows most of it, and
:meth:`spikeloom.Stream.refresh` is for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from .._hooks import has_hooks, transformed
from .module import TemporalModule
from .places import opened
from .prepared import Prepared, UnfitError, copied, prepare
from .watch import METHODS, Sample, Watch, all_inside, optimisers, own_tensors

_IN_VAIN = 3  # plans that were used once at most, one after the other, before a stream makes none for a while
_PATIENCE = 16  # steps that the first such while lasts; each further one is four times as long


def is_supported(x: Any) -> bool:
    """Whether this call needs only what a prepared step supports."""
    return (
        type(x) is Tensor
        and not torch.is_grad_enabled()
        and x.is_cpu
        and x.dtype == torch.float32
        and x.ndim > 0
        and x.shape[0] > 0
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._len_torch_dispatch_stack()
        and not transformed()
        and not (hooks._global_forward_hooks or hooks._global_forward_pre_hooks)
        and not opened()
    )


class Steps:
    """The prepared steps of one stream. ``frozen``: whether modules stay as they are until :meth:`refresh`."""

    def __init__(self, *, frozen: bool = False) -> None:
        optimisers()
        self._frozen = frozen
        self._plan: _Plan | None = None
        self._refused: tuple[list[nn.Module], Any] = [], None  # modules and inputs that have no prepared steps
        self._in_vain, self._waited, self._patience = 0, 0, _PATIENCE

    def __reduce__(self) -> Any:
        return partial(Steps, frozen=self._frozen), ()  # a copy uses memory of its own

    def run(self, module: TemporalModule, x: Any, state: Any) -> tuple[Any, Any] | None:
        """``module.step(x, state=state)``, or None where that has to run."""
        if not is_supported(x) or module.training:
            return None
        plan = self._plan
        if plan is not None:
            if not all(may() for may in plan.asked):
                return None
            if plan.suits(x) if self._frozen else plan.holds(x):
                return plan.step(x, state)
        modules, refused = all_inside(module), self._refused
        if (_same(modules, refused[0]) and _kind(x) == refused[1]) or self._waits() or not _is_plain(modules):
            return None
        asked = {type(m).may_prepare for m in modules if isinstance(m, TemporalModule)}
        if not all(may() for may in asked):
            return None
        if plan is not None:
            self._in_vain = 0 if plan.steps > 1 else self._in_vain + 1
        self._plan, plan = None, _Plan(modules, x, list(asked))
        made = prepare(module, x)
        if made is None:
            self._refused = modules, _kind(x)
            return None
        found = plan.begin(made, x, state)
        self._plan = None if found is None else plan
        return found

    def refresh(self) -> None:
        """Forgets what was made of weights."""
        self._plan = None

    def _waits(self) -> bool:
        """Whether plans were made in vain lately: where weights or sizes change in each step, they take time only."""
        if self._in_vain < _IN_VAIN:
            return False
        self._waited += 1
        if self._waited > self._patience:
            self._in_vain, self._waited, self._patience = 0, 0, 4 * self._patience
        return self._in_vain > 0


class _Plan:
    """A prepared step, and all that it depends on."""

    def __init__(self, modules: list[nn.Module], x: Tensor, asked: list[Callable[[], bool]]) -> None:
        self._module: Any = modules[0]
        self._kind, self._watch = _kind(x), Watch(modules)
        self.asked = asked
        """The ``may_prepare`` of all kinds of temporal modules inside."""
        self.steps = 0

    def begin(self, made: Prepared, x: Tensor, state: Any) -> tuple[Any, Any] | None:
        """The first step, in which a chain of layers prepares them one by one; None as :meth:`step`."""
        self._made = made
        found = self.step(x, state)
        self._facts = [fact for part in made.parts for fact in part.facts]
        self._options = [option for part in made.parts for option in part.options]
        self._copied = Sample([t for part in made.parts for layer in part.reads for t in own_tensors(layer)])
        return found

    def suits(self, x: Tensor) -> bool:
        """Whether the input is of the plan's kind."""
        return _kind(x) == self._kind

    def holds(self, x: Tensor) -> bool:
        """Whether the input is of the plan's kind, and all is still as it was when the plan was made."""
        return (
            self.suits(x)
            and self._watch.holds()
            and all(facts() == then for facts, then in self._facts)
            and self._copied.holds()
            and all([now.get(name) for name in names] == then for now, names, then in self._options)
        )

    def step(self, x: Tensor, state: Any) -> tuple[Any, Any] | None:
        """The step, or None where the input or the state is not of the plan's kind."""
        if state is not None:
            self._module.check_state(state, x)
        try:
            y, new = self._made.step(x, state)
        except UnfitError:
            return None
        self.steps += 1
        return (y if self._made.output is None else copied(y)), new


def _kind(x: Tensor) -> tuple[Any, ...]:
    return x.shape, x.stride(), torch.get_num_threads(), torch.is_inference_mode_enabled()


def _same(a: list[nn.Module], b: list[nn.Module]) -> bool:
    return len(a) == len(b) and all(map(is_, a, b))


def _is_plain(modules: list[nn.Module]) -> bool:
    """Whether a plan would notice all changes of these modules, and nobody has to see them run."""
    own_methods = any(not vars(m).keys().isdisjoint(METHODS) for m in modules)
    if own_methods or any(m.training or has_hooks(m) for m in modules[1:]):
        return False
    return not any(t.is_inference() for m in modules for t in own_tensors(m))  # which count no changes
