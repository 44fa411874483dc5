"""Surrogates whose derivative is smooth, except perhaps at 0. Notation: u = v - v_threshold, a = scale."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._numbers import Number
from .base import Surrogate


class ATan(Surrogate):
    """``g(u) = (a/2) / (1 + (pi a u / 2)^2)``, primitive ``atan(pi a u / 2) / pi + 1/2``; g(0) = a/2.

    Fang et al., Incorporating Learnable Membrane Time Constant..., ICCV 2021. It is the default of neurons.
    """

    paper = "Fang et al., Incorporating Learnable Membrane Time Constant to Enhance Learning of SNNs, ICCV 2021"

    def __init__(self, scale: Number = 2.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return (scale / 2) / (1 + (math.pi / 2 * scale * u).square())

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.atan(math.pi / 2 * scale * u) / math.pi + 0.5


class Sigmoid(Surrogate):
    """``g(u) = a S(au) (1 - S(au))`` with the logistic function S, primitive ``S(a u)``; g(0) = a/4."""

    def __init__(self, scale: Number = 4.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        s = torch.sigmoid(scale * u)
        return scale * s * (1 - s)

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.sigmoid(scale * u)


class FastSigmoid(Surrogate):
    """``g(u) = 1 / (1 + a |u|)^2``, primitive ``u / (1 + a |u|)``; g(0) = 1 for every a.

    Zenke and Ganguli, SuperSpike, Neural Computation 2018.
    """

    paper = "Zenke and Ganguli, SuperSpike, Neural Computation 30, 2018"

    def __init__(self, scale: Number = 25.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return 1 / (1 + scale * u.abs()).square()

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        return u / (1 + scale * u.abs())

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return -u * u.abs() / (1 + scale * u.abs()).square()


class Erf(Surrogate):
    """``g(u) = a / sqrt(pi) exp(-(a u)^2)``, primitive ``erfc(-a u) / 2``; g(0) = a / sqrt(pi).

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([0.0, 1.0], requires_grad=True)
    >>> sl.surrogate.Erf(1.0)(u).sum().backward()
    >>> u.grad  # 1 / sqrt(pi), and that times exp(-1)
    tensor([0.5642, 0.2076])
    """

    def __init__(self, scale: Number = 2.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return scale / math.sqrt(math.pi) * torch.exp(-(scale * u).square())

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        return 0.5 * torch.erfc(-scale * u)


class SuperSpike(Surrogate):
    """``g(u) = a / (1 + |u|)^2``, primitive ``a u / (1 + |u|)``; g(0) = a. The scale is the height, not the width.

    This is the curve of SpikingJelly's ``SuperSpike``. That of Zenke and Ganguli, 2018, is FastSigmoid, whose scale is
    the width.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([0.0, 1.0, -3.0], requires_grad=True)
    >>> sl.surrogate.SuperSpike(2.0)(u).sum().backward()
    >>> u.grad  # 2, 2 / 4 and 2 / 16
    tensor([2.0000, 0.5000, 0.1250])
    """

    def __init__(self, scale: Number = 1.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return scale / (1 + u.abs()).square()

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        return scale * u / (1 + u.abs())

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return u / (1 + u.abs())


class SoftSign(Surrogate):
    """``g(u) = (a/2) / (1 + a |u|)^2``, primitive ``(a u / (1 + a |u|) + 1) / 2``; g(0) = a/2.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([0.0, 0.5, -1.5], requires_grad=True)
    >>> sl.surrogate.SoftSign(2.0)(u).sum().backward()
    >>> u.grad  # 1, 1 / 4 and 1 / 16
    tensor([1.0000, 0.2500, 0.0625])
    """

    def __init__(self, scale: Number = 2.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return scale / (2 * (1 + scale * u.abs()).square())

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        return 0.5 * (scale * u / (1 + scale * u.abs()) + 1)


class PiecewiseExp(Surrogate):
    """``g(u) = (a/2) exp(-a |u|)``, primitive ``exp(-a |u|) / 2`` below 0 and 1 minus that above; g(0) = a/2.

    Neftci, Mostafa and Zenke, IEEE Signal Processing Magazine, 2019.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([0.0, 0.5], requires_grad=True)
    >>> sl.surrogate.PiecewiseExp(2.0)(u).sum().backward()
    >>> u.grad  # 1 and exp(-1)
    tensor([1.0000, 0.3679])
    """

    paper = "Neftci, Mostafa and Zenke, Surrogate Gradient Learning in SNNs, IEEE Signal Processing Magazine 2019"

    def __init__(self, scale: Number = 1.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return 0.5 * scale * torch.exp(-scale * u.abs())

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        tail = 0.5 * torch.exp(-scale * _size(u))
        return torch.where(u < 0, tail, 1 - tail)


class Gaussian(Surrogate):
    """``g(u) = a / sqrt(2 pi) exp(-(a u)^2 / 2)``, primitive the normal distribution function of ``a u``.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([0.0, 1.0], requires_grad=True)
    >>> sl.surrogate.Gaussian(1.0)(u).sum().backward()
    >>> u.grad  # the normal density at 0 and at 1
    tensor([0.3989, 0.2420])
    """

    def __init__(self, scale: Number = 1.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return scale * _normal(scale * u)

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        return _cumulative(scale * u)


class MultiGaussian(Surrogate):
    """``g(u) = gain ((1 + h) N(u; 0, 1/a) - h N(u; 1/a, s/a) - h N(u; -1/a, s/a))``: a bump with shallow negative
    sides; N(u; m, d) is the normal density with mean m and deviation d.

    Yin, Corradi and Bohte, Accurate and efficient time-domain classification..., Nature Machine Intelligence 2021
    (there a = 2, h = 0.15, s = 6, gain = 0.5).

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([0.0, 2.0], requires_grad=True)
    >>> sl.surrogate.MultiGaussian(2.0)(u).sum().backward()
    >>> u.grad  # positive at the threshold, negative beside
    tensor([ 0.4391, -0.0157])
    """

    paper = "Yin, Corradi and Bohte, Accurate and efficient time-domain classification, Nat. Mach. Intell. 2021"

    def __init__(
        self, scale: Number = 2.0, *, h: float = 0.15, s: float = 6.0, gain: float = 0.5, spiking: bool = True
    ) -> None:
        super().__init__(scale, spiking=spiking)
        self.h, self.s, self.gain = h, s, gain

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        z = scale * u
        sides = _normal((z - 1) / self.s) + _normal((z + 1) / self.s)
        return self.gain * scale * ((1 + self.h) * _normal(z) - self.h / self.s * sides)

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        z = scale * u
        sides = _cumulative((z - 1) / self.s) + _cumulative((z + 1) / self.s)
        return self.gain * ((1 + self.h) * _cumulative(z) - self.h * sides)


class QPseudoSpike(Surrogate):
    """``g(u) = w^-a`` with ``w = 1 + 2 |u| / (a - 1)``; g(0) = 1. The smaller a > 1 is, the heavier its tail.

    Primitive: ``w^(1-a) / 2`` below 0 and 1 minus that above. Herranz-Celotti and Rouat, arXiv:2202.00282.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([0.0, 0.5, 1.5], requires_grad=True)
    >>> sl.surrogate.QPseudoSpike(2.0)(u).sum().backward()
    >>> u.grad  # 1, 1 / 4 and 1 / 16
    tensor([1.0000, 0.2500, 0.0625])
    """

    paper = "Herranz-Celotti and Rouat, Surrogate Gradients Design, arXiv:2202.00282, 2022"
    limits = {"scale": (1.0 + 1e-6, math.inf)}  # noqa: RUF012

    def __init__(self, scale: Number = 2.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.exp(-scale * torch.log1p(2 * u.abs() / (scale - 1)))

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        tail = 0.5 * torch.exp((1 - scale) * torch.log1p(2 * _size(u) / (scale - 1)))
        return torch.where(u < 0, tail, 1 - tail)

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        ratio = 2 * u.abs() / (scale - 1)
        log = torch.log1p(ratio)
        slope = 0.5 * torch.exp((1 - scale) * log) * (ratio / (1 + ratio) - log)
        return torch.where(u < 0, slope, -slope)


class NonzeroSignLogAbs(Surrogate):
    """``g(u) = a / (1 + a |u|)``, primitive ``sign(u) ln(1 + a |u|)``; g(0) = a.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([0.0, 1.0, -3.0], requires_grad=True)
    >>> sl.surrogate.NonzeroSignLogAbs(1.0)(u).sum().backward()
    >>> u.grad
    tensor([1.0000, 0.5000, 0.2500])
    """

    def __init__(self, scale: Number = 1.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return scale / (1 + scale * u.abs())

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        tail = torch.log1p(scale * _size(u))
        return torch.where(u < 0, -tail, tail)


class SquarewaveFourierSeries(Surrogate):
    """``g(u) = 4 a sum_k cos((2k-1) 2 pi a u)`` over k = 1 .. terms: a square wave of period 1/a, in its first terms.

    Primitive: ``1/2 + 2/pi sum_k sin((2k-1) 2 pi a u) / (2k-1)``. SpikingJelly's ``n`` is one more than its number
    of terms, and its ``T_period`` is 1/a.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([0.0, 2.0], requires_grad=True)
    >>> sl.surrogate.SquarewaveFourierSeries(0.25, terms=2)(u).sum().backward()
    >>> u.grad  # the sum of two cosines: 2 in phase, then -2
    tensor([ 2., -2.])
    """

    def __init__(self, scale: Number = 0.125, *, terms: int = 2, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)
        if terms < 1:
            raise ValueError(f"SquarewaveFourierSeries: terms must be at least 1, got {terms}")
        self.terms = terms

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        z = 2 * math.pi * scale * u
        total = torch.cos(z)
        for k in range(2, self.terms + 1):
            total = total + torch.cos((2 * k - 1) * z)
        return 4 * scale * total

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        z = 2 * math.pi * scale * u
        total = torch.sin(z)
        for k in range(2, self.terms + 1):
            total = total + torch.sin((2 * k - 1) * z) / (2 * k - 1)
        return 0.5 + 2 / math.pi * total


class SpikeRateEscape(Surrogate):
    """``g(u) = k exp(-a |u|)``, the escape rate of a noisy neuron; g(0) = k (``slope``).

    Primitive: ``(k/a) exp(-a |u|)`` below 0, ``(k/a) (2 - exp(-a |u|))`` above. Wozniak et al., Nature Machine
    Intelligence 2020; Gerstner et al., Neuronal Dynamics, chapter 9. snnTorch's has its peak at u = 1, one unit above
    the threshold, because it subtracts the threshold twice.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([0.0, 1.0], requires_grad=True)
    >>> sl.surrogate.SpikeRateEscape(1.0, slope=2.0)(u).sum().backward()
    >>> u.grad  # 2, and 2 exp(-1)
    tensor([2.0000, 0.7358])
    """

    paper = "Wozniak et al., Deep learning incorporating biologically inspired neural dynamics, Nat. Mach. Intell. 2020"

    def __init__(self, scale: Number = 1.0, *, slope: float = 25.0, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)
        self.slope = slope

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        return self.slope * torch.exp(-scale * u.abs())

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        tail = self.slope / scale * torch.exp(-scale * _size(u))
        return torch.where(u < 0, tail, 2 * self.slope / scale - tail)

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        tail = self.slope / scale * torch.exp(-scale * u.abs())
        slope = -tail * (u.abs() + 1 / scale)
        return torch.where(u < 0, slope, -2 * self.slope / scale.square() - slope)


class Dspike(Surrogate):
    """``g(u) = a (1 - tanh(a u)^2) / (2 tanh(a/2))`` on ``|u| <= 1/2``, else 0: from nearly the identity's (small a) to
    nearly the step's (large a).

    Primitive: ``tanh(a u) / (2 tanh(a/2)) + 1/2`` there, 0 below and 1 above. Li et al., Differentiable Spike,
    NeurIPS 2021.

    >>> import torch
    >>> import spikeloom as sl
    >>> u = torch.tensor([0.0, 0.5, 0.75], requires_grad=True)
    >>> sl.surrogate.Dspike(2.0)(u).sum().backward()
    >>> u.grad  # 1 / tanh 1 at the threshold, nothing beyond 1/2
    tensor([1.3130, 0.5514, 0.0000])
    """

    paper = "Li et al., Differentiable Spike: Rethinking Gradient-Descent for Training SNNs, NeurIPS 2021"

    def __init__(self, scale: Number = 3.0, *, spiking: bool = True) -> None:
        super().__init__(scale, spiking=spiking)

    def derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        slope = scale * (1 - torch.tanh(scale * u).square()) / (2 * torch.tanh(0.5 * scale))
        return torch.where(u.abs() <= 0.5, slope, torch.zeros_like(slope))

    def primitive(self, u: Tensor, scale: Tensor) -> Tensor:
        u = torch.where(u.abs() <= 0.5, u, u.detach().clamp(-0.5, 0.5))  # closed, as torch's clamp is in some releases
        return 0.5 + torch.tanh(scale * u) / (2 * torch.tanh(0.5 * scale))

    def scale_derivative(self, u: Tensor, scale: Tensor) -> Tensor:
        inner, whole = torch.tanh(scale * u), torch.tanh(0.5 * scale)
        slope = (u * (1 - inner.square()) - inner * (1 - whole.square()) / (2 * whole)) / (2 * whole)
        return torch.where(u.abs() <= 0.5, slope, torch.zeros_like(slope))


def _size(u: Tensor) -> Tensor:
    """``|u|``, whose derivative at 0 is 1, where torch's is 0: that of a primitive is to be the surrogate."""
    return torch.where(u < 0, -u, u)


def _normal(z: Tensor) -> Tensor:
    """The standard normal density."""
    return torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)


def _cumulative(z: Tensor) -> Tensor:
    """The standard normal distribution function."""
    return 0.5 * torch.erfc(-z / math.sqrt(2))
