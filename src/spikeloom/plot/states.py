"""Pictures of states over time: voltages with spikes and threshold, heat maps, bars in three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from .given import check_highlight, check_whole, evenly, names_of, number, shaped, thinned, values_of
from .look import (
    BLUE,
    INK,
    PALE,
    RED,
    axes_or_new,
    colours_of,
    name_ends,
    round_ticks,
    steps_to_the_right,
    styled,
    upright,
)
from .trains import lines


@styled
def traces(
    v: Tensor,
    *,
    spikes: Tensor | None = None,
    labels: Sequence[Any] | None = None,
    highlight: int | None = None,
    v_threshold: float | None = None,
    ylabel: str = "v",
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Voltages of one sample, a line for each neuron of ``[T, N]``; ``highlight`` draws one of them bold.

    ``spikes`` ``[T, N]`` are dots above the lines, a row for each neuron. (Not on them: a recorded ``v`` is the voltage
    after the reset, so that it is low where the neuron fired.) Another state is drawn the same way: ``ylabel`` is what
    its axis says, as in ``traces(u, ylabel="u")``.
    """
    who = "plot.traces"
    values = shaped(v, who, "the voltages of one sample", ["T", "N"])
    T, N = values.shape
    names = names_of(labels, N, who)
    check_highlight(highlight, N, who)
    fired = None if spikes is None else _of_shape(spikes, values, who, "spikes")
    ax = axes_or_new(ax)
    colours = lines(ax, values, names, highlight)
    if v_threshold is not None:
        ax.axhline(number(v_threshold, who, "v_threshold"), color=INK, lw=0.8, ls="--")
    steps_to_the_right(ax, T)
    ax.set_ylabel(ylabel, rotation=upright(ylabel))
    ax.set_title(title)
    if fired is not None:
        _dots_above(ax, fired, colours)
    name_ends(ax, T, values[-1], names, colours, highlight)
    return ax


def _dots_above(ax: Axes, fired: Tensor, colours: list[str]) -> None:
    """Spikes ``[T, N]`` as dots in rows above all that is drawn, the first neuron's on top."""
    low, high = ax.get_ylim()
    N = fired.shape[1]
    row = min(0.06, 0.4 / N) * (high - low)
    t, n = fired.ne(0).nonzero(as_tuple=True)
    heights = high + row * (N - n)
    ax.scatter(t.numpy(), heights.numpy(), s=9, c=[colours[k] for k in n.tolist()], linewidths=0, zorder=3)
    ax.set_ylim(low, high + row * (N + 1))


def _of_shape(x: Any, like: Tensor, who: str, name: str) -> Tensor:
    values = values_of(x, who)
    if values.shape != like.shape:
        raise ValueError(f"{who}: expected {name} of the shape of v, {list(like.shape)}, got {list(values.shape)}")
    return values


@styled
def neuron(
    v: Tensor,
    spikes: Tensor,
    v_threshold: float | Tensor | None = None,
    *,
    u: Tensor | None = None,
    v_reset: float | None = None,
    ylabel: str = "v",
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """The voltage of one neuron ``[T]`` with its spikes ``[T]``, which are lines above it, and its threshold.

    A recorded ``v`` is the voltage after the reset, so that it is low where the neuron fired, and need not reach the
    threshold at all. With ``u`` ``[T]``, what ``record=("u", "v")`` gives, the line goes in each step up to the voltage
    before the reset, ``h = u + v_threshold``, and from there down to ``v``; so a hard reset ends at ``v_reset``, and a
    soft one at ``h - v_threshold``.

    Args:
        v_threshold: a number, or ``[T]`` where it adapts.
        v_reset: the voltage that a hard reset goes to, drawn as a dotted line.

    A dimension of size 1 beside T, as in ``[T, 1]`` and ``[T, 1, 1]``, is left out.
    """
    who = "plot.neuron"
    values = _one(v, who, "v")
    T = len(values)
    fired = _one(spikes, who, "spikes", T)
    threshold = None if v_threshold is None else _level(v_threshold, T, who)
    if u is not None and threshold is None:
        raise ValueError(f"{who}: u is the voltage less the threshold; give v_threshold= too")
    ax = axes_or_new(ax)
    t, line = torch.arange(T), values
    if u is not None and threshold is not None:
        before = _one(u, who, "u", T) + threshold
        t, line = t.repeat_interleave(2), torch.stack([before, values], 1).flatten()
    ax.plot(t.numpy(), line.numpy(), color=BLUE, lw=1.5, label="voltage", marker="o" if T == 1 else "")
    if threshold is not None:
        ax.plot(threshold.numpy(), color=INK, lw=0.9, ls="--", label="threshold")
    if v_reset is not None:
        ax.axhline(number(v_reset, who, "v_reset"), color=INK, lw=0.9, ls=":", label="reset")
    low, high = ax.get_ylim()
    at = fired.ne(0).nonzero().flatten().numpy()
    ax.vlines(at, high, high + 0.14 * (high - low), colors=RED, lw=1.5, label="spikes")
    ax.set_ylim(low, high + 0.17 * (high - low))
    steps_to_the_right(ax, T)
    ax.set_ylabel(ylabel, rotation=upright(ylabel))
    ax.set_title(title)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def _one(x: Any, who: str, name: str, T: int | None = None) -> Tensor:
    """The values of one neuron, ``[T]``."""
    values = values_of(x, who)
    line = values.flatten() if values.ndim and values.numel() == len(values) else values
    if line.ndim != 1 or line.numel() == 0 or (T is not None and len(line) != T):
        many = "; take one neuron, as in v[:, 0, 3]" if values.ndim > 1 and values.numel() else ""
        raise ValueError(f"{who}: expected {name} of one neuron, [{T or 'T'}], got {list(values.shape)}{many}")
    return line.double()


def _level(x: float | Tensor, T: int, who: str) -> Tensor:
    """A threshold as ``[T]``."""
    values = values_of(x, who) if isinstance(x, Tensor) else None
    if values is not None and values.numel() == T != 1:
        return values.flatten().double()
    if values is not None and values.numel() != 1:
        raise ValueError(f"{who}: v_threshold must be a number or [{T}], got {list(values.shape)}")
    return torch.full((T,), number(x, who, "v_threshold"), dtype=torch.float64)


@styled
def heatmap(
    values: Tensor, *, max_neurons: int = 1000, label: str = "v", ax: Axes | None = None, title: str = ""
) -> Axes:
    """Values of many neurons ``[T, N]`` as colours: steps to the right, neurons upwards.

    White is 0 and blue the largest value; where both signs occur, blue is below and red above 0. ``label`` is what the
    colours mean. More than ``max_neurons`` are thinned evenly, and the title says so.

    >>> import torch
    >>> import spikeloom as sl
    >>> ax = sl.plot.heatmap(torch.tensor([[0.0, 1.0], [0.5, 2.0], [0.0, 0.0]]))
    >>> ax.images[0].get_array().tolist()  # a row for each neuron
    [[0.0, 0.5, 0.0], [1.0, 2.0, 0.0]]
    """
    found = shaped(values, "plot.heatmap", "the values of one sample", ["T", "N"])
    check_whole("plot.heatmap", max_neurons=max_neurons)
    ax = axes_or_new(ax)
    T, total = found.shape
    shown = evenly(total, max_neurons)
    drawn = found[:, shown].T
    extent = (-0.5, T - 0.5, -0.5, total - 0.5)
    image = ax.imshow(drawn.numpy(), aspect="auto", origin="lower", extent=extent, **colours_of(drawn))
    ax.figure.colorbar(image, ax=ax, pad=0.02).set_label(label, rotation=upright(label))
    ax.set(xlabel="step", ylabel="neuron")
    round_ticks(ax.xaxis)
    round_ticks(ax.yaxis, 6)
    ax.set_title(thinned(title, len(shown), total, "neurons"))
    return ax


@styled
def bars3d(
    values: Tensor,
    *,
    max_neurons: int = 32,
    max_steps: int = 64,
    zlabel: str = "spikes",
    ax: Any = None,
    title: str = "",
) -> Any:
    """Values ``[T, N]`` as bars in three dimensions: steps, neurons, and their values upwards.

    More steps or neurons than the most that are drawn are thinned evenly, and the title says so. ``ax`` must be of
    matplotlib's projection "3d"; so are the axes that are returned. (A :func:`heatmap` hides no bar behind another.)

    >>> import torch
    >>> import spikeloom as sl
    >>> ax = sl.plot.bars3d(torch.tensor([[0.0, 1.0], [4.0, 2.0]]))
    >>> ax.name, bool(ax.get_zlim()[1] >= 4.0)
    ('3d', True)
    """
    found = shaped(values, "plot.bars3d", "the values of one sample", ["T", "N"])
    check_whole("plot.bars3d", max_neurons=max_neurons, max_steps=max_steps)
    if ax is None:
        ax = plt.figure(figsize=(7.0, 4.6), layout="constrained").add_subplot(projection="3d")
    if getattr(ax, "name", "") != "3d":
        raise ValueError('plot.bars3d: ax must be three-dimensional; make it by subplot_kw={"projection": "3d"}')
    T, N = found.shape
    steps, neurons = evenly(T, max_steps), evenly(N, max_neurons)
    t, n = torch.meshgrid(steps, neurons, indexing="ij")
    heights = found[steps][:, neurons].double().flatten()
    wide, deep = (0.7 * max((k - 1) / max(len(shown) - 1, 1), 1) for k, shown in ((T, steps), (N, neurons)))
    x, y = t.flatten() - wide / 2, n.flatten() - deep / 2
    ax.bar3d(x.numpy(), y.numpy(), 0, wide, deep, heights.numpy(), color=BLUE, edgecolor=PALE, linewidth=0.2)
    ax.set(xlabel="step", ylabel="neuron", zlabel=zlabel)
    round_ticks(ax.xaxis, 6)
    round_ticks(ax.yaxis, 6)
    ax.set_title(thinned(thinned(title, len(steps), T, "steps"), len(neurons), N, "neurons"), loc="left")
    return ax
