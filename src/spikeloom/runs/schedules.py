"""Schedules of a run that is extended: they go on as those of a run that had all these epochs from the beginning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau


def is_schedule(part: object) -> bool:
    """Whether a part gives learning rates by the number of its steps alone, so that it can be stepped again."""
    return isinstance(part, LRScheduler) and not isinstance(part, ReduceLROnPlateau)


def rates_of(part: object) -> list[dict[str, Any]]:
    """What the groups of an optimiser begin with, as a schedule has set it; nothing for other parts."""
    if not isinstance(part, Optimizer):
        return []
    return [{name: value for name, value in group.items() if name != "params"} for group in part.param_groups]


def replay(schedule: Any, steps: int, begun: Mapping[int, list[dict[str, Any]]]) -> None:
    """Brings a fresh schedule to where it is after ``steps``, from the rates with which its optimiser began.

    A schedule's own state says how long the run was to be (the steps of OneCycleLR, the period of a cosine), and would
    end it there.
    """
    for group, values in zip(schedule.optimizer.param_groups, begun[id(schedule.optimizer)], strict=True):
        group.update(values)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")  # the steps were long ago
        for _ in range(steps):
            schedule.step()
