"""OTTT: weights that learn online from traces of the spikes before them.

    trace[t] = (1 - 1/tau) trace[t-1] + x[t]
    y[t] = layer(x[t]);  backward, dL/dW = sum_t dL/dy[t] trace[t]^T, and dL/dx[t] as ever

Xiao et al., Online Training Through Time for Spiking Neural Networks, NeurIPS 2022.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .._time import masked
from ..core import State, TemporalModule
from ..neuron import LI


class OTTT(TemporalModule):
    """A layer whose weights learn from traces of its input: ``trace[t] = (1 - 1/tau) trace[t-1] + x[t]`` replaces
    ``x[t]`` in the gradient of the weights. Output and gradient of the input are those of the layer.

    Args:
        layer: an affine layer on ``[B, *]`` that keeps no statistics, such as ``nn.Linear`` or ``nn.Conv2d``.
        tau: time constant of the trace in steps; use that of the neurons.

    With :class:`spikeloom.options.SLTT` around the neurons between such layers a network is trained online: gradients
    need no memory of earlier steps but for traces. The input is ``[T, B, *]``; the state ``v`` is the trace, zeros at
    rest. SpikingJelly's ``GradwithTrace`` takes the trace from the neuron before; here the layer keeps it.

    >>> import torch
    >>> import spikeloom as sl
    >>> first, second = sl.options.SLTT(sl.LIF()), sl.options.SLTT(sl.LIF())
    >>> net = sl.Network(torch.nn.Linear(3, 5), first, sl.nn.OTTT(torch.nn.Linear(5, 2)), second)
    >>> net(torch.rand(6, 4, 3)).shape
    torch.Size([6, 4, 2])
    """

    paper = "Xiao et al., Online Training Through Time for Spiking Neural Networks, NeurIPS 2022"
    opaque = True

    def __init__(self, layer: nn.Module, *, tau: float = 2.0) -> None:
        super().__init__()
        if not 1 <= tau < math.inf:
            raise ValueError(f"OTTT: tau must be at least 1 and finite, got {tau}")
        self.layer = layer
        self.trace = LI(tau=tau, decay_input=False)

    def initial_state(self, *x_t: Any) -> State:
        """A trace of zeros."""
        return self.trace.initial_state(*x_t)

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, *]``: ``(y, state)``."""
        self.check_record(record)
        x = masked(xs[0], lengths)
        with torch.no_grad():
            trace, state = self.trace.sequence(x.detach(), state=state, lengths=lengths)
            y = self._all(x)
        if torch.is_grad_enabled():
            seen = self._all(trace + (x - x.detach()))
            y = y + (seen - seen.detach())
        return masked(y, lengths), state

    def _all(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.flatten(0, 1))
        found: Tensor = y.unflatten(0, x.shape[:2])
        return found
