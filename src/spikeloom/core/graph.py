"""What comes after what in a forward, whoever wrote it, and the guard that it is right."""

from __future__ import annotations

import linecache
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._hooks import has_hooks
from .batch import Batch, batches
from .nodes import Graph, Node
from .tree import walk

TOLERANCE = 1e-5
"""The largest difference between graph and model, relative to the largest value; float32 rounds at 6e-8, but sums of
thousands of values in another order come to 1e-6."""


class CaptureError(ValueError):
    """A model has no graph that computes what it computes; the text says why and what to do."""


def capture(
    model: nn.Module,
    example: Any,
    *,
    kwargs: dict[str, Any] | None = None,
    repeat: int | None = None,
    leaves: tuple[type[nn.Module], ...] = (),
) -> Graph:
    """What comes after what in a model's forward, as modules and functions.

    Args:
        model: a Network, or any module, with temporal modules or without, in the mode (``eval()``) that is meant.
        example: what the model takes: a tensor, or a tuple of its positional arguments. Where the model knows time,
            sequences ``[T, B, *]`` as ``net(x)`` takes them; otherwise dimension 0 of every tensor that has as many
            rows as the first one is the batch. ``sl.static(x)`` has no batch.
        kwargs: keyword arguments of the example.
        repeat: steps at each of which a Network is shown the example ``[B, *]``.
        leaves: classes of modules that are one node each, as temporal modules and those of torch.nn are.

    Networks are transparent, and paths are those of ``record``. Parts that cannot be walked through module by module
    (branches on values, writes to what has a view) make the whole model be taken apart by ``torch.export``, if it has
    no temporal modules and no ``leaves``; the graph then consists of functions, and ``fallback`` says why.

    The guard: whatever the way, the graph is run on the example and on a batch with one sample more, and must give what
    the model gives there (1e-5 relative). Numbers, flags and texts of the example are fixed in the graph. Branches on
    what depends on the example's size in other dimensions are fixed too.

    The model is left as it was, buffers and random numbers too; it runs at least six times. Other threads may run
    networks meanwhile.

    Raises CaptureError, with the line of the model's code, where there is no such graph, and whatever the model itself
    raises on the example.
    """
    args = example if isinstance(example, tuple) else (example,)
    with torch.no_grad(), _left_alone(model):
        body, both = batches(model, args, kwargs or {}, repeat)
        return _Capture(type(model).__name__, body, both, leaves).graph()


class _Capture:
    """One capture of one model."""

    def __init__(
        self, who: str, model: nn.Module, both: tuple[Batch, Batch], leaves: tuple[type[nn.Module], ...]
    ) -> None:
        self.who, self.model, self.batches, self.leaves = who, model, both, leaves
        self.modules = tuple(walk(model))
        self.wanted = [both[0].run(model)]
        try:
            self.wanted.append(both[1].run(model))
        except Exception as error:
            raise CaptureError(
                f"{self.who}: the model itself runs on {both[0].size} samples and not on {both[1].size}"
                f"{_at(error)}: {_text(error)}. Take the batch size from x.shape[0]"
            ) from error

    def graph(self) -> Graph:
        """A graph that passes the guard. Raises CaptureError."""
        from .exported import export
        from .tracer import Tracer, stays_whole

        try:
            walked = self.guarded(Tracer(self.modules, self.leaves, self.batches).walk(self.model))
        except Exception as error:  # whatever a model does with stand-ins
            first = error
            why = f"{_text(error)}{_at(error)}"
        else:
            return walked
        opaque = sorted({type(m).__name__ for _, m in self.modules if stays_whole(m, self.leaves)})
        if opaque:
            second = f"not tried, it would take {', '.join(opaque)} apart"
        else:
            try:
                gives = pytree.tree_structure(self.wanted[1])
                return self.guarded(export(self.model, self.modules, self.batches[1], gives, why))
            except Exception as error:  # torch.export raises errors of many kinds
                second = f"{_text(error)}{_at(error)}"
        raise CaptureError(
            f"{self.who} cannot be captured.\n  Walked through: {why}.\n  torch.export: {second}.\n  Make what "
            "cannot be followed a module of its own and name its class in leaves=, or branch on what the example fixes "
            "(numbers, sizes other than the batch's)"
        ) from first

    def guarded(self, graph: Graph) -> Graph:
        """The graph, if it computes what the model computes on both batches. Raises CaptureError."""
        for batch, wanted in zip(self.batches, self.wanted, strict=True):
            wrong = difference(batch.run(graph), wanted)
            if wrong:
                raise CaptureError(
                    f"on {batch.size} samples the graph and the model {wrong}{self._reason(graph, batch)}"
                )
        return graph

    def _reason(self, graph: Graph, batch: Batch) -> str:
        """Why they may differ, for an error."""
        if difference(batch.run(self.model), batch.run(self.model)):
            random = [path for path, m in self.modules if m.training and not list(m.children())]
            return f"; two runs of the model differ: call model.eval() (in training mode: {_listed(random)})"
        hooked = [path for path, module in self.modules if has_hooks(module)]
        where = self._first(graph, batch)
        return f"{where}; hooks are no part of a graph, remove those at {_listed(hooked)}" if hooked else where

    def _first(self, graph: Graph, batch: Batch) -> str:
        """The first module whose output differs, for an error."""
        there: dict[nn.Module, list[Any]] = defaultdict(list)
        nodes: list[tuple[Node, Any]] = []
        called = {node.what for node in graph if node.kind == "module"}
        handles = [m.register_forward_hook(lambda m, _, y: there[m].append(_copied(y))) for m in called]
        try:
            batch.run(self.model)
        finally:
            for handle in handles:
                handle.remove()
        batch.run(lambda *args, **kwargs: graph.run(args, kwargs, lambda node, y: nodes.append((node, _copied(y)))))
        for node, value in nodes:
            if node.kind == "module" and (not there[node.what] or difference(value, there[node.what].pop(0))):
                return f", first at {node.path!r}" + (f" ({node.where})" if node.where else "")
        return ""


def difference(got: Any, wanted: Any) -> str:
    """In words how one output differs from another; empty where it does not by more than 1e-5 of the largest value."""
    found, structure = pytree.tree_flatten(got)
    expected, spec = pytree.tree_flatten(wanted)
    if structure != spec:
        return f"give other structures, {structure} and {spec}"
    for a, b in zip(found, expected, strict=True):
        if isinstance(a, Tensor) != isinstance(b, Tensor) or (not isinstance(b, Tensor) and a != b):
            return f"give {a!r:.60} and {b!r:.60}"
        if not isinstance(b, Tensor):
            continue
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return f"give {list(a.shape)} {a.dtype} and {list(b.shape)} {b.dtype}"
        if b.is_complex():
            a, b = torch.view_as_real(a), torch.view_as_real(b)
        a, b = a.double(), b.double()
        apart = float(torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs()).max()) if a.numel() else 0.0
        largest = float(b.abs().nan_to_num().max()) if a.numel() else 0.0
        if not apart <= TOLERANCE * largest:
            return f"differ by {apart / largest if largest else float('inf'):.1e} of the largest value"
    return ""


@contextmanager
def _left_alone(model: nn.Module) -> Iterator[None]:
    """Buffers and random numbers are afterwards what they were."""
    tables = [(m._buffers, dict(m._buffers)) for m in model.modules()]
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = sorted({t.device.index for t in (*model.parameters(), *model.buffers()) if t.is_cuda})
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for table, then in tables:
                table.update(then)
            for buffer, value in values:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def _copied(y: Any) -> Any:
    return pytree.tree_map_only(Tensor, torch.clone, y)


def _text(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def _at(error: BaseException) -> str:
    """The line of the user's code, for an error."""
    from .tracer import users_line

    found = users_line(error.__traceback__)
    if found is None:
        return ""
    return f" in {found[0]}, line {found[1]}: {linecache.getline(*found).strip()}"


def _listed(paths: list[str]) -> str:
    return ", ".join(repr(path) for path in paths[:5]) + (" and others" if len(paths) > 5 else "")
