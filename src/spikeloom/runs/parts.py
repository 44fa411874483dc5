"""The parts of a resumed run: networks, optimisers and schedules get their states back.

In an extended run, schedules go on as in a run that had all these epochs from the beginning.
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
    """A part with a state: a network, an optimiser, a schedule."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def load_parts(parts: Mapping[str, Stateful], saved: Mapping[str, Any], where: Path, *, longer: bool) -> None:
    """Loads the states that a checkpoint saved of the parts. ``longer`` says that the run now has more epochs.

    Raises CheckpointError if the checkpoint has other parts, or a state does not fit.
    """
    if set(parts) ^ set(saved["parts"]):
        raise CheckpointError(
            f"{where}: saved {', '.join(saved['parts'])}, the recipe keeps {', '.join(parts)}: it is another program"
        )
    begun = {id(part): _rates_of(part) for part in parts.values()}
    # Schedules come last, because they set the rates of optimisers.
    for name, part in sorted(parts.items(), key=lambda one: _is_schedule(one[1])):
        try:
            if longer and _is_schedule(part):
                _replay(part, saved["parts"][name]["last_epoch"], begun)
            else:
                part.load_state_dict(saved["parts"][name])
        except (RuntimeError, ValueError, KeyError) as problem:
            raise CheckpointError(f"{where}: the state of {name} does not fit: {problem}") from problem
        if isinstance(part, Optimizer) and saved["step"]:
            part._opt_called = True  # type: ignore[attr-defined]  # else schedules warn that no step came before


def _is_schedule(part: object) -> bool:
    """Whether a part gives learning rates by the number of its steps alone, so that it can be stepped again."""
    return isinstance(part, LRScheduler) and not isinstance(part, ReduceLROnPlateau)


def _rates_of(part: object) -> list[dict[str, Any]]:
    """The rates with which the groups of an optimiser begin, as a schedule set them; empty for other parts."""
    if not isinstance(part, Optimizer):
        return []
    return [{name: value for name, value in group.items() if name != "params"} for group in part.param_groups]


def _replay(schedule: Any, steps: int, begun: Mapping[int, list[dict[str, Any]]]) -> None:
    """Steps a fresh schedule ``steps`` times, from the rates with which its optimiser began.

    Loading the saved state instead would restore the old length of the run (the steps of OneCycleLR, the period of a
    cosine), and the schedule would end there.
    """
    for group, values in zip(schedule.optimizer.param_groups, begun[id(schedule.optimizer)], strict=True):
        group.update(values)
    with warnings.catch_warnings():
        # The optimiser made these steps before, so that the warning of a missing one is wrong.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for _ in range(steps):
            schedule.step()
