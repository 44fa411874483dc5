"""Inhibition: of the neurons of a sample only the one that is furthest above its threshold fires."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..neuron import Dynamics, Option
from ..neuron.options import moved


class Inhibition(Option):
    """Winner takes all: ``s = [u >= 0]`` where ``u = h - v_threshold`` is the largest, 0 elsewhere; then the reset.

    Args:
        neuron: a neuron that fires at most once a step.
        among: which neurons compete: ``"channels"``, those along dimension 1 of the step, separately at each place; or
            ``"all"``, all neurons of a sample.

    The others do not fire and are not reset. Among equal ones the first wins. Gradients pass through the winner alone.
    The neurons of a sample depend on each other, so this runs as a PyTorch loop. Input and output are ``[T, B, C, *]``;
    the states are the neuron's. snnTorch's ``inhibition=True`` also resets losers that are above their threshold.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.nn.Inhibition(sl.IF()).sequence(torch.tensor([[[1.2, 1.5, 0.2]], [[0.0, 0.0, 0.0]]]))[0][:, 0]
    tensor([[0., 1., 0.],
            [1., 0., 0.]])
    """

    paper = "Maass, On the Computational Power of Winner-Take-All, Neural Computation 12, 2000"

    def __init__(self, neuron: Dynamics, *, among: Literal["channels", "all"] = "channels") -> None:
        super().__init__(neuron)
        if among not in ("channels", "all"):
            raise ValueError(f"Inhibition: among must be channels or all, got {among!r}")
        self.among = among

    def dynamics(self, x: Tensor, *states: Tensor) -> Any:
        if x.ndim < 2:
            raise ValueError("Inhibition compares the neurons of a sample, which takes the PyTorch loop")

        def the_largest(u: Tensor) -> Tensor:
            rows = u if self.among == "channels" else u.flatten(1)
            if rows.shape[1] == 0:  # there is no neuron that could win
                return u
            winner = torch.zeros_like(rows, dtype=torch.bool).scatter(1, rows.argmax(1, keepdim=True), True)
            return torch.where(winner.view_as(u), u, -torch.ones_like(u))  # below any threshold

        return moved(self.neuron, the_largest, "Inhibition", x, *states)
