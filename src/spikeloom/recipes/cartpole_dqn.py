"""A pole on a cart, held up by the values that spiking neurons give to its two actions.

    spikeloom train cartpole-dqn

The environment is gymnasium's CartPole-v1: a reward of 1 for each step until the pole falls or 500 are over. Each
observation is a constant current for ``T`` steps into a network at rest; of membranes that never fire, one is the value
of what is seen, and two are what the actions add to it or take away (Wang et al., Dueling Network Architectures for
Deep Reinforcement Learning, ICML 2016). Their sum ``Q(seen, action)`` learns from transitions drawn from a memory (Mnih
et al., Human-level Control through Deep Reinforcement Learning, Nature 518, 2015):

``wanted = (1 - gamma) reward + gamma Q_slow(after, argmax Q(after, .))``, without the second term where the pole fell.

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
SCALE = (2.4, 2.0, 0.21, 2.0)  # of position, speed, angle and angular speed


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of network and learning."""

    epochs: int = 20
    batch_size: int = runs.option(128, "transitions of an update, drawn from the memory", minimum=1)
    lr: float = runs.option(5e-4, "learning rate at the beginning; it falls to 0", above=0.0)
    T: int = runs.option(8, "steps of the network per observation", minimum=1)
    hidden: int = runs.option(64, "neurons of each of two hidden layers", minimum=1)
    updates: int = runs.option(1000, "updates of an epoch, with a step of all environments each", minimum=1)
    environments: int = runs.option(16, "environments that are stepped together", minimum=1)
    memory: int = runs.option(100_000, "transitions that are remembered", minimum=1)
    gamma: float = runs.option(0.99, "discount of rewards", minimum=0.0, maximum=1.0)
    follow: float = runs.option(0.01, "how far the slow copy moves at an update", above=0.0, maximum=1.0)
    explore: float = runs.option(0.04, "share of random actions in the end", minimum=0.0, maximum=1.0)
    exploring: float = runs.option(0.1, "part of the updates in which this share falls from 1", above=0.0, maximum=1.0)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """Numbers of updates to train, seeds of 100 episodes to test."""
    return rl.data(config.updates, **loading)


def build(config: Config) -> sl.Network:
    """The network: currents ``[B, 4]`` to membranes ``[T, B, 3]``, of what is seen and of the two actions."""
    return sl.Network(
        nn.Linear(4, config.hidden),
        sl.LIF(tau=2.0, decay_input=False),
        nn.Linear(config.hidden, config.hidden),
        sl.LIF(tau=2.0, decay_input=False),
        nn.Linear(config.hidden, 3),
        sl.LI(tau=4.0),
    )


def values(net: nn.Module, observation: Tensor, config: Config) -> Tensor:
    """The values of the two actions, ``[B, 2]``, for observations ``[B, 4]``, of the membranes after ``T`` steps."""
    current = observation / torch.tensor(SCALE, device=observation.device)
    worth, action = net(current, repeat=config.T)[-1].split([1, 2], dim=1)
    found: Tensor = worth + action - action.mean(1, keepdim=True)
    return found


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
    memory.add(seen=seen, action=action, after=done.after, reward=done.reward, terminated=done.terminated)
    return done.returns


def error(learner: nn.Module, net: nn.Module, drawn: dict[str, Tensor], config: Config) -> Tensor:
    """Huber's loss of the values that ``learner`` gives to what was done; ``net`` is the slow network."""
    with torch.no_grad():
        best = act(learner, drawn["after"], config).unsqueeze(1)
        later = values(net, drawn["after"], config).gather(1, best).squeeze(1)
        wanted = (1 - config.gamma) * drawn["reward"] + config.gamma * later * ~drawn["terminated"]
    found = values(learner, drawn["seen"], config).gather(1, drawn["action"].unsqueeze(1)).squeeze(1)
    return F.smooth_l1_loss(found, wanted)


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs of ``config.updates`` updates."""
    loaders = run.load(data)
    net: Any = run.place(build(config))
    learner = copy.deepcopy(net)
    envs = rl.training(NAME, config.environments, run)
    one = torch.zeros(())
    memory = rl.Replay(
        config.memory, seen=torch.zeros(4), action=one.long(), after=torch.zeros(4), reward=one, terminated=one.bool()
    )
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
            loss = error(learner, net, memory.draw(config.batch_size, run.device), config)
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
