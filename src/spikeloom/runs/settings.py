"""Settings of a run: dataclasses whose fields know their help, their range and their choices.

A recipe's ``Config`` derives from :class:`Config`; the command line makes an option of every field, and a TOML or YAML
file may give any of them. A key that no field has, or a value out of range, raises :class:`ConfigError` and says where.
"""

from __future__ import annotations

import difflib
import json
import math
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

_LARGEST = 2**63 - 1  # whole numbers beyond this raise, as TOML and torch have none; seeds may be larger


class UserError(Exception):
    """A problem that the user can put right; the command line prints it without a traceback.

    Args:
        message: the problem; where it is one of a setting, it begins with the setting's name.
        setting: that name, if so.
    """

    def __init__(self, message: str, *, setting: str | None = None) -> None:
        super().__init__(message)
        self.setting = setting

    def typed(self) -> str:
        """The message, with the setting named as its option is typed on the command line."""
        text = str(self)
        return text if self.setting is None else option_name(self.setting) + text.removeprefix(self.setting)


def option_name(setting: str) -> str:
    """The option of a setting, as in ``--batch-size``."""
    return f"--{setting.replace('_', '-')}"


class ConfigError(UserError):
    """A setting does not exist, or cannot have the given value."""


def option(
    default: Any,
    text: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
    names: Callable[[], Sequence[str]] | None = None,
) -> Any:
    """A dataclass field with its help text; ``minimum`` and ``maximum`` are allowed values, ``above`` is not.

    ``choices`` are few, and help and errors list them; ``names()`` are many, of which errors list the nearest.

    >>> from dataclasses import dataclass
    >>> import spikeloom as sl
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Mine(sl.runs.Settings):
    ...     leak: float = sl.runs.option(0.5, "share of the voltage that stays", minimum=0.0, maximum=1.0)
    >>> Mine(leak=1)
    Mine(leak=1.0)
    >>> Mine(leak=2.0)
    Traceback (most recent call last):
        ...
    spikeloom.runs.settings.ConfigError: leak must be at most 1.0, got 2.0
    """
    limits = {"minimum": minimum, "maximum": maximum, "above": above, "choices": choices, "names": names}
    return field(default=default, metadata={"help": text, **{k: v for k, v in limits.items() if v is not None}})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A frozen dataclass that checks its values.

    >>> from dataclasses import dataclass
    >>> import spikeloom as sl
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Mine(sl.runs.Settings):
    ...     T: int = 8
    ...     encoding: str = sl.runs.option("rate", "how pixels become spikes", choices=("rate", "latency"))
    >>> Mine(T=4)
    Mine(T=4, encoding='rate')
    >>> Mine(encoding="latencies")
    Traceback (most recent call last):
        ...
    spikeloom.runs.settings.ConfigError: encoding must be one of rate, latency, got 'latencies'; did you mean 'latency'?
    """

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(type(self))
        for f in fields(self):
            object.__setattr__(self, f.name, _checked(type(self), f.name, kinds[f.name], getattr(self, f.name)))


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """The settings that every recipe has and that a run's numbers depend on."""

    epochs: int = option(10, "epochs to train; the last one counts", minimum=1)
    batch_size: int = option(64, "samples per step, of all processes together", minimum=1)
    lr: float = option(1e-3, "learning rate (the highest one, where it changes)", above=0.0, maximum=1e6)
    seed: int = option(0, "of weights, order, noise, and splits", minimum=0, maximum=2**64 - 1)
    validation: float = option(
        0.0, "share of the training samples held out and measured each epoch", minimum=0, maximum=0.9
    )
    subset: int | None = option(None, "train on so many samples only, for trials", minimum=1)
    amp: str = option("off", "automatic mixed precision", choices=("off", "bfloat16", "float16"))

    def loading(self) -> dict[str, Any]:
        """The options of :func:`spikeloom.data.loaders` that are settings."""
        return {name: getattr(self, name) for name in ("batch_size", "validation", "subset", "seed")}


@dataclass(frozen=True, kw_only=True)
class Machine(Settings):
    """The settings of where and how a run is computed; its numbers do not depend on them beyond rounding.

    >>> import spikeloom as sl
    >>> sl.runs.Machine(device="cpu", workers=2).save_every
    1000
    >>> sl.runs.Machine(workers=-1)
    Traceback (most recent call last):
        ...
    spikeloom.runs.settings.ConfigError: workers must be at least 0, got -1
    """

    device: str = option("auto", "cpu, cuda, cuda:1, mps, ...; auto is the first GPU, or the CPU")
    backend: str = option("auto", "kernels of neurons", choices=("auto", "eager", "c", "triton"))
    graph: bool = option(False, "training steps as CUDA graphs, on a GPU and in one process")
    workers: int = option(0, "processes that load data; batches do not depend on them", minimum=0, maximum=1024)
    data_root: str | None = option(None, "folder of the data sets (default: SPIKELOOM_DATA, or ./data)")
    save_every: int = option(1000, "steps between checkpoints, besides one at the end of each epoch", minimum=1)


def split(values: Mapping[str, Any], *kinds: type[Settings], where: str) -> list[dict[str, Any]]:
    """Splits named values between the settings classes that have them; a name that none has raises.

    >>> import spikeloom as sl
    >>> values = {"lr": 0.1, "workers": 2}
    >>> sl.runs.split(values, sl.runs.Config, sl.runs.Machine, where="settings.toml")
    [{'lr': 0.1}, {'workers': 2}]
    >>> sl.runs.split({"epoch": 3}, sl.runs.Config, where="settings.toml")
    Traceback (most recent call last):
        ...
    spikeloom.runs.settings.ConfigError: settings.toml: there is no setting 'epoch'; did you mean 'epochs'?
    """
    known = [{f.name for f in fields(kind)} for kind in kinds]
    everything = sorted(set().union(*known))
    for name in values:
        if name not in everything:
            near = difflib.get_close_matches(name, everything, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(everything)}"
            raise ConfigError(f"{where}: there is no setting {shown(name)}; {hint}")
    return [{n: v for n, v in values.items() if n in names} for names in known]


def to_toml(values: Mapping[str, Any]) -> str:
    """Values as TOML, one name a line. None is left out, because TOML does not have it; the default then applies.

    >>> import spikeloom as sl
    >>> print(sl.runs.to_toml({"recipe": "digits", "lr": 0.1, "amp": "off", "subset": None}), end="")
    recipe = "digits"
    lr = 0.1
    amp = "off"
    """
    lines = [f"{name} = {_toml(value)}" for name, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def _checked(kind_of: type[Settings], name: str, kind: Any, value: Any) -> Any:
    """The value in the field's type; one of another type or outside the limits raises."""
    kinds = [k for k in typing.get_args(kind) if k is not type(None)] if isinstance(kind, types.UnionType) else [kind]
    if value is None and isinstance(kind, types.UnionType):
        return None
    wanted = kinds[0]
    if isinstance(value, int) and not isinstance(value, bool) and wanted is float:
        value = float(value) if value.bit_length() < 1000 else math.inf * (1 if value > 0 else -1)
    if type(value) is not wanted:
        raise _wrong(name, f"must be {_article(wanted)}, got {shown(value)}")
    if wanted is float and not math.isfinite(value):
        raise _wrong(name, f"must be finite, got {value}")
    limits = {"maximum": _LARGEST, **metadata(kind_of, name)} if wanted is int else metadata(kind_of, name)
    if "choices" in limits and value not in limits["choices"]:
        near = difflib.get_close_matches(str(value), limits["choices"], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise _wrong(name, f"must be one of {', '.join(limits['choices'])}, got {shown(value)}{hint}")
    if "names" in limits and value not in limits["names"]():
        near = difflib.get_close_matches(value, limits["names"](), n=3)
        raise _wrong(name, f"has no {shown(value)}" + (f"; the nearest are {', '.join(near)}" if near else ""))
    if "minimum" in limits and not value >= limits["minimum"]:
        raise _wrong(name, f"must be at least {limits['minimum']}, got {shown(value)}")
    if "maximum" in limits and not value <= limits["maximum"]:
        raise _wrong(name, f"must be at most {limits['maximum']}, got {shown(value)}")
    if "above" in limits and not value > limits["above"]:
        raise _wrong(name, f"must be more than {limits['above']:g}, got {shown(value)}")
    if wanted is str and "\0" in value:
        raise _wrong(name, f"must be text without NUL characters, got {shown(value)}")
    return value


def _wrong(name: str, problem: str) -> ConfigError:
    return ConfigError(f"{name} {problem}", setting=name)


def shown(value: Any) -> str:
    """A value as text for a message; long text and huge numbers are shortened."""
    if type(value) is int and value.bit_length() > 128:
        return f"a whole number of about {value.bit_length() * 3 // 10:,} digits"
    return _short.repr(value)


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def _article(kind: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


def metadata(kind: type[Settings], name: str) -> Mapping[str, Any]:
    """Help and limits of a field; a subclass that only gives another default keeps those of its base."""
    for base in kind.__mro__:
        found: Field[Any] | None = vars(base).get("__dataclass_fields__", {}).get(name)
        if found is not None and found.metadata:
            return found.metadata
    return {}
