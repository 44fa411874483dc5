"""Samples of data sets in files: recordings, sounds and pictures, each read when it is asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from . import cache
from .audio import Cochlea
from .downloads import Progress
from .events import EventTransform, Recording, to_frames
from .events.recording import positive_number, whole_number
from .samples import Indexed, Key, Transform

ToTensor = Callable[[Recording], Tensor]


@dataclass(frozen=True, kw_only=True)
class Frames:
    """:func:`to_frames` with its options, for loaders: ``Frames(steps=16)``, ``Frames(duration=10_000)``.

    ``length`` is the number of frames that each sample of a fixed duration or count is cut to, or filled up to with
    frames of zeros.

    >>> import spikeloom as sl
    >>> recording = sl.data.events.as_recording({"t": [0, 10, 100], "x": [0, 0, 0], "y": [0, 0, 0]}, (1, 1))
    >>> sl.data.Frames(steps=2)(recording)[:, 1].flatten().tolist()  # channel 1 has the ON events
    [2.0, 1.0]
    >>> sl.data.Frames(steps=2, values="binary")(recording)[:, 1].flatten().tolist()
    [1.0, 1.0]
    """

    steps: int | None = None
    duration: float | None = None
    count: int | None = None
    by: Literal["time", "count"] = "time"
    values: Literal["count", "binary", "one-hot"] = "count"
    length: int | None = None

    def __post_init__(self) -> None:
        if sum(v is not None for v in (self.steps, self.duration, self.count)) != 1:
            raise ValueError(f"Frames: give one of steps, duration and count, got {self}")
        for name in ("steps", "count", "length"):
            if getattr(self, name) is not None:
                whole_number(getattr(self, name), f"Frames: {name}")
        if self.duration is not None:
            positive_number(self.duration, "Frames: duration")

    @property
    def ragged(self) -> bool:
        """Whether samples may have different numbers of frames."""
        return self.steps is None and self.length is None

    def __call__(self, recording: Recording) -> Tensor:
        frames = to_frames(
            recording, steps=self.steps, duration=self.duration, count=self.count, by=self.by, values=self.values
        )
        if self.length is None:
            return frames
        short = max(self.length - len(frames), 0)
        return torch.cat((frames[: self.length], frames.new_zeros(short, *frames.shape[1:])))


class FileSamples(Indexed):
    """Samples that are read when they are asked for.

    Args:
        store: the recordings by number.
        labels, classes, seed, indices: see :class:`Indexed`; ``indices`` are numbers in the store.
        frames: makes a tensor of a recording; None gives the recordings as they are, in lists. A function with
            ``ragged = True`` always has lengths in its batches, others where the samples of a batch differ.
        augment: a function that changes a recording before ``frames``.
        transform: a function that changes the tensor after ``frames``.

    A batch is data ``[B, *]`` and labels ``[B]``. Where frames or waveforms differ in length, the data are padded with
    zeros and ``lengths [B]`` are the third part of the batch.

    >>> import torch
    >>> import spikeloom as sl
    >>> store = [sl.data.events.as_recording({"t": [0, 10], "x": [k, k], "y": [0, 0]}, (1, 2)) for k in (0, 1)]
    >>> labels, frames = torch.tensor([0, 1]), sl.data.Frames(steps=1)
    >>> samples = sl.data.FileSamples(store, labels, classes=("left", "right"), frames=frames)
    >>> x, label = samples[1]
    >>> x[0, 1].tolist(), samples.classes[label]
    ([[0.0, 2.0]], 'right')
    """

    def __init__(
        self,
        store: cache.Store,
        labels: Tensor,
        *,
        classes: Sequence[str],
        frames: ToTensor | None = None,
        augment: EventTransform | None = None,
        transform: Transform | None = None,
        seed: int = 0,
        indices: Tensor | None = None,
    ) -> None:
        super().__init__(labels, classes=classes, transform=transform, seed=seed, indices=indices)
        self.store, self.frames, self.augment = store, frames, augment

    def batch(self, keys: Sequence[Key]) -> tuple[Any, ...]:
        """The samples of ``keys``, each an (epoch, index)."""
        made: list[Any] = [self._make(key) for key in keys]
        labels = self.labels[torch.tensor([index for _, index in keys])]
        if self.frames is None and any(isinstance(sample, Recording) for sample in made):
            return made, labels
        ragged = getattr(self.frames, "ragged", len({m.shape for m in made}) > 1)
        if not ragged:
            return torch.stack(made), labels
        lengths = torch.tensor([len(m) for m in made])
        return torch.nn.utils.rnn.pad_sequence(made, batch_first=True), labels, lengths

    def _make(self, key: Key) -> Any:
        content = self.store[int(self.indices[key[1]])]
        if self.augment is None and self.transform is None:
            return self._tensor(content)
        return self.seeded(key, functools.partial(self._transformed, content))

    def _transformed(self, content: Recording | Tensor) -> Any:
        if self.augment is not None and isinstance(content, Recording):
            content = self.augment(content)
        made = self._tensor(content)
        return made if self.transform is None else self.transform(made)

    def _tensor(self, content: Recording | Tensor) -> Any:
        return self.frames(content) if self.frames is not None and isinstance(content, Recording) else content


class Waveforms:
    """Gives sounds as waveforms ``[L]`` from -1 to 1 where :class:`Frames` would give frames of their spikes.

    A batch is padded with zeros and has lengths.

    >>> import torch
    >>> import spikeloom as sl
    >>> sounds = [torch.ones(2), torch.ones(3)]
    >>> samples = sl.data.FileSamples(sounds, torch.tensor([0, 1]), classes=("a", "b"), frames=sl.data.Waveforms())
    >>> x, labels, lengths = samples.batch([(0, 0), (0, 1)])
    >>> x.tolist(), lengths.tolist()
    ([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], [2, 3])
    """

    ragged = True

    def __call__(self, recording: Recording) -> Tensor:
        raise TypeError("Waveforms: sounds are handed on as they are, and never called for")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the samples of a :class:`FileSet` are made.

    Attributes:
        augment: a function that changes each recording of the training split.
        cochlea: what makes spikes of sounds, in place of the set's own.
        lazy: whether the original files are read each time, with no copy on the disk.
        partial: whether fewer samples than the published split has are accepted, and a folder that lacks the files of
            other splits.
        progress: a function that is called as the conversion goes on.
    """

    augment: EventTransform | None = None
    cochlea: Cochlea | None = None
    lazy: bool = False
    partial: bool = False
    progress: Progress | None = None
