"""prepared: what a module answers when a stream asks how it runs one step, over and over, on inputs of one kind.

A step of one sample computes for some tens of microseconds in each layer, and deciding what to run takes as long. A
prepared step has decided: which kernel runs, where in memory, with which values of weights. Whoever makes one says in
:class:`Prepared` what it was made of, and :mod:`spikeloom.core.steps` looks before each step whether that still holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree


class UnfitError(Exception):
    """An input or a state is not of the kind for which a step was prepared; the module's own step runs instead."""


class Prepared:
    """A step of one module, for inputs of one kind.

    Args:
        step: ``(x, state) -> (y, state)`` of a temporal module; the state is None at rest, and was checked otherwise.
            Of a layer without time ``x -> y``. It raises :class:`UnfitError` for an input of another kind.
        output: the tensor that every step writes anew, where there is one. Whoever keeps a value gets a copy of it.
        reads: the layers without time of whose tensors and options the step was made. It may hold copies of these
            tensors, but no address of their memory.
        facts: gives what else the step was made of. The step is used as long as that is equal.

    What all modules inside a stream have in common (tensors, numbers, hooks, classes, methods, modes, children) is
    looked at by :class:`spikeloom.core.watch.Watch`, and needs no facts.

    >>> import torch
    >>> from spikeloom.core import Prepared, UnfitError
    >>> def step(x, state):
    ...     if x.shape != (2,):
    ...         raise UnfitError
    ...     v = x if state is None else state + x
    ...     return v, v
    >>> prepared = Prepared(step)
    >>> y, state = prepared.step(torch.ones(2), None)
    >>> prepared.step(torch.ones(2), state)[0]
    tensor([2., 2.])
    """

    def __init__(
        self,
        step: Callable[..., Any],
        *,
        output: Tensor | None = None,
        reads: tuple[nn.Module, ...] = (),
        facts: Callable[[], Any] | None = None,
    ) -> None:
        self.step, self.output, self.reads = step, output, reads
        self.facts = [] if facts is None else [(facts, facts())]
        names = [(vars(layer), [name for name in vars(layer) if name[0] != "_"]) for layer in reads]
        self.options = [(now, there, [now[name] for name in there]) for now, there in names]
        self.parts = [self]
        """This and the prepared steps that it is made of."""

    @classmethod
    def writing(cls, output: Tensor, run: Callable[[], Any], *, reads: tuple[nn.Module, ...]) -> Prepared:
        """Of a layer without time whose ``run`` computes the output from an input that stays where it is in memory."""

        def step(x: Any) -> Tensor:
            run()
            return output

        return cls(step, output=output, reads=reads)


def prepare(module: Any, x: Any, *, previous: nn.Module | None = None, last: bool = True) -> Prepared | None:
    """``module.prepared(...)``, see :meth:`TemporalModule.prepared`; None where a subclass has a step of its own."""
    for kind in type(module).__mro__:
        if "prepared" in vars(kind):
            found: Prepared | None = vars(kind)["prepared"](module, x, previous=previous, last=last)
            return found
        if "step" in vars(kind):
            return None
    return None


class Kept:
    """The memory that prepared steps write again, known by its addresses."""

    def __init__(self) -> None:
        self._addresses: set[int] = set()

    def add(self, x: Tensor) -> None:
        """Counts the memory of a tensor in."""
        self._addresses.add(_address(x))

    def holds(self, x: Tensor) -> bool:
        """Whether a tensor lies in such memory, and so does not stay what it is."""
        return _address(x) in self._addresses

    def own(self, tree: Any) -> Any:
        """A pytree of tensors that no later step changes: those in such memory are copied."""
        return pytree.tree_map_only(Tensor, self._own, tree) if type(tree) is not Tensor else self._own(tree)

    def _own(self, x: Tensor) -> Tensor:
        return copied(x) if self.holds(x) else x


def copied(x: Tensor) -> Tensor:
    """A copy in memory of its own, even of a tensor that is made of another one (spikes of their bits)."""
    inner = _inner(x)
    if inner is None:
        return x.clone()
    names, context = inner
    values = {name: copied(getattr(x, name)) for name in names}
    made: Tensor = type(x).__tensor_unflatten__(values, context, x.shape, x.stride())  # type: ignore[attr-defined]
    return made


def _inner(x: Tensor) -> tuple[list[str], Any] | None:
    """The names of the tensors that a wrapper of tensors is made of, and what else it is made of, as torch asks."""
    if type(x) is Tensor or not hasattr(x, "__tensor_flatten__"):
        return None
    found: tuple[list[str], Any] = x.__tensor_flatten__()
    return found


def _address(x: Tensor) -> int:
    inner = _inner(x)
    return x.untyped_storage().data_ptr() if inner is None else _address(getattr(x, inner[0][0]))
