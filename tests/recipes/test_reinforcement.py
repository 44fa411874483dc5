"""Recipes of reinforcement learning: what they share, by hand and against gymnasium's own loop, and short runs."""

import importlib.util
import json
import signal
import sys

import pytest
import torch

from spikeloom import recipes, runs
from spikeloom.recipes import _reinforcement as rl
from spikeloom.recipes import cartpole_a2c, cartpole_dqn, pendulum_ilc

gymnasium = pytest.importorskip("gymnasium", reason="the extra 'rl' is not installed")
pytest.importorskip("safetensors", reason="the extra 'cli' is not installed")


def test_advantages_by_hand():
    """gamma = decay = 1/2. The first episode is cut off after its second step, the second one is over there."""
    reward, value = torch.tensor([[1.0, 1.0]] * 3), torch.tensor([[2.0, 2.0], [4.0, 4.0], [8.0, 8.0]])
    after = torch.tensor([[4.0, 4.0], [6.0, 6.0], [2.0, 2.0]])
    over = torch.tensor([[False, False], [False, True], [False, False]])
    ended = torch.tensor([[False, False], [True, True], [False, False]])
    found = rl.advantages(reward, value, after, over, ended, gamma=0.5, decay=0.5)
    # d[0] = 1 + 4/2 - 2 = 1; d[1] = 1 + 6/2 - 4 = 0, and 1 - 4 = -3 where it is over; d[2] = 1 + 2/2 - 8 = -6
    assert found.tolist() == [[1.0, 1.0 - 0.75], [0.0, -3.0], [-6.0, -6.0]]


def test_the_memory_forgets_the_oldest():
    memory = rl.Replay(5, seen=torch.zeros(2), over=torch.zeros((), dtype=torch.bool))
    memory.add(seen=torch.tensor([[1.0, 1.0], [2.0, 2.0]]), over=torch.tensor([False, True]))
    assert len(memory) == 2
    assert set(memory.draw(50)["seen"][:, 0].tolist()) == {1.0, 2.0}
    for k in (3.0, 5.0):
        memory.add(seen=torch.tensor([[k, k], [k + 1, k + 1]]), over=torch.tensor([False, True]))
    drawn = memory.draw(200)
    assert drawn["seen"].shape == (200, 2)
    assert set(drawn["seen"][:, 1].tolist()) == {2.0, 3.0, 4.0, 5.0, 6.0}
    assert torch.equal(drawn["over"], drawn["seen"][:, 0] % 2 == 0)  # values of one transition stay together
    other = rl.Replay(5, seen=torch.zeros(2), over=torch.zeros((), dtype=torch.bool))
    other.load_state_dict(memory.state_dict())
    for one in (memory, other):
        one.add(seen=torch.full((1, 2), 8.0), over=torch.tensor([True]))
    assert torch.equal(*(one.state_dict()["seen"] for one in (memory, other)))
    assert sorted(other.state_dict()["seen"][:, 0].tolist()) == [3.0, 4.0, 5.0, 6.0, 8.0]


def test_rewards_of_several_steps_by_hand():
    """Two environments, three steps ahead; a memory of five steps that went round once."""
    memory = rl.Replay(10, seen=torch.zeros(1), action=torch.zeros(()), after=torch.zeros(1), reward=torch.zeros(()),
                       terminated=torch.tensor(False), ended=torch.tensor(False))  # fmt: skip
    for t in range(7):
        place = torch.tensor([[10.0 + t], [20.0 + t]])
        over = torch.tensor([t == 4, False])  # the first falls at t = 4, the second is cut off at t = 5
        memory.add(seen=place, action=place[:, 0], after=place + 1, reward=place[:, 0], terminated=over,
                   ended=over | torch.tensor([False, t == 5]))  # fmt: skip
    torch.manual_seed(0)
    rows = memory.draw_rows(300, 3, 2)
    assert torch.equal(rows["seen"][1:], rows["seen"][:-1] + 1)
    found = rl.joined(rows, 0.5)
    by_start = {float(k[0]): i for i, k in enumerate(found["seen"])}
    assert sorted(by_start) == [12.0, 13.0, 14.0, 22.0, 23.0, 24.0]
    three, two, one = (lambda s: s + (s + 1) / 2 + (s + 2) / 4), (lambda s: s + (s + 1) / 2), (lambda s: s)
    hand = {  # reward, after, discount
        12.0: (three(12.0), 15.0, 0.0), 13.0: (two(13.0), 15.0, 0.0), 14.0: (one(14.0), 15.0, 0.0),
        22.0: (three(22.0), 25.0, 0.125), 23.0: (three(23.0), 26.0, 0.125), 24.0: (two(24.0), 26.0, 0.25),
    }  # fmt: skip
    for start, (reward, after, discount) in hand.items():
        i = by_start[start]
        assert (float(found["reward"][i]), float(found["after"][i]), float(found["discount"][i])) == (
            reward,
            after,
            discount,
        )


def pushed(seen):
    """To where the pole leans."""
    return (seen[:, 2] + 0.5 * seen[:, 3] > 0).long()


def by_hand(name, seed, act):
    """The return of one episode, by gymnasium's own loop."""
    env = gymnasium.make(name)
    seen, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        action = act(torch.from_numpy(seen).unsqueeze(0))[0]
        seen, reward, terminated, truncated, _ = env.step(action.numpy() if action.ndim else int(action))
        total, over = total + float(reward), terminated or truncated
    return total


def test_episodes_are_those_of_gymnasium():
    seeds = torch.tensor([7, 1, 10**9])
    for name, act in (("CartPole-v1", pushed), ("Pendulum-v1", lambda seen: -seen[:, 2:])):
        found = rl.play(name, seeds, act)
        assert found.tolist() == pytest.approx([by_hand(name, int(s), act) for s in seeds], rel=1e-6)
    ones = rl.play("CartPole-v1", seeds, lambda seen: torch.ones(len(seen), dtype=torch.int64))
    assert ones.tolist() == [
        by_hand("CartPole-v1", int(s), lambda seen: torch.ones(1, dtype=torch.int64)) for s in seeds
    ]


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_environments_go_on_where_they_were(name):
    def action():
        return torch.randint(2, (3,)) if name == "CartPole-v1" else 4 * torch.rand(3, 1) - 2

    torch.manual_seed(0)
    first = rl.Environments(name, 3, lambda episode: 100 + episode)
    for _ in range(230):
        first.step(action())
    second = rl.Environments(name, 3, lambda episode: 100 + episode)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.observation, second.observation)
    for _ in range(200):
        chosen = action()
        for a, b in zip(first.step(chosen), second.step(chosen), strict=True):
            assert torch.equal(a, b)
    assert first.state_dict()["seeds"] == second.state_dict()["seeds"]


def test_where_episodes_end():
    """A pole that is always pushed to one side falls; a pendulum's episode is cut off after 200 steps."""
    envs = rl.Environments("CartPole-v1", 2, lambda episode: episode)
    begun = envs.observation
    steps = 1
    while not (done := envs.step(torch.ones(2, dtype=torch.int64))).ended[0]:
        steps += 1
    assert bool(done.terminated[0])
    assert done.returns[0] == steps
    assert done.after[0, 2].abs() > 0.2095  # 12 degrees
    assert not torch.equal(envs.observation[0], done.after[0])
    assert envs.observation[0].abs().max() <= 0.05
    assert not torch.equal(envs.observation[0], begun[0])  # an episode of its own
    envs = rl.Environments("Pendulum-v1", 1, lambda episode: episode)
    ends = [envs.step(torch.zeros(1, 1)) for _ in range(400)]
    assert [k for k, done in enumerate(ends) if done.ended] == [199, 399]
    assert not any(bool(done.terminated) for done in ends)
    assert ends[199].returns.item() == pytest.approx(sum(float(done.reward) for done in ends[:200]), rel=1e-5)


class Table(torch.nn.Module):
    """A network without neurons: values are a linear function of the current, at each of the steps."""

    def __init__(self, rows):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(rows))

    def forward(self, current, repeat):
        return (current @ self.weight).expand(repeat, -1, -1)


def test_the_error_of_double_q_learning_by_hand(monkeypatch):
    monkeypatch.setattr(cartpole_dqn, "values", lambda net, seen, config: net(seen, repeat=config.T)[-1])
    learner = Table([[1.0, 2.0], *[[0.0, 0.0]] * 3])
    slow = Table([[8.0, 4.0], *[[0.0, 0.0]] * 3])
    drawn = {
        "seen": torch.tensor([[1.0, 0, 0, 0], [3.0, 0, 0, 0]]),
        "after": torch.tensor([[0.5, 0, 0, 0], [2.0, 0, 0, 0]]),
        "action": torch.tensor([0, 1]),
        "reward": torch.tensor([1.0, 1.0]),
        "discount": torch.tensor([0.5, 0.0]),
    }
    loss = cartpole_dqn.error(learner, slow, drawn, cartpole_dqn.Config(gamma=0.5))
    # The learner prefers action 1 in what follows, the slow network gives it 2: (1 + 2)/2 is wanted, 1 found; Huber's
    # loss is 1/8. The second is over: 1/2 is wanted, 6 found: 5.5 - 1/2. The mean is 2.5625.
    assert loss.item() == pytest.approx(2.5625)
    loss.backward()
    # (-1/2) / 2 times seen 1 for action 0, (+1) / 2 times seen 3 for action 1
    assert learner.weight.grad[0].tolist() == pytest.approx([-0.25, 1.5])
    assert slow.weight.grad is None


def test_one_pass_is_the_gradient_of_a2c():
    """With --passes 1, whatever the clip: the mean of advantage times log probability, by a policy without neurons."""
    torch.manual_seed(0)
    config = cartpole_a2c.Config(passes=1, gamma=0.5, decay=1.0)
    net = torch.nn.ModuleDict({"actor": Table([[0.1, -0.1]] * 4), "critic": Table([[0.2]] * 4)})
    net.actor, net.critic = net["actor"], net["critic"]
    seen, chosen = torch.randn(3, 2, 4), torch.randint(2, (3, 2))
    ended = torch.tensor([[False, False], [True, False], [False, True]])
    done = rl.Step(torch.randn(3, 2, 4), torch.ones(3, 2), ended, ended, torch.empty(0))
    gain, wanted = cartpole_a2c.targets(net, seen, done, config)
    assert gain.mean().item() == pytest.approx(0.0, abs=1e-6)
    current = seen.flatten(0, 1) / torch.tensor(cartpole_a2c.SCALE)
    table, line = (
        net.actor.weight.detach().clone().requires_grad_(),
        net.critic.weight.detach().clone().requires_grad_(),
    )
    likely = (current @ table).log_softmax(1)[torch.arange(6), chosen.flatten()]
    (-(gain * likely).mean() + ((current @ line).squeeze(1) - wanted).square().mean()).backward()
    cartpole_a2c.improve(net, torch.optim.SGD(net.parameters(), lr=0.0), seen, chosen, done, config, clip=0.01)
    for found, plain in ((net.actor.weight.grad, table.grad), (net.critic.weight.grad, line.grad)):
        assert plain.norm() > 0
        torch.testing.assert_close(found, plain * min(1.0, 0.5 / float(plain.norm())), rtol=1e-4, atol=1e-6)


def go(name, out, *, stop=None, resume=False, **settings):
    recipe = recipes.get(name)
    with runs.Run(name, recipe.Config(**settings), runs.Machine(save_every=10**6), out=out, resume=resume) as run:
        log = run.log

        def spy(n, **values):
            log(n, **values)
            if run.step == stop:
                signal.raise_signal(signal.SIGTERM)

        run.log = spy
        recipe.train(recipe.Config(**settings), run)
    return run


SMALL = {
    "cartpole-a2c": dict(epochs=2, updates=3, rollout=12, batch_size=3, passes=2, hidden=8, T=2),
    "cartpole-dqn": dict(epochs=2, updates=30, environments=2, batch_size=8, hidden=8, T=2, memory=50),
    "pendulum-ilc": dict(epochs=2, updates=12, random=3, batch_size=4, hidden=6, members=3, critic=8, fields=3, T=2),
}


@pytest.mark.parametrize(
    "name", ["pendulum-ilc", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cartpole-a2c", "cartpole-dqn"))]
)
def test_a_stopped_run_goes_on_bit_by_bit(tmp_path, name, monkeypatch):
    monkeypatch.setattr(rl, "EPISODES", 2)
    settings = SMALL[name]
    whole = go(name, tmp_path / "whole", **settings)
    with pytest.raises(runs.Stopped):
        go(name, tmp_path / "run", stop=settings["updates"] + 1, **settings)
    torch.manual_seed(99)  # another process has other generators
    run = go(name, tmp_path / "run", resume=True, **settings)
    read = [(tmp_path / place / "weights.safetensors").read_bytes() for place in ("whole", "run")]
    assert read[0] == read[1]
    assert run.result["test_return"] == whole.result["test_return"]
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in one.history] for one in (whole, run)]
    assert rows[0] == rows[1]
    assert {"episodes", "return"} <= set().union(*rows[0]) or name == "pendulum-ilc"  # whose episodes are longer


def test_the_pole_stands_longer_than_by_chance(tmp_path, monkeypatch):
    """Random actions hold it for 22 steps in the mean."""
    monkeypatch.setattr(rl, "EPISODES", 20)
    done = go("cartpole-a2c", tmp_path / "run", epochs=1, updates=12, batch_size=8, rollout=64, T=4, hidden=32, lr=3e-3)
    assert done.result["test_return"] > 60
    assert (tmp_path / "run" / "returns.png").exists() or not importlib.util.find_spec("matplotlib")
    trained = runs.load(tmp_path / "run")
    (seeds, _), *_ = trained.loaders().test
    assert seeds.tolist() == list(range(10**9, 10**9 + 20))
    again = trained.recipe.measures(trained.net, seeds, seeds, trained.config)
    assert again["return"].mean().item() == done.result["test_return"]
    assert trained.recipe.act(trained.net, torch.zeros(5, 4), trained.config).shape == (5,)
    assert json.loads((tmp_path / "run" / "split.json").read_text())["test"]["samples"] == 20


@pytest.mark.slow
def test_values_hold_the_pole_longer_than_by_chance(tmp_path):
    done = go("cartpole-dqn", tmp_path / "run", epochs=1, updates=2500, batch_size=64, T=4)
    assert done.result["test_return"] > 60


@pytest.mark.slow
def test_the_pendulum_swings_up(tmp_path):
    """Random torques cost 1,200 in the mean."""
    done = go("pendulum-ilc", tmp_path / "run", epochs=1, updates=2500, batch_size=64, T=4)
    assert done.result["test_return"] > -600


def test_torques_are_bounded_and_the_population_is_connected():
    config = pendulum_ilc.Config()
    net = pendulum_ilc.build(config)
    torque = pendulum_ilc.act(net, torch.tensor([[1.0, 0.0, 8.0], [-1.0, 0.0, -8.0]]), config)
    assert torque.shape == (2, 1)
    assert torque.abs().max() <= 2.0
    torque.sum().backward()
    named = dict(net.named_parameters())
    assert next(p for name, p in named.items() if "feedback.weight" in name).shape == (1, 10, 10)
    assert all(p.grad is not None for p in named.values())


def test_what_is_refused(monkeypatch, tmp_path):
    with pytest.raises(runs.ConfigError, match="amp must be off for cartpole-dqn, got bfloat16"):
        go("cartpole-dqn", tmp_path / "run", amp="bfloat16")
    with pytest.raises(runs.ConfigError, match="memory must be at least 20, for 5 steps of 4 environments, got 19"):
        go("cartpole-dqn", tmp_path / "run", memory=19)
    with pytest.raises(runs.ConfigError, match="memory must be at least 8, for a step of all environments, got 7"):
        go("pendulum-ilc", tmp_path / "run", memory=7)
    with pytest.raises(runs.ConfigError, match=r"rollout must be at least 2, in all environments.* got 1"):
        go("cartpole-a2c", tmp_path / "run", rollout=1, batch_size=1)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"environments need gymnasium; install the extra: pip install .*\[rl\]"
    ):
        go("cartpole-dqn", tmp_path / "other")
    assert not (tmp_path / "other").exists()
