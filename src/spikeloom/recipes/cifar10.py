"""Any network of ``spikeloom list models`` on CIFAR-10, or on another set of small images.

    spikeloom train cifar10 --model sew_resnet18
    spikeloom train cifar10 --model spiking_vgg5_bn --neuron LIF --epochs 20
    spikeloom train cifar10 --dataset fashion-mnist --model csnn_28x28 --crop 2

The image is presented at each of T steps, so that what stands before the first neuron is computed once. A tenth of the
training images is held out and measured after each epoch; the last epoch counts, the test set is used once, after it.
Who compares with published figures trains on all images, with --validation 0. The learning rate belongs to the batch
size, climbs for some epochs and falls to 0 along half a cosine; norms, biases and neurons have no weight decay. The run
has a folder ``model`` in the end, for ``sl.models.load``, which asks for neurons that are not those of the paper.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl
from spikeloom import runs
from spikeloom.data import transforms as t

NEURONS: dict[str, Any] = {"IF": sl.IF, "LIF": sl.LIF, "PLIF": sl.PLIF}
SURROGATES = ("paper", "ATan", "Sigmoid", "PiecewiseQuadratic", "Rect")


@dataclass(frozen=True, kw_only=True)
class Base(runs.Config):
    """Settings of network, loss and optimiser, for images and for events."""

    epochs: int = 100
    batch_size: int = 128
    lr: float = runs.option(0.1, "highest learning rate, for batches of --batch-size", above=0.0, maximum=1e6)
    validation: float = 0.1
    model: str = runs.option("sew_resnet18", "network, a name of: spikeloom list models", names=sl.models.names)
    T: int = runs.option(4, "steps per sample", minimum=1)
    neuron: str = runs.option("paper", "neurons; paper: those of the model's authors", choices=("paper", *NEURONS))
    tau: float = runs.option(2.0, "time constant of --neuron LIF and PLIF, in steps", above=1.0)
    surrogate: str = runs.option("paper", "surrogate gradient; paper: the neurons' own", choices=SURROGATES)
    scale: float = runs.option(2.0, "scale of --surrogate: its steepness", above=0.0)
    packed: bool = runs.option(True, "spikes of one bit each; no: of 32")
    loss: str = runs.option("mean", "cross entropy of the mean over steps, or of each (tet)", choices=("mean", "tet"))
    lamb: float = runs.option(0.05, "share of the term that --loss tet has beside", minimum=0.0, maximum=1.0)
    label_smoothing: float = runs.option(0.1, "share of the target that all classes have", minimum=0.0, maximum=1.0)
    optimiser: str = runs.option("sgd", "SGD with Nesterov's momentum of 0.9, or AdamW", choices=("sgd", "adamw"))
    weight_decay: float = runs.option(5e-4, "decay of convolutions and linear layers", minimum=0.0)
    warmup: int = runs.option(5, "epochs in which the learning rate climbs", minimum=0)


@dataclass(frozen=True, kw_only=True)
class Config(Base):
    """Settings of data and augmentation."""

    dataset: str = runs.option("cifar10", "images", choices=("cifar10", "cifar100", "fashion-mnist", "mnist", "digits"))
    crop: int = runs.option(4, "pixels by which training images are shifted at most", minimum=0)
    flip: bool = runs.option(True, "mirror half of the training images")
    autoaugment: bool = runs.option(False, "the pairs of operations found for CIFAR-10")
    cutout: int = runs.option(0, "side of a square that is left out of training images", minimum=0)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """The images: shifted and mirrored in training, more if asked for, and normalised as their set has it."""
    still = sl.data.describe(config.dataset).test_transform()  # type: ignore[attr-defined]  # in sets of arrays
    train = [
        *([t.AutoAugment()] if config.autoaugment else []),
        *([t.RandomCrop(config.crop)] if config.crop else []),
        *([t.RandomFlip()] if config.flip else []),
        still,
        *([t.Cutout(config.cutout)] if config.cutout else []),
    ]
    return sl.data.loaders(config.dataset, test_batch_size=250, transforms=(nn.Sequential(*train), still), **loading)


def network(config: Base, **options: Any) -> sl.Network:
    """A network of the model, with those of the options that it has, and with the neurons that were chosen."""
    known, options["T"] = sl.models.info(config.model).options, config.T
    if config.neuron != "paper":
        tau = {} if config.neuron == "IF" else {"tau": config.tau}
        options["neuron"] = functools.partial(NEURONS[config.neuron], detach_reset=True, **tau)
    model = sl.models.create(config.model, **{name: value for name, value in options.items() if name in known})
    if config.surrogate != "paper":
        for neuron in (m for m in model.modules() if isinstance(m, sl.Neuron)):
            neuron.surrogate = getattr(sl.surrogate, config.surrogate)(config.scale)
        model.built = model.built and model.built._replace(own_neuron=True)  # so that load asks for them
    net = sl.Network(model, spikes="packed" if config.packed else "dense")
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # is faster for layers between steps
    return net


def build(config: Config) -> sl.Network:
    """The network: images ``[B, C, H, W]`` with ``repeat=T`` to outputs ``[T, B, classes]``."""
    described: Any = sl.data.describe(config.dataset)
    channels, *size = map(int, described.sample.strip("[]").split(", "))
    options = {"stem": "cifar", "head": "light", "size": tuple(size), "num_classes": len(described.classes)}
    return network(config, in_channels=channels, **options)


def scores(net: nn.Module, images: Tensor, config: Config) -> Tensor:
    """The mean of the outputs over time, ``[B, classes]``."""
    outputs: Tensor = net(images, repeat=config.T)
    return outputs.float().mean(0)


measures = runs.accuracy(scores)


def loss_of(outputs: Tensor, labels: Tensor, config: Base) -> Tensor:
    """The loss of outputs ``[T, B, classes]``."""
    if config.loss == "tet":
        return sl.loss.tet(outputs.float(), labels, lamb=config.lamb, label_smoothing=config.label_smoothing)
    return F.cross_entropy(outputs.float().mean(0), labels, label_smoothing=config.label_smoothing)


def learning(
    net: nn.Module, config: Any, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """The optimiser and the schedule of its learning rate, for epochs of so many steps; SGD if not asked otherwise."""
    decayed = {True: config.weight_decay, False: 0.0}
    groups = [
        {"params": [p for p in net.parameters() if (p.ndim > 1) == k], "weight_decay": decayed[k]} for k in decayed
    ]
    if getattr(config, "optimiser", "sgd") == "sgd":
        optimiser: torch.optim.Optimizer = torch.optim.SGD(groups, config.lr, momentum=0.9, nesterov=True)
    else:
        optimiser = torch.optim.AdamW(groups, config.lr)
    climb, end = int(config.warmup * steps), int(config.epochs * steps)

    def share(step: int) -> float:
        if step < climb:
            return (step + 1) / climb
        return (1 + math.cos(math.pi * min((step - climb) / max(end - climb, 1), 1.0))) / 2

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, share)


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs, measures once, and writes the model."""
    loaders = run.load(data)
    net = run.place(build(config))
    optimiser, schedule = learning(net, config, len(loaders.train))
    run.keep(net=net, optimiser=optimiser, schedule=schedule)
    fast = run.graphed(net)
    for _ in run.epochs():
        for images, labels in run.steps(loaders.train):
            with run.autocast():
                outputs = fast(images, repeat=config.T)
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


def write(net: nn.Module, run: runs.Run, loaders: sl.data.Loaders) -> None:
    """Writes the trained model with all that is known of it into the folder ``model`` of the run."""
    if run.processes.first:
        facts = {"selected": "last epoch", "split": loaders.split, "commit": runs.commit()}
        sl.models.save(runs.unwrap(net), run.out / "model", facts={**run.result, **asdict(run.config), **facts})
