"""TensorBoard events of a run, where tensorboard is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Events:
    """Writes each epoch's figures into one file of events, made when the first ones come."""

    def __init__(self, out: Path) -> None:
        self.folder = out / "tensorboard"
        self._writer: Any = None

    def write(self, row: Mapping[str, float], step: int) -> None:
        """Writes the figures of an epoch that ended after ``step`` steps, and voids what an earlier process wrote
        beyond that step."""
        if self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return
            self._writer = SummaryWriter(str(self.folder), purge_step=step)
        for name, value in row.items():
            if name not in ("epoch", "seconds"):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()
