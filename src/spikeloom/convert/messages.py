"""Messages: an activation whose changes are sent as powers of two.

X = X + x;  e = f(X) - sent;  s = sign(e) 2^-k scale for the smallest k < levels with |e| >= 3/4 2^-k scale, else 0
sent = sent + s
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from .._numbers import Number
from ..neuron import Neuron


class Messages(Neuron):
    """Sends an activation of its summed input as messages of few bits: a sign and one of ``levels`` powers of two.

    Each step sends ``s = sign(e) 2^-k scale``, where ``e = f(X) - sent`` is what is missing and k the smallest number
    below ``levels`` with ``|e| >= 3/4 2^-k scale``; nothing where there is none. So each message leaves at most a third
    of an error of up to 3/2 ``scale``, until that is below ``3/4 2^(1 - levels) scale``, which is never sent.

    Args:
        activation: f, a function of a tensor as ``torch.relu``; kernels are generated from it. ``f(0)`` is sent in the
            first step.
        scale: the largest message; one value, one per channel or one per neuron.
        levels: how many powers of two there are.

    Input and output are ``[T, B, *]``; the states ``total`` and ``sent`` rest at 0. The gradient passes straight
    through the choice of the message. Its limit for many levels is ``sl.SigmaDelta(v_threshold=0)``.

    >>> import torch
    >>> import spikeloom as sl
    >>> x = torch.zeros(4, 1)
    >>> x[0] = 0.7
    >>> sl.convert.Messages(scale=1.0, levels=4).sequence(x)[0].flatten()
    tensor([0.5000, 0.2500, 0.0000, 0.0000])
    """

    is_binary = False
    limits: ClassVar = {"scale": (0.0, math.inf)}
    scale: Tensor

    def __init__(
        self, *, activation: Callable[[Tensor], Tensor] = torch.relu, scale: Number = 1.0, levels: int = 8
    ) -> None:
        super().__init__(reset="none")
        if levels < 1:
            raise ValueError(f"Messages: levels must be at least 1, got {levels}")
        self.numbers(scale=scale)
        self.activation, self.levels = activation, levels
        self.states(total=0.0, sent=0.0)

    def dynamics(self, x: Tensor, total: Tensor, sent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        total = total + x
        e = self.activation(total) - sent
        size = torch.zeros_like(e)
        for k in reversed(range(self.levels)):
            message = 2.0**-k * self.scale
            size = torch.where(e.abs() >= 0.75 * message, message, size)
        chosen = torch.where(e < 0, -size, size)
        s = e + (chosen - e).detach()
        return s, total, sent + s
