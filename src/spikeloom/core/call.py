"""The call: what one run of a Network, Stream or Loop carries, and where the running one is found.

Time is folded into the batch while plain layers run. The call knows how to fold and unfold, and it holds
the state of every temporal module, so that no module holds any.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._tracing import has_autocast
from .arguments import explain
from .folding import Folding
from .folding import map_tensors as map_tensors
from .promise import Promise, Waiting, kept
from .recorder import Recorder, Steps

State = Any
"""A pytree of tensors, or None. Tensors whose dimension 0 is B belong to samples."""

Sequence = Callable[..., tuple[Any, ...]]
"""What has the arguments and results of ``TemporalModule.sequence``."""

_running = threading.local()  # a ContextVar cannot be traced by Dynamo, an attribute on modules breaks threads
_running.call = None  # compiled code guards on its being there: before and after the first call alike


def active() -> Call | None:
    """The call that runs in this thread, or None."""
    call: Call | None = getattr(_running, "call", None)
    return call


@contextmanager
def activate(call: Call) -> Iterator[Call]:
    """Makes ``call`` the running one of this thread."""
    previous = active()
    _running.call = call
    try:
        yield call
    finally:
        _running.call = previous


class Repeated(NamedTuple):
    """A sequence of T equal steps, kept as the one step ``x`` ``[B, *]``.

    >>> import torch
    >>> from spikeloom.core import Repeated
    >>> image = Repeated(torch.ones(2, 3), T=4)  # stands for ones [4, 2, 3], in a quarter of the memory
    >>> (image.T * image.x.sum()).item()
    24.0
    """

    x: Tensor
    T: int


class Result(NamedTuple):
    """What a call gives besides its output, where ``return_state`` or ``record`` ask for it; see :class:`Network`.

    ``state``: the state of every temporal module after the last step, by path; pass it to the next call.
    ``record``: the recordings, ``{"2.v": [T, B, *]}`` (``[B, T, *]`` with ``batch_first``), in the order of time.
    Gradients of a loss of them flow on. Inputs and outputs that have the rows of the call are what the rest was
    computed from, so that ``torch.autograd.grad`` with regard to them works; with regard to states and ``u`` it works
    in the PyTorch loop (``sl.backend("eager")``), and raises RuntimeError where a kernel recorded them.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(sl.IF(v_threshold=10.0))
    >>> y, result = net(torch.ones(3, 1, 1), return_state=True, record=("0.v",))
    >>> result.state, result.record["0.v"].flatten()
    ({'0': {'v': tensor([[3.]])}}, tensor([1., 2., 3.]))
    >>> net(torch.ones(1, 1, 1), state=result.state, return_state=True)[1].state
    {'0': {'v': tensor([[4.]])}}
    """

    state: dict[str, State]
    record: dict[str, Tensor]


class Layout(NamedTuple):
    """How the inputs of a call lie: in words, and in which dimensions time and batch are.

    ``remedy``: what to do where a dimension is missing.
    """

    text: str
    time: int | None
    batch: int
    remedy: str


_REMEDY = "pass repeat=T for a still input, run single steps by net.stream(), or add the batch dimension"
TIME_FIRST = Layout("[T, B, *]", 0, 1, _REMEDY)
BATCH_FIRST = Layout("[B, T, *]", 1, 0, _REMEDY)
REPEATED = Layout("[B, *] with repeat=T", None, 0, "add the batch dimension")
STEP = Layout("[B, *]", None, 0, "add the batch dimension")


class Origin(NamedTuple):
    """Where a call comes from, for errors: the body that runs, and what the network was given."""

    body: nn.Module
    layout: Layout
    shapes: tuple[torch.Size, ...]

    def asked(self) -> str:
        """What the network expected, what it got and what to do."""
        got = " and ".join(str(list(shape)) for shape in self.shapes)
        return f"The network expected {self.layout.text}; got {got}: {self.layout.remedy}"


class Timed(Protocol):
    """What a call needs of a temporal module; see :class:`spikeloom.TemporalModule`."""

    @property
    def own_dtypes(self) -> bool: ...
    def still(self, name: str) -> bool: ...
    def initial_state(self, *x_t: Any) -> State: ...
    def check_state(self, state: State, *x_t: Any) -> None: ...
    def step(self, *x_t: Any, state: State = None) -> tuple[Any, State]: ...
    def recorded_step(
        self, *x_t: Any, state: State = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, State, dict[str, Any]]: ...
    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]: ...
    @property
    def absorbs_late(self) -> bool: ...
    def absorb(self, previous: Any) -> Sequence | None: ...


class Call(Folding):
    """State, folding and options of one run.

    Args:
        T, B: steps and batch.
        paths: names of the temporal modules.
        incoming: states by key, or None to start every module at rest.
        lengths: valid steps per sample ``[B]`` or None.
        recorder: who wants to see what runs, or None.
        stepping: True when the modules are to run one step (T is 1).
        packed: True when neurons hand their spikes on as bits.
        fuse: False when neighbours in a Sequential are not to run as one.
        waiting: the batch norms that wait for a neuron, or None.
        origin: what errors tell of the network.
    """

    def __init__(
        self,
        T: int,
        B: int,
        *,
        paths: Mapping[Any, str],
        incoming: Mapping[str, State] | None = None,
        lengths: Tensor | None = None,
        recorder: Recorder | None = None,
        stepping: bool = False,
        packed: bool = False,
        fuse: bool = True,
        waiting: Waiting | None = None,
        origin: Origin | None = None,
    ) -> None:
        super().__init__(T, B, lengths, stepping=stepping)
        self.origin = origin
        self.paths, self.incoming = paths, incoming
        self.recorder = recorder
        self.packed, self.fuse, self.waiting = packed, fuse, waiting
        self.traced = torch.compiler.is_compiling()  # all of the run is part of one graph
        self.outgoing: dict[str, State] = {}
        self._counts: dict[str, int] = {}

    def snapshot(self) -> Call:
        """A call as this one is now, whose states and recordings go nowhere."""
        made = Call(
            self.T,
            self.B,
            paths=self.paths,
            incoming=self.incoming,
            lengths=self.lengths,
            recorder=None if self.recorder is None else self.recorder.again(),
            stepping=self.stepping,
            packed=self.packed,
            fuse=self.fuse,
            waiting=self.waiting,
            origin=self.origin,
        )
        made._counts = dict(self._counts)
        return made

    def run(self, module: Timed, xs: tuple[Any, ...], sequence: Sequence | None = None) -> Any:
        """Runs a temporal module on folded inputs with the state that this call holds for it.

        An input that is :class:`Repeated` has nothing to unfold. ``sequence`` runs in place of the module's own.
        """
        key, path = self._key(module)
        state, recorder = self._incoming(key), self.recorder
        if recorder is not None and sequence is None:  # else it stands for another input
            xs = self._seen_inputs(recorder, module, xs)
        if sequence is None and Promise in map(type, xs):
            xs, sequence = self._joined(module, xs)
        names = () if recorder is None else recorder.states(module)
        if self.stepping:
            if state is not None:
                module.check_state(state, *xs)
            with nullcontext() if recorder is None else recorder.unseen(module):
                try:
                    if names:
                        y, new, recorded = module.recorded_step(*xs, state=state, record=names)
                    else:
                        y, new = module.step(*xs, state=state)
                except (TypeError, AttributeError) as error:
                    if not names:
                        explain(error, module, "step", xs, path, state=state)
                    raise
        else:
            sequences = tuple(x if isinstance(x, Repeated) else self.unfold_tree(x, f"input of {path!r}") for x in xs)
            if state is not None:
                module.check_state(state, *(first_step(x) for x in sequences))
            run = module.sequence if sequence is None else sequence
            with nullcontext() if recorder is None else recorder.inside(module):
                try:
                    out = run(*sequences, state=state, lengths=self.lengths, record=names)
                except (TypeError, AttributeError) as error:
                    explain(error, module, "sequence", sequences, path, state=state, lengths=self.lengths, record=names)
                    raise
            y, new, recorded = out if names else (*out, {})
            y = self.fold_tree(y)
        if autocasts(xs) and (self.stepping or not (module.own_dtypes and module.still("own_dtypes"))):
            steps = xs if self.stepping else tuple(first_step(x) for x in sequences)
            new = in_dtypes_of(module.initial_state(*steps) if state is None else state, new)
        self.outgoing[key] = new
        if recorder is None:
            return y
        for name in names:
            recorder.see_state(module, name, recorded[name])
        return recorder.see(module, "output", y)

    def _joined(self, module: Timed, xs: tuple[Any, ...]) -> tuple[tuple[Any, ...], Sequence | None]:
        """What a module gets for inputs of which some are promises, and what runs in place of its sequence, if any."""
        late = xs[0].late if len(xs) == 1 and xs[0].is_as_made else None
        fits = not self.stepping and self.lengths is None
        if late is not None and late.may_join and fits and module.absorbs_late and module.still("absorb"):
            both = module.absorb(late)
            if both is not None:
                late.check()
                return (late.input if late.has_graph else late.input.detach(),), both
        return kept(xs, type(module).__name__), None

    def _seen_inputs(self, recorder: Recorder, module: Timed, xs: tuple[Any, ...]) -> tuple[Any, ...]:
        if not (xs and isinstance(xs[0], Repeated)):
            return recorder.see_inputs(module, xs)
        with recorder.still():
            seen = recorder.see_inputs(module, tuple(x.x for x in xs))
        return tuple(Repeated(x, self.T) for x in seen)

    def recorded(self) -> dict[str, Any]:
        """What was recorded, by ``<path>.<what>``."""
        if self.recorder is None:
            return {}
        found = self.recorder.recorded
        return {name: map_tensors(plain, value) for name, value in found.items()} if self.traced else found

    def _key(self, module: Timed) -> tuple[str, str]:
        path = self.paths.get(module)
        if path is None:
            raise RuntimeError(
                f"{type(module).__name__} is not part of the network that is being called: it was created or "
                "attached during the call, or belongs to another network. Make it a submodule before the call"
            )
        n = self._counts.get(path, 0)  # one module called twice has two states
        self._counts[path] = n + 1
        return (path if n == 0 else f"{path}#{n}"), path

    def _incoming(self, key: str) -> State:
        if self.incoming is None:
            return None
        if key not in self.incoming:
            raise ValueError(
                f"the given state has nothing for {key!r}, only for {sorted(self.incoming)}; pass a state that this "
                "network returned, or state=None to start at rest"
            )
        return self.incoming[key]

    def check_all_used(self) -> None:
        """Raises if a given state was not met during the run."""
        unused = sorted(set(self.incoming or ()) - set(self.outgoing))
        if unused:
            raise ValueError(f"the given state has entries for {unused}, which this call did not run")


def through_steps() -> Steps | None:
    """For a module that goes through all steps by itself: it says ``at(t)`` at each and ``end()`` after the last.

    None where nobody wants to know.
    """
    call = active()
    return None if call is None or call.recorder is None else call.recorder.steps()


def in_order(order: Tensor | None) -> AbstractContextManager[None]:
    """For a module that goes through steps in another order: step ``order[t, b]`` of sample b is the t-th."""
    call = active()
    return nullcontext() if order is None or call is None or call.recorder is None else call.recorder.reordered(order)


def plain(x: Tensor) -> Tensor:
    """A tensor of a subclass by an operation that leaves it: compiled code has to know the class of a gradient."""
    return x if type(x) in (Tensor, torch.nn.Parameter) else x * 1


def autocasts(xs: tuple[Any, ...]) -> bool:
    """Whether autocast is on where the inputs are."""
    x = xs[0] if xs and isinstance(xs[0], Tensor) else next(iter(pytree.tree_leaves(xs)), None)
    if not isinstance(x, Tensor):
        return False
    if x.is_cpu:  # asked at every step, and the name of a device takes longer than the answer
        return torch.is_autocast_enabled("cpu")
    kind = x.device.type
    return has_autocast(kind) and torch.is_autocast_enabled(kind)


def in_dtypes_of(before: State, after: State) -> State:
    """The state ``after`` a step in the dtypes of the one before it.

    Layers under autocast give what they compute in, and a state of another dtype would not fit the next step. A state
    of another structure is left alone.
    """
    leaves, spec = pytree.tree_flatten(after)
    wanted, structure = pytree.tree_flatten(before)
    if spec != structure:
        return after
    kept = [
        a.to(b.dtype) if isinstance(a, Tensor) and isinstance(b, Tensor) else a
        for a, b in zip(leaves, wanted, strict=True)
    ]
    return pytree.tree_unflatten(kept, spec)


def first_step(x: Any) -> Any:
    """Step 0 of a sequence, a pytree of sequences or a Repeated."""
    return x.x if isinstance(x, Repeated) else map_tensors(lambda t: t[0], x)


def detach(state: State) -> State:
    """The same state, cut from the graph of the steps before it (truncated backpropagation).

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Linear(2, 3), sl.LIF())
    >>> y, result = net(torch.rand(4, 1, 2), return_state=True)
    >>> result.state["1"]["v"].requires_grad, sl.detach(result.state)["1"]["v"].requires_grad
    (True, False)
    """
    return map_tensors(lambda t: t.detach(), state)
