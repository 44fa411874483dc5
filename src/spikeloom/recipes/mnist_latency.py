"""MNIST in first-spike coding: every pixel fires once, the brighter the earlier, and the first output to fire decides.

    spikeloom train mnist-latency

The loss is the cross entropy of the negative first spike times. Backward, an earlier spike is a higher membrane at that
step; an output that is silent is asked for at the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import spikeloom as sl
from spikeloom import runs


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of coding and network."""

    epochs: int = 5
    T: int = runs.option(16, "steps per image", minimum=2)
    hidden: int = runs.option(256, "hidden neurons", minimum=1)
    beta: float = runs.option(0.95, "decay of the membranes per step", above=0.0, maximum=1.0)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """MNIST."""
    return sl.data.loaders("mnist", test_batch_size=500, **loading)


def build(config: Config) -> sl.Network:
    """The network: spikes ``[T, B, 784]`` to spikes ``[T, B, 10]``."""
    return sl.Network(
        nn.Linear(784, config.hidden),
        sl.Leaky(beta=config.beta, surrogate=sl.surrogate.FastSigmoid(10.0)),
        nn.Linear(config.hidden, 10),
        sl.Leaky(beta=config.beta, surrogate=sl.surrogate.FastSigmoid(10.0)),
    )


def spikes(net: nn.Module, images: Tensor, config: Config) -> Tensor:
    """Output spikes ``[T, B, 10]``. Dark pixels stay silent."""
    coded = sl.encode.latency(images.flatten(1), config.T, threshold=0.1, clip=True)
    outputs: Tensor = net(coded)
    return outputs


def scores(net: nn.Module, images: Tensor, config: Config) -> Tensor:
    """Negative first spike times ``[B, 10]``; of outputs that fire first together, the more active one is higher."""
    outputs = spikes(net, images, config)
    return sl.decode.rate(outputs) / 2 - sl.decode.first_spike(outputs)


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
                outputs = spikes(fast, images, config)
            loss = sl.loss.first_spike_cross_entropy(outputs.float(), labels)
            optimiser.zero_grad()
            run.scaler.scale(loss).backward()
            run.scaler.step(optimiser)
            run.scaler.update()
            run.log(len(labels), loss=loss, accuracy=sl.metrics.accuracy_first_spike(outputs, labels))
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    run.finish(net, **run.measure(net, loaders.test, measures, "test"))
    run.draw(partial(pictures, runs.unwrap(net), loaders.test, config, run.device))


def pictures(net: nn.Module, test: sl.data.Loader, config: Config, device: torch.device) -> dict[str, Any]:
    """The input and the output spikes of one test image."""
    from spikeloom import plot

    images, labels = next(iter(test))
    net.eval()
    with torch.no_grad():
        coded = sl.encode.latency(images[:1].flatten(1), config.T, threshold=0.1, clip=True)
        outputs = spikes(net, images[:1].to(device), config)
    raster, (first, second) = plot.figure(2)
    plot.raster(coded[:, 0], max_neurons=784, ax=first, title=f"pixels of a {int(labels[0])}, one spike each")
    plot.raster(outputs[:, 0], ax=second, title="outputs; the first one decides")
    return {"raster": raster}
