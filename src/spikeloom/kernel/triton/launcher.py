"""triton/launcher: launches kernels in Triton."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...native.build import BuildError

Launcher = Callable[[list[Tensor | None]], None]


def launcher(run: Any, grid: tuple[int, ...], integers: list[int], device: torch.device, **options: Any) -> Launcher:
    """What launches a kernel on tensors, which come before the integers; it raises BuildError where Triton fails."""
    kernel = run[grid]
    other = _elsewhere(device)

    def launch(tensors: list[Tensor | None]) -> None:
        try:  # without fused multiply-add, or the backward pass would not see the forward pass's states
            kernel(*tensors, *integers, enable_fp_fusion=False, **options)
        except Exception as error:  # Triton has no class for all that can go wrong in its compiler and drivers
            said = f"Triton failed with {type(error).__name__}: {error}"
            raise BuildError(f"{said}; `with sl.backend('eager'):` runs the PyTorch loop") from error

    def launch_there(tensors: list[Tensor | None]) -> None:
        if other.current_device() == device.index:
            return launch(tensors)
        with other.device(device.index):
            return launch(tensors)

    return launch if other is None else launch_there


@functools.cache
def _elsewhere(device: torch.device) -> Any:
    """The module of torch that chooses among several devices of a kind, where there are several."""
    module = None if device.type == "cpu" else torch.get_device_module(device)
    return module if module is not None and module.device_count() > 1 else None
