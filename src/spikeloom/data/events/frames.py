"""Events as tensors: frames of counts, voxel grids, time surfaces, sparse tensors."""

from __future__ import annotations

import bisect
import math
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...native.call import call
from . import native
from .recording import EVENT, EVENT_1D, MOST, Events, Recording, as_recording, check_size, positive_number, whole_number

By = Literal["time", "count"]
Values = Literal["count", "binary", "one-hot"]


def to_frames(
    events: Any,
    *,
    steps: int | None = None,
    duration: float | None = None,
    count: int | None = None,
    by: By = "time",
    size: tuple[int, ...] | None = None,
    values: Values = "count",
) -> Tensor:
    """Events summed up in frames ``[T, 2, H, W]``, channel 0 OFF and 1 ON, or ``[T, channels]`` in one dimension;
    ``float32``. One of ``steps``, ``duration`` and ``count`` says how time is cut:

    - ``steps=T, by="time"``: with ``dt = floor((t_last - t_first) / T)`` (not rounded in one dimension), frame ``k``
      holds ``t_first + k dt <= t < t_first + (k + 1) dt``; the last one holds all the rest.
    - ``steps=T, by="count"``: ``floor(N / T)`` events each; the last one holds the rest too.
    - ``duration=D``, in microseconds: frame ``k`` holds ``k D <= t - t_first < (k + 1) D``. There are
      ``ceil((t_last - t_first) / D)`` of them, at least one, and the last holds an event at its very end too.
    - ``count=n`` events each, ``floor(N / n)`` frames, at least one; the last one holds the rest too.

    These are SpikingJelly's rules (``split_by`` time or number, fixed duration), so that figures in papers carry over.
    A frame without events is zero everywhere. If events are out of order, a frame holds all events from the first to
    the last one that lies in its time, as in SpikingJelly.

    Args:
        events: a :class:`Recording`, or what :func:`as_events` takes.
        size: the size of the sensor, if ``events`` do not say it.
        values: ``"count"``, the number of events; ``"binary"``, 1 where there is any; ``"one-hot"``, 1 in the channel
            of the pixel's last event alone.

    >>> from spikeloom.data import to_frames
    >>> events = {"t": [0, 10, 20, 31], "x": [0, 1, 1, 0], "y": [0, 0, 0, 0], "p": [1, 0, 1, 1]}
    >>> to_frames(events, steps=2, size=(1, 2)).tolist()
    [[[[0.0, 1.0]], [[1.0, 0.0]]], [[[0.0, 0.0]], [[1.0, 1.0]]]]
    """
    recording = as_recording(events, size)
    edges = segments(recording, steps=steps, duration=duration, count=count, by=by)
    if values not in ("count", "binary", "one-hot"):
        raise ValueError(f'to_frames: values must be "count", "binary" or "one-hot", got {values!r}')
    if values == "one-hot":
        return _last(recording, edges)
    frames = _count(recording, edges)
    return frames.clamp_(max=1) if values == "binary" else frames


def segments(
    recording: Recording,
    *,
    steps: int | None = None,
    duration: float | None = None,
    count: int | None = None,
    by: By = "time",
) -> NDArray[np.int64]:
    """The indices of events at which frames begin and end, ``[T, 2]``; see :func:`to_frames`.

    >>> import spikeloom as sl
    >>> recording = sl.data.events.as_recording({"t": [0, 10, 20, 90, 100], "x": [0] * 5, "y": [0] * 5}, (1, 1))
    >>> sl.data.events.segments(recording, steps=2).tolist()  # events 0 to 2 in the first half, 3 and 4 in the second
    [[0, 3], [3, 5]]
    >>> sl.data.events.segments(recording, count=2).tolist()
    [[0, 2], [2, 5]]
    """
    given = {n: v for n, v in (("steps", steps), ("duration", duration), ("count", count)) if v is not None}
    if len(given) != 1:
        raise ValueError(f"to_frames: give one of steps, duration and count, got {given or 'none of them'}")
    ((name, value),) = given.items()
    if name == "duration":
        duration = positive_number(value, "to_frames: duration")
    else:
        whole = whole_number(value, f"to_frames: {name}")
        steps, count = (whole, None) if name == "steps" else (None, whole)
    if by not in ("time", "count"):
        raise ValueError(f'to_frames: by must be "time" or "count", got {by!r}')
    n = len(recording)
    if count is not None or (steps is not None and by == "count"):
        T = steps if steps is not None else max(n // whole, 1)
        edges = np.arange(T + 1, dtype=np.int64) * (n // T if steps is not None else whole)
    else:
        T, edges = _by_time(recording, steps, duration)
        if edges.ndim == 2:
            return edges
    edges[T] = n
    return np.stack((edges[:-1], edges[1:]), 1)


def _by_time(recording: Recording, steps: int | None, duration: float | None) -> tuple[int, NDArray[np.int64]]:
    """The number of frames, and their edges or, for events out of order, their first and last events."""
    events, n = recording.events, len(recording)
    t = events["t"]
    if n == 0:
        T = steps or 1
        return T, np.zeros(T + 1, np.int64)
    ordered = _ascending(events) == n
    first, last = (int(t[0]), int(t[-1])) if ordered or steps else (int(t.min()), int(t[-1]))
    if duration is not None:
        if (last - first) / duration >= MOST:
            raise ValueError(f"to_frames: duration={duration} makes more than {MOST:,} frames of {last - first:,} us")
        T = max(math.ceil((last - first) / duration), 1)
        bins = t if ordered else (t - first) // duration
        edges = [_bisect(bins, first + duration * k if ordered else k) for k in range(T + 1)]
        return T, np.array(edges, np.int64)
    assert steps is not None
    span = last - first
    dt = span // steps if len(recording.size) == 2 else span / steps
    if ordered:
        return steps, np.array([_bisect(t, first + dt * k) for k in range(steps + 1)], np.int64)
    return steps, _runs(t, first, dt, steps)


def _bisect(t: Any, value: float) -> int:
    """The first index whose time is not before ``value``, found without a copy of the events."""
    return bisect.bisect_left(t, value)


def _runs(t: NDArray[np.int64], first: int, dt: float, steps: int) -> NDArray[np.int64]:
    """The first and the last event that lie in the time of each frame, for events out of order."""
    n = len(t)
    bins: NDArray[np.int64] = np.full(n, steps)
    if dt:
        bins = np.clip((t - first) // dt, -1, steps).astype(np.int64)
    edges = np.zeros((steps, 2), np.int64)
    inside = np.flatnonzero((bins >= 0) & (bins < steps))
    begin, end = np.full(steps, n, np.int64), np.zeros(steps, np.int64)
    np.minimum.at(begin, bins[inside], inside)
    np.maximum.at(end, bins[inside], inside + 1)
    filled = end > 0
    edges[filled, 0], edges[filled, 1] = begin[filled], end[filled]
    if not filled[-1]:
        edges[-1, 0] = end.max(initial=0)
    edges[-1, 1] = n
    return edges


def _ascending(events: Events) -> int:
    """The first event that is earlier than the one before it; N if none is."""
    c = _library(events)
    if c is not None:
        return call(c.ascending, events, len(events), events.itemsize)
    back = np.diff(events["t"]) < 0
    return int(back.argmax()) + 1 if back.any() else len(events)


def _count(recording: Recording, edges: NDArray[np.int64]) -> Tensor:
    frames = torch.zeros(len(edges), *recording.shape)
    c = _library(recording.events)
    joined = np.append(edges[:, 0], edges[-1:, 1]) if (edges[1:, 0] == edges[:-1, 1]).all() else None
    if c is None or joined is None:
        for frame, (begin, end) in zip(frames, edges.tolist(), strict=True):
            places = _places(recording, slice(begin, end))
            frame += torch.from_numpy(np.bincount(places, minlength=frame.numel())).view_as(frame)
        return frames
    H, W = recording.size if len(recording.size) == 2 else (1, recording.size[0])
    sizes = (len(edges), recording.events.itemsize, H, W, torch.get_num_threads())
    outside = call(c.count_frames, recording.events, np.ascontiguousarray(joined, np.int64), *sizes, frames)
    if outside >= 0:
        check_size(recording.events, recording.size, "to_frames")
    return frames


def _places(recording: Recording, which: slice) -> NDArray[np.int64]:
    """The index in a flattened frame at which each event counts."""
    part = recording.keep(which)
    check_size(part.events, part.size, "to_frames")
    if len(part.size) == 1:
        return part.pixels()
    return part.pixels() + part.events["p"].astype(np.int64) * math.prod(part.size)


def _last(recording: Recording, edges: NDArray[np.int64]) -> Tensor:
    frames = torch.zeros(len(edges), *recording.shape)
    if len(recording.size) == 1:
        return _count(recording, edges).clamp_(max=1)
    pixels = recording.size[0] * recording.size[1]
    for frame, (begin, end) in zip(frames, edges.tolist(), strict=True):
        places = _places(recording, slice(begin, end))
        last = np.full(pixels, -1)
        last[places % pixels] = places  # of several events at a pixel the last one remains
        frame.view(-1)[torch.from_numpy(last[last >= 0])] = 1.0
    return frames


def voxel_grid(events: Any, bins: int, *, size: tuple[int, ...] | None = None) -> Tensor:
    """Polarities, +1 and -1, each shared between the two nearest of ``bins`` instants, as ``float32 [bins, H, W]``.

    With ``s = (bins - 1) (t - t_first) / (t_last - t_first)``, an event adds ``p max(0, 1 - |b - s|)`` to bin ``b``
    (A. Z. Zhu et al., 2019, "Unsupervised event-based learning of optical flow, depth, and egomotion").

    >>> import spikeloom as sl
    >>> events = {"t": [0, 25, 100], "x": [0, 0, 0], "y": [0, 0, 0], "p": [1, 1, 0]}
    >>> sl.data.voxel_grid(events, 3, size=(1, 1)).flatten().tolist()  # the second event lies between bins 0 and 1
    [1.5, 0.5, -1.0]
    """
    recording = as_recording(events, size)
    recording.need_camera("voxel_grid")
    bins = whole_number(bins, "voxel_grid: bins")
    e, pixels = recording.events, recording.size[0] * recording.size[1]
    grid = np.zeros((bins, pixels))
    if len(e):
        span = max(recording.duration, 1)
        s = (bins - 1) * (e["t"] - e["t"].min()) / span
        low = np.floor(s).astype(np.int64)
        p = np.where(e["p"], 1.0, -1.0)
        place = _places(recording, slice(None)) % pixels
        share = s - low
        for at, weight in ((low, 1 - share), (low + 1, share)):
            inside = at < bins
            flat = np.bincount(at[inside] * pixels + place[inside], (p * weight)[inside], bins * pixels)
            grid += flat.reshape(bins, pixels)
    return torch.from_numpy(grid.astype(np.float32)).view(bins, *recording.size)


def time_surface(events: Any, tau: float, *, steps: int = 1, size: tuple[int, ...] | None = None) -> Tensor:
    """The age of each pixel's last event as ``exp(-(t_k - t_last) / tau)``, 0 without one; ``[steps, 2, H, W]``.

    ``t_k`` is the end of the k-th of ``steps`` equal parts of the recording, and ``tau`` is in microseconds (X. Lagorce
    et al., 2017, "HOTS").
    """
    recording = as_recording(events, size)
    recording.need_camera("time_surface")
    steps, tau = whole_number(steps, "time_surface: steps"), positive_number(tau, "time_surface: tau")
    e = recording.events
    surfaces = np.zeros((steps, math.prod(recording.shape)), np.float32)
    if len(e):
        order = np.argsort(e["t"], kind="stable")
        t, place = e["t"][order], _places(recording, slice(None))[order]
        latest = np.full(surfaces.shape[1], -np.inf)
        begin, first = 0, int(t[0])
        for k in range(steps):
            end_time = first + recording.duration * (k + 1) / steps
            end = int(np.searchsorted(t, end_time, side="right"))
            latest[place[begin:end]] = t[begin:end]
            surfaces[k] = np.exp((latest - end_time) / tau)
            begin = end
    return torch.from_numpy(surfaces).view(steps, *recording.shape)


def to_sparse(
    events: Any,
    *,
    steps: int | None = None,
    duration: float | None = None,
    count: int | None = None,
    by: By = "time",
    size: tuple[int, ...] | None = None,
) -> Tensor:
    """:func:`to_frames` as a coalesced sparse COO tensor, which takes memory for the events only.

    >>> import spikeloom as sl
    >>> events = {"t": [0, 1, 100], "x": [2, 2, 0], "y": [0, 0, 0], "p": [1, 1, 1]}
    >>> frames = sl.data.to_sparse(events, steps=2, size=(1, 4))
    >>> frames.values().tolist(), frames.indices()[0].tolist()  # two events in step 0, one in step 1
    ([2.0, 1.0], [0, 1])
    """
    recording = as_recording(events, size)
    edges = segments(recording, steps=steps, duration=duration, count=count, by=by)
    area = math.prod(recording.shape)
    flat = np.concatenate([_places(recording, slice(a, b)) + k * area for k, (a, b) in enumerate(edges.tolist())])
    places, counts = np.unique(flat, return_counts=True)
    shape = (len(edges), *recording.shape)
    indices = torch.from_numpy(np.stack(np.unravel_index(places, shape)))
    return torch.sparse_coo_tensor(
        indices, torch.from_numpy(counts.astype(np.float32)), shape, check_invariants=False, is_coalesced=True
    )


def _library(events: Events) -> Any:
    """The functions in C, for events laid out as they expect; None without a compiler."""
    plain = events.dtype in (EVENT, EVENT_1D) and events.flags.c_contiguous
    return native.library() if plain else None
