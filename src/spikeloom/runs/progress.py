"""The messages of a run while it works: a bar on a terminal, a line for each epoch elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

_REFRESH = 0.5  # seconds between new figures: reading a loss more often would make the run wait for the GPU
_SPEAK = 15.0  # seconds after which a file or a pipe gets a line within an epoch


class Silent:
    """Prints nothing, and is the base of those that do."""

    def open(self, label: str, steps: int, done: int) -> None:
        """Begins an epoch or a measurement of ``steps`` steps, of which ``done`` are done."""

    def due(self) -> bool:
        """Whether it is time for new figures, which may be slow to read."""
        return False

    def step(self, figures: Mapping[str, float] | None = None) -> None:
        """Counts a step that is done."""

    def close(self) -> None:
        """Ends the epoch or the measurement that was opened."""

    def line(self, text: str) -> None:
        """Prints a line that stays on the screen."""


class Lines(Silent):
    """Prints the lines, and how far a long epoch is."""

    def __init__(self) -> None:
        self._label, self._steps, self._done, self._last = "", 0, 0, time.monotonic()

    def open(self, label: str, steps: int, done: int) -> None:
        self._label, self._steps, self._done, self._last = label, steps, done, time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._last >= _SPEAK

    def step(self, figures: Mapping[str, float] | None = None) -> None:
        self._done += 1
        if figures is not None or self.due():
            self._last = time.monotonic()
            said = f", {text(figures)}" if figures else ""
            self.line(f"{self._label}: {self._done} of {self._steps} steps{said}")

    def line(self, text: str) -> None:
        print(text, flush=True)


class Bar(Lines):
    """A bar with the figures of the running epoch; its lines stay above."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        super().__init__()
        self._bar = Progress(*columns, transient=True)
        self._task: Any = None
        self._last = 0.0

    def open(self, label: str, steps: int, done: int) -> None:
        self._label = label
        self._bar.start()
        self._task = self._bar.add_task(label, total=steps, completed=done)

    def due(self) -> bool:
        return time.monotonic() - self._last >= _REFRESH

    def step(self, figures: Mapping[str, float] | None = None) -> None:
        if self._task is None:
            return
        if figures is None:
            self._bar.update(self._task, advance=1)
            return
        self._last = time.monotonic()
        self._bar.update(self._task, advance=1, description=f"{self._label}  {text(figures)}")

    def close(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
            self._bar.stop()

    def line(self, text: str) -> None:
        if self._task is None:
            print(text, flush=True)
        else:
            self._bar.console.print(text, highlight=False, markup=False)


def choose(*, first: bool) -> Silent:
    """A bar on a terminal, lines elsewhere, and silence in all processes but the ``first``.

    >>> import spikeloom as sl
    >>> progress = sl.runs.choose_progress(first=True)
    >>> progress.line("epoch 1: accuracy 97.00 %")
    epoch 1: accuracy 97.00 %
    >>> sl.runs.choose_progress(first=False).line("what other processes say is not printed")
    """
    if not first:
        return Silent()
    if sys.stdout.isatty():
        try:
            return Bar()
        except ModuleNotFoundError:
            return Lines()
    return Lines()


def text(figures: Mapping[str, float]) -> str:
    """Figures as text for people: shares in percent, seconds rounded."""
    parts = []
    for name, value in figures.items():
        label = name.replace("_", " ")
        if name.endswith("accuracy"):
            parts.append(f"{label} {100 * value:.2f} %")
        elif name == "seconds":
            parts.append(f"{value:.0f} s")
        else:
            parts.append(f"{label} {value:.4g}")
    return ", ".join(parts)
