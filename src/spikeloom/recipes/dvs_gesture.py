"""Any network of ``spikeloom list models`` on DVS128 Gesture: recordings as frames of counted events.

    spikeloom train dvs-gesture
    spikeloom train dvs-gesture --model plif_dvsgesture --T 20 --amp float16
    spikeloom train dvs-gesture --model spiking_vgg9_bn --size 64

Each recording becomes T frames with equally many events, which are scaled to --size pixels a side and, in training,
shifted. They are not mirrored: a right hand would become a left one. The split is the authors' (23 people to train on,
6 others to test); of the training recordings a tenth is held out and measured after each epoch, of people who are also
trained on. The last epoch counts, and the test set is used once, after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

import spikeloom as sl
from spikeloom import runs
from spikeloom.data import events

from .cifar10 import Base, learning, loss_of, network, write

SIDE = 128
"""Pixels of the camera, in each direction."""


@dataclass(frozen=True, kw_only=True)
class Config(Base):
    """Settings of frames and augmentation."""

    dataset: ClassVar[str] = "dvs128-gesture"

    batch_size: int = 16
    lr: float = 1e-3
    optimiser: str = "adamw"
    model: str = "sew_resnet_dvsgesture"
    T: int = 16
    size: int = runs.option(SIDE, "height and width to which the camera's pixels are scaled", minimum=1, maximum=SIDE)
    by: str = runs.option("count", "frames of equally many events, or of equal time", choices=("count", "time"))
    shift: int = runs.option(8, "pixels of the camera by which training recordings are shifted at most", minimum=0)
    flip: bool = runs.option(False, "mirror half of the training recordings")
    nda: bool = runs.option(False, "mirror, and shift, turn, cut or shear each training recording (NDA)")
    partial: bool = runs.option(False, "take what is there of the data set, for trials")


@dataclass(frozen=True)
class Scaled:
    """Makes frames ``[T, 2, size, size]`` of a recording."""

    steps: int
    by: Any
    size: int
    ragged = False

    def __call__(self, recording: sl.data.Recording) -> Tensor:
        if self.size != SIDE:
            recording = events.augment.Resize((self.size, self.size))(recording)
        return sl.data.Frames(steps=self.steps, by=self.by)(recording)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """The recordings as frames ``[T, B, 2, size, size]``."""
    drawn: list[Any] = [events.augment.Roll(config.shift)] if config.shift else []
    drawn += [events.augment.Flip("x")] if config.flip else []
    drawn += [events.augment.NDA()] if config.nda else []
    return sl.data.loaders(
        config.dataset,
        frames=Scaled(config.T, config.by, config.size),
        options=sl.data.Options(augment=events.augment.Compose(drawn) if drawn else None, partial=config.partial),
        batch_first=False,
        **loading,
    )


def build(config: Config) -> sl.Network:
    """The network: frames ``[T, B, 2, size, size]`` to outputs ``[T, B, classes]``."""
    classes = {"dvs128-gesture": 11, "cifar10-dvs": 10}[config.dataset]
    side = (config.size, config.size)
    return network(config, num_classes=classes, in_channels=2, stem="dvs", head="light", size=side)


def scores(net: nn.Module, frames: Tensor, config: Config) -> Tensor:
    """The mean of the outputs over time, ``[B, classes]``."""
    outputs: Tensor = net(frames)
    return outputs.float().mean(0)


measures = runs.accuracy(scores)


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs, measures once, and writes the model."""
    loaders = run.load(data)
    net = run.place(build(config))
    optimiser, schedule = learning(net, config, len(loaders.train))
    run.keep(net=net, optimiser=optimiser, schedule=schedule)
    fast = run.graphed(net)
    for _ in run.epochs():
        for frames, labels in run.steps(loaders.train):
            with run.autocast():
                outputs = fast(frames)
            loss = loss_of(outputs, labels, config)
            optimiser.zero_grad()
            run.scaler.scale(loss).backward()
            run.scaler.step(optimiser)
            run.scaler.update()
            schedule.step()
            run.log(len(labels), loss=loss, accuracy=(outputs.mean(0).argmax(1) == labels).double().mean())
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    run.finish(net, **run.measure(net, loaders.test, measures, "test"))
    write(net, run, loaders)
    run.draw()
