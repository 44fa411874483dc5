"""A convolutional SNN on scikit-learn's handwritten digits (1,797 real images of 8x8 pixels): the demo.

    spikeloom train digits                 seed 0, into runs/digits
    spikeloom train digits --seeds 5       five seeds and their mean

The image is presented at every step (direct coding), so the first convolution and its batch norm are computed
once. The output neurons integrate without firing; at every step their membranes shall name the digit. Training
takes a fixed number of epochs, and the accuracy is that of the last one on 360 held-out images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import spikeloom as sl
from spikeloom import runs

HIDDEN = {"conv 1": "2", "conv 2": "5"}  # titles of the layers that spike, and their paths in the network


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of the demo."""

    epochs: int = 18
    batch_size: int = 48
    lr: float = 4e-3
    T: int = runs.option(6, "steps per image", minimum=1)
    channels: int = runs.option(24, "channels of the first convolution; the second has twice as many", minimum=1)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """1,437 images to train on and 360 to test, stratified by the seed."""
    return sl.data.loaders("digits", test_batch_size=360, **loading)


def build(config: Config) -> sl.Network:
    """The network: images ``[B, 1, 8, 8]`` with ``repeat=T`` to membranes ``[T, B, 10]``."""
    c = config.channels
    return sl.Network(
        nn.Conv2d(1, c, 3, padding=1, bias=False),
        nn.BatchNorm2d(c),
        sl.LIF(tau=2.0, surrogate=sl.surrogate.ATan(2.0)),
        nn.Conv2d(c, 2 * c, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * c),
        sl.LIF(tau=2.0, surrogate=sl.surrogate.ATan(2.0)),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(2 * c * 16, 10),
        sl.LI(tau=2.0),
    )


def scores(net: nn.Module, images: Tensor, config: Config) -> Tensor:
    """Mean membrane of each class, ``[B, 10]``."""
    membranes: Tensor = net(images, repeat=config.T)
    return membranes.mean(0)


measures = runs.accuracy(scores)


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs."""
    loaders = run.load(data)
    net = run.place(build(config))
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=1e-2)
    steps = config.epochs * len(loaders.train)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, total_steps=steps)
    run.keep(net=net, optimiser=optimiser, schedule=schedule)
    fast = run.graphed(net)
    for _ in run.epochs():
        for images, labels in run.steps(loaders.train):
            with run.autocast():
                membranes = fast(images, repeat=config.T)
                loss = sl.loss.rate_cross_entropy(membranes, labels)
            optimiser.zero_grad()
            run.scaler.scale(loss).backward()
            run.scaler.step(optimiser)
            run.scaler.update()
            schedule.step()
            run.log(len(labels), loss=loss, accuracy=sl.metrics.accuracy_rate(membranes, labels))
        # These figures are only shown: nothing is chosen by them, and the last epoch counts.
        run.report(**run.measure(net, loaders.validation or loaders.test, measures, "held_out"))
    run.finish(net, **run.measure(net, loaders.test, measures, "test"))
    run.draw(partial(pictures, runs.unwrap(net), loaders.test, config, run.device))


def pictures(net: nn.Module, test: sl.data.Loader, config: Config, device: torch.device) -> dict[str, Any]:
    """Spikes of one test image and its class's membranes, and how often neurons fire on all test images."""
    from spikeloom import plot

    images, labels = next(iter(test))
    net.eval()
    with torch.no_grad():
        wanted = tuple(f"{path}.output" for path in HIDDEN.values())
        membranes, result = net(images.to(device), repeat=config.T, record=wanted)
    spikes = {layer: result.record[f"{path}.output"].float() for layer, path in HIDDEN.items()}
    digit = int(labels[0])
    raster, (first, *others) = plot.figure(widths=(1.0, *(1.6 for _ in spikes)), width=9.0)
    plot.feature_maps(images[0], label=None, ax=first, title=f"a test image of a {digit}")
    maps, rows = plot.figure(len(spikes), height=2.6)
    for ax, row, (layer, s) in zip(others, rows, spikes.items(), strict=True):
        plot.raster(s[:, 0], ax=ax, title=layer)
        title = f"{layer}: spikes in {config.T} steps at a {digit}, by channel"
        plot.feature_maps(s[:, 0].sum(0), label="spikes", ax=row, title=title)
    traces, (ax,) = plot.figure()
    title = f"membranes of the output neurons at a test image of a {digit}"
    plot.traces(membranes[:, 0], highlight=digit, ax=ax, title=title)
    shares = {layer: s.mean((0, 1)) for layer, s in spikes.items()}
    rates = plot.firing_rates(shares, title=f"firing rates on {len(labels)} test images").figure
    return {"raster": raster, "maps": maps, "membranes": traces, "rates": rates}
