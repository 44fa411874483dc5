"""Ctrl-C and SIGTERM as requests: the run ends its step, saves, and then stops."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Stopped(BaseException):  # so that no `except Exception` of a recipe swallows it
    """A run was asked to stop and has saved everything; ``signal`` is the number of the signal that asked."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal = number


class StopRequest:
    """Within the context, the first SIGINT or SIGTERM sets ``signal``; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._asked)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number
