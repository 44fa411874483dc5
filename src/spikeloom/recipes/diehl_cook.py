"""MNIST without labels: one layer whose neurons compete, learn by STDP, and are named afterwards.

    spikeloom train diehl-cook

After Diehl and Cook, Unsupervised Learning of Digit Recognition Using Spike-Timing-Dependent Plasticity, Frontiers in
Computational Neuroscience 9, 2015, with these simplifications: inhibition is so strong that the first neuron to fire
silences the others for the rest of an image, so that all steps run in one kernel; a spike after the layer potentiates
by the trace of the last spike before it, and one before it depresses by a hundredth; weights change once a batch; and
thresholds move by homeostasis to a number of spikes per image, in place of growing with each spike and decaying.

Neurons are named by their responses to training images, and the winner's name is the answer.
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

from ._limits import one_process, whole_precision


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of coding, neurons and rule."""

    epochs: int = 1
    batch_size: int = 8
    lr: float = 3e-2
    T: int = runs.option(100, "steps per image, 1 ms each", minimum=1)
    neurons: int = runs.option(100, "neurons that compete", minimum=1)
    rate: float = runs.option(0.064, "spikes per step of a white pixel", above=0.0, maximum=1.0)
    wanted: float = runs.option(3.0, "spikes of the layer per image to which thresholds move", above=0.0)
    step: float = runs.option(0.2, "what a spike adds to a threshold", minimum=0.0)
    naming: int = runs.option(10000, "training images by whose responses neurons are named", minimum=1)


class Competing(nn.Module):
    """The layer: ``layer`` from pixels to ``neuron``, of which the first to fire wins; ``names`` are their classes."""

    names: Tensor

    def __init__(self, neurons: int) -> None:
        super().__init__()
        self.layer = nn.Linear(784, neurons, bias=False)
        nn.init.uniform_(self.layer.weight, 0.0, 0.3)
        threshold = nn.Parameter(torch.full((neurons,), 33.0), requires_grad=False)  # in mV above rest
        lif = sl.LIF(tau=100.0, decay_input=False, v_threshold=threshold, v_reset=5.0, v_leak=0.0)
        self.neuron = sl.options.Refractory(lif, steps=5)
        self.register_buffer("names", torch.zeros(neurons, dtype=torch.int64))

    def forward(self, spikes: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes of the winners ``[T, B, neurons]`` for input spikes ``[T, B, 784]``, and who won, ``[B]``."""
        fired, _ = self.neuron.sequence(self.layer(spikes))
        first = sl.decode.first_spike(fired)
        winner = (first + 0.5 * torch.rand_like(first)).argmin(1)  # of those that fire in the same step, any
        return fired * F.one_hot(winner, fired.shape[2]).to(fired.dtype), winner


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """MNIST."""
    return sl.data.loaders("mnist", test_batch_size=250, **loading)


def build(config: Config) -> Competing:
    """The layer, with weights that sum to 78.4 for each neuron."""
    net = Competing(config.neurons)
    sl.learn.apply(net.layer, torch.zeros_like(net.layer.weight), lr=0.0, norm=78.4)
    return net


def coded(images: Tensor, config: Config) -> Tensor:
    """Spikes ``[T, B, 784]``."""
    return sl.encode.poisson(images.flatten(1), config.T, gain=config.rate)


def scores(net: Any, images: Tensor, config: Config) -> Tensor:
    """One for the class of the winner, ``[B, 10]``."""
    _, winner = net(coded(images, config))
    return F.one_hot(net.names[winner], 10).float()


measures = runs.accuracy(scores)


@torch.no_grad()
def name(net: Competing, train: Any, config: Config, device: torch.device) -> None:
    """Names each neuron by the class of training images to which it fires most in the mean."""
    responses, counts = torch.zeros(10, config.neurons, device=device), torch.zeros(10, device=device)
    for images, labels in train:
        images, labels = images.to(device), labels.to(device)
        spikes, _ = net(coded(images, config))
        responses.index_add_(0, labels, spikes.sum(0).float())
        counts += labels.bincount(minlength=10)
        if counts.sum() >= config.naming:
            break
    net.names.copy_((responses / counts.clamp(min=1).unsqueeze(1)).argmax(0))


@torch.no_grad()
def train(config: Config, run: runs.Run) -> None:
    """Shows the images for ``config.epochs`` epochs, then names the neurons."""
    one_process(run)
    whole_precision(run)
    loaders = run.load(data)
    net: Any = run.place(build(config))
    run.keep(net=net)
    rule = sl.learn.STDP(a_pre=0.01, pairing="nearest", decay="exponential", coincident="potentiate")
    per_batch = config.batch_size * config.T
    rate = config.wanted / (config.neurons * config.T)
    keeper = sl.learn.Homeostasis(net.neuron, rate=rate, step=config.step * per_batch, low=6.0)
    for _ in run.epochs():
        for images, labels in run.steps(loaders.train):
            spikes = coded(images, config)
            winners, who = net(spikes)
            dw, _ = rule.sequence(net.layer, spikes, winners)
            sl.learn.apply(net.layer, dw, lr=config.lr, low=0.0, high=1.0, norm=78.4)
            keeper.update(winners)
            seen = images.flatten(1) / images.sum((1, 2, 3)).view(-1, 1) * 78.4
            distance = (net.layer.weight[who] - seen).square().sum(1).mean()  # of an image from its winner's weights
            run.log(len(labels), loss=distance, spikes=winners.sum() / len(labels))
    name(net, loaders.train, config, run.device)
    run.finish(net, **run.measure(net, loaders.test, measures, "test"))
    run.draw(partial(pictures, runs.unwrap(net)))


def pictures(net: Any) -> dict[str, Any]:
    """The weights of the first hundred neurons as images."""
    from spikeloom import plot

    weights = net.layer.weight[:100].view(-1, 28, 28)
    ax = plot.feature_maps(weights, columns=10, max_channels=100, label="weight", title="weights of the first neurons")
    return {"weights": ax.figure}
