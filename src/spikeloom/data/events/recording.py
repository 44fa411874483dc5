"""Recordings of events: one structured dtype, and the size of the sensor beside it."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError
from . import native

EVENT = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "?")])
"""An event of a camera: time ``t`` in microseconds, column ``x``, row ``y``, and whether the pixel got brighter."""
EVENT_1D = np.dtype([("t", "<i8"), ("x", "<u2"), ("p", "?")])
"""An event of a sensor in one dimension, such as a cochlea: ``x`` is the channel."""
Events = NDArray[np.void]
"""An array of events, whose dtype is ``EVENT`` or ``EVENT_1D``."""
MOST = 1 << 31
"""Numbers of frames, sides of a sensor and indices of recordings must be below this, or they raise."""


@dataclass(frozen=True, eq=False)
class Recording:
    """Events and the sensor that they came from.

    Attributes:
        events: structured array ``[N]`` of ``EVENT`` or ``EVENT_1D``, in the order of the file.
        size: ``(H, W)`` of a camera, ``(channels,)`` of a sensor in one dimension.
        format: the name of the file's format, empty for events that come from elsewhere.
        measured: whether ``size`` is only the extent of the events, because nothing says how large the sensor is.
        skipped: the number of bytes that ``errors="skip"`` left out as damaged or foreign; words of other sensors in
            the same file do not count.

    >>> Recording(as_events({"t": [0, 10], "x": [1, 2], "y": [0, 0], "p": [1, 0]}), (4, 4))
    Recording(2 events, 4 x 4, 10 us)
    """

    events: Events
    size: tuple[int, ...]
    format: str = ""
    measured: bool = False
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.events)

    @property
    def duration(self) -> int:
        """Microseconds from the first to the last event."""
        t = self.events["t"]
        return int(t.max()) - int(t.min()) if len(t) else 0

    @property
    def rate(self) -> float:
        """Events per second; 0 if the duration is 0."""
        return 1e6 * len(self.events) / self.duration if self.duration else 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a frame of the events: ``(2, H, W)`` or ``(channels,)``."""
        return (2, *self.size) if len(self.size) == 2 else self.size

    def between(self, start: float, stop: float) -> Recording:
        """The events with ``start <= t < stop`` microseconds, on the clock of the file."""
        t = self.events["t"]
        return self.keep((t >= start) & (t < stop))

    def keep(self, which: NDArray[Any] | slice) -> Recording:
        """The recording with the events that a mask, indices or a slice choose."""
        return replace(self, events=self.events[which])

    def pixels(self) -> NDArray[np.int64]:
        """The pixel of each event, counted row by row; the channel in one dimension."""
        x: NDArray[np.int64] = self.events["x"].astype(np.int64)
        return x if len(self.size) == 1 else self.events["y"].astype(np.int64) * self.size[1] + x

    def need_camera(self, who: str) -> None:
        """Raises unless the events have x and y."""
        if len(self.size) != 2:
            raise ValueError(f"{who}: needs the events of a camera, with x and y; this sensor has {self.size}")

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.size))
        where = f"{size} channels" if len(self.size) == 1 else size
        return f"Recording({len(self):,} events, {where}, {self.duration:,} us)"


def make_events(t: ArrayLike, x: ArrayLike, y: ArrayLike | None, p: ArrayLike) -> Events:
    """A structured array from columns; ``y=None`` makes events of a sensor in one dimension.

    >>> import spikeloom as sl
    >>> events = sl.data.events.make_events(t=[0, 10], x=[1, 2], y=[0, 3], p=[1, 0])
    >>> events[1].tolist()
    (10, 2, 3, False)
    """
    t = np.asarray(t)
    events = np.empty(t.shape, EVENT_1D if y is None else EVENT)
    events["t"], events["x"], events["p"] = t, x, np.asarray(p).astype(bool, copy=False)
    if y is not None:
        events["y"] = y
    return events


def as_events(source: Any) -> Events:
    """Events in this package's dtype, from anything that has their columns by name: a :class:`Recording`, a structured
    array (tonic's too, in any order and width), a dictionary of arrays. An array of the right dtype is not copied.

    ``p`` is ON where it is above 0, so that -1 and 0 are both OFF; without it every event is ON. Times that are not
    whole, or numbers that do not fit, raise :class:`DataError`.

    >>> import spikeloom as sl
    >>> events = sl.data.events.as_events({"t": [5, 7], "x": [1, 2], "y": [0, 3], "p": [1, -1]})
    >>> events["p"].tolist(), events["y"].tolist()
    ([True, False], [0, 3])
    """
    if isinstance(source, Recording):
        return source.events
    if isinstance(source, np.ndarray) and source.dtype in (EVENT, EVENT_1D):
        return source
    names = _names(source)
    if not {"t", "x"} <= set(names):
        raise DataError(
            f"events need columns t and x (y and p if the sensor has them), got {', '.join(names) or type(source)}"
        )
    columns = {name: _whole(np.asarray(source[name]), name) for name in ("t", "x", "y") if name in names}
    lengths = {name: len(column) for name, column in columns.items()}
    p = _polarity(np.asarray(source["p"])) if "p" in names else np.ones(len(columns["t"]), bool)
    if len({*lengths.values(), len(p)}) != 1:
        raise DataError(f"events: columns of different lengths: {lengths}, p {len(p)}")
    return make_events(columns["t"], columns["x"], columns.get("y"), p)


def as_recording(source: Any, size: tuple[int, ...] | None = None) -> Recording:
    """A :class:`Recording`; its size is ``size``, or the extent of the events. Events outside a given size raise.

    >>> import spikeloom as sl
    >>> events = {"t": [0, 30], "x": [1, 2], "y": [0, 3], "p": [1, 0]}
    >>> sl.data.events.as_recording(events, (128, 128))
    Recording(2 events, 128 x 128, 30 us)
    >>> sl.data.events.as_recording(events).size  # no larger than the events need
    (4, 3)
    """
    if isinstance(source, Recording) and size in (None, source.size):
        return source
    events = as_events(source)
    if size is None:
        return Recording(events, extent(events), measured=True)
    check_size(events, size, "events")
    return Recording(events, tuple(size))


def extent(events: Events) -> tuple[int, ...]:
    """The smallest size that holds all events; each side is 1 if there are none."""
    camera = "y" in (events.dtype.names or ())
    found = native.top(events) if events.dtype in (EVENT, EVENT_1D) else None
    if found is None:
        found = (int(events["x"].max()), int(events["y"].max()) if camera else 0) if len(events) else (0, 0)
    x, y = (max(side, 0) + 1 for side in found)
    return (y, x) if camera else (x,)


def whole_number(value: Any, what: str, *, least: int = 1) -> int:
    """The value as an int; raises unless it is an integer of any library from ``least`` up. 4.0 and True raise."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number < MOST:
        raise ValueError(
            f"{what} must be {'positive and ' if least else ''}whole, got {value!r}; give an int such as 16"
        )
    return number


def positive_number(value: Any, what: str) -> float:
    """The value as a number; raises unless it is finite and above 0."""
    if isinstance(value, (bool, str)) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"{what} must be positive, got {value!r}")
    return int(value) if value == int(value) else float(value)


def sides(size: Any, where: str) -> tuple[int, ...]:
    """A sensor's size as a tuple; anything but one or two whole numbers from 1 on raises."""
    found = tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else ()
    whole = all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and 0 < n < MOST for n in found)
    if not whole or len(found) not in (1, 2):
        raise DataError(f"{where}: a size must be (H, W) or (channels,), of positive whole numbers, got {size!r}")
    return tuple(int(n) for n in found)


def check_size(events: Events, size: tuple[int, ...], where: str) -> None:
    """Raises where an event lies outside the sensor."""
    dims = ("y", "x") if "y" in (events.dtype.names or ()) else ("x",)
    size = sides(size, where)
    if len(size) != len(dims):
        raise DataError(f"{where}: a size of {len(dims)} positive numbers is needed for these events, got {size}")
    if all(have <= n for have, n in zip(extent(events), size, strict=True)):
        return
    for name, n in zip(dims, size, strict=True):
        outside = events[name] >= n
        if outside.any():
            i = int(outside.argmax())
            raise DataError(
                f"{where}: event {i:,} of {len(events):,} has {name} = {int(events[name][i])}, outside 0 to {n - 1}; "
                f"the size given is {size}"
            )


def _names(source: Any) -> list[str]:
    if isinstance(source, Mapping):
        return [str(name) for name in source]
    return list(getattr(getattr(source, "dtype", None), "names", None) or ())


def _polarity(values: NDArray[Any]) -> NDArray[np.bool_]:
    """A mask of the events that are ON."""
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise DataError(f"events: column p must be numbers or booleans [N], got {values.dtype} {list(values.shape)}")
    if values.dtype.kind == "b":
        values = values.view(np.uint8)  # in a file the byte of a boolean may be neither 0 nor 1
    elif not np.isfinite(values).all():
        i = int(np.isfinite(values).argmin())
        raise DataError(f"events: p[{i}] = {values[i]} is no polarity")
    on: NDArray[np.bool_] = values > 0
    return on


def _whole(values: NDArray[Any], name: str) -> NDArray[Any]:
    """The values, if all are whole numbers that fit the column; else it raises."""
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise DataError(f"events: column {name} must be numbers [N], got {values.dtype} {list(values.shape)}")
    if not len(values):
        return values.astype(np.int64)
    low, high = (-(2**63), 2**63 - 1) if name == "t" else (0, 2**16 - 1)
    with np.errstate(invalid="ignore"):  # NaN differs from its floor, so that it counts as wrong
        wrong = (values < low) | (values > high)
        if values.dtype.kind == "f":
            wrong |= values != np.floor(values)
    if wrong.any():
        i = int(wrong.argmax())
        hint = "; times are whole microseconds" if name == "t" else ""
        raise DataError(f"events: {name}[{i}] = {values[i]} does not fit a column of whole numbers{hint}")
    return values
