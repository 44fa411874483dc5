"""MNIST through a bottleneck of spikes and back: a convolutional spiking autoencoder.

    spikeloom train autoencoder
    spikeloom train autoencoder --latent 16 --T 8

The encoder ends in ``latent`` LIF neurons: an image has to pass through ``T * latent`` bits. The decoder's last layer
integrates without firing, and the mean of its membrane over time is the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl
from spikeloom import runs


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of the network."""

    epochs: int = 5
    lr: float = 2e-3
    T: int = runs.option(5, "steps per image", minimum=1)
    latent: int = runs.option(32, "neurons of the bottleneck", minimum=1)
    channels: int = runs.option(16, "channels of the outer convolutions; the inner ones have twice as many", minimum=1)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """MNIST, whose labels are not used."""
    return sl.data.loaders("mnist", test_batch_size=200, **loading)


def build(config: Config) -> sl.Network:
    """The network: images ``[B, 1, 28, 28]`` with ``repeat=T`` to membranes ``[T, B, 1, 28, 28]``."""

    def lif() -> sl.LIF:
        return sl.LIF(tau=2.0, surrogate=sl.surrogate.ATan(2.0))

    c = config.channels
    return sl.Network(
        nn.Conv2d(1, c, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(c), lif(),
        nn.Conv2d(c, 2 * c, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * c), lif(),
        nn.Flatten(), nn.Linear(2 * c * 49, config.latent, bias=False), nn.BatchNorm1d(config.latent), lif(),
        nn.Linear(config.latent, 2 * c * 49, bias=False), nn.BatchNorm1d(2 * c * 49), lif(),
        nn.Unflatten(1, (2 * c, 7, 7)),
        nn.ConvTranspose2d(2 * c, c, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(c), lif(),
        nn.ConvTranspose2d(c, 1, 4, stride=2, padding=1), sl.LI(tau=2.0),
    )  # fmt: skip


def reconstruct(net: nn.Module, images: Tensor, config: Config) -> Tensor:
    """Pictures ``[B, 1, 28, 28]``: the mean membrane, squeezed between 0 and 1."""
    return torch.sigmoid(sl.decode.membrane(net(images, repeat=config.T), "mean"))


def measures(net: nn.Module, images: Tensor, labels: Tensor, config: Config) -> dict[str, Tensor]:
    """Mean squared error of each picture."""
    return {"mse": (reconstruct(net, images, config) - images).square().flatten(1).mean(1)}


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs."""
    loaders = run.load(data)
    net = run.place(build(config))
    optimiser = torch.optim.Adam(net.parameters(), lr=config.lr)
    run.keep(net=net, optimiser=optimiser)
    fast = run.graphed(net)
    for _ in run.epochs():
        for images, _labels in run.steps(loaders.train):
            with run.autocast():
                pictures = reconstruct(fast, images, config)
            loss = F.mse_loss(pictures.float(), images)
            optimiser.zero_grad()
            run.scaler.scale(loss).backward()
            run.scaler.step(optimiser)
            run.scaler.update()
            run.log(len(images), loss=loss)
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    run.finish(net, **run.measure(net, loaders.test, measures, "test"))
    run.draw(partial(drawn, runs.unwrap(net), loaders.test, config, run.device))


def drawn(net: nn.Module, test: sl.data.Loader, config: Config, device: torch.device) -> dict[str, Any]:
    """Ten test images, with their reconstructions below."""
    from spikeloom import plot

    images = next(iter(test))[0][:10].to(device)
    net.eval()
    with torch.no_grad():
        both = torch.cat([images, reconstruct(net, images, config)]).squeeze(1)
    title = f"test images, and what is left of them after {config.T} x {config.latent} bits"
    return {"reconstructions": plot.images(both, columns=10, title=title)}
