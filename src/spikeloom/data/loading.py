"""Train, validation and test loaders of a data set in one call."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .dataset import Split
from .errors import DataError
from .file_samples import FileSamples, Options, ToTensor
from .registry import describe, files, load
from .samples import Batches, Gathered, Indexed, Transform, stratified

_SPLITS: tuple[Split, Split] = ("train", "test")
Loader = DataLoader[Any]
"""torch's loader, of batches ``(x, y)`` or ``(x, y, lengths)``."""
GIVEN = "given as samples"
"""What a split names as its data where they are the user's own samples."""


@dataclass(frozen=True)
class Loaders:
    """What :func:`loaders` returns. ``split`` has the number of samples of each part and a SHA-256 of their indices.

    >>> import torch
    >>> import spikeloom as sl
    >>> x, y = torch.arange(12.0).view(6, 2), torch.tensor([0, 1, 0, 1, 0, 1])
    >>> train, test = (sl.data.Samples(x, y, classes=("even", "odd")) for _ in range(2))
    >>> found = sl.data.loaders((train, test), batch_size=2, validation=1 / 3)
    >>> found.split["train"]["samples"], found.split["validation"]["samples"], len(found.train)
    (4, 2, 2)
    """

    train: Loader
    validation: Loader | None
    test: Loader
    classes: tuple[str, ...]
    split: dict[str, Any]

    @property
    def transforms(self) -> tuple[Transform | None, Transform | None]:
        """The transforms of training and of test samples."""
        train, test = (loader.dataset.samples.transform for loader in (self.train, self.test))  # type: ignore[attr-defined]
        return train, test


def loaders(
    name: str | tuple[Indexed, Indexed],
    *,
    batch_size: int,
    test_batch_size: int | None = None,
    validation: float = 0.0,
    frames: ToTensor | None = None,
    options: Options | None = None,
    subset: int | None = None,
    transforms: Sequence[Transform | None] = (None, None),
    seed: int = 0,
    workers: int = 0,
    distributed: bool | None = None,
    root: str | Path | None = None,
    batch_first: bool = True,
) -> Loaders:
    """Loaders of batches: data ``[B, *]``, which is ``[B, T, *]`` for sequences, labels ``[B]``, and lengths ``[B]``
    where samples differ in length (then the data are padded with zeros). Recordings come in a list, unless ``frames``
    makes tensors of them.

    Args:
        name: one of ``SETS``, or samples of your own: (train, test), whose transforms stay as they are.
        batch_size: the samples in a batch, over all processes together.
        test_batch_size: the same for validation and test, which compute no gradients; None is ``batch_size``.
        validation: the share of the training samples to hold out, stratified, from 0 to below 1; they get the
            transform of the test set. 0 takes the published validation split, if there is one.
        frames: what makes a tensor of a recording, such as :class:`Frames`.
        options: the options of data sets in files: see :class:`Options`.
        subset: the number of training samples to keep (stratified), for trials; validation is held out of these.
        transforms: (train, test); None is the data set's own.
        seed: the seed of order, splits and random transforms.
        workers: the number of processes that load. The batches do not depend on it.
        distributed: whether the processes of ``torch.distributed`` share the batches; None: if it is initialised.
        root: see :func:`data_root`.
        batch_first: False is for sequences alone. They, and targets for each step (:class:`Samples`), then come time
            first, ``[T, B, *]``, as networks, losses and decoders take them unless they are told
            ``batch_first=True``.

    The order of samples depends on seed and epoch alone: see :class:`Batches`, which is the ``sampler`` of each
    loader.
    """
    if not 0 <= validation < 1:
        raise ValueError(f"loaders: validation is a share from 0 to below 1, got {validation}")
    if len(transforms) != 2:
        raise ValueError(f"loaders: transforms must be (train, test), got {len(transforms)} of them")
    if not batch_first and isinstance(name, str):
        _check_sequences(name, frames, transforms)
    train: Indexed
    test: Indexed
    if isinstance(name, str):
        train, test = (
            load(name, split, frames=frames, root=root, transform=t, seed=seed, options=options)
            for split, t in zip(_SPLITS, transforms, strict=True)
        )
    else:
        train, test = name
    kept, held = _choose(train, subset, validation, seed)
    rank, world = _share(distributed)
    common: dict[str, Any] = dict(seed=seed, workers=workers, rank=rank, world=world, batch_first=batch_first)
    size = test_batch_size or batch_size
    held_out = None
    if not len(held) and isinstance(name, str) and "validation" in describe(name).splits:
        own = load(name, "validation", frames=frames, root=root, transform=transforms[1], seed=seed, options=options)
        held_out, held = _loader(own, size, shuffle=False, **common), own.indices
    elif len(held):
        held, at = train.indices[held], held
        watched = train.subset(at)
        watched.transform = test.transform
        if isinstance(watched, FileSamples):
            watched.augment = None
        held_out = _loader(watched, size, shuffle=False, **common)
    split = {
        **_origin(name, root),
        "seed": seed,
        "train": _digest(train.indices[kept]),
        "validation": _digest(held),
        "test": _digest(test.indices),
    }
    return Loaders(
        _loader(train.subset(kept), batch_size, shuffle=True, **common),
        held_out,
        _loader(test, size, shuffle=False, **common),
        train.classes,
        split,
    )


def _check_sequences(name: str, frames: ToTensor | None, transforms: Sequence[Transform | None]) -> None:
    """Raises where a named data set has no dimension of time, and no transform of the user's can have made one."""
    d = describe(name)
    if not d.timed and None in transforms:
        raise DataError(f"data set {name} has no steps, its samples are {d.sample}; leave batch_first=True")
    if frames is None and d.recorded:
        raise DataError(f"data set {name}: recordings come in a list; frames= makes sequences of them")


def _choose(train: Indexed, subset: int | None, validation: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of training and validation samples."""
    n = len(train)
    # Targets that are no classes count as one class.
    labels = train.labels if train.classes else torch.zeros(n, dtype=torch.int64)
    kept = torch.arange(n)
    if subset is not None:
        if not 0 < subset <= n:
            raise DataError(f"subset must be from 1 to the {n:,} training samples, got {subset}")
        if subset < n:
            kept = stratified(labels, subset, seed=seed)[1]
    if not validation:
        return kept, kept[:0]
    rest, held = stratified(labels[kept], float(validation), seed=(seed + 1) % 2**64)
    return kept[rest], kept[held]


def _origin(name: str | tuple[Indexed, Indexed], root: str | Path | None) -> dict[str, Any]:
    if not isinstance(name, str):
        return {"data": GIVEN}
    return {"data": name, "files": files(name, root), "rule": describe(name).rule}


def _loader(
    samples: Indexed,
    batch_size: int,
    *,
    shuffle: bool,
    seed: int,
    workers: int,
    rank: int,
    world: int,
    batch_first: bool,
) -> Loader:
    batches = Batches(
        len(samples), batch_size, shuffle=shuffle, seed=seed, rank=rank, world=world, even=shuffle
    )  # processes need equally many samples in training, and every sample once in a test
    return DataLoader(
        Gathered(samples, batch_first=batch_first),
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        generator=torch.Generator().manual_seed(seed),  # starting an epoch draws nothing from torch's own
    )


def _share(distributed: bool | None) -> tuple[int, int]:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and not ready:
        raise RuntimeError("loaders: distributed=True needs torch.distributed to be initialised; start with torchrun")
    if distributed is False or not ready:
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _digest(indices: Tensor) -> dict[str, Any]:
    return {"samples": len(indices), "sha256": hashlib.sha256(indices.numpy().tobytes()).hexdigest()}
