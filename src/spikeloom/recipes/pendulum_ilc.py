"""A pendulum that is swung up by a population of spiking neurons with connections inside its last layer.

    spikeloom train pendulum-ilc

The environment is gymnasium's Pendulum-v1: 200 steps, a torque from -2 to 2, and at each step a cost of what is missing
to an upright, still pendulum without torque; returns are from about -1,600 to -100. The actor is that of Chen et al.,
Fully Spiking Actor Network with Intralayer Connections for Reinforcement Learning, IEEE TNNLS 2024: each observed value
is coded by the spikes of a population with Gaussian fields, the neurons of the last spiking layer feed each other's
next step (``sl.nn.ILC``), and a membrane that never fires is the action. Every observation finds the network at rest.

As there, it learns by TD3 (Fujimoto, van Hoof and Meger, Addressing Function Approximation Error in Actor-Critic
Methods, ICML 2018) with two ordinary networks as critics, which are not needed to act:

``wanted = reward + gamma min(Q1_slow, Q2_slow)(after, actor_slow(after) + noise)``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import spikeloom as sl
from spikeloom import runs

from . import _reinforcement as rl

NAME = "Pendulum-v1"
SCALE = (1.0, 1.0, 8.0)  # of cosine, sine and speed
TORQUE, COST = 2.0, 8.0
"""The largest torque, and what brings the costs to the order of 1."""


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of networks and learning."""

    epochs: int = 10
    batch_size: int = runs.option(128, "transitions of an update, drawn from the memory", minimum=1)
    lr: float = runs.option(1e-3, "learning rate at the beginning; it falls to 0", above=0.0)
    T: int = runs.option(8, "steps of the actor per observation", minimum=1)
    fields: int = runs.option(10, "neurons that code an observed value", minimum=2)
    hidden: int = runs.option(64, "neurons of each of the actor's two hidden layers", minimum=1)
    members: int = runs.option(10, "neurons of the population of the action", minimum=1)
    critic: int = runs.option(128, "units of each of a critic's two hidden layers", minimum=1)
    updates: int = runs.option(1000, "updates of an epoch, with a step of all environments each", minimum=1)
    environments: int = runs.option(8, "environments that are stepped together", minimum=1)
    memory: int = runs.option(100_000, "transitions that are remembered", minimum=1)
    gamma: float = runs.option(0.98, "discount of rewards", minimum=0.0, maximum=1.0)
    follow: float = runs.option(0.01, "how far the slow copies move at an update", above=0.0, maximum=1.0)
    explore: float = runs.option(0.1, "deviation of the noise on actions, of the largest torque", minimum=0.0)
    random: int = runs.option(100, "steps of random actions at first", minimum=0)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """Numbers of updates to train, seeds of 100 episodes to test."""
    return rl.data(config.updates, **loading)


def build(config: Config) -> sl.Network:
    """The actor: spikes ``[T, B, 3 fields]`` to membranes ``[T, B, 1]``."""
    lif = partial(sl.LIF, tau=2.0, decay_input=False)
    return sl.Network(
        nn.Linear(3 * config.fields, config.hidden),
        lif(),
        nn.Linear(config.hidden, config.hidden),
        lif(),
        nn.Linear(config.hidden, config.members),
        sl.nn.Recurrent(lif(), sl.nn.ILC(1, config.members)),
        nn.Linear(config.members, 1),
        sl.LI(tau=4.0),
    )


def act(net: nn.Module, observation: Tensor, config: Config) -> Tensor:
    """The torques ``[B, 1]`` for observations ``[B, 3]``: a bounded function of the membrane after ``T`` steps."""
    seen = observation / torch.tensor(SCALE, device=observation.device)
    spikes = sl.encode.population(seen, config.T, neurons=config.fields, low=-1.0, high=1.0)
    membranes: Tensor = net(spikes)[-1]
    return TORQUE * torch.tanh(membranes)


def measures(net: nn.Module, x: Tensor, y: Tensor, config: Config) -> dict[str, Tensor]:
    """The return of an episode for each seed."""
    return {"return": rl.play(NAME, x, lambda seen: act(net, seen, config))}


def worth(critics: nn.Module, observation: Tensor, torque: Tensor) -> Tensor:
    """The values ``[2, B]`` that the critics give to torques ``[B, 1]`` at observations ``[B, 3]``."""
    scale = torch.tensor(SCALE, device=torque.device)
    found: Tensor = critics(torch.cat([observation / scale, torque / TORQUE], 1))
    return found


class Learner:
    """Actor, critics, their optimisers, and slow copies of both, of which ``net`` is that of the actor."""

    def __init__(self, net: Any, config: Config, device: torch.device, updates: int) -> None:
        self.config, self.slow_actor, self.actor = config, net, copy.deepcopy(net)
        self.critics = rl.Critics(4, config.critic).to(device)
        self.slow_critics = copy.deepcopy(self.critics)
        self.optimisers = [torch.optim.Adam(m.parameters(), lr=config.lr) for m in (self.actor, self.critics)]
        self.schedules = [rl.falling(o, n) for o, n in zip(self.optimisers, ((updates + 1) // 2, updates), strict=True)]
        self.parts: dict[str, Any] = {
            "actor": self.actor, "critics": self.critics, "slow_critics": self.slow_critics,
            "actor_optimiser": self.optimisers[0], "critics_optimiser": self.optimisers[1],
            "actor_schedule": self.schedules[0], "critics_schedule": self.schedules[1],
        }  # fmt: skip

    def update(self, drawn: dict[str, Tensor], *, act_too: bool) -> Tensor:
        """Moves the critics, and the actor where ``act_too``; returns the loss of the critics."""
        with torch.no_grad():
            torque = act(self.slow_actor, drawn["after"], self.config)
            noise = (0.2 * torch.randn_like(torque)).clamp(-0.5, 0.5) * TORQUE
            later = worth(self.slow_critics, drawn["after"], (torque + noise).clamp(-TORQUE, TORQUE)).min(0).values
            wanted = drawn["reward"] / COST + self.config.gamma * later * ~drawn["terminated"]
        loss: Tensor = (worth(self.critics, drawn["seen"], drawn["action"]) - wanted).square().mean(1).sum()
        self._descend(1, loss)
        if act_too:
            torque = act(self.actor, drawn["seen"], self.config)
            self._descend(0, -worth(self.critics, drawn["seen"], torque)[0].mean())
        rl.follow(self.slow_actor, self.actor, self.config.follow)
        rl.follow(self.slow_critics, self.critics, self.config.follow)
        return loss.detach()

    def _descend(self, who: int, loss: Tensor) -> None:
        self.optimisers[who].zero_grad()
        loss.backward()
        self.optimisers[who].step()
        self.schedules[who].step()


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs of ``config.updates`` updates."""
    loaders = run.load(data)
    net: Any = run.place(build(config))
    envs = rl.training(NAME, config.environments, run)
    learner = Learner(net, config, run.device, config.epochs * len(loaders.train))
    one, three = torch.zeros(1), torch.zeros(3)
    memory = rl.Replay(config.memory, seen=three, action=one, after=three, reward=one[0], terminated=one[0].bool())
    ended = rl.Returns()
    run.keep(net=net, **learner.parts, envs=envs, memory=memory, ended=ended)
    for _ in run.epochs():
        for _ in run.steps(loaders.train):
            if run.step == 0:
                rl.follow(learner.actor, net, 1.0)  # the run may have begun with given weights
            ended.add(live(learner.actor, envs, memory, config, run))
            if run.step >= config.random:
                drawn = memory.draw(config.batch_size, run.device)
                run.log(1, loss=learner.update(drawn, act_too=run.step % 2 == 0))
        run.report(**ended.figures())
    run.finish(net, **run.measure(net, loaders.test, measures, "test"))
    run.draw(lambda: rl.pictures(run.history))


def live(actor: nn.Module, envs: rl.Environments, memory: rl.Replay, config: Config, run: runs.Run) -> Tensor:
    """A step of all environments into the memory, with noise on the actions; returns of what ended."""
    seen = envs.observation
    torque = TORQUE * (2 * torch.rand(len(seen), 1) - 1)
    if run.step >= config.random:
        with torch.inference_mode():
            best = act(actor, seen.to(run.device), config).cpu()
        torque = (best + config.explore * TORQUE * torch.randn(torque.shape)).clamp(-TORQUE, TORQUE)
    done = envs.step(torque)
    memory.add(seen=seen, action=torque, after=done.after, reward=done.reward, terminated=done.terminated)
    return done.returns
