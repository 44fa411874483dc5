"""triton/launcher: launches kernels in Triton.

Triton looks at all arguments of a launch to find the binary that was compiled for their kind: dtype, None, whether an
address or an integer is divisible by 16, whether an integer is 1. That takes most of a launch, some 100 us where Python
is slow. A kernel of ours is launched again and again with the same integers, so that only the tensors are looked at:
where integers, options, dtypes and alignments are those of an earlier launch, its binary is launched as Triton's own
documents do it, ``compiled[grid](*arguments)``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...native.build import BuildError

Launcher = Callable[[list[Tensor | None]], None]

_MOST = 4096  # binaries that are known by their arguments; they are looked up anew where there are more
_known: dict[Any, Any] = {}


def launcher(run: Any, grid: tuple[int, ...], integers: list[int], device: torch.device, **options: Any) -> Launcher:
    """What launches a kernel on tensors, which come before the integers; it raises BuildError where Triton fails.

    ``options`` are Triton's and the kernel's constants, which are its last arguments.
    """
    kernel, other, grid = run[grid], _elsewhere(device), (*grid, 1, 1)[:3]
    kind = (run, tuple(integers), tuple(options.items())) if _by_binary(device) else None

    def launch(tensors: list[Tensor | None]) -> None:
        key = kind and (kind, device.index, *[t if t is None else (t.dtype, t.data_ptr() % 16) for t in tensors])
        found = _known.get(key)
        try:  # without fused multiply-add, or the backward pass would not see the forward pass's states
            if found is not None:
                compiled, constants = found
                compiled[grid](*tensors, *integers, *constants)
                return
            compiled = kernel(*tensors, *integers, enable_fp_fusion=False, **options)
        except Exception as error:  # Triton has no class for all that can go wrong in its compiler and drivers
            said = f"Triton failed with {type(error).__name__}: {error}"
            raise BuildError(f"{said}; `with sl.backend('eager'):` runs the PyTorch loop") from error
        if key is not None and compiled is not None:
            if len(_known) >= _MOST:
                _known.clear()
            names = run.arg_names[len(tensors) + len(integers) :]
            _known[key] = compiled, [options[name] for name in names]

    def launch_there(tensors: list[Tensor | None]) -> None:
        if other.current_device() == device.index:
            return launch(tensors)
        with other.device(device.index):
            return launch(tensors)

    return launch if other is None else launch_there


@functools.cache
def _by_binary(device: torch.device) -> bool:
    """Whether the kind of arguments is what :func:`launcher` looks at: on devices of others than NVIDIA's Triton looks
    at more.
    """
    return device.type == "cuda" and torch.version.hip is None


@functools.cache
def _elsewhere(device: torch.device) -> Any:
    """The module of torch that chooses among several devices of a kind, where there are several."""
    module = None if device.type == "cpu" else torch.get_device_module(device)
    return module if module is not None and module.device_count() > 1 else None
