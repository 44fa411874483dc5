"""TemporalModule: what knows time. Everything else in a network is a plain layer."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._constants import HasConstants
from .._peers import of_attribute
from .._time import check_lengths
from .arguments import explain
from .call import (
    TIME_FIRST,
    Layout,
    Repeated,
    Sequence,
    State,
    active,
    autocasts,
    first_step,
    in_dtypes_of,
    through_steps,
)
from .folding import map_tensors
from .prepared import Prepared
from .recording import arranged, of_pieces


class _OfItsParts:
    """``causal`` of a module that does not say itself: whether all temporal modules inside are causal."""

    def __get__(self, module: TemporalModule | None, owner: type) -> bool:
        return module is None or not_causal(module) is None


class TemporalModule(HasConstants):
    """Base of modules whose output at a step depends on other steps.

    A subclass defines ``step`` or ``sequence`` (or both; each has a default made of the other) and, if it
    has state, ``initial_state``:

    * ``initial_state(*x_t)``: the state at rest for step inputs ``[B, *]``, a pytree of tensors or None;
    * ``step(*x_t, state=None) -> (y_t, state)`` on ``[B, *]``;
    * ``sequence(*xs, state=None, lengths=None, record=()) -> (y, state)`` on ``[T, B, *]``; where ``record``
      names something, ``(y, state, {name: [T, B, *]})``.

    ``state=None`` means rest. Tensors of a state whose dimension 0 is B belong to samples; others are shared.
    Inside a network the module is called like a layer, ``module(x)``; elsewhere call ``sequence`` or ``step``.

    Public attributes that are plain values (numbers, text, tuples, functions by name) are the constants of a module:
    ``state_dict()`` carries them, and loading weights that were saved with others raises. Those that a run itself
    writes (``self.calls += 1`` in ``step``) are none.

    >>> import torch
    >>> import spikeloom as sl
    >>> class Delay(sl.TemporalModule):
    ...     def initial_state(self, x_t):
    ...         return torch.zeros_like(x_t)
    ...     def step(self, x_t, state=None):
    ...         return (self.initial_state(x_t) if state is None else state), x_t
    >>> sl.Network(Delay())(torch.tensor([[1.0], [2.0], [3.0]])).flatten()
    tensor([0., 1., 2.])
    """

    if TYPE_CHECKING:
        causal: bool
    else:
        causal = _OfItsParts()
    """False: the module needs the whole sequence; streams and split runs raise. A subclass may set it or define it as a
    property; where none does, a module is causal if all temporal modules inside it are."""

    takes_repeated: bool = False
    """True: ``sequence`` also accepts a :class:`Repeated` input."""

    transparent: bool = False
    """True: inside a call the module only passes its inputs to its ``body`` (networks)."""

    own_dtypes: bool = False
    """Whether the states of a sequence have the dtypes that they have at rest, under autocast too. Else a call compares
    them there, and for that needs the state at rest."""

    opaque: bool = False
    """True: temporal modules inside are run by this one alone, and the network does not see them. They are not called
    as modules are, so that hooks on them do not run; hooks on this one do."""

    not_carried: ClassVar[tuple[str, ...]] = ("recordable", "recordable_by_name")
    """Public attributes that are no part of the dynamics, so that loading weights does not compare them (below)."""

    recordable: tuple[str, ...] = ()
    """Names that ``record`` may ask for, besides ``output``."""

    recordable_by_name: tuple[str, ...] = ()
    """More such names, which are in no state. They take a computation of their own, so that a wildcard fits them only
    where it ends in the name: ``*.u`` does, ``2.*`` does not."""

    if not TYPE_CHECKING:  # else every attribute would be there for a type checker

        def __getattr__(self, name):
            hint = of_attribute(name)
            if not hint:
                return super().__getattr__(name)
            try:
                return super().__getattr__(name)
            except AttributeError as missing:
                raise AttributeError(f"{missing}{hint}") from None

    def _attributes(self) -> dict[str, Any]:
        written = set(_written(type(self)))
        return {name: value for name, value in super()._attributes().items() if name not in written}

    def initial_state(self, *x_t: Any) -> State:
        """The state at rest for step inputs ``[B, *]``; None for a module without state."""
        return None

    def step(self, *x_t: Any, state: State = None) -> tuple[Any, State]:
        """One step: inputs ``[B, *]``, returns ``(y_t, state)``."""
        self._needs("sequence")
        xs = tuple(map_tensors(lambda t: t.unsqueeze(0), x) for x in x_t)
        y, new = self.sequence(*xs, state=state)
        return map_tensors(lambda t: t.squeeze(0), y), new

    def recorded_step(
        self, *x_t: Any, state: State = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, State, dict[str, Any]]:
        """:meth:`step`, and what ``record`` names of it: states are those after the step."""
        if set(record) <= set(self.recordable):
            y, new = self.step(*x_t, state=state)
            return y, new, {name: new[name] for name in record}
        xs = tuple(map_tensors(lambda t: t.unsqueeze(0), x) for x in x_t)
        y, new, recorded = self.sequence(*xs, state=state, record=record)
        y, recorded = map_tensors(partial(arranged, lambda t: t.squeeze(0)), (y, recorded))
        return y, new, recorded

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps: inputs ``[T, B, *]``, returns ``(y, state)`` with y ``[T, B, *]``."""
        self._needs("step")
        self.check_record(record)
        check_steps(self)
        if state is None and autocasts(xs):
            state = self.initial_state(*(first_step(x) for x in xs))
        if record:
            return run_steps(lambda x_t, s: self.recorded_step(*x_t, state=s, record=record), xs, state, lengths)
        return run_steps(self._own_step, xs, state, lengths)

    def _own_step(self, x_t: tuple[Any, ...], state: State) -> tuple[Any, State]:
        try:
            return self.step(*x_t, state=state)
        except (TypeError, AttributeError) as error:
            call = active()
            explain(error, self, "step", x_t, None if call is None else call.paths.get(self), state=state)
            raise

    absorbs_late: ClassVar[bool] = False
    """Whether ``absorb`` also takes a :class:`spikeloom.core.promise.Late`: a norm that was called already."""

    def absorb(self, previous: Any) -> Sequence | None:
        """What runs the layer ``previous`` and this module in one, called as ``sequence`` is; None where nothing does.

        A network asks for neighbours in an ``nn.Sequential``.
        """
        return None

    def still(self, name: str) -> bool:
        """Whether what a class says by ``name`` holds: no subclass and no attribute has another sequence or forward."""
        if "sequence" in self.__dict__ or "forward" in self.__dict__:
            return False
        for kind in type(self).__mro__:
            if name in vars(kind):
                return True
            if "sequence" in vars(kind) or "forward" in vars(kind):
                return False
        return False

    def prepared(self, x: Any, *, previous: nn.Module | None = None, last: bool = True) -> Prepared | None:
        """How a stream is to run :meth:`step` on inputs like ``x``, without a gradient; None: as it is.

        ``previous`` is the layer before this one, if the step is to stand for both, with x as that layer's input (None
        where it cannot). ``last``: whether the output is handed out, or is the input of another layer.
        """
        return None

    @staticmethod
    def may_prepare() -> bool:
        """Whether prepared steps of this kind of module may run in this thread now; streams ask before each step."""
        return True

    def depends_on(self) -> Any:
        """What a recorded run depends on besides tensors, attributes, methods, modes and modules inside, which are
        compared for all modules; asked before each replay, which needs an equal answer.

        Raises :class:`spikeloom.core.prepared.UnfitError` with the reason where a change could not be noticed.
        """
        return ()

    def check_causal(self, what: str) -> None:
        """Raises ValueError, with the part to blame, if the module is not causal and is to do ``what``."""
        check_causal(self, "", what)

    def check_state(self, state: State, *x_t: Any) -> None:
        """Raises ValueError if the structure, a shape, dtype or device of ``state`` does not fit the input."""
        check_state(type(self).__name__, state, self.initial_state(*x_t))

    def check_inputs(self, xs: tuple[Any, ...]) -> None:
        """Raises TypeError where a call inside a network gives the module something else than its inputs."""

    def check_record(self, record: tuple[str, ...]) -> None:
        """Raises ValueError for a name that ``sequence`` cannot record."""
        for name in record:
            if name not in self.recordable and name not in self.recordable_by_name:
                there = ", ".join((*self.recordable, *self.recordable_by_name)) or "nothing"
                why = self.not_recordable(name)
                raise ValueError(
                    f"{type(self).__name__}: cannot record {name!r}, only {there}{f': {why}' if why else ''}"
                )

    def not_recordable(self, name: str) -> str:
        """Why a name cannot be recorded, where there is more to say than what can be."""
        return ""

    def forward(self, *xs: Any, sequence: Sequence | None = None) -> Any:
        """Inside a Network or Stream: folded inputs ``[T*B, *]``, folded outputs.

        A network gives one that takes it an input that stays the same as :class:`Repeated`, and what :meth:`absorb`
        has made as ``sequence``.
        """
        call = active()
        if call is None:
            shapes = ", ".join(str(list(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in xs)
            raise RuntimeError(
                f"{type(self).__name__} got {shapes} outside a Network: wrap the model in sl.Network, which takes all "
                "steps at once, net(x) with x [T, B, *] or net(x, repeat=T), and has no loop over time; or call "
                ".sequence(x) on [T, B, *] or .step(x_t, state=...)"
            )
        if len(xs) != 1 or not isinstance(xs[0], (Tensor, Repeated)):
            self.check_inputs(xs)
        return call.run(self, xs, sequence)

    def _needs(self, method: str) -> None:
        if getattr(type(self), method) is getattr(TemporalModule, method):
            raise NotImplementedError(f"{type(self).__name__} must define step or sequence")


def not_causal(module: nn.Module) -> tuple[str, TemporalModule] | None:
    """The first temporal module inside ``module`` that says of itself that it is not causal, with its path there."""
    for name, child in module._modules.items():
        if child is None or (isinstance(child, TemporalModule) and child.causal):
            continue
        inner = not_causal(child)
        if inner is not None:
            return f"{name}.{inner[0]}", inner[1]
        if isinstance(child, TemporalModule):
            return name, child
    return None


def check_causal(module: TemporalModule, path: str, what: str) -> None:
    """Raises ValueError, with the part to blame, if a module that is not causal is to do ``what``."""
    if not module.causal:
        inner = not_causal(module)
        path, culprit = (path, module) if inner is None else (f"{path}.{inner[0]}".lstrip("."), inner[1])
        if path:
            who, what = f"{_named(culprit)} at {path!r}", f"so the network cannot {what}; call net(x)"
        else:
            who, what = _named(culprit), f"and cannot {what}; call .sequence(x)"
        raise ValueError(f"{who} is not causal: it needs the whole sequence, {what} on whole sequences")


def _written(cls: type) -> Iterator[str]:
    """Names of attributes that a user's class writes when it runs: in what networks call, and in methods that leads to.

    They are what is counted or kept from one call to the next, and no constants.
    """
    names, seen = ["forward", "step", "sequence", "initial_state"], set[str]()
    while names:
        name = names.pop()
        if name in seen:
            continue
        seen.add(name)
        for kind in cls.__mro__:
            method = vars(kind).get(name)
            if isinstance(method, FunctionType) and kind.__module__.partition(".")[0] not in ("spikeloom", "torch"):
                names += method.__code__.co_names
                yield from (op.argval for op in dis.get_instructions(method) if op.opname == "STORE_ATTR")


def check_steps(module: nn.Module) -> None:
    """Raises ValueError if a part of a module that runs step by step is not causal."""
    found = not_causal(module)
    if found is not None:
        raise ValueError(
            f"{type(module).__name__} runs step by step, but {_named(found[1])} at {found[0]!r} is not causal: it "
            "needs the whole sequence"
        )


def _named(module: nn.Module) -> str:
    options = module.extra_repr()  # mostly they are the reason
    return f"{type(module).__name__}({options})" if options else type(module).__name__


def check_state(who: str, state: State, expected: State) -> None:
    """Raises unless ``state`` has the structure, shapes, dtypes and devices of ``expected``."""
    got, got_spec = pytree.tree_flatten(state)
    want, want_spec = pytree.tree_flatten(expected)
    if got_spec != want_spec:
        raise ValueError(f"{who}: the given state has another structure: got {got_spec}, expected {want_spec}")
    for g, w in zip(got, want, strict=True):
        if w is None and g is not None:
            raise ValueError(
                f"{who}: the given state holds a {type(g).__name__} where this module has none, as it is now (training "
                "or not, and its options); start at rest (state=None, stream.reset())"
            )
        if not isinstance(w, Tensor):
            continue
        if not isinstance(g, Tensor):
            raise TypeError(f"{who}: the given state holds {type(g).__name__} where a tensor is expected")
        if (g.shape, g.dtype, g.device) != (w.shape, w.dtype, w.device):
            raise ValueError(
                f"{who}: the given state is {list(g.shape)} {g.dtype} on {g.device}, but this input needs "
                f"{list(w.shape)} {w.dtype} on {w.device}; start at rest (state=None, stream.reset()) or convert it"
            )


def run_steps(step: Any, xs: tuple[Any, ...], state: State, lengths: Tensor | None) -> tuple[Any, ...]:
    """Runs ``step(x_t, state) -> (y_t, state)`` over time, only on the samples that are still going.

    Where a step returns recordings too, so does this: it returns what :meth:`TemporalModule.sequence` returns. Outputs
    and recordings past a sample's length are 0.
    """
    T, B = sequence_size(xs)
    longest = T
    if lengths is not None:
        lengths = check_lengths(lengths, T, B)
        longest = int(lengths.max())  # past it there is nothing to step
    keeps, places = autocasts(xs), through_steps()
    ys, recorded = [], []
    some: list[Tensor | None] = []  # Dynamo cannot trace list[Tensor | None]()
    for t in range(longest):
        x_t = tuple(map_tensors(lambda x, t=t: x[t], x) for x in xs)
        going = None if lengths is None else (lengths > t).nonzero().squeeze(1)
        before = state
        if places is not None:
            places.at(t, going)
        if going is None or going.shape[0] == B:
            y_t, state, *seen = step(x_t, state)
        else:
            y_t, state, *seen = _step_some(step, x_t, state, going, B)
        state = in_dtypes_of(before, state) if keeps else state
        ys.append(y_t)
        recorded += seen
        some.append(going)
    if places is not None:
        places.end()
    stack = partial(_stack, T=T)
    y = pytree.tree_map(stack, *ys)
    if not recorded:
        return y, state

    def of_steps(*steps: Any) -> Any:
        def arrange(found: list[Tensor]) -> Tensor:
            filled: Tensor = stack(*map(partial(_filled, B=B), found, some))
            return filled

        steps_of = list(steps)
        return of_pieces(arrange(steps_of), steps_of, arrange) if isinstance(steps[0], Tensor) else steps[0]

    return y, state, pytree.tree_map(of_steps, *recorded)


def _filled(x: Tensor, going: Tensor | None, B: int) -> Tensor:
    """A value of the samples ``going`` as one of all, 0 for those that have ended."""
    if going is None or going.shape[0] == B or len(x) != len(going):
        return x
    return x.new_zeros((B, *x.shape[1:])).index_copy(0, going.to(x.device), x)


def _stack(*steps: Any, T: int) -> Any:
    """Steps as a sequence of T, 0 past those that there are."""
    if not isinstance(steps[0], Tensor):
        return steps[0]
    return torch.stack(steps + (torch.zeros_like(steps[0]),) * (T - len(steps)))


def _step_some(step: Any, x_t: tuple[Any, ...], state: State, going: Tensor, B: int) -> tuple[Any, ...]:
    """One step of the samples ``going``; the others keep their state and put out 0."""

    def per_sample(t: Tensor) -> bool:
        return t.ndim > 0 and t.shape[0] == B

    picked = map_tensors(lambda t: t[going.to(t.device)] if per_sample(t) else t, state)

    y, new, *seen = step(tuple(map_tensors(lambda t: t[going.to(t.device)], x) for x in x_t), picked)
    y = map_tensors(lambda t: t.new_zeros((B, *t.shape[1:])).index_copy(0, going.to(t.device), t), y)
    old_leaves, spec = pytree.tree_flatten(state)
    new_leaves = pytree.tree_leaves(new)
    merged = [
        old.index_copy(0, going.to(old.device), n) if isinstance(old, Tensor) and per_sample(old) else n
        for old, n in zip(old_leaves, new_leaves, strict=True)
    ]
    return y, pytree.tree_unflatten(merged, spec), *seen


def sequence_size(xs: tuple[Any, ...], who: str = "sequence", layout: Layout = TIME_FIRST) -> tuple[int, int]:
    """``(T, B)`` shared by all tensors ``[T, B, *]`` of a pytree; raises if there is none or they differ.

    Where another layout has no time, T is 1.
    """
    found: tuple[int, int] | None = None
    time, batch = layout.time, layout.batch
    for path, leaf in [((), xs[0])] if len(xs) == 1 and isinstance(xs[0], Tensor) else pytree.tree_leaves_with_path(xs):
        if not isinstance(leaf, Tensor):
            continue
        lead = leaf.shape[: 1 if time is None else 2]
        missing = len(lead) < (1 if time is None else 2)
        if missing or 0 in lead:
            name = f"{who}: input {pytree.keystr(path or (pytree.SequenceKey(0),))}"
            sizes = "B > 0" if time is None else "T > 0 and B > 0"
            remedy = f": {layout.remedy} ({sizes})" if missing else f", but there must be {sizes}"
            raise ValueError(f"{name}: expected {layout.text}; got {list(leaf.shape)}{remedy}")
        size = (1 if time is None else lead[time], lead[batch])
        if found is not None and size != found:
            raise ValueError(
                f"{who}: input {pytree.keystr(path)} has T, B = {size}, but an earlier one has {found}; give all "
                "sequences the same T and B, and pass what does not change over time as sl.static(x) or as a keyword "
                "argument"
            )
        found = size
    if found is None:
        given = ", ".join(dict.fromkeys(type(leaf).__name__ for leaf in pytree.tree_leaves(xs))) or "nothing"
        remedy = "; give torch.from_numpy(x)" if "ndarray" in given else ""
        raise ValueError(f"{who}: got no tensor to read T and B from, but {given}: expected {layout.text}{remedy}")
    return found
