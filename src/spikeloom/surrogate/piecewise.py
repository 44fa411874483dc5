"""Surrogates whose derivative has corners or steps. Notation: u = v - v_threshold, a = scale.

Primitives choose their pieces by ``where``: torch's own gradient of ``clamp`` at its bounds depends on the release.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._numbers import Number
from .base import Surrogate


class PiecewiseQuadratic(Surrogate):
    """``g(u) = max(0, a - a^2 |u|)``, a triangle of area 1 on ``|u| <= 1/a``; g(0) = a.

    Primitive: ``1/2 + a u - a^2 u |u| / 2`` on that interval, 0 below it and 1 above.
    Esser et al., PNAS 2016; Bellec et al., NeurIPS 2018.
    """

    paper = "Esser et al., Convolutional networks for fast, energy-efficient neuromorphic computing, PNAS 2016"

    def __init__(self, scale: Number = 1.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.relu(scale - scale.square() * u.abs())

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        z = (scale * u).clamp(-1.0, 1.0)
        return 0.5 + z - 0.5 * z * z.abs()


class StraightThrough(Surrogate):
    """``g(u) = 1`` everywhere, primitive ``u``. Bengio et al., arXiv:1308.3432. It has no scale.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([-3.0, 0.0, 2.0], requires_grad=True)
    >>> sl.surrogate.StraightThrough()(u).sum().backward()
    >>> u.grad
    tensor([1., 1., 1.])
    """

    paper = "Bengio, Leonard and Courville, Estimating or Propagating Gradients, arXiv:1308.3432, 2013"
    scaled = False

    def __init__(self, *, spiking: bool = True) -> None:
        super().__init__(1.0, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.ones_like(u)

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        return u

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.zeros_like(u)


class Rect(Surrogate):
    """``g(u) = a`` where ``|u| < 1/(2a)``, else 0: a rectangle of area 1. Primitive ``clamp(a u + 1/2, 0, 1)``.

    Wu et al., Spatio-temporal backpropagation, Frontiers in Neuroscience 2018.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([-0.3, -0.2, 0.0, 0.2, 0.3], requires_grad=True)
    >>> sl.surrogate.Rect(2.0)(u).sum().backward()
    >>> u.grad  # 2 within 1/4 of the threshold
    tensor([0., 2., 2., 2., 0.])
    """

    paper = "Wu et al., Spatio-Temporal Backpropagation for Training High-Performance SNNs, Front. Neurosci. 2018"

    def __init__(self, scale: Number = 1.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.where((scale * u).abs() < 0.5, scale + torch.zeros_like(u), torch.zeros_like(u))

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        z = scale * u
        return torch.where(z.abs() < 0.5, z + 0.5, (z.detach() + 0.5).clamp(0.0, 1.0))


class PiecewiseLeakyReLU(Surrogate):
    """``g(u) = a/2`` where ``|u| <= 1/a``, else ``leak``. SpikingJelly's width ``w`` is 1/a, its ``c`` the leak.

    Primitive: ``leak (u + 1/a)`` below, ``a u / 2 + 1/2`` within, ``leak (u - 1/a) + 1`` above.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([-1.0, 0.0, 0.5, 1.0], requires_grad=True)
    >>> sl.surrogate.PiecewiseLeakyReLU(2.0, leak=0.25)(u).sum().backward()
    >>> u.grad  # 1 within 1/2 of the threshold
    tensor([0.2500, 1.0000, 1.0000, 0.2500])
    """

    def __init__(self, scale: Number = 1.0, *, leak: float = 0.01, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)
        self.leak = leak

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        outside = torch.full_like(u, self.leak)
        return torch.where((scale * u).abs() <= 1, 0.5 * scale + torch.zeros_like(u), outside)

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        within = torch.where((scale * u).abs() <= 1, u, torch.sign(u) / scale)
        return 0.5 * scale * within + 0.5 + self.leak * (u - within)

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        outside = torch.sign(u) * self.leak / scale.square()
        return torch.where((scale * u).abs() <= 1, 0.5 * u, outside)


class LeakyKReLU(Surrogate):
    """``g(u) = k`` above 0 and ``leak`` below; k is the scale. Primitive: ``k u`` and ``leak u``.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
    >>> sl.surrogate.LeakyKReLU(2.0, leak=0.25)(u).sum().backward()
    >>> u.grad
    tensor([0.2500, 2.0000, 2.0000])
    """

    def __init__(self, scale: Number = 1.0, *, leak: float = 0.0, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)
        self.leak = leak

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.where(u >= 0, scale + torch.zeros_like(u), torch.full_like(u, self.leak))

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.where(u >= 0, scale * u, self.leak * u)

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.relu(u)


class LeakySpikeOperator(Surrogate):
    """``g(u) = 1`` where the neuron fired and ``a`` where it did not. Primitive: ``u`` and ``a u``.

    This is snnTorch's ``LSO``.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
    >>> sl.surrogate.LeakySpikeOperator(0.25)(u).sum().backward()
    >>> u.grad
    tensor([0.2500, 1.0000, 1.0000])
    """

    def __init__(self, scale: Number = 0.1, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.where(u >= 0, torch.ones_like(u), scale + torch.zeros_like(u))

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.where(u >= 0, u, scale * u)

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return u.clamp(max=0.0)


class Heaviside(Surrogate):
    """``g(u) = 1`` where the neuron fired, else 0; primitive ``max(u, 0)``. It is snnTorch's, and has no scale.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
    >>> sl.surrogate.Heaviside()(u).sum().backward()
    >>> u.grad
    tensor([0., 1., 1.])
    """

    scaled = False

    def __init__(self, *, spiking: bool = True) -> None:
        super().__init__(1.0, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.where(u >= 0, torch.ones_like(u), torch.zeros_like(u))

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.where(u < 0, torch.zeros_like(u), u)  # a derivative of 1 at 0, where relu's is 0

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.zeros_like(u)


class S2NN(Surrogate):
    """``g(u) = a S(a u) (1 - S(a u))`` below 0 and ``beta / (1 + u)`` above: its tail is long for high potentials.

    Primitive: ``S(a u)`` and ``beta ln(1 + u) + 1/2``. Suetake et al., S2NN, Neural Networks 2023, arXiv:2201.10879.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([0.0, 1.0, 3.0], requires_grad=True)
    >>> sl.surrogate.S2NN(4.0)(u).sum().backward()
    >>> u.grad  # 1 / (1 + u)
    tensor([1.0000, 0.5000, 0.2500])
    """

    paper = "Suetake et al., S2NN: Time step reduction of spiking surrogate gradients, Neural Networks 2023"

    def __init__(self, scale: Number = 4.0, *, beta: float = 1.0, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)
        self.beta = beta

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        s = torch.sigmoid(scale * u)
        return torch.where(u < 0, scale * s * (1 - s), self.beta / (1 + u.abs()))

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        above = self.beta * torch.log1p(torch.where(u < 0, torch.zeros_like(u), u)) + 0.5
        return torch.where(u < 0, torch.sigmoid(scale * u), above)

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        s = torch.sigmoid(scale * u)
        return torch.where(u < 0, u * s * (1 - s), torch.zeros_like(u))


class LogTailedReLU(Surrogate):
    """``g(u) = a`` at or below 0, 1 up to 1, ``1/u`` above 1. Primitive: ``a u``, ``u``, ``1 + ln u``.

    Cai et al., Deep learning with low precision by half-wave Gaussian quantization, CVPR 2017.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([-1.0, 0.5, 2.0, 4.0], requires_grad=True)
    >>> sl.surrogate.LogTailedReLU(0.25)(u).sum().backward()
    >>> u.grad
    tensor([0.2500, 1.0000, 0.5000, 0.2500])
    """

    paper = "Cai et al., Deep Learning with Low Precision by Half-wave Gaussian Quantization, CVPR 2017"
    limits = {"scale": (0.0, float("inf"))}  # noqa: RUF012

    def __init__(self, scale: Number = 0.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.where(u > 0, 1 / u.clamp(min=1.0), scale + torch.zeros_like(u))

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        above = torch.where(u <= 1, u, 1 + torch.log(u.clamp(min=1.0)))
        return torch.where(u > 0, above, scale * u)

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return u.clamp(max=0.0)


class FakeNumericalGradient(Surrogate):
    """``g(u) = min(1 / |u|, a)``; g(0) = a. Primitive: ``a u`` where ``|u| <= 1/a``, else ``sign(u) (1 + ln(a |u|))``.

    SpikingJelly's is NaN at u = 0.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([0.0, 0.25, 1.0, -4.0], requires_grad=True)
    >>> sl.surrogate.FakeNumericalGradient(2.0)(u).sum().backward()
    >>> u.grad  # at most 2
    tensor([2.0000, 2.0000, 1.0000, 0.2500])
    """

    def __init__(self, scale: Number = 0.3, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return scale / (scale * u).abs().clamp(min=1.0)

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        z = scale * u
        return torch.where(z.abs() <= 1, z, torch.sign(u) * (1 + torch.log(z.abs().clamp(min=1.0))))


class SparseFastSigmoid(Surrogate):
    """FastSigmoid near the threshold, ``|u| < width``, and 0 elsewhere: few neurons take part in the backward pass.

    Primitive: that of FastSigmoid, constant beyond the width. Perez-Nieves and Goodman, Sparse spiking gradient
    descent, NeurIPS 2021. snnTorch's ``SFS`` keeps the gradient where ``u > B`` instead.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([0.0, 1.0, 2.0], requires_grad=True)
    >>> sl.surrogate.SparseFastSigmoid(1.0, width=1.5)(u).sum().backward()
    >>> u.grad  # 1 / (1 + 1)^2 at 1, nothing beyond 1.5
    tensor([1.0000, 0.2500, 0.0000])
    """

    paper = "Perez-Nieves and Goodman, Sparse Spiking Gradient Descent, NeurIPS 2021"

    def __init__(self, scale: Number = 25.0, *, width: float = 1.0, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)
        self.width = width

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        slope = 1 / (1 + scale * u.abs()).square()
        return torch.where(u.abs() < self.width, slope, torch.zeros_like(slope))

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        u = torch.where(u.abs() < self.width, u, u.detach().clamp(-self.width, self.width))
        return u / (1 + scale * u.abs())

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        u = u.clamp(-self.width, self.width)
        return -u * u.abs() / (1 + scale * u.abs()).square()
