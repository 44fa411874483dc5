"""EventPropLIF: a neuron whose backward pass is that of spike times in continuous time (EventProp).

forward, exact between the points of the grid:

    h = am v + k i;    s = [h >= v_threshold];    v = (1 - s) h;    i = as i + x
    am = exp(-1/tau_mem), as = exp(-1/tau_syn), k = tau_syn / (tau_syn - tau_mem) (as - am)

backward, from the last step to the first, with g the gradient that comes for s and i- the current before the step:

    g' = dg/dt
    u  = max(i- - v_threshold, least) / tau_mem            the slope of the voltage at the spike
    lh = (1-s) lv + s ((1 + v_threshold / (tau_mem u)) lv - g'/u)
    dL/dx = li;    li = as li + k lh;    lv = am lh

Usually EventProp sends two signals from layer to layer, one for weights and one for spike times. The second is the time
derivative of the first, and the neuron takes it from g by itself: plain layers between such neurons, and any loss, work
as they are. The rest is in the equation of a step: values and derivatives are written apart, so that the kernel that
goes back through it is that of any neuron.

Wunderlich and Pehle, Event-Based Backpropagation Can Compute Exact Gradients for Spiking Neural Networks, Scientific
Reports 11, 2021; Nowotny, Turner and Knight, Loss Shaping Enhances Exact Gradient Learning with EventProp in Spiking
Neural Networks, arXiv:2212.01232.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._time import duration, trailing, wide
from ..core import State
from ..kernel.backend import say_once
from ..neuron import Neuron
from ..spikes import SpikeTensor


class EventPropLIF(Neuron):
    """Current-based LIF neuron that learns by its spike times: the gradient is that of the network in continuous time.

    Args:
        tau_mem, tau_syn: time constants of membrane and synapse, in steps.
        v_threshold: threshold; the voltage is reset to 0.
        least: the smallest ``i - v_threshold`` at a spike that the gradient divides by: a voltage that only just
            touches the threshold would make it explode.
        count_target, count_strength: each neuron is pulled to ``count_target`` spikes per sample, in the mean over the
            batch, as by a loss ``count_strength / 2 sum (mean count - count_target)^2``. It acts at spikes, so that a
            neuron which is silent in all samples is not woken.

    Input and spikes are ``[T, B, *]``, the states ``i`` and ``v`` rest at 0. A spike in step t reaches ``h`` of the
    next layer in step t + 1.

    **How exact.** The gradient is that of continuous time, and steps give it to first order: with one or two spikes a
    neuron and two hidden layers the relative error is about 1 at 5 steps per ``tau_syn``, 0.3 at 25, 0.06 at 100 and
    0.01 at 500; docs/learning.md has the table. A log says once where ``tau_syn`` is below 10 steps.

    It does not see spikes that appear or vanish, so that layers have to fire from the start. What comes after it has to
    filter: another EventPropLIF, :class:`spikeloom.LI`, :class:`spikeloom.Synaptic`, or :func:`first_spike_time`. A
    loss of rates or counts does not change with spike times: where no gradient does, RuntimeError is raised (but under
    ``torch.compile``). A :class:`spikeloom.LIF` after it would be wrong, because it sees its spikes in the same step
    and by a surrogate.

    Single steps give no gradient (RuntimeError), spikes are handed on dense, recorded states have no gradient, and no
    option stands around it.

    >>> import torch
    >>> import spikeloom as sl
    >>> neuron = sl.learn.EventPropLIF(tau_mem=20.0, tau_syn=10.0)
    >>> net = sl.Network(torch.nn.Linear(3, 8), neuron, torch.nn.Linear(8, 2), sl.LI(tau=20.0))
    >>> net(torch.rand(60, 4, 3).round()).mean().backward()
    """

    paper = "Wunderlich and Pehle, Event-Based Backpropagation Can Compute Exact Gradients for SNNs, 2021"
    nestable: ClassVar[bool] = False

    def __init__(
        self,
        *,
        tau_mem: float = 20.0,
        tau_syn: float = 5.0,
        v_threshold: float = 1.0,
        least: float = 0.01,
        count_target: float | None = None,
        count_strength: float = 0.0,
    ) -> None:
        super().__init__(reset="none")
        for name, value in dict(tau_mem=tau_mem, tau_syn=tau_syn, v_threshold=v_threshold, least=least).items():
            if not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ValueError(f"EventPropLIF: {name} must be finite and above 0, got {value}")
        if count_strength < 0 or (count_strength > 0 and count_target is None):
            raise ValueError(
                f"EventPropLIF: count_strength must be at least 0, with a count_target; got {count_strength}"
            )
        self._taus = (float(tau_mem), float(tau_syn))
        self.count_target, self.count_strength = count_target, count_strength
        self.numbers(v_threshold=v_threshold, least=least, half_tau_mem=tau_mem / 2, **decays(tau_mem, tau_syn))
        self.states(i=0.0, v=0.0)
        if tau_syn < 10:
            say_once(
                f"EventPropLIF: tau_syn={tau_syn} is less than 10 steps, where its gradients have relative errors near "
                "1 (docs/learning.md); take finer steps"
            )

    least: Tensor
    half_tau_mem: Tensor
    am: Tensor
    as_: Tensor
    k: Tensor

    @property
    def tau_mem(self) -> float:
        """The time constant of the membrane; another one takes another neuron."""
        return self._taus[0]

    @property
    def tau_syn(self) -> float:
        """The time constant of the synapse; another one takes another neuron."""
        return self._taus[1]

    def dynamics(self, x: Tensor, i: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.am * v + self.k * i
        spike = self.fire(h - self.v_threshold).detach()
        excess = torch.maximum(i - self.v_threshold, self.least).detach()  # tau_mem times the slope u
        moved = h - h.detach()  # 0, with the gradient of h: what stands before it is the derivative of a line
        v = ((1 - spike) * h).detach() + (1 + spike * self.v_threshold / excess) * moved
        return spike - spike * self.half_tau_mem / excess * moved, self.as_ * i + x, v

    def _packs(self) -> bool:
        return False

    def _sequence(
        self, xs: tuple[Any, ...], state: State, lengths: Tensor | None, record: tuple[str, ...], norm: Any
    ) -> tuple[Any, ...]:
        counts = self.count_target is not None and self.count_strength > 0 and torch.is_grad_enabled()
        names = tuple(dict.fromkeys(("i", *record))) if counts else record
        y, new, *recordings = super()._sequence(xs, state, lengths, names, norm)
        recorded = recordings[0] if recordings else {}
        if y.requires_grad:
            slopes = None
            if counts:
                first = self.initial_state(y[0])["i"] if state is None else state["i"]
                before = torch.cat([first.unsqueeze(0), recorded["i"][:-1]]).detach()
                slopes = (before - self.v_threshold).clamp(min=self.least) / self.tau_mem
            y = _ByTimes.apply(y, slopes, lengths, self)  # type: ignore[no-untyped-call]
        return (y, new, {name: recorded[name].detach() for name in record}) if record else (y, new)

    def _one_step(self, x_t: tuple[Tensor, ...], state: State, *, u: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        if torch.is_grad_enabled() and x_t[0].requires_grad:
            raise RuntimeError(
                "EventPropLIF: single steps give no gradient; run whole sequences, net(x) with [T, B, *]"
            )
        return super()._one_step(x_t, state, u=u)

    def extra_repr(self) -> str:
        count = "" if self.count_target is None else f", count_target={self.count_target}"
        return f"tau_mem={self.tau_mem}, tau_syn={self.tau_syn}, v_threshold={float(self.v_threshold)}{count}"


def decays(tau_mem: float, tau_syn: float) -> dict[str, float]:
    """What a step leaves of voltage and current, and what a current adds to the voltage."""
    am, as_ = math.exp(-1 / tau_mem), math.exp(-1 / tau_syn)
    same = math.isclose(tau_mem, tau_syn, rel_tol=1e-6)
    k = am / tau_mem if same else tau_syn / (tau_syn - tau_mem) * (as_ - am)
    return {"am": am, "as_": as_, "k": k}


class _ByTimes(torch.autograd.Function):
    """Spikes as they are; the gradient that comes for them goes on as twice its derivative by time.

    ``slopes`` are those of the voltage at each step where a number of spikes is wanted, else None.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, slopes: Tensor | None, lengths: Tensor | None, neuron: EventPropLIF) -> Tensor:
        ctx.save_for_backward(y, slopes, lengths)
        ctx.neuron = neuron
        return y.view_as(y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        s, slopes, lengths = ctx.saved_tensors
        neuron: EventPropLIF = ctx.neuron
        found = _difference(g, None if lengths is None else duration(s, lengths))
        looks = len(g) > 2 and not torch.compiler.is_compiling()  # whose graph would break at a question
        if looks and not _any(found) and bool((g * s).any()):
            raise RuntimeError(
                "EventPropLIF: the gradient that came for its spikes is the same at all steps, so that spike times do "
                "not change the loss: a loss of rates or counts has no gradient here. Let LI, Synaptic or "
                "learn.first_spike_time follow it"
            )
        if slopes is not None and neuron.count_target is not None:  # which adds the pull itself at each spike
            found = found - (2 * slopes * _pull(s, neuron.count_target, neuron.count_strength)).to(found.dtype)
        return found, None, None, None


def _difference(g: Tensor, steps: Tensor | None) -> Tensor:
    """Twice the time derivative of g by central differences, one-sided at the ends of each sample."""
    if steps is not None:
        t, last = torch.arange(len(g), device=g.device).unsqueeze(1), (steps - 1).unsqueeze(0)
        later, earlier = torch.minimum(t + 1, last), torch.minimum((t - 1).clamp(min=0), last)
        width = (later - earlier).clamp(min=1).to(g.dtype)
        return (_taken(g, later) - _taken(g, earlier)) * trailing(2 / width, g.ndim)
    found = torch.empty_like(g, memory_format=torch.contiguous_format)
    if len(g) == 1:
        return found.zero_()
    torch.sub(g[2:], g[:-2], out=found[1:-1])
    found[0] = (g[1] - g[0]) * 2
    found[-1] = (g[-1] - g[-2]) * 2
    return found


def _any(x: Tensor) -> bool:
    """Whether there is anything but 0: one step mostly says so, and is sooner looked through than all."""
    return bool(x[len(x) // 2].any()) or bool(x.any())


def _pull(s: Tensor, target: float, strength: float) -> Tensor:
    """The derivative of ``strength / 2 (mean count - target)^2`` by a spike of each neuron."""
    B = s.shape[1]
    return (s.sum((0, 1)) / B - target) * (strength / B)


def _taken(x: Tensor, index: Tensor) -> Tensor:
    """``x[index[t, b], b]``."""
    return x.gather(0, trailing(index, x.ndim).expand(x.shape))


def first_spike_time(spikes: Tensor, *, silent: float | None = None, lengths: Tensor | None = None) -> Tensor:
    """The step of the first spike of each neuron, ``[B, *]``, with a gradient for neurons that learn by spike times.

    Args:
        spikes: ``[T, B, *]`` of an :class:`EventPropLIF`.
        silent: time of neurons that never fire, which have no gradient; None is T, or the sample's length.
        lengths: valid steps of each sample.

    The gradient that it sends to spikes rises by ``dL/dt`` per step at the first spike, and at no later one. For
    neurons with surrogates there is :func:`spikeloom.decode.first_spike`.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.learn.first_spike_time(torch.tensor([0.0, 0.0, 1.0, 1.0]).view(4, 1, 1))
    tensor([[2.]])
    """
    if isinstance(spikes, SpikeTensor):
        spikes = spikes.unpack()
    steps = trailing(duration(spikes, lengths), spikes.ndim - 1)
    found: Tensor = _FirstTime.apply(spikes, steps, silent)  # type: ignore[no-untyped-call]
    return found


class _FirstTime(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spikes: Tensor, steps: Tensor, silent: float | None) -> Tensor:
        T = spikes.shape[0]
        t = trailing(torch.arange(T, device=spikes.device), spikes.ndim)
        fired = (spikes != 0) & (t < steps)
        first = torch.where(fired, t, T).amin(0)
        never = steps.expand_as(first) if silent is None else torch.full_like(first, silent, dtype=wide(spikes.dtype))
        ctx.save_for_backward(first, first == steps - 1)
        ctx.T, ctx.dtype = T, spikes.dtype
        return torch.where(first < T, first, never).to(wide(spikes.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        first, is_last = ctx.saved_tensors
        t = trailing(torch.arange(ctx.T, device=grad.device), grad.ndim + 1)
        # A step down to the first spike has the slope 1 there alone: central differences span two steps, those at ends
        # one. A ramp up behind it would have a slope at a spike in the very next step too.
        size = torch.where(is_last | (first == 0), 1.0, 2.0).to(grad.dtype)
        step = (t == (first - 1).clamp(min=0)).to(grad.dtype) * -size
        return (torch.where(first < ctx.T, grad * step, 0.0)).to(ctx.dtype), None, None
