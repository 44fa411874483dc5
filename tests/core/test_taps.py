"""Taps and recordings: what is seen at every place is what a loop over steps by hand has there, in every mode."""

import gc
import itertools
import threading
import weakref

import pytest
import torch
from torch import nn

import spikeloom as sl

T, B, F = 5, 3, 4
DOUBLE = torch.float64


def lif():
    return sl.LIF(tau=1.6, v_threshold=0.15)


class Feedback(sl.TemporalModule):
    """A layer whose output comes back to it; its neuron is called by ``step``, and nobody is told."""

    def __init__(self):
        super().__init__()
        self.up, self.back, self.inner = nn.Linear(F, F), nn.Linear(F, F), lif()

    def initial_state(self, x_t):
        return {"last": torch.zeros_like(x_t), "v": torch.zeros_like(x_t)}

    def step(self, x_t, state=None):
        state = self.initial_state(x_t) if state is None else state
        y, inner = self.inner.step(self.up(x_t) + self.back(state["last"]), state={"v": state["v"]})
        return y, {"last": y, "v": inner["v"]}


class Block(nn.Module):
    """A residual block that uses its activation twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(F, F), nn.Linear(F, F), nn.BatchNorm1d(F)
        self.act, self.spike = nn.ReLU(), lif()

    def forward(self, x):
        y = self.act(self.norm(self.first(x)))
        return self.act(self.second(self.spike(y)) + x)


class Chain(nn.Module):
    """A forward of its own."""

    def __init__(self, parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        for part in self.parts:
            x = 0.25 * x + part(x)  # a part may work in place
        return x


PARTS = {
    "linear": lambda: [nn.Linear(F, F)],
    "relu": lambda: [nn.Linear(F, F), nn.ReLU(inplace=True)],
    "lif": lambda: [lif()],
    "norm": lambda: [nn.BatchNorm1d(F), lif()],
    "nested": lambda: [
        nn.Sequential(nn.Linear(F, F), nn.Sequential(nn.BatchNorm1d(F))),
        nn.Sequential(lif(), nn.Tanh()),
    ],
    "block": lambda: [Block()],
    "recurrent": lambda: [sl.nn.Recurrent(lif(), nn.Linear(F, F))],
    "loop": lambda: [sl.Loop(nn.Sequential(nn.Linear(F, F), lif(), nn.Linear(F, F)))],
    "feedback": lambda: [sl.Loop(Feedback())],
    "norm neuron": lambda: [sl.nn.NormNeuron(nn.BatchNorm1d(F), lif())],
    "network": lambda: [sl.Network(nn.Linear(F, F), lif())],
    "checkpoint": lambda: [sl.memory.Checkpoint(nn.Sequential(nn.Linear(F, F), nn.BatchNorm1d(F), lif()))],
}


def network(seed, **options):
    """A network of random parts: a Sequential, or with a forward of its own."""
    g = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    names = [list(PARTS)[i] for i in torch.randperm(len(PARTS), generator=g)[: 3 + seed % 3]]
    if seed < len(PARTS):  # each of them is drawn
        names[0] = list(PARTS)[seed]
    parts = [part for name in names for part in PARTS[name]()]
    body = [Chain(parts)] if seed % 2 else parts
    net = sl.Network(*body, **options).double().eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm1d):
            m.running_mean.uniform_(-0.2, 0.2, generator=g)
            m.running_var.uniform_(0.3, 1.5, generator=g)
        elif isinstance(m, nn.Linear):
            with torch.no_grad():
                m.weight.mul_(2).add_(0.1)
    return net


class ByHand:
    """One step after the other: the equations of all that is in PARTS, and what is at each place."""

    def __init__(self, net, x):
        self.values, self.states = {}, {}
        self.y = []
        for x_t in x:
            self.times = {}
            self.y.append(self.run(net.body, "", x_t))
        self.y = torch.stack(self.y)

    def note(self, path, what, value):
        if path:
            self.values.setdefault(f"{path}.{what}", []).append(value)
        return value

    def run(self, module, path, x):
        n = self.times.get(path, 0)
        self.times[path] = n + 1
        name = f"{path}#{n}" if n and path else path
        x = self.note(name, "input", x.view_as(x))
        y = self.give(module, path, x)
        return self.note(name, "output", y.view_as(y))  # what a neuron resets by, or feeds back, is apart

    def lif(self, m, path, x):
        v = self.states.get(path, torch.zeros_like(x))
        h = v + (x - v) / 1.6
        s = m.surrogate(h - 0.15)
        self.states[path] = self.note(path, "v", (1 - s) * h)
        return s

    def give(self, m, path, x):
        def inner(name, x):
            part = m
            for step in name.split("."):
                part = getattr(part, step)
            return self.run(part, f"{path}.{name}" if path else name, x)

        if isinstance(m, sl.LIF):
            return self.lif(m, path, x)
        if isinstance(m, (nn.Sequential, sl.Network)):
            for name, part in (m.body if isinstance(m, sl.Network) else m).named_children():
                x = self.run(part, f"{path}.{name}" if path else name, x)
            return x
        if isinstance(m, (sl.Loop, sl.memory.Checkpoint)):
            return inner("module", x)
        if isinstance(m, Block):
            y = inner("act", inner("norm", inner("first", x)))
            return inner("act", inner("second", inner("spike", y)) + x)
        if isinstance(m, Chain):
            for i in range(len(m.parts)):
                x = 0.25 * x + self.run(m.parts[i], f"{path}.parts.{i}" if path else f"parts.{i}", x)
            return x
        if isinstance(m, Feedback):
            last = self.states.get(path, torch.zeros_like(x))
            self.states[path] = inner("inner", inner("up", x) + inner("back", last))
            return self.states[path]
        if isinstance(m, sl.nn.Recurrent):
            last = self.states.get(path + "!", torch.zeros_like(x))
            y = self.lif(m.neuron, path, x + inner("feedback", last))
            self.states[path + "!"] = y
            return y
        if isinstance(m, sl.nn.NormNeuron):
            return self.lif(m.neuron, path, inner("bn", x))
        return m(x.clone() if isinstance(m, nn.ReLU) else x)

    def all(self, lengths=None):
        """The values as [T, B, *], 0 past the lengths."""
        found = {name: torch.stack(steps) for name, steps in self.values.items()}
        if lengths is not None:
            found = {name: sl.data.valid_steps(lengths, T).unsqueeze(2) * value for name, value in found.items()}
        return found


MODES = ["c", "eager", "packed", "apart", "lengths", "batch_first", "repeat", "step"]
SEEDS = [*range(20), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(20, 120))]


def case(seed, mode):
    """A network, its input, options of the call, and the input as a sequence with its lengths."""
    options = {"packed": {"spikes": "packed"}, "apart": {"fuse": False}, "batch_first": {"batch_first": True}}
    net = network(seed, **options.get(mode, {}))
    x = torch.randn(T, B, F, dtype=DOUBLE)
    if mode == "repeat":
        return net, x[0], {"repeat": T}, x[:1].expand(T, B, F), None
    if mode == "lengths":
        lengths = torch.tensor([T, 2, 3])
        return net, x, {"lengths": lengths}, x, lengths
    return net, x.transpose(0, 1) if mode == "batch_first" else x, {}, x, None


def whole(net, x, mode, options):
    """The output as a sequence, time first."""
    if mode == "step":
        ys, state = [], None
        for x_t in x:
            y, state = net.step(x_t, state=state)
            ys.append(y)
        return torch.stack(ys)
    y = net(x, **options)
    return y.transpose(0, 1) if mode == "batch_first" else y


def in_mode(mode):
    return sl.backend("eager" if mode == "eager" else "auto")


def check(found, wanted):
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        got = found[name]
        assert got.shape == value.shape, name
        torch.testing.assert_close(got.to(DOUBLE), value, atol=1e-9, rtol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("seed", SEEDS)
def test_values_are_those_of_a_loop_by_hand_and_outputs_stay_bit_equal(seed):
    for mode in MODES:
        net, x, options, sequence, lengths = case(seed, mode)
        with torch.no_grad(), in_mode(mode):
            hand = ByHand(net, sequence)
            wanted, y = hand.all(lengths), whole(net, x, mode, options)
            with sl.taps(net, "*put", "*.v") as seen:
                assert torch.equal(whole(net, x, mode, options), y), mode
            assert torch.equal(whole(net, x, mode, options), y), mode
            found = {name: torch.cat(seen[name]) if mode == "step" else seen[name][0] for name in seen}
            check(found, wanted)
            if mode == "step":
                result = net.step(x[0], record=("*put", "*.v"))[2]
                check(result, {name: value[0] for name, value in wanted.items()})
                continue
            assert all(len(seen[name]) == 1 for name in seen)
            same, result = net(x, **options, record=("*put", "*.v"))
            assert torch.equal(same.transpose(0, 1) if mode == "batch_first" else same, y), mode
            swap = mode == "batch_first"
            check({name: v.transpose(0, 1) if swap else v for name, v in result.record.items()}, wanted)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_are_those_of_the_loop_by_hand(seed):
    for mode in ("c", "eager", "packed", "lengths", "repeat"):
        net, x, options, sequence, lengths = case(seed, mode)
        x = x.requires_grad_()
        weight = torch.randn(T, B, F, dtype=DOUBLE)
        if lengths is not None:
            weight = weight * sl.data.valid_steps(lengths, T).unsqueeze(2)
        hand = ByHand(net, sequence.detach().requires_grad_())
        there = {name: steps for name, steps in hand.values.items() if not name.endswith(".v")}
        every = [v for v in itertools.chain(*there.values()) if v.requires_grad]  # what is fed back at first is 0
        grads = torch.autograd.grad((hand.y * weight).sum(), every, allow_unused=True, materialize_grads=True)
        each, wanted = iter(grads), {}
        for name, steps in there.items():
            path, what = name.rsplit(".", 1)
            found = [next(each) if v.requires_grad else torch.zeros_like(v) for v in steps]
            wanted[f"{path}.grad_{what}"] = torch.stack(found)
        with in_mode(mode), sl.taps(net, "*.grad_*") as seen:
            (whole(net, x, mode, options) * weight).sum().backward()
        check({name: seen[name][0] for name in seen}, {n: g for n, g in wanted.items() if n in seen or g.any()})
