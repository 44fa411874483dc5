"""Pictures of spike trains, membranes and training runs, drawn with matplotlib (extra ``plot``).

Functions with an argument ``ax`` draw into it (None makes a new figure) and return it; none shows or saves anything.
Tensors may have any real dtype (bfloat16, booleans, packed spikes), be on any device and require gradients; arrays and
nested lists of numbers are taken too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from matplotlib import pyplot as plt
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from . import data
from .spikes import SpikeTensor

_INK = "#1f2430"


def raster(spikes: Tensor, *, max_neurons: int = 100, ax: Axes | None = None, title: str = "") -> Axes:
    """Raster of one sample ``[T, *]``: steps to the right, neurons upwards, a mark for each spike.

    A layer of more than ``max_neurons`` is thinned evenly, and the title says so.
    """
    values = _values(spikes, "plot.raster")
    if values.ndim < 2 or values.numel() == 0:
        raise ValueError(
            f"plot.raster: expected the spikes of one sample, [T, *] with T > 0 and neurons, got {list(values.shape)}"
        )
    _check_whole("plot.raster", max_neurons=max_neurons)
    ax = _axes(ax)
    flat = values.flatten(1)
    T, total = flat.shape
    shown = _evenly(total, max_neurons)
    marks = flat[:, shown].ne(0).T.numpy()
    ax.imshow(marks, aspect="auto", origin="lower", interpolation="nearest", cmap="binary", vmin=0, vmax=1)
    for t in range(T + 1 if T <= 50 else 0):
        ax.axvline(t - 0.5, color="white", lw=2.0)  # the white line separates two steps
    ax.set(xlabel="step", ylabel="neuron")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ticks = _evenly(len(shown), 5)
    ax.set_yticks(ticks.tolist(), [f"{n:,}" for n in shown[ticks].tolist()])
    thinned = f" ({len(shown):,} of {total:,} neurons)" if len(shown) < total else ""
    ax.set_title(f"{title}{thinned}", loc="left", fontsize=10)
    return ax


def traces(
    v: Tensor,
    *,
    labels: Sequence[str] | None = None,
    highlight: int | None = None,
    v_threshold: float | None = None,
    ylabel: str = "v",
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Voltages of one sample, a line for each neuron of ``[T, N]``; ``highlight`` draws one of them bold.

    Another state is drawn the same way: ``ylabel`` is what its axis says, as in ``traces(u, ylabel="u")``.
    """
    values = _values(v, "plot.traces")
    if values.ndim != 2 or values.numel() == 0:
        raise ValueError(
            f"plot.traces: expected the voltages of one sample, [T, N] with T, N > 0, got {list(values.shape)}"
        )
    N = values.shape[1]
    if labels is not None and len(labels) != N:
        raise ValueError(f"plot.traces: expected a label for each of the {N} neurons, got {len(labels)}")
    if highlight is not None and (not isinstance(highlight, int) or not 0 <= highlight < N):
        raise ValueError(f"plot.traces: highlight must be one of the neurons 0 to {N - 1}, got {highlight!r}")
    ax = _axes(ax)
    colours = plt.get_cmap("tab10")
    for n in range(N):
        bold = highlight in (None, n)
        ax.plot(
            values[:, n].numpy(),
            color=colours(n % 10),
            lw=2.0 if bold else 1.0,
            alpha=1.0 if bold else 0.55,
            label=str(n) if labels is None else str(labels[n]),
        )
    if v_threshold is not None:
        ax.axhline(_number(v_threshold, "plot.traces", "v_threshold"), color=_INK, lw=0.8, ls="--")
    ax.set(xlabel="step", ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(title, loc="left", fontsize=10)
    if N <= 12:
        ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def firing_rates(rates: Mapping[str, float], *, ax: Axes | None = None, title: str = "") -> Axes:
    """Firing rates of layers, a bar for each: spikes per neuron and step."""
    if not isinstance(rates, Mapping):
        raise TypeError(f"plot.firing_rates: expected rates by the names of layers, got {_kind(rates)}")
    shares = {str(layer): _number(rate, "plot.firing_rates", layer) for layer, rate in rates.items()}
    if not shares:
        raise ValueError("plot.firing_rates: expected a rate for each of one or more layers, got none")
    wrong = [layer for layer, share in shares.items() if not 0 <= share < math.inf]
    if wrong:
        raise ValueError(
            f"plot.firing_rates: a rate must be finite and not negative, got {shares[wrong[0]]} for {wrong[0]}"
        )
    ax = _axes(ax)
    bars = ax.barh(list(shares), list(shares.values()), color="#3f7fbf")
    ax.bar_label(bars, labels=[f" {100 * r:.1f} %" for r in shares.values()], fontsize=9)
    ax.invert_yaxis()
    ax.set(xlabel="spikes per neuron and step", xlim=(0, max([*shares.values(), 1e-3]) * 1.2))
    ax.set_title(title, loc="left", fontsize=10)
    return ax


def curves(history: Sequence[Mapping[str, float]], *, ax: Axes | None = None) -> Axes:
    """Loss and accuracies over epochs; each row of ``history`` has ``epoch``, ``loss`` and any number of ``*accuracy``.
    Where a row lacks an accuracy, its curve has a gap.
    """
    if not isinstance(history, Sequence) or not all(isinstance(row, Mapping) for row in history):
        raise TypeError(f"plot.curves: expected a list of rows, figures by name, got {_kind(history)}")
    if len(history) == 0:
        raise ValueError("plot.curves: expected a row for each of one or more epochs, got none")
    for number, row in enumerate(history):
        missing = [key for key in ("epoch", "loss") if key not in row]
        if missing:
            raise ValueError(
                f"plot.curves: row {number} has no {missing[0]!r}, it has {', '.join(map(str, row)) or 'nothing'}"
            )
    ax = _axes(ax)

    def course(name: str) -> list[float]:
        return [_number(row.get(name, math.nan), "plot.curves", name) for row in history]

    epochs = course("epoch")
    ax.plot(epochs, course("loss"), color=_INK, label="training loss")
    ax.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    lines = list(ax.get_lines())
    shares = list(dict.fromkeys(key for row in history for key in row if str(key).endswith("accuracy")))
    if shares:
        right = ax.twinx()
        for name in shares:
            right.plot(epochs, [100 * share for share in course(name)], label=name.replace("_", " "))
        right.set(ylabel="accuracy (%)")
        lines += right.get_lines()
    ax.legend(lines, [str(line.get_label()) for line in lines], frameon=False, loc="center right", fontsize=9)
    return ax


def confusion(counts: Tensor, classes: Sequence[str], *, ax: Axes | None = None, title: str = "") -> Axes:
    """Confusion matrix of counts ``[classes, classes]``, drawn as shares of each row, which is one true class."""
    n, values = len(classes), _values(counts, "plot.confusion").double()
    if n == 0 or values.shape != (n, n):
        raise ValueError(f"plot.confusion: expected counts [{n}, {n}] for {n} classes, got {list(values.shape)}")
    if not bool(((values >= 0) & (values == values.floor()) & values.isfinite()).all()):
        raise ValueError(
            "plot.confusion: expected counts, which are whole and not negative; shares are drawn from them"
        )
    ax = figure(width=1.5 + 0.55 * n, height=1.0 + 0.5 * n)[1][0] if ax is None else ax
    shares = values / values.sum(1, keepdim=True).clamp(min=1)
    ax.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    if n <= 30:
        for i, j in values.nonzero().tolist():
            colour = "white" if shares[i, j] > 0.5 else _INK
            ax.text(j, i, f"{int(values[i, j])}", ha="center", va="center", fontsize=8, color=colour)
    names = [str(name) for name in classes]
    ax.set_xticks(range(n), names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=8)
    ax.set_yticks(range(n), names, fontsize=8)
    ax.set(xlabel="predicted", ylabel="true")
    ax.set_title(title, loc="left", fontsize=10)
    return ax


def images(pictures: Tensor, *, columns: int, title: str = "") -> Figure:
    """Images ``[N, H, W]`` from 0 to 1 in rows of ``columns``, on a figure of their own."""
    values = _values(pictures, "plot.images")
    if values.ndim != 3 or values.numel() == 0:
        raise ValueError(f"plot.images: expected images [N, H, W] with N, H, W > 0, got {list(values.shape)}")
    _check_whole("plot.images", columns=columns)
    rows = -(-len(values) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(columns, rows + 0.4), layout="constrained", squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, picture in zip(axes.flat, values, strict=False):
        ax.imshow(picture.numpy(), cmap="gray_r", vmin=0, vmax=1)
    fig.suptitle(title, x=0.01, ha="left", fontsize=10)
    return fig


def events(
    recording: Any, *, kind: Literal["frames", "cloud"] = "frames", panels: int = 5, title: str = ""
) -> list[Axes]:
    """Events of a camera (ON red, OFF blue) or of a sensor in one dimension (a mark for each).

    Args:
        recording: a recording, or anything :func:`spikeloom.data.events.as_recording` takes.
        kind: ``"frames"`` draws ``panels`` equal parts of the time side by side, ``"cloud"`` the events in space and
            time; of more than 20,000 events it draws every n-th, and the title says so.
        panels: number of frames.
    """
    recording = _recording(recording, "plot.events")
    if kind not in ("frames", "cloud"):
        raise ValueError(f'plot.events: kind must be "frames" or "cloud", got {kind!r}')
    _check_whole("plot.events", panels=panels)
    if len(recording.size) == 1:
        return [_channels(recording, title)]
    if kind == "cloud":
        return [_cloud(recording, title)]
    frames = data.to_frames(recording, steps=panels)
    H, W = recording.size
    fig, axes = plt.subplots(
        1, panels, figsize=(2.4 * panels, 2.4 * min(max(H / W, 0.4), 2.5) + 0.5), layout="constrained", squeeze=False
    )
    first, step = (int(recording.events["t"][0]), recording.duration / panels) if len(recording) else (0, 0.0)
    top = _ceiling(frames)
    for k, (ax, frame) in enumerate(zip(axes[0], frames, strict=True)):
        ax.imshow(_colours(frame, top), interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"{(first + k * step) * 1e-6:.3f} s", fontsize=9)
    fig.suptitle(f"{title} {recording}".strip(), x=0.01, ha="left", fontsize=10)
    return list(axes[0])


def animate(recording: Any, *, frames: int = 40, seconds: float = 4.0) -> FuncAnimation:
    """A camera's events as a film of ``frames`` equal parts: ``animate(r).save("film.gif", writer="pillow")``."""
    recording = _recording(recording, "plot.animate")
    recording.need_camera("plot.animate")
    _check_whole("plot.animate", frames=frames)
    if not 0 < _number(seconds, "plot.animate", "seconds") < math.inf:
        raise ValueError(f"plot.animate: seconds must be positive and finite, got {seconds}")
    pictures = data.to_frames(recording, steps=frames)
    top = _ceiling(pictures)
    H, W = recording.size
    fig, ax = plt.subplots(figsize=(4.0, 4.0 * H / W + 0.4), layout="constrained")
    shown = ax.imshow(_colours(pictures[0], top), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    label = ax.set_title("", fontsize=9)
    first = int(recording.events["t"][0]) if len(recording) else 0

    def show(k: int) -> list[Any]:
        shown.set_data(_colours(pictures[k], top))
        label.set_text(f"{(first + k * recording.duration / frames) * 1e-6:.3f} s")
        return [shown, label]

    return FuncAnimation(fig, show, frames=frames, interval=1000 * seconds / frames, blit=False)


def _ceiling(frames: Tensor) -> float:
    """The count from which on a pixel has its full colour: the 99th percentile of pixels with events."""
    counts = frames[frames > 0]
    return float(counts[:: len(counts) // 100_000 + 1].quantile(0.99)) if len(counts) else 1.0


def _colours(frame: Tensor, top: float) -> Any:
    """The colours of a frame, ``[H, W, 3]``: white without events, red for ON, blue for OFF."""
    off, on = (frame / top).clamp(max=1)
    return torch.stack((1 - off, 1 - (on + off).clamp(max=1), 1 - on), -1).numpy()


def _cloud(recording: data.Recording, title: str) -> Axes:
    step = max(len(recording) // 20_000, 1)
    e = recording.events[::step]
    ax: Any = plt.figure(figsize=(7.0, 5.0)).add_subplot(projection="3d")
    colours = [("#2f5fd0", "#d03030")[int(p)] for p in e["p"]]
    ax.scatter(e["t"] * 1e-6, e["x"], e["y"], c=colours, s=1.0, depthshade=False)
    ax.set(xlabel="t (s)", ylabel="x", zlabel="y")
    ax.invert_zaxis()
    thinned = f" (every {step}th)" if step > 1 else ""
    ax.set_title(f"{title} {recording}{thinned}".strip(), loc="left", fontsize=10)
    drawn: Axes = ax
    return drawn


def _channels(recording: data.Recording, title: str) -> Axes:
    ax = figure()[1][0]
    e = recording.events
    ax.scatter(e["t"] * 1e-6, e["x"], s=1.0, c=_INK, linewidths=0)
    ax.set(xlabel="t (s)", ylabel="channel", ylim=(-0.5, recording.size[0] - 0.5))
    ax.set_title(f"{title} {recording}".strip(), loc="left", fontsize=10)
    return ax


def figure(rows: int = 1, *, width: float = 7.0, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """A figure with ``rows`` panels below each other, laid out tightly."""
    _check_whole("plot.figure", rows=rows)
    fig, axes = plt.subplots(rows, 1, figsize=(width, height * rows), layout="constrained", squeeze=False)
    return fig, list(axes[:, 0])


def _axes(ax: Axes | None) -> Axes:
    return figure()[1][0] if ax is None else ax


def _values(x: Any, who: str) -> Tensor:
    """The values of a tensor, an array or a list of numbers: dense, on the CPU, in a dtype that NumPy has."""
    try:
        values = torch.as_tensor(x).detach()
        values = values.unpack() if isinstance(values, SpikeTensor) else values
        values = (values if values.layout == torch.strided else values.to_dense()).cpu()
    except (TypeError, ValueError, RuntimeError) as wrong:
        raise TypeError(f"{who}: expected a tensor with values, got {_kind(x)}: {wrong}") from wrong
    if values.is_complex():
        raise TypeError(f"{who}: expected real numbers, got {values.dtype}; take .abs() or .real of them")
    whole = not values.dtype.is_floating_point and values.dtype != torch.bool
    return values if whole or values.dtype == torch.float64 else values.float()


def _number(x: Any, who: str, name: str) -> float:
    """The float of a number or of a tensor with one element."""
    try:
        return float(x.detach() if isinstance(x, Tensor) else x)
    except (TypeError, ValueError, RuntimeError) as wrong:
        raise TypeError(f"{who}: expected a number for {name!r}, got {_kind(x)}: {wrong}") from wrong


def _recording(x: Any, who: str) -> data.Recording:
    try:
        return data.events.as_recording(x)
    except data.DataError as wrong:
        raise data.DataError(f"{who}: {wrong}") from wrong


def _kind(x: Any) -> str:
    return f"a tensor on {x.device}" if isinstance(x, Tensor) else type(x).__name__


def _check_whole(who: str, **numbers: int) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{who}: {name} must be a whole number of at least 1, got {value!r}")


def _evenly(total: int, most: int) -> Tensor:
    """At most ``most`` of the numbers 0 to ``total - 1``, evenly spread, the first and the last among them."""
    n = min(total, most)
    return torch.arange(n) * (total - 1) // max(n - 1, 1)
