"""Pictures of spike trains: rasters, counts, firing rates of layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .given import check_highlight, check_whole, evenly, kind, names_of, number, shaped, thinned, values_of
from .look import (
    BLUE,
    INK,
    LINES,
    PALE,
    RED,
    axes_or_new,
    name_ends,
    round_ticks,
    size_in_points,
    steps_to_the_right,
    styled,
)


@styled
def raster(
    spikes: Tensor, *, max_neurons: int = 100, rates: bool = False, ax: Axes | None = None, title: str = ""
) -> Axes:
    """Raster of one sample ``[T, *]``: steps to the right, neurons upwards, a dot for each spike; one below 0 is red.

    A layer of more than ``max_neurons`` is thinned evenly, and the title says so. ``rates`` draws beside it the rate
    of each neuron shown, its spikes per step.
    """
    values = shaped(spikes, "plot.raster", "the spikes of one sample", ["T"], rest=True)
    check_whole("plot.raster", max_neurons=max_neurons)
    ax = axes_or_new(ax)
    T, total = values.shape
    shown = evenly(total, max_neurons)
    marks = values[:, shown]
    t, n = marks.ne(0).nonzero(as_tuple=True)
    width, height = size_in_points(ax)
    dot = min(max(0.3 * math.sqrt(width / T * height / len(shown)), 2.0), 5.0)  # in points, by the room that each has
    below = marks[t, n] < 0
    colours = [RED if negative else INK for negative in below.tolist()] if bool(below.any()) else INK
    ax.scatter(t.numpy(), shown[n].numpy(), s=dot**2, c=colours, linewidths=0)
    steps_to_the_right(ax, T)
    ax.set(ylabel="neuron", ylim=_around(total))
    round_ticks(ax.yaxis, 6)
    ax.set_title(thinned(title, len(shown), total, "neurons"))
    if rates:
        _rates_beside(ax, marks.ne(0).double().mean(0), shown, total)
    return ax


def _around(total: int) -> tuple[float, float]:
    margin = 0.5 + 0.02 * total
    return -margin, total - 1 + margin


def _rates_beside(ax: Axes, rates: Tensor, shown: Tensor, total: int) -> None:
    """Draws the rates of the neurons of a raster at its right."""
    beside = ax.inset_axes((1.03, 0.0, 0.16, 1.0), sharey=ax)
    halves = (shown[1:] + shown[:-1]) / 2
    edges = [-0.5, *halves.tolist(), total - 0.5]
    beside.stairs(rates.numpy(), edges, orientation="horizontal", fill=True, color=BLUE)
    most = float(rates.max()) or 1.0
    beside.set(xlabel="spikes per step", xlim=(0, most * 1.05))
    beside.set_xticks([most], [f"{most:.2g}"])
    beside.tick_params(labelleft=False)


@styled
def spike_count(
    spikes: Tensor,
    labels: Sequence[Any] | None = None,
    *,
    highlight: int | None = None,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Counts of spikes that grow with the steps, a line for each neuron of ``[T, N]``: ``sum of s[:t + 1]`` at step t.

    ``labels`` names the neurons, which are classes most of the time; ``highlight`` is the number of one that is drawn
    bold. As a film, with a bar for each neuron, it is :func:`animate` of the same spikes.

    >>> import torch
    >>> import spikeloom as sl
    >>> ax = sl.plot.spike_count(torch.tensor([[1, 0], [1, 1], [0, 0], [1, 0]]), ["cat", "dog"])
    >>> {line.get_label(): line.get_ydata().tolist() for line in ax.lines[:2]}
    {'cat': [1.0, 2.0, 2.0, 3.0], 'dog': [0.0, 1.0, 1.0, 1.0]}
    """
    values = shaped(spikes, "plot.spike_count", "the spikes of one sample", ["T", "N"])
    T, N = values.shape
    names = names_of(labels, N, "plot.spike_count")
    check_highlight(highlight, N, "plot.spike_count")
    ax = axes_or_new(ax)
    counts = values.double().cumsum(0)
    colours = lines(ax, counts, names, highlight, drawstyle="steps-post")
    steps_to_the_right(ax, T)
    ax.set_ylabel("spikes so far")
    round_ticks(ax.yaxis)
    ax.set_title(title)
    name_ends(ax, T, counts[-1], names, colours, highlight, 20)
    return ax


def lines(
    ax: Axes, values: Tensor, names: list[str], highlight: int | None, *, drawstyle: str = "default"
) -> list[str]:
    """Draws a line for each neuron of ``[T, N]``, dots where there is one step; returns their colours."""
    T, N = values.shape
    colours = line_colours(N, highlight)
    for n in range(N):
        ax.plot(
            values[:, n].numpy(),
            color=colours[n],
            lw=line_width(n, highlight),
            drawstyle=drawstyle,
            marker="o" if T == 1 else "",
            label=names[n],
            zorder=3 if highlight == n else 2,
        )
    return colours


def line_colours(N: int, highlight: int | None) -> list[str]:
    """A colour for each of N lines: blue for the one that is highlighted, and pale for all others then."""
    if highlight is not None:
        return [BLUE if n == highlight else PALE for n in range(N)]
    return [LINES[n % len(LINES)] for n in range(N)]


def line_width(n: int, highlight: int | None) -> float:
    """The width of line n in points: bold for the one that is highlighted, thin for all others then."""
    return 1.4 if highlight is None else 2.2 if n == highlight else 0.9


@styled
def firing_rates(
    rates: Mapping[str, float | Tensor], *, saturated: float = 0.95, ax: Axes | None = None, title: str = ""
) -> Axes:
    """Firing rates of layers, a bar for each: spikes per neuron and step.

    Args:
        rates: by the names of layers, a number, or the rates of a layer's neurons ``[*]``, of which the bar is the
            mean. Of these, the share that is silent (rate 0) and the share that is saturated are drawn beside it.
        saturated: the rate from which on a neuron counts as saturated.
    """
    who = "plot.firing_rates"
    if not isinstance(rates, Mapping):
        raise TypeError(f"{who}: expected rates by the names of layers, got {kind(rates)}")
    if not rates:
        raise ValueError(f"{who}: expected a rate for each of one or more layers, got none")
    each = {str(layer): _of_neurons(rate, who) for layer, rate in rates.items()}
    means = {
        layer: number(rate, who, layer) if each[layer] is None else float(each[layer].mean())  # type: ignore[union-attr]
        for (layer, rate) in zip(each, rates.values(), strict=True)
    }
    wrong = [layer for layer, mean in means.items() if not 0 <= mean < math.inf]
    if wrong:
        raise ValueError(f"{who}: a rate must be finite and not negative, got {means[wrong[0]]} for {wrong[0]}")
    ax = axes_or_new(ax, height=0.9 + 0.42 * len(means))
    bars = ax.barh(range(len(means)), list(means.values()), color=BLUE, height=0.65)
    ax.bar_label(bars, labels=[f" {100 * r:.1f} %" for r in means.values()], fontsize="small")
    ax.set_yticks(range(len(means)), list(means))
    ax.invert_yaxis()
    ax.set(xlabel="spikes per neuron and step", xlim=(0, max([*means.values(), 1e-3]) * 1.25))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    ax.tick_params(axis="y", length=0)
    ax.set_title(title)
    if any(rate is not None for rate in each.values()):
        _kinds_beside(ax, list(each.values()), number(saturated, who, "saturated"))
    return ax


def _of_neurons(rate: Any, who: str) -> Tensor | None:
    """The rates of many neurons, or None for a number."""
    if not isinstance(rate, (Tensor, np.ndarray, list, tuple)):
        return None
    values = values_of(rate, who).flatten().double()
    if len(values) == 1:
        return None
    if values.numel() == 0 or not bool(((values >= 0) & values.isfinite()).all()):
        raise ValueError(f"{who}: rates of neurons must be finite and not negative, and at least one")
    return values


def _kinds_beside(ax: Axes, each: Sequence[Tensor | None], most: float) -> None:
    """Draws the shares of neurons that are silent, and that are saturated, at the right of the bars of layers."""
    beside = ax.inset_axes((1.06, 0.0, 0.6, 1.0), sharey=ax)
    given = {row: rates for row, rates in enumerate(each) if rates is not None}
    silent = {row: 100 * float((rates == 0).double().mean()) for row, rates in given.items()}
    full = {row: 100 * float((rates >= most).double().mean()) for row, rates in given.items()}
    rows = list(given)
    beside.barh(rows, [100.0] * len(rows), color="#e6ebf2", height=0.65)
    beside.barh(rows, list(silent.values()), color=PALE, height=0.65, label="silent")
    saturated = f"saturated (from {100 * most:.3g} % of steps)"
    beside.barh(
        rows, list(full.values()), left=[100 - s for s in full.values()], color=RED, height=0.65, label=saturated
    )
    for row in rows:
        if silent[row]:
            beside.text(1.5, row, f"{silent[row]:.1f} %", ha="left", va="center", fontsize="small")
        if full[row]:
            beside.text(98.5 - full[row], row, f"{full[row]:.1f} %", ha="right", va="center", fontsize="small")
    beside.set(xlabel="neurons (%)", xlim=(0, 100))
    beside.tick_params(axis="y", left=False, labelleft=False)
    beside.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, borderpad=0.0, handlelength=1.2, columnspacing=1.0
    )
