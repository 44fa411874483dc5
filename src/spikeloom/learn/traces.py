"""Traces of spikes: what is left of them at later steps. They are neurons, so that kernels run them.

all       tr <- keep tr + s
nearest   tr <- 1 where s > 0, else keep tr

``keep`` is ``1 - 1/tau`` (``decay="euler"``) or ``exp(-1/tau)`` (``"exponential"``).
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import torch
from torch import Tensor

from ..neuron import Neuron
from .products import as_values

Decay = Literal["euler", "exponential"]
Pairing = Literal["all", "nearest"]


class Trace(Neuron):
    """A trace; its output is the trace after the spikes of its step, or where ``before``, without them."""

    is_binary = False

    def __init__(self, *, tau: float, decay: Decay, pairing: Pairing, before: bool) -> None:
        super().__init__(reset="none")
        self.numbers(keep=kept(tau, decay))
        self.nearest, self.before = pairing == "nearest", before
        self.states(trace=0.0)

    def dynamics(self, x: Tensor, trace: Tensor) -> tuple[Tensor, Tensor]:
        decayed = self.keep * trace
        new = torch.where(x > 0, torch.ones_like(decayed), decayed) if self.nearest else decayed + x
        return (decayed if self.before else new), new

    keep: Tensor


def kept(tau: float, decay: Decay) -> float:
    """What is left of a trace after a step."""
    return 1 - 1 / tau if decay == "euler" else math.exp(-1 / tau)


def check_tau(who: str, decay: str, **taus: float) -> None:
    """Raises ValueError for time constants or a decay that are none."""
    if decay not in ("euler", "exponential"):
        raise ValueError(f"{who}: decay must be euler or exponential, got {decay!r}")
    for name, tau in taus.items():
        least = 1.0 if decay == "euler" else 0.0
        if not (math.isfinite(tau) and tau >= least and tau > 0):
            bound = "at least 1 step" if decay == "euler" else "above 0"
            raise ValueError(f"{who}: {name} must be finite and {bound}, got {tau}")


def check_pairing(who: str, pairing: object) -> tuple[Pairing, Pairing]:
    """The pairings of pre and post traces; raises ValueError for others."""
    pair = pairing if isinstance(pairing, tuple) else (pairing, pairing)
    if len(pair) != 2 or not all(p in ("all", "nearest") for p in pair):
        raise ValueError(
            f"{who}: pairing must be all, nearest or a pair of these for (pre, post), or in STDP presynaptic or "
            f"reduced; got {pairing!r}"
        )
    return pair


@functools.lru_cache(maxsize=256)
def _neuron(tau: float, decay: Decay, pairing: Pairing, before: bool, device: str) -> Trace:
    """The neuron of a trace, which is kept, because a new one costs more than a step of it.

    It depends on the arguments alone, and nobody is given it who could change it; what its equation leads to is
    compared before each call, as for any neuron.
    """
    return Trace(tau=tau, decay=decay, pairing=pairing, before=before).to(device)


def run(
    x: Tensor,
    *,
    tau: float,
    decay: Decay = "euler",
    pairing: Pairing = "all",
    before: bool = False,
    state: Any = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Any]:
    """The trace of ``x`` ``[T, B, *]`` at each step, and its state after the last one."""
    neuron = _neuron(tau, decay, pairing, before, str(x.device))
    with torch.no_grad():
        y, new = neuron.sequence(x, state=state, lengths=lengths)
    return y, new


def trace(
    x: Tensor,
    *,
    tau: float,
    decay: Decay = "euler",
    pairing: Pairing = "all",
    lengths: Tensor | None = None,
) -> Tensor:
    """The trace that spikes leave: ``tr[t] = keep tr[t-1] + x[t]``, with ``keep = 1 - 1/tau`` or ``exp(-1/tau)``.

    Args:
        x: spikes or rates ``[T, B, *]``.
        tau: time constant in steps.
        decay: ``"euler"`` decays by ``1 - 1/tau`` (tau is at least 1), ``"exponential"`` by ``exp(-1/tau)``.
        pairing: ``"all"`` adds up all spikes, ``"nearest"`` remembers the last one: it is set to 1 at each spike.
        lengths: valid steps of each sample; the trace is 0 at later ones.

    Returns ``[T, B, *]`` without gradient; steps of the trace contain the spikes of their own step.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.learn.trace(torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1), tau=2.0).flatten()
    tensor([1.0000, 0.5000, 1.2500])
    """
    check_tau("learn.trace", decay, tau=tau)
    check_pairing("learn.trace", pairing)

    x = as_values(x, x.dtype if x.is_floating_point() else torch.get_default_dtype(), "learn.trace", ndim=2)
    return run(x, tau=tau, decay=decay, pairing=pairing, lengths=lengths)[0]
