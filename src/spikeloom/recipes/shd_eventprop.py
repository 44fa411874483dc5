"""Spiking Heidelberg Digits by spike times: two hidden layers that learn by EventProp, with a delay for each neuron.

    spikeloom train shd-eventprop
    spikeloom train shd-eventprop --max-delay 0          without delays

Neurons have the time constants of Nowotny, Turner and Knight (arXiv:2212.01232), 20 ms for membranes and 5 ms for
synapses, and steps of 1 ms; the classes are read, as there, from membranes that never fire, by their mean with weights
that fall with time. Neurons of the hidden layers are pulled to a number of spikes, because the gradient of spike times
sees none that are missing. A spike of the first layer reaches the second after the delay of its neuron, which learns by
times too.

The sizes of the first weights were chosen so that neurons fire where each line has about ten spikes in 0.7 s; no
setting was tried on the data set itself. A tenth of the training recordings is held out and measured after each epoch,
the last epoch counts, and the test set is used once, after it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl
from spikeloom import runs

from ._limits import whole_precision

LINES, CLASSES = 700, 20
TAU_MEM, TAU_SYN = 20.0, 5.0  # ms


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of data, network and learning."""

    epochs: int = 100
    batch_size: int = 32
    lr: float = 1e-3
    validation: float = 0.1
    T: int = runs.option(1000, "steps per recording; what is longer is cut", minimum=3)
    step_ms: float = runs.option(1.0, "milliseconds of a step", above=0.0)
    hidden: int = runs.option(512, "neurons of both hidden layers", minimum=1)
    first: float = runs.option(0.022, "mean of the first weights; their deviation is twice that", above=0.0)
    second: float = runs.option(0.02, "the same of the second ones", above=0.0)
    max_delay: int = runs.option(30, "the longest delay, in steps; 0: none", minimum=0)
    lr_delays: float = runs.option(0.1, "learning rate of the delays, in steps", above=0.0)
    count: float = runs.option(14.0, "spikes per recording to which neurons are pulled", above=0.0)
    strength: float = runs.option(1e-5, "how strongly", minimum=0.0)
    partial: bool = runs.option(False, "take what is there of the data set, for trials")


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """The recordings as counts of spikes ``[T, B, 700]``."""
    frames = sl.data.Frames(duration=1000 * config.step_ms, length=config.T)
    options = sl.data.Options(partial=config.partial)
    return sl.data.loaders("shd", test_batch_size=64, frames=frames, options=options, batch_first=False, **loading)


def build(config: Config) -> sl.Network:
    """The network: counts ``[T, B, 700]`` to membranes of the classes, which are recorded as ``readout.v``."""
    tau_mem, tau_syn = TAU_MEM / config.step_ms, TAU_SYN / config.step_ms

    def neuron() -> sl.learn.EventPropLIF:
        wanted = {"count_target": config.count, "count_strength": config.strength}
        return sl.learn.EventPropLIF(tau_mem=tau_mem, tau_syn=tau_syn, **wanted)

    def linear(inputs: int, outputs: int, mean: float, deviation: float) -> nn.Linear:
        layer = nn.Linear(inputs, outputs, bias=False)
        nn.init.normal_(layer.weight, mean, deviation)
        return layer

    h = config.hidden
    net = nn.Sequential()
    net.add_module("in", linear(LINES, h, config.first, 2 * config.first))
    net.add_module("neurons1", neuron())
    if config.max_delay:
        net.add_module("delay", sl.nn.LearnedDelay(h, config.max_delay, kernel="times"))
    net.add_module("between", linear(h, h, config.second, 2 * config.second))
    net.add_module("neurons2", neuron())
    net.add_module("out", linear(h, CLASSES, 0.0, h**-0.5))
    readout = sl.Synaptic(alpha=math.exp(-1 / tau_syn), beta=math.exp(-1 / tau_mem), reset="none")
    net.add_module("readout", readout)
    return sl.Network(net)


def scores(net: nn.Module, counts: Tensor, config: Config) -> Tensor:
    """Weighted means of the readout's membranes, ``[B, 20]``."""
    _, result = net(counts, record=("readout.v",))
    v: Tensor = result.record["readout.v"].float()
    weights = torch.exp(-torch.arange(len(v), device=v.device) / len(v)).view(-1, 1, 1)
    return (v * weights).mean(0)


measures = runs.accuracy(scores)


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs; learning rates fall to zero along a cosine."""
    whole_precision(run)
    loaders = run.load(data)
    net = run.place(build(config))
    named = [(name.endswith("delay.delay"), p) for name, p in net.named_parameters()]
    groups = [{"params": [p for delay, p in named if not delay], "lr": config.lr}]
    if config.max_delay:
        groups.append({"params": [p for delay, p in named if delay], "lr": config.lr_delays})
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.epochs * len(loaders.train))
    run.keep(net=net, optimiser=optimiser, schedule=schedule)
    for _ in run.epochs():
        for counts, labels in run.steps(loaders.train):
            outputs = scores(net, counts, config)
            loss = F.cross_entropy(outputs, labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            run.log(len(labels), loss=loss, accuracy=(outputs.argmax(1) == labels).double().mean())
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    linear = runs.linear_baseline(loaders.train, loaders.test, lambda counts: counts.sum(0))
    figures = run.measure(net, loaders.test, measures, "test")
    run.finish(net, **figures, linear_accuracy=linear, chance_accuracy=1 / len(loaders.classes))
    run.draw()
