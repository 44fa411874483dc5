"""Draws a small picture for the page of each neuron, surrogate and encoder: python docs/gallery/responses.py [names]

They go to docs/gallery/responses, by the public name: ``nn.PSN.png``. Without names all are drawn.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import matplotlib as mpl
import torch
from PIL import Image

import spikeloom as sl

sys.path.append(str(Path(__file__).parent))
import draw

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).parent / "responses"
INK, BLUE, PALE = "#1f2430", "#2166ac", "#b4b9c3"
ANALOG = ("LI", "LIAF", "FewSpike", "SigmaDelta", "options.Graded", "ILIF")
"""Neurons whose output is no 0, 1 or -1, and is drawn as a curve."""
UNDRAWN = {
    "surrogate.Custom": "it is what functions make of it",
    "surrogate.StochasticSpikeOperator": "it has no primitive, and its derivative is a random number",
    "encode.latency_time": "it gives times; latency has them as spikes",
    "encode.gaussian_tuning_time": "it gives times; gaussian_tuning has them as spikes",
    **dict.fromkeys((f"{name}" for name in draw.NETWORKS), "its response is that of its weights"),
}
"""What has no picture, and why."""


def names() -> list[str]:
    """All that a picture is drawn of."""
    codes = (f"encode.{name}" for name in sl.encode.__all__)
    return [n for n in (*sl.neurons(), *(f"surrogate.{n}" for n in sl.surrogates()), *codes) if n not in UNDRAWN]


def picture(name: str) -> Figure:
    """The picture of one."""
    if name.startswith("surrogate."):
        return surrogate(name)
    return encoder(name) if name.startswith("encode.") else neuron(name)


def neuron(name: str) -> Figure:
    """The voltage (or first state) and the output, for a step, a ramp and noise; spikes of -1 are blue."""
    torch.manual_seed(1)
    made = draw.SAMPLES[name].make()
    made.train(name == "options.Noisy")
    fig, axes = plt.subplots(1, 3, figsize=(7.2, 1.7), layout="constrained", sharey=True)
    steps, states = range(1, draw.T + 1), draw.shown(made)
    outputs, levels = [], []
    with torch.no_grad():
        strength = draw.gain(name, made)
        for ax, (kind, x) in zip(axes, draw.inputs().items(), strict=True):
            y, _, *recorded = made.sequence(strength * x, record=states)
            for values in recorded[0].values() if recorded else [strength * x]:  # without a state, the input
                ax.plot(steps, values.flatten(), color=BLUE, lw=1.2)
                levels.append((float(values.min()), float(values.max())))
            if name in ANALOG:
                ax.plot(steps, y.flatten(), color=INK, lw=0.9)
            outputs.append(y.flatten())
            finish(ax, kind, "step")
    low, high = min(low for low, _ in levels), max(high for _, high in levels)
    low = max(low, levels[0][0] - 0.6 * (high - levels[0][0]))  # how far noise goes below rest is of no interest
    for ax, y in zip(axes, outputs if name not in ANALOG else (), strict=False):
        for sign, colour in ((1, INK), (-1, BLUE)):
            marks = (y.sign() == sign).nonzero().flatten() + 1
            ax.vlines(marks, high + 0.03 * (high - low), high + 0.15 * (high - low), color=colour, lw=0.9)
        ax.set_ylim(low - 0.05 * (high - low), high + 0.18 * (high - low))
    axes[0].set_ylabel(f"{states[0] if states else 'input'}, {'output' if name in ANALOG else 'spikes'}", fontsize=8)
    return fig


def surrogate(name: str) -> Figure:
    """Derivative and primitive at the default scale."""
    made = getattr(sl.surrogate, name.removeprefix("surrogate."))()
    u = torch.linspace(-2, 2, 401, requires_grad=True)
    torch.manual_seed(0)
    (slope,) = torch.autograd.grad(made(u).sum(), u)
    made.spiking = False
    fig, ax = plt.subplots(figsize=(4, 2), layout="constrained")
    ax.plot(u.detach(), made(u).detach(), color=PALE, lw=1.4, label="primitive")
    ax.plot(u.detach(), slope, color=BLUE, lw=1.8, label="derivative")
    ax.axvline(0, color=INK, lw=0.5, ls=":")
    ax.legend(fontsize=7, frameon=False, loc="upper left")
    finish(ax, "", "u = v - threshold")
    return fig


def encoder(name: str) -> Figure:
    """What it makes of 17 values from 0 to 1, of one value by 17 neurons, or of classes."""
    x, one, classes = torch.linspace(0, 1, 17).unsqueeze(0), torch.tensor([[0.6]]), torch.tensor([3])
    e, g = sl.encode, torch.Generator().manual_seed(0)
    wave = 0.5 + 0.5 * torch.sin(torch.arange(33).unsqueeze(1) / 4 + 3 * x)
    trains = {
        "repeat": ("values from 0 to 1", lambda: e.repeat(x, 32)),
        "poisson": ("values from 0 to 1", lambda: e.poisson(x, 32, generator=g)),
        "latency": ("values from 0 to 1", lambda: e.latency(x, 32)),
        "delta": (
            "17 waves, OFF in blue",
            lambda: e.delta(wave, threshold=0.05, padding=True, off_spike=True)[1:].unsqueeze(1),
        ),
        "phase": ("values from 0 to 1, period=8", lambda: e.phase(x, 32, period=8)),
        "weighted_phase": ("values from 0 to 1, bits=8", lambda: e.weighted_phase(x * (1 - 2**-8), 32)),
        "burst": ("values from 0 to 1", lambda: e.burst(x, 32)),
        "rank_order": ("values from 0 to 1", lambda: e.rank_order(x, 32)),
        "periodic": ("a train of 8 steps again and again", lambda: e.periodic(e.latency(x, 8), 32)),
        "population": ("0.6, by 17 neurons", lambda: e.population(one, 32, neurons=17, std=0.15)),
        "gaussian_tuning": ("0.6, by 17 neurons", lambda: e.gaussian_tuning(one, 32, neurons=17)),
        "target_rate": ("class 3 of 10", lambda: e.target_rate(classes, 10, 32, correct_rate=0.5, incorrect_rate=0.1)),
        "target_latency": ("class 3 of 10", lambda: e.target_latency(classes, 10, 32)),
        "ramp": ("membranes for the latencies", lambda: e.ramp(e.latency(x, 32), on=1.0, off=0.0)),
    }
    title, make = trains[name.removeprefix("encode.")]
    train = make()[:, 0].flatten(1).float()
    first = 0 if title.startswith("class") else 1
    fig, ax = plt.subplots(figsize=(4, 2), layout="constrained")
    if bool(torch.isin(train, torch.tensor([-1.0, 0.0, 1.0])).all()):
        for sign, colour in ((1, INK), (-1, BLUE)):
            t, n = (train == sign).nonzero(as_tuple=True)
            ax.scatter(t + 1, n + first, s=7, color=colour, linewidths=0)
        ax.set(xlim=(0, len(train) + 1), ylim=(first - 1, train.shape[1] + first))
    else:
        place = (0.5, len(train) + 0.5, 0.5, train.shape[1] + 0.5)
        shown = ax.imshow(train.T, aspect="auto", origin="lower", cmap="Blues", extent=place)
        fig.colorbar(shown, ax=ax).ax.tick_params(labelsize=6)
    finish(ax, title, "step")
    ax.set_ylabel("neuron" if first else "class", fontsize=8)
    return fig


def finish(ax: Axes, title: str, below: str) -> None:
    """One look for all."""
    ax.set_title(title, fontsize=8, loc="left")
    ax.set_xlabel(below, fontsize=8)
    ax.tick_params(labelsize=7)
    ax.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, name: str) -> None:
    """Writes a picture, as small as 16 colours make it."""
    image = io.BytesIO()
    figure.savefig(image, dpi=130, format="png")
    plt.close(figure)
    HERE.mkdir(exist_ok=True)
    Image.open(image).convert("RGB").quantize(16, dither=Image.Dither.NONE).save(HERE / f"{name}.png", optimize=True)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or names():
        save(picture(wanted), wanted)
