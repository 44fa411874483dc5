"""What there is, and whom to cite: names of neurons and surrogates with a line each, papers of what a network uses."""

from __future__ import annotations

import inspect
from types import ModuleType

from torch import nn as torch_nn

from .. import neuron, nn, options, surrogate
from ..core import TemporalModule

_LAYERS = (
    nn.Recurrent, nn.NormNeuron, nn.OTTT, nn.TEBN, nn.BNTT, nn.NeuNorm, nn.Dropout, nn.DropConnectLinear,
    nn.SynapseFilter, nn.Delay, nn.LearnedDelay, nn.DelayLinear, nn.DelayConv2d,
    nn.TemporalAttention, nn.MultiDimensionalAttention, nn.TCJA,
)  # fmt: skip
"""Modules over time that are no neurons."""


def neurons() -> dict[str, str]:
    """Names of the built-in neurons, of options around them and of modules over time, each with its equation.

    Names are those below ``sl``: ``"QIF"``, ``"options.Refractory"``, ``"nn.PSN"``.

    >>> import spikeloom as sl
    >>> sl.neurons()["QIF"]
    'Quadratic integrate-and-fire: h = v + (x + a (v - v_leak) (v - v_c)) / tau, then fire and reset.'
    """
    found = _described(neuron, neuron.Neuron)
    around = _described(options, options.Option)
    over_time = _described(nn, TemporalModule, *_LAYERS)
    return (
        found
        | {f"options.{n}": line for n, line in around.items()}
        | {f"nn.{n}": line for n, line in over_time.items()}
    )


def surrogates() -> dict[str, str]:
    """Names of the built-in surrogates, each with its derivative.

    >>> import spikeloom as sl
    >>> sl.surrogates()["SoftSign"]
    'g(u) = (a/2) / (1 + a |u|)^2, primitive (a u / (1 + a |u|) + 1) / 2; g(0) = a/2.'
    """
    return _described(surrogate, surrogate.Surrogate)


def cite(module: torch_nn.Module) -> list[str]:
    """The papers that describe the neurons, surrogates, modules over time and models in ``module``, each once.

    >>> import spikeloom as sl
    >>> for paper in sl.cite(sl.Network(sl.KLIF(surrogate=sl.surrogate.Dspike()))):
    ...     print(paper)
    Jiang and Zhang, KLIF: An optimized spiking neuron unit, arXiv:2302.09238, 2023
    Li et al., Differentiable Spike: Rethinking Gradient-Descent for Training SNNs, NeurIPS 2021
    """
    if not isinstance(module, torch_nn.Module):
        raise TypeError(f"cite: expected a module, got {type(module).__name__}")
    papers = (getattr(m, "paper", "") for m in module.modules())
    return list(dict.fromkeys(p for p in papers if isinstance(p, str) and p))


def _described(package: ModuleType, base: type, *but: type) -> dict[str, str]:
    """First paragraphs of the docstrings of the classes that a package exports."""
    found = {}
    for name in sorted(package.__all__):
        thing = getattr(package, name)
        if inspect.isclass(thing) and issubclass(thing, base) and thing not in (base, *but):
            found[name] = (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ").replace("``", "")
    return found
