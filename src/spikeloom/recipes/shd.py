"""Spoken digits as spikes, and a net that learns delays: Spiking Heidelberg Digits, or recordings through a cochlea.

    spikeloom train shd
    spikeloom train shd --delays synapse
    spikeloom train shd --dataset fsdd --T 64
    spikeloom train shd --dataset fsdd --T 64 --delays none

The 700 lines of a recording are joined to 140, whose spikes are counted every 10 ms; the 64 hair cells of a cochlea
stay as they are. Weights and delays have an optimiser each: the delays' learning rate is a hundred times as high and
they do not decay. The bump around each delay narrows over a quarter of the epochs; in evaluation delays are whole
steps. All of this is the published recipe (Hammouamri et al., ICLR 2024), but for one thing: that one takes the best
epoch on the test set, which is all that the data set has beside the training set. Here a tenth of the training
recordings is held out and measured after each epoch, the last epoch counts, and the test set is used once, after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl
from spikeloom import runs


class Spoken(NamedTuple):
    """A data set: the lines of a recording, how many neighbours become one, classes, and what hears its sounds."""

    lines: int
    joined: int
    classes: int
    cochlea: sl.data.Cochlea | None = None


SETS = {"shd": Spoken(700, 5, 20), "fsdd": Spoken(64, 1, 10, sl.data.Cochlea(channels=64, rate=8000))}
"""The data sets that the recipe knows, by name."""


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of data, network and learning."""

    dataset: str = runs.option("shd", "spoken digits", choices=tuple(SETS))
    epochs: int = 150
    batch_size: int = 256
    lr: float = runs.option(5e-3, "highest learning rate of the weights", above=0.0)
    validation: float = 0.1
    T: int = runs.option(140, "steps per recording; what is longer is cut", minimum=1)
    step_ms: float = runs.option(10.0, "milliseconds of a step", above=0.0)
    delays: str = runs.option(
        "channel", "a delay for each channel or synapse, or none", choices=("channel", "synapse", "none")
    )
    max_delay: int = runs.option(24, "the longest delay, in steps", minimum=1)
    hidden: int = runs.option(256, "neurons of both hidden layers", minimum=1)
    lr_delays: float = runs.option(0.1, "learning rate of the delays at first, in steps", above=0.0)
    weight_decay: float = runs.option(1e-5, "decay of the weights", minimum=0.0)
    partial: bool = runs.option(False, "take what is there of the data set, for trials")


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """The recordings as counts of spikes ``[T, B, lines]``."""
    frames = sl.data.Frames(duration=1000 * config.step_ms, length=config.T)
    options = sl.data.Options(partial=config.partial, cochlea=SETS[config.dataset].cochlea)
    loading = {"test_batch_size": 256, "frames": frames, "options": options, "batch_first": False, **loading}
    return sl.data.loaders(config.dataset, **loading)


def build(config: Config) -> sl.Network:
    """The network: counts ``[T, B, channels]`` to membranes ``[T, B, classes]``."""
    spoken = SETS[config.dataset]
    options: dict[str, Any] = {"delays": config.delays, "max_delay": config.max_delay, "hidden": config.hidden}
    channels = spoken.lines // spoken.joined
    return sl.Network(sl.models.create("delay_shd", num_classes=spoken.classes, in_channels=channels, **options))


def counts(lines: Tensor, config: Config) -> Tensor:
    """Counts of neighbouring lines together, ``[T, B, channels]``."""
    apart: Tensor = lines.unflatten(-1, (-1, SETS[config.dataset].joined))
    return apart.sum(-1)


def scores(net: nn.Module, lines: Tensor, config: Config) -> Tensor:
    """The sum over time of the classes' shares by their membranes, ``[B, classes]``."""
    shares: Tensor = net(counts(lines, config)).float().softmax(-1).sum(0)
    return shares


measures = runs.accuracy(scores)


def optimisers(net: nn.Module, config: Config) -> list[tuple[Any, Any]]:
    """An optimiser and its schedule, in epochs, of weights, norms and neurons, and one of delays if there are any."""
    named = [(name.endswith("delay"), p) for name, p in net.named_parameters()]
    weights = [
        {"params": [p for delay, p in named if not delay and p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for delay, p in named if not delay and p.ndim <= 1], "weight_decay": 0.0},
    ]
    of_weights = torch.optim.Adam(weights, config.lr)
    schedules = torch.optim.lr_scheduler
    found: list[tuple[Any, Any]] = [
        (of_weights, schedules.OneCycleLR(of_weights, config.lr, total_steps=config.epochs + 1))
    ]
    if delays := [p for delay, p in named if delay]:
        of_delays = torch.optim.Adam(delays, config.lr_delays)
        found.append((of_delays, schedules.CosineAnnealingLR(of_delays, config.epochs)))
    return found


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs, in which learning rates and the bumps around delays change."""
    loaders = run.load(data)
    net = run.place(build(config))
    pairs = dict(zip(("weights", "delays"), optimisers(net, config), strict=False))
    schedules: dict[str, Any] = {f"of_{name}": schedule for name, (_, schedule) in pairs.items()}
    if "delays" in pairs:
        schedules["bumps"] = sl.nn.DelaySchedule(net, epochs=config.epochs)
    learning = {name: optimiser for name, (optimiser, _) in pairs.items()}
    run.keep(net=net, **learning, **schedules)
    for _ in run.epochs():
        for lines, labels in run.steps(loaders.train):
            with run.autocast():
                outputs = scores(net, lines, config)
            loss = F.cross_entropy(outputs, labels)
            for optimiser in learning.values():
                optimiser.zero_grad()
            run.scaler.scale(loss).backward()
            for optimiser in learning.values():
                run.scaler.step(optimiser)
            run.scaler.update()
            run.log(len(labels), loss=loss, accuracy=(outputs.argmax(1) == labels).double().mean())
        for schedule in schedules.values():
            schedule.step()
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    linear = runs.linear_baseline(loaders.train, loaders.test, lambda lines: counts(lines, config).sum(0))
    figures = run.measure(net, loaders.test, measures, "test")
    run.finish(net, **figures, linear_accuracy=linear, chance_accuracy=1 / len(loaders.classes))
    if run.processes.first:
        facts = {"data": config.dataset, "selected": "last epoch", "split": loaders.split, "commit": runs.commit()}
        sl.models.save(runs.unwrap(net), run.out / "model", facts={**run.result, **facts})
    run.draw(partial(pictures, runs.unwrap(net), loaders, config, run.device))


def pictures(net: nn.Module, loaders: sl.data.Loaders, config: Config, device: torch.device) -> dict[str, Any]:
    """The spikes of one test recording, and the output membranes."""
    from spikeloom import plot

    lines, labels = next(iter(loaders.test))
    net.eval()
    with torch.no_grad():
        membranes = net(counts(lines[:, :1], config).to(device))
    raster, (first, second) = plot.figure(2)
    spoken, title = f"lines at a spoken {loaders.classes[int(labels[0])]}, low pitch below", "membranes of the classes"
    plot.raster(counts(lines[:, 0], config), ax=first, title=spoken)
    plot.traces(membranes[:, 0], labels=loaders.classes, highlight=int(labels[0]), ax=second, title=title)
    return {"raster": raster}
