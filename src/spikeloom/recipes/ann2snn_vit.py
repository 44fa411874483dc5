"""A small vision transformer is trained on images, and becomes a spiking network by messages.

    spikeloom train ann2snn-vit --dataset mnist --epochs 3
    spikeloom train ann2snn-vit --epochs 60 --width 192 --depth 6       CIFAR-10, a night on one core
    spikeloom convert runs/ann2snn-vit --method delta --levels 6 --T 2

Layer norms and attention are computed on the sums of what was sent so far, and send on what that changes by; GELU and
the linear layers see messages, each a sign and a power of two. ``delta_accuracy`` is that of the spiking network after
``delta_steps`` steps, ``curves.json`` has those after fewer, ``conversion.txt`` the error of each layer.

The network is that of Dosovitskiy et al., An image is worth 16x16 words, ICLR 2021, with the mean of all tokens before
the last layer in place of a token of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl
from spikeloom import runs
from spikeloom.data import transforms as t
from spikeloom.recipes import ann2snn_mnist, cifar10


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of network, training and conversion."""

    dataset: str = runs.option("cifar10", "images", choices=("cifar10", "cifar100", "fashion-mnist", "mnist", "digits"))
    epochs: int = 60
    batch_size: int = 128
    lr: float = 1e-3
    warmup: int = runs.option(1, "epochs in which the learning rate climbs", minimum=0)
    optimiser: str = runs.option("adamw", "optimiser", choices=("adamw", "sgd"))
    weight_decay: float = runs.option(0.05, "decay of linear layers", minimum=0.0)
    patch: int = runs.option(4, "side of the squares that are tokens, in pixels", minimum=1)
    width: int = runs.option(64, "values of a token", minimum=1)
    depth: int = runs.option(4, "blocks", minimum=1)
    heads: int = runs.option(4, "heads of attention", minimum=1)
    delta_steps: int = runs.option(4, "steps of the spiking network", minimum=1)
    levels: int = runs.option(8, "powers of two of the messages", minimum=1)
    calibration: int = runs.option(500, "training images by which scales are found", minimum=1)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """The images, those of CIFAR shifted and mirrored in training."""
    still = sl.data.describe(config.dataset).test_transform()  # type: ignore[attr-defined]  # in sets of arrays
    more = [t.RandomCrop(4), t.RandomFlip()] if config.dataset.startswith("cifar") else []
    return sl.data.loaders(
        config.dataset, test_batch_size=200, transforms=(nn.Sequential(*more, still), still), **loading
    )


class Block(nn.Module):
    """Attention and two linear layers, each behind a norm and beside a skip."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens ``[B, N, width]`` to the same shape."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return y


class ViT(nn.Module):
    """Images ``[B, C, H, W]`` to class scores."""

    def __init__(self, size: tuple[int, int, int], classes: int, config: Config) -> None:
        super().__init__()
        channels, height, width = size
        self.embed = nn.Conv2d(channels, config.width, config.patch, config.patch)
        self.place = nn.Parameter(
            0.02 * torch.randn(1, (height // config.patch) * (width // config.patch), config.width)
        )
        self.blocks = nn.Sequential(*(Block(config.width, config.heads) for _ in range(config.depth)))
        self.norm, self.head = nn.LayerNorm(config.width), nn.Linear(config.width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores ``[B, classes]``."""
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.place
        y: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return y


def build(config: Config) -> nn.Module:
    """The ordinary network for the images of the data set."""
    if config.width % config.heads:
        raise runs.ConfigError(f"heads must divide the width, {config.width}, got {config.heads}", setting="heads")
    described: Any = sl.data.describe(config.dataset)
    channels, height, width = map(int, described.sample.strip("[]").split(", "))
    return ViT((channels, height, width), len(described.classes), config)


scores, measures = ann2snn_mnist.scores, ann2snn_mnist.measures


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs, and converts."""
    loaders = run.load(data)
    net = run.place(build(config))
    optimiser, schedule = cifar10.learning(net, config, len(loaders.train))
    run.keep(net=net, optimiser=optimiser, schedule=schedule)
    for _ in run.epochs():
        for images, labels in run.steps(loaders.train):
            with run.autocast():
                y = net(images)
            loss = F.cross_entropy(y.float(), labels)
            optimiser.zero_grad()
            run.scaler.scale(loss).backward()
            run.scaler.step(optimiser)
            run.scaler.update()
            schedule.step()
            run.log(len(labels), loss=loss, accuracy=(y.argmax(1) == labels).double().mean())
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    figures = run.measure(net, loaders.test, measures, "test")
    methods = {"delta": (sl.convert.Delta(levels=config.levels), config.delta_steps)}
    run.finish(net, **figures, **ann2snn_mnist.conversions(net, run, loaders, methods, config.calibration))
