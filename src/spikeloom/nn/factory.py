"""factory: how layers and models that hold several neurons make them, by a function that their user may give."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

NeuronFactory = Callable[..., nn.Module]
"""Makes the neuron of a place: it is given what the place sets, such as ``v_threshold``, and ``features``, the number
of channels, if it has that argument."""


class FactoryError(TypeError):
    """A factory was refused at a place, which the message names."""


def checked(factory: Any, who: str) -> NeuronFactory:
    """The factory; raises TypeError, in the name of ``who``, for a neuron and for what cannot be called."""
    if isinstance(factory, nn.Module):
        kind = type(factory).__name__
        raise TypeError(
            f"{who}: neuron must be a function that makes a neuron for each place, got one neuron, {kind}; give "
            f"the class, functools.partial(sl.{kind}, ...) or a lambda"
        )
    if not callable(factory):
        raise TypeError(f"{who}: neuron must be a function that returns a neuron, got {factory!r}")
    made: NeuronFactory = factory
    return made


def neuron_by(factory: NeuronFactory, where: str, features: int, **place: Any) -> nn.Module:
    """The neuron of a place with so many channels; ``place`` is what the paper sets there."""
    if _takes(factory, "features"):
        place["features"] = features
    try:
        neuron = factory(**place)
    except FactoryError:  # of a factory that asks another one, and says of which model
        raise
    except TypeError as problem:
        given = ", ".join(f"{name}={value!r}" for name, value in place.items())
        raise FactoryError(
            f"{where}: the neuron factory failed when called with ({given}): {problem}; it must take "
            "what the place sets, as lambda **place: sl.LIF(tau=2.0, **place) does"
        ) from problem
    if not isinstance(neuron, nn.Module):
        raise FactoryError(f"{where}: the neuron factory returned {neuron!r}, which is no module")
    return neuron


@functools.lru_cache(maxsize=64)
def _takes(factory: NeuronFactory, name: str) -> bool:
    try:
        return name in inspect.signature(factory).parameters
    except ValueError:  # built-in functions say nothing of their arguments
        return False
