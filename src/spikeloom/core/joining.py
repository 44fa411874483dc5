"""joining: batch norms anywhere in a network wait for the neuron that they may join, whatever the model's forward is.

While a network runs, its batch norms have a forward in their instance that returns a promise (see
:mod:`spikeloom.core.promise`) in calls that let them wait, and runs the norm in all others, as those of another thread.
Norms whose neighbours :mod:`spikeloom.core.layers` knows, or which a temporal module runs, do not wait.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn

from .._hooks import StandIn, has_hooks
from .call import Call, active
from .layers import layers_of, runs_layers
from .module import TemporalModule
from .promise import MAKERS, Waiting, promise

_CALLS = 64  # for how many calls a norm that was looked at is not asked to wait: where it is in vain, it costs a pass
_lock = threading.Lock()
_waiting: Counter[nn.Module] = Counter()  # norms that wait, for how many calls


class Norms:
    """The batch norms of a network that may wait for a neuron, and which were looked at in vain lately.

    It is made of the modules inside and of their classes, and made anew when a module comes or goes. A class that was
    changed is noticed when the norm runs. What was looked at is a hint: it decides on the time that a call takes and on
    nothing else, so that no change has to be noticed.
    """

    def __init__(self, body: nn.Module) -> None:
        self._modules = list(body.modules())
        self._all = list(dict.fromkeys(_inside(body, frozenset(layers_of(body)) if runs_layers(body) else frozenset())))
        self._calls = 0
        self._until: dict[nn.Module, int] = {}

    def of_call(self) -> Waiting | None:
        """Those that are to wait in the call that begins."""
        if not self._all or any(map(_is_compiled, self._modules)):  # compiled code takes no classes of tensors
            return None
        self._calls += 1
        now, until = self._calls, self._until
        return Waiting(frozenset([m for m in self._all if until.get(m, 0) < now]), self._looked, [])

    def _looked(self, module: nn.Module) -> None:
        self._until[module] = self._calls + _CALLS

    def forget(self) -> None:
        """All wait in the next call."""
        self._until.clear()


def _inside(module: nn.Module, plain: frozenset[nn.Module]) -> Iterator[nn.Module]:
    for child in module.children():
        if type(child) in MAKERS:
            if child not in plain:
                yield child
        elif not isinstance(child, TemporalModule) or child.transparent:
            yield from _inside(child, plain)


def _is_compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule"


def promising(call: Call) -> AbstractContextManager[None]:
    """While the modules of a call run, those of its norms that may wait do."""
    waiting = call.waiting
    return nullcontext() if waiting is None or not waiting.modules else _promising(waiting)


@contextmanager
def _promising(waiting: Waiting) -> Iterator[None]:
    free = [m for m in waiting.modules if type(vars(m).get("forward")) in (type(None), _Wait)]
    try:
        with _lock:
            for m in free:
                _waiting[m] += 1
                m.__dict__.setdefault("forward", _Wait(m))
        yield
        for kept in waiting.promised:
            late = kept()
            if late is not None:  # somebody keeps it, and may look when weights have changed
                late.value("whoever keeps it")
    finally:
        with _lock:
            for m in free:
                _waiting[m] -= 1
                if _waiting[m] <= 0:
                    del _waiting[m]
                    if type(vars(m).get("forward")) is _Wait:
                        del m.__dict__["forward"]


class _Wait(StandIn):
    """The forward of a batch norm while a network runs."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module, call = self._module, active()
        called = sys._getframe(1).f_locals.get("self")  # that of Module.__call__
        if called is not module and isinstance(called, nn.Module) and vars(called).get("forward") is self:
            return type(called).forward(called, *args, **kwargs)  # a copy with its attributes, as DataParallel makes
        waiting, make = None if call is None or call.stepping else call.waiting, MAKERS.get(type(module))
        if waiting is not None and make is not None and module in waiting.modules and len(args) == 1 and not kwargs:
            late = None if call is None or has_hooks(module) else make(module, args[0], call.T)
            if late is not None:
                late.looked.append(lambda _: waiting.looked(module))
                waiting.promised.append(weakref.ref(late))
                return promise(late)
        return type(module).forward(module, *args, **kwargs)
