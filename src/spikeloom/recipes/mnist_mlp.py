"""One fully connected layer of LIF neurons on Poisson-coded MNIST: the example with which the field begins.

    spikeloom train mnist-mlp
    spikeloom train mnist-mlp --T 20 --epochs 2      quicker, and less accurate

Each pixel fires at each of T steps with a probability of its brightness; ten LIF neurons see 784 such trains through
one matrix, and the rate at which each fires shall be 1 for the digit and 0 for the others. SpikingJelly's first
tutorial has the same network, coding and loss, and reports about 92 %.
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
    """Settings of coding and neuron."""

    T: int = runs.option(100, "steps per image", minimum=1)
    tau: float = runs.option(2.0, "membrane time constant in steps", minimum=1.0)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """MNIST."""
    return sl.data.loaders("mnist", test_batch_size=200, **loading)


def build(config: Config) -> sl.Network:
    """The network: spikes ``[T, B, 784]`` to spikes ``[T, B, 10]``."""
    return sl.Network(
        nn.Linear(784, 10, bias=False),
        sl.LIF(tau=config.tau, surrogate=sl.surrogate.ATan(2.0)),
    )


def scores(net: nn.Module, images: Tensor, config: Config) -> Tensor:
    """Firing rates ``[B, 10]`` for images ``[B, 1, 28, 28]``."""
    return sl.decode.rate(net(sl.encode.poisson(images.flatten(1), config.T)))


measures = runs.accuracy(scores)


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs."""
    loaders = run.load(data)
    net = run.place(build(config))
    optimiser = torch.optim.Adam(net.parameters(), lr=config.lr)
    run.keep(net=net, optimiser=optimiser)
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
            run.log(len(labels), loss=loss, accuracy=(rates.argmax(1) == labels).double().mean())
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    run.finish(net, **run.measure(net, loaders.test, measures, "test"))
    run.draw()
