"""Hybrid training: a spiking network begins as the conversion of a trained ordinary one, and goes on by gradients.

    spikeloom train hybrid-mnist
    spikeloom train hybrid-mnist --T 1 --epochs 6

The ordinary CNN is trained in the first ``ann_epochs`` epochs and converted by rates; in the other epochs the spiking
network is trained with surrogate gradients at T steps, fewer than conversion alone would need. ``ann_accuracy``,
``converted_accuracy`` and ``test_accuracy`` are those of the three networks; the weights of the run are the last one's.

Rathi et al., Enabling deep spiking neural networks with hybrid conversion and spike timing dependent backpropagation,
ICLR 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import spikeloom as sl
from spikeloom import runs
from spikeloom.recipes import ann2snn_mnist


@dataclass(frozen=True, kw_only=True)
class Config(ann2snn_mnist.Config):
    """Settings of both trainings; ``lr`` is that of the ordinary network."""

    epochs: int = 4
    ann_epochs: int = runs.option(2, "epochs of the ordinary network, of --epochs", minimum=1)
    spiking_lr: float = runs.option(1e-3, "learning rate of the spiking network, which falls to 0", above=0.0)
    T: int = runs.option(2, "steps", minimum=1)


data = ann2snn_mnist.data


def converted(net: nn.Module, batches: tuple[Tensor, ...], config: Config) -> sl.Network:
    """The spiking network of an ordinary one: images ``[B, *]`` with ``repeat=T`` to outputs ``[T, B, classes]``."""
    method = sl.convert.Rate(unit=True)  # all thresholds are 1, and networks differ in their weights alone
    return sl.convert.convert(net, method, calibrate=batches, spikes="packed", T=config.T).network


def build(config: Config) -> sl.Network:
    """The spiking network, before it is given weights."""
    return converted(ann2snn_mnist.build(config), (torch.rand(2, 1, 28, 28),), config)


def scores(net: nn.Module, images: Tensor, config: Config) -> Tensor:
    """The mean of the outputs over time, ``[B, 10]``."""
    y: Tensor = net(images, repeat=config.T)
    return y.mean(0)


measures = runs.accuracy(scores)


def train(config: Config, run: runs.Run) -> None:
    """Trains the ordinary network, converts it, and trains the spiking one."""
    if config.ann_epochs >= config.epochs:
        raise runs.ConfigError(
            "ann_epochs must be less than epochs, so that there is something left", setting="ann_epochs"
        )
    loaders = run.load(data)
    batches = ann2snn_mnist.calibrating(run, loaders, config.calibration)
    ann, net = run.place(ann2snn_mnist.build(config)), run.place(build(config))
    steps = len(loaders.train)
    first = torch.optim.Adam(ann.parameters(), lr=config.lr, weight_decay=5e-4)
    second = torch.optim.Adam(net.parameters(), lr=config.spiking_lr)
    rising = torch.optim.lr_scheduler.OneCycleLR(first, config.lr, total_steps=config.ann_epochs * steps)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(second, (config.epochs - config.ann_epochs) * steps)
    run.keep(ann=ann, net=net, first=first, second=second, rising=rising, falling=falling)
    for epoch in run.epochs():
        ordinary = epoch <= config.ann_epochs
        model, optimiser, schedule = (ann, first, rising) if ordinary else (net, second, falling)
        of: Any = ann2snn_mnist.scores if ordinary else scores
        for x, labels in run.steps(loaders.train):
            with run.autocast():
                y = of(model, x, config)
            loss = cross_entropy(y.float(), labels)
            optimiser.zero_grad()
            run.scaler.scale(loss).backward()
            run.scaler.step(optimiser)
            run.scaler.update()
            schedule.step()
            run.log(len(labels), loss=loss, accuracy=(y.argmax(1) == labels).double().mean())
        if epoch == config.ann_epochs:
            begun = converted(runs.unwrap(ann), batches, config)
            runs.unwrap(net).load_state_dict(begun.state_dict())
        run.report(**run.measure(model, loaders.validation, runs.accuracy(of), "validation"))
    before = converted(runs.unwrap(ann), batches, config)
    run.finish(
        net,
        **run.measure(ann, loaders.test, ann2snn_mnist.measures, "ann"),
        **run.measure(before, loaders.test, measures, "converted"),
        **run.measure(net, loaders.test, measures, "test"),
    )
    run.draw()
