"""Taps: values at named places of a running network, of one call (``record``) or of many (:func:`taps`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._text import table
from .._time import valid_steps, wide
from .folding import map_tensors
from .places import match, opened, set_opened
from .recorder import Asked

Keep = Literal["mean", "max", "min", "rate", "count"]
_KEEPS = ("mean", "max", "min", "rate", "count")


class Taps:
    """What :func:`taps` has seen. ``seen["2.output"]`` is a list of values, or the one that they were reduced to."""

    def __init__(self, net: nn.Module, patterns: tuple[str, ...], keep: Any, every: int, limit: int) -> None:
        if not isinstance(net, nn.Module):
            raise TypeError(f"taps: expected a network, got {type(net).__name__}")
        if not (keep is None or callable(keep) or keep in _KEEPS):
            raise ValueError(f"taps: keep must be None, one of {', '.join(_KEEPS)}, or a function; got {keep!r}")
        if every < 1:
            raise ValueError(f"taps: every must be at least 1, got {every}")
        self.keep, self.every, self.limit = keep, every, limit
        self.bytes = 0
        """Bytes of all that is kept."""
        found = match(net, patterns, "tap", gradients=True)
        self._wanted: dict[nn.Module, Asked] = {}
        for pattern in found.values():
            for module, path, name in pattern:
                one = self._wanted.setdefault(module, Asked(path))
                one.record = tuple(dict.fromkeys((*one.record, name)))
        self._calls = 0
        self._values: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}
        self._is_open = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what was seen, in the order in which it came first."""
        return tuple(self._values)

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            there = ", ".join(self._values) or "nothing yet"
            raise KeyError(f"{name!r} was not seen in {self._calls} calls; there is {there}")
        found = self._values[name]
        return found.value() if isinstance(found, _Reduced) else found

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __enter__(self) -> Taps:
        if self._is_open:
            raise RuntimeError("taps: these are open already; make others with sl.taps(...)")
        self._is_open = True
        set_opened((*opened(), self))
        return self

    def __exit__(self, *error: object) -> None:
        self._is_open = False
        set_opened(tuple(tap for tap in opened() if tap is not self))

    def table(self) -> str:
        """A row for each name: how many values, the shape of the last one, bytes."""
        rows = [("name", "values", "shape", "kB")]
        for name, found in self._values.items():
            n, last = (found.calls, found.value()) if isinstance(found, _Reduced) else (len(found), found[-1])
            shape = str(list(last.shape)) if isinstance(last, Tensor) else type(last).__name__
            rows.append((name, str(n), shape, f"{self._sizes[name] / 1000:.1f}"))
        return table(rows)

    def turn(self, modules: Iterable[nn.Module], *, again: bool) -> dict[nn.Module, Asked]:
        """What is wanted of a call that runs ``modules``, which begins: nothing if it is not its turn.

        ``again``: it is the last one once more.
        """
        found = {module: self._wanted[module] for module in modules if module in self._wanted}
        if found and not again:
            self._calls += 1
        return found if (self._calls - 1) % self.every == 0 else {}

    def take(self, name: str, value: Any, size: tuple[int, int], lengths: Tensor | None) -> None:
        """Keeps a value ``[T, B, *]``, or what is made of it."""
        if not self._is_open:  # a gradient that comes late
            return
        with torch.no_grad():
            value = map_tensors(Tensor.detach, value)
            if isinstance(self.keep, str):
                reduced = self._values.get(name) or _Reduced(self.keep, name)
                new = reduced.add(value, size, lengths)
                self._check(name, new)
                self._values[name] = reduced
            else:
                value = value if self.keep is None else self.keep(value)
                new = sum(_size(x) for x in pytree.tree_leaves(value) if isinstance(x, Tensor))
                self._check(name, new)
                self._values.setdefault(name, []).append(map_tensors(_copy, value))
        self.bytes += new
        self._sizes[name] = self._sizes.get(name, 0) + new

    def _check(self, name: str, new: int) -> None:
        if self.bytes + new <= self.limit:
            return
        sizes = {**self._sizes, name: self._sizes.get(name, 0) + new}
        largest = max(sizes, key=lambda n: sizes[n])
        raise RuntimeError(
            f"taps: {new} bytes more of {name!r} are over the limit of {self.limit} bytes, of which {self.bytes} are "
            f"taken; the largest entry is {largest!r} with {sizes[largest]}. Reduce what is kept (keep='mean' or a "
            "function), look at fewer calls (every=10), name fewer places, or raise limit="
        )


def taps(
    net: nn.Module,
    *patterns: str,
    keep: Keep | Callable[[Any], Any] | None = None,
    every: int = 1,
    limit: int = 2**30,
) -> Taps:
    """Looks at places of a network over many calls, in a ``with`` block and in this thread.

    Args:
        net: a Network, what wraps one, or a module with networks inside.
        patterns: ``<path>.<what>``, with wildcards. Paths are those of states; what is ``input``, ``output``,
            ``grad_input`` or ``grad_output`` of any module, a state of a temporal module, or ``u`` of a neuron, for
            which a wildcard has to end in it. A wildcard leaves out the temporal modules that another one runs alone
            (inside ``sl.nn.Recurrent``...): name those.
        keep: None keeps each value; ``"mean"``, ``"max"``, ``"min"``, ``"rate"`` (share of values that are not 0) and
            ``"count"`` (how many are not 0) reduce all values over T, B and calls as they come, so that memory does not
            grow, and leave padded steps out; a function is given each value and its result is kept.
        every: look at each n-th call, the first one among them.
        limit: bytes that may be kept; what would be more raises RuntimeError before it is stored.

    Values are detached and unfolded, ``[T, B, *]`` whatever ``batch_first`` says; steps of a stream and of
    ``Network.step`` are sequences of one step. Packed spikes stay packed. A module that one call runs twice has
    ``path#1`` too. What does not have the rows of the call (the state of an ``nn.LSTM``) is given as it is. A gradient
    is that of one backward pass; that of an input is what comes from the module alone.

    Outputs of the network are bit-equal with and without: kernels, bits, fused norms and a static prefix stay, and
    between a norm and the neuron that it is fused with the value is computed beside them. For a gradient there the two
    run one after the other, and for a gradient in a static prefix all steps do. Streams take no prepared step then.

    Raises ValueError for a pattern that fits nothing, and lists what there is; RuntimeError inside compiled code.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Linear(4, 3), sl.LIF(v_threshold=0.1), torch.nn.Linear(3, 2))
    >>> with sl.taps(net, "0.input", "*.grad_output") as seen:
    ...     for _ in range(2):
    ...         net(torch.rand(5, 2, 4)).sum().backward()
    >>> seen.names, len(seen["0.input"]), seen["1.grad_output"][1].shape
    (('0.input', '2.grad_output', '1.grad_output', '0.grad_output'), 2, torch.Size([5, 2, 3]))
    """
    return Taps(net, patterns, keep, every, limit)


class _Reduced:
    """One value per neuron of all values over T, B and calls, as they come."""

    def __init__(self, keep: str, name: str) -> None:
        self.calls = 0
        self._keep, self._name = keep, name
        self._total: Tensor | None = None
        self._n = 0
        self._dtype = torch.float32

    def add(self, value: Any, size: tuple[int, int], lengths: Tensor | None) -> int:
        """Takes ``[T, B, *]``; returns the bytes that this takes more."""
        if not isinstance(value, Tensor) or value.shape[:2] != size:
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"taps: keep={self._keep!r} takes [T, B, *] = {[*size, '*']}, but {self._name!r} is {got}; give a "
                "function of it, or name other places"
            )
        dims: tuple[int, ...] = (0, 1)
        n = size[0] * size[1]
        if lengths is not None:
            value, dims, n = value.flatten(0, 1)[valid_steps(lengths, size[0]).flatten()], (0,), int(lengths.sum())
        now, before = self._reduced(value, dims), self._total
        if before is not None and before.shape != now.shape:
            raise ValueError(
                f"taps: keep={self._keep!r} takes steps of one shape, but {self._name!r} had {list(before.shape)} and "
                f"has {list(now.shape)} now"
            )
        if before is None:
            self._total = now
        elif self._keep in ("max", "min"):
            self._total = torch.maximum(before, now) if self._keep == "max" else torch.minimum(before, now)
        else:
            self._total = before + now
        self.calls, self._n, self._dtype = self.calls + 1, self._n + n, wide(value.dtype)
        return _size(now) if before is None else 0

    def _reduced(self, value: Tensor, dims: tuple[int, ...]) -> Tensor:
        if self._keep == "max":
            return value.amax(dims)
        if self._keep == "min":
            return value.amin(dims)
        if self._keep == "mean":
            return value.sum(dims, dtype=torch.float64)
        exact = torch.float32 if value.shape[0] * value.shape[1] < 1 << 24 else torch.float64
        if type(value) is Tensor:  # four times as fast as counting, or as sums of booleans
            there = torch.ne(value, 0, out=torch.empty(value.shape, dtype=exact, device=value.device))
        else:
            there = value.ne(0).to(exact)
        return there.sum(dims).to(torch.int64)

    def value(self) -> Tensor:
        """What it is by now."""
        assert self._total is not None
        return (self._total.double() / self._n).to(self._dtype) if self._keep in ("mean", "rate") else self._total


def _copy(x: Tensor) -> Tensor:
    """A tensor that nobody else writes to; one step that is seen T times stays one."""
    if type(x) is Tensor and x.ndim > 1 and x.shape[0] > 1 and x.stride(0) == 0:
        return x[:1].clone().expand(x.shape)
    return x.clone()


def _size(x: Tensor) -> int:
    """Bytes of a copy."""
    packed: int | None = getattr(x, "storage_nbytes", None)  # of spikes of one bit each
    if packed is not None:
        return packed
    still = x.ndim > 1 and x.shape[0] > 1 and x.stride(0) == 0
    return x.numel() * x.element_size() // (x.shape[0] if still else 1)
