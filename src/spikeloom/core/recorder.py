"""Recorder: what is seen at named places while a network runs once.

A place is a side of a module (``input``, ``output``), the gradient there, or a state. What a plain layer is given has
its rows folded, or is one step, or one step for all, as the running call has it; here it becomes ``[T, B, *]``:

    rows of the call        unfolded, 0 at the steps past a sample's length
    B rows, still           in a static prefix: the same at all T steps
    B rows, step by step    of a module that goes through the steps by itself (:func:`through_steps`), the k-th of them;
                            where it does not say so, T calls with B rows are taken for that
    anything else           as it is
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .folding import Folding, map_tensors
from .pieces import Arrange, Blank, Gradients, Piece, stacked, whole
from .promise import Promise, kept
from .recording import arranged, of_pieces

SIDES = ("input", "output")
GRADIENTS = ("grad_input", "grad_output")

Place = tuple[Any, str]
"""A module and one of its sides."""


class Sink(Protocol):
    """Who takes values over many calls; see :class:`spikeloom.core.taps.Taps`."""

    def take(self, name: str, value: Any, size: tuple[int, int], lengths: Tensor | None) -> None: ...


@dataclass
class Asked:
    """What is wanted of one module: names for the call's own recordings, and for each sink under a path of its own."""

    path: str
    record: tuple[str, ...] = ()
    sinks: list[tuple[Sink, str, tuple[str, ...]]] = field(default_factory=list)

    @property
    def names(self) -> dict[str, None]:
        """All of them, each once and in order."""
        return dict.fromkeys((*self.record, *(name for _, _, names in self.sinks for name in names)))


class Recorder:
    """Collects what is wanted of the modules that one call runs.

    Args:
        asked: what is wanted, by module.
        batch_first: give recordings as ``[B, T, *]``.
    """

    def __init__(self, asked: Mapping[nn.Module, Asked], *, batch_first: bool = False) -> None:
        self.asked, self.batch_first = asked, batch_first
        self.names = {module: one.names for module, one in asked.items()}
        self.recorded: dict[str, Any] = {}
        self.seen: set[tuple[nn.Module, str]] = set()
        self._still = False
        self.token: object = None  # by which hooks know whose they are
        self.running: list[nn.Module] = []  # modules that are seen to by who runs them
        self._folding = Folding(1, 1)
        self._scope: _Scope | None = None
        self._order: Tensor | None = None
        self._counts: dict[tuple[nn.Module, str], int] = {}

    def begin(self, call: Folding) -> None:
        """Knows by ``call`` how rows are folded; holds nothing else of it, as what waits for gradients must not."""
        self._folding = Folding(call.T, call.B, call.lengths, stepping=call.stepping)

    def again(self) -> Recorder:
        """One that does what this one does to the graph, for a computation that is repeated, and keeps nothing."""
        made = Recorder({module: Asked(one.path, one.record) for module, one in self.asked.items()})
        made.names = self.names  # whether neighbours join depends on them
        made._folding, made._still, made.token = self._folding, self._still, self.token
        made._scope = None if self._scope is None else _Scope(made)
        return made

    def wants_gradient(self, module: Any, side: str) -> bool:
        """Whether the gradient on a side of a module is wanted."""
        return f"grad_{side}" in self.names.get(module, ())

    def wants_side(self, module: Any, side: str) -> bool:
        """Whether the value on a side of a module is wanted, or the gradient there."""
        return side in self.names.get(module, ()) or self.wants_gradient(module, side)

    def needs_graph(self, places: list[Place]) -> bool:
        """Whether what is seen at one of the places has to be what is computed with: it is to carry a gradient."""
        return torch.is_grad_enabled() and any(
            self.wants_gradient(module, side) or (module in self.asked and side in self.asked[module].record)
            for module, side in places
        )

    def states(self, module: Any) -> tuple[str, ...]:
        """Names of the states that are wanted of a temporal module."""
        return tuple(name for name in self.names.get(module, ()) if name not in (*SIDES, *GRADIENTS))

    def see(self, module: Any, side: str, value: Any) -> Any:
        """Notes what a module is given or gives; returns what to go on with."""
        there = self.names.get(module)
        if there is None:
            return value
        if type(value) is Promise:
            if not self.wants_side(module, side):
                return value
            if value.late.waits and not self.needs_graph([(module, side)]):
                self.see(module, side, value.late.beside())
                return value
        value = kept(value, "record")
        if f"grad_{side}" in there and self.asked[module].sinks:
            value = self._gradients(module, f"grad_{side}", value)
        if side not in there:
            return value
        if self._scope is not None:
            self._scope.add((module, side), map_tensors(partial(self._copied, module, side), value))
            return value
        if side not in self.asked[module].record:
            self._deliver(module, side, self._unfolded(map_tensors(Tensor.detach, value)))
            return value
        leaves, spec = pytree.tree_flatten(value)
        both = [self._held(x) if isinstance(x, Tensor) else (x, x) for x in leaves]
        self._deliver(module, side, pytree.tree_unflatten([held for held, _ in both], spec))
        return pytree.tree_unflatten([onwards for _, onwards in both], spec)

    def see_inputs(self, module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """:meth:`see` of the positional arguments of a module: the only one, or all of them as a tuple."""
        if len(inputs) == 1:
            return (self.see(module, "input", inputs[0]),)
        found: tuple[Any, ...] = self.see(module, "input", inputs) if inputs else inputs
        return found

    def see_state(self, module: Any, name: str, value: Any) -> None:
        """Notes a state that was recorded: of all steps, or of the one that runs."""
        if self._scope is not None:
            self._scope.add((module, name), value)
        else:
            self._deliver(module, name, value)

    @contextmanager
    def inside(self, module: Any) -> Iterator[None]:
        """While a temporal module runs a whole sequence by itself."""
        outer, self._scope = self._scope, _Parts(self)
        self.running.append(module)
        try:
            yield
        finally:
            self.running.pop()
            scope, self._scope = self._scope, outer
        scope.close()

    @contextmanager
    def unseen(self, *modules: Any) -> Iterator[None]:
        """While modules run whose hooks are to tell nothing."""
        self.running += modules
        try:
            yield
        finally:
            del self.running[len(self.running) - len(modules) :]

    def unseen_while(self, function: Callable[..., Any], module: Any) -> Callable[..., Any]:
        """``function``, while which the hooks of a module tell nothing."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with self.unseen(module):
                return function(*args, **kwargs)

        return run

    @contextmanager
    def still(self) -> Iterator[None]:
        """While one step runs for all T, which are equal."""
        self._still = True
        try:
            yield
        finally:
            self._still = False

    @contextmanager
    def reordered(self, order: Tensor) -> Iterator[None]:
        """While steps run in another order: step ``order[t, b]`` of sample b is the t-th."""
        self._order = order
        try:
            yield
        finally:
            self._order = None

    def steps(self) -> Steps | None:
        """A scope for a module that goes through all steps by itself; None within the step of another one."""
        if self._folding.stepping or isinstance(self._scope, Steps) or type(self._scope) is _Scope:
            return None
        scope = self._scope = Steps(self, self._scope)
        return scope

    def _gradients(self, module: Any, name: str, value: Any) -> Any:
        taking = Gradients() if self._scope is None else self._scope.gradients((module, name))
        piece, value = taking.watch(value)
        if self._scope is not None:
            self._scope.add((module, name), piece)
        else:
            taking.groups.append(([0], partial(whole, self._folding, None), self._later(module, name)))
        return value

    def _copied(self, module: Any, side: str, x: Tensor) -> Tensor:
        return x.clone() if side in self.asked[module].record else x.detach().clone()

    def _held(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is recorded of a tensor, and what goes on: computed from it, and apart from it."""
        folding = self._folding
        if self._still or folding.stepping or x.ndim == 0 or x.shape[0] != folding.rows:
            return self._unfolded(x.clone()), x
        held = folding.unfold(x, "")
        return held, folding.fold(held).clone()

    def _unfolded(self, value: Any) -> Any:
        return map_tensors(self._expanded, value) if self._still else self._folding.seen(value)

    def _expanded(self, x: Tensor) -> Tensor:
        folding = self._folding
        return x.expand(folding.T, *x.shape) if x.shape[:1] == (folding.B,) else x

    def _named(self, module: Any, name: str) -> str:
        """What the path is followed by: a module that runs n times before has ``#n``."""
        n = self._counts.get((module, name), 0)
        self._counts[module, name] = n + 1
        self.seen.add((module, name))
        return f"#{n}.{name}" if n else f".{name}"

    def _later(self, module: Any, name: str) -> Callable[[Any], None]:
        """Takes a gradient, when it comes."""
        end, folding = self._named(module, name), self._folding
        wanted = [(weakref.ref(sink), path + end) for sink, path, names in self.asked[module].sinks if name in names]

        def take(value: Any) -> None:
            for sink, full in wanted:
                found = sink()
                if found is not None:
                    _hand_over(found, full, value, folding)

        return take

    def _deliver(self, module: Any, name: str, value: Any) -> None:
        one, end = self.asked[module], self._named(module, name)
        if name in one.record:
            swapped = partial(arranged, self._swapped)
            self.recorded[one.path + end] = map_tensors(swapped, value) if self.batch_first else value
        for sink, path, names in one.sinks:
            if name in names:
                _hand_over(sink, path + end, value, self._folding)

    def _swapped(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1) if self._folding.is_sequence(x) else x


class _Scope:
    """Where values wait until it is known which steps they belong to. This one forgets them."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.folding = recorder, recorder._folding
        self.pieces: dict[tuple[Any, str], list[Piece]] = {}
        self.waiting: dict[tuple[Any, str], Gradients] = {}

    def add(self, key: tuple[Any, str], value: Any) -> None:
        """Takes a value that nobody writes to."""

    def gradients(self, key: tuple[Any, str]) -> Gradients:
        """Where the gradients of a place wait for the backward pass."""
        return self.waiting.setdefault(key, Gradients())

    def close(self) -> None:
        """Hands all values on, unfolded."""
        for (module, name), pieces in self.pieces.items():
            for places, arrange in self.groups(pieces):
                if name in GRADIENTS:
                    later = self.recorder._later(module, name)
                    self.waiting[module, name].groups.append((places, arrange, later))
                else:
                    values = [pieces[i].value for i in places]
                    found = arrange(values)
                    if name not in SIDES and isinstance(found, Tensor):
                        found = of_pieces(found, values, arrange)
                    self.recorder._deliver(module, name, found)

    def groups(self, pieces: list[Piece]) -> Iterator[tuple[list[int], Arrange]]:
        """Which pieces are one value, and what makes it of them."""
        raise NotImplementedError


class _Parts(_Scope):
    """Within a temporal module that runs a whole sequence as it likes."""

    def add(self, key: tuple[Any, str], value: Any) -> None:
        self.pieces.setdefault(key, []).append(Piece(value, 0, None, self.recorder._order))

    def groups(self, pieces: list[Piece]) -> Iterator[tuple[list[int], Arrange]]:
        T, B, n = self.folding.T, self.folding.B, len(pieces)
        shape = next((x.shape for x in pytree.tree_leaves(pieces[0].value) if isinstance(x, (Tensor, Blank))), ())
        if n % T == 0 and shape[:1] == (B,) and (T > 1 or shape[:2] != (1, B)):
            of_each = n // T
            for k in range(of_each):
                steps = [Piece(None, t, None, pieces[0].order) for t in range(T)]
                yield list(range(k, n, of_each)), partial(stacked, steps, self.folding)
        else:
            for k, piece in enumerate(pieces):
                yield [k], partial(whole, self.folding, piece.order)


class Steps(_Scope):
    """Within a module that goes through the steps by itself and says at which one it is."""

    def __init__(self, recorder: Recorder, outer: _Scope | None) -> None:
        super().__init__(recorder)
        self._outer = outer
        self._t, self._going = 0, None  # type: int, Tensor | None
        self._counts: dict[tuple[Any, str], int] = {}

    def at(self, t: int, going: Tensor | None = None) -> None:
        """The step ``t`` begins, of the samples ``going`` (indices; None: of all)."""
        self._t, self._going = t, going

    def add(self, key: tuple[Any, str], value: Any) -> None:
        self.pieces.setdefault(key, []).append(Piece(value, self._t, self._going, self.recorder._order))

    def end(self) -> None:
        """The last step has ended."""
        self.recorder._scope = self._outer
        self.close()

    def groups(self, pieces: list[Piece]) -> Iterator[tuple[list[int], Arrange]]:
        times: dict[int, int] = {}
        found: dict[int, list[int]] = {}  # a module that runs more than once in a step has as many values
        for i, piece in enumerate(pieces):
            k = times[piece.step] = times.get(piece.step, -1) + 1
            found.setdefault(k, []).append(i)
        for places in found.values():
            steps = [piece._replace(value=None) for piece in (pieces[i] for i in places)]
            yield places, partial(stacked, steps, self.folding)


def _hand_over(sink: Sink, name: str, value: Any, folding: Folding) -> None:
    if folding.stepping:  # a step is a sequence of one
        value = map_tensors(lambda x: x.unsqueeze(0), value)
    sink.take(name, value, (folding.T, folding.B), folding.lengths)
