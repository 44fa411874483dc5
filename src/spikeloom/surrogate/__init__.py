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

from .base import Surrogate
from .custom import Custom
from .noisy import PoissonPass, StochasticSpikeOperator
from .piecewise import (
    S2NN,
    FakeNumericalGradient,
    Heaviside,
    LeakyKReLU,
    LeakySpikeOperator,
    LogTailedReLU,
    PiecewiseLeakyReLU,
    PiecewiseQuadratic,
    Rect,
    SparseFastSigmoid,
    StraightThrough,
)
from .schedule import (
    CosineSchedule,
    EvolvedAlpha,
    ExponentialSchedule,
    LinearSchedule,
    PolynomialSchedule,
    Schedule,
    StepSchedule,
)
from .smooth import (
    ATan,
    Dspike,
    Erf,
    FastSigmoid,
    Gaussian,
    MultiGaussian,
    NonzeroSignLogAbs,
    PiecewiseExp,
    QPseudoSpike,
    Sigmoid,
    SoftSign,
    SpikeRateEscape,
    SquarewaveFourierSeries,
    SuperSpike,
)

__all__ = [
    "S2NN",
    "ATan",
    "CosineSchedule",
    "Custom",
    "Dspike",
    "Erf",
    "EvolvedAlpha",
    "ExponentialSchedule",
    "FakeNumericalGradient",
    "FastSigmoid",
    "Gaussian",
    "Heaviside",
    "LeakyKReLU",
    "LeakySpikeOperator",
    "LinearSchedule",
    "LogTailedReLU",
    "MultiGaussian",
    "NonzeroSignLogAbs",
    "PiecewiseExp",
    "PiecewiseLeakyReLU",
    "PiecewiseQuadratic",
    "PoissonPass",
    "PolynomialSchedule",
    "QPseudoSpike",
    "Rect",
    "Schedule",
    "Sigmoid",
    "SoftSign",
    "SparseFastSigmoid",
    "SpikeRateEscape",
    "SquarewaveFourierSeries",
    "StepSchedule",
    "StochasticSpikeOperator",
    "StraightThrough",
    "SuperSpike",
    "Surrogate",
]
