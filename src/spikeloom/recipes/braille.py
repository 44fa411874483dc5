"""Braille letters under a fingertip: twelve taxels as ON and OFF spikes, 27 classes.

    spikeloom train braille

A taxel's value is sent as spikes: one for each level that it crosses, upwards on one line and downwards on another. The
result has, beside the network's accuracy, that of a linear classifier on how often each line fired.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl
from spikeloom import runs

LEVELS = 255  # levels from a taxel's value 0 to 1, of which every ``step``-th gives a spike when it is crossed


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of coding and network."""

    epochs: int = 40
    lr: float = 3e-3
    step: int = runs.option(1, "levels per spike", minimum=1)
    hidden: int = runs.option(128, "neurons of both hidden layers", minimum=1)
    tau_max: float = runs.option(40.0, "the slowest hidden neuron's time constant, in steps", above=2.0)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """The letters, of which the seed holds ten of each class out for testing."""
    return sl.data.loaders("braille", test_batch_size=270, batch_first=False, **loading)


def build(config: Config) -> sl.Network:
    """The network: spikes ``[76, B, 24]`` to membranes ``[76, B, 27]``. Time constants begin between 2 and tau_max."""
    h = config.hidden

    def lif() -> sl.LIF:
        tau = torch.logspace(0, 1, h).sub(1).div(9).mul(config.tau_max - 2).add(2)
        tau = nn.Parameter(tau[torch.randperm(h)])
        return sl.LIF(tau=tau, decay_input=False, reset="soft", surrogate=sl.surrogate.ATan(2.0))

    return sl.Network(nn.Linear(24, h), lif(), nn.Linear(h, h), lif(), nn.Linear(h, 27), sl.LI(tau=20.0))


def spikes(taxels: Tensor, config: Config) -> Tensor:
    """Spikes ``[T, B, 24]`` where values ``[T, B, 12]`` from 0 to 1 cross levels; the ON lines come first."""
    levels = torch.floor(taxels * LEVELS / config.step + 1e-3)
    crossed = levels.diff(dim=0, prepend=levels[:1])
    return torch.cat((crossed.clamp(min=0), (-crossed).clamp(min=0)), -1)


def scores(net: nn.Module, taxels: Tensor, config: Config) -> Tensor:
    """Ten times the mean membrane of each class, ``[B, 27]``."""
    return 10 * sl.decode.membrane(net(spikes(taxels, config)), "mean")


measures = runs.accuracy(scores)


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs; the learning rate falls to zero along a cosine."""
    loaders = run.load(data)
    net = run.place(build(config))
    optimiser = torch.optim.Adam(net.parameters(), lr=config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.epochs * len(loaders.train))
    run.keep(net=net, optimiser=optimiser, schedule=schedule)
    fast = run.graphed(net)
    for _ in run.epochs():
        for taxels, labels in run.steps(loaders.train):
            with run.autocast():
                outputs = scores(fast, taxels, config)
            loss = F.cross_entropy(outputs.float(), labels)
            optimiser.zero_grad()
            run.scaler.scale(loss).backward()
            run.scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            run.scaler.step(optimiser)
            run.scaler.update()
            schedule.step()
            run.log(len(labels), loss=loss, accuracy=(outputs.argmax(1) == labels).double().mean())
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    linear = runs.linear_baseline(loaders.train, loaders.test, lambda x: spikes(x, config).sum(0))
    figures = run.measure(net, loaders.test, measures, "test")
    run.finish(net, **figures, linear_accuracy=linear, chance_accuracy=1 / len(loaders.classes))
    run.draw(partial(pictures, runs.unwrap(net), loaders, config, run.device))


def pictures(net: nn.Module, loaders: sl.data.Loaders, config: Config, device: torch.device) -> dict[str, Any]:
    """The spikes of one test letter, and the output membranes."""
    from spikeloom import plot

    taxels, labels = next(iter(loaders.test))
    net.eval()
    with torch.no_grad():
        coded = spikes(taxels[:, :1], config)
        membranes = net(coded.to(device))
    raster, (first, second) = plot.figure(2)
    plot.raster(coded[:, 0], ax=first, title=f"taxels at {loaders.classes[int(labels[0])]}: ON lines, then OFF lines")
    title = "membranes of the classes"
    plot.traces(membranes[:, 0], labels=loaders.classes, highlight=int(labels[0]), ax=second, title=title)
    return {"raster": raster}
