"""DSR: neurons whose gradient is that of their firing rates.

    IF:   v = v + x;                     s = [v >= alpha v_threshold];  y = v_threshold s;       v = v - v_threshold s
    LIF:  v = b v + (1 - b) x, b = exp(-dt / tau);                      y = v_threshold s / dt;  v = v - v_threshold s
    backward, every y[t] is  clamp(mean(x), 0, v_threshold)  (IF)
                        or   clamp(r(x) / tau, 0, v_threshold / dt),  r(x) = sum w[t] x[t] / sum w  (LIF)
    with w[t] = exp(-dt (L - t) / tau), L the sample's last step

Meng et al., Training High-Performance Low-Latency Spiking Neural Networks by Differentiation on Spike Representation,
CVPR 2022.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .._time import duration, masked, trailing
from ..core import State, TemporalModule
from ..kernel import state_dtype
from ..neuron import Neuron


class _Rated(Neuron):
    """The forward pass of DSR's neurons: at ``alpha v_threshold`` they fire a spike of height ``v_threshold``."""

    is_binary = False
    least: Tensor
    alpha: Tensor
    decay: Tensor
    gain: Tensor

    def __init__(self, v_threshold: float, alpha: float, least: float, decay: float) -> None:
        super().__init__(reset="soft")
        learned = nn.Parameter(torch.tensor(v_threshold))
        gain = 1.0 if decay == 1 else 1 - decay
        self.numbers(v_threshold=learned, least=least, alpha=alpha, decay=decay, gain=gain)
        self.states(v=0.0)

    def dynamics(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        threshold = torch.maximum(self.v_threshold, self.least)
        h = self.decay * v + self.gain * x
        spike = self.fire(h - self.alpha * threshold) * threshold
        return spike, h - spike


class _ByRate(TemporalModule):
    """The base of both neurons. ``tau`` is the membrane time constant, infinite for IF; ``dt`` a step in its unit."""

    paper = "Meng et al., Training Low-Latency SNNs by Differentiation on Spike Representation, CVPR 2022"
    opaque = True
    recordable = ("v",)

    def __init__(self, v_threshold: float, alpha: float, least: float, tau: float, dt: float) -> None:
        super().__init__()
        who = type(self).__name__
        if not 0 < alpha <= 1:
            raise ValueError(f"{who}: alpha must be above 0 and at most 1, got {alpha}")
        if not 0 < least <= v_threshold:
            raise ValueError(f"{who}: least must be above 0 and at most v_threshold, got {least} and {v_threshold}")
        if not (tau > 0 and 0 < dt < math.inf):
            raise ValueError(f"{who}: tau and dt must be positive, got {tau} and {dt}")
        self.tau, self.dt = tau, dt
        self.neuron = _Rated(v_threshold, alpha, least, math.exp(-dt / tau))

    @property
    def recordable_by_name(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the neuron."""
        return self.neuron.recordable_by_name

    def initial_state(self, *x_t: Any) -> State:
        """The neuron's state at rest: zeros."""
        return self.neuron.initial_state(*x_t)

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, *]``: ``(spikes, state)``."""
        self.check_record(record)
        x = xs[0]
        with torch.no_grad():
            spikes, *rest = self.neuron.sequence(x, state=state, lengths=lengths, record=record)
        rate = self._rate(x, lengths)
        through = (rate - rate.detach()).to(spikes.dtype).expand_as(x)
        return spikes / self.dt + masked(through, lengths), *rest

    def _rate(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """The rate that the input stands for, ``[B, *]``."""
        wide = masked(x, lengths).to(state_dtype(x.dtype))
        steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
        age = duration(x, lengths) - 1 - steps  # from each sample's own end: from T, padding would shrink all weights
        weights = masked(torch.exp(-self.dt / self.tau * age.to(wide.dtype)), lengths)
        leak = 1.0 if math.isinf(self.tau) else self.tau
        total = trailing(weights.sum(0), x.ndim - 1)
        rate = (trailing(weights, x.ndim) * wide).sum(0) / total / leak
        most = torch.maximum(self.neuron.v_threshold, self.neuron.least) / self.dt
        rate = torch.where(rate < 0, torch.zeros_like(rate), rate)  # the gradient of clamp at 0 depends on the release
        return torch.minimum(rate, most.to(rate.dtype))

    def extra_repr(self) -> str:
        return "" if math.isinf(self.tau) else f"tau={self.tau}, dt={self.dt}"


class DSRIF(_ByRate):
    """IF that is trained by its rate: forward spikes of the height ``v_threshold``, backward ``clamp(mean_t(x), 0,
    v_threshold)`` at every step.

    Args:
        v_threshold: initial value of the threshold, ``neuron.v_threshold``, which is learned and is the spikes' height.
        alpha: the neuron fires at ``alpha v_threshold``.
        least: lower bound of the threshold.

    Input and output are ``[T, B, *]``; the state is ``v``. A run that is split into several calls has the same output,
    but each call's gradient comes from the rate of its own steps.

    >>> import torch
    >>> import spikeloom as sl
    >>> neuron = sl.nn.DSRIF(v_threshold=1.0)
    >>> x = torch.full((4, 1), 0.5, requires_grad=True)
    >>> y, _ = neuron.sequence(x)
    >>> y.flatten().tolist(), torch.autograd.grad(y.mean(), x)[0].flatten().tolist()
    ([1.0, 0.0, 1.0, 0.0], [0.25, 0.25, 0.25, 0.25])
    """

    def __init__(self, *, v_threshold: float = 6.0, alpha: float = 0.5, least: float = 0.01) -> None:
        super().__init__(v_threshold, alpha, least, math.inf, 1.0)


class DSRLIF(_ByRate):
    """LIF that is trained by its weighted rate: forward spikes of the height ``v_threshold / dt``, backward
    ``clamp(r(x) / tau, 0, v_threshold / dt)`` at every step, with r a mean weighted by ``exp(-dt (L - t) / tau)``
    up to the sample's own last step L.

    Args:
        tau: membrane time constant.
        dt: length of a step in the same unit.
        v_threshold, alpha, least: see :class:`DSRIF`.

    Input and output are ``[T, B, *]``; the state is ``v``. SpikingJelly's ``DSRLIFNode`` spreads the gradient evenly
    over the steps of the input; here each step gets its weight in r.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.Network(sl.nn.DSRLIF(v_threshold=0.3))(torch.rand(20, 2, 3)).shape
    torch.Size([20, 2, 3])
    """

    def __init__(
        self,
        *,
        tau: float = 2.0,
        dt: float = 0.05,
        v_threshold: float = 1.0,
        alpha: float = 0.3,
        least: float = 0.1,
    ) -> None:
        super().__init__(v_threshold, alpha, least, tau, dt)
