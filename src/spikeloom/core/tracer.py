"""A walk through a model's forward with stand-ins for tensors, which notes what is called.

It is torch.fx's, with these differences. Each stand-in knows its value on two batches of different size. What is read
off shapes and is the same on both (``x.shape[1]``, ``x.ndim``, ``x.device``) is handed to the model as what it is, so
that it may branch on it; what differs depends on the batch size and stays a stand-in. What is written in place becomes
out of place, and the model's later uses of what was written to use the result.
"""

from __future__ import annotations

import functools
import inspect
import operator
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, FunctionType, TracebackType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from .batch import Batch, running
from .module import TemporalModule
from .nodes import Graph, Kind, Modules, Node, map_arguments, names_of_tensors

_ONE = threading.Lock()  # fx patches nn.Module while it walks, and puts back what it found
_OURS = str(Path(__file__).parent)
_OTHERS = (str(Path(torch.__file__).parent), sysconfig.get_path("stdlib") + "/", _OURS, "<")
_METHODS = """size dim ndimension numel nelement stride element_size is_contiguous is_floating_point is_complex
    get_device type storage_offset"""
_OF_SHAPES = {getattr(Tensor, name) for name in _METHODS.split()}  # they say nothing of a tensor's values
_OF_SHAPES |= {getattr, torch.numel, torch.is_floating_point, torch.is_complex}
_SIZED_BY_VALUES = {"nonzero", "argwhere", "unique", "unique_consecutive", "masked_select", "repeat_interleave"}
_ASSIGNMENTS = "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift"


class WalkError(Exception):
    """Why the walk cannot go on."""


class _StandIn(fx.Proxy):
    """A value of the model while it is walked through."""

    tracer: Tracer
    node: Any

    def __init__(self, node: Node, tracer: Tracer) -> None:
        super().__init__(node, tracer)  # type: ignore[arg-type]  # a node of ours, which fx only hands back

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.tracer.seen(self)[0], name)
        if callable(value) and not isinstance(value, Tensor):
            return functools.partial(self.tracer.method, name, self)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __iter__(self) -> Iterator[Any]:
        return (self.tracer.create_proxy("call_function", operator.getitem, (self, i), {}) for i in range(len(self)))

    def __len__(self) -> int:
        first, second = map(len, self.tracer.seen(self))
        if first != second:
            raise WalkError("its length is the batch size, which len() would fix: write x.shape[0]")
        return first

    def __bool__(self) -> bool:
        raise self.tracer.unknown(self.node, "a condition")

    def __int__(self) -> int:
        raise self.tracer.unknown(self.node, "a Python number")

    __float__ = __index__ = __int__

    def keys(self) -> Any:
        """Those of a dict that a module gives."""
        return self.tracer.seen(self)[0].keys()

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __setitem__(self, key: Any, value: Any) -> None:
        raise WalkError("a part of a tensor is assigned to")


def _in_place(name: str) -> Callable[[_StandIn, Any], Any]:
    function = getattr(operator, name)

    def assign(self: _StandIn, other: Any) -> Any:
        written = isinstance(self.tracer.seen(self)[0], Tensor)
        return self.tracer.note("function", function, (self, other), {}, writes=self if written else None)

    return assign


for _name in _ASSIGNMENTS.split():
    setattr(_StandIn, f"__i{_name.rstrip('_')}__", _in_place(_name))


class Tracer(fx.Tracer):
    """Walks through the forward of one model.

    Args:
        modules: all modules inside, with their paths.
        leaves: classes of modules that are not walked through, besides temporal modules and those of torch.nn.
        batches: two, of different sizes.
    """

    def __init__(self, modules: Modules, leaves: tuple[type[nn.Module], ...], batches: tuple[Batch, Batch]) -> None:
        super().__init__()
        self._paths: dict[nn.Module, str] = {}
        for path, module in modules:
            self._paths.setdefault(module, path)
        self._names = names_of_tensors(modules)
        self._leaves, self._batches = leaves, batches
        self._calls = [batch.call() for batch in batches]
        self._thread = threading.get_ident()
        self._running = False  # a leaf is: what it reads and calls is its own business
        self._inside = [""]  # paths of the modules that are walked through
        self._taken: set[str] = set()  # names of nodes
        self.nodes: list[Node] = []
        self.values: dict[Node, tuple[Any, Any]] = {}
        self._measures: set[Node] = set()  # nodes of what is read off shapes
        self._by_values: set[Node] = set()  # nodes whose sizes may be another for other values of the inputs
        self._tensors: dict[int, _StandIn] = {}
        self._now: dict[Node, Node] = {}  # what was written to -> the result
        self._stale: dict[Node, str] = {}  # views of what was written to since, with the place

    def walk(self, model: nn.Module) -> Graph:
        """The graph of the model's forward. Raises whatever stands in the way, a WalkError among them."""
        self._gives = pytree.tree_structure(None)
        with _ONE:
            self.trace(model)
        batch = self._batches[0]
        return Graph(self.nodes, given=(batch.args, batch.kwargs), gives=self._gives)

    # What fx asks for.

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """The model's own containers with stand-ins in place of tensors, instead of fx's placeholders by name."""
        given = [(batch.args, batch.kwargs) for batch in self._batches]
        leaves, spec = pytree.tree_flatten_with_path(given[0])
        others = pytree.tree_leaves(given[1])
        places = [
            self._input(path, a, b) if isinstance(a, Tensor) else a for (path, a), b in zip(leaves, others, strict=True)
        ]
        args, kwargs = pytree.tree_unflatten(places, spec)

        def forward(model: nn.Module) -> list[Any]:
            y = self.call_module(model, functools.partial(root_fn, model), args, kwargs)
            found, self._gives = pytree.tree_flatten(y)
            return found

        return forward, [self.root]

    def _input(self, path: Any, first: Tensor, second: Tensor) -> _StandIn:
        node = self._node("input", f"input_{len(self.nodes)}", path=pytree.keystr(path[1:]))
        self.values[node] = (first.clone(), second.clone())
        return _StandIn(node, self)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """One node of a leaf; the nodes of what is inside of any other module."""
        if self._running or threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        if m not in self._paths:
            raise WalkError(f"{type(m).__name__} is called, but is no submodule of the model")
        path = self._paths[m]
        if self.is_leaf_module(m, path):
            writes = (*args, *kwargs.values())[0] if getattr(m, "inplace", False) else None
            return self.note("module", m, args, kwargs, path=path, writes=writes)
        if isinstance(m, TemporalModule):  # a network, which is transparent
            return m.body(*args, **kwargs)  # type: ignore[operator]
        self._inside.append(path)
        try:
            return forward(*args, **kwargs)
        finally:
            self._inside.pop()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Temporal modules, given classes, and modules of torch.nn that hold none of these."""
        if stays_whole(m, self._leaves):
            return True
        torchs = type(m).__module__.startswith(("torch.nn.", "torch.ao.nn."))
        return (
            torchs
            and not isinstance(m, nn.Sequential)
            and not any(stays_whole(part, self._leaves) for part in m.modules())
        )

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        """Parameters and buffers that a model reads are stand-ins too."""
        if self._running or not isinstance(attr_val, Tensor) or threading.get_ident() != self._thread:
            return attr_val
        return self._tensor(attr_val)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *_: Any, **__: Any) -> Any:
        """Where fx comes to with what the model calls."""
        if kind == "call_method":
            return self.method(target, *args, **kwargs)
        what, args, kwargs, writes = _out_of_place(target, args, kwargs)
        return self.note("function", what, args, kwargs, writes=writes)

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *_: Any, **__: Any) -> Any:
        """The output: fx makes no other node itself."""
        return self._node("output", "output", args=args)

    def create_arg(self, a: Any) -> Any:
        """Arguments with nodes in place of stand-ins."""
        return map_arguments(self._argument, a)

    # What they are made of.

    def method(self, name: str, this: Any, *args: Any, **kwargs: Any) -> Any:
        """The call of a method, as that of a function."""
        value = self.seen(this)[0]
        function = getattr(Tensor if isinstance(value, Tensor) else type(value), name)
        what, given, kwargs, writes = _out_of_place(function, (this, *args), kwargs)
        return self.note("function", what, given, kwargs, writes=writes)

    def note(
        self, kind: Kind, what: Any, args: Any, kwargs: Any, *, path: str | None = None, writes: _StandIn | None = None
    ) -> Any:
        """Makes a node and gives the stand-in of its value, or the value itself where it is one for all batches."""
        args, kwargs = self.create_arg(args), self.create_arg(kwargs)
        name = path.replace(".", "_") if path else getattr(what, "__name__", type(what).__name__).lower()
        node = Node(kind, name, what, args, kwargs, self._inside[-1] if path is None else path, self._where())
        given = [self._value(i, node) for i in range(2)]
        if _sizes_by_values(node, given[0]) or any(source in self._by_values for source in node.inputs):
            self._by_values.add(node)
        elif self._of_shapes(node) and not isinstance(given[0], Tensor):
            if _same(*given):
                return given[0]
            self._measures.add(node)
        self._node(node=node)
        self.values[node] = (given[0], given[1])
        if writes is not None:
            self._write(self._argument(writes), node)
        return _StandIn(node, self)

    def _of_shapes(self, node: Node) -> bool:
        """Whether what the node gives is read off shapes."""
        if node.what in (getattr, operator.getitem) and node.inputs[0] in self._measures:
            return True
        return (
            node.kind == "function" and node.what in _OF_SHAPES and isinstance(self.values[node.inputs[0]][0], Tensor)
        )

    def _value(self, i: int, node: Node) -> Any:
        """What a node gives on one of the batches."""
        args, kwargs = map_arguments(
            lambda a: self.values[a][i] if isinstance(a, Node) else a, (node.args, node.kwargs)
        )
        self._running = True
        try:
            with running(self._calls[i]):
                return node.run(args, kwargs)
        finally:
            self._running = False

    def _argument(self, a: Any) -> Any:
        if isinstance(a, Tensor):
            a = self._tensor(a)
        if not isinstance(a, _StandIn):
            return a
        node: Node = a.node
        while node in self._now:
            node = self._now[node]
        if node in self._stale:
            raise WalkError(f"{node.name} shares memory with what is written in place at {self._stale[node]}")
        return node

    def _tensor(self, tensor: Tensor) -> _StandIn:
        if id(tensor) not in self._tensors:
            path = self._names.get(id(tensor), "")
            node = self._node("tensor", path.replace(".", "_") or "constant", what=tensor, path=path)
            self.values[node] = (tensor, tensor)
            self._tensors[id(tensor)] = _StandIn(node, self)
        return self._tensors[id(tensor)]

    def _write(self, written: Node, result: Node) -> None:
        """From now on ``result`` stands for what was written to, and other names of its memory for nothing."""
        memory = _memory(self.values[written][0])
        views = [n for n, (value, _) in self.values.items() if n not in self._now and memory & _memory(value)]
        if written.kind == "tensor":
            raise WalkError(f"{written.path or 'a tensor of its own'} is written to")
        self._stale.update((node, result.where) for node in views if node is not written and node is not result)
        self._now[written] = result

    def _node(self, kind: Kind = "function", name: str = "", *, node: Node | None = None, **fields: Any) -> Node:
        node = node or Node(kind, name, **fields)
        base, n = node.name, 0
        while node.name in self._taken:
            n += 1
            node.name = f"{base}_{n}"
        self._taken.add(node.name)
        self.nodes.append(node)
        return node

    def seen(self, this: _StandIn | Tensor) -> tuple[Any, Any]:
        """The values of a stand-in on the two batches."""
        return self.values[self._argument(this)]

    def unknown(self, node: Node, use: str) -> WalkError:
        """The error for a value that the model needs to know."""
        data = self._depends_on_data(node)
        cause = "the values of a tensor" if data else "the batch size"
        return WalkError(f"{use} depends on {cause}")

    def _depends_on_data(self, node: Node) -> bool:
        if node in self._measures:
            return False
        return isinstance(self.values[node][0], Tensor) or any(map(self._depends_on_data, node.inputs))

    def _where(self) -> str:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code is not Tracer.walk.__code__:
            if is_users(frame.f_code.co_filename):
                return f"{frame.f_code.co_filename}:{frame.f_lineno}"
            frame = frame.f_back
        return ""


def stays_whole(module: nn.Module, leaves: tuple[type[nn.Module], ...]) -> bool:
    """Whether nothing that a graph is made of is inside a module."""
    return isinstance(module, leaves) or (isinstance(module, TemporalModule) and not module.transparent)


def users_line(trace: TracebackType | None) -> tuple[str, int] | None:
    """File and line of the last frame of an error that is neither torch's nor ours."""
    found = None
    while trace is not None:
        if is_users(trace.tb_frame.f_code.co_filename):
            found = (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    return found


def is_users(file: str) -> bool:
    return not file.startswith(_OTHERS)


def _out_of_place(what: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The function that computes the same without writing, its arguments, and what the given one writes to."""
    if kwargs.get("out") is not None:
        raise WalkError("out= is given")
    if isinstance(what, FunctionType) and "inplace" in inspect.signature(what).parameters:
        bound = inspect.signature(what).bind(*args, **kwargs)
        if bound.arguments.get("inplace", False):
            bound.arguments["inplace"] = False
            return what, bound.args, bound.kwargs, bound.args[0]
    name = getattr(what, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        homes: tuple[Any, ...] = (Tensor, torch) if hasattr(Tensor, name) else (functional, torch)
        twin = next((getattr(home, name[:-1]) for home in homes if hasattr(home, name[:-1])), None)
        if twin is None:
            raise WalkError(f"{name} writes in place and has no form that does not")
        return twin, args, kwargs, args[0]
    return what, args, kwargs, None


def _sizes_by_values(node: Node, value: Any) -> bool:
    """Whether the size of what a node gives depends on the values that it takes."""
    if getattr(node.what, "__name__", "") in _SIZED_BY_VALUES:
        return True
    return node.what is operator.getitem and isinstance(value, Tensor) and len(node.inputs) > 1


def _same(a: Any, b: Any) -> bool:
    return not any(isinstance(x, Tensor) for x in pytree.tree_leaves(a)) and type(a) is type(b) and bool(a == b)


def _memory(value: Any) -> set[int]:
    """Where the tensors in a value lie."""
    return {x.untyped_storage().data_ptr() for x in pytree.tree_leaves(value) if isinstance(x, Tensor)} - {0}
