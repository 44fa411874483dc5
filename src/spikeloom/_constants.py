"""Constants in every ``state_dict``: the values besides its parameters that decide what a module computes.

Values are stored as text in a float32 tensor of whole numbers from 0 to 15, one for each half of a byte. After
averaging equal checkpoints, a moving average or a cast to half precision (8 bits of mantissa are enough), rounding
gives the same numbers again. Each constant is a line with a check sum of its own, so that an average of different
values is detected, and the error names the constant.
"""

from __future__ import annotations

import functools
import json
import math
import re
import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

_KEY = "_extra_state"
_FIRST = " at first"  # "lam at first" is the value that the adjustable constant lam was constructed with
_LINE = 32  # bytes; lines are padded to a multiple of it, so that most checkpoints have equal shapes to average
_ABSENT = "absent"
_ROUNDING = 2**-22
_SILENT = (
    f"the given weights say nothing of the constants of neurons (they have no '{_KEY}', as those of an ordinary model "
    "or of another framework): what the neurons were constructed with stays"
)
_PLAIN = (bool, int, float, str, type(None))


class HasConstants(nn.Module):
    """Base of modules whose constants are part of ``state_dict()`` and are compared when weights are loaded.

    Constants are the public attributes that are plain values: numbers, text, None, tuples of these, and functions,
    which are stored by name. A subclass lists those that do not affect its dynamics in ``not_carried``, and calls
    :meth:`adjustable` for those that change in training.
    """

    not_carried: ClassVar[tuple[str, ...]] = ("training",)
    """Public attributes that loading does not compare, in addition to those that the base classes list."""
    must_carry: ClassVar[bool] = False
    """Whether ``strict`` loading requires constants. Checkpoints older than a module's constants have none."""

    _first: Mapping[str, Any] = {}  # shared by all instances: replace it, never write to it
    _driven: tuple[str, ...] = ()

    def constants(self) -> dict[str, Any]:
        """The constants by name that checkpoints hold besides parameters and buffers; empty if there are none."""
        found = self._attributes()
        return {"module": kind(self), **found} if found else {}

    def adjustable(self, **values: Any) -> None:
        """Declares constants that change in training as a buffer does, with their first values.

        Loading takes over the checkpoint's present value if both modules had the same first value, else it raises.
        """
        self.__dict__["_first"] = {**self._first, **values}

    def drive(self, name: str) -> None:
        """Declares that a schedule sets this constant: loading leaves it alone, for the schedule's state holds it."""
        self.__dict__["_driven"] = (*self._driven, name)

    def get_extra_state(self) -> Tensor:
        """The constants, for ``state_dict``."""
        mine = self.constants()
        first = {name + _FIRST: value for name, value in self._first.items() if name in mine and mine[name] != value}
        return encode({**mine, **first})

    def set_extra_state(self, state: Any) -> None:
        """Does nothing, because ``_load_from_state_dict`` compares the constants."""

    def _attributes(self) -> dict[str, Any]:
        """The public attributes that are plain values."""
        skipped = {name for base in type(self).__mro__ for name in vars(base).get("not_carried", ())}
        found = {}
        for name, value in self.__dict__.items():
            if name[0] != "_" and name not in skipped:
                plain = _plain(value)
                if plain is not _NOTHING:
                    found[name] = plain
        return found

    def _carries(self) -> bool:
        """Whether the extra state is this class's; a subclass may have one of its own instead."""
        return type(self).get_extra_state is HasConstants.get_extra_state

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._carries() and not self.constants():
            del destination[prefix + _KEY]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if not self._carries():
            return
        missing: list[str] = args[2]
        problems: list[str] = args[4]
        if prefix + _KEY in state_dict:
            problems += [prefix + problem for problem in self._compare(state_dict[prefix + _KEY])]
        elif prefix + _KEY in missing:
            missing.remove(prefix + _KEY)
            if self.must_carry and self.constants():
                warnings.warn(_SILENT, stacklevel=2)

    def _compare(self, saved: Any) -> list[str]:
        """The reasons to refuse weights with these constants; takes over the values of adjustable ones."""
        if isinstance(saved, Tensor) and saved.is_meta:  # a meta tensor has no values to compare
            return []
        mine = self.constants()
        try:
            theirs, whole = decode(saved, mine)
        except ValueError as problem:
            return [f"{_KEY}: {problem}"]
        wrong, adjusted = [], {}
        for name in sorted(theirs.keys() | mine.keys()):
            there, here = theirs.get(name, _ABSENT), mine.get(name, _ABSENT)
            if _same(there, here) or name.endswith(_FIRST):
                continue
            if name in self._first and there is not _ABSENT:
                if name in self._driven:
                    continue
                if _same(theirs.get(name + _FIRST, there), self._first[name]):
                    adjusted[name] = there
                    continue
            if there is _ABSENT and not whole and not isinstance(getattr(self, name, None), (*_PLAIN, Tensor)):
                continue  # checkpoints stored as bytes hold only numbers and plain values
            wrong.append(
                f"{name} is {_short(there)} in the checkpoint but {_short(here)} in this {kind(self)}: the weights "
                f"belong to other dynamics. Construct the {kind(self)} with the checkpoint's value, or drop the keys "
                f"that end in '{_KEY}', which loads with a warning{_or_not_carried(self)}"
            )
        if not wrong:
            for name, value in adjusted.items():
                setattr(self, name, value)
        return wrong


def kind(module: nn.Module) -> str:
    """The name of a module's class, also where torch has put a class around it (sharding, parametrisation)."""
    return next(c.__name__ for c in type(module).__mro__ if c.__module__.split(".")[0] != "torch" or c is nn.Module)


def _or_not_carried(module: nn.Module) -> str:
    if type(module).__module__.partition(".")[0] in ("spikeloom", "torch"):
        return ""
    return "; what is no part of what the module computes is named in its class attribute not_carried"


def encode(constants: Mapping[str, Any]) -> Tensor:
    """The constants as a float32 tensor of whole numbers, which every checkpoint format for tensors can hold."""
    lines = []
    for name, value in sorted(constants.items()):
        text = json.dumps({name: value})
        line = f"{zlib.crc32(text.encode()):08x}{text}"
        lines.append(line + " " * (-(len(line) + 1) % _LINE) + "\n")
    halves = [half for byte in "".join(lines).encode() for half in (byte >> 4, byte & 15)]
    return torch.tensor(halves, dtype=torch.float32, device="cpu")


def decode(saved: Any, mine: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The inverse of :func:`encode`, and whether the values have check sums; older versions stored the bytes of JSON.

    Raises ValueError for damaged constants and for anything else; the error shows the values of this module, ``mine``.
    """
    numbers = _whole_numbers(saved)
    if max(numbers, default=0) > 15:
        return _from_bytes(numbers), False
    text = bytes(16 * high + low for high, low in zip(numbers[::2], numbers[1::2], strict=False))
    found: dict[str, Any] = {}
    broken: list[str] = []
    for line in text.removesuffix(b"\n").split(b"\n"):
        content = line[8:].rstrip(b" ")
        if line[:8] == b"%08x" % zlib.crc32(content):
            found.update(json.loads(content))
        else:
            name = re.match(rb'\{"([\w. ]+)": ', content)
            broken.append(name[1].decode() if name and name[1].decode() in mine else "")
    if broken:
        named = ", ".join(f"{name} (here {_short(mine[name])})" for name in broken if name)
        raise ValueError(
            f"expected constants stored by spikeloom, but {named or 'they'} cannot be read: they are damaged, or an "
            "average of checkpoints with different dynamics, which belongs to none. Average checkpoints of equal "
            f"dynamics, or drop the keys that end in '{_KEY}', which loads with a warning"
        )
    return found, True


def _whole_numbers(saved: Any) -> list[int]:
    """The values of a tensor, rounded to whole numbers from 0 to 255."""
    if not isinstance(saved, Tensor) or saved.is_complex():
        raise ValueError(f"expected constants stored by spikeloom, got {getattr(saved, 'dtype', type(saved).__name__)}")
    gather: Callable[[], Tensor] | None = getattr(saved, "full_tensor", None)  # a sharded tensor has this method
    values = (saved if gather is None else gather()).detach().to("cpu", torch.float64).flatten().round()
    if not bool(((values >= 0) & (values <= 255)).all()):  # NaN fails both comparisons
        raise ValueError(
            f"expected constants stored by spikeloom, got numbers from {float(values.min()):g} to "
            f"{float(values.max()):g}; do not scale or shift the keys that end in '{_KEY}'"
        )
    return [int(value) for value in values.tolist()]


def _from_bytes(numbers: list[int]) -> dict[str, Any]:
    try:
        found = json.loads(bytes(numbers).decode())
    except ValueError as error:
        raise ValueError("expected constants stored by spikeloom, got other bytes") from error
    if not isinstance(found, dict):
        raise ValueError("expected constants stored by spikeloom, got other JSON")
    return found


_NOTHING = object()


def _plain(value: Any) -> Any:
    """The value in the form that JSON holds, or ``_NOTHING`` if it is no plain value."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, tuple):
        inner = [_plain(v) for v in value]
        return _NOTHING if _NOTHING in inner else inner
    if isinstance(value, functools.partial):
        inner = [_plain(v) for v in (value.func, value.args, *sorted(value.keywords.items()))]
        return _NOTHING if _NOTHING in inner else inner
    if callable(value) and not isinstance(value, (type, nn.Module)) and hasattr(value, "__name__"):
        return f"function {value.__name__}"
    return _NOTHING


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal, numbers up to rounding to float32, which is all that some devices hold."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=_ROUNDING) or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
