"""An ordinary CNN is trained on MNIST, and becomes a spiking network without further training.

    spikeloom train ann2snn-mnist
    spikeloom convert runs/ann2snn-mnist --method delta --T 4      the trained network by another method

The network is the CNN of SpikingJelly's conversion example. Its weights are those of the run;
``rate_accuracy`` and ``delta_accuracy`` are those of two spiking networks made of it, by rates in T steps and by
messages of powers of two in ``delta_steps`` steps. ``conversion.txt`` has the error of each layer, ``curves.json`` the
accuracies after fewer steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import spikeloom as sl
from spikeloom import runs

Methods = Mapping[str, tuple[sl.convert.Method, int]]


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of training and conversion."""

    epochs: int = 5
    lr: float = 3e-3
    T: int = runs.option(32, "steps of the network that codes by rates", minimum=1)
    delta_steps: int = runs.option(4, "steps of the network that sends messages", minimum=1)
    calibration: int = runs.option(500, "training images by which thresholds are found", minimum=1)
    channels: int = runs.option(32, "channels of each convolution", minimum=1)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """MNIST."""
    return sl.data.loaders("mnist", test_batch_size=200, **loading)


def build(config: Config) -> nn.Module:
    """The ordinary network: images ``[B, 1, 28, 28]`` to class scores ``[B, 10]``."""
    c = config.channels
    return nn.Sequential(
        *(nn.Conv2d(1, c, 3), nn.BatchNorm2d(c), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(c, c, 3), nn.BatchNorm2d(c), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(c, c, 3), nn.BatchNorm2d(c), nn.ReLU(), nn.AvgPool2d(2)),
        nn.Flatten(),
        nn.Linear(c, 10),
    )


def scores(net: nn.Module, images: Tensor, config: runs.Config) -> Tensor:
    """Class scores of the ordinary network, ``[B, classes]``."""
    y: Tensor = net(images)
    return y


measures = runs.accuracy(scores)


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs, and converts."""
    loaders = run.load(data)
    net = run.place(build(config))
    optimiser = torch.optim.Adam(net.parameters(), lr=config.lr, weight_decay=5e-4)
    steps = config.epochs * len(loaders.train)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, total_steps=steps)
    run.keep(net=net, optimiser=optimiser, schedule=schedule)
    for _ in run.epochs():
        for images, labels in run.steps(loaders.train):
            with run.autocast():
                y = net(images)
                loss = cross_entropy(y, labels)
            optimiser.zero_grad()
            run.scaler.scale(loss).backward()
            run.scaler.step(optimiser)
            run.scaler.update()
            schedule.step()
            run.log(len(labels), loss=loss, accuracy=(y.argmax(1) == labels).double().mean())
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    figures = run.measure(net, loaders.test, measures, "test")
    methods = {"rate": (sl.convert.Rate(), config.T), "delta": (sl.convert.Delta(), config.delta_steps)}
    figures |= conversions(net, run, loaders, methods, config.calibration)
    run.finish(net, **figures)


def conversions(
    net: nn.Module, run: runs.Run, loaders: sl.data.Loaders, methods: Methods, calibration: int
) -> dict[str, float]:
    """Converts by some methods and measures; returns ``<name>_accuracy`` of each, and writes what there is to read.

    Args:
        methods: the methods, each with its number of steps, by names of one's own.
        calibration: how many training images thresholds are found by.
    """
    batches = calibrating(run, loaders, calibration)
    figures, texts, curves = {}, [], {}
    for name, (method, T) in methods.items():
        result = sl.convert.convert(runs.unwrap(net), method, calibrate=batches, spikes="packed", T=T)
        times = [t for t in (1, 2, 4, 8, 16, 32, 64, 128) if t < T] + [T]
        found = run.measure(net, loaders.test, after(result, times), f"{name} at")
        curves[name] = {t: found[f"{name} at_{t}"] for t in times}
        figures[f"{name}_accuracy"] = curves[name][T]
        texts.append(str(result.report))
    if run.processes.first:
        (run.out / "conversion.txt").write_text("\n\n".join(texts) + "\n")
        (run.out / "curves.json").write_text(json.dumps(curves, indent=1) + "\n")
    return figures


def calibrating(run: runs.Run, loaders: sl.data.Loaders, number: int) -> tuple[Tensor, ...]:
    """The first training images, by which thresholds are found, in batches of 100."""
    images = torch.cat([x for x, _ in islice(loaders.train, -(-number // run.config.batch_size))])
    batches: tuple[Tensor, ...] = images[:number].to(run.device).split(100)
    return batches


def after(result: Any, times: list[int]) -> Callable[[nn.Module, Tensor, Tensor, Config], dict[str, Tensor]]:
    """What is measured of a spiking network: whether it is right after each number of steps, from one run."""

    def measures(net: nn.Module, x: Tensor, y: Tensor, config: Config) -> dict[str, Tensor]:
        return {str(t): scores.argmax(1) == y for t, scores in result.after(x, steps=times).items()}

    return measures
