"""FPTT: forward propagation through time, a step of the optimiser after each piece, held back by a running mean.

    minimise    l_t(W) + alpha/2 |W - W' - l'/(2 alpha)|^2           one step of the optimiser, from W[t] to W[t+1]
    l'   <-     gradient of l_t at W[t+1]
    W'   <-     (W' + W[t+1]) / 2 - l' / (2 alpha)

Kag and Saligrama, Training Recurrent Neural Networks via Forward Propagation Through Time, ICML 2021; Yin, Corradi and
Bohte, Accurate Online Training of Dynamical Spiking Neural Networks Through Forward Propagation Through Time, Nature
Machine Intelligence 5, 2023.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core import Network, State, detach
from .online import Loss, Piece, check_options, check_scalar


class FPTT:
    """Trains a network after each piece of a sequence, with a regulariser that remembers the weights of earlier pieces.

    Args:
        parameters: those that the optimiser changes; frozen ones may be among them.
        alpha: strength of the regulariser, above 0.

    The running means W' and the last gradients l' belong to the object and are in :meth:`state_dict`; they go on from
    sequence to sequence. Each piece runs twice, the second time at the new weights from the same state, for l'.
    SpikingJelly's ``fptt_online_training`` has the mean of squares in place of the sum (divide ``alpha`` by the number
    of values of a parameter), takes l' from the state after the step, and begins each sequence with l' = 0.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Linear(4, 8), sl.LIF(), torch.nn.Linear(8, 2))
    >>> optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> fptt = sl.learn.FPTT(net.parameters(), alpha=0.5)
    >>> for piece in fptt.pieces(net, torch.rand(20, 3, 4), lambda y, t0: y.square().mean(), optimiser, steps=5):
    ...     pass
    >>> piece.start
    15
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, alpha: float = 0.5) -> None:
        if not alpha > 0:
            raise ValueError(f"learn.FPTT: alpha must be above 0, got {alpha}")
        self.parameters, self.alpha = list(parameters), alpha
        if not self.parameters:
            raise ValueError("learn.FPTT: there are no parameters")
        self.means = [p.detach().clone() for p in self.parameters]
        self.gradients = [torch.zeros_like(p) for p in self.means]

    def penalty(self) -> Tensor:
        """``alpha/2 |W - W' - l'/(2 alpha)|^2``, with gradient."""
        found = [
            (p - mean - g / (2 * self.alpha)).square().sum()
            for p, mean, g in zip(self.parameters, self.means, self.gradients, strict=True)
        ]
        return self.alpha / 2 * torch.stack(found).sum()

    @torch.no_grad()
    def update(self, gradients: Iterable[Tensor | None]) -> None:
        """Takes over the gradients of the loss at the new weights, None for zeros."""
        for p, mean, g, new in zip(self.parameters, self.means, self.gradients, gradients, strict=True):
            g.zero_() if new is None else g.copy_(new)
            mean.add_(p).mul_(0.5).sub_(g / (2 * self.alpha))

    def pieces(
        self,
        net: Network,
        x: Tensor,
        loss: Loss,
        optimiser: torch.optim.Optimizer,
        *,
        steps: int = 1,
        state: State = None,
    ) -> Iterator[Piece]:
        """Trains on a sequence, piece by piece; the optimiser has made its step when a piece is given.

        Args:
            net: a Network.
            x: ``[T, B, *]`` (``[B, T, *]`` if the network is ``batch_first``).
            loss: of the outputs ``[K, B, *]`` of a piece and its first step, as of :func:`online`.
            optimiser: one over the parameters.
            steps: steps of a piece.
            state: where to begin; None is rest.
        """
        check_options(net, x, steps, "truncated", None)
        x = x.transpose(0, 1) if net.batch_first else x
        state = None if state is None else detach(state)
        for t0 in range(0, len(x), steps):
            piece = x[t0 : t0 + steps]
            with torch.enable_grad():
                y, after, *_ = net.sequence(piece, state=state)
                value = check_scalar(loss(y, t0))
                optimiser.zero_grad()
                (value + self.penalty()).backward()
                optimiser.step()
                optimiser.zero_grad()
                again = check_scalar(loss(net.sequence(piece, state=state)[0], t0))
                learned = [p for p in self.parameters if p.requires_grad]
                found = dict(zip(map(id, learned), torch.autograd.grad(again, learned, allow_unused=True), strict=True))
                self.update(found.get(id(p)) for p in self.parameters)
            state = detach(after)
            yield Piece(t0, value.detach(), y.detach(), state)

    def state_dict(self) -> dict[str, Any]:
        """alpha, W' and l'."""
        return {"alpha": self.alpha, "means": self.means, "gradients": self.gradients}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what :meth:`state_dict` gave. Raises ValueError where parameters have other shapes."""
        for name in ("means", "gradients"):
            own, given = getattr(self, name), state[name]
            if [t.shape for t in own] != [t.shape for t in given]:
                raise ValueError(f"learn.FPTT: the {name} belong to parameters of other shapes")
            for mine, other in zip(own, given, strict=True):
                mine.copy_(other)
        self.alpha = state["alpha"]
