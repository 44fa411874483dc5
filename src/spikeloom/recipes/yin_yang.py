"""Points of the yin-yang figure by spike times: one hidden layer that learns by EventProp.

    spikeloom train yin-yang

A point of the disc belongs to yin, to yang or to one of the two dots (Kriener, Göltz and Petrovici, The Yin-Yang
Dataset, NICE 2022). Its coordinates x, y, 1 - x and 1 - y are the times of one spike each, from 2 to 30 ms, and a fifth
input fires at the beginning. Time constants are 5 ms (synapses) and 20 ms (membranes). The classes are read from
membranes that never fire, by their mean with weights that fall with time, as in Nowotny, Turner and Knight
(arXiv:2212.01232).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl
from spikeloom import runs

from ._limits import whole_precision

RADIUS, DOT = 0.5, 0.1  # of the disc and of a dot
TAU_SYN, TAU_MEM, FIRST, LAST, END = 5.0, 20.0, 2.0, 30.0, 60.0  # ms


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of network and steps."""

    epochs: int = 60
    batch_size: int = 150
    lr: float = 1e-2
    hidden: int = runs.option(150, "hidden neurons", minimum=1)
    fineness: int = runs.option(10, "steps for the time constant of the synapses, 5 ms", minimum=2)
    samples: int = runs.option(5000, "points to train on", minimum=3)


def kinds(p: Tensor) -> Tensor:
    """The classes of points ``[N, 2]`` of the disc: yang 0, yin 1, dots 2."""
    to_right, to_left = ((p - torch.tensor([c * RADIUS, RADIUS])).norm(dim=1) for c in (1.5, 0.5))
    upper = (p[:, 1] > RADIUS) & (to_right > RADIUS / 2)
    yin = (to_right <= DOT) | ((to_left > DOT) & (to_left <= RADIUS / 2)) | upper
    return torch.where((to_right < DOT) | (to_left < DOT), 2, yin.long())


def points(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points ``[samples, 2]`` of the disc, as many of each class, and their classes."""
    drawn = 2 * RADIUS * torch.rand(50 * samples, 2, generator=torch.Generator().manual_seed(seed))
    found, inside = kinds(drawn), (drawn - RADIUS).norm(dim=1) <= RADIUS
    chosen = [(inside & (found == k)).nonzero().flatten()[: (samples + 2 - k) // 3] for k in range(3)]
    index = torch.cat(chosen)
    return drawn[index], found[index]


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """Points to train on, and 1,000 others to test."""
    train, test = (
        sl.data.Samples(*points(n, seed), classes=("yang", "yin", "dot"))
        for n, seed in ((config.samples, 1), (1000, 2))
    )
    return sl.data.loaders((train, test), test_batch_size=1000, **loading)


def build(config: Config) -> sl.Network:
    """The network: spikes ``[T, B, 5]`` to spikes of membranes that are read by ``record``."""
    tau_syn = config.fineness
    tau_mem = tau_syn * TAU_MEM / TAU_SYN
    hidden = sl.learn.EventPropLIF(tau_mem=tau_mem, tau_syn=tau_syn)
    readout = sl.Synaptic(alpha=math.exp(-1 / tau_syn), beta=math.exp(-1 / tau_mem), reset="none")
    first, second = nn.Linear(5, config.hidden, bias=False), nn.Linear(config.hidden, 3, bias=False)
    nn.init.normal_(first.weight, 2.0, 1.0)
    nn.init.normal_(second.weight, 0.0, 0.7)
    return sl.Network(first, hidden, second, readout)


def coded(x: Tensor, config: Config) -> Tensor:
    """Spikes ``[T, B, 5]`` for points ``[B, 2]``."""
    per_ms = config.fineness / TAU_SYN
    times = torch.cat([x, 1 - x, torch.zeros_like(x[:, :1])], 1) * (LAST - FIRST) + FIRST
    times[:, 4] = 0.0
    steps = torch.arange(round(END * per_ms), device=x.device).view(-1, 1, 1)
    return (steps == (times * per_ms).round()).to(x.dtype)


def scores(net: nn.Module, x: Tensor, config: Config) -> Tensor:
    """Weighted means of the readout's membranes, ``[B, 3]``."""
    _, result = net(coded(x, config), record=("3.v",))
    v: Tensor = result.record["3.v"]
    weights = torch.exp(-torch.arange(len(v), device=v.device) / len(v)).view(-1, 1, 1)
    a, b = math.exp(-1 / config.fineness), math.exp(-TAU_SYN / TAU_MEM / config.fineness)
    return (v * weights).mean(0) * (10 / 3 * (b - a))


measures = runs.accuracy(scores)


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs."""
    whole_precision(run)
    loaders = run.load(data)
    net = run.place(build(config))
    optimiser = torch.optim.Adam(net.parameters(), lr=config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.epochs * len(loaders.train))
    run.keep(net=net, optimiser=optimiser, schedule=schedule)
    for _ in run.epochs():
        for x, y in run.steps(loaders.train):
            found = scores(net, x, config)
            loss = F.cross_entropy(found, y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            run.log(len(y), loss=loss, accuracy=(found.argmax(1) == y).double().mean())
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    run.finish(net, **run.measure(net, loaders.test, measures, "test"))
    run.draw(partial(pictures, runs.unwrap(net), loaders.test, config, run.device))


def pictures(net: nn.Module, test: sl.data.Loader, config: Config, device: torch.device) -> dict[str, Any]:
    """Spikes of one point."""
    from spikeloom import plot

    x, y = next(iter(test))
    net.eval()
    with torch.no_grad():
        _, result = net(coded(x[:1].to(device), config), record=("0.input", "1.output", "3.v"))
    figure, (first, second, third) = plot.figure(3)
    plot.raster(result.record["0.input"][:, 0], ax=first, title=f"input of a point of class {int(y[0])}")
    plot.raster(result.record["1.output"][:, 0], ax=second, title="hidden neurons")
    names = ("yang", "yin", "dot")
    plot.traces(
        result.record["3.v"][:, 0], labels=names, highlight=int(y[0]), ax=third, title="membranes of the classes"
    )
    return {"raster": figure}
