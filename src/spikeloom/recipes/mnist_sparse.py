"""MNIST with few synapses: conv - LIF - conv - LIF, then sparse layers 36864 - 128 - 10, all spikes of one bit each.

    spikeloom train mnist-sparse
    spikeloom train mnist-sparse --density 0.02      a fiftieth of the synapses

The network of SNNGrow's tutorial on sparse synapses. Between the layers spikes are bits: the backward pass keeps a
thirty-second of what float32 would take, and the sparse layers are computed from them.
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
    """Settings of the network."""

    T: int = runs.option(4, "steps per image", minimum=1)
    channels: int = runs.option(32, "channels of the first convolution; the second has twice as many", minimum=1)
    hidden: int = runs.option(128, "neurons of the hidden layer", minimum=1)
    density: float = runs.option(0.1, "share of the synapses of the sparse layers that exist", above=0.0, maximum=1.0)
    packed: bool = runs.option(True, "spikes of one bit each; no: of 32")


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """MNIST."""
    return sl.data.loaders("mnist", test_batch_size=200, **loading)


def build(config: Config) -> sl.Network:
    """The network: images ``[B, 1, 28, 28]`` with ``repeat=T`` to membranes ``[T, B, 10]``."""

    def lif() -> sl.LIF:
        return sl.LIF(decay_input=False, v_threshold=0.3)

    c = config.channels
    return sl.Network(
        nn.Conv2d(1, c, 3), lif(),
        nn.Conv2d(c, 2 * c, 3), lif(), nn.Flatten(),
        sl.nn.SparseLinear(2 * c * 24 * 24, config.hidden, density=config.density), lif(),
        sl.nn.SparseLinear(config.hidden, 10, density=max(config.density, 0.5), seed=1),
        spikes="packed" if config.packed else "dense",
    )  # fmt: skip


def scores(net: nn.Module, images: Tensor, config: Config) -> Tensor:
    """The mean of the last layer over time, ``[B, 10]``."""
    scored: Tensor = net(images, repeat=config.T).mean(0)
    return scored


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
                scored = scores(fast, images, config).float()
            loss = nn.functional.cross_entropy(scored, labels)
            optimiser.zero_grad()
            run.scaler.scale(loss).backward()
            run.scaler.step(optimiser)
            run.scaler.update()
            schedule.step()
            run.log(len(labels), loss=loss, accuracy=(scored.argmax(1) == labels).double().mean())
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    run.finish(net, **run.measure(net, loaders.test, measures, "test"))
    run.draw()
