"""Surrogate gradients: the step function forward, a smooth derivative backward.

A spike is ``s = 1 if u >= 0 else 0`` with ``u = v - v_threshold``. Its true derivative is zero almost
everywhere, so training replaces it by ``ds/du = g(u)`` with one of the shapes below.

>>> import torch
>>> from spikeloom import surrogate
>>> u = torch.tensor([-0.3, 0.0, 0.3], requires_grad=True)
>>> s = surrogate.ATan(2.0)(u)
>>> s.detach()
tensor([0., 1., 1.])
>>> torch.autograd.grad(s.sum(), u)[0]
tensor([0.5296, 1.0000, 0.5296])
"""

from .functions import ATan, Erf, FastSigmoid, PiecewiseQuadratic, Sigmoid, StraightThrough, Surrogate
from .schedule import (
    CosineSchedule,
    EvolvedAlpha,
    ExponentialSchedule,
    LinearSchedule,
    PolynomialSchedule,
    Schedule,
    StepSchedule,
)

__all__ = [
    "ATan",
    "CosineSchedule",
    "Erf",
    "EvolvedAlpha",
    "ExponentialSchedule",
    "FastSigmoid",
    "LinearSchedule",
    "PiecewiseQuadratic",
    "PolynomialSchedule",
    "Schedule",
    "Sigmoid",
    "StepSchedule",
    "StraightThrough",
    "Surrogate",
]
