"""Schedules that sharpen (or soften) surrogates over epochs.

A schedule sets the ``scale`` of all surrogates in a module; call ``step()`` once an epoch. Setting a scale
recompiles nothing. ``state_dict()`` holds the epoch, and loading it sets the scales again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn

from .._epochs import Epochs
from .base import Surrogate


class Schedule(Epochs):
    """Base of all schedules: ``scale = value(epoch)`` for every surrogate of ``target``.

    Args:
        target: a module (all surrogates inside it are driven) or an iterable of surrogates.

    A target without surrogates, or one with a learnable scale, raises ValueError.

    >>> import spikeloom as sl
    >>> class Doubling(sl.surrogate.Schedule):
    ...     def value(self, epoch):
    ...         return 2.0**epoch
    >>> neuron = sl.LIF(surrogate=sl.surrogate.ATan())
    >>> schedule = Doubling(neuron)
    >>> for _ in range(3):
    ...     schedule.step()
    >>> neuron.surrogate.scale.item()
    8.0
    """

    def __init__(self, target: nn.Module | Iterable[Surrogate]) -> None:
        found = target.modules() if isinstance(target, nn.Module) else target
        self.surrogates = [s for s in found if isinstance(s, Surrogate) and s.scaled]
        if not self.surrogates:
            raise ValueError(f"{type(self).__name__}: found no surrogate with a scale in {type(target).__name__}")
        if any("scale" in s._parameters for s in self.surrogates):
            raise ValueError(f"{type(self).__name__}: a surrogate's scale is learnable; a schedule would overwrite it")
        for surrogate in self.surrogates:
            surrogate.drive("scale")
        super().__init__()

    def value(self, epoch: int) -> float:
        """The scale at an epoch, counted from 0."""
        raise NotImplementedError(f"{type(self).__name__} must define value(epoch)")

    @property
    def scale(self) -> float:
        """The scale in use."""
        return self.value(self.epoch)

    def _set(self) -> None:
        for surrogate in self.surrogates:
            surrogate.scale = self.scale  # type: ignore[assignment]  # Declared accepts floats


class LinearSchedule(Schedule):
    """``start + (end - start) min(1, epoch / epochs)``."""

    def __init__(
        self, target: nn.Module | Iterable[Surrogate], *, start: float = 1.0, end: float = 5.0, epochs: int
    ) -> None:
        self.start, self.end, self.epochs = _positive(start, "start"), _positive(end, "end"), _count(epochs)
        super().__init__(target)

    def value(self, epoch: int) -> float:
        return self.start + (self.end - self.start) * min(1.0, epoch / self.epochs)


class PolynomialSchedule(Schedule):
    """``start + (end - start) min(1, epoch / epochs)^power``.

    >>> import spikeloom as sl
    >>> schedule = sl.surrogate.PolynomialSchedule(sl.LIF(surrogate=sl.surrogate.ATan()), start=1.0, end=5.0, epochs=4)
    >>> [schedule.value(epoch) for epoch in (0, 1, 2, 4, 9)]
    [1.0, 1.25, 2.0, 5.0, 5.0]
    """

    def __init__(
        self,
        target: nn.Module | Iterable[Surrogate],
        *,
        start: float = 1.0,
        end: float = 5.0,
        epochs: int,
        power: float = 2.0,
    ) -> None:
        self.start, self.end, self.epochs = _positive(start, "start"), _positive(end, "end"), _count(epochs)
        self.power = _positive(power, "power")
        super().__init__(target)

    def value(self, epoch: int) -> float:
        return self.start + (self.end - self.start) * float(min(1.0, epoch / self.epochs) ** self.power)


class ExponentialSchedule(Schedule):
    """``start gamma^epoch``.

    >>> import spikeloom as sl
    >>> schedule = sl.surrogate.ExponentialSchedule(sl.LIF(surrogate=sl.surrogate.ATan()), gamma=1.5)
    >>> [schedule.value(epoch) for epoch in range(4)]
    [1.0, 1.5, 2.25, 3.375]
    """

    def __init__(self, target: nn.Module | Iterable[Surrogate], *, start: float = 1.0, gamma: float = 1.05) -> None:
        self.start, self.gamma = _positive(start, "start"), _positive(gamma, "gamma")
        super().__init__(target)

    def value(self, epoch: int) -> float:
        return self.start * float(self.gamma**epoch)


class StepSchedule(Schedule):
    """``start gamma^floor(epoch / step_size)``.

    >>> import spikeloom as sl
    >>> schedule = sl.surrogate.StepSchedule(sl.LIF(surrogate=sl.surrogate.ATan()), step_size=2)
    >>> [schedule.value(epoch) for epoch in range(6)]
    [1.0, 1.0, 2.0, 2.0, 4.0, 4.0]
    """

    def __init__(
        self, target: nn.Module | Iterable[Surrogate], *, start: float = 1.0, gamma: float = 2.0, step_size: int
    ) -> None:
        self.start, self.gamma = _positive(start, "start"), _positive(gamma, "gamma")
        self.step_size = _count(step_size)
        super().__init__(target)

    def value(self, epoch: int) -> float:
        return self.start * float(self.gamma ** (epoch // self.step_size))


class CosineSchedule(Schedule):
    """``end + (start - end) (1 + cos(pi e / epochs)) / 2`` with ``e = epoch mod epochs`` (warm restarts)
    or, with ``restart=False``, ``e = min(epoch, epochs)``.

    >>> import spikeloom as sl
    >>> schedule = sl.surrogate.CosineSchedule(sl.LIF(surrogate=sl.surrogate.ATan()), start=1.0, end=5.0, epochs=4)
    >>> [round(schedule.value(epoch), 2) for epoch in range(6)]
    [1.0, 1.59, 3.0, 4.41, 5.0, 5.0]
    """

    def __init__(
        self,
        target: nn.Module | Iterable[Surrogate],
        *,
        start: float = 1.0,
        end: float = 5.0,
        epochs: int,
        restart: bool = False,
    ) -> None:
        self.start, self.end, self.epochs = _positive(start, "start"), _positive(end, "end"), _count(epochs)
        self.restart = restart
        super().__init__(target)

    def value(self, epoch: int) -> float:
        e = epoch % self.epochs if self.restart else min(epoch, self.epochs)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * e / self.epochs)) / 2


class EvolvedAlpha(Schedule):
    """snetx's rule: ``base (1 + e_max epoch / epochs)``, held after the last epoch.

    >>> import spikeloom as sl
    >>> schedule = sl.surrogate.EvolvedAlpha(sl.LIF(surrogate=sl.surrogate.ATan()), base=2.0, e_max=3.0, epochs=4)
    >>> [schedule.value(epoch) for epoch in (0, 1, 4, 9)]
    [2.0, 3.5, 8.0, 8.0]
    """

    def __init__(
        self, target: nn.Module | Iterable[Surrogate], *, base: float = 1.0, e_max: float = 3.0, epochs: int
    ) -> None:
        self.base, self.e_max, self.epochs = _positive(base, "base"), float(e_max), _count(epochs)
        super().__init__(target)

    def value(self, epoch: int) -> float:
        return self.base * (1 + self.e_max * min(1.0, epoch / self.epochs))


def _positive(value: float, name: str) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
    return float(value)


def _count(value: int) -> int:
    if value < 1:
        raise ValueError(f"expected at least 1 epoch, got {value}")
    return int(value)
