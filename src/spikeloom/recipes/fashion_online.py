"""Fashion-MNIST by a convolutional SNN that learns step by step: the memory that training takes does not grow with T.

    spikeloom train fashion-online                        OTTT
    spikeloom train fashion-online --method sltt
    spikeloom train fashion-online --method bptt          the same network and loss through all steps at once

Each step has a loss of its own and is differentiated alone; gradients of the steps of an image add up. SLTT (Meng et
al., ICCV 2023) drops what a step did to later ones. OTTT (Xiao et al., NeurIPS 2022) gives each layer after a neuron
the trace of its input instead of the input, which is what the leak of the next neuron remembers of it. Batch norm takes
the statistics of each step; by backpropagation, those of all steps together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import spikeloom as sl
from spikeloom import runs

from . import _online as online
from ._limits import one_process, whole_precision

TAU = 2.0


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of method and network."""

    T: int = runs.option(6, "steps per image", minimum=1)
    method: str = runs.option("ottt", "ottt, sltt or bptt", choices=("ottt", "sltt", "bptt"))
    channels: int = runs.option(32, "channels of both convolutions", minimum=1)
    hidden: int = runs.option(256, "neurons of the fully connected layer", minimum=1)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """Fashion-MNIST."""
    return sl.data.loaders("fashion-mnist", test_batch_size=200, **loading)


def build(config: Config) -> sl.Network:
    """The network: images ``[B, 1, 28, 28]`` with ``repeat=T`` to scores ``[T, B, 10]``."""

    def lif() -> sl.LIF:
        return sl.LIF(tau=TAU, decay_input=False, reset="soft", detach_reset=True, surrogate=sl.surrogate.ATan(2.0))

    def after_spikes(layer: nn.Module) -> nn.Module:
        return sl.nn.OTTT(layer, tau=TAU) if config.method == "ottt" else layer

    c, h = config.channels, config.hidden
    return sl.Network(
        nn.Conv2d(1, c, 3, padding=1, bias=False), nn.BatchNorm2d(c), lif(), nn.AvgPool2d(2),
        after_spikes(nn.Conv2d(c, c, 3, padding=1, bias=False)), nn.BatchNorm2d(c), lif(), nn.AvgPool2d(2),
        nn.Flatten(),
        after_spikes(nn.Linear(c * 49, h)), lif(),
        nn.Linear(h, 10),  # which no neuron follows
    )  # fmt: skip


def scores(net: nn.Module, images: Tensor, config: Config) -> Tensor:
    """Means over the steps, ``[B, 10]``."""
    found: Tensor = net(images, repeat=config.T).mean(0)
    return found


measures = runs.accuracy(scores)


def learn(net: Any, images: Tensor, labels: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """Adds the gradients of the mean cross entropy of the steps to ``.grad``; returns it, and the scores."""
    steps = config.T if config.method == "bptt" else 1
    return online.learn(net, images, labels, T=config.T, steps=steps, repeat=config.T)


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs; the learning rate falls to zero along a cosine."""
    one_process(run)
    whole_precision(run)
    loaders = run.load(data)
    net = run.place(build(config))
    optimiser = torch.optim.Adam(net.parameters(), lr=config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.epochs * len(loaders.train))
    run.keep(net=net, optimiser=optimiser, schedule=schedule)
    for _ in run.epochs():
        for images, labels in run.steps(loaders.train):
            optimiser.zero_grad()
            loss, outputs = learn(runs.unwrap(net), images, labels, config)
            optimiser.step()
            schedule.step()
            run.log(len(labels), loss=loss, accuracy=(outputs.argmax(1) == labels).double().mean())
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    run.finish(net, **run.measure(net, loaders.test, measures, "test"))
    run.draw()
