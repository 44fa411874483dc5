"""Rules of one's own: what becomes of an operation that no method knows, or of a module class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from .methods import Method
from .sites import Site

Verdict = nn.Module | Literal["keep", "difference"]


@dataclass(frozen=True)
class Rule:
    """What becomes of one kind of operation; :func:`rule` makes it.

    >>> import torch
    >>> import spikeloom as sl
    >>> found = sl.convert.rule(torch.nn.Softmax)(lambda site, method: "difference")
    >>> type(found).__name__, found.key.__name__, found.function(None, None)
    ('Rule', 'Softmax', 'difference')
    """

    key: str | type[nn.Module]
    function: Callable[[Site, Method], Verdict]


def rule(key: str | type[nn.Module]) -> Callable[[Callable[[Site, Method], Verdict]], Rule]:
    """Makes a function the rule of an operation, by its word in the vocabulary, or of a class of modules.

    The function ``f(site, method)`` gives what takes its place: a module; ``"keep"``, to leave it as it is at each step
    (right for what is linear, or where each step is a value by itself); or ``"difference"``, to compute it on the
    value that its input has so far. It raises :class:`ConversionError` where it can do none. A module class that is a
    key is not looked into. ``site.histogram`` has the absolute values of the operation's output on the calibration
    data, by channel, and ``site.number(values)`` makes values by channel a number of a neuron.

    >>> import torch
    >>> import spikeloom as sl
    >>> class Square(torch.nn.Module):
    ...     def forward(self, x):
    ...         return x**2
    >>> @sl.convert.rule(Square)
    ... def square(site, method):
    ...     return "difference"
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(3, 2), Square()), torch.rand(4, 3)
    >>> result = sl.convert.convert(model, sl.convert.Delta(), example=x, rules=sl.convert.Rules(square))
    >>> torch.allclose(result(x, T=2), model(x), atol=1e-6)
    True
    """

    def made(function: Callable[[Site, Method], Verdict]) -> Rule:
        return Rule(key, function)

    return made


class Rules:
    """Rules for one conversion; of several for one key the last holds.

    Args:
        rules: what :func:`rule` made.
    """

    def __init__(self, *rules: Rule) -> None:
        for given in rules:
            if not isinstance(given, Rule):
                raise TypeError(f"Rules takes what @sl.convert.rule(...) makes, got {type(given).__name__}")
        self._rules = {given.key: given.function for given in rules}

    @property
    def classes(self) -> tuple[type[nn.Module], ...]:
        """The classes of modules that are keys."""
        return tuple(key for key in self._rules if isinstance(key, type))

    def find(self, module: nn.Module | None, name: str) -> Callable[[Site, Method], Any] | None:
        """The rule of a module or an operation; None where there is none."""
        for kind in type(module).__mro__ if module is not None else ():
            if kind in self._rules:
                return self._rules[kind]
        return self._rules.get(name)
