"""Draws the gallery: python docs/gallery/draw.py

Each neuron's first state and spikes for a step, a ramp and noise; each surrogate's derivative and primitive.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import matplotlib as mpl
import torch

import spikeloom as sl

mpl.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
T = 120
OPTIONS = {
    "Alpha": dict(alpha=0.9, beta=0.8),
    "DeltaLeaky": dict(beta=0.9, v_threshold=0.15),
    "Leaky": dict(beta=0.9),
    "Synaptic": dict(alpha=0.8, beta=0.8),
    "ResonateFire": dict(omega=math.pi / 6),
    "AdEx": dict(b=0.3, tau_w=30.0),
    "ActivationAwareIF": dict(v_offset=0.3),
    "FewSpike": dict(clamp=(-1.0, 2.0)),
    "SigmaDelta": dict(v_threshold=0.5),
    "Refractory": dict(steps=8),
    "Graded": dict(factor=0.5),
    "StateQuant": dict(bits=3),
    "Noisy": dict(input=0.5),
    "MPBN": dict(features=1),
    "nn.PSN": dict(T=T),
    "nn.MaskedPSN": dict(T=T, order=5, lam=1.0),
    "nn.SlidingPSN": dict(order=5),
    "nn.GLIF": dict(T=T),
    "nn.DSRIF": dict(v_threshold=3.0),
    "nn.DSRLIF": dict(dt=0.2, v_threshold=0.5),
}
NETWORKS = (  # whose response is that of their weights
    "nn.AssociativeLeaky", "nn.SConv2dLSTM", "nn.SpikingGRU", "nn.SpikingLSTM", "nn.SpikingRNN",
)  # fmt: skip
GAINS = {
    "Alpha": 0.3, "STBIF": 0.2, "Izhikevich": 15.0, "IF": 0.15, "Leaky": 0.2, "Synaptic": 0.08, "ALIF": 0.25,
    "CLIF": 0.8, "ResonateFire": 0.4, "TernaryIF": 0.2, "SEAdLIF": 3.0, "ILIF": 2.0, "Lapicque": 1.3,
}  # fmt: skip


def inputs() -> dict[str, torch.Tensor]:
    """Step, ramp and noise around zero, ``[T, 1]``."""
    t = torch.arange(T).float()
    noise = torch.randn(T, generator=torch.Generator().manual_seed(1)).cumsum(0) / 4
    curves = {"step": (t >= 20) * 1.3, "ramp": t / T * 2.5, "noise": noise - noise.mean()}
    return {name: curve.view(T, 1, 1) for name, curve in curves.items()}


def make(name: str) -> sl.TemporalModule:
    """A neuron of :func:`spikeloom.neurons` with the options of this page; an option is that of a LIF."""
    package, _, name_there = name.rpartition(".")
    kind, options = getattr(sl.nn if package else sl, name_there), OPTIONS.get(name, {})
    if issubclass(kind, sl.Option | sl.nn.ParallelLIF):
        return kind(sl.LIF(), **options)
    if kind is sl.FewSpike:
        return kind(sl.FewSpikeTable.relu(3, most=2.0), **options)
    return kind(**options)


def neurons() -> None:
    """A row for each neuron."""
    names = [name for name in sl.neurons() if name not in NETWORKS]
    fig, axes = plt.subplots(len(names), 3, figsize=(10, 1.15 * len(names)), layout="constrained", sharex=True)
    for row, name in zip(axes, names, strict=True):
        torch.manual_seed(1)
        neuron = make(name)
        neuron.train(name == "Noisy")
        for ax, x in zip(row, inputs().values(), strict=True):
            with torch.no_grad():
                x = GAINS.get(name, 1.0) * x
                y, _, *recorded = neuron.sequence(x, record=neuron.recordable[:1])
            for values in recorded[0].values() if recorded else [x]:  # without a state, the input
                ax.plot(values.flatten(), color="#3f7fbf", lw=1)
            if name in ("LI", "LIAF", "FewSpike", "SigmaDelta"):  # whose output is no spike
                ax.plot(y.flatten(), color="#1f2430", lw=0.8)
            else:
                low, high = ax.get_ylim()
                for t in y.flatten().nonzero().flatten().tolist():
                    ax.plot([t, t], [high, high + 0.15 * (high - low)], color="#1f2430", lw=0.8)
            ax.tick_params(labelsize=6)
            for side in ("top", "right"):
                ax.spines[side].set_visible(False)
        row[0].set_ylabel(name, rotation=0, ha="right", fontsize=9)
    for ax, kind in zip(axes[0], inputs(), strict=True):
        ax.set_title(kind, fontsize=9)
    fig.savefig(HERE / "neurons.png", dpi=75)


def surrogates() -> None:
    """A panel for each surrogate: derivative (blue) and primitive (grey)."""
    names = [n for n in sl.surrogates() if n not in ("Custom", "StochasticSpikeOperator")]
    fig, axes = plt.subplots(-(-len(names) // 5), 5, figsize=(10, 10), layout="constrained", sharex=True)
    u = torch.linspace(-2, 2, 401, requires_grad=True)
    for ax in axes.flat:
        ax.axis("off")
    for ax, name in zip(axes.flat, names, strict=False):
        surrogate = getattr(sl.surrogate, name)()
        (slope,) = torch.autograd.grad(surrogate(u).sum(), u)
        surrogate.spiking = False
        ax.axis("on")
        ax.plot(u.detach(), surrogate(u).detach(), color="0.6", lw=1)
        ax.plot(u.detach(), slope, color="#3f7fbf", lw=1.3)
        ax.set_title(name, fontsize=8)
        ax.tick_params(labelsize=6)
    fig.savefig(HERE / "surrogates.png", dpi=75)


if __name__ == "__main__":
    neurons()
    surrogates()
    sys.exit(0)
