"""Layers of which the output is a time or a peak: FirstSpike on spike times, and the Tempotron.

Mostafa, Supervised Learning Based on Temporal Coding in Spiking Neural Networks, IEEE Transactions on Neural Networks
and Learning Systems 29, 2018; Gütig and Sompolinsky, The Tempotron: a Neuron That Learns Spike Timing-Based Decisions,
Nature Neuroscience 9, 2006.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._time import trailing, valid_steps
from ..neuron import Synaptic
from ..spikes import SpikeTensor

_SPAN = 600
"""Time constants between spikes of a sample of which float64 still has the exponential."""


class FirstSpike(nn.Module):
    """A layer on times of first spikes: non-leaky neurons with an exponential synapse and threshold 1, in closed form.

    A neuron that is given one spike from each input has the voltage ``sum w (1 - exp(-(t - t_i)/tau))`` over the inputs
    before t. With ``z = exp(t/tau)`` it fires at ``z_out = sum_C w z / (sum_C w - 1)``, where C, the causal set, are
    the inputs that come before ``t_out``.

    Args:
        in_features, out_features: numbers of inputs and neurons.
        tau: time constant of the synapse, in the unit of the times.
        gain: weights begin uniform from 0 to ``gain / in_features``; above 2 a neuron fires in the mean.

    Times are ``[*, in_features]`` and ``[*, out_features]``, real numbers, not steps; ``inf`` is no spike, and has no
    gradient. Layers follow each other directly; the gradient is exact while causal sets stay as they are. A neuron with
    a sum of weights of at most 1 never fires, and :meth:`weight_sum_loss` pulls it up. Exponentials are in float64, so
    that times of a sample may be 600 tau apart; ValueError is raised beyond.

    >>> import torch
    >>> import spikeloom as sl
    >>> layer = sl.learn.FirstSpike(2, 1)
    >>> _ = torch.nn.init.constant_(layer.weight, 2.0)
    >>> layer(torch.tensor([[0.0, 3.0]])).exp().item()  # 2 (1 - exp(-t)) = 1
    2.0
    """

    paper = "Mostafa, Supervised Learning Based on Temporal Coding in Spiking Neural Networks, IEEE TNNLS 2018"

    def __init__(self, in_features: int, out_features: int, *, tau: float = 1.0, gain: float = 5.0) -> None:
        super().__init__()
        if not 0 < tau < math.inf:
            raise ValueError(f"FirstSpike: tau must be finite and above 0, got {tau}")
        self.in_features, self.out_features, self.tau = in_features, out_features, tau
        self.weight = nn.Parameter(torch.rand(out_features, in_features) * (gain / in_features))

    def forward(self, times: Tensor) -> Tensor:
        """Times of the first spikes ``[*, out_features]``."""
        if times.shape[-1] != self.in_features:
            raise ValueError(f"FirstSpike: expected [*, {self.in_features}], got {list(times.shape)}")
        dtype = torch.promote_types(times.dtype, self.weight.dtype)
        sorted_times, order = times.double().sort(dim=-1)
        there = torch.isfinite(sorted_times)
        start = torch.where(there, sorted_times, math.inf).amin(-1, keepdim=True).detach()
        start = torch.where(torch.isfinite(start), start, 0.0)  # exponentials begin at 1, or they would overflow
        span = torch.where(there, sorted_times - start, 0.0).detach()
        if bool((span > _SPAN * self.tau).any()):
            raise ValueError(f"FirstSpike: times of a sample are more than {_SPAN} tau apart, {float(span.max()):.4g}")
        z = torch.where(there, torch.exp((torch.where(there, sorted_times, start) - start) / self.tau), 0.0)
        w = self.weight.double()[:, order].movedim(0, -2)  # [*, out, in], in the order of the inputs
        sums, weighted = w.cumsum(-1), (w * z.unsqueeze(-2)).cumsum(-1)
        enough = sums > 1
        found = weighted / torch.where(enough, sums - 1, 1.0)
        later = torch.cat([torch.where(there, z, math.inf)[..., 1:], torch.full_like(z[..., :1], math.inf)], -1)
        causal = enough & there.unsqueeze(-2) & (found <= later.unsqueeze(-2))
        first = causal.to(torch.int8).argmax(-1, keepdim=True)
        fires = causal.any(-1)
        out = torch.where(fires, found.gather(-1, first).squeeze(-1), 1.0)
        return torch.where(fires, self.tau * out.log() + start, math.inf).to(dtype)

    def weight_sum_loss(self) -> Tensor:
        """``sum_j max(0, 1 - sum_i w_ji)``: 0 where every neuron fires once all its inputs have come."""
        return (1 - self.weight.sum(1)).clamp(min=0).sum()

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, tau={self.tau}"


class Tempotron(nn.Module):
    """A neuron that decides by whether its largest voltage reaches the threshold.

    ``v(t) = sum_i w_i sum_{t_i <= t} V0 (exp(-(t - t_i)/tau) - exp(-(t - t_i)/tau_syn))``, with V0 such that one spike
    has a peak of 1; the output is the maximum over time.

    Args:
        in_features, out_features: numbers of inputs and neurons.
        tau, tau_syn: time constants of membrane and synapse, in steps.

    Input is ``[T, B, in_features]``, the output ``[B, out_features]``. With :func:`tempotron_loss` the gradient descent
    of the weights is the Tempotron's rule. The kernel is :class:`spikeloom.Synaptic` without a reset, one step late.

    >>> import torch
    >>> import spikeloom as sl
    >>> neuron = sl.learn.Tempotron(3, 2)
    >>> neuron(torch.rand(50, 4, 3).round()).shape
    torch.Size([4, 2])
    """

    paper = "Gütig and Sompolinsky, The Tempotron: a Neuron That Learns Spike Timing-Based Decisions, 2006"

    def __init__(self, in_features: int, out_features: int, *, tau: float = 15.0, tau_syn: float = 3.75) -> None:
        super().__init__()
        if not 0 < tau_syn < tau < math.inf:
            raise ValueError(f"Tempotron: expected 0 < tau_syn < tau, got tau_syn={tau_syn} and tau={tau}")
        self.weight = nn.Parameter(torch.randn(out_features, in_features) * 1e-3)
        self.tau, self.tau_syn = tau, tau_syn
        slow, fast = math.exp(-1 / tau), math.exp(-1 / tau_syn)
        self.membrane = Synaptic(alpha=fast, beta=slow, reset="none")
        peak = tau * tau_syn / (tau - tau_syn) * math.log(tau / tau_syn)
        self._scale = (slow - fast) / (math.exp(-peak / tau) - math.exp(-peak / tau_syn))

    def voltage(self, x: Tensor) -> Tensor:
        """The voltage at each step, ``[T, B, out_features]``."""
        if isinstance(x, SpikeTensor):
            x = x.unpack()
        if x.ndim != 3 or x.shape[-1] != self.weight.shape[1]:
            raise ValueError(f"Tempotron: expected [T, B, {self.weight.shape[1]}], got {list(x.shape)}")
        current = nn.functional.linear(x.to(self.weight.dtype), self.weight) * self._scale
        before = torch.cat([torch.zeros_like(current[:1]), current[:-1]])
        return self._filtered(before)

    def _filtered(self, current: Tensor) -> Tensor:
        """The membrane, as the output of a leaky integrator of a leaky integrator."""
        found: Tensor = self.membrane.sequence(current, record=("v",))[2]["v"]
        return found

    def forward(self, x: Tensor, *, lengths: Tensor | None = None) -> Tensor:
        """The largest voltage of each neuron, ``[B, out_features]``, in the first ``lengths`` steps."""
        v = self.voltage(x)
        if lengths is not None:
            v = torch.where(trailing(valid_steps(lengths.to(v.device), len(v)), v.ndim), v, -math.inf)
        return v.amax(0)


def tempotron_loss(peaks: Tensor, target: Tensor, *, v_threshold: float = 1.0) -> Tensor:
    """How far the peaks that are on the wrong side are from the threshold, the sum over neurons and mean over samples.

    Args:
        peaks: largest voltages ``[B, N]`` of a :class:`Tempotron`.
        target: classes ``[B]``, or which neurons should fire, ``[B, N]`` of bool.
        v_threshold: the threshold.

    A neuron that should fire and does not loses ``v_threshold - peak``; one that fires and should not, ``peak -
    v_threshold``. The negative gradient is the rule's: plus or minus the kernel of each input at the time of the peak.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.learn.tempotron_loss(torch.tensor([[0.5, 1.5]]), torch.tensor([0]))
    tensor(1.)
    """
    wanted = nn.functional.one_hot(target, peaks.shape[1]).bool() if target.ndim == 1 else target.bool()
    if wanted.shape != peaks.shape:
        raise ValueError(f"learn.tempotron_loss: peaks are {list(peaks.shape)}, the target is {list(target.shape)}")
    away = torch.where(wanted, v_threshold - peaks, peaks - v_threshold)
    return away.clamp(min=0).sum() / peaks.shape[0]
