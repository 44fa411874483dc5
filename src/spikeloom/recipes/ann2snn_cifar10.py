"""An ordinary ResNet-20 is trained on CIFAR-10, and becomes spiking networks without further training.

    spikeloom train ann2snn-cifar10
    spikeloom train ann2snn-cifar10 --epochs 8 --warmup 1 --amp bfloat16      what a core trains in a quarter of an hour
    spikeloom train ann2snn-cifar10 --activation qcfs --levels 8       with the staircase that T = 8 steps of rates give
    spikeloom convert runs/ann2snn-cifar10 --method exact --levels 7 --T 56

The weights of the run are those of the ordinary network. ``calibrated_accuracy`` and ``delta_accuracy`` are those of
two spiking networks made of it, by rates that are calibrated for T steps and by messages of powers of two in
``delta_steps`` steps. ``conversion.txt`` has the error of each layer, ``curves.json`` the accuracies after fewer steps.

The network is that of He et al., Deep residual learning for image recognition, CVPR 2016, section 4.2, with 1 x 1
convolutions where a block changes the number of channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import spikeloom as sl
from spikeloom import runs
from spikeloom.data import transforms as t
from spikeloom.recipes import ann2snn_mnist, cifar10


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of training and conversion."""

    epochs: int = 100
    batch_size: int = 128
    lr: float = 0.1
    weight_decay: float = runs.option(5e-4, "decay of convolutions and linear layers", minimum=0.0)
    warmup: int = runs.option(5, "epochs in which the learning rate climbs", minimum=0)
    activation: str = runs.option("relu", "activation that is trained with", choices=("relu", "qcfs"))
    levels: int = runs.option(8, "levels of --activation qcfs", minimum=1)
    T: int = runs.option(16, "steps of the network that codes by rates", minimum=1)
    delta_steps: int = runs.option(4, "steps of the network that sends messages", minimum=1)
    calibration: int = runs.option(500, "training images by which thresholds are found", minimum=1)
    channels: int = runs.option(16, "channels of the first convolution", minimum=1)
    blocks: int = runs.option(3, "residual blocks of each of the three stages", minimum=1)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """CIFAR-10, shifted and mirrored in training."""
    still = sl.data.describe("cifar10").test_transform()  # type: ignore[attr-defined]  # in sets of arrays
    train = nn.Sequential(t.RandomCrop(4), t.RandomFlip(), still)
    return sl.data.loaders("cifar10", test_batch_size=100, transforms=(train, still), **loading)


class Block(nn.Module):
    """Two convolutions beside a skip."""

    def __init__(self, into: int, out: int, stride: int, config: Config) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.norm2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.act1, self.act2 = activation(config), activation(config)
        self.skip: nn.Module = nn.Identity()
        if into != out:
            self.skip = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[B, C, H, W]`` to ``[B, out, H / stride, W / stride]``."""
        y = self.act1(self.norm1(self.conv1(x)))
        z: Tensor = self.act2(self.norm2(self.conv2(y)) + self.skip(x))
        return z


def activation(config: Config) -> nn.Module:
    """The activation of one place."""
    return nn.ReLU() if config.activation == "relu" else sl.convert.QCFS(config.levels, scale=2.0)


def build(config: Config) -> nn.Module:
    """The ordinary network: images ``[B, 3, 32, 32]`` to class scores ``[B, 10]``."""
    c = config.channels
    stem = [nn.Conv2d(3, c, 3, padding=1, bias=False), nn.BatchNorm2d(c), activation(config)]
    sizes = [(c, c, 1), (c, 2 * c, 2), (2 * c, 4 * c, 2)]
    stages = [
        nn.Sequential(Block(into, out, stride, config), *(Block(out, out, 1, config) for _ in range(config.blocks - 1)))
        for into, out, stride in sizes
    ]
    net = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * c, 10))
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # faster on a CPU


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
                y = net(images.contiguous(memory_format=torch.channels_last))
            loss = cross_entropy(y.float(), labels)
            optimiser.zero_grad()
            run.scaler.scale(loss).backward()
            run.scaler.step(optimiser)
            run.scaler.update()
            schedule.step()
            run.log(len(labels), loss=loss, accuracy=(y.argmax(1) == labels).double().mean())
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    figures = run.measure(net, loaders.test, measures, "test")
    methods = {
        "calibrated": (sl.convert.Calibrated(T=config.T), config.T),
        "delta": (sl.convert.Delta(), config.delta_steps),
    }
    run.finish(net, **figures, **ann2snn_mnist.conversions(net, run, loaders, methods, config.calibration))
