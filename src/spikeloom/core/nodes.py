"""Graph and Node: a forward as modules and functions that take each other's values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils import _pytree as pytree

Kind = Literal["input", "tensor", "module", "function", "output"]


@dataclass(eq=False, repr=False)
class Node:
    """One step of a graph.

    ``kind`` says what ``what`` is:

    * ``"input"``: nothing. The node is a tensor that the model is given; ``path`` says which one.
    * ``"tensor"``: a parameter or buffer, of which ``path`` is the name, or another tensor, which has no path.
    * ``"module"``: the module at ``path``. Hooks are no part of a graph: the node is ``type(what).forward``.
    * ``"function"``: a function or a method of tensors as a function, called in the forward of the module at ``path``.
    * ``"output"``: nothing. The single argument is a list of the leaves of the model's output.

    ``args`` and ``kwargs`` hold other nodes where the model passes values on. No node writes to its inputs: what is
    written in place in the model is out of place here, and later nodes use the result. ``where`` is ``file:line`` of
    the user's code that makes the call, or empty. ``users`` are the nodes that take this one.
    """

    kind: Kind
    name: str
    what: Any = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    path: str = ""
    where: str = ""
    users: list[Node] = field(default_factory=list)

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The nodes among the arguments, in order, each once."""
        found: dict[Node, None] = {}
        map_arguments(lambda a: found.setdefault(a) if isinstance(a, Node) else None, (self.args, self.kwargs))
        return tuple(found)

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the module or function of this node gives for such arguments; the arguments are not written to."""
        if self.kind != "module":
            return self.what(*args, **kwargs)
        if getattr(self.what, "inplace", False):
            args, kwargs = map_arguments(lambda a: a.clone() if isinstance(a, Tensor) else a, (args, kwargs))
        return type(self.what).forward(self.what, *args, **kwargs)

    def __repr__(self) -> str:
        named = {"module": type(self.what).__name__, "function": getattr(self.what, "__name__", "")}.get(self.kind, "")
        given = ", ".join(node.name for node in self.inputs)
        texts = (self.name, "=", self.kind, named, f"({given})" if given else "", self.path and f"at {self.path!r}")
        return " ".join(filter(None, (*texts, self.where and f"in {self.where}")))


class Graph:
    """The nodes of a forward in the order in which they run: inputs first, the output last.

    What does not lead to the output is left out.
    ``fallback`` says why the graph is made of the operations of ``torch.export`` instead of modules and functions as
    the model calls them; it is empty where it is not. ``graph(*args, **kwargs)`` computes what the model computes, from
    the model's own modules and tensors; with temporal modules it has to run within a network's call.
    """

    def __init__(self, nodes: list[Node], *, given: Any, gives: pytree.TreeSpec, fallback: str = "") -> None:
        used = {nodes[-1]}
        for node in reversed(nodes):
            if node in used:
                used.update(node.inputs)
        self.nodes = tuple(node for node in nodes if node in used or node.kind == "input")
        self.fallback = fallback
        self._leaves, self._takes = pytree.tree_flatten(given)
        self._gives = gives
        for node in self.nodes:
            for source in node.inputs:
                source.users.append(node)

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The nodes of the tensors that the model is given."""
        return tuple(node for node in self.nodes if node.kind == "input")

    @property
    def takes(self) -> pytree.TreeSpec:
        """The structure of the model's arguments, ``(args, kwargs)``."""
        return self._takes

    @property
    def gives(self) -> pytree.TreeSpec:
        """The structure of the model's output."""
        return self._gives

    @property
    def output(self) -> Node:
        """The last node, whose inputs are what the model returns."""
        return self.nodes[-1]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __str__(self) -> str:
        return "\n".join(map(repr, self.nodes))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output.

        Raises TypeError for inputs of another structure than the example's and ValueError for another number, flag or
        text than the example has in that place: the graph holds for that one only.
        """
        return self.run(args, kwargs, lambda node, value: None)

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any], seen: Callable[[Node, Any], None]) -> Any:
        """The model's output; ``seen`` is called with each node of a module or function and its value."""
        inputs = self._tensors((args, kwargs))
        values: dict[Node, Any] = {}
        for node in self.nodes:
            if node.kind == "input":
                values[node] = next(inputs)
            elif node.kind == "tensor":
                values[node] = node.what
            else:
                given, named = map_arguments(
                    lambda a: values[a] if isinstance(a, Node) else a, (node.args, node.kwargs)
                )
                if node.kind == "output":
                    return pytree.tree_unflatten(given[0], self._gives)
                values[node] = node.run(given, named)
                seen(node, values[node])
        raise RuntimeError("a graph without output")

    def _tensors(self, given: Any) -> Iterator[Tensor]:
        leaves, spec = pytree.tree_flatten(given)
        if spec != self._takes:
            raise TypeError(f"the graph was captured with inputs {_structure(self._takes)}; got {_structure(spec)}")
        for got, then in zip(leaves, self._leaves, strict=True):
            if isinstance(got, Tensor) != isinstance(then, Tensor) or (not isinstance(got, Tensor) and got != then):
                raise ValueError(f"the graph was captured with {then!r}, got {got!r}; capture it with that value")
        return (leaf for leaf in leaves if isinstance(leaf, Tensor))


def _structure(spec: pytree.TreeSpec) -> str:
    args, kwargs = pytree.tree_unflatten(["*"] * spec.num_leaves, spec)
    return ", ".join([*map(str, args), *(f"{name}={value}" for name, value in kwargs.items())]) or "nothing"


def map_arguments(function: Callable[[Any], Any], tree: Any) -> Any:
    """``function`` of all that stands in the tuples, lists, dicts and slices of arguments."""
    if isinstance(tree, tuple):
        items = [map_arguments(function, item) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    if isinstance(tree, list):
        return [map_arguments(function, item) for item in tree]
    if isinstance(tree, dict):
        return {name: map_arguments(function, item) for name, item in tree.items()}
    if isinstance(tree, slice):
        return slice(*(map_arguments(function, part) for part in (tree.start, tree.stop, tree.step)))
    return function(tree)


Modules = tuple[tuple[str, nn.Module], ...]
"""Modules with their paths; a network and its body have the same."""


def names_of_tensors(modules: Modules) -> dict[int, str]:
    """The names of the parameters and buffers of modules: the first one of each, by identity."""
    found: dict[int, str] = {}
    for path, module in modules:
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                found.setdefault(id(tensor), ".".join(filter(None, (path, name))))
    return found
