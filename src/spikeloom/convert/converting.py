"""sl.convert.inspect and sl.convert.convert: what would become of each operation, and the network that comes of it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ..core import Network
from .building import Builder, Entry, as_sequential, plan
from .calibrating import Correction, layer_before
from .errors import ConversionError
from .folding import fold_norms
from .methods import Balanced, Calibrated, Method, positive
from .qcfs import QCFS
from .report import Report, ann_values, doubled, layer_report
from .result import Result
from .rules import Rules
from .sites import Site, calibrate, sites_of
from .statistics import by_channel
from .working import Working


@dataclass(frozen=True)
class Inspection:
    """What there is in a model, for a conversion; its text has a line for each operation.

    Args:
        entries: all operations in the order in which they run.
        fallback: why the model had to be taken apart by ``torch.export``; empty where it was not.
        warnings: what is wrong with the model itself.

    >>> import torch
    >>> import spikeloom as sl
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> found = sl.convert.inspect(model, torch.zeros(1, 2))
    >>> [(entry.path, entry.was, entry.fate) for entry in found.entries]
    [('0', 'affine', 'exact'), ('1', 'relu', 'converted'), ('2', 'affine', 'exact')]
    """

    entries: tuple[Entry, ...]
    fallback: str = ""
    warnings: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = [f"taken apart by torch.export: {self.fallback}"] if self.fallback else []
        for e in self.entries:
            lines.append(f"{e.fate:<10} {e.was:<12} {e.path:<24} {e.where}".rstrip())
            lines += [f"  {e.note}"] if e.note else []
        return "\n".join([*lines, *(f"warning: {w}" for w in self.warnings)])


def inspect(model: nn.Module, example: Any, *, method: Method | None = None, rules: Rules | None = None) -> Inspection:
    """What a conversion would do with each operation of a model, or why it could not. Nothing is changed.

    Args:
        model: an ordinary network.
        example: what it takes: a tensor with the batch in dimension 0, or a tuple of positional arguments.
        method: the method to ask; None: any.
        rules: rules of one's own.

    Raises :class:`spikeloom.core.CaptureError` where the model has no graph, with its line, and ConversionError where
    it is no ordinary network.

    >>> import torch
    >>> import spikeloom as sl
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> print(sl.convert.inspect(model, torch.rand(2, 4)))
    exact      affine       0
    converted  relu         1
    exact      affine       2
    """
    rules = rules or Rules()
    work = Working(model, example, (QCFS, *rules.classes))
    last = _last_activation(work)
    sites = sites_of(work, _replaced(work, rules))
    warnings = [
        f"{site} is the model's output: cross entropy behind it cannot tell wrong classes apart; it is dropped by "
        "readout='membrane'"
        for site in sites
        if site.node is last
    ]
    return Inspection(tuple(plan(work, method, rules, sites, keep=False)), work.fallback, tuple(warnings))


def convert(
    model: nn.Module,
    method: Method,
    *,
    example: Any = None,
    calibrate: Iterable[Any] | None = None,
    rules: Rules | None = None,
    on_unknown: Literal["error", "keep"] = "error",
    readout: Literal["membrane", "spikes"] = "membrane",
    spikes: Literal["dense", "packed"] = "dense",
    T: int | None = None,
) -> Result:
    """A spiking network that computes what an ordinary one does.

    Args:
        model: the network; it is copied in eval mode, and left as it was.
        method: :class:`Rate`, :class:`Delta` or another one.
        example: as for :func:`inspect`; None: the first batch of ``calibrate``.
        calibrate: batches of inputs, or of ``(inputs, labels)`` as a loader gives them, by which thresholds are found;
            some hundred samples suffice. None: the example alone.
        rules: rules of one's own, see :func:`rule`.
        on_unknown: ``"error"``: operations without a rule raise, all at once; ``"keep"``: they are computed densely on
            the values that their inputs have so far.
        readout: ``"membrane"``: an activation that is the model's output is dropped; ``"spikes"``: it becomes a neuron.
        spikes: as in :class:`spikeloom.Network`.
        T: the number of steps at which the report is measured; None: one that fits the method.

    The network keeps the names, dtype and device of the model's parameters; on a CPU weights of convolutions of images
    lie with channels last, which is faster. Batch norms join the layers before them
    where that changes nothing. Every other operation is replaced, kept because it is exact, or refused.

    Raises :class:`ConversionError` with all operations that cannot be converted, and
    :class:`spikeloom.core.CaptureError` where the model has no graph.

    >>> import torch
    >>> import spikeloom as sl
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.rand(16, 4)
    >>> result = sl.convert.convert(model, sl.convert.Rate(quantile=1.0), example=x)
    >>> bool((result(x, T=256) - model(x)).abs().max() < 0.01)
    True
    """
    _check(method, on_unknown, readout)
    rules = rules or Rules()
    data = None if calibrate is None else list(calibrate)
    if data == [] or (data is None and example is None):
        raise ConversionError(
            "calibrate has no batches: it may be an iterator that was used before"
            if data == []
            else "convert needs what the model takes: example=..., or calibrate=batches"
        )
    device = _device_of(model)
    if example is None:
        example = _first_of(data[0], model)  # type: ignore[index]
    example = pytree.tree_map_only(Tensor, lambda t: t.to(device), example)
    work = Working(model, example, (QCFS, *rules.classes))
    if readout == "membrane" and (last := _last_activation(work)) is not None:
        work.remove(last, work.signals(last)[0])
        work.finish()
    folded, left = fold_norms(work)
    sites = sites_of(work, _replaced(work, rules))
    entries = plan(work, method, rules, sites, keep=on_unknown == "keep")
    refused = dict.fromkeys(entry.note for entry in entries if entry.fate == "refused")  # a loop runs a line again
    if refused:
        raise ConversionError(f"{work.name} cannot be converted:\n  " + "\n  ".join(refused))
    batches = [work.example] if data is None else [_inputs(batch, work, device) for batch in data]
    return _Conversion(work, method, rules, sites, batches, spikes).run(entries, folded, left, T, few=data is None)


class _Conversion:
    """The steps of one conversion, once there is a plan."""

    def __init__(
        self,
        work: Working,
        method: Method,
        rules: Rules,
        sites: list[Site],
        batches: list[list[Tensor]],
        spikes: Literal["dense", "packed"],
    ) -> None:
        self.work, self.method, self.batches, self.spikes = work, method, batches, spikes
        self.sites = [
            s for s in sites if s.operation.group == "activation" and rules.find(s.module, s.operation.name) is None
        ]
        self.builder = Builder(work, method, rules, sites)

    def run(self, entries: list[Entry], folded: list[str], left: dict[str, str], T: int | None, *, few: bool) -> Result:
        """The result, with its report."""
        calibrate(self.work, list(self.builder.sites.values()), self.batches)
        base = self.method.rate if isinstance(self.method, Calibrated) else self.method
        if isinstance(base, Balanced):
            found = balance(self.work, self.sites, self.batches, base.updates)
        else:
            found = {site.path: self.method.threshold_of(site) for site in self.sites}
        values, wanted = ann_values(self.work, self.sites, self.batches[0])
        before = {site.path: layer_before(self.work, site) for site in self.sites}
        model = copy.deepcopy(self.work.module) if isinstance(self.method, Calibrated) else None
        self.builder.build(found)
        if _device_of(self.work.module).type == "cpu":
            _channels_last(self.work.module)
        notes = ["calibrated on the example alone; give some hundred samples by calibrate="] if few else []
        if isinstance(self.method, Calibrated) and model is not None:
            notes += Correction(self.method, self.builder, before, model, self.batches).run(self.sites)
        network = Network(as_sequential(self.work.module), spikes=self.spikes).eval()
        result = Result(network, self.method, self.work.takes, self.work.gives, self.work.fixed)
        T = max(self.method.steps(), 2 * self.method.delay) if T is None else T
        result.report = self._report(result, entries, folded, left, T, values, wanted, notes)
        return result

    def _report(
        self,
        result: Result,
        entries: list[Entry],
        folded: list[str],
        left: dict[str, str],
        T: int,
        values: dict[str, tuple[Tensor, Tensor]],
        wanted: Any,
        notes: list[str],
    ) -> Report:
        paths = tuple(site.path for site in self.sites)
        sent, output = result.sent_and_output(self.batches[0], T, paths)
        layers = [
            layer_report(
                site,
                self.builder.neurons[site.path],
                self.method,
                self.builder.thresholds[site.path],
                T,
                values=values[site.path],
                sent=sent[site.path],
                note=self.builder.notes.get(site.path, ""),
            )
            for site in self.sites
        ]
        others = tuple(e for e in entries if e.path not in paths)
        error = max(
            float((a - b).double().norm() / b.double().norm().clamp(min=1e-30))
            for a, b in zip(pytree.tree_leaves(output), pytree.tree_leaves(wanted), strict=True)
            if isinstance(b, Tensor)
        )
        name = type(self.method).__name__
        return Report(name, T, tuple(doubled(layers)), others, tuple(folded), left, error, tuple(notes))


def balance(work: Working, sites: list[Site], batches: list[list[Tensor]], updates: int) -> dict[str, Tensor]:
    """Thresholds by overflow, ``theta += 2 mean(relu(a - theta))`` for each batch, with activations clipped at them."""
    at = {site.node: site for site in sites}
    found = {site.path: torch.zeros(site.channels, dtype=torch.float64) for site in sites}

    def seen(node: fx.Node, value: Any) -> Any:
        site = at.get(node)
        if site is None:
            return value
        theta, a = found[site.path], value.detach().double().cpu()
        overflow = by_channel((a - site.decoded(theta)).clamp(min=0), site.dim).mean(1)
        found[site.path] = theta + 2 * overflow
        return torch.minimum(value, site.decoded(found[site.path]).to(value))

    for tensors in islice(cycle(batches), updates):
        work.run(tensors, seen)
    return {site.path: positive(found[site.path], site) for site in sites}


def _replaced(work: Working, rules: Rules) -> list[fx.Node]:
    """The nodes that become something else by a method or by a rule."""

    def has_rule(node: fx.Node) -> bool:
        module = work.at(node) if node.op == "call_module" else None
        return rules.find(module, node.meta["operation"].name) is not None

    groups = ("activation", "maxpool", "function", "affine", "linear", "drop", "unknown")
    return [n for n in work.nodes(*groups) if n.meta["operation"].group == "activation" or has_rule(n)]


def _last_activation(work: Working) -> fx.Node | None:
    """The ReLU whose result is the model's only output."""
    output = next(iter(reversed(work.graph.nodes)))
    given = output.args[0]
    if not isinstance(given, fx.Node) or len(given.users) > 1 or "operation" not in given.meta:
        return None
    return given if given.meta["operation"].name in ("relu", "clip") else None


def _check(method: object, on_unknown: str, readout: str) -> None:
    if not isinstance(method, Method):
        what = f"the class {method.__name__}; construct it" if isinstance(method, type) else repr(method)[:60]
        raise TypeError(f"convert: expected a method such as sl.convert.Rate(), got {what}")
    if on_unknown not in ("error", "keep"):
        raise ValueError(f"convert: on_unknown must be error or keep, got {on_unknown!r}")
    if readout not in ("membrane", "spikes"):
        raise ValueError(f"convert: readout must be membrane or spikes, got {readout!r}")


def _device_of(model: nn.Module) -> torch.device:
    found = next((t for t in [*model.parameters(), *model.buffers()]), None)
    return torch.device("cpu") if found is None else found.device


def _channels_last(network: nn.Module) -> None:
    """Lays the weights of convolutions of images with channels last, by which pools and kernels are faster."""
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.to(memory_format=torch.channels_last)


def _first_of(batch: Any, model: nn.Module) -> Any:
    """The inputs of a batch, where nothing else says how many there are: a tensor, or the first of a pair."""
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def _inputs(batch: Any, work: Working, device: torch.device) -> list[Tensor]:
    """The tensors that the model takes, of a batch with labels or without."""

    def leaves(tree: Any) -> list[Tensor]:
        return [x.to(device) for x in pytree.tree_leaves(tree) if isinstance(x, Tensor)]

    wanted = work.example
    for found in _candidates(batch, len(wanted)):
        tensors = leaves(found)
        if len(tensors) == len(wanted) and all(
            a.ndim == b.ndim and a.shape[1:] == b.shape[1:] and a.numel() for a, b in zip(tensors, wanted, strict=True)
        ):
            return tensors
    shapes = " and ".join(str(list(x.shape)) for x in wanted)
    raise ConversionError(f"calibrate: a batch has to hold inputs as the example's, {shapes}; got {_kind(batch)}")


def _candidates(batch: Any, n: int) -> Iterator[Any]:
    yield batch
    if isinstance(batch, (tuple, list)) and batch:
        yield batch[0]
        yield batch[:n]


def _kind(batch: Any) -> str:
    found = [f"{list(x.shape)}" for x in pytree.tree_leaves(batch) if isinstance(x, Tensor)]
    return f"a {type(batch).__name__} with {', '.join(found) or 'no tensor'}"
