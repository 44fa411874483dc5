"""compiled: the kernels of a kind of neuron: found by what its program depends on, compiled when first needed."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._numbers import _UNDECLARED
from . import store
from .backend import transformed
from .program import NORM, Program, with_norm
from .variant import Variant, layout

_PLAIN = (Tensor, nn.Parameter)
_kernels: dict[Any, Kernels | str] = {}


def why_not(neuron: Any, xs: tuple[Tensor, ...], states: tuple[Tensor, ...]) -> str:
    """Why no kernel can run these inputs now, whatever the neuron and the device; empty if one can."""
    tensors = [*xs, *states]
    for _, part in neuron.parts():
        tensors += part.own_numbers()
    device, plain = xs[0].device, True
    for t in tensors:
        if t.device != device:
            others = {str(t.device) for t in tensors} - {str(device)}
            return f"the input is on {device}, states or numbers are on {', '.join(sorted(others))}"
        plain = plain and type(t) in _PLAIN
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return "inside torch.compile, export or jit"
    if torch._C._len_torch_dispatch_stack():
        return "inside a torch dispatch mode"
    if transformed():
        return "inside a torch.func transform or forward-mode differentiation"
    if not plain:
        return "a tensor subclass"
    if xs[0].dtype.is_complex:
        return f"inputs of {xs[0].dtype}"
    return ""


class Kernels:
    """The program of one kind of neuron, and what was compiled from it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.layout = layout(program)
        self.plans: dict[Any, Any] = {}
        self._functions: dict[Any, Any] = {}
        self._constants: dict[Any, tuple[list[Tensor], tuple[int, ...]]] = {}

    @functools.cached_property
    def normed(self) -> Kernels:
        """The kernels of the same neuron with a batch norm before it."""
        return Kernels(with_norm(self.program))

    def function(self, make: Callable[[Program, Variant], Any], variant: Variant) -> Any:
        """What ``make`` builds of the program and a variant; built once."""
        key = (make, variant)
        if key not in self._functions:
            self._functions[key] = make(self.program, variant)
        return self._functions[key]

    def params(
        self,
        neuron: Any,
        step: torch.Size,
        dtype: torch.dtype,
        device: torch.device,
        norm: tuple[Tensor, ...] = (),
    ) -> tuple[list[Tensor], tuple[int, ...]]:
        """The values that the kernels take, by torch from the neuron's numbers, and which are powers of two.

        ``norm``: scale and shift per channel, where the program has them.
        """
        parts = [part for _, part in neuron.parts()]
        if not all(is_float for part in parts for is_float in part._declared.values()):
            return self._evaluate(neuron, step, dtype, norm), ()
        key = (dtype, device, *(value for part in parts for value in part._floats.values()))
        if key not in self._constants:
            if len(self._constants) > 100:
                self._constants.clear()
            with torch.inference_mode(False):
                values = self._evaluate(neuron, step, dtype, tuple(n.detach() for n in norm))
            self._constants[key] = values, self._exact(values)
        values, exact = self._constants[key]
        if norm:  # nothing else depends on the norm
            wanted, values = self.layout.backward_params, list(values)
            for name, value in zip(NORM, _per_channel(norm, step), strict=True):
                values[wanted.index(self.program.inputs.index(name))] = value.to(dtype)
        return values, exact

    def _exact(self, values: list[Tensor]) -> tuple[int, ...]:
        """Divisors among constant params that are powers of two: dividing by them is multiplying."""
        found = zip(self.layout.backward_params, values, strict=True)
        return tuple(i for i, v in found if i in self.layout.divisors and v.numel() == 1 and _power_of_two(v.item()))

    def _evaluate(self, neuron: Any, step: torch.Size, dtype: torch.dtype, norm: tuple[Tensor, ...]) -> list[Tensor]:
        numbers = dict(zip(self.program.numbers, neuron.all_numbers(step, dtype), strict=False))
        if norm:
            numbers.update(zip(NORM, _per_channel(norm, step), strict=True))
        wanted = list(self.layout.backward_params)
        values = self.program.evaluate_numbers(numbers, wanted)
        return [values[i].to(dtype) for i in wanted]


def _per_channel(norm: tuple[Tensor, ...], step: torch.Size) -> list[Tensor]:
    return [n.reshape(-1, *(1,) * (len(step) - 2)) for n in norm]


def _power_of_two(value: float) -> bool:
    return math.isfinite(value) and abs(math.frexp(value)[0]) == 0.5 and 1e-30 < abs(value) < 1e30


def kernels_of(neuron: Any, inputs: int = 1) -> Kernels | str:
    """The kernels of a neuron, or why there are none."""
    try:
        key = _key(neuron, inputs)
        if key not in _kernels:
            _kernels[key] = _find(neuron, inputs, key)
        return _kernels[key]
    except TypeError as error:
        return f"an attribute that dynamics may read is not hashable: {error}"


def _find(neuron: Any, inputs: int, key: Any) -> Kernels | str:
    """The kernels of a stored program, or of one traced now."""
    name = store.fingerprint(key)
    program = store.read(name) if name else None
    if program is None:
        from .trace import RefusedError, trace  # imports much of torch: only where it is needed

        try:
            program = trace(neuron, ("x",) if inputs == 1 else tuple(f"x{k}" for k in range(inputs)))
        except RefusedError as error:
            return str(error)
        if name:
            store.write(name, program)
    return Kernels(program)


def _key(neuron: Any, inputs: int) -> Any:
    """Everything a program depends on."""
    key = (inputs, *((prefix, _key_part(part)) for prefix, part in neuron.parts()), tuple(neuron._rest))
    hash(key)
    return key


def _key_part(module: Any) -> tuple[Any, ...]:
    """Class, equation, names of numbers, plain attributes and global constants of a neuron or surrogate."""
    kind: Any = type(module)
    constants = tuple(names.get(name) for names, name in store.plain_globals(kind))
    remembered = module._key_part
    equation = getattr(kind, "dynamics", None)
    if remembered is None or remembered[0] != module._changes or remembered[2] is not equation:
        public = tuple(
            (name, value)
            for name, value in module.__dict__.items()
            if name[0] != "_" and name != "training" and not isinstance(value, _UNDECLARED)
        )
        remembered = (module._changes, kind, equation, tuple(module._declared), public)
        module.__dict__["_key_part"] = remembered
    return (*remembered[1:], constants)
