"""MNIST by spike times and ten tempotrons: the one with the highest peak names the digit.

    spikeloom train mnist-tempotron

Each pixel is coded by neurons with Gaussian tuning, which fire once, the nearer their centre the earlier. A tempotron
decides by whether its largest voltage reaches the threshold; the rule moves the weights of those that decide wrongly by
the kernels at the time of the peak. SpikingJelly's example has 16 neurons a pixel and 100 steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import spikeloom as sl
from spikeloom import runs

from ._limits import whole_precision


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of coding and neurons."""

    epochs: int = 3
    batch_size: int = 64
    lr: float = 3e-4
    T: int = runs.option(20, "steps per image", minimum=2)
    members: int = runs.option(8, "neurons that code a pixel", minimum=3)
    tau: float = runs.option(3.0, "membrane time constant in steps; that of the synapse is a quarter", above=0.0)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """MNIST."""
    return sl.data.loaders("mnist", test_batch_size=500, **loading)


def build(config: Config) -> nn.Module:
    """The tempotrons: spikes ``[T, B, 784 members]`` to the peaks of ten voltages, ``[B, 10]``."""
    return sl.learn.Tempotron(784 * config.members, 10, tau=config.tau, tau_syn=config.tau / 4)


def scores(net: nn.Module, images: Tensor, config: Config) -> Tensor:
    """The peaks ``[B, 10]``."""
    peaks: Tensor = net(sl.encode.gaussian_tuning(images.flatten(1), config.T, neurons=config.members))
    return peaks


measures = runs.accuracy(scores)


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs."""
    whole_precision(run)
    loaders = run.load(data)
    net = run.place(build(config))
    optimiser = torch.optim.Adam(net.parameters(), lr=config.lr)
    run.keep(net=net, optimiser=optimiser)
    for _ in run.epochs():
        for images, labels in run.steps(loaders.train):
            peaks = scores(net, images, config)
            loss = sl.learn.tempotron_loss(peaks, labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            run.log(len(labels), loss=loss, accuracy=(peaks.argmax(1) == labels).double().mean())
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    run.finish(net, **run.measure(net, loaders.test, measures, "test"))
    run.draw()
