"""What :class:`Calibrated` does to a converted network: weights, biases and first voltages by what each layer lacks.

With e = a - y, the activation of the model less the decoded output of the neuron after T steps, both by sample and
place, and h the decoded input of the layer before the neuron:

    weights    W, b += D, d, the least squares of ``|D h + d - e|^2`` with a penalty of D
    biases     b += mean of e by channel
    voltages   v[0] += T mean of e by channel
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from ..neuron import Graded, HalfThreshold
from .building import Builder, worth
from .methods import Calibrated
from .sites import Site
from .statistics import by_channel
from .temporal import AFFINE
from .vocabulary import name_of
from .walking import Walk
from .working import Working

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, math.inf)
"""What may be added to the diagonal of the sums of squares of h, as a part of their mean."""


def layer_before(work: Working, site: Site) -> str:
    """The path of a layer whose bias is added to a site's input, by itself or within sums; empty where there is none.

    Nothing else may use what lies between; the layer must have one call, weights of its own, and the site's channels.
    """
    path = _layer(work, work.signals(site.node)[0])
    return path if path and _channels(work.module.get_submodule(path)) == site.channels else ""


def _channels(layer: Any) -> int:
    found: int = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return found


def _layer(work: Working, source: fx.Node) -> str:
    if len(source.users) > 1:
        return ""
    if source.op == "call_module" and type(work.at(source)) in AFFINE:
        layer = work.at(source)
        return str(source.target) if work.calls()[id(layer)] == 1 and work.owns(layer) else ""
    operation = source.meta.get("operation")
    if operation is None or operation.name != "addition" or name_of(source.meta["what"]) not in ("add", "add_", "iadd"):
        return ""
    if source.kwargs or len(source.all_input_nodes) < sum(isinstance(a, fx.Node) for a in source.args):
        return ""  # which may scale an operand, or add it to itself
    found = (_layer(work, operand) for operand in work.signals(source) if operand.meta["shape"] == source.meta["shape"])
    return next((path for path in found if path), "")


class Correction:
    """The corrections of one conversion, before its network is made.

    Args:
        method: the method.
        builder: what has built it, on whose graph it works.
        before: the layer before each site, by path; empty where there is none.
        model: the graph as it was captured, which has the nodes of the sites by their names.
        batches: the calibration data.
    """

    def __init__(
        self,
        method: Calibrated,
        builder: Builder,
        before: dict[str, str],
        model: fx.GraphModule,
        batches: list[list[Tensor]],
    ) -> None:
        self.method, self.builder, self.before = method, builder, before
        self.model, self.batches = model, batches
        self.module = builder.work.module

    def run(self, sites: list[Site]) -> list[str]:
        """Corrects from front to back; says what there was nothing to move for."""
        notes: dict[str, None] = {}
        for _ in range(self.method.rounds):
            self._wanted = Walk(self.model, self.batches)
            self._steps = Walk(self.module, self.batches, T=self.method.T)
            for site in sites:
                self._correct(site, notes)
                self._steps.settle(_calls(self.module, site.path))
        return list(notes)

    def _correct(self, site: Site, notes: dict[str, None]) -> None:
        path = self.before[site.path]
        layer: Any = self.module.get_submodule(path) if path else None
        unit = self.builder.units.get(site.path, torch.ones(1, dtype=torch.float64))
        if layer is not None and self.method.weights and fits(layer):
            _move(layer, *least_squares(layer, self._rows(site, path)), unit)
        elif layer is not None:
            _move(layer, None, self._lacks(site), unit)
            if self.method.weights:
                notes[f"weights of {path!r} stay: least squares are for nn.Linear and plain nn.Conv2d"] = None
        if self.method.voltages:
            self._charge(site, self._lacks(site))
        elif layer is None:
            notes[f"no bias before {site.path!r} to calibrate"] = None

    def _decoded(self, site: Site, *others: fx.Node) -> Iterator[list[Tensor]]:
        """The decoded output of a site for each batch, and the means over steps of other nodes."""
        T, delay = self.method.T, self.method.delay
        factor = worth(self.builder.neurons[site.path], site, self.builder.thresholds[site.path])
        for found in self._steps.values(_calls(self.module, site.path), *others):
            y, *rest = (v.unflatten(0, (T, -1))[delay:].double().cpu() for v in found)
            yield [(y * factor).mean(0), *(v.mean(0) for v in rest)]

    def _lacks(self, site: Site) -> Tensor:
        """The mean of e by channel."""
        total, number = torch.zeros(site.channels, dtype=torch.float64), 0
        for (y,) in self._decoded(site):
            rows = by_channel(y, site.dim)
            total, number = total + rows.sum(1), number + rows.shape[1]
        return site.histogram.mean() - total / number

    def _rows(self, site: Site, path: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The decoded inputs of a layer, and e, for each batch."""
        wanted = next(node for node in self.model.graph.nodes if node.name == site.node.name)
        source = _calls(self.module, path).all_input_nodes[0]
        for (a,), (y, h) in zip(self._wanted.values(wanted), self._decoded(site, source), strict=True):
            yield h, a.double().cpu() - y
        self._wanted.settle(wanted)

    def _charge(self, site: Site, lacks: Tensor) -> None:
        """Raises the first voltage, which is a part of the threshold, by what the neuron lacks in all steps."""
        place = site.path
        found: Any = self.module.get_submodule(place)
        if isinstance(found, Graded):
            place, found = f"{place}.neuron", found.neuron
        if not isinstance(found, HalfThreshold):
            return
        theta = self.builder.thresholds[site.path]
        now = found.fraction.double().cpu().flatten()
        steps = self.method.T - self.method.delay
        fraction = site.number((now + steps * lacks / theta).clamp(0, 1))
        made = HalfThreshold(found.neuron, fraction=fraction).eval().to(found.fraction.device)
        self.module.set_submodule(place, made)
        if place == site.path:
            self.builder.neurons[site.path] = made


def _calls(module: fx.GraphModule, path: str) -> fx.Node:
    """The node that calls the module at a path, of which there is one."""
    found: fx.Node = next(n for n in module.graph.nodes if n.op == "call_module" and n.target == path)
    return found


def fits(layer: nn.Module) -> bool:
    """Whether :func:`least_squares` knows the layer."""
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.Linear


def least_squares(
    layer: Any, rows: Iterable[tuple[Tensor, Tensor]], ridges: tuple[float, ...] = RIDGES
) -> tuple[Tensor, Tensor]:
    """The changes D of a weight and d of a bias that bring the layer nearest to giving e more for its inputs h.

    They make ``sum |D h + d - e|^2 + n ridge m |D|^2`` least, with n rows and m the mean of the squares of h. Where
    there are several ridges, it is the one with which what one half of the samples gives is best for the other half;
    among them is one without end, with which the weight stays.

    Args:
        layer: an ``nn.Linear``, or an ``nn.Conv2d`` without groups.
        rows: pairs (h, e) of inputs and wanted changes of outputs; of them only sums of products are kept.
        ridges: as above.
    """
    halves: list[Any] = [(0.0, 0.0), (0.0, 0.0)]
    count = 0
    for h, e in rows:
        for half in (0, 1):
            mine = slice((half + count) % 2, None, 2)
            if len(h[mine]):
                x, y = _as_rows(layer, h[mine], e[mine])
                halves[half] = halves[half][0] + x.T @ x, halves[half][1] + x.T @ y
        count += len(h)
    ridge = ridges[0]
    if len(ridges) > 1:
        known = all(isinstance(products, Tensor) for products, _ in halves)
        losses = {r: _loss(halves, r) for r in ridges} if known else {}
        ridge = min(losses, key=losses.__getitem__, default=math.inf)
    products, targets = (one + other for one, other in zip(*halves, strict=True))
    found = _solved(products, targets, ridge).T
    return found[:, :-1].reshape(layer.weight.shape), found[:, -1]


def _as_rows(layer: Any, h: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """What the weight is multiplied by, with a 1 for the bias, and what is to come of it, in rows."""
    if isinstance(layer, nn.Conv2d):
        options = {name: getattr(layer, name) for name in ("dilation", "padding", "stride")}
        x = functional.unfold(h, layer.kernel_size, **options).transpose(1, 2).flatten(0, 1)
        y = e.flatten(2).transpose(1, 2).flatten(0, 1)
    else:
        x, y = h.flatten(0, -2), e.flatten(0, -2)
    return torch.cat([x, x.new_ones(len(x), 1)], 1), y


def _solved(products: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """The least squares ``[inputs + 1, outputs]``, of sums of products."""
    if math.isinf(ridge):
        found = torch.zeros_like(targets)
        found[-1] = targets[-1] / products[-1, -1]
        return found
    size = products.diagonal()[:-1].mean().clamp(min=1e-30)  # there may be no spike at all
    penalty = torch.full_like(products.diagonal(), float(ridge * size))
    penalty[-1] = 0.0  # the bias is free
    solution: Tensor = torch.linalg.solve(products + penalty.diag(), targets)
    return solution


def _loss(halves: list[tuple[Tensor, Tensor]], ridge: float) -> float:
    """The sum of squares that each half's solution leaves of the other half, but for what no solution changes."""
    total = 0.0
    for one, other in (halves, halves[::-1]):
        found = _solved(*one, ridge)
        total += float(((other[0] @ found - 2 * other[1]) * found).sum())
    return total


def _move(layer: Any, weight: Tensor | None, bias: Tensor, unit: Tensor) -> None:
    """Adds to the weight and the bias of a layer, which has one from then on, in units of its output."""
    old, needs = layer.weight, layer.weight.requires_grad
    bias = (bias / unit).to(old.device)
    if weight is not None:
        weight = weight / unit.view(-1, *(1,) * (weight.ndim - 1))
        moved = (old.detach().double() + weight.to(old.device)).to(old.dtype)
        layer.weight = nn.Parameter(torch.empty_like(old).copy_(moved), requires_grad=needs)  # which keeps its layout
    if layer.bias is not None:
        bias = bias + layer.bias.detach().double()
    layer.bias = nn.Parameter(bias.to(old.dtype), requires_grad=needs)
