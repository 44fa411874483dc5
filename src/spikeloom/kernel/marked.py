"""marked: what ``fire`` was given in a step, u, as one state more, so that loops and kernels record it as a state.

No equation reads that state. A program with it is another program than one without, under a key of its own, so that a
neuron of which nobody records u has the kernels that it would have if there were no u.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

U = "given_to_fire"
"""The name of the state in programs; recordings call it ``u``."""


def marked(bound: Any) -> Any:
    """The view ``bound``, whose ``dynamics`` takes one state more, which it does not read, and gives u in its place.

    ``bound`` is a new view of a neuron (of an option: with the inner neuron's view as ``neuron``), which is changed. It
    raises ValueError, when it runs, where a step has no u or several of which none made the neuron's output.
    """
    core = bound
    while "neuron" in vars(core):
        core = vars(core)["neuron"]
    whole, inner, fire = bound.dynamics, core.dynamics, core.fire
    given: list[tuple[Tensor, Any]] = []
    made: list[Any] = []

    def noted(u: Tensor) -> Any:
        spikes = fire(u)
        given.append((u, spikes))
        return spikes

    def innermost(*x_and_states: Tensor) -> Any:
        out = inner(*x_and_states)
        made.append(_values(out)[0])
        return out

    def dynamics(*x_and_states: Tensor) -> tuple[Any, ...]:
        given.clear()
        made.clear()
        out = _values(whole(*x_and_states[:-1]))
        u = _chosen(type(core), given, made or [out[0]])
        given.clear()
        made.clear()
        return (*out, u)

    vars(core)["fire"] = noted
    if core is not bound:
        vars(core)["dynamics"] = innermost
    vars(bound)["dynamics"] = dynamics
    return bound


def _values(out: Any) -> tuple[Any, ...]:
    return (out,) if isinstance(out, Tensor) else tuple(out)


def _chosen(kind: Any, given: list[tuple[Tensor, Any]], made: list[Any]) -> Tensor:
    """What fire was given where it was called once; else where it gave the output, or where the class says."""
    if len(given) == 1:
        return given[0][0]
    found = [u for u, spikes in given if any(spikes is out for out in made)]
    if len(found) == 1:
        return found[0]
    if given and kind.which_u is not None:
        which: int = kind.which_u
        return given[which][0]
    what = f"calls self.fire {len(given)} times in a step" if given else "never calls self.fire"
    raise ValueError(f"{kind.__name__}: cannot record 'u': its dynamics {what}; record its states")
