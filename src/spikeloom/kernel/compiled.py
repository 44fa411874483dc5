"""compiled: the kernels of a kind of neuron.

A program is found by the digest of its neuron's signature, which says all that the equation may read; its kernels are
compiled when they are first needed.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._numbers import is_plain_float
from ..keys.code import Unseen
from ..keys.signature import Signature
from . import store
from .program import Program
from .variant import Layout, Variant

_kernels: dict[Any, Kernels | str] = {}


class Numbers(NamedTuple):
    """What kernels take of a neuron's numbers."""

    values: dict[str, Tensor]
    """The operands, by name: params, and the numbers of those that the kernel computes itself."""
    exact: tuple[int, ...] = ()
    """The params that are known to be powers of two."""
    inside: tuple[int, ...] = ()
    """The params that the kernel computes itself."""
    kept: bool = False
    """Whether the operands are constants kept here: nobody writes to them, and they have no gradient."""

    @property
    def constants(self) -> dict[str, Tensor]:
        """The operands that are kept constants."""
        return self.values if self.kept else {}


class _Division(NamedTuple):
    """Which params a kernel computes itself, and which torch does."""

    inside: tuple[int, ...]
    wanted: tuple[int, ...]
    names: tuple[str, ...]
    """Of the wanted ones."""
    raw: tuple[tuple[int, str], ...]
    """The numbers that the kernel takes as they are: which one, and its name."""

    @classmethod
    def of(cls, layout: Layout, constant: tuple[bool, ...]) -> _Division:
        """What kernels compute that may do so with the numbers that are constants."""
        ids = {i for i, yes in zip(layout.numbers, constant, strict=True) if yes}
        inside = tuple(i for i, of in layout.sources.items() if of and of <= ids)
        wanted = tuple(i for i in layout.params if i not in inside)
        at = {i: k for k, i in enumerate(layout.numbers)}
        raw = tuple((at[j], layout.numbers[j]) for j in layout.numbers_of(inside))
        return cls(inside, wanted, tuple(layout.params[i] for i in wanted), raw)


class Kernels:
    """The program of one kind of neuron, and what was compiled from it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.layout = Layout(program)
        self.plans: dict[Any, Any] = {}
        """Kept by :func:`spikeloom.kernel.plan.plan_of`, which says what each depends on."""
        self._functions: dict[Any, Any] = {}
        self._constants: dict[Any, Numbers] = {}  # by the values of the numbers
        self._inside: dict[tuple[bool, ...], _Division] = {}  # by which numbers are constants

    def function(self, make: Callable[[Program, Variant], Any], variant: Variant) -> Any:
        """What ``make`` makes of the program and a variant; it is called once for each."""
        key = (make, variant)
        if key not in self._functions:
            self._functions[key] = make(self.program, variant)
        return self._functions[key]

    def operands(
        self, neuron: Any, step: torch.Size, dtype: torch.dtype, norm: tuple[Tensor, ...] = (), *, inside: bool = False
    ) -> Numbers:
        """The operands that come from the neuron's numbers.

        ``norm`` is scale and shift per channel, where the program has them. Operands of numbers that are all plain
        floats on a CPU are kept by the values of these, which are compared at each call. Others are computed by torch
        in each call; with ``inside``, those of constants are left to the kernel.
        """
        per_channel = [n.reshape(-1, *(1,) * (len(step) - 2)) for n in norm]
        parts = [part for _, part in neuron.parts()]
        numbers = [number for part in parts for number in part.own_numbers()]
        key = _constant_key(numbers)
        if key is None:
            declared = ((part, name) for part in parts for name in part._declared)
            shaped = [
                n
                if not n.ndim and n.dtype == torch.float64 and part._declared[name]
                else part.broadcast(name, step, dtype)
                for n, (part, name) in zip(numbers, declared, strict=True)
            ]
            return self.of_tensors([*shaped, *per_channel], dtype, inside=inside)
        found = self._constants.get((key, dtype))
        if found is None:
            if len(self._constants) > 100:
                self._constants.clear()
            with torch.inference_mode(False):  # from the key: the numbers may be written to meanwhile
                floats = struct.unpack(f"{len(numbers)}d", key)
                same = [torch.tensor(v, dtype=torch.float64, device="cpu") for v in floats]
                values = self.evaluate([*same, *(n.detach() for n in per_channel)], dtype)
            found = self._constants[key, dtype] = Numbers(values, self._exact(values), kept=True)
        if norm:  # nothing else depends on it
            names = zip(self.layout.norm, per_channel, strict=True)
            values = {**found.values, **{name: n.to(dtype) for name, n in names if name in found.values}}
            return found._replace(values=values, kept=False)
        return found

    def of_tensors(self, numbers: list[Tensor], dtype: torch.dtype, *, inside: bool) -> Numbers:
        """The operands from given numbers, of which a kernel may compute those ``inside`` that are constants."""
        constant = tuple([not n.ndim and n.dtype == torch.float64 and not n.requires_grad for n in numbers])
        constant = constant if inside else (False,) * len(numbers)
        division = self._inside.get(constant)
        if division is None:
            division = self._inside[constant] = _Division.of(self.layout, constant)
        own, wanted, names, raw = division
        values = dict(zip(names, self.program.evaluate(numbers, wanted, dtype), strict=True))
        values.update([(name, numbers[k]) for k, name in raw])
        return Numbers(values, (), own)

    def evaluate(self, numbers: list[Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """The operands that come from given numbers, in the order of the program's, with autograd where it is on."""
        params = self.layout.params
        return dict(zip(params.values(), self.program.evaluate(numbers, list(params), dtype), strict=True))

    def _exact(self, values: dict[str, Tensor]) -> tuple[int, ...]:
        """Divisors among constant operands that are powers of two: dividing by them is multiplying."""
        divisors = ((i, values[self.layout.params[i]]) for i in self.layout.divisors)
        return tuple(i for i, v in divisors if v.numel() == 1 and _power_of_two(v.item()))


def _constant_key(numbers: list[Tensor]) -> bytes | None:
    """The values of numbers that are all plain floats on a CPU, bit by bit; None for others.

    Elsewhere asking for a value would wait for the device, and a captured graph would keep it.
    """
    if not all(map(is_plain_float, numbers)):
        return None
    return struct.pack(f"{len(numbers)}d", *[number.item() for number in numbers])


def _power_of_two(value: float) -> bool:
    return math.isfinite(value) and abs(math.frexp(value)[0]) == 0.5 and 1e-30 < abs(value) < 1e30


def kernels_of(neuron: Any, inputs: int = 1, *, normed: bool = False, u: bool = False) -> Kernels | str:
    """The kernels of a neuron, with a batch norm before it where ``normed`` and what ``fire`` was given as one state
    more where ``u``, or the reason that there are none.
    """
    signature = neuron.signature()
    if signature.refused:
        return f"{type(neuron).__name__}: {signature.refused}"
    kind = inputs, normed, u, torch.get_default_dtype()  # which constants that dynamics makes may have
    found: Kernels | str | None = signature.known.get(kind)
    if found is None:
        key = (signature.digest, *kind)
        found = _kernels.get(key)
        if found is None:
            try:
                found = _kernels[key] = _find(neuron, inputs, normed, u, signature)
            except _NotNowError as reason:
                return str(reason)
        signature.known[kind] = found
    return found


class _NotNowError(Exception):
    """The reason that there are no kernels at this moment; at the next call it may be gone."""


def _find(neuron: Any, inputs: int, normed: bool, u: bool, signature: Signature) -> Kernels | str:
    """The kernels of a stored program, or of one traced now; or the reason that there are none."""
    name = f"{signature.digest}-{inputs}-{str(torch.get_default_dtype()).removeprefix('torch.')}"
    name += ("-normed" if normed else "") + ("-u" if u else "")
    program = store.read(name)
    if program is None:
        from .trace import RefusedError, trace  # imports much of torch: only where it is needed

        if signature.watched and sys.getprofile() is not None:
            raise _NotNowError(
                f"{type(neuron).__name__}: a profiler runs, and nobody can tell which code dynamics runs"
            )
        xs = ("x",) if inputs == 1 else tuple(f"x{k}" for k in range(inputs))
        try:
            # What keeps other tensors than those saved (checkpoints, offloading) must not see the trace's.
            with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
                program = signature.prove(lambda: trace(neuron, xs, normed=normed, u=u))
        except RefusedError as error:
            return str(error)
        except Unseen as error:
            return f"{type(neuron).__name__}.dynamics {error}"
        if not signature.holds(neuron):
            return f"{type(neuron).__name__}.dynamics changes, while it runs, what it reads besides its arguments"
        store.write(name, program)
    return Kernels(program)
