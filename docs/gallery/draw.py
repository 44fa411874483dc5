"""Draws the gallery: python docs/gallery/draw.py

A network that reads a digit; each neuron's voltage and spikes for a step, a ramp and noise; each surrogate's
derivative and primitive; codes; what each function of sl.plot draws.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image

import spikeloom as sl
from spikeloom import plot
from spikeloom.plot.look import BLUE, INK, PALE, UPWARDS
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


def save(figure: Any, name: str, dpi: int = 75) -> None:
    """Writes a figure, as small as 256 colours make it."""
    image = io.BytesIO()
    figure.savefig(image, dpi=dpi, format="png")
    Image.open(image).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(HERE / f"{name}.png", optimize=True)
    plt.close(figure)


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


def shown(neuron: sl.TemporalModule) -> tuple[str, ...]:
    """The voltage, else the first state, or nothing of a neuron without a state."""
    return ("v",) if "v" in neuron.recordable else neuron.recordable[:1]


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
                y, _, *recorded = neuron.sequence(x, record=shown(neuron))
            for values in recorded[0].values() if recorded else [x]:  # without a state, the input
                ax.plot(values.flatten(), color=BLUE, lw=1)
            if name in ("LI", "LIAF", "FewSpike", "SigmaDelta"):  # whose output is no spike
                ax.plot(y.flatten(), color=INK, lw=0.8)
            else:
                low, high = ax.get_ylim()
                for t in y.flatten().nonzero().flatten().tolist():
                    ax.plot([t, t], [high, high + 0.15 * (high - low)], color=INK, lw=0.8)
            ax.tick_params(labelsize=6)
        row[0].set_ylabel(name.removeprefix("options."), rotation=0, ha="right", fontsize=9)
    for ax, kind in zip(axes[0], inputs(), strict=True):
        ax.set_title(kind, fontsize=9)
    save(fig, "neurons")


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
        ax.plot(u.detach(), surrogate(u).detach(), color=PALE, lw=1)
        ax.plot(u.detach(), slope, color=BLUE, lw=1.3)
        ax.set_title(name, fontsize=8)
        ax.tick_params(labelsize=6)
    save(fig, "surrogates")


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
        values = train[:, 0].float()
        if bool(((values == 0) | (values == 1)).all()):
            plot.raster(values, ax=ax, title=name)
        else:  # currents
            ax.imshow(values.T, aspect="auto", origin="lower", cmap=UPWARDS, vmin=0, vmax=1)
            ax.set_title(name)
    for ax in axes.flat:
        ax.set(xlabel="", ylabel="")
        ax.label_outer()
    fig.supxlabel("step", fontsize="small")
    fig.supylabel("neuron", fontsize="small")
    save(fig, "encoders")


def network() -> None:
    """A network that was trained on digits for ten epochs, and what happens in it while it reads one."""
    net, images, labels = trained()
    with torch.no_grad():
        v, result = net(images[:1], repeat=20, record=("2.output", "5.output"))
    fig, axes = plt.subplots(1, 4, figsize=(10, 2.6), layout="constrained", width_ratios=(1, 2, 2, 2))
    digit = int(labels[0])
    plot.feature_maps(images[0], label=None, ax=axes[0], title="a pixel is a current")
    for ax, (path, name) in zip(axes[1:3], {"2": "first", "5": "second"}.items(), strict=True):
        spikes = result.record[f"{path}.output"][:, 0].flatten(1)
        most = spikes.sum(0).argsort(descending=True)[:: len(spikes[0]) // 120][:44]
        plot.raster(spikes[:, most], ax=ax, title=f"spikes, {name} convolution")
        ax.set(yticks=[], ylabel="neurons")
    plot.traces(v[:, 0], highlight=digit, ax=axes[3], title="voltages of the ten outputs")
    axes[3].set_ylabel("")
    save(fig, "network", 110)


def trained() -> tuple[sl.Network, torch.Tensor, torch.Tensor]:
    """The demo's network after ten epochs, in eval mode, and its test images with their labels."""
    torch.manual_seed(0)
    config = digits.Config()
    loaders = digits.data(config, batch_size=config.batch_size, seed=0)
    net = digits.build(config)
    optimiser = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-2)
    for _ in range(10):
        for images, labels in loaders.train:
            optimiser.zero_grad()
            sl.loss.rate_cross_entropy(net(images, repeat=config.T), labels).backward()
            optimiser.step()
    return net.eval(), *next(iter(loaders.test))


def moving_bar() -> sl.data.Recording:
    """Events of a bar that goes round in a second: its front edge gives ON, its back edge OFF."""
    g = np.random.default_rng(0)
    t = np.sort(g.integers(0, 1_000_000, 30_000))
    angle, on = 2 * np.pi * t / 1_000_000, g.random(len(t)) < 0.5
    edge = angle + np.where(on, 0.25, -0.25) + g.normal(0, 0.05, len(t))
    r = 15 * np.sqrt(g.uniform(0.02, 1, len(t)))
    x, y = (np.rint(16 + r * f(edge)).astype(int) for f in (np.cos, np.sin))
    return sl.data.events.as_recording({"t": t, "x": x, "y": y, "p": on}, (33, 33))


def plots() -> None:
    """What each function of sl.plot draws: of LIF neurons with noise, of the demo's network, of a moving bar."""
    g = torch.Generator().manual_seed(3)
    x = 0.5 + 0.45 * torch.randn(80, 1, 24, generator=g)
    neuron = sl.LIF(tau=5.0, v_threshold=0.5)
    spikes, _, seen = neuron.sequence(x, record=("u", "v"))
    spikes, u, v = spikes[:, 0], seen["u"][:, 0], seen["v"][:, 0]
    small = dict(width=5.0, height=2.4)

    def draw(name: str, function: Any, *args: Any, title: str, **options: Any) -> None:
        ax = plot.figure(**small)[1][0]
        save(function(*args, ax=ax, title=title, **options).figure, f"plot-{name}")

    draw("raster", plot.raster, spikes, rates=True, title="24 neurons")
    draw("traces", plot.traces, v[:, :3], spikes=spikes[:, :3], v_threshold=0.5, title="three neurons")
    draw("neuron", plot.neuron, v[:, 0], spikes[:, 0], 0.5, u=u[:, 0], title="one neuron")
    draw("heatmap", plot.heatmap, u, label="u", title="voltage less the threshold")
    ten = spikes.view(8, 10, 24).sum(1)
    save(plot.bars3d(ten[:, :8], title="spikes in ten steps each").figure, "plot-bars3d", 60)
    draw("neuron_response", plot.neuron_response, sl.LIF(tau=8.0), title="LIF, tau=8")
    draw("surrogate", plot.surrogate, sl.surrogate.ATan(2.0), title="ATan")
    net, images, labels = trained()
    kernels = next(net.parameters())
    save(plot.weights(kernels, title="kernels of the first convolution").figure, "plot-weights", 60)
    with torch.no_grad():
        y, result = net(images, repeat=20, record=("2.output", "5.output"))
    rates = {name: result.record[f"{path}.output"].float().mean((0, 1)) for name, path in digits.HIDDEN.items()}
    maps = result.record["2.output"][:, 0].sum(0)
    save(plot.feature_maps(maps, label="spikes", title="spikes of 24 channels at a 2").figure, "plot-feature_maps", 60)
    save(plot.firing_rates(rates, title="firing rates").figure, "plot-firing_rates", 65)
    hard = (y.argmax(-1) != labels).float().mean(0).sub(0.5).abs().argmin()  # undecided for a while
    votes = torch.nn.functional.one_hot(y[:, hard].argmax(-1), 10)
    ahead = votes.sum(0).nonzero().flatten().tolist()
    title = f"steps in which each class is ahead, at a {int(labels[hard])}"
    draw("spike_count", plot.spike_count, votes[:, ahead], ahead, title=title)
    counts = torch.zeros(10, 10, dtype=torch.int64)
    counts.index_put_((labels, y.mean(0).argmax(-1)), torch.tensor(1), accumulate=True)
    save(plot.confusion(counts, range(10), title="360 test images").figure, "plot-confusion", 60)
    bar = moving_bar()
    save(plot.events(bar, title="a bar")[0].figure, "plot-events", 50)
    film = plot.animate(bar, frames=24, seconds=2.0)
    film.save(HERE / "plot-animate.gif", writer="pillow", dpi=50)


if __name__ == "__main__":
    with plot.style():
        network()
        plots()
        surrogates()
        encoders()
        neurons()
    sys.exit(0)
