"""Homeostasis: thresholds that move until each neuron fires at a wanted rate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._time import duration, masked
from ..neuron import Dynamics
from .products import as_values


@dataclass(frozen=True)
class Homeostasis:
    """Moves the threshold of a neuron from call to call: ``v_threshold <- v_threshold + step (mean rate - rate)``.

    Args:
        neuron: one with the number ``v_threshold``, with options around it or without.
        rate: the wanted rate, spikes per step.
        step: size of a change.
        low: the smallest threshold; None is no limit.

    The mean is that of steps, samples and places: there is one threshold for each channel of ``[T, B, C, *]`` (each
    neuron of ``[T, B, N]``); a single threshold becomes as many with the first call. Within a sample an adaptive
    threshold is :class:`spikeloom.options.Adaptive`, and neurons that silence each other are
    :class:`spikeloom.nn.Inhibition`.

    A threshold that is a number is a constant, and weights load only into neurons with the same one. To save moved
    thresholds with the weights, let them be a parameter, ``nn.Parameter(torch.ones(N), requires_grad=False)``.

    Raises TypeError for a neuron without ``v_threshold``, or with one that is learned.

    >>> import torch
    >>> import spikeloom as sl
    >>> neuron = sl.IF(v_threshold=1.0)
    >>> spikes, _ = neuron.sequence(torch.tensor([[[1.0, 0.0]]]).expand(10, 1, 2))
    >>> sl.learn.Homeostasis(neuron, rate=0.5, step=0.2).update(spikes)
    >>> neuron.v_threshold
    tensor([1.1000, 0.9000], dtype=torch.float64)
    """

    neuron: Dynamics
    rate: float
    step: float = 0.01
    low: float | None = None

    def __post_init__(self) -> None:
        core = self.neuron.core()
        if "v_threshold" not in core._declared:
            raise TypeError(f"learn.Homeostasis: {type(core).__name__} has no v_threshold")
        if core.v_threshold.requires_grad:
            raise TypeError(
                "learn.Homeostasis: v_threshold is a parameter that an optimiser moves; give a number, or "
                "nn.Parameter(..., requires_grad=False)"
            )

    @torch.no_grad()
    def update(self, spikes: Tensor, *, lengths: Tensor | None = None) -> None:
        """Moves the threshold by the rates of ``spikes`` ``[T, B, C, *]``, of which ``lengths`` steps are real."""
        s = masked(as_values(spikes, torch.float64, "learn.Homeostasis"), lengths)
        places = s[0, 0, 0].numel()
        mean = s.sum([d for d in range(s.ndim) if d != 2]) / (duration(s, lengths).sum() * places)
        core = self.neuron.core()
        moved = core.v_threshold.to(mean) + self.step * (mean - self.rate)
        if moved.shape != mean.shape:
            raise ValueError(
                f"learn.Homeostasis: v_threshold is {list(core.v_threshold.shape)}, spikes have {mean.numel()} channels"
            )
        moved = moved if self.low is None else moved.clamp(min=self.low)
        if "v_threshold" in core._parameters:
            core.v_threshold.copy_(moved)
        else:
            core.v_threshold = moved
