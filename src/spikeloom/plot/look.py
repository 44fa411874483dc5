"""How pictures look: colours, fonts and axes, for as long as one is drawn."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import torch
from cycler import cycler
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from torch import Tensor

from .given import check_whole

P = ParamSpec("P")
R = TypeVar("R")

INK, BLUE, RED = "#1f2430", "#2166ac", "#c7352b"
PALE, GREY = "#b4b9c3", "#737985"  # lines that are not meant, and letters of theirs
# Where more lines than three are drawn: hues that are told apart with any colour vision (Okabe and Ito, 2008).
LINES = (BLUE, RED, INK, "#009e73", "#e69f00", "#56b4e9", "#cc79a7")
UPWARDS = LinearSegmentedColormap.from_list("spikeloom", ["#ffffff", "#a7c6e2", BLUE, "#0d2c4f"])
AROUND_ZERO = LinearSegmentedColormap.from_list("spikeloom_signed", [BLUE, "#ffffff", RED])

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "axes.labelsize": "small",
    "axes.linewidth": 0.8,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.prop_cycle": cycler(color=LINES),
    "figure.facecolor": "white",
    "figure.titlesize": "medium",
    "image.interpolation": "nearest",
    "legend.fontsize": "small",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": "small",
    "ytick.labelsize": "small",
}
_changes: ContextVar[Mapping[Any, Any] | None] = ContextVar("changes", default=None)


@contextmanager
def style(changes: Mapping[str, Any] | None = None) -> Iterator[None]:
    """The style of all pictures, as a context: matplotlib's settings are as they were before, once it is left.

    One ink, one blue, one red, told apart with any colour vision; titles at the left. The functions here draw in it
    by themselves; it is there for axes of your own beside theirs, and for ``changes``, settings of matplotlib that
    pictures within the context have instead: ``with plot.style({"font.size": 14}): ...``. Contexts may be nested.

    >>> import matplotlib as mpl
    >>> import spikeloom as sl
    >>> with sl.plot.style({"font.size": 14}):
    ...     mpl.rcParams["font.size"], mpl.rcParams["axes.spines.top"]
    (14.0, False)
    """
    merged: dict[Any, Any] = {**(_changes.get() or {}), **(changes or {})}
    token = _changes.set(merged)
    try:
        with mpl.rc_context({**_STYLE, **merged}):
            yield
    finally:
        _changes.reset(token)


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Makes a function draw in :func:`style`."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        with style():
            return draw(*args, **kwargs)

    return drawn


@styled
def figure(
    rows: int = 1, *, widths: Sequence[float] = (1.0,), width: float = 7.0, height: float = 3.2
) -> tuple[Figure, list[Axes]]:
    """A figure with ``rows`` panels below each other, laid out tightly; ``height`` is that of a row, in inches.

    ``widths`` puts as many panels beside each other in each row, whose widths are in that proportion; the panels are
    listed row by row.
    """
    check_whole("plot.figure", rows=rows)
    fig, axes = plt.subplots(
        rows, len(widths), figsize=(width, height * rows), layout="constrained", squeeze=False, width_ratios=widths
    )
    return fig, list(axes.flat)


def axes_or_new(ax: Axes | None, *, width: float = 7.0, height: float = 3.2) -> Axes:
    """The axes that were given, or those of a new figure."""
    return figure(width=width, height=height)[1][0] if ax is None else ax


def steps_to_the_right(ax: Axes, T: int) -> None:
    """The axis of steps, 0 to T - 1, at whole numbers."""
    margin = 0.5 if T <= 50 else 0.01 * T
    ax.set_xlabel("step")
    ax.set_xlim(-margin, T - 1 + margin)
    round_ticks(ax.xaxis)


def round_ticks(axis: Axis, most: int = 8) -> None:
    """At most so many ticks, at whole numbers that are multiples of 1, 2, 5, 10, 20, ..., with thousands apart."""
    axis.set_major_locator(MaxNLocator(nbins=most, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def upright(label: str) -> float:
    """The rotation of an axis's label: a symbol stands upright, a word does not."""
    return 0.0 if len(label) <= 2 else 90.0


def size_in_points(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes."""
    box = ax.get_window_extent()
    dpi = ax.figure.dpi if ax.figure is not None else 100.0
    return 72 * box.width / dpi, 72 * box.height / dpi


def name_ends(
    ax: Axes, T: int, ends: Tensor, names: list[str], colours: list[str], bold: int | None, most: int = 12
) -> None:
    """Writes the name of each line beside its last value, and moves names apart that would lie on each other.

    Of more lines than ``most``, only the bold one is named.
    """
    chosen = list(range(len(names))) if len(names) <= most else [] if bold is None else [bold]
    if not chosen:
        return
    low, high = ax.get_ylim()
    line = 0.95 * float(mpl.rcParams["font.size"])  # of small letters, in points
    gap = (high - low) * line / max(size_in_points(ax)[1], 1.0)
    heights = ends.double().nan_to_num(nan=low).clamp(low, high)
    order = sorted(chosen, key=heights.tolist().__getitem__)
    for n, y in zip(order, apart(heights[order], gap).tolist(), strict=True):
        ax.annotate(
            names[n],
            (T - 1, y),
            (6, 0),
            textcoords="offset points",
            va="center",
            color=GREY if colours[n] == PALE else colours[n],
            fontsize="small",
            fontweight="bold" if bold == n else "normal",
            annotation_clip=False,
        )


def apart(wanted: Tensor, gap: float) -> Tensor:
    """Rising positions moved to at least ``gap`` from each other, by as little as that takes (least squares).

    With ``z_i = y_i - i gap`` that is isotonic regression: neighbours that would overlap share their mean.
    """
    steps = gap * torch.arange(len(wanted), dtype=torch.float64)
    blocks: list[tuple[float, int]] = []
    for z in (wanted.double() - steps).tolist():
        mean, n = z, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, n = (before * count + mean * n) / (count + n), count + n
        blocks.append((mean, n))
    return torch.cat([torch.full((n,), mean, dtype=torch.float64) for mean, n in blocks]) + steps


def colours_of(values: Tensor) -> dict[str, Any]:
    """How an image shows values: from white to blue, or blue, white and red around zero where both signs occur."""
    seen = values[values.isfinite()]
    low, high = (float(seen.min()), float(seen.max())) if seen.numel() else (0.0, 1.0)
    if low < 0 < high:
        most = max(-low, high)
        return {"cmap": AROUND_ZERO, "vmin": -most, "vmax": most}
    if low >= 0:  # spikes and counts begin at white
        return {"cmap": UPWARDS, "vmin": 0.0, "vmax": high if high > 0 else 1.0}
    return {"cmap": UPWARDS, "vmin": low, "vmax": high if high > low else low + 1.0}
