"""What the recipes of reinforcement learning share: environments, episodes to measure with, a memory, advantages.

A network is called from rest for each observation, so that nothing of it has to be reset when an episode ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import spikeloom as sl
from spikeloom import runs
from spikeloom._extras import install

from ._limits import one_process, whole_precision

EPISODES = 100
FIRST_TEST = 10**9
"""The seed of the first of the episodes of a test."""


class Step(NamedTuple):
    """What a step of ``B`` environments gave.

    Attributes:
        after: the observations ``[B, *]`` that followed, those at the end of an episode too.
        reward: ``[B]``.
        terminated: where the task itself is over, so that nothing more can be earned, ``[B]``.
        ended: where the episode is over: terminated, or cut off at its longest, ``[B]``.
        returns: the sums of rewards of the episodes that ended, float64 ``[n]``.
    """

    after: Tensor
    reward: Tensor
    terminated: Tensor
    ended: Tensor
    returns: Tensor


class Environments:
    """Copies of an environment of gymnasium that are stepped together; where an episode ends, the next begins at once.

    Args:
        name: the environment, as ``CartPole-v1``.
        count: the number of copies, ``B``.
        seed_of: a function of the number of an episode, counted from 0 over all copies, to its seed.

    ``observation`` is what the copies show now, ``[B, *]``. The state (``state_dict``) is the seeds of the running
    episodes and their actions so far: to load it, these are played once more. That needs nothing of an environment but
    that equal seeds and actions give equal episodes.
    """

    def __init__(self, name: str, count: int, seed_of: Callable[[int], int]) -> None:
        self._vector, self._seed_of, self._begun = _made(name, count), seed_of, 0
        self._seeds, self._returns = [0] * count, np.zeros(count)
        self._actions: list[list[Any]] = [[] for _ in range(count)]
        self.observation = torch.empty(0)
        self._begin(np.ones(count, dtype=np.bool_))

    def step(self, actions: Tensor) -> Step:
        """Steps all copies by ``actions`` ``[B, *]``."""
        chosen = actions.cpu().numpy()
        after, reward, terminated, truncated, _ = self._vector.step(chosen)
        for played, action in zip(self._actions, chosen, strict=True):
            played.append(action)
        self._returns += reward
        ended = terminated | truncated
        done = Step(*map(torch.from_numpy, (after, reward.astype(np.float32), terminated, ended, self._returns[ended])))
        self.observation = done.after
        if ended.any():
            self._begin(ended)
        return done

    def state_dict(self) -> dict[str, Any]:
        """How many episodes began, and the seeds and actions of those that run."""
        actions = [torch.from_numpy(np.array(played)) for played in self._actions]
        return {"begun": self._begun, "seeds": list(self._seeds), "actions": actions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Plays the running episodes of ``state`` up to where they were."""
        self._begun, self._seeds = state["begun"], list(state["seeds"])
        self._actions = [list(played.numpy()) for played in state["actions"]]
        first, _ = self._vector.reset(seed=list(self._seeds))
        seen, self._returns = list(first), np.zeros(len(self._seeds))
        for k, (one, played) in enumerate(zip(self._vector.envs, self._actions, strict=True)):
            for action in played:
                seen[k], reward, *_ = one.step(action)
                self._returns[k] += float(reward)
        self.observation = torch.from_numpy(np.stack(seen))

    def _begin(self, which: np.ndarray[Any, Any]) -> None:
        for k in which.nonzero()[0]:
            self._seeds[k], self._actions[k], self._returns[k] = self._seed_of(self._begun), [], 0.0
            self._begun += 1
        first, _ = self._vector.reset(seed=list(self._seeds), options={"reset_mask": which})
        self.observation = torch.from_numpy(first)


def _made(name: str, count: int) -> Any:
    try:
        import gymnasium
    except ModuleNotFoundError as missing:
        message = f"environments need gymnasium; install the extra: {install('rl')}"
        raise ModuleNotFoundError(message, name=missing.name) from missing
    makers = [lambda: gymnasium.make(name, disable_env_checker=True)] * count
    return gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED)


def training(name: str, count: int, run: runs.Run) -> Environments:
    """Environments whose episodes have seeds of their own, by the seed of the run; a run in several processes, or in
    another precision, raises ConfigError."""
    one_process(run)
    whole_precision(run)
    return Environments(name, count, lambda episode: sl.data.mix(run.config.seed, episode))


def enough(setting: str, given: int, least: int, why: str) -> None:
    """Raises ConfigError for a setting from which, with the others as they are, nothing could be learned."""
    if given < least:
        raise runs.ConfigError(f"{setting} must be at least {least}, {why}, got {given}", setting=setting)


def play(name: str, seeds: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    """The returns, float64 ``[B]``, of an episode for each of ``seeds`` ``[B]``, with actions ``act(observation)``."""
    envs = Environments(name, len(seeds), lambda episode: int(seeds[episode % len(seeds)]))
    returns = torch.full((len(seeds),), torch.nan, dtype=torch.float64)
    with torch.inference_mode():
        while returns.isnan().any():
            done = envs.step(act(envs.observation.to(seeds.device)))
            earned = torch.full_like(returns, torch.nan)
            earned[done.ended] = done.returns
            returns = torch.where(returns.isnan(), earned, returns)  # of each copy the first episode alone
    return returns


def data(updates: int, **loading: Any) -> sl.data.Loaders:
    """Numbers in place of samples: of an epoch's updates in training, in the test the seeds of its 100 episodes."""
    train, test = torch.arange(updates), FIRST_TEST + torch.arange(EPISODES)
    samples = sl.data.Samples(train, train), sl.data.Samples(test, test)
    ours = {"batch_size": 1, "validation": 0.0, "test_batch_size": EPISODES}  # an update is no sample to hold out
    return sl.data.loaders(samples, **{**loading, **ours})


class Replay:
    """A memory of the last ``capacity`` transitions; ``like`` is one of them, values ``[*]`` by name.

    Draws are uniform, with replacement, by torch's generator of the CPU.
    """

    def __init__(self, capacity: int, **like: Tensor) -> None:
        self._held = {name: value.new_empty((capacity, *value.shape)) for name, value in like.items()}
        self._capacity, self._added = capacity, 0

    def __len__(self) -> int:
        return min(self._added, self._capacity)

    def add(self, **values: Tensor) -> None:
        """Adds ``B`` transitions, values ``[B, *]`` by name, in place of the oldest."""
        count = len(next(iter(values.values())))
        enough("memory", self._capacity, count, "for a step of all environments")
        at = (self._added + torch.arange(count)) % self._capacity
        for name, held in self._held.items():
            held[at] = values[name].to(held.dtype)
        self._added += count

    def draw(self, count: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """Values ``[count, *]`` by name."""
        at = torch.randint(len(self), (count,))
        return {name: held[at].to(device) for name, held in self._held.items()}

    def draw_rows(self, count: int, steps: int, apart: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """Values ``[steps, count, *]`` by name, of ``steps`` transitions that were added ``apart`` from each other."""
        first = torch.randint(len(self) - (steps - 1) * apart, (count,))
        at = (self._added - len(self) + first + apart * torch.arange(steps).unsqueeze(1)) % self._capacity
        return {name: held[at].to(device) for name, held in self._held.items()}

    def state_dict(self) -> dict[str, Any]:
        """What is held, and how many transitions were added in all."""
        return {"added": self._added, **{name: held[: len(self)] for name, held in self._held.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what ``state`` holds."""
        self._added = state["added"]
        for name, held in self._held.items():
            held[: len(self)] = state[name]


def advantages(
    reward: Tensor, value: Tensor, value_after: Tensor, terminated: Tensor, ended: Tensor, *, gamma: float, decay: float
) -> Tensor:
    """Generalised advantage estimates ``A[t] = d[t] + gamma decay A[t+1]``, all ``[T, B]``, cut where episodes end.

    ``d[t] = r[t] + gamma V(after[t]) - V(seen[t])``, without the second term where the task is over (Schulman et al.,
    High-Dimensional Continuous Control Using Generalized Advantage Estimation, ICLR 2016).
    """
    surprise = reward + gamma * value_after * ~terminated - value
    found, after = torch.empty_like(surprise), torch.zeros_like(surprise[0])
    for t in reversed(range(len(surprise))):
        after = surprise[t] + gamma * decay * after * ~ended[t]
        found[t] = after
    return found


class Critics(nn.Module):
    """Two ordinary networks with two hidden layers: ``[B, inputs]`` to values ``[2, B]``."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.both = nn.ModuleList(
            nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The values of both, ``[2, B]``."""
        return torch.stack([one(x).squeeze(1) for one in self.both])


@torch.no_grad()
def follow(slow: nn.Module, net: nn.Module, share: float) -> None:
    """Moves the weights of ``slow`` by ``share`` of the way to those of ``net``."""
    for behind, ahead in zip(slow.parameters(), net.parameters(), strict=True):
        behind.lerp_(ahead, share)


def joined(rows: dict[str, Tensor], gamma: float) -> dict[str, Tensor]:
    """Transitions of several steps, ``[B, *]``, from rows of single ones, ``[steps, B, *]``, cut where episodes end.

    ``reward`` is ``sum_k gamma^k r[k]``, ``discount`` the factor ``gamma^n`` of what follows after the last of n steps,
    or 0 where the task is over by then.
    """
    ended = rows["ended"].long()
    alive = ended.cumsum(0) - ended == 0  # up to the end of the episode, with its last step
    powers = gamma ** torch.arange(len(alive), device=alive.device).unsqueeze(1)
    last = alive.sum(0) - 1
    after, over = (rows[name][last, torch.arange(len(last))] for name in ("after", "terminated"))
    reward, discount = (alive * powers * rows["reward"]).sum(0), gamma ** (last + 1) * ~over
    return {
        "seen": rows["seen"][0],
        "action": rows["action"][0],
        "reward": reward,
        "after": after,
        "discount": discount,
    }


def falling(optimiser: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """A learning rate that falls to 0 in ``steps`` steps, along a line."""
    return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: max(1 - k / steps, 0.0))


class Returns:
    """The returns of the episodes that ended in an epoch."""

    def __init__(self) -> None:
        self._values: list[Tensor] = []

    def add(self, returns: Tensor) -> None:
        """Adds returns ``[n]``."""
        self._values.append(returns)

    def figures(self) -> dict[str, float]:
        """Their mean and their number; nothing, if no episode ended. The list is empty afterwards."""
        every = torch.cat([torch.empty(0, dtype=torch.float64), *self._values])
        self._values = []
        return {"return": float(every.mean()), "episodes": len(every)} if len(every) else {}

    def state_dict(self) -> dict[str, Any]:
        """The returns so far."""
        return {"values": list(self._values)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the returns of ``state``."""
        self._values = list(state["values"])


def pictures(history: list[dict[str, float]]) -> dict[str, Any]:
    """The mean return of the episodes that ended in each epoch."""
    from spikeloom import plot

    figure, (ax,) = plot.figure()
    known = [row for row in history if "return" in row]
    ax.plot([row["epoch"] for row in known], [row["return"] for row in known])
    ax.set(xlabel="epoch", ylabel="mean return in training")
    return {"returns": figure}
