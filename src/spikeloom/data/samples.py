"""Samples in memory, and how they become batches that a seed alone determines."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

Transform = Callable[[Tensor], Tensor]
Key = tuple[int, int]  # epoch and index of a sample


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Data ``[N, *]`` with labels ``[N]``, a transform applied to each sample when it is asked for.

    Args:
        data: as stored (images are ``uint8``), ``[N, *]``.
        labels: ``int64 [N]``; without ``classes`` any targets ``[N, *]``.
        classes: the names of the labels, in the order of their numbers; empty for targets that are no classes.
        transform: a function of one sample; one that has ``batched = True`` (and an ``nn.Sequential`` of such) is
            applied to whole batches.
        seed: of the randomness in the transform. Each sample's is drawn from (seed, epoch, index), whatever worker
            makes it.
        indices: where the samples stand in what they were taken from; None is 0 to N-1.

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
    ) -> None:
        if len(labels) != len(data):
            raise ValueError(f"Samples: {len(data)} samples need as many labels, got {len(labels)}")
        if classes:
            _check_labels(labels, len(classes))
        self.data, self.labels, self.classes = data, labels, tuple(classes)
        self.transform, self.seed = transform, seed
        self.indices = torch.arange(len(data)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.batch([(0, index)])
        return x[0], y[0]

    def batch(self, keys: Sequence[Key]) -> tuple[Tensor, Tensor]:
        """The samples of ``keys``, (epoch, index) each: data ``[B, *]`` and labels ``[B]``."""
        at = torch.tensor([index for _, index in keys])
        x, y = self.data[at], self.labels[at]
        if self.transform is None:
            return x, y
        if _batched(self.transform):
            return self.transform(x), y
        return torch.stack([self._seeded(sample, key) for sample, key in zip(x, keys, strict=True)]), y

    def subset(self, indices: Tensor) -> Samples:
        """The samples at ``indices``, with the same transform."""
        return Samples(
            self.data[indices],
            self.labels[indices],
            classes=self.classes,
            transform=self.transform,
            seed=self.seed,
            indices=self.indices[indices],
        )

    def _seeded(self, sample: Tensor, key: Key) -> Tensor:
        """Transforms under a seed of the sample's own; the generators are as before afterwards."""
        assert self.transform is not None
        seed = mix(self.seed, *key)
        states = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            try:
                return self.transform(sample)
            finally:
                random.setstate(states[0])
                np.random.set_state(states[1])


class Batches(Sampler[list[Key]]):
    """Batches of keys, epoch after epoch, from ``(seed, epoch)`` alone; each process of several gets its part.

    Args:
        n: number of samples.
        batch_size: of all processes together; a multiple of ``world``.
        shuffle: whether each epoch has an order of its own.
        rank, world: this process and their number. Process r takes every ``world``-th sample of a batch, beginning
            with the r-th.
        even: whether the last, smaller batch of an epoch loses up to ``world - 1`` samples, so that all processes
            have as many (training needs that; with one process nothing is lost).

    Iterating goes through one epoch; the next iteration through the next one. :meth:`seek` begins anywhere.
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
        """The next iteration begins at this batch of this epoch (both count from 0)."""
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


def stratified(labels: Tensor, held_out: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Splits samples into (rest, held out): indices, ascending. Every class gives its share, rounded by largest
    remainders, so that exactly ``held_out`` are held out; which ones, the seed says.

    >>> import torch
    >>> rest, held = stratified(torch.tensor([0, 0, 0, 0, 1, 1]), 3, seed=0)
    >>> torch.tensor([0, 0, 0, 0, 1, 1])[held]
    tensor([0, 0, 1])
    """
    n = len(labels)
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
    """A seed below 2^63 from several numbers; neighbours give unrelated ones."""
    text = ",".join(map(str, numbers))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _check_labels(labels: Tensor, classes: int) -> None:
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise ValueError(f"Samples: classes are named by int64 [N], got {labels.dtype} {list(labels.shape)}")
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        i = int(outside.nonzero()[0])
        raise ValueError(f"Samples: label {int(labels[i])} of sample {i} is none of 0 to {classes - 1}")


def _batched(transform: Transform) -> bool:
    if isinstance(transform, torch.nn.Sequential):
        return all(getattr(part, "batched", False) for part in transform)
    return bool(getattr(transform, "batched", False))


class Gathered(Dataset[Any]):
    """Samples asked for by whole batches, so that one index operation and one transform serve all."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, keys: Sequence[Key]) -> tuple[Tensor, Tensor]:
        return self.samples.batch(keys)
