"""A pole on a cart, held up by an actor and a critic of spiking neurons.

    spikeloom train cartpole-a2c

The environment is gymnasium's CartPole-v1: a reward of 1 for each step until the pole falls or 500 are over. Each
observation is a constant current for ``T`` steps into a network at rest; membranes that never fire read out the logits
of the two actions, and those of a second network the value of the observation.

Both learn by advantage actor-critic: ``rollout`` steps of all environments, generalised advantage estimates of these,
then ``passes`` gradients on all of them. With more than one pass the ratio of new to old probabilities is clipped, as
in PPO (Schulman et al., Proximal Policy Optimization Algorithms, arXiv:1707.06347); with ``--passes 1`` nothing is
clipped, and it is A2C (Mnih et al., Asynchronous Methods for Deep Reinforcement Learning, ICML 2016).
"""

from __future__ import annotations

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
    """Settings of networks and learning."""

    epochs: int = 20
    batch_size: int = runs.option(16, "environments that are stepped together", minimum=1)
    lr: float = runs.option(1e-3, "learning rate at the beginning; it falls to 0", above=0.0)
    T: int = runs.option(8, "steps of the networks per observation", minimum=1)
    hidden: int = runs.option(64, "neurons of each of two hidden layers", minimum=1)
    updates: int = runs.option(20, "rollouts of an epoch", minimum=1)
    rollout: int = runs.option(32, "steps of each environment in a rollout", minimum=1)
    passes: int = runs.option(10, "gradients on each rollout", minimum=1)
    gamma: float = runs.option(0.99, "discount of rewards", minimum=0.0, maximum=1.0)
    decay: float = runs.option(0.95, "decay of the advantage estimates, lambda", minimum=0.0, maximum=1.0)
    clip: float = runs.option(0.2, "how far a ratio of probabilities counts at first; it falls to 0", above=0.0)


class ActorCritic(nn.Module):
    """Two networks: ``actor`` gives logits ``[B, 2]`` and ``critic`` values ``[B, 1]`` of observations ``[B, 4]``."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.actor, self.critic = spiking(config.hidden, 2), spiking(config.hidden, 1)


def spiking(hidden: int, outputs: int) -> sl.Network:
    """A network of two hidden layers and membranes that do not fire: currents ``[B, 4]`` to ``[T, B, outputs]``."""
    return sl.Network(
        nn.Linear(4, hidden),
        sl.LIF(tau=2.0, decay_input=False),
        nn.Linear(hidden, hidden),
        sl.LIF(tau=2.0, decay_input=False),
        nn.Linear(hidden, outputs),
        sl.LI(tau=4.0),
    )


def read(net: nn.Module, observation: Tensor, T: int) -> Tensor:
    """The membranes of a network after ``T`` steps, ``[B, outputs]``, for observations ``[B, 4]``."""
    current = observation / torch.tensor(SCALE, device=observation.device)
    membranes: Tensor = net(current, repeat=T)[-1]
    return membranes


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """Numbers of updates to train, seeds of 100 episodes to test."""
    return rl.data(config.updates, **loading)


def build(config: Config) -> ActorCritic:
    """The networks."""
    return ActorCritic(config)


def act(net: Any, observation: Tensor, config: Config) -> Tensor:
    """The likelier action, ``[B]``, for observations ``[B, 4]``."""
    return read(net.actor, observation, config.T).argmax(1)


def measures(net: nn.Module, x: Tensor, y: Tensor, config: Config) -> dict[str, Tensor]:
    """The return of an episode for each seed."""
    return {"return": rl.play(NAME, x, lambda seen: act(net, seen, config))}


def roll_out(net: Any, envs: rl.Environments, config: Config, device: torch.device) -> tuple[Tensor, Tensor, rl.Step]:
    """Observations and actions ``[T, B, *]`` of a rollout, and what its steps gave, ``[T, B, *]``."""
    seen, chosen, done = [], [], []
    for _ in range(config.rollout):
        seen.append(envs.observation.to(device))
        with torch.inference_mode():
            share = read(net.actor, seen[-1], config.T).softmax(1)
            chosen.append(share.multinomial(1).squeeze(1))
        done.append(envs.step(chosen[-1]))
    after, reward, terminated, ended = (torch.stack(part).to(device) for part in list(zip(*done, strict=True))[:4])
    returns = torch.cat([one.returns for one in done])
    return torch.stack(seen), torch.stack(chosen), rl.Step(after, reward, terminated, ended, returns)


def log_probability(net: Any, seen: Tensor, chosen: Tensor, config: Config) -> Tensor:
    """Log probabilities ``[N]`` of actions ``[N]`` at observations ``[N, 4]``."""
    return read(net.actor, seen, config.T).log_softmax(1).gather(1, chosen.unsqueeze(1)).squeeze(1)


def targets(net: Any, seen: Tensor, done: rl.Step, config: Config) -> tuple[Tensor, Tensor]:
    """Advantages, brought to mean 0 and deviation 1, and the values that the critic should have had, ``[T B]``.

    Rewards count ``1 - gamma``, so that no value is above 1.
    """
    with torch.no_grad():
        both = torch.cat([seen, done.after]).flatten(0, 1)
        value, after = read(net.critic, both, config.T).view(2, *done.reward.shape)
        reward = done.reward * (1 - config.gamma)
        found = rl.advantages(reward, value, after, done.terminated, done.ended, gamma=config.gamma, decay=config.decay)
        wanted = (found + value).flatten()
        return ((found - found.mean()) / (found.std() + 1e-8)).flatten(), wanted


def improve(
    net: Any, optimiser: torch.optim.Optimizer, seen: Tensor, chosen: Tensor, done: rl.Step, config: Config, clip: float
) -> Tensor:
    """Makes ``config.passes`` steps of the optimiser on a rollout; returns the last loss of the critic."""
    gain, wanted = targets(net, seen, done, config)
    seen, chosen = seen.flatten(0, 1), chosen.flatten()
    with torch.no_grad():
        before = log_probability(net, seen, chosen, config)
    for _ in range(config.passes):
        ratio = (log_probability(net, seen, chosen, config) - before).exp()
        actor = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain).mean()
        critic = F.mse_loss(read(net.critic, seen, config.T).squeeze(1), wanted)
        optimiser.zero_grad()
        (critic - actor).backward()
        for one in (net.actor, net.critic):
            nn.utils.clip_grad_norm_(one.parameters(), 0.5)
        optimiser.step()
    return critic.detach()


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs of ``config.updates`` rollouts."""
    rl.enough("rollout", config.rollout * config.batch_size, 2, "in all environments, for advantages to deviate")
    loaders = run.load(data)
    net: Any = run.place(build(config))
    envs = rl.training(NAME, config.batch_size, run)
    optimiser = torch.optim.Adam(net.parameters(), lr=config.lr, eps=1e-5)
    updates = config.epochs * len(loaders.train)
    schedule = rl.falling(optimiser, updates)
    ended = rl.Returns()
    run.keep(net=net, optimiser=optimiser, schedule=schedule, envs=envs, ended=ended)
    for _ in run.epochs():
        for _ in run.steps(loaders.train):
            seen, chosen, done = roll_out(net, envs, config, run.device)
            clip = config.clip * (1 - run.step / updates)
            run.log(1, loss=improve(net, optimiser, seen, chosen, done, config, clip))
            schedule.step()
            ended.add(done.returns)
        run.report(**ended.figures())
    run.finish(net, **run.measure(net, loaders.test, measures, "test"))
    run.draw(lambda: rl.pictures(run.history))
