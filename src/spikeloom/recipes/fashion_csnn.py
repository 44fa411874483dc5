"""A convolutional SNN on Fashion-MNIST: conv - batch norm - LIF - pool twice, then two fully connected layers of LIF.

    spikeloom train fashion-csnn
    spikeloom train fashion-csnn --channels 16 --epochs 2      quicker, and less accurate

The image is presented at every step, so the first convolution and its batch norm are computed once; every neuron, the
outputs too, is a LIF, and the rate at which each output fires shall be 1 for the class and 0 for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl
from spikeloom import runs


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of the network."""

    T: int = runs.option(4, "steps per image", minimum=1)
    channels: int = runs.option(64, "channels of both convolutions", minimum=1)
    hidden: int = runs.option(512, "neurons of the first fully connected layer", minimum=1)
    packed: bool = runs.option(True, "spikes of one bit each; no: of 32")


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """Fashion-MNIST."""
    return sl.data.loaders("fashion-mnist", test_batch_size=200, **loading)


def build(config: Config) -> sl.Network:
    """The network: images ``[B, 1, 28, 28]`` with ``repeat=T`` to spikes ``[T, B, 10]``."""

    def lif() -> sl.LIF:
        return sl.LIF(tau=2.0, surrogate=sl.surrogate.ATan(2.0))

    c = config.channels
    net = sl.Network(
        nn.Conv2d(1, c, 3, padding=1, bias=False), nn.BatchNorm2d(c), lif(), nn.MaxPool2d(2),
        nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c), lif(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(c * 49, config.hidden, bias=False), lif(),
        nn.Linear(config.hidden, 10, bias=False), lif(),
        spikes="packed" if config.packed else "dense",
    )  # fmt: skip
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # is faster for layers between steps
    return net


def scores(net: nn.Module, images: Tensor, config: Config) -> Tensor:
    """Firing rates ``[B, 10]``."""
    return sl.decode.rate(net(images, repeat=config.T))


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
        for images, labels in run.steps(loaders.train):
            with run.autocast():
                rates = scores(fast, images, config)
            loss = F.mse_loss(rates.float(), F.one_hot(labels, 10).float())
            optimiser.zero_grad()
            run.scaler.scale(loss).backward()
            run.scaler.step(optimiser)
            run.scaler.update()
            schedule.step()
            run.log(len(labels), loss=loss, accuracy=(rates.argmax(1) == labels).double().mean())
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    run.finish(net, **run.measure(net, loaders.test, measures, "test"))
    run.draw()
