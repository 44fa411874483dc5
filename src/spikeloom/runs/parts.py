"""The parts of a run that is resumed: networks, optimisers and schedules get their states back.

In a run that is extended, schedules go on as those of a run that had all these epochs from the beginning.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from .checkpoint import CheckpointError


class Stateful(Protocol):
    """A network, an optimiser, a schedule."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def load_parts(parts: Mapping[str, Stateful], saved: Mapping[str, Any], where: Path, *, longer: bool) -> None:
    """Loads what a checkpoint saved of the parts; ``longer``: the run has more epochs than the one that was saved.

    Raises CheckpointError where the parts are others, or a state does not fit.
    """
    if set(parts) ^ set(saved["parts"]):
        raise CheckpointError(
            f"{where}: saved {', '.join(saved['parts'])}, the recipe keeps {', '.join(parts)}: it is another program"
        )
    begun = {id(part): _rates_of(part) for part in parts.values()}
    for name, part in sorted(parts.items(), key=lambda one: _is_schedule(one[1])):  # which set rates of optimisers
        try:
            if longer and _is_schedule(part):
                _replay(part, saved["parts"][name]["last_epoch"], begun)
            else:
                part.load_state_dict(saved["parts"][name])
        except (RuntimeError, ValueError, KeyError) as problem:
            raise CheckpointError(f"{where}: the state of {name} does not fit: {problem}") from problem
        if isinstance(part, Optimizer) and saved["step"]:
            part._opt_called = True  # type: ignore[attr-defined]  # or schedules warn that no step came before


def _is_schedule(part: object) -> bool:
    """Whether a part gives learning rates by the number of its steps alone, so that it can be stepped again."""
    return isinstance(part, LRScheduler) and not isinstance(part, ReduceLROnPlateau)


def _rates_of(part: object) -> list[dict[str, Any]]:
    """What the groups of an optimiser begin with, as a schedule has set it; nothing for other parts."""
    if not isinstance(part, Optimizer):
        return []
    return [{name: value for name, value in group.items() if name != "params"} for group in part.param_groups]


def _replay(schedule: Any, steps: int, begun: Mapping[int, list[dict[str, Any]]]) -> None:
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
