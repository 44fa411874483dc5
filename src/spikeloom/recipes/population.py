"""MNIST read out by populations: each class has a group of neurons, and the group with the most spikes wins.

    spikeloom train population
    spikeloom train population --T 1 --members 100      a single step

One neuron needs many steps to say something finely; a population says it in one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import spikeloom as sl
from spikeloom import runs


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of coding and network."""

    epochs: int = 5
    T: int = runs.option(2, "steps per image", minimum=1)
    hidden: int = runs.option(256, "hidden neurons", minimum=1)
    members: int = runs.option(50, "output neurons of each class", minimum=1)
    beta: float = runs.option(0.9, "decay of the membranes per step", above=0.0, maximum=1.0)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """MNIST."""
    return sl.data.loaders("mnist", test_batch_size=500, **loading)


def build(config: Config) -> sl.Network:
    """The network: images ``[B, 1, 28, 28]`` with ``repeat=T`` to spikes ``[T, B, 10 members]``."""
    return sl.Network(
        nn.Flatten(),
        nn.Linear(784, config.hidden),
        sl.Leaky(beta=config.beta, surrogate=sl.surrogate.FastSigmoid(10.0)),
        nn.Linear(config.hidden, 10 * config.members),
        sl.Leaky(beta=config.beta, surrogate=sl.surrogate.FastSigmoid(10.0)),
    )


def scores(net: nn.Module, images: Tensor, config: Config) -> Tensor:
    """The number of spikes of each population, ``[B, 10]``."""
    return sl.decode.population(net(images, repeat=config.T), 10)


measures = runs.accuracy(scores)


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs; the target is that the label's population fires and no other neuron does."""
    loaders = run.load(data)
    net = run.place(build(config))
    optimiser = torch.optim.Adam(net.parameters(), lr=config.lr)
    run.keep(net=net, optimiser=optimiser)
    fast = run.graphed(net)
    for _ in run.epochs():
        for images, labels in run.steps(loaders.train):
            with run.autocast():
                spikes = fast(images, repeat=config.T)
            counts = sl.decode.population(spikes.float(), 10) / (config.T * config.members)  # the share that fires
            loss = nn.functional.mse_loss(counts, nn.functional.one_hot(labels, 10).float())
            optimiser.zero_grad()
            run.scaler.scale(loss).backward()
            run.scaler.step(optimiser)
            run.scaler.update()
            run.log(len(labels), loss=loss, accuracy=(counts.argmax(1) == labels).double().mean())
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    run.finish(net, **run.measure(net, loaders.test, measures, "test"))
    run.draw()
