"""Epochs: what a number follows that changes over the epochs of a training."""

from __future__ import annotations

from typing import Any


class Epochs:
    """Base of schedules, which set a number of modules once an epoch by a curve.

    A subclass sets the plain attributes that say which curve it is, then calls ``super().__init__()``, and defines
    ``_set``, which sets the number as it is at ``self.epoch``.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._set()

    def step(self) -> None:
        """Goes to the next epoch."""
        self.epoch += 1
        self._set()

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint: the epoch, and the numbers of the curve."""
        return {"epoch": self.epoch, **self._curve()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Returns to the epoch of a checkpoint and sets the number; the state of another curve raises ValueError."""
        for name, value in self._curve().items():
            if name in state and state[name] != value:
                raise ValueError(
                    f"{type(self).__name__}: {name} is {state[name]} in the checkpoint but {value} here; construct the "
                    "schedule as it was"
                )
        self.epoch = int(state["epoch"])
        self._set()

    def _curve(self) -> dict[str, Any]:
        plain = (bool, int, float, str, type(None))
        found = {k: v for k, v in vars(self).items() if k[0] != "_" and k != "epoch" and isinstance(v, plain)}
        return {"schedule": type(self).__name__, **found}

    def _set(self) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _set")
