"""rehearsal: runs of what is about to be recorded, and a module that is afterwards what it was.

The first calls of kernels and libraries compile, choose algorithms and allocate, which nothing records.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import torch

from .prepared import UnfitError
from .replay import Recorder, RecordError
from .running import running
from .unchanged import Unchanged


def rehearse(recorder: Recorder, unchanged: Unchanged, run: Callable[[], Any]) -> None:
    """Runs what is to be recorded three times, the last time with a look at what cannot be.

    Raises UnfitError, with the path of the module that ran.
    """
    for _ in range(2):
        recorder.warm(run, checked=False)
    with running(unchanged.modules[0]) as now:
        where: list[str] = []

        def watched() -> Any:
            try:
                return run()
            except Exception:
                at = now()
                where.append(
                    "in the backward pass" if at is None else f"{at[0] or 'the module'}: {type(at[1]).__name__}"
                )
                raise

        try:
            recorder.warm(watched, checked=True)
        except RecordError as error:
            raise UnfitError(f"{where[0] if where else 'the module'}: {error}") from error


class Undo:
    """Puts back what rehearsals change: buffers, attributes and generators."""

    def __init__(self, recorder: Recorder, unchanged: Unchanged) -> None:
        self._recorder, self._unchanged = recorder, unchanged
        self._tables = [
            (t, dict(t)) for m in unchanged.modules for t in (vars(m), m._parameters, m._buffers, m._modules)
        ]
        parameters = {id(p) for p in unchanged.parameters}
        with torch.no_grad():
            self._values = [(t, t.clone()) for _, t in unchanged.named_tensors() if id(t) not in parameters]
        self._versions = [(p, p._version) for p in unchanged.parameters if not p.is_inference()]
        self._random, self._host = recorder.random_state(), _host_random(recorder)

    def check(self) -> None:
        """Raises UnfitError for what a replay would not do."""
        if _host_random(self._recorder) != self._host:
            raise UnfitError("the module draws random numbers on the host, which a replay would repeat")
        if any(p._version != version for p, version in self._versions):
            raise UnfitError("the module writes to a parameter when it runs")
        what = self._unchanged.changed()
        if what:
            raise UnfitError(f"{what} changes whenever the module runs")

    def restore(self) -> None:
        """Everything as it was."""
        if not self._unchanged.hold():
            for table, then in self._tables:
                if table.keys() != then.keys() or any(table[name] is not then[name] for name in then):
                    table.clear()
                    table.update(then)
        with torch.no_grad():
            for tensor, value in self._values:
                tensor.copy_(value)
        self._recorder.set_random_state(self._random)
        _set_host_random(self._host)


def _host_random(recorder: Recorder) -> tuple[Any, ...]:
    """The states of the generators on the host, as far as they are no device's."""
    numpy = sys.modules.get("numpy")
    torch_state = None if recorder.device.type == "cpu" else torch.get_rng_state().numpy().tobytes()
    drawn = None if numpy is None else _numpy_state(numpy)
    return random.getstate(), drawn, torch_state


def _numpy_state(numpy: Any) -> tuple[Any, ...]:
    name, keys, *rest = numpy.random.get_state()
    return (name, keys.tobytes(), *rest)


def _set_host_random(state: tuple[Any, ...]) -> None:
    python, drawn, torch_state = state
    random.setstate(python)
    if drawn is not None:
        numpy = sys.modules["numpy"]
        numpy.random.set_state((drawn[0], numpy.frombuffer(drawn[1], dtype=numpy.uint32), *drawn[2:]))
    if torch_state is not None:
        torch.set_rng_state(torch.frombuffer(bytearray(torch_state), dtype=torch.uint8))
