"""Samples, and the batches made of them, which a seed alone determines."""

from __future__ import annotations

import copy
import functools
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

Transform = Callable[[Tensor], Tensor]
"""A function of one sample, called when it is read: the classes of :mod:`spikeloom.data.transforms` are such."""
Key = tuple[int, int]  # epoch and index of a sample
T = TypeVar("T")


class Indexed(Dataset[tuple[Any, ...]]):
    """What every data set here is: labels, a transform, and batches that (seed, epoch, index) alone determine.

    Attributes:
        labels: ``int64 [N]``; without ``classes`` any targets ``[N, *]``.
        classes: the names of the labels, in the order of their numbers; empty for targets that are no classes.
        transform: a function of one sample, applied when the sample is asked for.
        seed: the seed of random transforms. A sample's draws depend on (seed, epoch, index), not on the worker.
        indices: the places of the samples in the set that they were taken from.
        per_step: whether targets ``[N, T, *]`` have a value for each step; None where it was not given.

    >>> import torch
    >>> import spikeloom as sl
    >>> class Squares(sl.data.Indexed):
    ...     def batch(self, keys):
    ...         at = torch.tensor([index for epoch, index in keys])
    ...         return at.square(), self.labels[at]
    >>> samples = Squares(torch.tensor([0, 1, 0, 1]), classes=("even", "odd"))
    >>> samples.batch([(0, 2), (0, 3)])
    (tensor([4, 9]), tensor([0, 1]))
    >>> samples.subset(torch.tensor([1, 3])).labels
    tensor([1, 1])
    """

    per_step: bool | None = None

    def __init__(
        self,
        labels: Tensor,
        *,
        classes: Sequence[str] = (),
        transform: Transform | None = None,
        seed: int = 0,
        indices: Tensor | None = None,
    ) -> None:
        if classes:
            _check_labels(labels, len(classes))
        self.labels, self.classes, self.transform, self.seed = labels, tuple(classes), transform, seed
        self.indices = torch.arange(len(labels)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(part[0] for part in self.batch([(0, index)]))

    def batch(self, keys: Sequence[Key]) -> tuple[Any, ...]:
        """The samples of ``keys``, each an (epoch, index): data ``[B, *]``, labels ``[B]``, and lengths ``[B]`` where
        the samples are of different lengths."""
        raise NotImplementedError

    def subset(self, indices: Tensor) -> Self:
        """The samples at ``indices``, with the same transform."""
        chosen = copy.copy(self)
        chosen.labels, chosen.indices = self.labels[indices], self.indices[indices]
        return chosen

    def seeded(self, key: Key, make: Callable[[], T]) -> T:
        """The result of ``make()`` under the sample's own seed; afterwards the generators are as they were before."""
        seed = mix(self.seed, *key)
        states = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would leave those of GPUs with this seed
            random.seed(seed)
            np.random.seed(seed % 2**32)
            try:
                return make()
            finally:
                random.setstate(states[0])
                np.random.set_state(states[1])


class Samples(Indexed):
    """Data ``[N, *]`` in memory, with labels ``[N]``.

    Args:
        data: as stored (images are ``uint8``), ``[N, *]``.
        labels, classes, seed, indices, per_step: see :class:`Indexed`.
        transform: a function of one sample; one that has ``batched = True`` (and an ``nn.Sequential`` of such, or the
            last ones in an ``nn.Sequential``) is applied to whole batches.

    >>> import torch
    >>> samples = Samples(torch.zeros(3, 2), torch.tensor([0, 1, 1]), classes=("a", "b"))
    >>> len(samples), samples[2][1].item()
    (3, 1)
    """

    def __init__(
        self,
        data: Tensor,
        labels: Tensor,
        *,
        classes: Sequence[str] = (),
        transform: Transform | None = None,
        seed: int = 0,
        indices: Tensor | None = None,
        per_step: bool | None = None,
    ) -> None:
        for what, given in (("data", data), ("labels", labels)):
            if not isinstance(given, Tensor) or given.ndim == 0:
                got = "a number" if isinstance(given, Tensor) else type(given).__name__
                raise TypeError(f"Samples: {what} must be a tensor [N, *], got {got}; make one with torch.as_tensor")
        if len(labels) != len(data):
            raise ValueError(f"Samples: {len(data)} samples need as many labels, got {len(labels)}")
        if per_step and labels.ndim < 2:
            raise ValueError(f"Samples: labels for each step must be [N, T, *], got {list(labels.shape)}")
        super().__init__(labels, classes=classes, transform=transform, seed=seed, indices=indices)
        self.data, self.per_step = data, per_step

    def batch(self, keys: Sequence[Key]) -> tuple[Tensor, Tensor]:
        """The samples of ``keys``, each an (epoch, index): data ``[B, *]`` and labels ``[B]``."""
        at = torch.tensor([index for _, index in keys])
        x, y = self.data[at], self.labels[at]
        transform = self.transform
        if transform is None:
            return x, y
        single, whole = _parts(transform)
        if single is not None:
            made = [self.seeded(key, functools.partial(single, sample)) for sample, key in zip(x, keys, strict=True)]
            x = torch.stack(made)
        return x if whole is None else whole(x), y

    def subset(self, indices: Tensor) -> Self:
        """The samples at ``indices``, with the same transform."""
        chosen = super().subset(indices)
        chosen.data = self.data[indices]
        return chosen


class Batches(Sampler[list[Key]]):
    """Batches of keys, epoch after epoch, which ``(seed, epoch)`` alone determine; each process gets its part of them.

    Args:
        n: the number of samples.
        batch_size: the samples in a batch, over all processes together; a multiple of ``world``.
        shuffle: whether each epoch has an order of its own.
        rank, world: the number of this process, and how many there are. Process r takes every ``world``-th sample of
            a batch, beginning with the r-th.
        even: whether the last, smaller batch of an epoch loses up to ``world - 1`` samples, so that all processes
            have equally many (training needs that; with one process nothing is lost).

    An iteration goes through one epoch, and the next one through the next epoch. :meth:`seek` sets where it begins.

    >>> import spikeloom as sl
    >>> batches = sl.data.Batches(5, 2, shuffle=False)
    >>> list(batches)
    [[(0, 0), (0, 1)], [(0, 2), (0, 3)], [(0, 4)]]
    >>> list(batches)[-1]  # the next epoch
    [(1, 4)]
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        even: bool = True,
    ) -> None:
        if batch_size < 1 or batch_size % world:
            raise ValueError(
                f"batch_size is that of all processes: it must be a positive multiple of {world}, got {batch_size}"
            )
        if n < world:
            raise ValueError(f"{n} samples cannot be shared by {world} processes")
        self.n, self.batch_size, self.shuffle, self.seed = n, batch_size, shuffle, seed
        self.rank, self.world, self.even = rank, world, even
        self.epoch, self.start = 0, 0

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Makes the next iteration begin at this batch of this epoch (both count from 0)."""
        self.epoch, self.start = epoch, batch

    def order(self, epoch: int) -> Tensor:
        """Indices of all samples in the order of an epoch."""
        if not self.shuffle:
            return torch.arange(self.n)
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        return torch.randperm(self.n, generator=generator)

    def __len__(self) -> int:
        rest = self.n % self.batch_size
        return self.n // self.batch_size + bool(rest if not self.even else rest // self.world)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, start = self.epoch, self.start
        self.epoch, self.start = epoch + 1, 0
        chunks = self.order(epoch).split(self.batch_size)[: len(self)]
        for chunk in chunks[start:]:
            whole = len(chunk) - len(chunk) % self.world if self.even else len(chunk)
            keys = [(epoch, int(i)) for i in chunk[:whole][self.rank :: self.world]]
            if keys:  # the last batch of a test set may have no part for this process
                yield keys


def stratified(labels: Tensor, held_out: int | float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Splits samples into (rest, held out) and returns the indices of both, ascending. Every class gives its share,
    rounded by largest remainders, so that exactly ``held_out`` are held out; the seed determines which ones.

    An int is the number of samples to hold out, a float the share of all samples, between 0 and 1, which is rounded to
    a number of at least 1.

    >>> import torch
    >>> rest, held = stratified(torch.tensor([0, 0, 0, 0, 1, 1]), 3, seed=0)
    >>> torch.tensor([0, 0, 0, 0, 1, 1])[held]
    tensor([0, 0, 1])
    """
    n = len(labels)
    if isinstance(held_out, float):
        if not 0 < held_out < 1:
            raise ValueError(
                f"stratified: a share of the samples lies between 0 and 1, got {held_out}; a number of them is an int"
            )
        held_out = max(round(held_out * n), 1)
    if not 0 < held_out < n:
        raise ValueError(f"{held_out} samples cannot be held out of {n}: some must be on both sides")
    counts = labels.bincount()
    shares = counts.double() * held_out / n
    take = shares.floor().long()
    first = torch.argsort(shares - take, descending=True, stable=True)[: held_out - int(take.sum())]
    take[first] += 1
    generator = torch.Generator().manual_seed(mix(seed, n))
    held = torch.zeros(n, dtype=torch.bool)
    for label, k in enumerate(take.tolist()):
        members = (labels == label).nonzero().flatten()
        held[members[torch.randperm(len(members), generator=generator)[:k]]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def mix(*numbers: int) -> int:
    """A seed below 2^63 from several numbers; neighbours give unrelated ones.

    >>> import spikeloom as sl
    >>> sl.data.mix(1, 2) == sl.data.mix(1, 2), sl.data.mix(1, 2) == sl.data.mix(2, 1)
    (True, False)
    """
    text = ",".join(map(str, numbers))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _check_labels(labels: Tensor, classes: int) -> None:
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise ValueError(f"Samples: classes are named by int64 [N], got {labels.dtype} {list(labels.shape)}")
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        i = int(outside.nonzero()[0])
        raise ValueError(f"Samples: label {int(labels[i])} of sample {i} is none of 0 to {classes - 1}")


def _parts(transform: Transform) -> tuple[Transform | None, Transform | None]:
    """The part of a transform that is applied to each sample, and the part after it that is applied to a batch."""
    if _batched(transform):
        return None, transform
    if not isinstance(transform, torch.nn.Sequential):
        return transform, None
    first = len(transform)
    while first and _batched(transform[first - 1]):
        first -= 1
    return transform[:first], transform[first:] if first < len(transform) else None


def _batched(transform: Transform) -> bool:
    if isinstance(transform, torch.nn.Sequential):
        return all(getattr(part, "batched", False) for part in transform)
    return bool(getattr(transform, "batched", False))


class Gathered(Dataset[Any]):
    """Samples that are asked for in whole batches, so that one index operation and one transform serve all.

    Args:
        batch_first: whether data are ``[B, *]``; else they are sequences and come as ``[T, B, *]``, and so do targets
            for each step.
    """

    def __init__(self, samples: Indexed, *, batch_first: bool = True) -> None:
        if not batch_first and samples.labels.ndim > 1 and samples.per_step is None:
            raise ValueError(
                f"batch_first=False: are labels {list(samples.labels.shape)} for each step or for each sample? "
                "Samples(..., per_step=...) says it"
            )
        self.samples, self.batch_first = samples, batch_first

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, keys: Sequence[Key]) -> tuple[Any, ...]:
        x, y, *lengths = self.samples.batch(keys)
        if self.batch_first:
            return (x, y, *lengths)
        if not isinstance(x, Tensor) or x.ndim < 2:
            got = list(x.shape) if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise ValueError(f"batch_first=False: expected sequences, [B, T, *], got {got}")
        return (x.transpose(0, 1), y.transpose(0, 1) if self.samples.per_step else y, *lengths)
