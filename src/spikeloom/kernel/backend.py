"""Which backend runs a neuron: chosen by itself, for a block of code, or for the process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor

from .._hooks import transformed as transformed
from .._numbers import is_plain_float
from ..core.captures import AMBIENT
from ..core.recompute import KEEPERS

Backend = Literal["auto", "eager", "c", "triton"]

logger = logging.getLogger("spikeloom")
_NAMES: tuple[str, ...] = get_args(Backend)
_local = threading.local()
_said: set[str] = set()


class BackendError(RuntimeError):
    """A backend was forced that cannot run; the message says why."""


@contextmanager
def backend(name: Backend) -> Iterator[None]:
    """Chooses the backend of every neuron that runs inside the block, in this thread.

    Args:
        name: ``"eager"`` (the PyTorch loop), ``"c"`` or ``"triton"`` (generated kernels in that language; raises where
            they cannot run) or ``"auto"`` (C on a CPU, Triton on a GPU, else eager, said once through logging).

    Outside such a block ``SPIKELOOM_BACKEND`` decides, and without it ``auto``.

    >>> import torch
    >>> import spikeloom as sl
    >>> with sl.backend("eager"):
    ...     y = sl.Network(sl.LIF())(torch.rand(5, 2, 3))
    """
    checked = _check(name, "backend")
    previous = getattr(_local, "name", None)
    _local.name = checked
    try:
        yield
    finally:
        _local.name = previous


def chosen() -> Backend:
    """The backend in force."""
    name: Backend | None = getattr(_local, "name", None)
    return name if name is not None else _check(os.environ.get("SPIKELOOM_BACKEND", "auto"), "SPIKELOOM_BACKEND")


def _as_chosen() -> Callable[[], AbstractContextManager[None]]:
    name = chosen()
    return lambda: backend(name)


KEEPERS.append(_as_chosen)  # what is computed again for the backward pass runs where it did


def plain_value(number: Tensor | None) -> float | None:
    """The value of a number that is a float; None for others, and where something traces or transforms what runs."""
    return number.item() if number is not None and is_plain_float(number) and not _is_seen_through() else None


def is_one_constant(number: Tensor | None) -> bool:
    """Whether a number is one value that is not learned, and nothing traces or transforms what runs."""
    return number is not None and not number.ndim and not number.requires_grad and not _is_seen_through()


def _is_seen_through() -> bool:
    if torch.compiler.is_compiling() or transformed() or torch._C._get_tracing_state() is not None:
        return True
    return bool(torch._C._len_torch_dispatch_stack())


def debugging() -> bool:
    """Whether every kernel call is to be compared with the loop."""
    return bool(os.environ.get("SPIKELOOM_DEBUG"))


def say_once(message: str) -> None:
    """Logs a warning the first time."""
    if message not in _said:
        _said.add(message)
        logger.warning(message)


@contextmanager
def watching(found: list[tuple[object, str, str]] | None = None) -> Iterator[list[tuple[object, str, str]]]:
    """Collects (neuron, backend, reason) of everything that runs in the block, in a list of its own or in ``found``."""
    previous, found = getattr(_local, "watch", None), [] if found is None else found
    _local.watch = found
    try:
        yield found
    finally:
        _local.watch = previous


def is_watched() -> bool:
    """Whether anybody is told, for reasons that take time to find."""
    return getattr(_local, "watch", None) is not None


def note(neuron: object, name: str, reason: str) -> None:
    """Tells whoever watches what ran a neuron; None is the layer that runs, which was given spikes of one bit."""
    watch = getattr(_local, "watch", None)
    if watch is not None:
        watch.append((neuron, name, reason))


def may_prepare() -> bool:
    """Whether kernels may run without being looked up, compared with the loop or told to anybody."""
    return not is_watched() and chosen() in ("auto", "c") and not debugging()


def _ambient() -> Backend | None:
    return None if is_watched() or debugging() else chosen()


AMBIENT.append(_ambient)  # what was recorded ran with one backend, and tells nobody


def _check(name: str, where: str) -> Backend:
    if name not in _NAMES:
        raise ValueError(f"{where} must be one of {', '.join(_NAMES)}; got {name!r}")
    return name  # type: ignore[return-value]  # just checked
