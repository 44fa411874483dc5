"""How a run computes: precision, backend of neurons, steps in graphs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from .settings import Config, ConfigError, Machine

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Computing:
    """The parts of a run's settings that say how it computes, on the device and in the processes that it has.

    Raises ConfigError for a setting that cannot be had there.
    """

    def __init__(self, config: Config, machine: Machine, device: torch.device, world: int) -> None:
        self._config, self._machine, self._device = config, machine, device
        self._graphed: Any = None
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "float16")
        """Keeps gradients in float16's range; where the run needs none, it does nothing."""
        if machine.graph:
            _check_graph(device, world)
        if machine.backend not in ("auto", "eager"):
            _check_backend(machine.backend, device)

    def backend(self) -> AbstractContextManager[Any]:
        """The backend of neurons that was chosen."""
        from .. import kernel

        name: Any = self._machine.backend
        return nullcontext() if name == "auto" else kernel.backend(name)

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision, if the run has it."""
        dtype = _DTYPES.get(self._config.amp)
        return nullcontext() if dtype is None else torch.autocast(self._device.type, dtype)

    def graphed(self, net: nn.Module) -> Any:
        """What to call in training steps: the network, or what runs it in graphs."""
        from ..core import graphed

        if not self._machine.graph:
            return net
        self._graphed = graphed(net)
        return self._graphed

    def may_skip(self, optimiser: Optimizer) -> None:
        """Says that a scaler may skip an optimiser's first step, of which schedules would warn as of a mistake."""
        if self.scaler.is_enabled():
            optimiser._opt_called = True  # type: ignore[attr-defined]

    def ungraphed(self) -> str:
        """Why no step ran in a graph, once, where graphs were asked for."""
        fast, self._graphed = self._graphed, None
        return fast.reason if fast is not None and not fast.graphs else ""


def _check_graph(device: torch.device, world: int) -> None:
    from ..core import can_record

    if not can_record(device):
        raise ConfigError(
            f"graph needs a CUDA device, whose steps are launched at once; this run is on {device}", setting="graph"
        )
    if world > 1:
        raise ConfigError(
            "graph is for runs of one process: with several, gradients are exchanged while they are computed",
            setting="graph",
        )


def _check_backend(name: Any, device: torch.device) -> None:
    from .. import kernel, native

    try:
        kernel.target_for(device, name)
    except native.BuildError as problem:
        raise ConfigError(f"backend {name!r} cannot be used on {device}: {problem}", setting="backend") from problem
