"""Spoken digits that came as spikes: Spiking Heidelberg Digits, and a net that learns delays.

    spikeloom train shd
    spikeloom train shd --delays synapse

The 700 lines of a recording are joined to 140, whose spikes are counted every 10 ms. Weights and delays have an
optimiser each: the delays' learning rate is a hundred times as high and they do not decay. The bump around each delay
narrows over a quarter of the epochs; in evaluation delays are whole steps. All of this is the published recipe
(Hammouamri et al., ICLR 2024), but for one thing: that one takes the best epoch on the test set, which is all that the
data set has beside the training set. Here a tenth of the training recordings is held out and measured after each epoch,
the last epoch counts, and the test set is used once, after it.
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

LINES, JOINED = 700, 5
"""Lines of a recording, and how many neighbours become one."""


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of data, network and learning."""

    epochs: int = 150
    batch_size: int = 256
    lr: float = runs.option(5e-3, "highest learning rate of the weights", above=0.0)
    validation: float = 0.1
    T: int = runs.option(140, "steps per recording; what is longer is cut", minimum=1)
    step_ms: float = runs.option(10.0, "milliseconds of a step", above=0.0)
    delays: str = runs.option("channel", "a delay for each channel, or synapse", choices=("channel", "synapse"))
    max_delay: int = runs.option(24, "the longest delay, in steps", minimum=1)
    hidden: int = runs.option(256, "neurons of both hidden layers", minimum=1)
    lr_delays: float = runs.option(0.1, "learning rate of the delays at first, in steps", above=0.0)
    weight_decay: float = runs.option(1e-5, "decay of the weights", minimum=0.0)
    partial: bool = runs.option(False, "take what is there of the data set, for trials")


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """The recordings as counts of spikes ``[T, B, 700]``."""
    frames = sl.data.Frames(duration=1000 * config.step_ms, length=config.T)
    options = sl.data.Options(partial=config.partial)
    return sl.data.loaders("shd", test_batch_size=256, frames=frames, options=options, batch_first=False, **loading)


def build(config: Config) -> sl.Network:
    """The network: counts ``[T, B, 140]`` to membranes ``[T, B, 20]``."""
    options: dict[str, Any] = {"delays": config.delays, "max_delay": config.max_delay, "hidden": config.hidden}
    return sl.Network(sl.models.create("delay_shd", in_channels=LINES // JOINED, **options))


def counts(lines: Tensor) -> Tensor:
    """Counts of neighbouring lines together, ``[T, B, 140]``."""
    joined: Tensor = lines.unflatten(-1, (-1, JOINED))
    return joined.sum(-1)


def scores(net: nn.Module, lines: Tensor, config: Config) -> Tensor:
    """The sum over time of the classes' shares by their membranes, ``[B, 20]``."""
    shares: Tensor = net(counts(lines)).float().softmax(-1).sum(0)
    return shares


measures = runs.accuracy(scores)


def optimisers(net: nn.Module, config: Config) -> list[tuple[Any, Any]]:
    """An optimiser with its schedule, in epochs, for weights, norms and neurons, and one for delays."""
    named = [(name.endswith("delay"), p) for name, p in net.named_parameters()]
    weights = [
        {"params": [p for delay, p in named if not delay and p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for delay, p in named if not delay and p.ndim <= 1], "weight_decay": 0.0},
    ]
    of_weights = torch.optim.Adam(weights, config.lr)
    of_delays = torch.optim.Adam([p for delay, p in named if delay], config.lr_delays)
    schedules = torch.optim.lr_scheduler
    return [
        (of_weights, schedules.OneCycleLR(of_weights, config.lr, total_steps=config.epochs + 1)),
        (of_delays, schedules.CosineAnnealingLR(of_delays, config.epochs)),
    ]


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs, in which learning rates and the bumps around delays change."""
    loaders = run.load(data)
    net = run.place(build(config))
    (weights, of_weights), (delays, of_delays) = optimisers(net, config)
    bumps = sl.nn.DelaySchedule(net, epochs=config.epochs)
    run.keep(net=net, weights=weights, of_weights=of_weights, delays=delays, of_delays=of_delays, bumps=bumps)
    for _ in run.epochs():
        for lines, labels in run.steps(loaders.train):
            with run.autocast():
                outputs = scores(net, lines, config)
            loss = F.cross_entropy(outputs, labels)
            for optimiser in (weights, delays):
                optimiser.zero_grad()
            run.scaler.scale(loss).backward()
            for optimiser in (weights, delays):
                run.scaler.step(optimiser)
            run.scaler.update()
            run.log(len(labels), loss=loss, accuracy=(outputs.argmax(1) == labels).double().mean())
        for schedule in (of_weights, of_delays, bumps):
            schedule.step()
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    linear = runs.linear_baseline(loaders.train, loaders.test, lambda lines: counts(lines).sum(0))
    figures = run.measure(net, loaders.test, measures, "test")
    run.finish(net, **figures, linear_accuracy=linear, chance_accuracy=1 / len(loaders.classes))
    if run.processes.first:
        facts = {"data": "shd", "selected": "last epoch", "split": loaders.split, "commit": runs.commit()}
        sl.models.save(runs.unwrap(net), run.out / "model", facts={**run.result, **facts})
    run.draw(partial(pictures, runs.unwrap(net), loaders, run.device))


def pictures(net: nn.Module, loaders: sl.data.Loaders, device: torch.device) -> dict[str, Any]:
    """The spikes of one test recording, and the output membranes."""
    from spikeloom import plot

    lines, labels = next(iter(loaders.test))
    net.eval()
    with torch.no_grad():
        membranes = net(counts(lines[:, :1]).to(device))
    raster, (first, second) = plot.figure(2)
    plot.raster(counts(lines[:, 0]), ax=first, title=f"lines at {loaders.classes[int(labels[0])]}, low pitch below")
    title = "membranes of the classes"
    plot.traces(membranes[:, 0], labels=loaders.classes, highlight=int(labels[0]), ax=second, title=title)
    return {"raster": raster}
