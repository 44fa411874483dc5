"""What a conversion did, and what each layer loses by it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from torch import Tensor

from .building import Entry, worth
from .methods import Method
from .sites import Site
from .working import Working


@dataclass(frozen=True)
class Layer:
    """A site after conversion, measured on calibration data at T steps.

    Errors are root mean squares relative to that of the model's activation: ``error`` of the decoded value;
    ``clipping``, what is above the threshold; ``quantisation``, what T even steps lose besides; ``rest``, uneven
    arrival and errors of layers before. The last two are None where there is no closed form.

    Args:
        path, where, was: the place, ``file:line`` and the operation.
        neuron: its class.
        alphabet: what it sends: ``binary``, ``graded``, ``ternary``, ``power of two`` or ``K bits``.
        threshold: one value, or one for each channel.
        clipped: the share of values above the threshold.
        silent: the share of neurons that sent nothing.
        events: what a neuron sent in T steps, on average.
        doubles: whether the error is more than twice that of the site before it, and no site before doubled it.

    >>> import torch
    >>> import spikeloom as sl
    >>> x = torch.tensor([[1.0], [2.0], [4.0], [-1.0]])
    >>> model, method = torch.nn.Sequential(torch.nn.ReLU()), sl.convert.Rate(quantile=0.5)
    >>> found = sl.convert.convert(model, method, example=x, readout="spikes")
    >>> layer = found.report.layers[0]
    >>> layer.was, layer.rate, layer.clipped, layer.silent
    ('relu', '1.5', 0.5, 0.25)
    """

    path: str
    where: str
    was: str
    neuron: str
    alphabet: str
    threshold: Tensor
    error: float
    clipping: float
    quantisation: float | None
    rest: float | None
    clipped: float
    silent: float
    events: float
    doubles: bool = False
    note: str = ""

    @property
    def rate(self) -> str:
        """The threshold in words."""
        low, high = float(self.threshold.min()), float(self.threshold.max())
        return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


@dataclass(frozen=True)
class Report:
    """What :func:`convert` did. Its text has a line for each site, one for each other operation, and a summary.

    Args:
        method: the method's name.
        T: the number of steps that it was measured at.
        layers: the sites.
        others: all other operations, with their fates: ``exact``, ``difference`` (dense arithmetic at each step),
            ``dropped`` or ``kept``.
        folded: the batch norms that joined the layers before them.
        not_folded: those that did not, with the reason.
        notes: what else there is to say.
        output: the relative error of the decoded output.

    >>> import torch
    >>> import spikeloom as sl
    >>> layers = torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1), torch.nn.ReLU(), torch.nn.Linear(1, 1)
    >>> model = torch.nn.Sequential(*layers).eval()
    >>> report = sl.convert.convert(model, sl.convert.Delta(), example=torch.ones(1, 1)).report
    >>> report.method, len(report.layers), report.folded, [(entry.path, entry.fate) for entry in report.others]
    ('Delta', 1, ('1',), [('0', 'exact'), ('3', 'exact')])
    """

    method: str
    T: int
    layers: tuple[Layer, ...]
    others: tuple[Entry, ...]
    folded: tuple[str, ...]
    not_folded: dict[str, str]
    output: float
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = [f"{self.method}, measured at T = {self.T}"]
        if self.layers:
            lines.append(
                f"{'site':<22} {'was':<10} {'alphabet':<13} {'threshold':>16} {'error':>7} {'clip':>6} {'quant':>6} "
                f"{'rest':>6} {'clipped':>7} {'silent':>6} {'events':>6}"
            )
        for layer in self.layers:
            mark = "  <- the error doubles here first" if layer.doubles else ""
            lines.append(
                f"{layer.path:<22} {layer.was:<10} {layer.alphabet:<13} {layer.rate:>16} {_percent(layer.error):>7} "
                f"{_percent(layer.clipping):>6} {_percent(layer.quantisation):>6} {_percent(layer.rest):>6} "
                f"{_percent(layer.clipped):>7} {_percent(layer.silent):>6} {layer.events:>6.2f}{mark}"
            )
            lines += [f"  {layer.where}" if layer.where else "", f"  {layer.note}" if layer.note else ""]
        for entry in self.others:
            if entry.fate != "exact":
                lines.append(f"{entry.fate}: {entry.was} at {entry.path!r}{_in(entry.where)}")
        lines += [f"norm at {path!r} is not folded: {why}" for path, why in self.not_folded.items()]
        lines += self.notes
        return "\n".join([*(line for line in lines if line), self.summary])

    @property
    def summary(self) -> str:
        """The last line."""
        kept = sum(entry.fate == "kept" for entry in self.others)
        dense = sum(entry.fate == "difference" for entry in self.others)
        norms = f"{len(self.folded)} norms folded" + (f", {len(self.not_folded)} not" if self.not_folded else "")
        return (
            f"{len(self.layers) + kept + dense} sites: {len(self.layers)} converted, {dense} by difference, {kept} "
            f"kept; {norms}; output exact to {100 * self.output:.2g} % at T = {self.T}"
        )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.3g} %"


def _in(where: str) -> str:
    return f" ({where})" if where else ""


def ann_values(work: Working, sites: list[Site], tensors: list[Tensor]) -> tuple[dict[str, tuple[Tensor, Tensor]], Any]:
    """Input and output of each site for a batch, and the model's output."""
    at = {site.node: site for site in sites}
    inputs: dict[Any, Tensor] = {}
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def seen(node: Any, value: Any) -> Any:
        if any(user in at for user in node.users):
            inputs[node] = value
        if node in at:
            found[at[node].path] = inputs[work.signals(node)[0]], value
        return value

    output = work.run(tensors, seen)
    return found, output


def layer_report(
    site: Site,
    neuron: Any,
    method: Method,
    threshold: Tensor,
    T: int,
    *,
    values: tuple[Tensor, Tensor],
    sent: Tensor,
    note: str,
) -> Layer:
    """One line of a report.

    Args:
        values: input and output of the site in the model.
        sent: what the neuron sent, ``[T, B, *]``.
    """
    a, wanted = (v.double().cpu() for v in values)
    sent = sent.double().cpu()
    decoded = sent * worth(neuron, site, threshold)
    steps = decoded[min(method.delay, len(decoded) - 1) :]
    got = steps.sum(0) if method.coding == "sum" else steps.mean(0)
    theta = site.decoded(threshold)
    size = float(wanted.square().mean().sqrt()) or 1.0
    clipped = wanted.clamp(max=theta) if method.clips else wanted
    ideal = method.ideal(a, theta, T)

    def error(x: Tensor, y: Tensor) -> float:
        return float((x - y).square().mean().sqrt()) / size

    return Layer(
        site.path,
        site.where,
        site.operation.name,
        type(neuron).__name__,
        "binary" if getattr(neuron, "is_binary", False) else getattr(neuron, "alphabet", method.alphabet),
        threshold,
        error(got, wanted),
        error(clipped, wanted),
        None if ideal is None else error(ideal, clipped),
        None if ideal is None else error(got, ideal),
        float((wanted > theta).double().mean()),
        float((sent == 0).all(0).double().mean()),
        float((sent != 0).double().sum(0).mean()),
        note=note,
    )


def doubled(layers: list[Layer]) -> list[Layer]:
    """The layers with the first one marked whose error is more than twice that of the one before."""
    for i, (before, layer) in enumerate(pairwise(layers)):
        if layer.error > 2 * before.error and layer.error > 0.01:
            return [*layers[: i + 1], replace(layer, doubles=True), *layers[i + 2 :]]
    return layers
