"""Pictures of what has height and width: images, the channels of a layer."""

from __future__ import annotations

import math

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .given import check_whole, evenly, shaped, thinned
from .look import axes_or_new, colours_of, styled


@styled
def images(pictures: Tensor, *, columns: int, title: str = "") -> Figure:
    """Images ``[N, H, W]`` from 0 to 1 in rows of ``columns``, on a figure of their own.

    >>> import torch
    >>> import spikeloom as sl
    >>> figure = sl.plot.images(torch.rand(5, 8, 8), columns=3)
    >>> len(figure.axes)  # two rows of three
    6
    """
    values = shaped(pictures, "plot.images", "images", ["N", "H", "W"])
    check_whole("plot.images", columns=columns)
    rows = -(-len(values) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(columns, rows + 0.4), layout="constrained", squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, picture in zip(axes.flat, values, strict=False):
        ax.imshow(picture.numpy(), cmap="gray_r", vmin=0, vmax=1)
    fig.suptitle(title, x=0.01, ha="left")
    return fig


@styled
def feature_maps(
    x: Tensor,
    *,
    columns: int | None = None,
    max_channels: int = 64,
    label: str | None = "",
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """The channels of a layer ``[C, H, W]`` as tiles of one image, channel 0 at the top left, in rows of ``columns``
    (None chooses: about twice as wide as high, with full rows where that goes).

    All tiles have the same colours: white is 0 and blue the largest value; where both signs occur, blue is below and
    red above 0. Of spikes ``[T, C, H, W]`` take a sum or mean over the steps. More than ``max_channels`` are thinned
    evenly, and the title says so. ``label`` is what the colours mean; None leaves their bar
    out.

    >>> import torch
    >>> import spikeloom as sl
    >>> ax = sl.plot.feature_maps(torch.rand(6, 4, 4), columns=3)
    >>> ax.images[0].get_array().shape  # two rows of three, with lines of one pixel between
    (9, 14)
    """
    who = "plot.feature_maps"
    values = shaped(x, who, "the channels of one sample", ["C", "H", "W"])
    check_whole(who, max_channels=max_channels)
    C, H, W = values.shape
    shown = evenly(C, max_channels)
    if columns is None:
        columns = _columns(len(shown), math.ceil(math.sqrt(2 * len(shown) * H / W)))
    check_whole(who, columns=columns)
    tiled = tiles(values[shown].double(), columns)
    rows = len(tiled) // (H + 1) + 1
    across = 7.0
    down = min(max((across - 1.0) * (rows * H) / (columns * W) + 0.4, 1.2), 9.0)
    ax = axes_or_new(ax, width=across, height=down)
    image = ax.imshow(tiled.numpy(), **colours_of(values))
    ax.set_facecolor("#dfe3ea")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if label is not None:
        ax.figure.colorbar(image, ax=ax, label=label, pad=0.02, shrink=0.9, aspect=25)
    ax.set_title(thinned(title, len(shown), C, "channels"))
    return ax


def _columns(tiles: int, wanted: int) -> int:
    """The number of columns from ``wanted`` to twice as many that leaves no tile empty, or ``wanted`` itself."""
    return next((n for n in range(wanted, min(2 * wanted, tiles) + 1) if tiles % n == 0), min(wanted, tiles))


def tiles(values: Tensor, columns: int) -> Tensor:
    """``[C, H, W]`` in rows of ``columns`` tiles, NaN between them and where there is none."""
    C, H, W = values.shape
    rows = -(-C // columns)
    drawn = values.new_full((rows * (H + 1) - 1, columns * (W + 1) - 1), torch.nan)
    for k, tile in enumerate(values):
        top, left = k // columns * (H + 1), k % columns * (W + 1)
        drawn[top : top + H, left : left + W] = tile
    return drawn
