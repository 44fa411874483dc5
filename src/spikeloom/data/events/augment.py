"""Augmentations of recordings: objects that take a :class:`Recording` and return another one.

Compose them with :class:`Compose`. The random ones draw from torch's default generator, which the loaders seed for each
sample by (seed, epoch, sample). Times stay whole microseconds, the events keep their order, sizes are kept unless a
transform says otherwise, and what falls off the sensor is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from .recording import Events, Recording, make_events

EventTransform = Callable[[Recording], Recording]
"""A function from a recording to a recording, as all augmentations and filters of events are."""
Axis = Literal["x", "y", "t", "p"]


@dataclass(frozen=True)
class Compose:
    """Applies one transform after the other."""

    transforms: Sequence[EventTransform]

    def __call__(self, recording: Recording) -> Recording:
        for transform in self.transforms:
            recording = transform(recording)
        return recording


@dataclass(frozen=True)
class Flip:
    """Mirrors columns (``"x"``), rows (``"y"``), time (``"t"``; the polarities turn with it) or polarities (``"p"``)
    with probability ``p``."""

    axis: Axis = "x"
    p: float = 0.5

    def __post_init__(self) -> None:
        _share("Flip", p=self.p)
        if self.axis not in ("x", "y", "t", "p"):
            raise ValueError(f"Flip: axis must be x, y, t or p, got {self.axis!r}")

    def __call__(self, recording: Recording) -> Recording:
        if _uniform() >= self.p or not len(recording):
            return recording
        events = recording.events.copy()
        if self.axis == "x":
            events["x"] = recording.size[-1] - 1 - events["x"]
        elif self.axis == "y":
            recording.need_camera("Flip")
            events["y"] = recording.size[0] - 1 - events["y"]
        elif self.axis == "t":
            events["t"] = events["t"].min() + events["t"].max() - events["t"]
            events["p"] = ~events["p"]
            events = events[::-1]
        else:
            events["p"] = ~events["p"]
        return replace(recording, events=events)


@dataclass(frozen=True)
class Roll:
    """Shifts by up to ``pixels`` in each direction; what leaves on one side is lost."""

    pixels: int

    def __call__(self, recording: Recording) -> Recording:
        shifts = torch.randint(-self.pixels, self.pixels + 1, (len(recording.size),)).tolist()
        return _shifted(recording, *shifts)


@dataclass(frozen=True)
class Crop:
    """Keeps a window of ``size`` (H, W), a random one or the middle one; it becomes the size of the sensor.

    >>> import spikeloom as sl
    >>> events = {"t": [0, 5], "x": [0, 2], "y": [0, 1], "p": [1, 1]}
    >>> recording = sl.data.events.as_recording(events, (4, 4))
    >>> cut = sl.data.events.Crop((2, 2), where="centre")(recording)  # rows and columns 1 and 2
    >>> cut.size, cut.events["x"].tolist(), cut.events["y"].tolist()
    ((2, 2), [1], [0])
    """

    size: tuple[int, int]
    where: Literal["random", "centre"] = "random"

    def __call__(self, recording: Recording) -> Recording:
        recording.need_camera("Crop")
        room = [have - want for have, want in zip(recording.size, self.size, strict=True)]
        if min(room) < 0:
            raise ValueError(f"Crop: {self.size} does not fit into the sensor of {recording.size}")
        if self.where == "centre":
            top, left = (r // 2 for r in room)
        else:
            top, left = (int(torch.randint(r + 1, ())) for r in room)
        e = recording.events
        x, y = e["x"].astype(np.int64) - left, e["y"].astype(np.int64) - top
        inside = (x >= 0) & (x < self.size[1]) & (y >= 0) & (y < self.size[0])
        cut = make_events(e["t"][inside], x[inside], y[inside], e["p"][inside])
        return replace(recording, events=cut, size=self.size)


@dataclass(frozen=True)
class Resize:
    """Scales the sensor to ``size`` (H, W); events of pixels that fall together are all kept.

    >>> import spikeloom as sl
    >>> recording = sl.data.events.as_recording({"t": [0, 5, 9], "x": [0, 1, 3], "y": [0, 3, 2]}, (4, 4))
    >>> small = sl.data.events.Resize((2, 2))(recording)
    >>> small.events["x"].tolist(), small.events["y"].tolist()
    ([0, 0, 1], [0, 1, 1])
    """

    size: tuple[int, int]

    def __call__(self, recording: Recording) -> Recording:
        recording.need_camera("Resize")
        events = recording.events.copy()
        for name, have, want in zip(("y", "x"), recording.size, self.size, strict=True):
            events[name] = events[name].astype(np.int64) * want // have
        return replace(recording, events=events, size=self.size)


@dataclass(frozen=True)
class CropTime:
    """Keeps the events of the first ``duration`` microseconds, or of a random window of that length.

    >>> import spikeloom as sl
    >>> recording = sl.data.events.as_recording({"t": [100, 150, 199, 200], "x": [0, 1, 2, 3], "y": [0] * 4}, (1, 4))
    >>> sl.data.events.CropTime(100, where="start")(recording).events["t"].tolist()
    [100, 150, 199]
    """

    duration: float
    where: Literal["random", "start"] = "random"

    def __call__(self, recording: Recording) -> Recording:
        if not len(recording):
            return recording
        first = float(recording.events["t"].min())
        room = max(recording.duration + 1 - self.duration, 0.0)
        start = first + (_uniform() * room if self.where == "random" else 0.0)
        return recording.between(start, start + self.duration)


@dataclass(frozen=True)
class Drop:
    """Loses each event with probability ``p``; with ``up_to`` each recording draws it between 0 and ``p``."""

    p: float
    up_to: bool = False

    def __post_init__(self) -> None:
        _share("Drop", p=self.p)

    def __call__(self, recording: Recording) -> Recording:
        p = self.p * _uniform() if self.up_to else self.p
        return recording.keep(torch.rand(len(recording)).numpy() >= p)


@dataclass(frozen=True)
class DropTime:
    """Loses the events of one random window of ``share`` of the recording's time (F. Gu et al., 2021, EventDrop).

    >>> import numpy as np
    >>> import spikeloom as sl
    >>> t = np.arange(101)
    >>> recording = sl.data.events.as_recording({"t": t, "x": 0 * t, "y": 0 * t}, (1, 1))  # an event each microsecond
    >>> left = sl.data.events.DropTime(0.5)(recording)
    >>> len(recording) - len(left)
    50
    """

    share: float

    def __post_init__(self) -> None:
        _share("DropTime", share=self.share)

    def __call__(self, recording: Recording) -> Recording:
        if not len(recording):
            return recording
        t = recording.events["t"]
        length = self.share * recording.duration
        start = t.min() + _uniform() * (recording.duration - length)
        return recording.keep((t < start) | (t > start + length))


@dataclass(frozen=True)
class DropArea:
    """Loses the events of one random rectangle that has ``share`` of each side of the sensor (EventDrop)."""

    share: float

    def __post_init__(self) -> None:
        _share("DropArea", share=self.share)

    def __call__(self, recording: Recording) -> Recording:
        recording.need_camera("DropArea")
        inside = np.ones(len(recording), bool)
        for name, side in zip(("y", "x"), recording.size, strict=True):
            length = round(self.share * side)
            start = int(torch.randint(side - length + 1, ()))
            inside &= (recording.events[name] >= start) & (recording.events[name] < start + length)
        return recording.keep(~inside)


@dataclass(frozen=True)
class Jitter:
    """Adds normal noise to times and places, with standard deviations of ``time`` microseconds and ``space`` pixels.
    After noise in time the events are sorted again; those that leave the sensor, or come before time 0, are lost."""

    time: float = 0.0
    space: float = 0.0

    def __call__(self, recording: Recording) -> Recording:
        events, n = recording.events.copy(), len(recording)
        keep = np.ones(n, bool)
        if self.space:
            for name, side in zip(("y", "x")[-len(recording.size) :], recording.size, strict=True):
                moved = events[name] + np.rint(self.space * torch.randn(n).numpy()).astype(np.int64)
                keep &= (moved >= 0) & (moved < side)
                events[name] = np.clip(moved, 0, side - 1)
        if self.time:
            events["t"] += np.rint(self.time * torch.randn(n, dtype=torch.float64).numpy()).astype(np.int64)
            keep &= (events["t"] >= 0) | (recording.events["t"] < 0)
        events = events[keep]
        return replace(recording, events=_in_order(events) if self.time else events)


@dataclass(frozen=True)
class Noise:
    """Adds ``rate`` events per second and pixel, uniform in time, place and polarity."""

    rate: float

    def __call__(self, recording: Recording) -> Recording:
        if not len(recording):
            return recording
        pixels = int(np.prod(recording.size))
        n = int(torch.poisson(torch.tensor(self.rate * pixels * recording.duration * 1e-6, dtype=torch.float64)))
        place = torch.randint(pixels, (n,)).numpy()
        t = recording.events["t"].min() + torch.randint(recording.duration + 1, (n,)).numpy()
        p = torch.randint(2, (n,)).numpy()
        W = recording.size[-1]
        new = make_events(t, place % W, place // W if len(recording.size) == 2 else None, p)
        return replace(recording, events=_in_order(np.concatenate((recording.events, new))))


@dataclass(frozen=True)
class NDA:
    """Mirrors with probability 1/2, then rolls, turns, cuts a square out or shears, each up to a limit (Y. Li et al.,
    2022, "Neuromorphic data augmentation for training spiking neural networks").

    Args:
        roll, turn, cut, shear: the limits, in pixels, degrees, pixels a side, and columns per row.

    >>> import torch
    >>> import spikeloom as sl
    >>> _ = torch.manual_seed(0)
    >>> recording = sl.data.events.as_recording({"t": [0], "x": [16], "y": [16]}, (33, 33))  # an event in the middle
    >>> augment = sl.data.events.NDA(roll=2)
    >>> max(abs(int(x) - 16) for _ in range(100) for x in augment(recording).events["x"])  # no turn or shear moves it
    2
    """

    roll: int = 5
    turn: float = 15.0
    cut: int = 8
    shear: float = 0.15

    def __call__(self, recording: Recording) -> Recording:
        recording.need_camera("NDA")
        recording = Flip("x")(recording)
        kind, strength = int(torch.randint(4, ())), 2 * _uniform() - 1
        if kind == 0:
            return Roll(self.roll)(recording)
        if kind == 1:
            angle = np.deg2rad(self.turn * strength)
            return _mapped(recording, np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]))
        if kind == 2:
            side = int(torch.randint(1, self.cut + 1, ()))
            y, x = (int(torch.randint(n, ())) for n in recording.size)
            e = recording.events
            inside = (np.abs(e["y"] - float(y)) <= side / 2) & (np.abs(e["x"] - float(x)) <= side / 2)
            return recording.keep(~inside)
        return _mapped(recording, np.array([[1.0, self.shear * strength], [0.0, 1.0]]))


def event_mix(a: Recording, b: Recording, *, beta: float = 1.0) -> tuple[Recording, float]:
    """Events of ``a`` outside and of ``b`` inside a random box in time and space, and the share of the result that
    comes from ``a``, which is the weight of its label.

    The volume of the box is drawn from Beta(beta, beta), its place uniformly. (G. Shen et al., 2023, "EventMix", draw
    masks of mixed Gaussians; the box is simpler.) Both recordings are shifted to begin at time 0. Their sizes must
    agree.

    >>> import numpy as np
    >>> import spikeloom as sl
    >>> t = np.arange(64)
    >>> a, b = ({"t": t, "x": t % 8, "y": t // 8, "p": 0 * t + p} for p in (1, 0))  # all ON, all OFF
    >>> on, off = (sl.data.events.as_recording(events, (8, 8)) for events in (a, b))
    >>> mixed, share = sl.data.events.event_mix(on, off)
    >>> bool(share == mixed.events["p"].mean())
    True
    """
    if a.size != b.size:
        raise ValueError(f"event_mix: recordings of one sensor size are needed, got {a.size} and {b.size}")
    volume = float(torch.distributions.Beta(beta, beta).sample())
    dims = len(a.size) + 1
    span = max(a.duration, b.duration) + 1
    side = volume ** (1 / dims)
    box = []
    for n in (span, *a.size):
        start = _uniform() * n * (1 - side)
        box.append((start, start + n * side))

    def inside(recording: Recording) -> tuple[Events, NDArray[np.bool_]]:
        events = recording.events.copy()
        if len(events):
            events["t"] -= events["t"].min()
        mask = np.ones(len(events), bool)
        for name, (low, high) in zip(("t", "y", "x") if dims == 3 else ("t", "x"), box, strict=True):
            mask &= (events[name] >= low) & (events[name] < high)
        return events, mask

    (events_a, in_a), (events_b, in_b) = inside(a), inside(b)
    kept_a, kept_b = events_a[~in_a], events_b[in_b]
    total = len(kept_a) + len(kept_b)
    mixed = _in_order(np.concatenate((kept_a, kept_b)))
    return replace(a, events=mixed), len(kept_a) / total if total else 1.0


def cut_mix(
    frames: torch.Tensor, labels: torch.Tensor, *, beta: float = 1.0, batch_first: bool = True
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A batch of frames ``[B, *, H, W]`` in which a random rectangle of each sample comes from another one, the labels
    of these others, and the share of a sample that is still its own (S. Yun et al., 2019, arXiv:1905.04899). With
    ``batch_first=False`` frames are ``[T, B, *, H, W]``.

    The loss is ``share * loss(y, labels) + (1 - share) * loss(y, others)``.

    >>> import torch
    >>> import spikeloom as sl
    >>> frames = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    >>> mixed, others, share = sl.data.events.cut_mix(frames, torch.tensor([0, 1]))
    >>> torch.allclose(mixed.mean((1, 2, 3)), share * torch.tensor([0, 1]) + (1 - share) * others)
    True
    """
    if not batch_first:
        mixed, others, share = cut_mix(frames.transpose(0, 1), labels, beta=beta)
        return mixed.transpose(0, 1), others, share
    if len(frames) != len(labels):
        raise ValueError(
            f"cut_mix: expected frames [B, *, H, W] for {len(labels)} labels, got {list(frames.shape)}; "
            "batch_first=False takes [T, B, *, H, W]"
        )
    H, W = frames.shape[-2:]
    other = torch.randperm(len(frames))
    side = (1 - float(torch.distributions.Beta(beta, beta).sample())) ** 0.5
    y, x = int(torch.randint(H, ())), int(torch.randint(W, ()))
    h, w = round(H * side / 2), round(W * side / 2)
    top, bottom, left, right = max(y - h, 0), min(y + h, H), max(x - w, 0), min(x + w, W)
    mixed = frames.clone()
    mixed[..., top:bottom, left:right] = frames[other][..., top:bottom, left:right]
    return mixed, labels[other], 1.0 - (bottom - top) * (right - left) / (H * W)


def _mapped(recording: Recording, matrix: NDArray[Any]) -> Recording:
    """Moves events by a matrix on their places (x, y) from the middle of the sensor, to the nearest pixel."""
    H, W = recording.size
    e = recording.events
    middle = np.array([[(W - 1) / 2], [(H - 1) / 2]])
    places = np.rint(matrix @ (np.stack((e["x"], e["y"])).astype(np.float64) - middle) + middle).astype(np.int64)
    return _placed(recording, places[1], places[0])


def _shifted(recording: Recording, *shifts: int) -> Recording:
    e = recording.events
    y = e["y"].astype(np.int64) + shifts[0] if len(shifts) == 2 else None
    return _placed(recording, y, e["x"].astype(np.int64) + shifts[-1])


def _placed(recording: Recording, y: NDArray[np.int64] | None, x: NDArray[np.int64]) -> Recording:
    """The events at new places, without those that leave the sensor."""
    keep = (x >= 0) & (x < recording.size[-1])
    if y is not None:
        keep &= (y >= 0) & (y < recording.size[0])
    e = recording.events
    return replace(recording, events=make_events(e["t"][keep], x[keep], None if y is None else y[keep], e["p"][keep]))


def _in_order(events: Events) -> Events:
    return events[np.argsort(events["t"], kind="stable")]


def _share(where: str, **values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{where}: {name} must be from 0 to 1, got {value}")


def _uniform() -> float:
    return float(torch.rand((), dtype=torch.float64))
