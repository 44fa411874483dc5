"""Sample arguments of every neuron, option, surrogate and layer, in one place.

Whoever adds one adds a sample here; ``test_samples.py`` fails until it is there. The tests of networks, splits,
gradients and kernels then run it too. A key begins with the name of the class; words after it tell variants apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import spikeloom as sl

S = sl.surrogate
F = 8
"""Features of the layers, and of a step of a neuron."""
T = 12
"""Steps of the layers that are made for a number of steps."""


@dataclass(frozen=True)
class Sample:
    """How one is made, and what tests have to know of it."""

    make: Callable[..., Any]
    """The module, with numbers that differ from the defaults; of an option also around a given neuron, of a surrogate
    also with a given scale."""
    gain: float = 1.0
    """Of inputs ``0.5 + randn``, with which between 3 and 97 % of the outputs are not 0."""
    exact: bool = True
    """Made of arithmetic and comparisons: kernels give the loop's bits. False: of exponentials and the like."""
    smooth: bool = True
    """With a surrogate that does not spike its gradient is that of its function. False: gradients by design."""
    random: bool = False
    """It draws random numbers in training (options), or always (surrogates)."""
    by_mode: bool = False
    """It computes something else in training than in evaluation, by design."""
    causal: bool = True
    """No step sees a later one, so that split runs and streams are right."""
    step: tuple[int, ...] = (3, F)
    """Shape of one step of the input, ``[B, *]``."""
    analog: bool = False
    """Its output is no spike: it is hardly ever 0."""
    folds: bool = False
    """Its ``v_threshold`` says when it fires and nothing else: an MPBN around it folds (of an option: around a hard
    reset)."""
    equation: Callable[..., tuple[Any, ...]] | None = None
    """The step once more over plain numbers: ``(x, *states) -> (output, *states)``."""
    rest: tuple[float, ...] = ()
    """The states at rest that the equation begins with."""


def leaky() -> sl.Neuron:
    """What options stand around."""
    return sl.Leaky(beta=0.6, v_threshold=0.7, reset_delay=False, strict=False)


TABLES = (
    sl.FewSpikeTable(theta=(0.8, 0.5, 0.2), h=(0.7, 0.5, 0.3), d=(1.0, 0.6, 0.1)),
    sl.FewSpikeTable(theta=(1.6, 1.0, 0.6), h=(1.5, 0.9, 0.5), d=(1.9, 0.7, 0.4)),
)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def qif(x, v):
    h = v + (x + 0.7 * (v - 0.1) * (v - 0.6)) / 2.5
    return (h >= 0.9, -0.2 if h >= 0.9 else h)


def eif(x, v):
    h = v + (x - (v - 0.1) + 0.8 * math.exp((v - 0.6) / 0.8)) / 3
    return (h >= 0.9, -0.2 if h >= 0.9 else h)


def adex(x, v, w):
    h = v + (x - (v - 0.1) + 0.8 * math.exp((v - 0.6) / 0.8) - w) / 3
    s = h >= 0.9
    return s, -0.2 if s else h, w + (0.3 * (v - 0.1) - w) / 5 + 0.4 * s


def izhikevich(x, v, u):
    h = v + 0.5 * (0.04 * v * v + 5 * v + 140 - u + x)
    u = u + 0.5 * 0.02 * (0.2 * h - u)
    s = h >= 30
    return s, -65.0 if s else h, u + 8 * s


def alif(x, v, a):
    h = 0.8 * v + x
    s = h >= 0.7 + 0.3 * a
    return s, h - 0.7 * s, 0.9 * a + s


def seadlif(x, v, w):
    h = 0.6 * v + 0.4 * (x - w)
    s = h >= 0.4
    v = 0.0 if s else h
    return s, v, 0.8 * w + 0.2 * (0.5 * v + 0.9 * s)


def klif(x, v):
    h = max(0.0, 1.4 * (v + (x - v) / 2.5))
    return h >= 0.8, 0.0 if h >= 0.8 else h


def klif_scaled(x, v):
    h = max(0.0, 1.4 * (v + (x - v) / 2.5))
    s = h >= 0.8
    return s, h / 1.4 - s * 0.8 / 1.4


def clif(x, v, m):
    h = (1 - 1 / 2.5) * v + x
    s = h >= 0.8
    m = m * sigmoid(h / 2.5) + s
    return s, h - s * (0.8 + sigmoid(m)), m


def lapicque(x, v):
    h = (1 - 0.5 / (2.0 * 1.5)) * v + x * 0.5 / 1.5
    return h >= 0.6, 0.0 if h >= 0.6 else h


def resonate(x, u, v):
    z = complex(u, v) * complex(math.exp(-0.1) * math.cos(0.8), math.exp(-0.1) * math.sin(0.8)) + x
    s = z.imag >= 0.5
    return (s, 0.2, 0.1) if s else (s, z.real, z.imag)


def ilif(x, v):
    h = 0.25 * v + x
    s = min(max(round(h / 0.5), 0), 3)  # Python rounds halves to even, too
    return s, h - s * 0.5


def ternary(x, v):
    h = v + x
    s = (h >= 0.8) - (h <= -0.8)
    return s, h - s * 0.8


def ternary_hard(x, v):
    h = v + (x - v) / 2.0
    s = (h >= 0.5) - (h <= -0.5)
    return s, 0.0 if s else h


def alpha(x, e, i, v):
    r = v > 0.4
    e, i = (0.0, 0.0) if r else (0.9 * e + x, 0.7 * i - x)
    v = (math.log(0.9) / (math.log(0.7) - math.log(0.9)) + 1) * (e + i)
    return v > 0.4, e, i, v


def stbif(x, q, n):
    q += x / 0.4
    s = (q >= 1 and n < 5) - (q < 0 and n > -2)
    return s * 0.4, q - s, n + s


def liaf(x, v):
    h = v + (x - v) / 2.5
    return max(0.0, h - 0.6), 0.0 if h >= 0.6 else h


def delta_leaky(x, v):
    h = 0.8 * v + x
    return abs(h - v) >= 0.7, h


def activation_aware(x, v):
    h = v + x
    s = h + 0.3 >= 0.8
    return s, h - s * 0.8


def sigma_delta(x, sigma, sent):
    sigma += x
    e = max(0.0, sigma) - sent
    s = e if abs(e) >= 0.7 else 0.0
    return s, sigma, sent + s


def few_spike(x):
    v = min(max(x, -1.2), 1.7)
    sign, v = math.copysign(1, v), abs(v)
    table, y = TABLES[v > 1.0], 0.0
    for theta, h, d in zip(table.theta, table.h, table.d, strict=True):
        if v >= theta:
            y, v = y + d, v - h
    return (sign * y,)


def synapse_filter(tau):
    def equation(x, o):
        o = o - (1 - x) * o / tau + x
        return o, o

    return equation


def leaky_soft(x, v):
    h = 0.6 * v + x
    s = h >= 0.7
    return s, h - s * 0.7


def refractory(x, v, wait):
    if wait > 0:
        return 0, v, wait - 1
    s, v = leaky_soft(x, v)
    return s, v, 2 * s


def graded(x, v):
    s, v = leaky_soft(x, v)
    return 0.4 * s, v


def adaptive(x, v, a):
    h = 0.6 * v + x
    s = h >= 0.7 + 0.5 * a
    return s, h - s * 0.7, 0.8 * a + s


def quantised(x, v):
    s, v = leaky_soft(x, v)
    return s, round((min(max(v, -1.0), 1.2) + 1.0) / (2.2 / 7)) * (2.2 / 7) - 1.0


def all_at_once(x, v, a, wait):
    if wait > 0:
        return 0, v, a, wait - 1
    s, v, a = adaptive(x, v, a)
    return 0.4 * s, v, a, 2 * s


NEURONS = {
    "IF": Sample(lambda: sl.IF(v_threshold=0.8, v_reset=0.1), folds=True),
    "IF soft": Sample(lambda: sl.IF(v_threshold=0.8, reset="soft")),
    "IF none": Sample(lambda: sl.IF(v_threshold=0.5, reset="none"), gain=0.3, folds=True),
    "LIF": Sample(lambda: sl.LIF(tau=2.5, v_threshold=0.4, v_reset=0.1), folds=True),
    "LIF leak": Sample(lambda: sl.LIF(tau=2.0, v_threshold=0.6, v_leak=0.2, reset="soft", decay_input=False)),
    "LIF strict": Sample(lambda: sl.LIF(v_threshold=0.4, strict=True), folds=True),
    "PLIF": Sample(lambda: sl.PLIF(tau=2.5, v_threshold=0.4), exact=False, folds=True),
    "PLIF leak": Sample(
        lambda: sl.PLIF(tau=3.0, v_threshold=0.6, v_leak=0.1, decay_input=False), exact=False, folds=True
    ),
    "Leaky": Sample(lambda: sl.Leaky(beta=0.8, v_threshold=0.7)),
    "Leaky hard": Sample(lambda: sl.Leaky(beta=0.8, v_threshold=0.7, reset="hard")),
    "Leaky now": Sample(lambda: sl.Leaky(beta=0.8, v_threshold=0.5, reset_delay=False)),
    "Leaky none": Sample(lambda: sl.Leaky(beta=0.8, v_threshold=1.0, reset="none"), folds=True),
    "Synaptic": Sample(lambda: sl.Synaptic(alpha=0.6, beta=0.7, v_threshold=0.9)),
    "Synaptic hard": Sample(lambda: sl.Synaptic(alpha=0.6, beta=0.8, v_threshold=0.9, reset="hard")),
    "Synaptic now": Sample(lambda: sl.Synaptic(alpha=0.6, beta=0.8, v_threshold=0.9, reset_delay=False)),
    "LI": Sample(lambda: sl.LI(tau=3.0, v_leak=0.3), analog=True),
    "QIF": Sample(
        lambda: sl.QIF(tau=2.5, a=0.7, v_c=0.6, v_leak=0.1, v_threshold=0.9, v_reset=-0.2),
        equation=qif,
        rest=(0.1,),
        folds=True,
    ),
    "EIF": Sample(
        lambda: sl.EIF(tau=3.0, delta_t=0.8, v_rh=0.6, v_leak=0.1, v_threshold=0.9, v_reset=-0.2),
        exact=False,
        equation=eif,
        rest=(0.1,),
        folds=True,
    ),
    "AdEx": Sample(
        lambda: sl.AdEx(
            tau=3.0, tau_w=5.0, a=0.3, b=0.4, delta_t=0.8, v_rh=0.6, v_leak=0.1, v_threshold=0.9, v_reset=-0.2
        ),
        exact=False,
        equation=adex,
        rest=(0.1, 0.0),
        folds=True,
    ),
    "Izhikevich": Sample(lambda: sl.Izhikevich(), gain=20.0, equation=izhikevich, rest=(-65.0, -13.0), folds=True),
    "Izhikevich small": Sample(
        lambda: sl.Izhikevich(
            a=0.5, b=0.3, d=0.2, dt=0.4, c2=1.0, c1=-0.8, c0=0.1, v_threshold=1.0, v_reset=-0.1, u_rest=0.2
        ),
        gain=2.0,
        folds=True,
    ),
    "ALIF": Sample(lambda: sl.ALIF(alpha=0.8, rho=0.9, beta=0.3, v_threshold=0.7), equation=alif, rest=(0.0, 0.0)),
    "SEAdLIF": Sample(
        lambda: sl.SEAdLIF(alpha=0.6, beta=0.8, a=0.5, b=0.9, v_threshold=0.4),
        equation=seadlif,
        rest=(0.0, 0.0),
        folds=True,
    ),
    "KLIF": Sample(lambda: sl.KLIF(k=1.4, tau=2.5, v_threshold=0.8), equation=klif, rest=(0.0,), folds=True),
    "KLIF scaled": Sample(
        lambda: sl.KLIF(k=1.4, scale_reset=True, tau=2.5, v_threshold=0.8, reset="soft"),
        equation=klif_scaled,
        rest=(0.0,),
    ),
    "KLIF scaled hard": Sample(lambda: sl.KLIF(k=1.2, scale_reset=True, v_threshold=0.8, v_leak=0.1), folds=True),
    "CLIF": Sample(lambda: sl.CLIF(tau=2.5, v_threshold=0.8), exact=False, equation=clif, rest=(0.0, 0.0)),
    "Lapicque": Sample(
        lambda: sl.Lapicque(r=2.0, c=1.5, dt=0.5, v_threshold=0.6), equation=lapicque, rest=(0.0,), folds=True
    ),
    "ResonateFire": Sample(
        lambda: sl.ResonateFire(omega=0.8, b=-0.1, v_threshold=0.5, u_reset=0.2, v_reset=0.1),
        exact=False,
        equation=resonate,
        rest=(0.0, 0.0),
        folds=True,
    ),
    "ResonateFire soft": Sample(lambda: sl.ResonateFire(omega=0.7, v_threshold=0.5, reset="soft"), exact=False),
    "ILIF": Sample(lambda: sl.ILIF(tau=4 / 3, levels=3, v_threshold=0.5), smooth=False, equation=ilif, rest=(0.0,)),
    "Alpha": Sample(
        lambda: sl.Alpha(alpha=0.9, beta=0.7, v_threshold=0.4), exact=False, equation=alpha, rest=(0.0, 0.0, 0.0)
    ),
    "STBIF": Sample(lambda: sl.STBIF(v_threshold=0.4, most=5, least=-2), smooth=False, equation=stbif, rest=(0.5, 0.0)),
    "LIAF": Sample(lambda: sl.LIAF(tau=2.5, v_threshold=0.6), equation=liaf, rest=(0.0,)),
    "LIAF of h": Sample(
        lambda: sl.LIAF(activation=torch.tanh, threshold_related=False, v_threshold=0.6, reset="soft"),
        exact=False,
        analog=True,
    ),
    "DeltaLeaky": Sample(
        lambda: sl.DeltaLeaky(beta=0.8, v_threshold=0.7), equation=delta_leaky, rest=(0.0,), folds=True
    ),
    "TernaryIF": Sample(lambda: sl.TernaryIF(v_threshold=0.8), equation=ternary, rest=(0.0,)),
    "TernaryLIF": Sample(
        lambda: sl.TernaryLIF(tau=2.0, v_threshold=0.5, reset="hard"), equation=ternary_hard, rest=(0.0,)
    ),
    "TernaryLIF none": Sample(
        lambda: sl.TernaryLIF(v_threshold=0.8, v_leak=0.1, decay_input=False, reset="none"),
    ),
    "ActivationAwareIF": Sample(
        lambda: sl.ActivationAwareIF(v_threshold=0.8, v_offset=0.3), equation=activation_aware, rest=(0.0,)
    ),
    "SigmaDelta": Sample(
        lambda: sl.SigmaDelta(v_threshold=0.7, activation=torch.relu),
        smooth=False,
        equation=sigma_delta,
        rest=(0.0, 0.0),
    ),
    "FewSpike": Sample(
        lambda: sl.FewSpike(*TABLES, gates=(1.0,), signed=True, clamp=(-1.2, 1.7)), smooth=False, equation=few_spike
    ),
}


def options(features: int) -> dict[str, Sample]:
    """The options, for steps ``[B, features]``."""
    return {
        "Refractory": Sample(
            lambda neuron=None: sl.options.Refractory(neuron or leaky(), steps=2),
            smooth=False,
            equation=refractory,
            rest=(0.0, 0.0),
            folds=True,
        ),
        "Graded": Sample(
            lambda neuron=None: sl.options.Graded(neuron or leaky(), factor=0.4),
            equation=graded,
            rest=(0.0,),
            folds=True,
        ),
        "Adaptive": Sample(
            lambda neuron=None: sl.options.Adaptive(neuron or leaky(), beta=0.5, rho=0.8),
            equation=adaptive,
            rest=(0.0, 0.0),
            folds=True,
        ),
        "StateQuant": Sample(
            lambda neuron=None: sl.options.StateQuant(neuron or leaky(), bits=3),
            smooth=False,
            equation=quantised,
            rest=(0.0,),
            folds=True,
        ),
        "HalfThreshold": Sample(
            lambda neuron=None: sl.options.HalfThreshold(neuron or leaky(), fraction=0.4),
            equation=leaky_soft,
            rest=(0.28,),
        ),
        "SLTT": Sample(
            lambda neuron=None: sl.options.SLTT(neuron or leaky()),
            smooth=False,
            equation=leaky_soft,
            rest=(0.0,),
            folds=True,
        ),
        "Noisy": Sample(lambda neuron=None: sl.options.Noisy(neuron or leaky(), input=0.3), random=True),
        "Noisy pink": Sample(
            lambda neuron=None: sl.options.Noisy(neuron or leaky(), input=0.3, exponent=1.0), random=True, causal=False
        ),
        "MPBN": Sample(lambda neuron=None: sl.options.MPBN(neuron or leaky(), features)),
    }


OPTIONS = options(F)
OUTERMOST = ("Noisy", "MPBN")
"""Options that no other may stand around."""

NESTED = {
    "Graded Refractory Adaptive": Sample(
        lambda: sl.options.Graded(
            sl.options.Refractory(sl.options.Adaptive(leaky(), beta=0.5, rho=0.8), steps=2), factor=0.4
        ),
        smooth=False,
        equation=all_at_once,
        rest=(0.0, 0.0, 0.0),
    ),
    "Graded Adaptive": Sample(lambda: sl.options.Graded(sl.options.Adaptive(leaky(), beta=0.3, rho=0.8), factor=0.5)),
}
SYNAPSES = {
    "SynapseFilter": Sample(
        lambda: sl.nn.SynapseFilter(tau=3.0), gain=0.5, analog=True, equation=synapse_filter(3), rest=(0.0,)
    ),
    "SynapseFilter learned": Sample(
        lambda: sl.nn.SynapseFilter(tau=2.0, learnable=True),
        gain=0.5,
        exact=False,
        analog=True,
        equation=synapse_filter(2),
        rest=(0.0,),
    ),
}
"""What sl.nn has of these."""
IN_ONE_STEP = {**NEURONS, **OPTIONS, **NESTED, **SYNAPSES}
"""All that is the equation of one step."""

SURROGATES = {
    **{
        name: Sample(getattr(S, name))
        for name in (
            "ATan", "Dspike", "Erf", "FakeNumericalGradient", "FastSigmoid", "Gaussian", "LeakySpikeOperator",
            "LogTailedReLU", "MultiGaussian", "NonzeroSignLogAbs", "PiecewiseExp", "PiecewiseQuadratic", "QPseudoSpike",
            "Rect", "Sigmoid", "SoftSign", "SuperSpike",
        )
    },
    "Heaviside": Sample(lambda *a: S.Heaviside()),  # without a scale
    "StraightThrough": Sample(lambda *a: S.StraightThrough()),
    "LeakyKReLU": Sample(lambda *a: S.LeakyKReLU(*a, leak=0.2)),
    "PiecewiseLeakyReLU": Sample(lambda *a: S.PiecewiseLeakyReLU(*a, leak=0.1)),
    "S2NN": Sample(lambda *a: S.S2NN(*a, beta=0.7)),
    "SparseFastSigmoid": Sample(lambda *a: S.SparseFastSigmoid(*a, width=0.5)),
    "SpikeRateEscape": Sample(lambda *a: S.SpikeRateEscape(*a, slope=3.0)),
    "SquarewaveFourierSeries": Sample(lambda *a: S.SquarewaveFourierSeries(*a, terms=3)),
    "Custom": Sample(
        lambda scale=1.0: S.Custom(
            lambda u, scale: scale * (1 - torch.tanh(scale * u) ** 2),
            primitive=lambda u, scale: torch.tanh(scale * u),
            scale=scale,
        )
    ),
    "PoissonPass": Sample(lambda *a: S.PoissonPass(), random=True),
    "StochasticSpikeOperator": Sample(lambda *a: S.StochasticSpikeOperator(*a, mean=0.25), random=True),
}  # fmt: skip
SCHEDULES = {  # of the scale, of what the argument holds
    "LinearSchedule": lambda target: S.LinearSchedule(target, start=1.0, end=3.0, epochs=4),
    "PolynomialSchedule": lambda target: S.PolynomialSchedule(target, start=1.0, end=3.0, epochs=4, power=2.0),
    "ExponentialSchedule": lambda target: S.ExponentialSchedule(target, start=2.0, gamma=0.5),
    "StepSchedule": lambda target: S.StepSchedule(target, start=1.0, gamma=3.0, step_size=2),
    "CosineSchedule": lambda target: S.CosineSchedule(target, start=1.0, end=3.0, epochs=2),
    "CosineSchedule restart": lambda target: S.CosineSchedule(target, start=1.0, end=3.0, epochs=2, restart=True),
    "EvolvedAlpha": lambda target: S.EvolvedAlpha(target, base=2.0, e_max=1.5, epochs=4),
}


def lif() -> sl.Neuron:
    """What layers hold."""
    return sl.LIF(v_threshold=0.4)


def varied(module: nn.Module) -> nn.Module:
    """The same module with parameters and running statistics that are not those it begins with."""
    g = torch.Generator().manual_seed(2)
    for tensor in (*module.parameters(), *(b for n, b in module.named_buffers() if "running" in n)):
        with torch.no_grad():
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=g))
    return module


class Feedback(sl.TemporalModule):
    """For a Loop: a neuron whose last output comes back through a layer."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.back, self.neuron = nn.Linear(features, features), lif()

    def initial_state(self, x_t):
        return torch.zeros_like(x_t)

    def step(self, x_t, state=None):
        y = self.neuron(x_t + self.back(self.initial_state(x_t) if state is None else state))
        return y, y


IMAGE = (3, 2, 6, 6)
TOKENS = (3, 8, 6)


def low(v_threshold=1.0):
    """A factory of neurons that fire on what a fresh layer gives."""
    return sl.LIF(v_threshold=0.2 * v_threshold)


def layers(steps: int, features: int) -> dict[str, Sample]:
    """The layers, for ``steps`` steps ``[B, features]``."""
    return {
        **SYNAPSES,
        "PSN": Sample(lambda: sl.nn.PSN(steps), causal=False),
        "MaskedPSN": Sample(lambda: sl.nn.MaskedPSN(steps, order=3, lam=0.7), gain=3.0, causal=False),
        "MaskedPSN banded": Sample(lambda: sl.nn.MaskedPSN(steps, order=3, lam=1.0), gain=3.0),
        "SlidingPSN": Sample(lambda: sl.nn.SlidingPSN(3)),
        "GLIF": Sample(lambda: sl.nn.GLIF(steps, features, v_threshold=0.4), exact=False),
        "DSRIF": Sample(lambda: sl.nn.DSRIF(v_threshold=0.9), smooth=False),
        "DSRLIF": Sample(lambda: sl.nn.DSRLIF(tau=2.0, dt=0.5, v_threshold=0.8, alpha=0.5), smooth=False),
        "ParallelLIF": Sample(lambda: sl.nn.ParallelLIF(lif())),
        "AssociativeLeaky": Sample(
            lambda: sl.nn.AssociativeLeaky(features, d_value=2, d_key=3, v_threshold=0.1), exact=False
        ),
        "AssociativeLeaky without query": Sample(
            lambda: sl.nn.AssociativeLeaky(features, d_value=2, d_key=3, query=False, v_threshold=0.1), exact=False
        ),
        "NormNeuron": Sample(lambda: sl.nn.NormNeuron(nn.BatchNorm1d(features), lif()), by_mode=True),
        "TEBN": Sample(lambda: varied(sl.nn.TEBN(features, steps, dims=1)), analog=True, by_mode=True),
        "BNTT": Sample(lambda: varied(sl.nn.BNTT(features, steps, dims=1)), analog=True, by_mode=True),
        "BNTT with bias": Sample(
            lambda: varied(sl.nn.BNTT(IMAGE[1], steps, bias=True)), step=IMAGE, analog=True, by_mode=True
        ),
        "NeuNorm": Sample(lambda: sl.nn.NeuNorm(IMAGE[1], IMAGE[2], k=0.8), step=IMAGE, analog=True),
        "NeuNorm shared": Sample(
            lambda: varied(sl.nn.NeuNorm(IMAGE[1], IMAGE[2:], k=0.5, shared=True)), step=IMAGE, analog=True
        ),
        "Dropout": Sample(lambda: sl.nn.Dropout(0.4), analog=True, random=True, by_mode=True),
        "Dropout of channels": Sample(
            lambda: sl.nn.Dropout(0.4, dims=2), step=IMAGE, analog=True, random=True, by_mode=True
        ),
        "DropConnectLinear": Sample(
            lambda: sl.nn.DropConnectLinear(features, 5, p=0.4), analog=True, random=True, by_mode=True
        ),
        "DropConnectLinear shared": Sample(
            lambda: sl.nn.DropConnectLinear(features, 5, p=0.4, per_sample=False, bias=False),
            analog=True,
            random=True,
            by_mode=True,
        ),
        "Delay": Sample(lambda: sl.nn.Delay(2), analog=True),
        "Delay of each channel": Sample(lambda: sl.nn.Delay([c % 4 for c in range(features)]), analog=True),
        "LearnedDelay": Sample(lambda: sl.nn.LearnedDelay(features, 4), analog=True, exact=False, by_mode=True),
        "LearnedDelay triangle": Sample(
            lambda: sl.nn.LearnedDelay(IMAGE[1], 3, kernel="triangle"), step=IMAGE, analog=True, by_mode=True
        ),
        "DelayLinear": Sample(lambda: sl.nn.DelayLinear(features, 5, 4), analog=True, exact=False, by_mode=True),
        "DelayLinear of two taps": Sample(
            lambda: sl.nn.DelayLinear(features, 5, 3, taps=2, bias=True, kernel="triangle", sigma=0.3),
            analog=True,
            by_mode=True,
        ),
        "Inhibition": Sample(lambda: sl.nn.Inhibition(lif())),
        "Inhibition among all": Sample(lambda: sl.nn.Inhibition(lif(), among="all"), step=(3, 4, 2)),
        "OTTT": Sample(lambda: sl.nn.OTTT(nn.Linear(features, 5)), smooth=False, analog=True),
        "Recurrent": Sample(lambda: sl.nn.Recurrent(lif(), nn.Linear(features, features))),
        "Recurrent OneToOne": Sample(lambda: sl.nn.Recurrent(lif(), sl.nn.OneToOne(features, weight=-0.75))),
        "Recurrent ILC": Sample(lambda: sl.nn.Recurrent(lif(), sl.nn.ILC(2, features // 2))),
        "Recurrent convolution": Sample(
            lambda: sl.nn.Recurrent(lif(), nn.Conv2d(IMAGE[1], IMAGE[1], 3, padding=1)), step=IMAGE
        ),
        "DelayConv2d": Sample(
            lambda: sl.nn.DelayConv2d(IMAGE[1], 4, (3, 2), 3, stride=(2, 1), padding=1, bias=True),
            step=IMAGE,
            analog=True,
            exact=False,
            by_mode=True,
        ),
        "Recurrent delays": Sample(
            lambda: sl.nn.Recurrent(lif(), sl.nn.DelayLinear(features, features, 3)), exact=False, by_mode=True
        ),
        "Recurrent network": Sample(
            lambda: sl.nn.Recurrent(lif(), sl.Network(sl.nn.LearnedDelay(features, 3), nn.Linear(features, features))),
            by_mode=True,
        ),
        "TemporalAttention": Sample(
            lambda: sl.nn.TemporalAttention(steps, reduction=steps // 4 or 1), analog=True, causal=False
        ),
        "MultiDimensionalAttention": Sample(
            lambda: sl.nn.MultiDimensionalAttention(steps, IMAGE[1], reduction_t=steps // 4 or 1, reduction_c=1),
            step=IMAGE,
            analog=True,
            causal=False,
        ),
        "MultiDimensionalAttention of channels": Sample(
            lambda: sl.nn.MultiDimensionalAttention(steps, features, reduction_c=2, dims="c"), analog=True, causal=False
        ),
        "TCJA": Sample(lambda: sl.nn.TCJA(steps, features, kernel_c=3), analog=True, causal=False),
        "OneToOne": Sample(lambda: sl.nn.OneToOne(features, weight=0.5), analog=True),
        "ILC": Sample(lambda: sl.nn.ILC(2, features // 2), analog=True),
        "SparseLinear": Sample(lambda: sl.nn.SparseLinear(features, 5, density=0.3), analog=True),
        "WSLinear": Sample(lambda: varied(sl.nn.WSLinear(features, 5, scale=2.74)), analog=True),
        "WSConv2d": Sample(lambda: varied(sl.nn.WSConv2d(IMAGE[1], 4, 3)), step=IMAGE, analog=True),
        "SpikingSelfAttention": Sample(
            lambda: sl.nn.SpikingSelfAttention(TOKENS[1], 2, neuron=low), step=TOKENS, by_mode=True
        ),
        "QKAttention": Sample(lambda: sl.nn.QKAttention(TOKENS[1], 2, neuron=low), step=TOKENS, by_mode=True),
        "QKAttention over channels": Sample(
            lambda: sl.nn.QKAttention(TOKENS[1], 2, over="channel", neuron=low), step=TOKENS, by_mode=True
        ),
        **{
            f"SpikeDrivenSelfAttention {version}{' dvs' * dvs}": Sample(
                lambda version=version, dvs=dvs: sl.nn.SpikeDrivenSelfAttention(
                    IMAGE[1], 2, version=version, dvs=dvs, neuron=None if version == 3 else low
                ),
                step=IMAGE,
                analog=True,
                by_mode=True,
            )
            for version, dvs in ((1, False), (1, True), (2, False), (3, False))
        },
        "RepConv": Sample(lambda: sl.nn.RepConv(IMAGE[1], 3), step=IMAGE, analog=True, by_mode=True),
        "Voting": Sample(lambda: sl.nn.Voting(features // 2 or 1), analog=True),
        "SpikingRNN": Sample(lambda: sl.nn.SpikingRNN(features, 6, num_layers=2), exact=False),
        "SpikingRNN bidirectional": Sample(
            lambda: sl.nn.SpikingRNN(features, 6, bidirectional=True), causal=False, exact=False
        ),
        "SpikingGRU": Sample(lambda: sl.nn.SpikingGRU(features, 6), exact=False),
        "SpikingLSTM": Sample(lambda: sl.nn.SpikingLSTM(features, 6), exact=False),
        "SpikingLSTM membrane": Sample(
            lambda: sl.nn.SpikingLSTM(features, 6, cell="membrane", v_threshold=0.05, reset="soft"), exact=False
        ),
        "SConv2dLSTM": Sample(
            lambda: sl.nn.SConv2dLSTM(IMAGE[1], 3, 3, v_threshold=0.05, max_pool=2), step=IMAGE, exact=False
        ),
        "Loop": Sample(lambda: sl.Loop(Feedback(features))),
        "Loop of layers": Sample(lambda: sl.Loop(nn.Sequential(nn.Linear(features, 5), lif()))),
        "Checkpoint": Sample(lambda: sl.memory.Checkpoint(nn.Sequential(nn.Linear(features, 5), lif()))),
        "Network": Sample(lambda: sl.Network(nn.Linear(features, 5), lif())),
    }


LAYERS = layers(T, F)


def inputs(sample: Sample, steps: int = T, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """A sequence ``[T, B, *]`` on which the sample fires."""
    g = torch.Generator().manual_seed(seed)
    return (sample.gain * (0.5 + torch.randn(steps, *sample.step, generator=g, dtype=torch.float64))).to(dtype)


def learnable(neuron: sl.Dynamics, features: int) -> sl.Dynamics:
    """The same neuron, whose floats and those of its parts are parameters with a value for each feature, 4 % apart."""
    spread = 1 + 0.04 * torch.linspace(-1, 1, features, dtype=torch.float64)
    for _, part in neuron.parts():
        for name, is_float in list(part._declared.items()):
            if is_float:
                setattr(part, name, nn.Parameter(float(getattr(part, name)) * spread))
    return neuron


def smoothed(neuron: sl.Dynamics) -> sl.Dynamics:
    """The same neuron with a surrogate that does not spike and a reset that is not detached: a smooth function."""
    core = neuron.core()
    core.surrogate, core.detach_reset = S.Sigmoid(3.0, spiking=False), False
    return neuron
