"""The graph of a model as torch.export takes it apart, without operations that write in place."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from .batch import Batch
from .nodes import Graph, Modules, Node, map_arguments, names_of_tensors
from .tracer import is_users


class _Flat(nn.Module):
    """A model that takes and gives leaves, so that export sees no structure."""

    def __init__(self, model: nn.Module, spec: pytree.TreeSpec, fixed: list[Any]) -> None:
        super().__init__()
        self.model, self.spec, self.fixed = model, spec, fixed

    def forward(self, *tensors: Tensor) -> Any:
        """The leaves of the model's output."""
        rest = iter(tensors)
        leaves = [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in self.fixed]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return tuple(pytree.tree_leaves(self.model(*args, **kwargs)))


def export(model: nn.Module, modules: Modules, batch: Batch, gives: pytree.TreeSpec, why: str) -> Graph:
    """The graph of a model without temporal modules, whose outputs have the structure ``gives``.

    ``why`` is the reason that there is no better one.

    Raises ValueError where it branches on the batch size, and whatever torch.export does.
    """
    given = (batch.args, batch.kwargs)
    leaves, spec = pytree.tree_flatten(given)
    flat = _Flat(model, spec, leaves)
    tensors = tuple(x.clone() for x in leaves if isinstance(x, Tensor))
    of_samples = [dim is not None for x, dim in zip(leaves, batch.dims, strict=True) if isinstance(x, Tensor)]
    dynamic = tuple({0: torch.export.Dim.DYNAMIC} if samples else None for samples in of_samples)
    with warnings.catch_warnings(), _quiet():
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)  # torch warns of its own use
        program = torch.export.export(flat, tensors, dynamic_shapes=(dynamic,), strict=False).run_decompositions({})
    for sizes in program.range_constraints.values():
        if sizes.lower > 2 or sizes.upper < 2**31:
            raise ValueError(f"it holds for {sizes.lower} to {sizes.upper} samples only")
    return Graph(list(_nodes(program, modules, given)), given=given, gives=gives, fallback=why)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch from printing the part of a graph that it has before it fails; the error says the line."""
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(level)


def _nodes(program: Any, modules: Modules, given: Any) -> Iterator[Node]:
    signature = program.graph_signature
    held = {**program.state_dict, **program.constants}
    names = names_of_tensors(modules)
    places = iter([path for path, leaf in pytree.tree_leaves_with_path(given) if isinstance(leaf, Tensor)])
    specs = {spec.arg.name: spec for spec in signature.input_specs}
    returned = [s.arg for s in signature.output_specs if s.kind.name == "USER_OUTPUT"]
    found: dict[fx.Node, Node] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            target = specs[node.name].target
            if specs[node.name].kind.name == "USER_INPUT":
                found[node] = Node("input", node.name, path=pytree.keystr(next(places)[1:]))
            else:
                tensor = held[target]
                found[node] = Node("tensor", node.name, tensor, path=names.get(id(tensor), ""))
        elif node.op == "output":
            by_name = {n.name: n for n in found}
            leaves = [found[by_name[a.name]] if hasattr(a, "name") and a.name in by_name else a.value for a in returned]
            found[node] = Node("output", "output", args=(leaves,))
        elif node.op == "get_attr":
            found[node] = Node("tensor", node.name, getattr(program.graph_module, node.target))
        else:
            args, kwargs = map_arguments(
                lambda a: found[a] if isinstance(a, fx.Node) else a, (tuple(node.args), dict(node.kwargs))
            )
            found[node] = Node("function", node.name, node.target, args, kwargs, _path(node), _where(node))
        yield found[node]


def _path(node: fx.Node) -> str:
    """Of the module whose forward computes this; ours is around the model."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0].removeprefix("model").removeprefix(".") if stack else ""


def _where(node: fx.Node) -> str:
    found = ""
    for line in (node.meta.get("stack_trace") or "").splitlines():
        if line.lstrip().startswith('File "'):
            file, number = line.split('"')[1], line.split("line ")[1].split(",")[0]
            found = f"{file}:{number}" if is_users(file) else found
    return found
