"""Hebb, Oja and BCM: rules of correlations. Inputs are spikes, rates or traces (:func:`spikeloom.learn.trace`).

Hebb, The Organization of Behavior, 1949; Oja, A Simplified Neuron Model as a Principal Component Analyzer, Journal of
Mathematical Biology 15, 1982; Bienenstock, Cooper and Munro, Theory for the Development of Neuron Selectivity, Journal
of Neuroscience 2, 1982.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._time import trailing, valid_steps
from ..neuron import LI
from .local import LocalRule, State, Term
from .products import has_rows


@dataclass(frozen=True)
class Hebb(LocalRule):
    """``dw = sum post pre``. It grows without bound; :class:`Oja` does not.

    >>> import torch
    >>> import spikeloom as sl
    >>> layer = torch.nn.Linear(2, 1)
    >>> pre, post = torch.tensor([1.0, 0.5]).view(1, 1, 2), torch.tensor([2.0]).view(1, 1, 1)
    >>> sl.learn.Hebb().sequence(layer, pre, post)[0]
    tensor([[2., 1.]])
    """

    def terms(
        self, weight: Tensor, pre: Tensor, post: Tensor, state: State | None, lengths: Tensor | None
    ) -> tuple[list[Term], State]:
        """One product."""
        return [Term(1.0, pre, post)], {}


@dataclass(frozen=True)
class Oja(LocalRule):
    """``dw = sum (post pre - post^2 w)``, for ``nn.Linear``.

    With ``post = w pre`` the weights of one output go to the first principal component of ``pre``, with length 1.

    >>> import torch
    >>> import spikeloom as sl
    >>> layer = torch.nn.Linear(2, 1)
    >>> _ = torch.nn.init.constant_(layer.weight, 0.25)
    >>> pre, post = torch.tensor([1.0, 0.5]).view(1, 1, 2), torch.tensor([2.0]).view(1, 1, 1)
    >>> sl.learn.Oja().sequence(layer, pre, post)[0]
    tensor([[1., 0.]])
    """

    def sequence(
        self,
        layer: nn.Module,
        pre: Tensor,
        post: Tensor,
        *,
        state: State | None = None,
        modulator: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """As that of all local rules, for ``nn.Linear`` alone: TypeError for other layers."""
        if type(layer) is not nn.Linear:
            raise TypeError(f"learn.Oja: takes nn.Linear, got {type(layer).__name__}")
        return super().sequence(layer, pre, post, state=state, modulator=modulator, lengths=lengths)

    def terms(
        self, weight: Tensor, pre: Tensor, post: Tensor, state: State | None, lengths: Tensor | None
    ) -> tuple[list[Term], State]:
        """The correlation, and ``post^2`` with an input of ones, which is the same for all inputs of an output."""
        return [Term(1.0, pre, post), Term(-weight, torch.ones_like(pre), post.square())], {}


@dataclass(frozen=True)
class BCM(LocalRule):
    """``dw = sum pre post (post - theta)``, with a sliding threshold, ``theta <- theta + (mean post^2 - theta) / tau``.

    Args:
        tau: time constant of theta in steps, at least 1.

    theta, one for each output (channel, for convolutions), begins at 0; a step changes the weights with the theta
    before it. The mean is that of samples and places. The state is ``theta``. The layer is ``nn.Linear`` or a
    convolution.

    >>> import torch
    >>> import spikeloom as sl
    >>> layer = torch.nn.Linear(1, 1)
    >>> ones = torch.ones(2, 1, 1)
    >>> dw, state = sl.learn.BCM(tau=2.0).sequence(layer, ones, 2 * ones)
    >>> dw, state["theta"]  # 2 (2 - 0) + 2 (2 - 2)
    (tensor([[4.]]), tensor([3.]))
    """

    tau: float = 100.0

    def __post_init__(self) -> None:
        if not 1 <= self.tau < math.inf:
            raise ValueError(f"learn.BCM: tau must be finite and at least 1 step, got {self.tau}")

    def sequence(
        self,
        layer: nn.Module,
        pre: Tensor,
        post: Tensor,
        *,
        state: State | None = None,
        modulator: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """As that of all local rules, for layers with a row of weights for each output: TypeError for others."""
        if not has_rows(layer):
            raise TypeError(f"learn.BCM: takes nn.Linear and convolutions, got {type(layer).__name__}")
        return super().sequence(layer, pre, post, state=state, modulator=modulator, lengths=lengths)

    def terms(
        self, weight: Tensor, pre: Tensor, post: Tensor, state: State | None, lengths: Tensor | None
    ) -> tuple[list[Term], State]:
        """One product, with the threshold before each step."""
        channel = post.ndim - 1 if weight.ndim == 2 else 2  # of [T, B, *, F], or [T, B, C, *]
        others = [d for d in range(1, post.ndim) if d != channel]
        total = post.square().sum(others)
        each = math.prod(post.shape[d] for d in others[1:])
        if lengths is None:
            mean = total / (each * post.shape[1])
        else:
            there = valid_steps(lengths.to(post.device), post.shape[0]).sum(1)
            mean = total / (each * trailing(there, 2)).clamp(min=1)
        theta = torch.zeros_like(mean[:1]) if state is None else state["theta"].unsqueeze(0)
        steps = None if lengths is None else lengths.max().reshape(1)
        after, new = LI(tau=self.tau).to(post.device).sequence(mean.unsqueeze(1), state={"v": theta}, lengths=steps)
        before = torch.cat([theta, after[:-1, 0]])
        shape = [1] * post.ndim
        shape[0], shape[channel] = post.shape[0], post.shape[channel]
        return [Term(1.0, pre, post * (post - before.reshape(shape)))], {"theta": new["v"][0]}
