"""Filters that remove a sensor's noise from recordings. They are used like augmentations, but draw nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .recording import Recording


@dataclass(frozen=True)
class Refractory:
    """Loses events that come less than ``time`` microseconds after the last event kept at the same pixel.

    >>> import spikeloom as sl
    >>> recording = sl.data.events.as_recording({"t": [0, 50, 120, 130], "x": [0, 0, 0, 1], "y": [0, 0, 0, 0]}, (1, 2))
    >>> sl.data.events.Refractory(100)(recording).events["t"].tolist()
    [0, 120, 130]
    """

    time: float

    def __call__(self, recording: Recording) -> Recording:
        n = len(recording)
        if not n:
            return recording
        pixel, t = recording.pixels(), recording.events["t"]
        order = np.lexsort((t, pixel))
        pixel, t = pixel[order], t[order]
        span = int(t.max() - t.min()) + 1 + int(np.ceil(self.time))
        key = pixel * span + (t - t.min())  # one axis for all pixels, whose times are too far apart to meet
        following = np.searchsorted(key, key + self.time, side="left")
        following = np.maximum(following, np.arange(1, n + 1))
        ends = np.searchsorted(pixel, pixel, side="right")
        keep = np.zeros(n, bool)
        # This begins at the first event of every pixel; then all pixels advance together.
        at = np.flatnonzero(np.r_[True, pixel[1:] != pixel[:-1]])
        while len(at):
            keep[at] = True
            nxt = following[at]
            at = nxt[nxt < ends[at]]
        return recording.keep(np.sort(order[keep]))


@dataclass(frozen=True)
class HotPixels:
    """Loses the events of pixels that fire more than ``rate`` times a second. None takes the mean rate of the pixels
    that fire at all plus five standard deviations."""

    rate: float | None = None

    def __call__(self, recording: Recording) -> Recording:
        if not recording.duration:
            return recording
        pixel = recording.pixels()
        counts = np.bincount(pixel)
        active = counts[counts > 0]
        limit = active.mean() + 5 * active.std() if self.rate is None else self.rate * recording.duration * 1e-6
        return recording.keep(counts[pixel] <= limit)


@dataclass(frozen=True)
class Background:
    """Loses each event for which none of the eight neighbouring pixels had one in the ``time`` microseconds up to it
    (T. Delbruck, 2008)."""

    time: float

    def __call__(self, recording: Recording) -> Recording:
        recording.need_camera("Background")
        if not len(recording):
            return recording
        e = recording.events
        W = recording.size[1]
        t = e["t"] - e["t"].min()
        span = int(t.max()) + 1 + int(np.ceil(self.time))
        x, y = e["x"].astype(np.int64) + 1, e["y"].astype(np.int64) + 1  # + 1 leaves a silent border around the sensor
        pixel = y * (W + 2) + x
        keys = np.sort(pixel * span + t)
        supported = np.zeros(len(e), bool)
        for shift in (-W - 3, -W - 2, -W - 1, -1, 1, W + 1, W + 2, W + 3):
            left = np.flatnonzero(~supported)
            wanted = (pixel[left] + shift) * span + t[left]
            last = np.searchsorted(keys, wanted, side="right") - 1
            supported[left] = (last >= 0) & (
                keys[np.maximum(last, 0)] >= np.maximum(wanted - self.time, wanted - t[left])
            )
        return recording.keep(supported)
