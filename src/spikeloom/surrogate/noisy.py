"""Surrogates that draw random numbers. No kernel can hold one: a neuron with one runs as a PyTorch loop."""

from __future__ import annotations

import torch
from torch import Tensor

from .._numbers import Number
from .base import Surrogate


class StochasticSpikeOperator(Surrogate):
    """``g(u) = 1`` where the neuron fired, else ``a (r - 1/2 + mean)`` with r uniform from 0 to 1.

    It has no primitive. This is snnTorch's ``SSO``, whose ``variance`` is the scale here.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([0.5, -0.5], requires_grad=True)
    >>> sl.surrogate.StochasticSpikeOperator(0.2)(u).sum().backward()
    >>> u.grad[0].item(), bool(u.grad[1].abs() <= 0.1)  # 1 where it fired, else from -0.1 to 0.1
    (1.0, True)
    """

    def __init__(self, scale: Number = 0.2, *, mean: float = 0.0) -> None:
        super().__init__(scale)
        self.mean = mean

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.where(u >= 0, torch.ones_like(u), scale * (torch.rand_like(u) - 0.5 + self.mean))

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.zeros_like(u)


class PoissonPass(Surrogate):
    """A spike with probability ``u``, clipped to [0, 1]; the derivative is 1, as if the rate passed through.

    Primitive: ``u``. It has no scale. Its argument is a rate: use it in a neuron whose v_threshold is 0, or alone.

    >>> import torch
    >>> import spikeloom as sl
    >>> rates = torch.tensor([0.0, 1.0, 2.0], requires_grad=True)
    >>> spikes = sl.surrogate.PoissonPass()(rates)
    >>> spikes.tolist(), torch.autograd.grad(spikes.sum(), rates)[0].tolist()
    ([0.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    """

    scaled = False

    def __init__(self, *, spiking: bool = True) -> None:
        super().__init__(1.0, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.ones_like(u)

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        return u

    def forward(self, u: Tensor, strict: bool = False) -> Tensor:
        if not self.spiking:
            return u
        spikes = (torch.rand_like(u) < u.detach()).to(u.dtype)
        return spikes + (u - u.detach())
