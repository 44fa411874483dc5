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


def small(**options):
    """linear - batch norm - LIF - linear - LI, in float32."""
    torch.manual_seed(0)
    return sl.Network(nn.Linear(F, 8), nn.BatchNorm1d(8), lif(), nn.Linear(8, 3), sl.LI(), **options)


def clean(net):
    """Whether nothing of taps is on a network or in this thread."""
    hooks = [h for m in net.modules() for h in (m._forward_hooks, m._backward_hooks) if h]
    inputs = [k for m in net.modules() for k, h in m._forward_pre_hooks.items() if k != "spikeloom.rows"]
    methods = [m for m in net.modules() if {"step", "sequence"} & m.__dict__.keys()]
    return not (hooks or inputs or methods or sl.core.places.opened() or sl.core.places._watched)


def test_a_fused_norm_is_seen_as_the_norm_and_the_neuron_never_has_its_input():
    net, x = small(), torch.randn(T, B, F)
    twin = small()
    wanted = twin(x)
    with sl.taps(net, "1.*put", "2.*", "0.output") as seen:
        y = net(x)
        rows = sl.explain(net, x).rows
    assert torch.equal(y, wanted)
    assert torch.equal(twin.body[1].running_mean, small_after(x))  # counted once
    a = x.flatten(0, 1) @ net.body[0].weight.T + net.body[0].bias
    normed = ((a - a.mean(0)) / (a.var(0, unbiased=False) + 1e-5).sqrt()).view(T, B, 8)
    torch.testing.assert_close(seen["1.input"][0], a.view(T, B, 8), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen["1.output"][0], normed, atol=1e-5, rtol=1e-4)
    assert torch.equal(seen["2.input"][0], seen["1.output"][0])
    assert torch.equal(seen["1.input"][0], seen["0.output"][0])
    if rows[0].backend == "c":
        assert rows[0].reason == "fused with BatchNorm1d"
    _, result = net(x, record=("1.output", "2.input"))  # in the graph: the two run one after the other
    torch.testing.assert_close(result.record["2.input"], normed, atol=1e-5, rtol=1e-4)
    assert clean(net)


def small_after(x):
    net = small()
    net(x)
    return net.body[1].running_mean


def test_a_recording_is_part_of_the_graph():
    net, x = small().double(), torch.randn(T, B, F, dtype=DOUBLE)
    y, result = net(x, record=("0.output", "3.input", "4.input"))
    (g,) = torch.autograd.grad(y.sum(), result.record["4.input"], retain_graph=True)
    by_hand = torch.zeros(T, B, 3, dtype=DOUBLE)  # LI: v = v + (x - v) / tau
    for t in range(T):
        by_hand[t] = sum((1 / 2.0) * (1 - 1 / 2.0) ** k for k in range(T - t))
    torch.testing.assert_close(g, by_hand)
    (g,) = torch.autograd.grad(y.sum(), result.record["3.input"], retain_graph=True)
    torch.testing.assert_close(g, by_hand @ net.body[3].weight)
    (result.record["0.output"] ** 2).sum().backward()
    a = x.flatten(0, 1) @ net.body[0].weight.T + net.body[0].bias
    torch.testing.assert_close(net.body[0].bias.grad, 2 * a.sum(0))


def test_what_is_reduced_is_what_is_kept_reduced():
    net, lengths = small(spikes="packed").eval(), torch.tensor([T, 2, 4])
    data = [(torch.randn(T, B, F), {}), (torch.randn(T, B, F), {"lengths": lengths}), (torch.randn(T, B, F), {})]
    keeps = ("mean", "max", "min", "rate", "count")
    with torch.no_grad():
        taps = {keep: sl.taps(net, "*put", "*.v", keep=keep) for keep in keeps}
        with sl.taps(net, "*put", "*.v") as kept, nested(taps.values()):
            for x, options in data:
                net(x, **options)
    valid = sl.data.valid_steps(lengths, T).flatten()
    for name in kept:
        a, b, c = (v.flatten(0, 1) * 1.0 for v in kept[name])
        rows = torch.cat([a, b[valid], c])
        wanted = {"mean": rows.mean(0), "max": rows.amax(0), "min": rows.amin(0)}
        wanted |= {"rate": (rows != 0).float().mean(0), "count": (rows != 0).sum(0)}
        for keep in keeps:
            assert taps[keep].names == kept.names
            torch.testing.assert_close(taps[keep][name], wanted[keep], atol=1e-6, rtol=1e-5)


class nested:  # noqa: N801
    def __init__(self, contexts):
        self.contexts = list(contexts)

    def __enter__(self):
        for c in self.contexts:
            c.__enter__()

    def __exit__(self, *error):
        for c in reversed(self.contexts):
            c.__exit__(*error)


def test_packed_spikes_stay_packed_and_equal_steps_stay_one():
    net, x = small(spikes="packed").eval(), torch.randn(16, 8, F)
    with torch.no_grad(), sl.taps(net, "2.output") as seen:
        net(x)
    assert isinstance(seen["2.output"][0], sl.SpikeTensor)
    assert seen.bytes == 16 * 8 * 8 // 8
    shapes, linear = [], nn.functional.linear
    with sl.taps(net, "0.input", "0.output") as seen, pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "linear", lambda x, *rest: shapes.append(tuple(x.shape)) or linear(x, *rest))
        net(x[0], repeat=16)
    assert shapes[0] == (8, F)  # the static prefix ran once
    assert seen["0.output"][0].shape == (16, 8, 8)
    assert seen.bytes == 4 * (8 * F + 8 * 8)


def test_every_limit_and_functions():
    net, x = small().eval(), torch.randn(T, B, F)
    with torch.no_grad():
        with sl.taps(net, "0.output", every=3, keep=lambda v: v.amax((0, 1))) as seen:
            for k in range(7):
                net(x * k)
        bias, inner = net.body[0].bias, x.flatten(0, 1) @ net.body[0].weight.T
        for k, value in zip((0, 3, 6), seen["0.output"], strict=True):
            torch.testing.assert_close(value, (k * inner + bias).amax(0))
        size = 4 * T * B * 8
        with sl.taps(net, "0.output", "3.output", limit=2 * size) as seen:
            net(x)
            found = (
                rf"over the limit of {2 * size} bytes.* largest entry is '0.output' with {2 * size}\. .*keep=.*every="
            )
            with pytest.raises(RuntimeError, match=found):
                net(x)
        assert seen.bytes == size + 4 * T * B * 3
    assert clean(net)


def test_patterns_that_fit_nothing_list_what_there_is():
    net = small()
    for pattern in ("9.output", "0.v", "*.w", "2.surrogate.output", ""):
        with pytest.raises(
            ValueError, match=r"cannot tap .*; this network has 2.output, 2.v, .*grad_output of 0, 1, 2"
        ):
            sl.taps(net, pattern)
    with pytest.raises(ValueError, match=r"cannot record '2.grad_input'"):
        net(torch.randn(T, B, F), record=("2.grad_input",))
    with pytest.raises(ValueError, match="keep must be None, one of mean"):
        sl.taps(net, "0.input", keep="sum")
    with pytest.raises(ValueError, match="every must be at least 1"):
        sl.taps(net, "0.input", every=0)
    with pytest.raises(TypeError, match="expected a network, got int"):
        sl.taps(3, "0.input")
    with (
        sl.taps(net, "0.input") as seen,
        pytest.raises(KeyError, match="was not seen in 0 calls; there is nothing yet"),
    ):
        seen["0.input"]


@pytest.mark.parametrize("seed", [7, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6))])
def test_two_hundred_calls_leave_nothing(seed):
    net, x = network(seed), torch.randn(T, B, F, dtype=DOUBLE)
    counts = []
    with sl.taps(net, "*", keep="mean") as seen:
        for k in range(200):
            net(x).square().sum().backward() if k % 2 else net(x)
            if k in (60, 199):
                gc.collect()
                counts.append((len(gc.get_objects()), seen.bytes))
    assert counts[0][1] == counts[1][1]
    assert counts[1][0] - counts[0][0] < 100  # fewer there may be: what earlier tests left goes too
    assert clean(net)


def test_nothing_of_a_graph_is_held():
    net, x = network(7), torch.randn(T, B, F, dtype=DOUBLE)
    gc.collect()
    gc.disable()
    try:
        with sl.taps(net, "*") as seen:
            y, result = net(x, record=("*put",))
            refs = [weakref.ref(v) for v in result.record.values()] + [weakref.ref(y)]
            y.sum().backward()
            n = len(seen)
            del y, result
            assert not any(ref() is not None for ref in refs)
        with sl.taps(net, "*.grad_output") as late:
            y = net(x)
        y.sum().backward()  # the block has ended
        assert len(late) == 0
        assert n == len(seen)
    finally:
        gc.enable()


def test_an_error_leaves_nothing_behind():
    net, x = network(7), torch.randn(T, B, F, dtype=DOUBLE)
    broken = network(7)
    with pytest.raises(ZeroDivisionError), sl.taps(net, "*"):
        net(x / (1 // 0))
    assert clean(net)
    with sl.taps(broken, "*"), pytest.raises(RuntimeError, match=r"shapes|size|features|channels"):
        broken(x[..., :-1])
    assert clean(broken)
    wanted = network(7)(x)
    with sl.taps(net, "*", keep=lambda v: 1 / 0), pytest.raises(ZeroDivisionError):
        net(x)
    assert clean(net)
    assert torch.equal(net(x), wanted)


def test_threads_have_taps_of_their_own():
    net, found, meet = network(2), {}, threading.Barrier(3)

    def work(k, tapped):
        x = torch.full((T, B, F), float(k + 1), dtype=DOUBLE)
        meet.wait()
        with torch.no_grad():
            if not tapped:
                for _ in range(40):
                    net(x)
                return
            with sl.taps(net, "0.input", "*.output") as seen:
                for _ in range(40):
                    net(x)
        found[k] = seen

    threads = [threading.Thread(target=work, args=(k, k < 2)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(2):
        assert {len(found[k][name]) for name in found[k]} == {40}
        assert {float(v) for x in found[k]["0.input"] for v in x.unique()} == {k + 1.0}
    assert found[0].names == found[1].names
    assert clean(net)


def test_two_at_once_and_with_a_recording():
    net, x = small().eval(), torch.randn(T, B, F)
    with torch.no_grad(), sl.taps(net, "0.output") as outer:
        net(x)
        with sl.taps(net.body, "0.output", "2.v") as inner:  # a part will do
            _, result = net(x, record=("2.v",))
        net(x)
    assert len(outer["0.output"]) == 3
    assert len(inner["0.output"]) == 1
    assert torch.equal(inner["2.v"][0], result.record["2.v"])
    assert torch.equal(inner["0.output"][0], outer["0.output"][1])
    with outer, pytest.raises(RuntimeError, match="open already"), outer:
        pass


def test_streams_append_a_step_and_give_what_they_give():
    torch.manual_seed(0)
    net, x = sl.Network(nn.Linear(F, 8), lif(), nn.Linear(8, 3), sl.LI()).eval(), torch.randn(9, B, F)
    with torch.no_grad():
        plain, watched = net.stream(), net.stream()
        wanted = torch.stack([plain(x_t) for x_t in x])
        ys = [watched(x[0]), watched(x[1])]
        with sl.taps(net, "1.output", "2.input", "1.v") as seen:
            ys += [watched(x_t) for x_t in x[2:6]]
        ys += [watched(x_t) for x_t in x[6:]]
        _, result = net(x, record=("1.output", "2.input", "1.v"))
    assert torch.equal(torch.stack(ys), wanted)
    for name, value in result.record.items():
        assert [v.shape[0] for v in seen[name]] == [1] * 4
        torch.testing.assert_close(torch.cat(seen[name]), value[2:6])


def test_a_checkpointed_block_is_seen_once():
    net, x = network(11), torch.randn(T, B, F, dtype=DOUBLE)
    with sl.taps(net, "*") as seen:
        y, result = net(x, record=("*put",), lengths=torch.tensor([T, 2, 3]))
        (y.sum() + sum(v.sum() for v in result.record.values())).backward()
    assert {len(seen[name]) for name in seen} == {1}
    assert any("module" in name for name in seen)
    x = x.requires_grad_()
    with sl.taps(net, "*") as seen:  # the whole call is computed again
        torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False).sum().backward()
    assert {len(seen[name]) for name in seen} == {1}


def test_neurons_that_another_module_runs_are_seen_by_their_names():
    torch.manual_seed(0)
    net, x = sl.Network(sl.nn.Recurrent(lif(), nn.Linear(F, F)), sl.nn.NormNeuron(nn.BatchNorm1d(F), lif())), None
    net, x = net.double().eval(), torch.randn(T, B, F, dtype=DOUBLE)
    with torch.no_grad():
        y = net(x)
        with sl.taps(net, "*") as seen:
            net(x)
        assert not any("neuron" in name for name in seen)  # their outputs and states are those of the modules around
        with sl.taps(net, "0.*", "0.neuron.*put", "1.neuron.*put", "1.bn.output", "1.output") as seen:
            assert torch.equal(net(x), y)
    torch.testing.assert_close(seen["0.neuron.input"][0], x + seen["0.feedback.output"][0])
    assert torch.equal(seen["0.neuron.output"][0], seen["0.output"][0])
    assert torch.equal(seen["1.neuron.input"][0], seen["1.bn.output"][0])
    assert torch.equal(seen["1.neuron.output"][0], y)
    assert clean(net)


def test_both_directions_of_a_recurrent_network_and_a_loop_of_somebodys():
    rnn, x, lengths = (
        sl.nn.SpikingRNN(F, 6, bidirectional=True).double(),
        torch.randn(T, B, F, dtype=DOUBLE),
        torch.tensor([T, 3, 1]),
    )
    net = sl.Network(rnn)
    with torch.no_grad(), sl.taps(net, "*.linear_*.output", "*.linear_ih.input") as seen:
        net(x, lengths=lengths)
    for way in range(2):
        layer = rnn.layers[way]
        for b, n in enumerate(lengths.tolist()):
            h = torch.zeros(6, dtype=DOUBLE)
            for t in range(n) if way == 0 else reversed(range(n)):
                ih, hh = layer.linear_ih(x[t, b]), layer.linear_hh(h)
                for name, value in (("linear_ih.output", ih), ("linear_hh.output", hh), ("linear_ih.input", x[t, b])):
                    torch.testing.assert_close(seen[f"0.layers.{way}.{name}"][0][t, b], value)
                h = (ih + hh >= 0).to(DOUBLE)
            assert not seen[f"0.layers.{way}.linear_hh.output"][0][n:, b].any()

    class Own(sl.TemporalModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(F, F)

        def sequence(self, *xs, state=None, lengths=None, record=()):
            return torch.stack([self.layer(x_t) + self.layer(2 * x_t) for x_t in xs[0]]), None

    own, x = sl.Network(Own()), torch.randn(T, 2, F)
    _, result = own(x, record=("0.layer.input",))
    assert torch.equal(result.record["0.layer.input"], x)
    assert torch.equal(result.record["0.layer#1.input"], 2 * x)


def test_what_has_no_rows_is_given_as_it_is():
    net, x = sl.Network(nn.LSTM(F, 6, batch_first=True), Take()), torch.randn(T, B, 7, F)
    with torch.no_grad(), sl.taps(net, "0.output") as seen:
        net(x)
    y, (h, c) = seen["0.output"][0]
    wanted = net.body[0](x.flatten(0, 1))
    torch.testing.assert_close(y, wanted[0].view(T, B, 7, 6))
    torch.testing.assert_close((h, c), wanted[1])
    with (
        torch.no_grad(),
        sl.taps(net, "0.output", keep="mean"),
        pytest.raises(ValueError, match="is tuple; give a function"),
    ):
        net(x)


class Take(nn.Module):
    def forward(self, found):
        return found[0]


def test_compiled_code_refuses_and_names_of_wrappers_are_left_out():
    net, x = small().eval(), torch.randn(T, B, F)
    torch._dynamo.reset()  # what was compiled too often before runs as it is
    compiled = torch.compile(net, backend="eager")
    with torch.no_grad():
        wanted = compiled(x)
        with sl.taps(compiled, "0.output") as seen:
            net(x)
            with pytest.raises(RuntimeError, match="run the module that it was made of"):
                compiled(x)
        with pytest.raises(RuntimeError, match="run the module that it was made of"):
            compiled(x, record=("0.input",))
        assert torch.equal(compiled(x), wanted)
        assert list(compiled(x, record=("2.v", "2.output"))[1].record) == ["2.v", "2.output"]
    assert seen.names == ("0.output",)
    torch._dynamo.reset()


def test_models_that_hold_networks_and_networks_in_data_parallel(tmp_path):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.actor, self.critic = small(), small()

    pair, x = Pair(), torch.randn(T, B, F)
    with torch.no_grad(), sl.taps(pair, "actor.0.output", "critic.2.v") as seen:
        pair.actor(x), pair.critic(x)
    assert seen.names == ("actor.0.output", "critic.2.v")
    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(small())
        with sl.taps(parallel, "0.output", "0.grad_output", "2.output") as seen:
            parallel(x).sum().backward()
    finally:
        dist.destroy_process_group()
    assert seen.names == ("0.output", "2.output", "0.grad_output")


def test_the_table_says_what_there_is():
    net, x = small().eval(), torch.randn(T, B, F)
    with torch.no_grad(), sl.taps(net, "0.output", "2.v") as seen:
        net(x), net(x)
    assert [row.split() for row in seen.table().split("\n")] == [
        ["name", "values", "shape", "kB"],
        ["0.output", "2", "[5,", "3,", "8]", "1.0"],
        ["2.v", "2", "[5,", "3,", "8]", "1.0"],
    ]
