"""Draws the gallery: python docs/gallery/draw.py

A network that reads a digit; each neuron's first state and spikes for a step, a ramp and noise; each surrogate's
derivative and primitive; codes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import torch

import spikeloom as sl
from spikeloom.recipes import digits

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


def network() -> None:
    """A network that was trained on digits for ten epochs, and what happens in it while it reads one."""
    torch.manual_seed(0)
    config, blue = digits.Config(), "#3f7fbf"
    loaders = digits.data(config, batch_size=config.batch_size, seed=0)
    net = digits.build(config)
    optimiser = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-2)
    for _ in range(10):
        for images, labels in loaders.train:
            optimiser.zero_grad()
            sl.loss.rate_cross_entropy(net(images, repeat=config.T), labels).backward()
            optimiser.step()
    images, labels = next(iter(loaders.test))
    with torch.no_grad():
        v, result = net.eval()(images[:1], repeat=20, record=("2.output", "5.output"))
    fig, axes = plt.subplots(1, 4, figsize=(10, 2.6), layout="constrained", width_ratios=(1, 2, 2, 2))
    axes[0].imshow(images[0, 0], cmap="gray_r")
    axes[0].axis("off")
    axes[0].set_title("a pixel is a current", fontsize=9, loc="left")
    for ax, (path, name) in zip(axes[1:3], {"2": "first", "5": "second"}.items(), strict=True):
        spikes = result.record[f"{path}.output"][:, 0].flatten(1)
        most = spikes.sum(0).argsort(descending=True)[:: len(spikes[0]) // 120][:60]
        t, n = spikes[:, most].nonzero(as_tuple=True)
        ax.scatter(t + 1, n, s=4, color="#1f2430", linewidths=0)
        ax.set_title(f"spikes, {name} convolution", fontsize=9, loc="left")
        ax.set_yticks([])
        ax.set_ylabel("neurons", fontsize=8)
    digit = int(labels[0])
    for k in range(10):
        axes[3].plot(range(1, 21), v[:, 0, k], color=blue if k == digit else "0.75", lw=1.8 if k == digit else 1)
    axes[3].annotate(f"{digit}", (20, v[-1, 0, digit]), (3, -3), textcoords="offset points", color=blue, fontsize=10)
    axes[3].set_title("voltages of the ten outputs", fontsize=9, loc="left")
    for ax in axes[1:]:
        ax.set_xlabel("step", fontsize=8)
        ax.set_xticks([1, 5, 10, 15, 20])
        ax.tick_params(labelsize=7)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    fig.savefig(HERE / "network.png", dpi=110)


if __name__ == "__main__":
    network()
    neurons()
    surrogates()
    encoders()
    sys.exit(0)
