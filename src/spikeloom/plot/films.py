"""Films: anything over time, drawn frame by frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from torch import Tensor

from .. import data
from ..spikes import SpikeTensor
from .camera import ceiling, on_off, start
from .given import check_highlight, check_whole, evenly, names_of, number, recording_of, thinned, values_of
from .look import BLUE, colours_of, round_ticks, style, styled
from .trains import line_colours

Show = Callable[[int], list[Any]]


@styled
def animate(
    x: Any,
    *,
    frames: int | None = None,
    seconds: float = 4.0,
    labels: Sequence[Any] | None = None,
    highlight: int | None = None,
    title: str = "",
) -> FuncAnimation:
    """A film of anything that changes over time; ``animate(x).save("film.gif", writer="pillow")`` writes it, and
    ``HTML(animate(x).to_jshtml())`` plays it in a notebook. Neither needs ffmpeg.

    Args:
        x: values ``[T, H, W]`` or ``[T, 1, H, W]`` (white is 0, blue the largest; where both signs occur, blue is below
            and red above 0); OFF and ON ``[T, 2, H, W]`` (ON red, OFF blue), as :func:`spikeloom.data.to_frames` makes
            them; spikes ``[T, N]``, whose counts so far grow as bars (see :func:`spike_count`); or the events of a
            camera: a recording, or what :func:`spikeloom.data.events.as_recording` takes.
        frames: the number of frames: into so many equal parts the time of a recording is cut (None: 40). Of a tensor,
            so many steps are shown at most, evenly, and the title says so (None: all).
        seconds: how long the film takes.
        labels: names of the N neurons of spikes ``[T, N]``.
        highlight: the number of one of the N neurons of spikes ``[T, N]``, which is drawn blue, the others pale.

    Keep the result until it is saved or shown: matplotlib draws nothing for a film that is gone.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> from PIL import Image
    >>> import spikeloom as sl
    >>> film = sl.plot.animate(torch.eye(3).view(3, 1, 3), seconds=3.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     film.save(Path(folder) / "film.gif", writer="pillow", dpi=20)
    ...     with Image.open(Path(folder) / "film.gif") as saved:
    ...         saved.n_frames, saved.info["duration"]  # milliseconds
    (3, 1000)
    """
    who = "plot.animate"
    if frames is not None:
        check_whole(who, frames=frames)
    if not 0 < number(seconds, who, "seconds") < math.inf:
        raise ValueError(f"{who}: seconds must be positive and finite, got {seconds}")
    tensor = _is_tensor(x)
    values = values_of(x, who) if tensor else None
    if (labels is not None or highlight is not None) and (values is None or values.ndim != 2):
        raise ValueError(f"{who}: labels and highlight are those of the neurons of spikes [T, N]")
    if values is None:
        film = _events(recording_of(x, who), 40 if frames is None else frames, title)
    elif values.ndim == 2 and values.numel():
        film = _counts(values, evenly(len(values), frames or len(values)).tolist(), labels, highlight, title)
    else:
        film = _frames(values, frames, title)
    figure, show, total = film

    def styled_show(k: int) -> list[Any]:
        with style():
            return show(k)

    return FuncAnimation(figure, styled_show, frames=total, interval=1000 * seconds / total, blit=False)


def _is_tensor(x: Any) -> bool:
    if isinstance(x, np.ndarray):
        return x.dtype.names is None
    return isinstance(x, (Tensor, SpikeTensor, list, tuple))


def _picture(H: int, W: int) -> tuple[Any, Axes]:
    """A figure for an image, without ticks."""
    figure, ax = plt.subplots(figsize=(4.0, min(max(4.0 * H / W, 1.0), 8.0) + 0.4), layout="constrained")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
    return figure, ax


def _events(recording: data.Recording, frames: int, title: str) -> tuple[Any, Show, int]:
    recording.need_camera("plot.animate")
    pictures = data.to_frames(recording, steps=frames)
    top, first = ceiling(pictures), start(recording)
    figure, ax = _picture(*recording.size)
    image = ax.imshow(on_off(pictures[0], top))
    text = ax.set_title("")

    def show(k: int) -> list[Any]:
        image.set_data(on_off(pictures[k], top))
        text.set_text(f"{title} {(first + k * recording.duration / frames) * 1e-6:.3f} s".lstrip())
        return [image, text]

    show(0)
    return figure, show, frames


def _frames(values: Tensor, frames: int | None, title: str) -> tuple[Any, Show, int]:
    two = values.ndim == 4 and values.shape[1] == 2
    if values.ndim == 4 and values.shape[1] == 1:
        values = values[:, 0]
    if (values.ndim != 3 and not two) or values.numel() == 0:
        raise ValueError(
            "plot.animate: expected one sample, [T, H, W], [T, 1, H, W], [T, 2, H, W] or spikes [T, N], none of them "
            f"0, got {list(values.shape)}; take one sample of a batch, as in x[:, 0], and one channel of many"
        )
    T = len(values)
    shown = evenly(T, frames or T).tolist()
    if two and bool((values < 0).any()):
        raise ValueError("plot.animate: [T, 2, H, W] are counts of OFF and ON events, which are not negative")
    figure, ax = _picture(*values.shape[-2:])
    if two:
        values = values.double()
        top = ceiling(values)
        image = ax.imshow(on_off(values[shown[0]], top))
    else:
        image = ax.imshow(values[shown[0]].numpy(), **colours_of(values))
    text = ax.set_title("")

    def show(k: int) -> list[Any]:
        image.set_data(on_off(values[shown[k]], top) if two else values[shown[k]].numpy())
        text.set_text(_step(title, shown, k, T))
        return [image, text]

    show(0)
    return figure, show, len(shown)


def _counts(
    values: Tensor, shown: list[int], labels: Sequence[Any] | None, highlight: int | None, title: str
) -> tuple[Any, Show, int]:
    T, N = values.shape
    names = names_of(labels, N, "plot.animate")
    check_highlight(highlight, N, "plot.animate")
    counts = values.double().cumsum(0)
    figure, ax = plt.subplots(figsize=(5.0, min(0.9 + 0.26 * N, 10.0)), layout="constrained")
    colours = [BLUE] * N if highlight is None else line_colours(N, highlight)
    bars = ax.barh(range(N), [0.0] * N, color=colours, height=0.7)
    if N <= 40:
        ax.set_yticks(range(N), names)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    low, high = float(counts.min()), float(counts.max())
    ax.set(xlabel="spikes so far", xlim=(min(low, 0.0), max(high, 1.0) * 1.04))
    round_ticks(ax.xaxis)
    text = ax.set_title("")

    def show(k: int) -> list[Any]:
        for bar, count in zip(bars, counts[shown[k]].tolist(), strict=True):
            bar.set_width(count)
        text.set_text(_step(title, shown, k, T))
        return [*bars, text]

    show(0)
    return figure, show, len(shown)


def _step(title: str, shown: list[int], k: int, T: int) -> str:
    """The title of a frame, with its step."""
    step = f"{title}, step {shown[k]}" if title else f"step {shown[k]}"
    return thinned(step, len(shown), T, "steps")
