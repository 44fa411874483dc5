"""Prepared steps of streams: what whole sequences give, whatever is changed between steps, and tensors of one's own."""

import copy
import ctypes
import pickle

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom.native import build

try:
    build.ready()
except build.BuildError as missing:
    pytest.skip(f"no C kernels on this machine: {missing}", allow_module_level=True)

GAIN = 1.0


class Adaptive(sl.Neuron):
    """With a state of its own making, learnable numbers per feature and a global constant."""

    def __init__(self, features):
        super().__init__()
        self.numbers(tau=3.0, rho=nn.Parameter(torch.linspace(0.7, 0.98, features)))
        self.states(v=0.0, a=0.0)

    def dynamics(self, x, v, a):
        v = v + (GAIN * x - v) / self.tau
        s = self.fire(v - 0.3 * a - 0.2)
        return s, v - s, a * self.rho + s * (1 - self.rho)


class Remembers(nn.Module):
    """Somebody's layer, which keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return x


def lively(net):
    """Enough spikes, and statistics that are not those of the start."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.track_running_stats:
            nn.init.uniform_(module.weight, 1.0, 3.0)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.2, 1.0)
    return net.eval()


def conv():
    return [
        nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), sl.LIF(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), sl.PLIF(v_threshold=0.2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(256, 64),
        nn.BatchNorm1d(64), sl.LIF(v_threshold=0.4), nn.Linear(64, 10), sl.LI(),
    ]  # fmt: skip


NETS = {
    "conv": (conv, (2, 8, 8)),
    "linear": (lambda: [nn.Linear(20, 64), Adaptive(64), nn.Linear(64, 32), sl.Leaky(beta=0.8)], (20,)),
    "odd sizes": (lambda: [nn.Linear(20, 13), sl.IF(v_threshold=0.1), nn.Linear(13, 7), sl.IF(v_threshold=0.1)], (20,)),
    "a neuron first": (lambda: [sl.IF(v_threshold=0.5), nn.Linear(24, 8), sl.LIF(v_threshold=0.1)], (24,)),
    "no neuron last": (lambda: [nn.Linear(20, 24), sl.IF(v_threshold=0.3), nn.Linear(24, 3)], (20,)),
    "strides and groups": (
        lambda: [
            nn.Conv2d(2, 8, 3), sl.IF(v_threshold=0.2), nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            nn.Conv2d(8, 8, 3, 2, 1, groups=2), sl.IF(v_threshold=0.1), nn.Conv2d(8, 4, 3, padding="same"),
            sl.IF(v_threshold=0.1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3),
        ],
        (2, 8, 8),
    ),
    "joined norm and options": (
        lambda: [
            nn.Linear(20, 16), sl.nn.NormNeuron(nn.BatchNorm1d(16), sl.LIF(v_threshold=0.2)), nn.Linear(16, 24),
            nn.LayerNorm(24), sl.options.Refractory(sl.LIF(v_threshold=0.1), steps=2), nn.Linear(24, 16),
            sl.options.MPBN(sl.LIF(v_threshold=0.05), 16),
        ],
        (20,),
    ),
    "other temporal modules": (
        lambda: [
            nn.Linear(20, 16), sl.nn.Recurrent(sl.LIF(v_threshold=0.1), nn.Linear(16, 16)), Remembers(), nn.Sigmoid(),
            sl.Loop(nn.Linear(16, 8)), sl.LI(), nn.Linear(8, 8), sl.nn.Inhibition(sl.LIF(v_threshold=0.1)),
        ],
        (20,),
    ),
}  # fmt: skip


def stepped(stream, xs):
    """The outputs of a stream, and which of its steps were prepared ones."""
    found = [(stream(x_t), stream.prepared) for x_t in xs]
    return [y for y, _ in found], [prepared for _, prepared in found]


@pytest.fixture
def plans(monkeypatch):
    """The prepared steps that streams of networks make from now on."""
    made, real = [], sl.Network.prepared

    def prepared(*args, **options):
        made.append(real(*args, **options))
        return made[-1]

    monkeypatch.setattr(sl.Network, "prepared", prepared)
    return made


@pytest.mark.parametrize("spikes", ["dense", "packed"])
@pytest.mark.parametrize("name", NETS)
def test_a_stream_gives_what_the_sequence_gives(name, spikes):
    make, shape = NETS[name]
    torch.manual_seed(0)
    net = lively(sl.Network(*make(), spikes=spikes))
    x, stream = torch.randn(7, 3, *shape), net.stream()
    with torch.no_grad():
        wanted, result = net(x, return_state=True)
        ys, prepared = stepped(stream, x)
        got = torch.stack([y * 1 for y in ys])
    assert prepared == [True] * 7
    assert wanted.mean() != 0
    torch.testing.assert_close(got, wanted * 1, atol=1e-5, rtol=1e-5)
    if spikes == "packed" and name in ("conv", "linear"):  # products add in the same order
        assert torch.equal(got, wanted * 1)
    flat, other = torch.utils._pytree.tree_flatten(stream.state), torch.utils._pytree.tree_flatten(result.state)
    assert flat[1] == other[1]
    for a, b in zip(flat[0], other[0], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_channels_last_and_inference_mode():
    net = lively(sl.Network(*conv(), spikes="packed")).to(memory_format=torch.channels_last)
    x = torch.randn(6 * 3, 2, 8, 8).contiguous(memory_format=torch.channels_last).unflatten(0, (6, 3))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            stream = net.stream()
            got, prepared = stepped(stream, x)
            assert torch.equal(torch.stack(got), net(x))
        assert prepared == [True] * 6


def change_weight(net):
    net.body[8].weight.data.mul_(1.0)  # which counts no change
    with torch.no_grad():
        net.body[8].weight.mul_(-1.5)


def change_numbers(net):
    net.body[2].tau = 5.0
    net.body[10].v_threshold = 0.1


def change_structure(net):
    net.body[3] = nn.AvgPool2d(2)


def replace_weight(net):
    net.body[4].weight = nn.Parameter(net.body[4].weight.detach().flip(0))


def load(net):
    torch.manual_seed(5)
    net.load_state_dict(lively(sl.Network(*conv(), spikes="packed")).state_dict())


CHANGES = {
    "weights in place": change_weight,
    "another weight": replace_weight,
    "numbers": change_numbers,
    "an option of a neuron": lambda net: setattr(net.body[2], "reset", "soft"),
    "an option of a layer": lambda net: setattr(net.body[3], "padding", 1) or setattr(net.body[3], "kernel_size", 3),
    "statistics": lambda net: net.body[1].running_mean.add_(0.4),
    "epsilon": lambda net: setattr(net.body[1], "eps", 0.5),
    "a layer": change_structure,
    "a surrogate that does not spike": lambda net: setattr(net.body[10], "surrogate", sl.surrogate.Sigmoid(2.0)),
    "a state dict": load,
    "a bias": lambda net: setattr(net.body[8], "bias", None),
    "dense spikes": lambda net: setattr(net, "spikes", "dense"),
    "no fusing": lambda net: setattr(net, "fuse", False),
    "training": lambda net: net.body[6].train(),
}


OPTIMISERS = {
    "fused Adam": lambda ps: torch.optim.Adam(ps, 0.3, fused=True),
    "fused AdamW": lambda ps: torch.optim.AdamW(ps, 0.3, fused=True),
    "fused SGD": lambda ps: torch.optim.SGD(ps, 0.5, fused=True),
    "fused Adagrad": lambda ps: torch.optim.Adagrad(ps, 0.3, fused=True),
    "foreach SGD": lambda ps: torch.optim.SGD(ps, 0.5, foreach=True),
    "Rprop": lambda ps: torch.optim.Rprop(ps, 0.1),
}


def wide():
    """Layers of bits whose weights are copied: nothing but the copies would show old ones."""
    torch.manual_seed(0)
    net = sl.Network(
        nn.Linear(16, 64),
        sl.LIF(v_threshold=0.1),
        nn.Linear(64, 64),
        sl.LIF(v_threshold=0.1),
        nn.Linear(64, 4),
        sl.LI(),
        spikes="packed",
    )
    return net.eval()


def step_by_loop(net, x):
    net.spikes = "dense"
    with torch.no_grad(), sl.backend("eager"):
        y, _ = net.step(x)
    net.spikes = "packed"
    return y


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_next_step_sees_the_step_of_an_optimiser(name):
    """Fused ones move neither the version of a tensor nor its address."""
    net, x = wide(), torch.rand(8, 16, generator=torch.Generator().manual_seed(1)) * 3
    stream = net.stream()
    with torch.no_grad():
        stream(x)
        stream(x)
        stream.reset()
        before = stream(x)
        stream.reset()
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    OPTIMISERS[name](net.parameters()).step()
    with torch.no_grad():
        after = stream(x)
    assert stream.prepared
    assert not torch.allclose(after, before, atol=1e-2)
    torch.testing.assert_close(after, step_by_loop(net, x), atol=1e-4, rtol=1e-4)


def test_the_optimiser_of_another_network_leaves_a_plan_alone(plans):
    net, other, x = wide(), wide(), torch.rand(8, 16)
    stream, optimiser = net.stream(), torch.optim.SGD(other.parameters(), 0.1)
    for p in other.parameters():
        p.grad = torch.ones_like(p)
    with torch.no_grad():
        stream(x)
        for _ in range(100):
            optimiser.step()
            stream(x)
    assert len(plans) == 1
    for _ in range(100):  # more than are remembered: then the plan is made anew, which is never wrong
        optimiser.step()
    with torch.no_grad():
        stream(x)
    assert len(plans) == 2


WRITES = {
    "data": lambda w: w.data.mul_(3.0),
    "new data": lambda w: setattr(w, "data", w.data * 3.0),
    "numpy": lambda w: w.detach().numpy().__imul__(3.0),
    "through half": None,
}


@pytest.mark.parametrize("name", WRITES)
def test_writes_that_move_no_version(name):
    net, x = wide(), torch.rand(8, 16) * 3
    stream = net.stream()
    with torch.no_grad():
        stream(x)
        stream.reset()
    if name == "through half":
        net.body[2].half()
        net.body[2].weight.data.mul_(4.0)
        net.body[2].float()
    else:
        WRITES[name](net.body[2].weight)
    with torch.no_grad():
        y = stream(x)
    torch.testing.assert_close(y, step_by_loop(net, x), atol=1e-4, rtol=1e-4)


def test_a_single_value_written_where_nobody_can_see_it_needs_refresh():
    net, x = wide(), torch.ones(1, 16)
    stream = net.stream()
    with torch.no_grad():
        stream(x)
        stream.reset()
        net.body[4].weight.data[0, 1] += 50.0
        net.body[4].weight.data[1, 3] += 50.0
        stream.refresh()
        y = stream(x)
    torch.testing.assert_close(y, step_by_loop(net, x), atol=1e-4, rtol=1e-4)


def test_a_plan_holds_no_memory_that_is_not_its_own(plans):
    """FSDP, for one, frees the memory of weights between calls."""
    net, x = wide(), torch.rand(8, 16) * 3
    stream = net.stream()
    with torch.no_grad():
        stream(x)
        kept = [net.body[2].weight.clone(), net.body[2].bias.clone()]
        for p in (net.body[2].weight, net.body[2].bias):
            p.untyped_storage().resize_(0)
        pointers = {int(a.value) for part in plans[0].parts for a in _addresses(part.step)}
        assert len(pointers) >= 8  # bits, weight, bias and output of two layers
        for p, value in zip((net.body[2].weight, net.body[2].bias), kept, strict=True):
            p.untyped_storage().resize_(4 * p.numel())
            p.copy_(value)
            assert p.data_ptr() not in pointers
        stream.reset()
        torch.testing.assert_close(stream(x), step_by_loop(net, x), atol=1e-4, rtol=1e-4)


def _addresses(function):
    """Addresses of memory in what a step is made of."""
    found, todo, seen = [], [function], set()
    while todo:
        f = todo.pop()
        if id(f) in seen:
            continue
        seen.add(id(f))
        if isinstance(f, ctypes.c_void_p):
            found.append(f)
        elif isinstance(f, (tuple, list)):
            todo += f
        elif hasattr(f, "__closure__"):
            todo += [c.cell_contents for c in f.__closure__ or ()]
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_the_next_step_sees_what_was_changed(name):
    torch.manual_seed(0)
    net = lively(sl.Network(*conv(), spikes="packed"))
    x, stream = torch.randn(6, 3, 2, 8, 8), net.stream()
    with torch.no_grad():
        assert stepped(stream, x[:3])[1] == [True] * 3
        before, state = stream(x[3]), stream.state
        stream.state = {key: dict(value) for key, value in state.items()}
        CHANGES[name](net)
        for x_t in x[3:]:
            torch.manual_seed(1)
            wanted, state = net.step(x_t, state=state)
            torch.manual_seed(1)
            torch.testing.assert_close(stream(x_t), wanted, atol=1e-5, rtol=1e-5)
        for key, values in state.items():
            for v, value in values.items():
                torch.testing.assert_close(stream.state[key][v], value, atol=1e-5, rtol=1e-5)
    assert before.shape == (3, 10)


def test_a_forward_of_ones_own_runs():
    net = lively(sl.Network(nn.Linear(20, 64), sl.LIF(v_threshold=0.1), nn.Linear(64, 8), spikes="packed"))
    x, stream = torch.randn(3, 20), net.stream()

    class Shouts(sl.LIF):
        def forward(self, x):
            return super().forward(2 * x)

    with torch.no_grad():
        stream(x)
        net.body[2].forward = lambda x: torch.full((3, 8), 7.0)
        assert stream(x).mean() == 7
        del net.body[2].forward
        assert stream(x).mean() != 7
        loud = sl.Network(nn.Linear(20, 64), Shouts(v_threshold=0.1), nn.Linear(64, 8)).eval()
        stream = loud.stream()
        for _ in range(2):
            state = stream.state
            torch.testing.assert_close(stream(x), loud.step(x, state=state)[0])
            assert not stream.prepared


def test_a_batch_norm_without_statistics_and_layers_of_changing_size():
    class Repeats(nn.Module):
        times = 1

        def forward(self, x):
            return x.repeat(1, self.times)

    repeats = Repeats()
    norm = nn.BatchNorm1d(16, track_running_stats=False)
    net = lively(sl.Network(nn.Linear(4, 16), norm, sl.LIF(v_threshold=0.1), repeats, sl.IF(v_threshold=0.5)))
    x, stream = torch.randn(3, 5, 4), net.stream()
    with torch.no_grad():
        torch.testing.assert_close(stream(x[0]), net.step(x[0])[0])
        state = stream.state
        assert stream.prepared
        torch.testing.assert_close(stream(x[1]), net.step(x[1], state=state)[0])
        assert stream.prepared
        repeats.times = 3
        stream.reset()
        assert torch.equal(stream(x[2]), net.step(x[2])[0])
        repeats.times = 2
        with pytest.raises(ValueError, match="the given state 'v'"):
            stream(x[0])


def test_a_global_constant_of_somebodys_equation(monkeypatch):
    net = lively(sl.Network(nn.Linear(20, 64), Adaptive(64)))
    x, stream = torch.randn(3, 20), net.stream()
    with torch.no_grad():
        stream(x)
        monkeypatch.setitem(globals(), "GAIN", 3.0)
        wanted, _ = net.step(x, state=stream.state)
        assert torch.equal(stream(x), wanted)
        assert wanted.sum() > 0


def test_hooks_gradients_and_other_backends_get_the_usual_step():
    net, seen = lively(sl.Network(*conv(), spikes="packed")), []
    x, stream = torch.randn(2, 2, 8, 8), net.stream()
    with torch.no_grad():
        stream(x)
        assert stream.prepared
        handle = net.body[7].register_forward_hook(lambda module, args, output: seen.append(output))
        assert stepped(stream, [x, x])[1] == [False] * 2
        handle.remove()
        with nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(module)):
            stream(x)
            assert not stream.prepared
        assert [type(s) for s in seen[:2]] == [sl.SpikeTensor] * 2 or seen[0].shape == (2, 256)
        assert all(layer in seen[2:] for layer in net.body)
        with sl.backend("eager"), sl.kernel.watching() as ran:
            stream(x)
            assert not stream.prepared
        assert {row[1] for row in ran if row[0] is not None} == {"eager"}
        with torch.autocast("cpu", torch.bfloat16):
            stream(x)
            assert not stream.prepared
        assert stepped(stream, [x, x])[1] == [True] * 2
    y = stream(x)
    assert y.requires_grad
    assert not stream.prepared
    assert torch.autograd.grad(y.sum(), net.body[0].weight)[0].abs().sum() > 0
    stream.detach()
    assert not any(v.requires_grad for values in stream.state.values() for v in values.values())


@pytest.mark.parametrize("spikes", ["dense", "packed"])
def test_what_a_step_gave_is_ones_own(spikes):
    """No later step changes it, nor what a layer of somebody's was given."""
    remembers = Remembers()
    net = lively(sl.Network(nn.Linear(20, 32), sl.IF(v_threshold=0.3), remembers, nn.Flatten(), spikes=spikes))
    x, stream = torch.randn(5, 3, 20), net.stream()
    with torch.no_grad():
        outputs, states = [], []
        for x_t in x:
            outputs.append(stream(x_t))
            states.append(stream.state["1"]["v"])
            assert stream.prepared
        wanted, result = net(x, record=("1.v",))
        seen = torch.stack([s * 1 for s in remembers.seen[:5]])
    assert torch.equal(torch.stack([y * 1 for y in outputs]), wanted * 1)
    torch.testing.assert_close(torch.stack(states), result.record["1.v"])
    assert torch.equal(seen, wanted.view(5, 3, 32) * 1)
    assert 0 < wanted.mean() < 1


def test_copies_and_streams_side_by_side_share_no_memory():
    net = lively(sl.Network(*conv(), spikes="packed"))
    xs = torch.randn(3, 5, 2, 2, 8, 8)
    with torch.no_grad():
        first, second = net.stream(), net.stream()
        first(xs[0, 0])
        third = copy.deepcopy(first)
        fourth = pickle.loads(pickle.dumps(first))
        got = [[], [], []]
        for t in range(1, 5):
            got[0].append(first(xs[0, t]))
            got[1].append(second(xs[1, t]))
            third_y = third(xs[0, t])
            got[2].append(third_y)
            assert torch.equal(fourth(xs[0, t]), third_y)
        assert torch.equal(torch.stack(got[0]), net(xs[0])[1:])
        assert torch.equal(torch.stack(got[2]), net(xs[0])[1:])
        assert torch.equal(torch.stack(got[1]), net(xs[1, 1:]))
    assert all(stream.prepared for stream in (first, second, third, fourth))


def test_states_that_do_not_fit_and_other_batches(plans):
    net = lively(sl.Network(nn.Linear(4, 8), sl.LIF(v_threshold=0.1)))
    stream = net.stream()
    with torch.no_grad():
        stream(torch.randn(2, 4))
        stream(torch.randn(2, 4))
        with pytest.raises(ValueError, match=r"the given state 'v' is \[2, 8\] .* needs \[3, 8\]"):
            stream(torch.randn(3, 4))
        stream.state = {"0": stream.state["1"]}
        with pytest.raises(ValueError, match="has nothing for '1'"):
            stream(torch.randn(2, 4))
        stream.reset()
        x = torch.randn(2, 4)
        assert torch.equal(stream(x), net.step(x)[0])
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            stream(torch.randn(2, 5))
        with pytest.raises(ValueError, match="B > 0"):
            stream(torch.randn(0, 4))
        before = stream.state
        plans.clear()
        for B in (1, 2, 1, 2, 1, 2, 1, 2):  # no plan is made for each
            stream.reset()
            x = torch.randn(B, 4)
            assert torch.equal(stream(x), net.step(x)[0])
        assert len(plans) == 3  # after the failure above it is the fourth in vain
        x = torch.randn(5, 4)
        stream.reset()
        for _ in range(20):  # when sizes have settled it tries again
            stream(x)
        assert len(plans) == 4
        assert stream.prepared
        stream.state, x = before, torch.randn(2, 4)
        assert torch.equal(stream(x), net.step(x, state=before)[0])


def test_a_layer_that_fails_leaves_the_stream_as_it_was():
    class Fails(nn.Module):
        fails = False

        def forward(self, x):
            if self.fails:
                raise ArithmeticError("now")
            return x

    layer = Fails()
    net = lively(sl.Network(nn.Linear(4, 8), sl.LIF(v_threshold=0.1), layer, sl.LI()))
    x, stream = torch.randn(4, 2, 4), net.stream()
    with torch.no_grad():
        layer.fails = True
        with pytest.raises(ArithmeticError):
            stream(x[0])
        layer.fails = False
        stream(x[0])
        stream(x[1])
        layer.fails = True
        with pytest.raises(ArithmeticError):
            stream(x[2])
        layer.fails = False
        got = torch.stack([stream(x_t) for x_t in x[2:]])
        torch.testing.assert_close(got, net(x)[2:])


def test_a_module_twice_and_modules_inside_of_layers():
    lif, linear = sl.LIF(v_threshold=0.1), nn.Linear(8, 8)
    net = lively(sl.Network(linear, lif, linear, lif))
    x, stream = torch.randn(5, 2, 8), net.stream()
    with torch.no_grad():
        got, prepared = stepped(stream, x)
        torch.testing.assert_close(torch.stack(got), net(x))
        assert set(stream.state) == {"1", "1#1"}
        assert prepared == [True] * 5

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.spike = sl.LIF(v_threshold=0.1)

            def forward(self, x):
                return self.spike(x) + x

        net = lively(sl.Network(nn.Linear(8, 8), Block(), sl.Network(nn.Linear(8, 8), sl.LIF())))
        stream = net.stream()
        got, prepared = stepped(stream, x)
        torch.testing.assert_close(torch.stack(got), net(x))
        assert prepared == [False] * 5
