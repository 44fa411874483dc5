"""The two batches on which a model is captured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .call import BATCH_FIRST, REPEATED, TIME_FIRST, Call, activate, map_tensors
from .module import TemporalModule, sequence_size
from .network import Network, static
from .paths import temporal_paths


@dataclass(frozen=True)
class Batch:
    """What a model's forward takes, and the call that it runs in.

    Args:
        size: number of samples.
        args, kwargs: as the forward takes them; where the model knows time, it is folded into the batch.
        call: makes the call of a network, in which temporal modules have their states, or gives None without them.
        dims: the dimension of ``args`` and ``kwargs``, flattened, that holds the samples; None where none does.
    """

    size: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    call: Callable[[], Call | None]
    dims: tuple[int | None, ...]

    def run(self, forward: Callable[..., Any]) -> Any:
        """What ``forward`` gives for copies of the batch, which it may write to."""
        args, kwargs = pytree.tree_map_only(Tensor, torch.clone, (self.args, self.kwargs))
        with running(self.call()):
            return forward(*args, **kwargs)


def running(call: Call | None) -> AbstractContextManager[Any]:
    """A context in which a network's call runs, if there is one."""
    return nullcontext() if call is None else activate(call)


def batches(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], repeat: int | None
) -> tuple[nn.Module, tuple[Batch, Batch]]:
    """The example and the same with its first sample once more, for what runs in a network: ``model`` or its body."""
    body = model.body if isinstance(model, Network) else model
    paths = temporal_paths(body)
    if not isinstance(model, Network) and not paths:
        if repeat is not None:
            raise ValueError(f"capture: {type(model).__name__} has no temporal module, so there is nothing to repeat")
        return body, _plain(args, kwargs)
    batch_first = isinstance(model, Network) and model.batch_first
    layout = REPEATED if repeat is not None else BATCH_FIRST if batch_first else TIME_FIRST
    T, B = sequence_size(tuple(a for a in args if not isinstance(a, static)), "capture", layout)
    T = repeat or T
    larger = tuple(a if isinstance(a, static) else map_tensors(partial(_more, dim=layout.batch), a) for a in args)
    found = [_timed(size, given, kwargs, layout.time, T, paths) for size, given in ((B, args), (B + 1, larger))]
    return body, (found[0], found[1])


def _plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Batch, Batch]:
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.ndim]
    if not tensors:
        raise ValueError("capture: the example has no tensor with a batch dimension; give what the model takes")
    B = tensors[0].shape[0]
    leaves, spec = pytree.tree_flatten((args, kwargs))
    dims = tuple(0 if isinstance(x, Tensor) and x.ndim and x.shape[0] == B else None for x in leaves)
    plain = [x.value if isinstance(x, static) else x for x in leaves]
    more = [x if dim is None else _more(x, dim) for x, dim in zip(plain, dims, strict=True)]
    given, larger = pytree.tree_unflatten(plain, spec), pytree.tree_unflatten(more, spec)
    return Batch(B, given[0], given[1], _no_call, dims), Batch(B + 1, larger[0], larger[1], _no_call, dims)


def _timed(
    B: int, args: tuple[Any, ...], kwargs: dict[str, Any], time: int | None, T: int, paths: dict[TemporalModule, str]
) -> Batch:
    def call() -> Call:
        return Call(T, B, paths=paths, fuse=False)

    def fold(x: Tensor) -> Tensor:
        sequence = x.expand(T, *x.shape) if time is None else x.movedim(time, 0)
        return call().fold(sequence)

    folded = tuple(a.value if isinstance(a, static) else map_tensors(fold, a) for a in args)
    dims = [None if isinstance(a, static) or not isinstance(x, Tensor) else 0 for a in args for x in _leaves(a)]
    return Batch(B, folded, kwargs, call, (*dims, *(None for _ in pytree.tree_leaves(kwargs))))


def _leaves(a: Any) -> list[Any]:
    return pytree.tree_leaves(a.value if isinstance(a, static) else a)


def _no_call() -> None:
    return None


def _more(x: Tensor, dim: int) -> Tensor:
    return torch.cat([x, x.narrow(dim, 0, 1)], dim)
