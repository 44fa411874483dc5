"""From a graph of an ordinary network to that of a spiking one: every node is replaced, kept, or refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..neuron import Graded
from .errors import ConversionError
from .folding import by_input, by_output, consumers
from .methods import Method
from .rules import Rules
from .sites import Site
from .temporal import AFFINE, Change, First, Once, Pool, Total
from .vocabulary import name_of
from .working import Working


@dataclass
class Entry:
    """What a conversion does with one operation.

    Args:
        path, where, was: the place, ``file:line`` and the word of the operation.
        fate: ``converted``, ``difference``, ``exact``, ``dropped``, ``kept``, or ``refused``.
        note: what there is to say of it: the reason of a refusal, where a scale went.
    """

    path: str
    where: str
    was: str
    fate: str
    note: str = ""


def plan(work: Working, method: Method | None, rules: Rules, sites: list[Site], *, keep: bool) -> list[Entry]:
    """What will be done with each operation, in order; nothing is changed.

    Args:
        work: the graph.
        method: None: for an inspection, where activations are sites of any method.
        rules: the user's.
        sites: the activations, pools and what has a rule.
        keep: whether unknown operations are computed by difference.
    """
    by_node = {site.node: site for site in sites}
    found: list[Entry] = []
    for node in work.nodes("activation", "maxpool", "function", "affine", "linear", "drop", "unknown"):
        operation, site = node.meta["operation"], by_node.get(node)
        path = site.path if site is not None else _path(node)
        entry = Entry(path, node.meta["where"], operation.name, "exact")
        found.append(entry)
        if site is not None and rules.find(site.module, operation.name) is not None:
            entry.fate, entry.note = "converted", "by a rule of its own"
        elif operation.group == "activation":
            entry.fate = "converted"
            if method is not None and site is not None:
                try:
                    method.check(site)
                except ConversionError as error:
                    entry.fate, entry.note = "refused", str(error)
        elif operation.group in ("maxpool", "function") and (method is None or method.coding != "step"):
            entry.fate = "converted" if method is not None and _is_gate(work, node, method) else "difference"
        elif operation.group == "drop":
            entry.fate = "dropped"
        elif operation.group == "unknown":
            by = "kept" if method is not None and method.coding == "step" else "difference"
            entry.fate, entry.note = (by, "") if keep else ("refused", _remedy(node))
    return found


def _path(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.meta["path"]


def _remedy(node: fx.Node) -> str:
    name, where = node.meta["operation"].name, node.meta["where"]
    at = f" at {_path(node)!r}" if _path(node) else ""
    what = f"there is no rule for {name}{at}{f' ({where})' if where else ''}"
    if name.lower().replace("_", "") in _RECURRENT:
        return (
            f"{what}, whose steps are not those of a spiking network: train a spiking one in its place "
            "(sl.nn.Recurrent, sl.nn.SpikingLSTM), or compute it densely on the values that its inputs have so far, "
            "by on_unknown='keep'"
        )
    return (
        f"{what}: give one, rules=sl.convert.Rules("
        f"sl.convert.rule({name!r})(f)), or on_unknown='keep' to compute it on the values that its inputs have so far"
    )


_RECURRENT = (
    "lstm",
    "gru",
    "rnn",
    "rnntanh",
    "rnnrelu",
    "lstmcell",
    "grucell",
    "rnncell",
    "rnntanhcell",
    "rnnrelucell",
)


class Builder:
    """Replaces the nodes of a graph by a method."""

    def __init__(self, work: Working, method: Method, rules: Rules, sites: list[Site]) -> None:
        self.work, self.method, self.rules = work, method, rules
        self.sites = {site.node: site for site in sites}
        self.neurons: dict[str, nn.Module] = {}
        self.thresholds: dict[str, Tensor] = {}
        self.notes: dict[str, str] = {}
        self.units: dict[str, Tensor] = {}
        """What the layers before some sites were divided by."""

    def build(self, thresholds: dict[str, Tensor]) -> None:
        """Replaces all nodes; thresholds are by the path of the site."""
        for node in self.work.nodes("activation", "maxpool", "function", "affine", "linear", "drop", "unknown"):
            group, site = node.meta["operation"].group, self.sites.get(node)
            own = None if site is None else self.rules.find(site.module, node.meta["operation"].name)
            if site is not None and own is not None:
                self._by_rule(node, site, own(site, self.method))
            elif group == "activation" and site is not None:
                self.thresholds[site.path] = thresholds[site.path]
                self._put(node, site.path, self.method.neuron(site, thresholds[site.path]))
                self.neurons[site.path] = self.work.module.get_submodule(site.path)
            elif group == "drop":
                self.work.remove(node, self.work.signals(node)[0])
            elif self.method.coding == "step":
                continue
            elif _is_gate(self.work, node, self.method):
                self._gate(node)
            elif group in ("maxpool", "function", "unknown"):
                self._difference(node)
            elif self.method.coding == "sum":
                self._once(node)
        if self.method.fold_scales:
            self._fold_scales()
        self.work.finish()

    def _by_rule(self, node: fx.Node, site: Site, verdict: Any) -> None:
        if isinstance(verdict, nn.Module):
            self._put(node, site.path, verdict)
        elif verdict == "difference":
            self._difference(node)
        elif verdict != "keep":
            raise ConversionError(
                f"the rule for {site} gave {verdict!r:.60}; it gives a module, 'keep' or 'difference'"
            )

    def _put(self, node: fx.Node, path: str, module: nn.Module) -> fx.Node:
        """A module in place of a node, called with its signals."""
        like = next((t for t in self.work.module.parameters() if t.is_floating_point()), None)
        if like is not None:
            module.to(like.device)
        made = self.work.insert(path, module.eval(), node, *self.work.signals(node))
        made.meta["operation"] = node.meta["operation"]
        _use(node, made)
        self.work.graph.erase_node(node)
        return made

    def _gate(self, node: fx.Node) -> None:
        """A max pool as a gate of spikes."""
        options = _pool_options(self.work, node)
        if node.op == "call_module":
            path = str(node.target)
            if self.work.calls()[id(self.work.at(node))] > 1:
                path = self.work.free_path(path.rpartition(".")[0], path.rpartition(".")[2])
        else:
            path = self.work.free_path(node.meta["path"], "pool")
        self._put(node, path, Pool(**options))

    def _difference(self, node: fx.Node) -> None:
        """The function of the values that its operands have so far, and what that changes by."""
        prefix = _path(node)
        for source in self.work.signals(node):
            total = self.work.free_path(prefix.rpartition(".")[0], f"{node.name}_total")
            made = self.work.insert(total, Total(coding=self.method.coding), source, source)
            node.replace_input_with(source, made)
        outputs = [node] if node.meta["shape"] is not None else [n for n in node.users if n.meta["shape"] is not None]
        for output in outputs:
            change = self.work.free_path(prefix.rpartition(".")[0], f"{output.name}_change")
            made = self.work.insert(change, Change(coding=self.method.coding), output, output)
            made.meta["operation"] = output.meta["operation"]
            _use(output, made)

    def _once(self, node: fx.Node) -> None:
        """Constants of what is affine, added once."""
        operation = node.meta["operation"]
        if operation.group == "affine":
            if node.op == "call_module" and isinstance(self.work.at(node), Once):
                return  # which another call of the layer has become
            if node.op == "call_module" and type(self.work.at(node)) in AFFINE:
                if self.work.at(node).bias is not None:
                    self._wrapped(node)
            else:
                self._difference(node)
        elif operation.name == "embedding":
            first = self._mask(node, node)
            with self.work.graph.inserting_after(first):
                once = self.work.graph.call_function(torch.mul, (node, first))
            once.meta.update(node.meta)
            node.replace_all_uses_with(once, delete_user_cb=lambda user: user not in (once, first))
        elif operation.name == "addition":
            first = None
            for operand in _operands(node):
                if isinstance(operand, fx.Node) and operand.meta["signal"]:
                    continue
                first = first or self._mask(node, max(self.work.signals(node), key=lambda n: len(n.meta["shape"])))
                with self.work.graph.inserting_before(node):
                    once = self.work.graph.call_function(torch.mul, (first, operand))
                once.meta.update(node.meta, signal=True, shape=None)
                _replace_operand(node, operand, once)

    def _wrapped(self, node: fx.Node) -> None:
        """A layer with its bias once: one module for each, whatever calls it."""
        layer = self.work.at(node)
        once = Once(layer)
        once.eval()
        self.work.module.set_submodule(str(node.target), once)

    def _mask(self, node: fx.Node, source: fx.Node) -> fx.Node:
        """1 at the first step and 0 at others, with the dimensions of a signal."""
        return self.work.insert(self.work.free_path(node.meta["path"], "first"), First(), source, source)

    def _fold_scales(self) -> None:
        """Moves what spikes are worth into the weights behind."""
        dims = {site.path: site.dim for site in self.sites.values()}
        for node in list(self.work.graph.nodes):
            path = str(node.target)
            neuron = self.neurons.get(path) if node.op == "call_module" else None
            if not isinstance(neuron, Graded):
                continue
            factor = self.thresholds[path]
            layers = consumers(self.work, node, factor, dims[path])
            if isinstance(layers, str):
                self.notes[path] = f"its scale stays: {layers}"
                continue
            for layer, each in layers:
                by_input(layer, each)
            self.work.module.set_submodule(path, neuron.neuron)
            self.neurons[path] = neuron.neuron
            self.notes[path] = "its scale is in the weights behind"
            if self.method.unit:
                self._make_unit(node, path)

    def _make_unit(self, node: fx.Node, path: str) -> None:
        """Moves the threshold of a neuron into the layer before it, if there is one that is its alone."""
        source, site = self.work.signals(node)[0], next(s for s in self.sites.values() if s.path == path)
        layer = self.work.at(source) if source.op == "call_module" else None
        if type(layer) not in AFFINE or len(source.users) > 1 or site.dim != _features(layer, source):
            self.notes[path] += "; its threshold stays, there is no layer directly before it"
        elif self.work.calls()[id(layer)] > 1 or not self.work.owns(layer):  # type: ignore[arg-type]
            self.notes[path] += f"; its threshold stays, {source.target!r} has other calls or shares its weights"
        else:
            theta = self.thresholds[path]
            by_output(layer, 1 / theta.expand(site.channels))
            made: Any = self.method.neuron(site, torch.ones(1, dtype=torch.float64))
            self.work.module.set_submodule(path, made.neuron.to(next(self.work.module.parameters()).device).eval())
            self.neurons[path], self.units[path] = made.neuron, theta
            self.notes[path] += ", its threshold in those before"


def _features(layer: Any, node: fx.Node) -> int:
    """The dimension of a layer's output that holds its channels."""
    return len(node.meta["shape"]) - 1 if isinstance(layer, nn.Linear) else 1


def _use(node: fx.Node, made: fx.Node) -> None:
    """Lets all users of a node take another one, made of it."""
    node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)


def worth(neuron: nn.Module, site: Site, threshold: Tensor) -> Tensor | float:
    """What the outputs of a neuron have to be multiplied by to be values of the model."""
    return site.decoded(threshold) if getattr(neuron, "is_binary", False) else 1.0


def _is_gate(work: Working, node: fx.Node, method: Method) -> bool:
    """Whether a node is a max pool that becomes a gate of spikes: over all dimensions behind that of channels."""
    if node.meta["operation"].group != "maxpool" or method.coding != "mean" or method.pool != "gate":
        return False
    what = type(work.at(node)).__name__ if node.op == "call_module" else name_of(node.meta["what"])
    return f"{len(node.meta['shape']) - 2}d" in what.lower()


def _pool_options(work: Working, node: fx.Node) -> dict[str, Any]:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    dims = len(node.meta["shape"]) - 2
    if node.op == "call_module":
        module = work.at(node)
        return {**{name: getattr(module, name) for name in names}, "dims": dims}
    given = {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}
    found = {name: _plain(given[name]) for name in names if name in given and given[name] not in (None, [])}
    return {**found, "dims": dims}


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


_OPERANDS = ("input", "other")


def _operands(node: fx.Node) -> list[Any]:
    """What a sum adds: its arguments, or those of the list that it joins."""
    joined = node.args[0] if node.args else node.kwargs.get("tensors")
    if isinstance(joined, (list, tuple)):
        return list(joined)
    if node.meta["operation"].joins:
        return []  # of what one operation before has made
    given = [*node.args[:2], *(node.kwargs[k] for k in _OPERANDS if k in node.kwargs)]
    return [a for a in given if isinstance(a, (fx.Node, int, float))]


def _replace_operand(node: fx.Node, old: Any, new: fx.Node) -> None:
    if isinstance(old, fx.Node):
        node.replace_input_with(old, new)
        return
    node.args = (*(new if a is old else a for a in node.args[:2]), *node.args[2:])
    node.kwargs = {k: new if v is old and k in _OPERANDS else v for k, v in node.kwargs.items()}


def as_sequential(module: fx.GraphModule) -> nn.Module:
    """The graph as an ``nn.Sequential`` with the same names, where it is a chain of modules; else as it is.

    A network runs the first layers of one only once for an input that does not change.
    """
    chain: list[tuple[str, nn.Module]] = []
    last: fx.Node | None = None
    for node in module.graph.nodes:
        if node.op == "placeholder":
            if last is not None:
                return module
        elif node.op == "output":
            if node.args[0] is not last or not chain:
                return module
        else:
            plain = _as_module(module, node)
            if plain is None or node.all_input_nodes != [last] or last is None or len(last.users) > 1:
                return module
            chain.append((str(node.target) if node.op == "call_module" else f"{node.name}", plain))
        last = node
    if len({id(m) for _, m in chain}) < len(chain):
        return module
    return _nested(chain, module)


def _nested(chain: list[tuple[str, nn.Module]], module: nn.Module) -> nn.Module:
    """Modules in order as Sequentials in each other by the parts of their paths."""
    made = nn.Sequential()
    groups: list[tuple[str, list[tuple[str, nn.Module]]]] = []
    for path, layer in chain:
        head, _, rest = path.partition(".")
        if rest and groups and groups[-1][0] == head and all(p for p, _ in groups[-1][1]):
            groups[-1][1].append((rest, layer))
        else:
            groups.append((head, [(rest, layer)]))
    names = [name for name, _ in groups]
    if len(set(names)) < len(names):
        return module
    for name, inside in groups:
        if not inside[0][0]:
            made.add_module(name, inside[0][1])
            continue
        part = _nested(inside, module)
        if part is module:
            return module
        made.add_module(name, part)
    return made.eval()


def _as_module(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module of a node, or one that does what its function does; None where there is none."""
    plain = len(node.args) == 1 and not node.kwargs
    if node.op == "call_module":
        return module.get_submodule(str(node.target)) if plain else None
    operation, before = node.meta.get("operation"), node.all_input_nodes
    if operation is None or len(before) != 1 or node.meta["shape"] is None or before[0].meta["shape"] is None:
        return None
    old, new = before[0].meta["shape"], node.meta["shape"]
    if operation.name in ("flatten", "view", "reshape") and len(new) == 2 and old[1:].numel() == new[1]:
        return nn.Flatten(1)
    return None
