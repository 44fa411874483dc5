"""Braille letters by e-prop: one recurrent layer of adaptive neurons, whose gradients are computed forward in time.

    spikeloom train braille-eprop
    spikeloom train braille-eprop --feedback random
    spikeloom train braille-eprop --method bptt          the same network by backpropagation through time

Every synapse carries an eligibility, the derivative of its neuron's states by its weight; at each step the error of the
read-out comes back to the neurons through the read-out's weights, through fixed random ones, or through random ones
that learn as the read-out does. No gradient passes through the recurrent spikes, and none from piece to piece but by
eligibilities, so that what is kept does not grow with the sequence. The rule is that of Bellec et al., Nature
Communications 11, 2020; the letters are coded as in the recipe ``braille``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import spikeloom as sl
from spikeloom import runs

from . import _online as online
from ._limits import one_process, whole_precision
from .braille import spikes as crossings

GAIN = 10.0
"""The scores of the classes are their membranes times this."""


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of rule, coding and network."""

    epochs: int = 40
    batch_size: int = 64
    lr: float = 1e-2
    method: str = runs.option("eprop", "how gradients are computed: eprop or bptt", choices=("eprop", "bptt"))
    feedback: str = runs.option(
        "symmetric",
        "weights by which errors come back: symmetric, random or adaptive; of eprop",
        choices=("symmetric", "random", "adaptive"),
    )
    piece: int = runs.option(19, "steps of a piece, of 76", minimum=1)
    step: int = runs.option(1, "levels per spike", minimum=1)
    gain: float = runs.option(1.5, "deviation of the first weights at the start, times the root of 24", above=0.0)
    hidden: int = runs.option(100, "neurons of the recurrent layer", minimum=1)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """The letters, of which the seed holds ten of each class out for testing."""
    return sl.data.loaders("braille", test_batch_size=270, batch_first=False, **loading)


def build(config: Config) -> sl.Network:
    """The network: spikes ``[76, B, 24]`` to membranes ``[76, B, 27]``."""
    h = config.hidden
    lif = sl.LIF(tau=20.0, decay_input=False, reset="soft", detach_reset=True, surrogate=sl.surrogate.ATan(2.0))
    neuron, back = sl.options.Adaptive(lif, beta=0.2, rho=0.97), nn.Linear(h, h, bias=False)
    nn.init.normal_(back.weight, 0.0, 0.3 * h**-0.5)
    recurrent = sl.nn.Recurrent(neuron, back) if config.method == "bptt" else sl.learn.EProp(neuron, back)
    if config.method == "bptt" or config.feedback == "symmetric":
        readout = nn.Linear(h, 27)
    else:
        readout = sl.learn.RandomFeedback(h, 27, adaptive=config.feedback == "adaptive")
    first = nn.Linear(24, h)
    nn.init.normal_(first.weight, 0.0, config.gain * 24**-0.5)
    return sl.Network(first, recurrent, readout, sl.LI(tau=20.0))


def spikes(taxels: Tensor, config: Config) -> Tensor:
    """Spikes ``[T, B, 24]`` where values ``[T, B, 12]`` cross levels."""
    return crossings(taxels, config)  # type: ignore[arg-type]  # which reads the step alone


def scores(net: nn.Module, taxels: Tensor, config: Config) -> Tensor:
    """Ten times the mean membrane of each class, ``[B, 27]``."""
    return GAIN * sl.decode.membrane(net(spikes(taxels, config)), "mean")


measures = runs.accuracy(scores)


def learn(net: Any, taxels: Tensor, labels: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """Adds the gradients of the cross entropy of all steps to ``.grad``; returns its mean, and the scores."""
    x = spikes(taxels, config)
    method = "truncated" if config.method == "bptt" else "eligibility"
    steps = len(x) if config.method == "bptt" else config.piece
    return online.learn(net, x, labels, T=len(x), gain=GAIN, steps=steps, method=method)


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs; the learning rate falls to zero along a cosine."""
    one_process(run)
    whole_precision(run)
    loaders = run.load(data)
    net = run.place(build(config))
    decay = 1e-2 if config.feedback == "adaptive" else 0.0  # by which feedback goes to the weights
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.epochs * len(loaders.train))
    run.keep(net=net, optimiser=optimiser, schedule=schedule)
    for _ in run.epochs():
        for taxels, labels in run.steps(loaders.train):
            optimiser.zero_grad()
            loss, outputs = learn(runs.unwrap(net), taxels, labels, config)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            run.log(len(labels), loss=loss, accuracy=(outputs.argmax(1) == labels).double().mean())
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    figures = run.measure(net, loaders.test, measures, "test")
    run.finish(net, **figures, chance_accuracy=1 / len(loaders.classes))
    run.draw()
