"""A pole on a cart, held up by the values that spiking neurons give to its two actions.

    spikeloom train cartpole-dqn

The environment is gymnasium's CartPole-v1: a reward of 1 for each step until the pole falls or 500 are over. Each
observed value is coded by a population, whose activities are constant currents for ``T`` steps into a network at rest;
membranes that never fire read out the value of each action, ``Q(seen, action)``, which learns from n = ``ahead`` steps
in a row, drawn from a memory (Mnih et al., Human-level Control through Deep Reinforcement Learning, Nature 518, 2015):

``wanted = (1 - gamma) sum_k gamma^k r[k] + gamma^n Q_slow(after, argmax Q(after, .))``,

where ``after`` follows the n-th step or the last of the episode; the second term is left out where the pole fell.

``Q`` learns, and ``Q_slow`` follows it at every update. One chooses the next action and the other values it (van
Hasselt, Guez and Silver, Deep Reinforcement Learning with Double Q-learning, AAAI 2016). The slow network is what is
measured and written in the end, because it changes less from one update to the next.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl
from spikeloom import runs

from . import _reinforcement as rl

NAME = "CartPole-v1"
SCALE = (2.4, 3.0, 0.21, 3.0)  # of position, speed, angle and angular speed


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of network and learning."""

    epochs: int = 10
    batch_size: int = runs.option(64, "transitions of an update, drawn from the memory", minimum=1)
    lr: float = runs.option(1e-3, "learning rate at the beginning; it falls to 0", above=0.0)
    T: int = runs.option(8, "steps of the network per observation", minimum=1)
    fields: int = runs.option(12, "neurons that code an observed value", minimum=2)
    hidden: int = runs.option(128, "neurons of each of two hidden layers", minimum=1)
    updates: int = runs.option(1000, "updates of an epoch, with a step of all environments each", minimum=1)
    environments: int = runs.option(4, "environments that are stepped together", minimum=1)
    memory: int = runs.option(100_000, "transitions that are remembered", minimum=1)
    gamma: float = runs.option(0.98, "discount of rewards", minimum=0.0, maximum=1.0)
    ahead: int = runs.option(5, "steps whose rewards count before the slow network does", minimum=1)
    follow: float = runs.option(0.05, "how far the slow copy moves at an update", above=0.0, maximum=1.0)
    explore: float = runs.option(0.04, "share of random actions in the end", minimum=0.0, maximum=1.0)
    exploring: float = runs.option(0.1, "part of the updates in which this share falls from 1", above=0.0, maximum=1.0)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """Numbers of updates to train, seeds of 100 episodes to test."""
    return rl.data(config.updates, **loading)


def build(config: Config) -> sl.Network:
    """The network: currents ``[B, 4 fields]`` to membranes ``[T, B, 2]``."""
    return sl.Network(
        nn.Linear(4 * config.fields, config.hidden),
        sl.LIF(tau=2.0, decay_input=False),
        nn.Linear(config.hidden, config.hidden),
        sl.LIF(tau=2.0, decay_input=False),
        nn.Linear(config.hidden, 2),
        sl.LI(tau=4.0),
    )


def values(net: nn.Module, observation: Tensor, config: Config) -> Tensor:
    """The values of the two actions, ``[B, 2]``, for observations ``[B, 4]``: the membranes after ``T`` steps."""
    seen = observation / torch.tensor(SCALE, device=observation.device)
    current = sl.encode.population(seen, 1, neurons=config.fields, low=-1.0, high=1.0, code="current")[0]
    membranes: Tensor = net(current, repeat=config.T)[-1]
    return membranes


def act(net: nn.Module, observation: Tensor, config: Config) -> Tensor:
    """The better action, ``[B]``, for observations ``[B, 4]``."""
    return values(net, observation, config).argmax(1)


def measures(net: nn.Module, x: Tensor, y: Tensor, config: Config) -> dict[str, Tensor]:
    """The return of an episode for each seed."""
    return {"return": rl.play(NAME, x, lambda seen: act(net, seen, config))}


def live(net: nn.Module, envs: rl.Environments, memory: rl.Replay, random: float, config: Config) -> Tensor:
    """A step of all environments into the memory, with a share of ``random`` actions; returns of what ended."""
    seen = envs.observation
    with torch.inference_mode():
        best = act(net, seen.to(next(net.parameters()).device), config).cpu()
    action = torch.where(torch.rand(len(best)) < random, torch.randint(2, (len(best),)), best)
    done = envs.step(action)
    kept = {name: getattr(done, name) for name in ("after", "reward", "terminated", "ended")}
    memory.add(seen=seen, action=action, **kept)
    return done.returns


def error(learner: nn.Module, net: nn.Module, drawn: dict[str, Tensor], config: Config) -> Tensor:
    """Huber's loss of the values that ``learner`` gives to what was done; ``net`` is the slow network."""
    with torch.no_grad():
        best = act(learner, drawn["after"], config).unsqueeze(1)
        later = values(net, drawn["after"], config).gather(1, best).squeeze(1)
        wanted = (1 - config.gamma) * drawn["reward"] + drawn["discount"] * later
    found = values(learner, drawn["seen"], config).gather(1, drawn["action"].unsqueeze(1)).squeeze(1)
    return F.smooth_l1_loss(found, wanted)


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs of ``config.updates`` updates."""
    needed = config.environments * config.ahead
    rl.enough("memory", config.memory, needed, f"for {config.ahead} steps of {config.environments} environments")
    loaders = run.load(data)
    net: Any = run.place(build(config))
    learner = copy.deepcopy(net)
    envs = rl.training(NAME, config.environments, run)
    one = torch.zeros(())
    like = {"action": one.long(), "reward": one, "terminated": one.bool(), "ended": one.bool()}
    memory = rl.Replay(config.memory, seen=torch.zeros(4), after=torch.zeros(4), **like)
    optimiser = torch.optim.Adam(learner.parameters(), lr=config.lr)
    updates = config.epochs * len(loaders.train)
    schedule = rl.falling(optimiser, updates)
    ended = rl.Returns()
    run.keep(net=net, learner=learner, envs=envs, memory=memory, optimiser=optimiser, schedule=schedule, ended=ended)
    for _ in run.epochs():
        for _ in run.steps(loaders.train):
            if run.step == 0:
                rl.follow(learner, net, 1.0)  # the run may have begun with given weights
            random = max(config.explore, 1 - (1 - config.explore) * run.step / (config.exploring * updates))
            ended.add(live(learner, envs, memory, random, config))
            if len(memory) < config.environments * config.ahead:
                continue
            rows = memory.draw_rows(config.batch_size, config.ahead, config.environments, run.device)
            loss = error(learner, net, rl.joined(rows, config.gamma), config)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learner.parameters(), 10.0)
            optimiser.step()
            schedule.step()
            rl.follow(net, learner, config.follow)
            run.log(1, loss=loss)
        run.report(**ended.figures())
    run.finish(net, **run.measure(net, loaders.test, measures, "test"))
    run.draw(lambda: rl.pictures(run.history))
