"""Kept: a record of a module's attributes and tensors, to compute once more with the module as it was."""

from __future__ import annotations

import operator
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_LARGE = 1 << 16  # elements; of tensors at least this large, only those that the computation changes are copied


class Kept:
    """Attributes, parameters, buffers, hooks and training flags of a module and of all inside it, as they are now.

    Tables (``__dict__``, ``_buffers``, ...) and lists stay the same objects and get their old content back, and
    generators their old states, those of Python's and numpy's random numbers included.
    """

    def __init__(self, module: nn.Module) -> None:
        self._tables: list[tuple[Any, Any]] = []
        self._values: dict[int, Tensor] = {}  # copies of tensors that may change, by the tensor's id
        self._owned: list[tuple[Tensor, str]] = []
        self._watched: list[tuple[Tensor, int, str]] = []
        self._drawn: list[tuple[Callable[[], Any], Callable[[Any], Any], Any]] = []
        self._kinds = [(part, type(part)) for part in module.modules()]
        for part, _ in self._kinds:
            for table in (part.__dict__, *_tables(part)):
                if type(table) in (dict, OrderedDict):
                    self._tables.append((table, dict(table)))
                    self._keep_tensors(table, type(part).__name__)
                elif type(table) is list:
                    self._tables.append((table, list(table)))
        for get, put in ((random.getstate, random.setstate), (_numpy_state, _set_numpy_state)):
            self._drawn.append((get, put, get()))

    def _keep_tensors(self, table: dict[str, Any], who: str) -> None:
        for name, value in table.items():
            if isinstance(value, torch.Generator):
                self._drawn.append((value.get_state, value.set_state, value.get_state()))
            elif isinstance(value, Tensor) and id(value) not in self._values:
                self._owned.append((value, f"{name!r} of {who}"))
                if type(value) in (Tensor, nn.Parameter) and not value.requires_grad:
                    self._values[id(value)] = _copy(value)

    def settle(self) -> None:
        """Drops, after the computation, the copies of large tensors that it did not change, and watches these instead.

        A layer whose class the computation changed, as a lazy layer's, has got its weights in it and stays as it is.
        """
        made = {id(t) for part, kind in self._kinds if type(part) is not kind for t in (part.__dict__, *_tables(part))}
        self._tables = [(table, then) for table, then in self._tables if id(table) not in made]
        for tensor, name in self._owned:
            value = self._values.get(id(tensor))
            if value is not None and value.numel() > _LARGE and not tensor.is_meta and torch.equal(value, tensor):
                del self._values[id(tensor)]
                value = None
            if value is None and not tensor.is_inference():
                self._watched.append((tensor, tensor._version, name))
        self._drawn = [(get, put, then) for get, put, then in self._drawn if not _same(get(), then)]

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """A context in which the module is as it was; changes made inside are lost."""
        for tensor, version, name in self._watched:
            if tensor._version != version:
                raise RuntimeError(
                    f"checkpoint: {name} was changed in place between the forward and the backward pass, which has to "
                    "compute with it once more; call backward() before optimizer.step() and before other changes"
                )
        values = {key: _copy(value) for key, value in self._values.items()}  # one copy serves all names of a tensor
        wanted = ((table, _with(then, values)) for table, then in self._tables if table or then)
        changes = [(table, type(then)(table), then) for table, then in wanted if _differ(table, then)]
        states = [(put, get()) for get, put, _ in self._drawn]
        try:
            for table, _, then in changes:
                _put(table, then)
            for _, put, then in self._drawn:
                put(then)
            yield
        finally:
            for table, was, _ in changes:
                _put(table, was)
            for put, state in states:
                put(state)


def _tables(part: nn.Module) -> list[Any]:
    return [value for value in part.__dict__.values() if type(value) in (dict, OrderedDict, list)]


def _copy(value: Tensor) -> Tensor:
    with torch.no_grad():
        copy = value.clone()
    return nn.Parameter(copy, requires_grad=False) if type(value) is nn.Parameter else copy


def _with(then: Any, values: dict[int, Tensor]) -> Any:
    """A copy of a table in which ``values`` replace the tensors that they are copies of."""
    if isinstance(then, list) or not any(id(value) in values for value in then.values()):
        return then
    return {name: values.get(id(value), value) for name, value in then.items()}


def _differ(table: Any, then: Any) -> bool:
    if len(table) != len(then):
        return True
    if isinstance(then, list):
        return not all(map(operator.is_, table, then))
    return any(table.get(name, table) is not value for name, value in then.items())


def _put(table: Any, then: Any) -> None:
    table.clear()
    if isinstance(then, list):
        table += then
    else:
        table.update(then)


def _numpy_state() -> tuple[Any, ...]:
    import numpy as np  # imported here because its random numbers take time to load

    state: Any = np.random.get_state()
    return (state[0], state[1].tobytes(), *state[2:])


def _set_numpy_state(state: tuple[Any, ...]) -> None:
    import numpy as np

    np.random.set_state((state[0], np.frombuffer(state[1], dtype=np.uint32), *state[2:]))


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)
