"""EventPropDelay: delays that are learned by spike times.

    y[t, c] = s[t - d[c], c]                d in whole steps, forward
    dL/dd[c] = sum_t g'[t, c] y[t, c]       g' = dg/dt of the gradient g that comes for y

A spike that comes later by dt changes the loss by ``g' dt``; the delay is the time by which the spikes of a channel
come later.

Göltz et al., DelGrad: Exact Event-Based Gradients for Training Delays and Weights on Spiking Neuromorphic Hardware,
Nature Communications 16, 2025; Mészáros, Knight and Nowotny, Efficient Event-Based Delay Learning in Spiking Neural
Networks, Nature Communications 16, 2025.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._time import duration
from ..core import State
from ..nn import LearnedDelay
from ..nn.delay import dense
from ..nn.learned_delay import inward
from .eventprop import difference


class EventPropDelay(LearnedDelay):
    """A delay for each channel, between neurons that learn by spike times: ``y[t, c] = x[t - d[c], c]``.

    Args:
        features: channels C, dimension 1 of the step.
        max_delay: the largest delay, in steps.

    ``delay`` is ``[C]``, real numbers that begin uniform from 0 to ``max_delay`` and are rounded to whole steps in
    training as in evaluation. Its gradient is the time derivative of the gradient that comes for the delayed spikes,
    summed over them, so that what follows has to filter, as after :class:`EventPropLIF`, and it is exact as far as that
    neuron's is (docs/learning.md). A convolution over delays is :class:`spikeloom.nn.LearnedDelay`.

    Input and output are ``[T, B, C, *]``. Append ``max_delay`` steps of zeros to the input: a spike that the sequence
    cuts off has no time.

    >>> import torch
    >>> import spikeloom as sl
    >>> neuron, delay = sl.learn.EventPropLIF(tau_mem=20.0, tau_syn=10.0), sl.learn.EventPropDelay(8, max_delay=5)
    >>> net = sl.Network(torch.nn.Linear(3, 8), neuron, delay, torch.nn.Linear(8, 2), sl.LI(tau=20.0))
    >>> net(torch.rand(60, 4, 3).round()).mean().backward()
    >>> delay.delay.grad.shape
    torch.Size([8])
    """

    paper = "Göltz et al., DelGrad: Exact Event-Based Gradients for Training Delays and Weights, 2025"

    def __init__(self, features: int, max_delay: int) -> None:
        super().__init__(features, max_delay, kernel="triangle", sigma=0.0)

    def delayed(self, seen: Tensor) -> Tensor:
        """The output ``[T, B, C, *]`` from the inputs ``[max_delay + T, B, C, *]``."""
        return self.by_whole_steps(dense(seen))

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, C, *]``: ``(y, state)``."""
        y, new = super().sequence(*xs, state=state, lengths=lengths, record=record)
        if torch.is_grad_enabled() and self.delay.requires_grad:
            y = _Later.apply(dense(y), inward(self.delay, self.max_delay), lengths)  # type: ignore[no-untyped-call]
        return y, new

    def extra_repr(self) -> str:
        return f"{self.features}, max_delay={self.max_delay}"


class _Later(torch.autograd.Function):
    """Spikes as they are, and the gradient of the delay by which they came later."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, delay: Tensor, lengths: Tensor | None) -> Tensor:
        ctx.save_for_backward(y, lengths)
        ctx.dtype = delay.dtype
        return y.view_as(y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        y, lengths = ctx.saved_tensors
        twice = difference(g, None if lengths is None else duration(y, lengths))
        by_channel = [d for d in range(y.ndim) if d != 2]
        return g, ((twice * y).sum(by_channel) / 2).to(ctx.dtype), None
