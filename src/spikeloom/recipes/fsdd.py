"""Spoken digits as spikes: recordings of six people through a cochlea of 64 hair cells, ten classes.

    spikeloom train fsdd

The spikes of each hair cell are counted every 10 ms. The split is that of the data set's own README: the first five
recordings of each digit and speaker are for testing. The result has, beside the network's accuracy, that of a linear
classifier on how often each hair cell fired.
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


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of cochlea and network."""

    epochs: int = 20
    lr: float = 3e-3
    T: int = runs.option(64, "steps per recording; what is longer is cut", minimum=1)
    step_ms: float = runs.option(10.0, "milliseconds of a step", above=0.0)
    channels: int = runs.option(64, "hair cells", minimum=2)
    hidden: int = runs.option(256, "neurons of both hidden layers", minimum=1)
    tau_max: float = runs.option(40.0, "the slowest hidden neuron's time constant, in steps", above=2.0)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """The recordings as counts of spikes ``[B, T, channels]``. The spikes are computed once and kept on the disk."""
    frames = sl.data.Frames(duration=1000 * config.step_ms, length=config.T)
    options = sl.data.Options(cochlea=sl.data.Cochlea(channels=config.channels, rate=8000))
    return sl.data.loaders("fsdd", test_batch_size=300, frames=frames, options=options, batch_first=True, **loading)


def build(config: Config) -> sl.Network:
    """The network: counts ``[B, T, channels]`` to membranes ``[B, T, 10]``. Time constants begin from 2 to tau_max."""
    h = config.hidden

    def lif() -> sl.LIF:
        tau = torch.logspace(0, 1, h).sub(1).div(9).mul(config.tau_max - 2).add(2)
        tau = nn.Parameter(tau[torch.randperm(h)])
        return sl.LIF(tau=tau, decay_input=False, reset="soft", surrogate=sl.surrogate.ATan(2.0))

    return sl.Network(
        nn.Linear(config.channels, h),
        lif(),
        nn.Linear(h, h),
        lif(),
        nn.Linear(h, 10),
        sl.LI(tau=20.0),
        batch_first=True,
    )


def scores(net: nn.Module, counts: Tensor, config: Config) -> Tensor:
    """Ten times the mean membrane of each class, ``[B, 10]``."""
    return 10 * sl.decode.membrane(net(counts), "mean", batch_first=True)


measures = runs.accuracy(scores)


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs; the learning rate falls to zero along a cosine."""
    loaders = run.load(data)
    net = run.place(build(config))
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.epochs * len(loaders.train))
    run.keep(net=net, optimiser=optimiser, schedule=schedule)
    fast = run.graphed(net)
    for _ in run.epochs():
        for counts, labels in run.steps(loaders.train):
            with run.autocast():
                outputs = scores(fast, counts, config)
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
    linear = runs.linear_baseline(loaders.train, loaders.test, lambda counts: counts.sum(1))
    figures = run.measure(net, loaders.test, measures, "test")
    run.finish(net, **figures, linear_accuracy=linear, chance_accuracy=1 / len(loaders.classes))
    run.draw(partial(pictures, runs.unwrap(net), loaders.test, run.device))


def pictures(net: nn.Module, test: sl.data.Loader, device: torch.device) -> dict[str, Any]:
    """The spikes of one test recording, and the output membranes."""
    from spikeloom import plot

    counts, labels = next(iter(test))
    net.eval()
    with torch.no_grad():
        membranes = net(counts[:1].to(device))
    raster, (first, second) = plot.figure(2)
    plot.raster(counts[0], ax=first, title=f"hair cells at a spoken {int(labels[0])}, low pitch below")
    plot.traces(membranes[0], highlight=int(labels[0]), ax=second, title="membranes of the classes")
    return {"raster": raster}
