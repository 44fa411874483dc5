"""What errors say where a call does not fit what it calls: keyword arguments, and methods of a user's own layer."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from torch import nn

from .._peers import of_option

_EXPECTED = {
    "step": "def step(self, x_t, state=None), which returns (y_t, state)",
    "sequence": "def sequence(self, x, state=None, lengths=None, record=()), which returns (y, state)",
    "recorded_step": "def recorded_step(self, x_t, state=None, record=()), which returns (y_t, state, {name: x})",
}


class _Stepped(Protocol):
    @property
    def step(self) -> Callable[..., Any]: ...


def check_arguments(who: str, takes: str, body: nn.Module, kwargs: Mapping[str, Any]) -> None:
    """Raises TypeError for a keyword argument that neither ``who`` nor the model takes."""
    unknown, names = _unknown(body.forward, kwargs)
    if unknown:
        raise TypeError(
            f"{who}: there is no argument {unknown!r}: it takes {takes} and what {type(body).__name__}.forward takes, "
            f"{', '.join(names) or 'nothing'}{of_option(unknown)}"
        )


def check_stream_arguments(module: _Stepped, kwargs: Mapping[str, Any]) -> None:
    """Raises TypeError for a keyword argument that no step of a stream takes."""
    if "state" in kwargs:
        raise TypeError("Stream: it keeps the state itself: set stream.state = state before the step")
    body = getattr(module, "body", None)
    called = body.forward if isinstance(body, nn.Module) else module.step
    unknown, names = _unknown(called, kwargs)
    if unknown:
        of = type(body if isinstance(body, nn.Module) else module).__name__
        takes = ", ".join(name for name in names if name != "state") or "nothing"
        raise TypeError(
            f"Stream: there is no argument {unknown!r}: it takes one step x_t [B, *], record, and what {of} takes, "
            f"{takes}; lengths and repeat belong to whole sequences, net(x, lengths=...) and net(x, repeat=T)"
        )


def _unknown(called: Callable[..., Any], kwargs: Iterable[str]) -> tuple[str, list[str]]:
    """The first of the keywords that ``called`` does not take, or an empty string, and the names that it takes."""
    parameters = inspect.signature(called).parameters.values()
    if inspect.Parameter.VAR_KEYWORD in {p.kind for p in parameters}:
        return "", []
    names = [p.name for p in parameters]
    return next((name for name in kwargs if name not in names), ""), names


def explain(
    error: Exception, module: object, method: str, xs: tuple[Any, ...], path: str | None = None, **options: Any
) -> None:
    """Raises TypeError with what is expected of ``module.method(*xs, **options)``, if that is why it has failed.

    That is so where the method takes other arguments, or itself reads a state that is None, which means rest.
    """
    called = getattr(module, method)
    if called.__module__.partition(".")[0] == "spikeloom":
        return
    who = f"{type(module).__name__}.{method}" + (f" at {path!r}" if path else "")
    try:
        inspect.signature(called).bind(*xs, **options)
    except TypeError as misfit:
        inputs = "one input" if len(xs) == 1 else f"{len(xs)} inputs"
        raise TypeError(
            f"{who} does not take {inputs} and {', '.join(options)} ({misfit}): expected {_EXPECTED[method]}"
        ) from error
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    itself = frame.f_code is getattr(called, "__code__", None)
    if itself and options.get("state") is None and "NoneType" in str(error):
        raise TypeError(
            f"{who} was given state=None, which means rest, and failed ({error}): expected {_EXPECTED[method]}; begin "
            "with `if state is None: state = self.initial_state(x_t)`"
        ) from error
