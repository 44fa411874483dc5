"""The graph that a conversion works on: torch.fx's, of a copy of the model, with what is known of each node."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils import _pytree as pytree

from .._hooks import has_hooks
from ..core import Graph, Node, TemporalModule, capture
from ..core.nodes import map_arguments
from .errors import ConversionError
from .qcfs import QCFS
from .vocabulary import LIKE, SHAPED, Operation, Signal, name_of, of_function, of_module


class Working:
    """A captured model whose nodes may be replaced.

    Args:
        model: the model; it is copied, and left as it is.
        example: what it takes, as for :func:`spikeloom.core.capture`.
        leaves: classes of modules that are one node each.

    ``fixed`` holds the leaves of the example that are no tensors, whose values are in the graph, and None for tensors.
    Every node has in ``meta``: ``path`` (of the module, or of the one in whose forward it is), ``where`` (``file:line``
    of the user's code), ``shape`` (of its value on the example; None where that is no tensor), ``signal`` (whether the
    value holds a tensor that depends on an input), ``rounds`` (whether it makes whole numbers of others) and
    ``operation``.
    """

    def __init__(self, model: nn.Module, example: Any, leaves: tuple[type[nn.Module], ...]) -> None:
        _refuse(model)
        args = example if isinstance(example, tuple) else (example,)
        self.name = type(model).__name__
        owner = _plain(copy.deepcopy(model).eval())
        captured = capture(owner, args, leaves=leaves)
        if any(node.kind == "module" and not node.path for node in captured):
            raise ConversionError(
                f"the model is one layer, {self.name}, with no place for another: nn.Sequential(model)"
            )
        self.takes, self.gives, self.fallback = captured.takes, captured.gives, captured.fallback
        self.module = _emitted(owner, captured, self.name)
        self.graph: fx.Graph = self.module.graph
        given = pytree.tree_leaves((args, {}))
        self.example = [x for x in given if isinstance(x, Tensor)]
        self.fixed = [None if isinstance(x, Tensor) else x for x in given]
        self._leaves = leaves
        with torch.no_grad():
            _Facts(self.module).run(*(x.clone() for x in self.example))
        self._flatten()
        self.classify()

    def _flatten(self) -> None:
        """Views and reshapes that make rows of samples become ``torch.flatten(x, 1)``, which says so.

        Other views become reshapes: in the spiking network values may lie in another order in memory.
        """
        for node in list(self.graph.nodes):
            if node.op not in ("call_method", "call_function") or name_of(node.meta["what"]) not in ("view", "reshape"):
                continue
            if not any(isinstance(a, torch.dtype) for a in (*node.args, *node.kwargs.values())):
                node.op, node.target = "call_method", "reshape"
                node.kwargs = {"shape" if name == "size" else name: value for name, value in node.kwargs.items()}
            old, new = node.all_input_nodes[0].meta["shape"], node.meta["shape"]
            if old is not None and len(old) > 1 and new == (old[0], old[1:].numel()):
                with self.graph.inserting_before(node):
                    made = self.graph.call_function(torch.flatten, (node.all_input_nodes[0], 1))
                made.meta.update(node.meta, what=torch.flatten)
                self.remove(node, made)
        self.finish()

    def classify(self) -> None:
        """Notes of each node what operation it is."""
        for node in self.graph.nodes:
            if node.op in ("call_module", "call_function", "call_method"):
                node.meta["operation"] = self._operation(node)

    def _operation(self, node: fx.Node) -> Operation:
        signals = [n for n in node.all_input_nodes if n.meta["signal"]]
        if not signals or not node.meta["signal"]:
            return Operation("constant", "constant")
        if node.op == "call_module":
            module = self.at(node)
            if isinstance(module, self._leaves) and not isinstance(module, QCFS):
                return Operation(type(module).__name__, "unknown")
            return of_module(module)
        args, kwargs = map_arguments(_stand_in, (node.args, node.kwargs))
        found = of_function(node.meta["what"], args, kwargs)
        if found.group == "linear" and node.meta["rounds"]:
            return Operation(f"{found.name} that rounds", "unknown")
        return found

    def at(self, node: fx.Node) -> nn.Module:
        """The module of a node."""
        return self.module.get_submodule(str(node.target))

    def signals(self, node: fx.Node) -> list[fx.Node]:
        """The inputs of a node that depend on an input of the model, and are tensors."""
        return [n for n in node.all_input_nodes if n.meta["signal"] and n.meta["shape"] is not None]

    def nodes(self, *groups: str) -> Iterator[fx.Node]:
        """The nodes of some groups of operations, in order."""
        for node in list(self.graph.nodes):
            if "operation" in node.meta and node.meta["operation"].group in groups:
                yield node

    def calls(self) -> Counter[int]:
        """How often each module is called, by identity."""
        return Counter(id(self.at(node)) for node in self.graph.nodes if node.op == "call_module")

    def owns(self, module: nn.Module) -> bool:
        """Whether nothing else has one of this one's parameters: no other module, and no function as an operand."""
        mine = {id(p) for p in module.parameters()}
        everywhere = Counter(id(p) for _, p in self.module.named_parameters(remove_duplicate=False))
        operands = {id(_tensor(self.module, str(n.target))) for n in self.graph.nodes if n.op == "get_attr"}
        return not mine & operands and all(everywhere[key] == 1 for key in mine)

    def free_path(self, prefix: str, name: str, taken: Collection[str] = ()) -> str:
        """A path below ``prefix`` where there is nothing yet, ``name``, ``name_1`` and so on, and that is not taken."""
        try:
            parent: nn.Module | None = self.module.get_submodule(prefix)
        except AttributeError:
            parent = None
        before = f"{prefix}." if prefix else ""
        found, n = name, 0
        while f"{before}{found}" in taken or (parent is not None and hasattr(parent, found)):
            n += 1
            found = f"{name}_{n}"
        return before + found

    def insert(self, path: str, module: nn.Module, after: fx.Node, *args: Any) -> fx.Node:
        """A new module at a free path, called with some nodes behind a given one."""
        self.module.add_submodule(path, module)
        with self.graph.inserting_after(after):
            made = self.graph.call_module(path, args)
        made.meta.update(after.meta, path=path)
        made.meta.pop("operation", None)
        return made

    def remove(self, node: fx.Node, by: fx.Node) -> None:
        """Takes a node out; what used it uses another one."""
        node.replace_all_uses_with(by)
        self.graph.erase_node(node)

    def finish(self) -> None:
        """Forgets modules that no node calls, and makes the code anew."""
        self.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
        self.graph.lint()
        self.module.delete_all_unused_submodules()
        self.module.recompile()

    def run(self, tensors: list[Tensor], seen: Callable[[fx.Node, Any], Any]) -> Any:
        """The output for the leaves of an input; ``seen`` may give another value than that of the node it is told."""
        with torch.no_grad():
            return _Watched(self.module, seen).run(*(x.clone() for x in tensors))


class _Facts(fx.Interpreter):
    """Notes shapes and signals."""

    def run_node(self, n: fx.Node) -> Any:
        """The value of a node."""
        value = super().run_node(n)
        tensors = [x for x in pytree.tree_leaves(value) if isinstance(x, Tensor)]
        shaped = n.op in ("call_function", "call_method") and name_of(n.meta["what"]) in SHAPED
        sources = n.all_input_nodes
        if n.op in ("call_function", "call_method") and name_of(n.meta["what"]) in LIKE:
            sources = [a for a in n.args[:1] if isinstance(a, fx.Node)]
        depends = n.op == "placeholder" or any(source.meta["signal"] for source in sources)
        n.meta["shape"] = value.shape if isinstance(value, Tensor) else None
        n.meta["signal"] = bool(tensors) and depends and not shaped
        n.meta["floats"] = isinstance(value, Tensor) and value.is_floating_point()
        given = any(source.meta["signal"] and source.meta["floats"] for source in n.all_input_nodes)
        n.meta["rounds"] = given and isinstance(value, Tensor) and not n.meta["floats"]
        return value


class _Watched(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, seen: Callable[[fx.Node, Any], Any]) -> None:
        super().__init__(module)
        self._seen = seen

    def run_node(self, n: fx.Node) -> Any:
        """The value of a node, or what is to stand for it."""
        return self._seen(n, super().run_node(n))


def _refuse(model: nn.Module) -> None:
    """Raises ConversionError for what cannot be converted, whatever its graph."""
    for path, module in model.named_modules():
        who = f"{type(module).__name__} at {path!r}" if path else type(module).__name__
        if isinstance(module, TemporalModule):
            raise ConversionError(f"{who} knows time already: convert takes an ordinary network")
        if any(
            isinstance(p, (nn.UninitializedParameter, nn.UninitializedBuffer)) for p in module.parameters(recurse=False)
        ):
            raise ConversionError(f"{who} is lazy and has no weights yet: run the model once before it is converted")
        if ".quantized" in type(module).__module__:
            raise ConversionError(f"{who} is quantised: convert the model of floats that it was made from")
        if has_hooks(module):
            raise ConversionError(
                f"{who} has hooks, which a converted network would not run: {_without_hooks(module)} first"
            )


def _without_hooks(module: nn.Module) -> str:
    """How to be rid of a module's hooks; those of torch that compute a weight have functions that leave its value."""
    for hook in module._forward_pre_hooks.values():
        name = getattr(hook, "name", getattr(hook, "_tensor_name", None))
        for kind, function in _COMPUTE_WEIGHTS:
            if isinstance(hook, kind):
                return f"call torch.nn.utils.{function} with it" + (f" and {name!r}" if name else "")
    return "remove them"


_COMPUTE_WEIGHTS: tuple[tuple[type, str], ...] = (
    (WeightNorm, "remove_weight_norm"),
    (SpectralNorm, "remove_spectral_norm"),
    (prune.BasePruningMethod, "prune.remove"),
)


def _plain(model: nn.Module) -> nn.Module:
    """The model with the values that parametrisations give its parameters in their place, under their names.

    ``remove_parametrizations`` would change the class, which a copy shares with the original.
    """
    found = [m for m in model.modules() if parametrize.is_parametrized(m)]
    values = [{name: _value(module, name) for name in module.parametrizations} for module in found]  # type: ignore[union-attr]
    for module, named in zip(found, values, strict=True):
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        for name, value in named.items():
            if isinstance(value, nn.Parameter):
                module.register_parameter(name, value)
            else:
                module.register_buffer(name, value)
    return model


def _value(module: nn.Module, name: str) -> Tensor:
    """What a parametrisation gives: a parameter, or a buffer where it was made of one."""
    originals = list(module.parametrizations[name].parameters(recurse=False))  # type: ignore[index,union-attr]
    found: Tensor = getattr(module, name).detach().clone()
    return nn.Parameter(found, requires_grad=any(p.requires_grad for p in originals)) if originals else found


def _emitted(owner: nn.Module, captured: Graph, name: str) -> fx.GraphModule:
    """The captured graph as torch.fx's, around the modules of ``owner``."""
    graph, made, constants = fx.Graph(), {}, 0
    for node in captured:
        args, kwargs = fx.node.map_aggregate((node.args, node.kwargs), lambda a: made[a] if isinstance(a, Node) else a)
        if node.kind == "input":
            one = graph.placeholder(node.name)
        elif node.kind == "tensor":
            path = node.path
            if not path:
                path = f"_constant_{constants}"
                constants += 1
                owner.register_buffer(path, node.what, persistent=False)
            one = graph.get_attr(path)
        elif node.kind == "module":
            one = graph.call_module(node.path, args, kwargs)
        elif node.kind == "function":
            method = getattr(node.what, "__name__", "")
            if method and getattr(Tensor, method, None) is node.what:
                one = graph.call_method(method, args, kwargs)
            else:
                one = graph.call_function(node.what, args, kwargs)
        else:
            leaves = list(args[0])
            one = graph.output(leaves[0] if len(leaves) == 1 else tuple(leaves))
        one.meta.update(path=node.path, where=node.where, what=node.what, signal=False, shape=None)
        made[node] = one
    module = fx.GraphModule(owner, graph, class_name=name)
    for path, part in owner.named_modules():
        if part._non_persistent_buffers_set:
            try:
                module.get_submodule(path)._non_persistent_buffers_set.update(part._non_persistent_buffers_set)
            except AttributeError:  # nothing of it is used
                continue
    return module.eval()


def _tensor(module: nn.Module, path: str) -> Any:
    """The parameter or buffer at a path."""
    prefix, _, name = path.rpartition(".")
    return getattr(module.get_submodule(prefix), name)


def _stand_in(a: Any) -> Any:
    """An argument with what depends on an input, and what is computed besides, as such."""
    if not isinstance(a, fx.Node):
        return a
    return Signal() if a.meta["signal"] else None
