"""Pictures of events."""

from __future__ import annotations

from typing import Any, Literal

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from torch import Tensor

from .. import data
from .given import check_whole, recording_of, thinned
from .look import BLUE, INK, RED, figure, styled


@styled
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
    recording = recording_of(recording, "plot.events")
    if kind not in ("frames", "cloud"):
        raise ValueError(f'plot.events: kind must be "frames" or "cloud", got {kind!r}')
    check_whole("plot.events", panels=panels)
    if len(recording.size) == 1:
        return [_channels(recording, title)]
    if kind == "cloud":
        return [_cloud(recording, title)]
    frames = data.to_frames(recording, steps=panels)
    H, W = recording.size
    fig, axes = plt.subplots(
        1, panels, figsize=(2.4 * panels, 2.4 * min(max(H / W, 0.4), 2.5) + 0.5), layout="constrained", squeeze=False
    )
    first, step = start(recording), recording.duration / panels
    top = ceiling(frames)
    for k, (ax, frame) in enumerate(zip(axes[0], frames, strict=True)):
        ax.imshow(on_off(frame, top), interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(True)
        ax.set_title(f"{(first + k * step) * 1e-6:.3f} s")
    fig.suptitle(_caption(title, recording), x=0.01, ha="left")
    return list(axes[0])


def _caption(title: str, recording: data.Recording) -> str:
    """The title, and how much there is of a recording."""
    size = " x ".join(map(str, recording.size)) + (" pixels" if len(recording.size) == 2 else " channels")
    facts = f"{len(recording):,} events, {size}, {recording.duration * 1e-6:.3g} s"
    return f"{title}: {facts}" if title else facts


def start(recording: data.Recording) -> int:
    """The time of the first event, in microseconds; 0 without events."""
    return int(recording.events["t"][0]) if len(recording) else 0


def ceiling(frames: Tensor) -> float:
    """The count from which on a pixel has its full colour: the 99th percentile of pixels with events."""
    counts = frames[frames > 0]
    return float(counts[:: len(counts) // 100_000 + 1].double().quantile(0.99)) if len(counts) else 1.0


def on_off(frame: Tensor, top: float) -> Any:
    """The colours of a frame ``[2, H, W]``, ``[H, W, 3]``: white without events, towards red for ON, blue for OFF."""
    off, on = (frame / top).clamp(0, 1).unsqueeze(-1)
    red, blue = (1 - torch.tensor(to_rgb(colour), dtype=on.dtype) for colour in (RED, BLUE))
    return (1 - on * red - off * blue).clamp(0, 1).numpy()


def _cloud(recording: data.Recording, title: str) -> Axes:
    step = max(len(recording) // 20_000, 1)
    e = recording.events[::step]
    fig = plt.figure(figsize=(7.5, 4.2), layout="constrained")
    ax: Any = fig.add_subplot(projection="3d")
    colours = [(BLUE, RED)[int(p)] for p in e["p"]]
    ax.scatter(e["t"] * 1e-6, e["x"], e["y"], c=colours, s=1.0, depthshade=False)
    ax.set(xlabel="t (s)", ylabel="x", zlabel="y")
    ax.set_box_aspect((2.0, 1.0, 1.0), zoom=1.2)
    ax.invert_zaxis()
    fig.suptitle(thinned(_caption(title, recording), len(e), len(recording), "drawn"), x=0.01, ha="left")
    drawn: Axes = ax
    return drawn


def _channels(recording: data.Recording, title: str) -> Axes:
    ax = figure()[1][0]
    e = recording.events
    ax.scatter(e["t"] * 1e-6, e["x"], s=1.0, c=INK, linewidths=0)
    ax.set(xlabel="t (s)", ylabel="channel", ylim=(-0.5, recording.size[0] - 0.5))
    ax.set_title(_caption(title, recording))
    return ax
