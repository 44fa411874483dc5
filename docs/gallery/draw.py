"""Draws the gallery: python docs/gallery/draw.py

Each neuron's first state and spikes for a step, a ramp and noise; each surrogate's derivative and primitive.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import torch

import spikeloom as sl

sys.path.append(str(Path(__file__).parents[2] / "tests"))
import samples

mpl.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
T = 120
NETWORKS = (  # whose response is that of their weights
    "nn.AssociativeLeaky", "nn.SConv2dLSTM", "nn.SpikingGRU", "nn.SpikingLSTM", "nn.SpikingRNN",
)  # fmt: skip
SAMPLES = {
    **samples.NEURONS,
    **{f"options.{name}": sample for name, sample in samples.options(features=1).items()},
    **{f"nn.{name}": sample for name, sample in samples.layers(T, 1).items()},
}


def inputs() -> dict[str, torch.Tensor]:
    """Step, ramp and noise around zero, ``[T, 1]``."""
    t = torch.arange(T).float()
    noise = torch.randn(T, generator=torch.Generator().manual_seed(1)).cumsum(0) / 4
    curves = {"step": (t >= 20) * 1.3, "ramp": t / T * 2.5, "noise": noise - noise.mean()}
    return {name: curve.view(T, 1, 1) for name, curve in curves.items()}


def gain(name: str, neuron: sl.TemporalModule) -> float:
    """How strong the inputs are: the step gives at most 35 spikes in its 100 steps, where it gives any."""
    strongest = SAMPLES[name].gain
    for k in range(32):
        found = strongest * 2 ** (-k / 4)
        spikes = int(neuron.sequence(found * inputs()["step"])[0][20:].count_nonzero())
        if 0 < spikes <= 35:
            return found
    return strongest


def neurons() -> None:
    """A row for each neuron."""
    names = sorted((n for n in sl.neurons() if n not in NETWORKS), key=lambda n: n.removeprefix("options."))
    fig, axes = plt.subplots(len(names), 3, figsize=(10, 1.15 * len(names)), layout="constrained", sharex=True)
    for row, name in zip(axes, names, strict=True):
        torch.manual_seed(1)
        neuron = SAMPLES[name].make()
        neuron.train(name == "options.Noisy")
        with torch.no_grad():
            strength = gain(name, neuron)
        for ax, x in zip(row, inputs().values(), strict=True):
            with torch.no_grad():
                x = strength * x
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
        row[0].set_ylabel(name.removeprefix("options."), rotation=0, ha="right", fontsize=9)
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


def encoders() -> None:
    """A raster for each code of 17 values from 0 to 1, or of one value by as many neurons, over 32 steps."""
    e, x, one = sl.encode, torch.linspace(0, 1, 17).unsqueeze(0), torch.tensor([[0.6]])
    g = torch.Generator().manual_seed(0)
    wave = 0.5 + 0.5 * torch.sin(torch.arange(33).unsqueeze(1) / 4 + 3 * x)
    codes = {
        "poisson": e.poisson(x, 32, generator=g),
        "latency": e.latency(x, 32),
        'latency, code="log"': e.latency(x, 32, code="log"),
        "delta of a wave": e.delta(wave, threshold=0.05, padding=True)[1:].unsqueeze(1),
        "phase, period=8": e.phase(x, 32, period=8),
        "weighted_phase, bits=8": e.weighted_phase(x * (1 - 2**-8), 32),
        "burst": e.burst(x, 32),
        "rank_order": e.rank_order(x, 32),
        "population of 0.6": e.population(one, 32, neurons=17, std=0.15),
        'population of 0.6, "random"': e.population(one, 32, neurons=17, std=0.15, code="random", generator=g),
        'population of 0.6, "current"': e.population(one, 32, neurons=17, std=0.15, code="current"),
        "gaussian_tuning of 0.6": e.gaussian_tuning(one, 32, neurons=17),
    }
    fig, axes = plt.subplots(3, 4, figsize=(10, 6), layout="constrained", sharex=True, sharey=True)
    for ax, (name, train) in zip(axes.flat, codes.items(), strict=True):
        ax.imshow(train[:, 0].T, aspect="auto", origin="lower", interpolation="nearest", cmap="binary", vmin=0, vmax=1)
        ax.set_title(name, fontsize=8)
        ax.tick_params(labelsize=6)
    fig.savefig(HERE / "encoders.png", dpi=75)


if __name__ == "__main__":
    neurons()
    surrogates()
    encoders()
    sys.exit(0)
