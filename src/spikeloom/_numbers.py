"""Declared numbers: the constants and learnable parameters that an equation reads.

A module that has an equation (a neuron, a surrogate) declares its numbers once; each may be a float,
a tensor (one value per channel or per neuron) or an ``nn.Parameter`` (learnable). While the equation
runs, every number is a tensor that broadcasts against one time step, so that ``dynamics`` never looks
at a shape and a float can change without a recompilation.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from . import _peers
from ._tracing import known_while_tracing
from .keys.signature import Signature

Number = float | Tensor | nn.Parameter
POSITIVE = (sys.float_info.min, math.inf)


class Declared(nn.Module):
    """Base of modules with declared numbers.

    ``self.numbers(tau=2.0, rho=nn.Parameter(...))`` declares them; ``module.tau = 3.0`` changes one.
    A float is kept as a 0-dimensional float64 tensor, which promotes no other dtype. That tensor alone holds the
    value: every backend, ``repr`` and checkpoints see what is written to it in place. Changing it recompiles nothing,
    and ``.half()``, ``.to_empty()`` or a meta device do not touch its value.

    A number is ``[]``; or ``[C]``, which belongs to dimension 1 of the step ``[B, C, *]`` (its channels or features);
    any other shape broadcasts against the step without its batch dimension.
    """

    limits: ClassVar[dict[str, tuple[float, float]]] = {}
    """The smallest and largest value that each number may have, by name."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Raises TypeError for arguments that the constructor does not take; it explains names of other frameworks."""
        if args or kwargs:
            _peers.check_arguments(cls, args, kwargs)
        return super().__new__(cls)

    def __init__(self) -> None:
        super().__init__()
        self._declared: dict[str, bool] = {}  # for each name, whether it was given as a float
        self._changes = 0  # how often an attribute was set or deleted; compiled graphs run only while it stays
        self._signature: Any = None  # what the equation read when this was last looked up

    def numbers(self, **values: Number) -> None:
        """Declares the numbers of this module's equation, each a float, a Tensor or an nn.Parameter."""
        for name, value in values.items():
            if name not in self._declared and hasattr(self, name):
                raise ValueError(f"{type(self).__name__}: {name!r} is an attribute already; choose another name")
            self._declare(name, value)

    def bind(self, step_shape: torch.Size, dtype: torch.dtype) -> Self:
        """A read-only view of this module whose numbers broadcast against one step ``[B, *]``.

        Equations run on such views. Numbers read from one are tensors; writing any attribute raises.
        """
        return self.bind_to(dict(zip(self.all_names(), self.all_numbers(step_shape, dtype), strict=True)))

    def bind_to(self, numbers: dict[str, Tensor]) -> Self:
        """A read-only view of this module with the given tensors as the numbers of :meth:`all_names`."""
        view = object.__new__(type(self))
        for name in self._attributes_read(id(self), self._changes):
            view.__dict__[name] = self.__dict__[name]
        view.__dict__["_parameters"] = view.__dict__["_buffers"] = {}  # only declared numbers can be read
        for name, number in numbers.items():
            if "." not in name:
                view.__dict__[name] = number
        for child, part in self._parts_of_its_own():
            prefix = f"{child}."
            inner = {name.removeprefix(prefix): n for name, n in numbers.items() if name.startswith(prefix)}
            view.__dict__[child] = part.bind_to(inner)
        view.__dict__["_signature"] = None
        view.__dict__["_bound"] = True
        return view

    @known_while_tracing
    def _attributes_read(self, who: int, changes: int) -> list[str]:
        """Names of the attributes that equations may read, besides numbers.

        The arguments are there for Dynamo's guards on them; before PyTorch 2.12 it cannot go through ``__dict__``.
        """
        found = [name for name, value in self.__dict__.items() if name[0] == "_" or not isinstance(value, Tensor)]
        found.remove("_signature")  # which belongs to the module itself
        return found

    def own_numbers(self) -> list[Tensor]:
        """The numbers that this module itself declares, without those of its parts."""
        buffers, parameters = self._buffers, self._parameters
        return [buffers[name] if name in buffers else parameters[name] for name in self._declared]  # type: ignore[misc]

    def parts(self) -> list[tuple[str, Declared]]:
        """This module and the parts of its equation, as ``(prefix of its numbers, part)``."""
        found: list[tuple[str, Declared]] = [("", self)]
        for child, part in self._parts_of_its_own():
            if part._modules:
                found += [(f"{child}.{prefix}", inner) for prefix, inner in part.parts()]
            else:
                found.append((f"{child}.", part))
        return found

    def _parts_of_its_own(self) -> list[tuple[str, Declared]]:
        return [(name, child) for name, child in self._modules.items() if isinstance(child, Declared)]

    def all_names(self) -> list[str]:
        """Names of the numbers of all parts, dotted: ``tau``, ``surrogate.scale``."""
        return [prefix + name for prefix, part in self.parts() for name in part._declared]

    def all_numbers(self, step_shape: torch.Size, dtype: torch.dtype) -> list[Tensor]:
        """The numbers of :meth:`all_names`, shaped to broadcast against one step."""
        return [part.broadcast(name, step_shape, dtype) for _, part in self.parts() for name in part._declared]

    def constants(self) -> dict[str, Any]:
        """The numbers that are not learnable and the options that the equation depends on."""
        found: dict[str, Any] = {}
        for name, is_float in self._declared.items():
            if name in self._buffers:
                number = getattr(self, name)
                found[name] = number.item() if is_float and number.ndim == 0 else _fingerprint(number)
        return found

    def signature(self) -> Signature:
        """All that the equation reads besides numbers, inputs and states; the same object until any of it changes.

        This includes code, options, classes, helpers and global values: all that names in the code may lead to. Where
        something could change unnoticed, ``refused`` says what and where, and no kernel replaces the equation.
        """
        found: Signature | None = self._signature
        if found is None or not found.holds(self):
            found = self.__dict__["_signature"] = Signature.of(self)
        return found

    def _declare(self, name: str, value: Number) -> None:
        who = f"{type(self).__name__}.{name}"
        if isinstance(value, nn.Parameter) and name in self._parameters:  # load_state_dict(assign=True) does this
            self._parameters[name] = value
            return
        if isinstance(value, (int, float, Tensor)):
            self._check_limits(name, value, who)
        if isinstance(value, nn.Parameter):
            _check_dtype(value, who)
            self._forget(name)
            self.register_parameter(name, value)
            self._declared[name] = False
        elif isinstance(value, Tensor) and value.ndim > 0:
            _check_dtype(value, who)
            if value.requires_grad:
                raise TypeError(f"{who}: got a tensor that requires a gradient; wrap it in nn.Parameter to learn it")
            self._forget(name)
            self.register_buffer(name, value.detach().clone(), persistent=False)
            self._declared[name] = False
        elif isinstance(value, Tensor) or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            self._declare_float(name, float(value))
        else:
            raise TypeError(
                f"{who}: expected a float, a Tensor or an nn.Parameter, got {type(value).__name__}"
                f"{_peers.of_value(name, value)}"
            )

    def _check_limits(self, name: str, value: Number, who: str) -> None:
        if isinstance(value, Tensor) and (name not in self.limits or value.is_meta or value.numel() == 0):
            return
        low, high = self.limits.get(name, (-math.inf, math.inf))
        least = float(value.detach().min()) if isinstance(value, Tensor) else value
        most = float(value.detach().max()) if isinstance(value, Tensor) else value
        if not (low <= least and most <= high):  # also refuses NaN
            raise ValueError(f"{who}: expected {_interval(low, high)}, got {least if least == most else value}")

    def _declare_float(self, name: str, value: float) -> None:
        if self._declared.get(name):  # written in place so that compiled code and captured graphs see the new value
            with torch.no_grad():
                getattr(self, name).fill_(value)
        else:
            self._forget(name)
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64, device="cpu"), persistent=False)
        self._declared[name] = True

    def _forget(self, name: str) -> None:
        self._changed()
        self._declared.pop(name, None)
        self._parameters.pop(name, None)
        self._buffers.pop(name, None)
        self._non_persistent_buffers_set.discard(name)

    def broadcast(self, name: str, step_shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """A declared number, shaped to broadcast against one step ``[B, *]``; ValueError if it does not fit."""
        number: Tensor = getattr(self, name)
        shape = number.shape
        if self._declared[name] and not shape:
            return number
        if shape.numel() == 1:
            return number.reshape(()).to(dtype)
        if len(shape) == 1 and len(step_shape) >= 2:
            fits = shape[0] == step_shape[1]
            number = number.reshape(shape + (1,) * (len(step_shape) - 2))
        else:
            per_sample = step_shape[1:]
            fits = len(shape) <= len(per_sample) and all(
                n in (1, m) for n, m in zip(reversed(shape), reversed(per_sample), strict=False)
            )
        if not fits:
            raise ValueError(
                f"{type(self).__name__}.{name}: a number of shape {list(shape)} does not fit a step of shape "
                f"{list(step_shape)} [B, *]; a 1-D number has one value per channel (dimension 1 of the step), "
                f"other shapes broadcast against {list(step_shape[1:])}"
            )
        return number.to(dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        constants = {name: self._buffers[name] for name in self._declared if name in self._buffers}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in constants.items():  # take device and dtype from what fn returned, but keep the value
            after = self._buffers[name]
            assert before is not None
            assert after is not None
            device = before.device if after.is_meta else after.device
            dtype = _float_dtype(device) if self._declared[name] else after.dtype
            self._buffers[name] = (
                before if (device, dtype) == (before.device, before.dtype) else before.to(device, dtype)
            )
        return self

    def __getattr__(self, name: str) -> Any:
        if self.__dict__.get("_bound") and name not in self._modules:
            raise AttributeError(
                f"{type(self).__name__}: dynamics read self.{name}, which is not declared; declare a number with "
                f"self.numbers({name}=...), and keep other constants as plain values (bool, int, float, str, tuple)"
            )
        if name == "_declared":
            raise AttributeError(
                f"{type(self).__name__}: its numbers were declared or read before its base class was constructed; call "
                "super().__init__() first in __init__, then self.numbers(...) and self.states(...)"
            )
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("_bound"):
            raise AttributeError(
                f"{type(self).__name__}: dynamics wrote self.{name}, but it must be pure; "
                "return what changes over time as a state and declare it with self.states(...)"
            )
        if name in self.__dict__.get("_declared", ()):
            self._declare(name, value)
        else:
            super().__setattr__(name, value)
            if name != "training":  # train() and eval() set it often, so signatures compare it separately
                self._changed()

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__.get("_declared", ()):
            self._forget(name)
        else:
            super().__delattr__(name)
            self._changed()

    def _changed(self) -> None:
        self.__dict__["_changes"] = self.__dict__.get("_changes", 0) + 1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_signature": None}


def is_plain_float(number: Tensor) -> bool:
    """Whether a number was given as a float, so that reading its value does not wait for a device."""
    plain = type(number) is Tensor and number.dtype is torch.float64 and not number.ndim
    return plain and number.is_cpu and not number.requires_grad


def describe(module: Declared) -> str:
    """The declared numbers for ``extra_repr``, as in ``tau=2.0, rho=learnable [64]``."""
    parts = []
    for name, is_float in module._declared.items():
        number = getattr(module, name)
        if is_float and number.ndim == 0:
            value = number.item()  # torch.export gives a symbol here instead of a float
            parts.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")
        else:
            kind = "learnable " if name in module._parameters else "constant "
            parts.append(f"{name}={kind}{list(number.shape)}")
    return ", ".join(parts)


def _float_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # mps has no float64


def _interval(low: float, high: float) -> str:
    if (low, high) == (-math.inf, math.inf):
        return "a number"
    if (low, high) == (POSITIVE[0], math.inf):
        return "a positive number"
    return f"a number of at least {low:g}" if high == math.inf else f"a number from {low:g} to {high:g}"


def _check_dtype(value: Tensor, who: str) -> None:
    if not value.dtype.is_floating_point:
        raise TypeError(f"{who}: expected a floating-point tensor, got {value.dtype}")


def _fingerprint(value: Tensor) -> list[Any]:
    """The values of a small constant tensor, or shape and digest of a large one."""
    plain = value.detach().to("cpu", torch.float32).contiguous()
    if plain.numel() <= 64:
        return [list(plain.shape), plain.flatten().tolist()]
    return [list(plain.shape), hashlib.sha256(plain.numpy().tobytes()).hexdigest()]
