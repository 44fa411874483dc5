"""graphed: a module whose forward and backward pass are recorded once and then launched as a whole."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from .captures import AFTER, LIMIT, Arguments, Captures, Fixed, check_outputs, without_autocast, without_cache
from .prepared import copied
from .rehearsal import rehearse
from .replay import Recorder
from .unchanged import Unchanged


class Graphed:
    """What :func:`graphed` returns: it is called as its module is, and gives what that gives.

    Attributes:
        module: the module.
        captured: whether the last call replayed a graph.
        reason: why it did not; an empty string where it did.
    """

    def __init__(self, module: nn.Module, *, after: int = AFTER, limit: int = LIMIT) -> None:
        self.module, self._options = module, {"after": after, "limit": limit}
        self.captured, self.reason = False, ""
        self._captures: Captures[_Recorded] = Captures(module, after=after, limit=limit)
        self._running: list[weakref.ref[_Ticket]] = []
        self._free = [True]  # empty while a call runs; taking the item is one operation of the interpreter

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``module(*args, **kwargs)``."""
        return self._call(args, kwargs)

    def capture(self, *args: Any, **kwargs: Any) -> None:
        """Records calls with such arguments now; RuntimeError with the reason where they cannot be."""
        self._find(Arguments(args, kwargs), now=True)
        if self.reason:
            raise RuntimeError(f"graphed: {type(self.module).__name__} cannot be captured: {self.reason}")

    def clear(self) -> None:
        """Forgets all graphs, and frees the memory that they hold."""
        self._captures.clear()

    @property
    def graphs(self) -> int:
        """The number of kinds of calls that were captured."""
        return len(self._captures)

    def __reduce__(self) -> Any:
        return _again, (self.module, self._options)  # a copy captures graphs of its own

    def __repr__(self) -> str:
        return f"graphed({type(self.module).__name__}, {self.graphs} graphs)"

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            self._free.pop()
        except IndexError:
            self.captured, self.reason = False, "another thread, or the module itself, makes a call"
            return self.module(*args, **kwargs)
        try:
            given = Arguments(args, kwargs)
            found = self._find(given, now=False)
            if found is not None:
                ticket = _Ticket()
                self._running.append(weakref.ref(ticket))
                return found.run(given.tensors, ticket)
        finally:
            self._free.append(True)
        return self.module(*args, **kwargs)

    def _find(self, given: Arguments, *, now: bool) -> _Recorded | None:
        self._running = [ref for ref in self._running if (ticket := ref()) is not None and not ticket.done]
        if self._running:
            found, self.reason = None, "the backward pass of an earlier call is still to come, with what that computed"
        elif given.has("lengths"):
            found, self.reason = None, "lengths: how many steps are valid decides on shapes"
        else:
            found = self._captures.find(given, _Recorded, now=now)
            self.reason = self._captures.reason
        self.captured = found is not None
        return found


class _Ticket:
    """A call whose backward pass may be to come, as long as autograd keeps it."""

    def __init__(self) -> None:
        self.done = False


class _Recorded:
    """The graphs of one kind of call: forward and, where gradients are asked for, backward."""

    def __init__(self, recorder: Recorder, unchanged: Unchanged, given: Arguments) -> None:
        module, device = unchanged.modules[0], recorder.device.type
        self._recorder, self._inputs = recorder, [Fixed(x) for x in given.tensors]
        tensors = [x.tensor for x in self._inputs]
        args, kwargs = given.filled(tensors)
        self._learned = [p for p in unchanged.parameters if p.requires_grad] if torch.is_grad_enabled() else []
        aliases = {id(p): nn.Parameter(p.detach()) for p in self._learned}
        wanted = [x for x in tensors if x.requires_grad and torch.is_grad_enabled()] + list(aliases.values())

        def forward() -> list[Any]:
            with without_cache(device):
                y = module(*args, **kwargs)
            leaves, self._spec = pytree.tree_flatten(y)
            return leaves

        def backward(outputs: list[Tensor], upstream: list[Tensor]) -> Any:
            with without_autocast(device):
                return torch.autograd.grad(outputs, wanted, upstream, allow_unused=True)

        def both() -> None:
            outputs = _differentiable(forward())
            if outputs and wanted:
                backward(outputs, [_ones(y) for y in outputs])

        self._backward: Callable[[], None] | None = None
        with _in_place_of_parameters(unchanged, aliases):
            rehearse(recorder, unchanged, both)
            leaves, self._forward = recorder.record(forward)
            check_outputs(leaves)
            outputs = _differentiable(leaves)
            self._upstream = [_ones(y) for y in outputs]
            n = len(wanted) - len(aliases)
            if outputs and wanted:

                def backwards() -> tuple[list[Tensor | None], Flat]:
                    found = backward(outputs, self._upstream)
                    return list(found[:n]), Flat(found[n:])

                (found, self._of_parameters), self._backward = recorder.record(backwards)
        if self._backward is not None:
            grads = iter(found)
            self._of_inputs = [next(grads) if x.requires_grad else None for x in tensors]
        self._is_differentiable = [isinstance(y, Tensor) and y.requires_grad for y in leaves]
        self._outputs = [y.detach() if isinstance(y, Tensor) else y for y in leaves]  # without the graph of autograd

    def run(self, tensors: list[Tensor], ticket: _Ticket) -> Any:
        """The outputs for these inputs, in memory of their own."""
        if self._backward is None:
            ticket.done = True
            found = self.forward(tensors)
        else:
            found = list(_Replay.apply(self, ticket, *tensors, *self._learned))  # type: ignore[no-untyped-call]
        made = iter(found)
        leaves = [next(made) if isinstance(y, Tensor) else y for y in self._outputs]
        return pytree.tree_unflatten(leaves, self._spec)

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        """Replays the forward pass."""
        self._recorder.enter()
        for fixed, x in zip(self._inputs, tensors, strict=True):
            fixed.take(x)
        self._forward()
        return [copied(y) for y in self._outputs if isinstance(y, Tensor)]

    def constant(self, found: list[Tensor]) -> list[Tensor]:
        """The outputs that have no gradient."""
        has = (d for d, y in zip(self._is_differentiable, self._outputs, strict=True) if isinstance(y, Tensor))
        return [y for y, d in zip(found, has, strict=True) if not d]

    def backward(self, upstream: tuple[Tensor | None, ...]) -> list[Tensor | None]:
        """Replays the backward pass: gradients of inputs and parameters, in memory of their own.

        ``upstream``: the gradients of all outputs, None for one that nobody used.
        """
        assert self._backward is not None
        self._recorder.enter()
        has = (d for d, y in zip(self._is_differentiable, self._outputs, strict=True) if isinstance(y, Tensor))
        given = [g for g, d in zip(upstream, has, strict=True) if d]
        for fixed, g in zip(self._upstream, given, strict=True):
            fixed.zero_() if g is None else fixed.copy_(g)
        self._backward()
        return [*(None if g is None else g.clone() for g in self._of_inputs), *self._of_parameters.copies()]


class Flat:
    """Gradients one behind the other in a tensor for each dtype, so that all of them are copied at once."""

    def __init__(self, gradients: Sequence[Tensor | None]) -> None:
        parts: dict[torch.dtype, list[Tensor]] = {}
        sizes: dict[torch.dtype, int] = {}
        self._places: list[tuple[torch.dtype, Any, Any, int] | None] = []
        for g in gradients:
            if g is None:
                self._places.append(None)
                continue
            g = g if _fills_memory(g) else g.contiguous()
            there, at = parts.setdefault(g.dtype, []), sizes.get(g.dtype, 0)
            self._places.append((g.dtype, g.shape, g.stride(), at))
            there.append(g.as_strided((g.numel(),), (1,)))
            if gap := -g.numel() % _ALIGNED:
                there.append(g.new_zeros(gap))
            sizes[g.dtype] = at + g.numel() + gap
        self._flat = {dtype: torch.cat(group) for dtype, group in parts.items()}

    def copies(self) -> list[Tensor | None]:
        """The gradients, in memory that they share with nobody else."""
        flat = {dtype: x.clone() for dtype, x in self._flat.items()}
        return [None if p is None else flat[p[0]].as_strided(*p[1:]) for p in self._places]


_ALIGNED = 8  # elements at whose multiples gradients begin: optimisers read 16 bytes at once


def _fills_memory(g: Tensor) -> bool:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return g.is_contiguous() or (g.ndim in formats and g.is_contiguous(memory_format=formats[g.ndim]))


class _Replay(torch.autograd.Function):
    """The replay of a call as one operation of autograd."""

    @staticmethod
    def forward(ctx: Any, recorded: _Recorded, ticket: _Ticket, *tensors: Tensor) -> Any:
        ctx.recorded, ctx.ticket = recorded, ticket
        ctx.set_materialize_grads(False)
        found = recorded.forward(list(tensors[: len(recorded._inputs)]))
        ctx.mark_non_differentiable(*recorded.constant(found))
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        if ctx.ticket.done:
            raise RuntimeError(
                "graphed: a second backward pass through the same call, whose memory was used again by the first; "
                "call the module itself where backward(retain_graph=True) is needed"
            )
        ctx.ticket.done = True
        return None, None, *ctx.recorded.backward(upstream)


def graphed(module: nn.Module, *example: Any, after: int = AFTER, limit: int = LIMIT) -> Graphed:
    """A network, or any other module, that is called as before and runs as CUDA graphs: forward and backward.

    A training step of a spiking network launches hundreds of kernels, which Python issues more slowly than a GPU
    computes them; a graph launches them at once. Loss, gradient clipping, scaler, optimiser and schedule stay outside
    and may be any; a module that computes the loss too takes it into the graph. ::

        fast = sl.graphed(net)
        for x, y in batches:
            with torch.autocast("cuda", torch.float16):
                loss = F.cross_entropy(fast(x).mean(0).float(), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    Args:
        module: takes and gives pytrees of tensors and plain values, by keywords too (``fast(x, repeat=4)``,
            ``fast(x, state=state, return_state=True)``).
        example: arguments; such calls are captured at once, in the modes that are on, or RuntimeError says why not.
        after: a kind of call (shapes, dtypes, plain values, modes, autocast) is captured at this call of its kind, the
            ones before run as ever.
        limit: graphs that are kept; the one that was not used for longest makes room.

    All graphs of one module share their memory, which is that of the largest step, as long as a step runs, besides
    copies of the inputs, outputs and gradients of each. Outputs and gradients are handed out as copies of their own.
    Capturing runs the module three times and leaves parameters, ``.grad``, buffers and generators as they were.

    A call runs ungraphed, and ``fast.reason`` says why, where a graph would not do the same: with hooks, taps, or
    ``lengths``; where the backward pass of another call is still to come; on a CPU; and where the module cannot be
    captured, because it waits for the device, draws random numbers on the host, or changes its attributes, which is
    also said once through logging. Modes,
    options, layers, numbers and weights may change at any time: the graph that no longer fits is captured anew.
    Gradients of gradients and ``backward(retain_graph=True)`` need a call of the module itself.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Linear(2, 3), sl.LIF())
    >>> fast = sl.graphed(net)
    >>> fast(torch.rand(4, 1, 2)).shape, fast.captured, fast.reason
    (torch.Size([4, 1, 3]), False, 'the input is on cpu; steps are recorded on cuda')
    """
    made = Graphed(module, after=after, limit=limit)
    if example:
        made.capture(*example)
    return made


def _again(module: nn.Module, options: dict[str, int]) -> Graphed:
    return Graphed(module, **options)


def _differentiable(leaves: list[Any]) -> list[Tensor]:
    return [y for y in leaves if isinstance(y, Tensor) and y.requires_grad]


def _ones(y: Tensor) -> Tensor:
    """A gradient that is dense, whatever the output is made of."""
    return (
        torch.ones_like(y, requires_grad=False)
        if type(y) is Tensor
        else torch.ones(y.shape, dtype=y.dtype, device=y.device)
    )


@contextmanager
def _in_place_of_parameters(unchanged: Unchanged, aliases: dict[int, nn.Parameter]) -> Iterator[None]:
    """Within it the modules have other parameters over the same memory, by the ids of their own.

    Autograd keeps a node for each parameter as long as any graph is alive, with the stream on which it was made. What
    another stream has made would join that to the stream that records, which ends the recording. Nor do hooks of
    parameters see what is rehearsed.
    """
    before = [(table, name, p) for m in unchanged.modules for table in (m._parameters,) for name, p in table.items()]
    try:
        for table, name, p in before:
            table[name] = aliases.get(id(p), p)
        yield
    finally:
        for table, name, p in before:
            table[name] = p
