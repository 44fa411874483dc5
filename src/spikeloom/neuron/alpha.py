"""Alpha: a membrane that answers a spike with the shape of an alpha function, from two currents that decay.

    r = [v > v_threshold] of the step before
    e = (1 - r) (alpha e + x)
    i = (1 - r) (beta i - x)
    v = gain (e + i),  gain = ln(alpha) / (ln(beta) - ln(alpha)) + 1
    s = [v > v_threshold]

Eshraghian et al., Proc. IEEE 2023; after Rall, Journal of Neurophysiology 1967.
"""

from __future__ import annotations

import sys
from typing import ClassVar

import torch
from torch import Tensor

from .._numbers import Number
from ..surrogate import Surrogate
from .base import Neuron


class Alpha(Neuron):
    """Alpha-function neuron: ``e = alpha e + x; i = beta i - x; v = gain (e + i)``, which rises and falls after each
    input; a spike clears everything one step later.

    Args:
        alpha, beta: decays per step of the exciting and of the inhibiting current, above 0 and below 1, alpha larger.
        v_threshold: see :class:`IF`.
        reset: ``True`` clears currents and membrane in the step after a spike, ``False`` leaves them alone.
        strict, detach_reset, surrogate: see :class:`Leaky`.

    Input and output are ``[T, B, *]``; the states ``e``, ``i`` and ``v`` rest at 0. It is snnTorch's ``Alpha`` with
    ``reset_mechanism="zero"`` (its default); snnTorch's subtracting reset mixes currents and voltage, and is not here.

    >>> import torch
    >>> import spikeloom as sl
    >>> pulse = torch.zeros(6, 1)
    >>> pulse[0] = 1.0
    >>> _, _, recorded = sl.Alpha(alpha=0.8, beta=0.7, v_threshold=9.0).sequence(pulse, record=("v",))
    >>> recorded["v"].flatten().mul(100).round().tolist()
    [0.0, 27.0, 40.0, 45.0, 45.0, 43.0]
    """

    paper = "Eshraghian et al., Training Spiking Neural Networks Using Lessons From Deep Learning, Proc. IEEE 2023"
    limits: ClassVar = {"alpha": (sys.float_info.min, 1.0), "beta": (sys.float_info.min, 1.0)}
    alpha: Tensor
    beta: Tensor

    def __init__(
        self,
        *,
        alpha: Number,
        beta: Number,
        v_threshold: Number = 1.0,
        reset: bool = True,
        strict: bool = True,
        detach_reset: bool = True,
        surrogate: Surrogate | None = None,
    ) -> None:
        if isinstance(alpha, (int, float)) and isinstance(beta, (int, float)) and not alpha > beta:
            raise ValueError(f"Alpha: alpha must be larger than beta, got alpha={alpha:g} and beta={beta:g}")
        super().__init__(
            reset="hard" if reset else "none", detach_reset=detach_reset, strict=strict, surrogate=surrogate
        )
        self.numbers(alpha=alpha, beta=beta, v_threshold=v_threshold)
        self.states(e=0.0, i=0.0, v=0.0)

    def dynamics(self, x: Tensor, e: Tensor, i: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        e, i = self.alpha * e + x, self.beta * i - x
        if self.reset != "none":
            late = self.fire(v - self.v_threshold)
            late = late.detach() if self.detach_reset else late
            e, i = (1 - late) * e, (1 - late) * i
        log_alpha = torch.log(self.alpha)
        v = (log_alpha / (torch.log(self.beta) - log_alpha) + 1) * (e + i)
        return self.fire(v - self.v_threshold), e, i, v
