"""Streams of any temporal module: a neuron by itself, a recurrent one, a loop, one of somebody's."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom.core import Prepared, UnfitError


class Delay(sl.TemporalModule):
    """Gives each step at the next one."""

    def initial_state(self, x_t):
        return torch.zeros_like(x_t)

    def step(self, x_t, state=None):
        return (self.initial_state(x_t) if state is None else state), x_t


class Feedback(sl.TemporalModule):
    """Adds to its input a half of what its neuron gave."""

    def __init__(self):
        super().__init__()
        self.neuron = sl.IF(v_threshold=1.0, v_reset=0.0)

    def initial_state(self, x_t):
        return torch.zeros_like(x_t)

    def step(self, x_t, state=None):
        y = self.neuron(x_t + 0.5 * (self.initial_state(x_t) if state is None else state))
        return y, y


def recurrent():
    layer = nn.Linear(4, 4, bias=False)
    nn.init.eye_(layer.weight)
    return sl.nn.Recurrent(sl.LIF(v_threshold=0.3), layer)


def norm_neuron():
    norm = nn.BatchNorm1d(4)
    nn.init.constant_(norm.running_var, 0.25)
    return sl.nn.NormNeuron(norm, sl.LIF(v_threshold=0.5))


MODULES = {
    "LIF": lambda: sl.LIF(v_threshold=0.3),
    "packed IF": lambda: sl.IF(v_threshold=0.4),
    "LI": sl.LI,
    "refractory": lambda: sl.options.Refractory(sl.LIF(v_threshold=0.2), steps=2),
    "membrane norm": lambda: sl.options.MPBN(sl.LIF(v_threshold=0.3), 4),
    "norm": norm_neuron,
    "recurrent": recurrent,
    "loop": lambda: sl.Loop(Feedback()),
    "layers in a loop": lambda: sl.Loop(nn.Sequential(nn.Linear(4, 4), sl.LIF(v_threshold=0.1))),
    "delay": Delay,
    "network": lambda: sl.Network(nn.Linear(4, 4), sl.LIF(v_threshold=0.1)),
}
PREPARED = {"LIF", "packed IF", "LI", "refractory", "norm", "network"}


def test_a_neuron_by_hand():
    """``v += (x - v) / 2`` from 0 with x = 3: 1.5 fires at 1.4 and is set to 0; x = 2: 1, 1.5 fires."""
    stream = sl.Stream(sl.LIF(tau=2.0, v_threshold=1.4, v_reset=0.0).eval())
    for mode in (torch.no_grad, torch.enable_grad):
        stream.reset()
        with mode():
            found = [(float(stream(torch.tensor([[x]]))), float(stream.state["v"])) for x in (3.0, 2.0, 2.0)]
        assert found == [(1.0, 0.0), (0.0, 1.0), (1.0, 0.0)]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("name", MODULES)
def test_steps_give_what_the_sequence_gives(name, mode):
    torch.manual_seed(0)
    module, x = MODULES[name]().eval(), torch.rand(6, 3, 4)
    with mode():
        if name == "packed IF":
            module.packed = True
        wanted, final = module.sequence(x)
        stream = sl.Stream(module)
        got = torch.stack([stream(x_t) * 1 for x_t in x])
        assert stream.prepared == (name in PREPARED and mode is not torch.enable_grad)
    assert (wanted * 1).detach().mean() > 0
    torch.testing.assert_close(got, wanted * 1)
    ours, theirs = (torch.utils._pytree.tree_flatten(state) for state in (stream.state, final))
    assert ours[1] == theirs[1]
    for a, b in zip(ours[0], theirs[0], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("name", ["LIF", "recurrent", "delay", "norm"])
def test_a_batch_of_another_size_raises(name, mode):
    stream = sl.Stream(MODULES[name]().eval())
    with mode():
        stream(torch.rand(3, 4))
        state = stream.state
        with pytest.raises(ValueError, match=r"is \[3, 4\] .* needs \[2, 4\]"):
            stream(torch.rand(2, 4))
        assert stream.state is state
        stream.reset()
        assert stream(torch.rand(2, 4)).shape == (2, 4)


def test_detach_cuts_the_state_from_earlier_steps():
    stream = sl.Stream(sl.LI(tau=2.0))  # v += (x - v) / 2
    first, second = (torch.ones(1, 1, requires_grad=True) for _ in range(2))
    stream(first)
    assert float(torch.autograd.grad(stream(second).sum(), first)[0]) == 0.25
    stream.reset()
    stream(first)
    stream.detach()
    assert not stream.state["v"].requires_grad
    y = stream(second)
    assert torch.autograd.grad(y.sum(), (first, second), allow_unused=True) == (None, torch.full((1, 1), 0.5))


CHANGES = {
    "a number": lambda lif: setattr(lif, "v_threshold", 0.05),
    "a number in place": lambda lif: lif.v_threshold.fill_(0.05),
    "an option": lambda lif: setattr(lif, "reset", "none"),
    "a surrogate": lambda lif: setattr(lif, "surrogate", sl.surrogate.Sigmoid(2.0, spiking=False)),
    "a mode": lambda lif: lif.train(),
    "a class": lambda lif: setattr(lif, "__class__", Louder),
    "a step of its own": lambda lif: setattr(lif, "step", lambda x, state: (x + 7, state)),
    "packed": lambda lif: setattr(lif, "packed", True),
}


class Louder(sl.LIF):
    def dynamics(self, x, v):
        return super().dynamics(3 * x, v)


@pytest.mark.parametrize("name", CHANGES)
def test_the_next_step_of_a_neuron_sees_what_was_changed(name):
    torch.manual_seed(0)
    lif, x = sl.LIF(v_threshold=0.3).eval(), torch.rand(6, 1, 9000)
    stream = sl.Stream(lif)
    with torch.no_grad():
        for x_t in x[:3]:
            stream(x_t)
            assert stream.prepared
        state = stream.state
        CHANGES[name](lif)
        with sl.backend("eager"):
            wanted = []
            for x_t in x[3:]:
                y, state = lif.step(x_t, state=state)
                wanted.append(y * 1)
        got = [stream(x_t) for x_t in x[3:]]
        assert isinstance(got[0], sl.SpikeTensor) == (name == "packed")
        torch.testing.assert_close(torch.stack([y * 1 for y in got]), torch.stack(wanted))
        torch.testing.assert_close(stream.state["v"], state["v"])


def test_a_subclass_with_a_step_of_its_own_runs_it():
    class Counts(sl.LIF):
        calls = 0

        def step(self, *x_t, state=None):
            self.calls += 1
            return super().step(*x_t, state=state)

    neuron = Counts().eval()
    for module in (neuron, sl.Network(nn.Identity(), neuron).eval()):
        neuron.calls, stream = 0, sl.Stream(module)
        with torch.no_grad():
            for _ in range(3):
                stream(torch.rand(2, 4))
        assert neuron.calls == 3


class Gain(sl.TemporalModule):
    """``k x``, prepared by itself and together with a Flatten before it; it counts what ran."""

    def __init__(self):
        super().__init__()
        self.k, self.own, self.made, self.unfit = 2.0, 0, [], False

    def step(self, x_t, state=None):
        self.own += 1
        return self.k * x_t, state

    def prepared(self, x, *, previous=None, last=True):
        if not (previous is None or type(previous) is nn.Flatten):
            return None
        self.made.append((type(previous), last))
        k, y = self.k, torch.empty_like(x if previous is None else previous(x))
        start = None if previous is None else previous.start_dim

        def step(x, state):
            if self.unfit:
                raise UnfitError
            return torch.mul(x if start is None else x.flatten(start), k, out=y), state

        return Prepared(step, output=y, reads=() if previous is None else (previous,), facts=lambda: self.k)


def test_what_a_module_of_somebodys_says_of_its_prepared_step():
    gain, x = Gain().eval(), torch.tensor([[1.0, 3.0]])
    stream = sl.Stream(gain)
    with torch.no_grad():
        ys = [stream(x), stream(2 * x)]
        gain.k = 5.0  # a fact
        ys += [stream(x), stream(2 * x)]
        assert [y.tolist() for y in ys] == [[[2.0, 6.0]], [[4.0, 12.0]], [[5.0, 15.0]], [[10.0, 30.0]]]
        assert (gain.own, len(gain.made)) == (0, 2)
        gain.unfit = True
        assert stream(x).tolist() == [[5.0, 15.0]]
        assert (gain.own, stream.prepared) == (1, False)


def test_a_module_of_somebodys_among_layers():
    flatten, gain, x = nn.Flatten(), Gain(), torch.arange(6.0).view(1, 2, 3)
    net = sl.Network(nn.Identity(), flatten, gain, sl.LI(tau=2.0)).eval()  # v += (x - v) / 2
    stream = net.stream()
    with torch.no_grad():
        assert [stream(x).flatten().tolist() for _ in range(2)] == [[0, 1, 2, 3, 4, 5], [0, 1.5, 3, 4.5, 6, 7.5]]
        assert gain.made == [(nn.Flatten, False)]
        flatten.start_dim = 2  # an option of a layer that was read
        stream.reset()
        assert stream(x).shape == (1, 2, 3)
        assert len(gain.made) == 2
        net.fuse = False
        stream.reset()
        assert stream(x).shape == (1, 2, 3)
        assert gain.made[2:] == [(type(None), False)]
    assert gain.own == 0
    gain.prepared = "an attribute of somebody's"
    with torch.no_grad():
        stream.reset()
        assert stream(x).shape == (1, 2, 3)


def test_an_input_that_a_kernel_cannot_read_refuses_no_other():
    stream, x = sl.Stream(sl.LIF(v_threshold=0.3).eval()), torch.rand(3, 8)
    with torch.no_grad():
        for given, prepared in ((x[:, ::2], False), (x[:, ::2], False), (x[:, :4].contiguous(), True)):
            stream(given)
            assert stream.prepared == prepared


def test_outputs_and_copies_are_ones_own():
    stream = sl.Stream(sl.LIF(v_threshold=0.3).eval())
    x = torch.rand(4, 2, 5)
    with torch.no_grad():
        first = stream(x[0])
        value, twin = first.clone(), copy.deepcopy(stream)
        third = pickle.loads(pickle.dumps(stream))
        stream(x[1])
        assert torch.equal(first, value)
        ys = [s(x[2]) for s in (twin, third)]
        assert torch.equal(ys[0], ys[1])
        assert twin.prepared


def test_states_keep_their_dtype_under_autocast():
    stream = sl.Stream(recurrent().eval())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        dtypes = []
        for x_t in torch.rand(3, 2, 4):
            stream(x_t)
            dtypes.append([t.dtype for t in torch.utils._pytree.tree_leaves(stream.state)])
    assert dtypes[0] == dtypes[1] == dtypes[2]


def test_what_cannot_be_streamed():
    with pytest.raises(
        ValueError, match=r"^PSN\(.*\) is not causal: it needs the whole sequence, and cannot be stream"
    ):
        sl.Stream(sl.nn.PSN(T=7))
    with pytest.raises(ValueError, match=r"at '1' is not causal: .* so the network cannot be streamed; call net\(x\)"):
        sl.Stream(sl.Network(nn.Linear(3, 5), sl.nn.PSN(T=7)))
    with pytest.raises(TypeError, match=r"Stream: expected a network .* got Linear; wrap plain layers, sl.Stream"):
        sl.Stream(nn.Linear(3, 5))


def test_a_compiled_network_steps_as_the_network_does():
    net, x = sl.Network(nn.Linear(4, 3), sl.LIF(v_threshold=0.1)).eval(), torch.rand(3, 2, 4)
    stream, other = sl.Stream(torch.compile(net, backend="eager")), net.stream()
    with torch.no_grad():
        for x_t in x:
            assert torch.equal(stream(x_t), other(x_t))
    assert stream.prepared


def test_the_older_name_of_the_module_warns():
    net = sl.Network(sl.LIF())
    assert net.stream().module is net
    with pytest.warns(DeprecationWarning, match=r"Stream\.network is called Stream\.module now"):
        assert net.stream().network is net


def test_recordings_of_a_step():
    net = sl.Network(nn.Linear(2, 3), sl.LIF(v_threshold=0.2), nn.Linear(3, 1)).eval()
    x = torch.rand(6, 4, 2)
    with torch.no_grad():
        _, whole = net(x, record=("1.v", "0.output", "2.input"))
        stream = net.stream()
        for t, x_t in enumerate(x):
            _, result = stream(x_t, record=("1.v", "0.output", "2.input"))
            assert list(result.record) == list(whole.record)
            for name, value in result.record.items():
                torch.testing.assert_close(value, whole.record[name][t], rtol=1e-6, atol=1e-6)
            assert result.state is stream.state
    lone = sl.Stream(sl.LIF(tau=2.0, decay_input=False, v_threshold=9.0))
    assert [float(lone(torch.tensor([[1.0]]), record=("v",))[1].record["v"]) for _ in range(3)] == [1.0, 1.5, 1.75]
    with pytest.raises(ValueError, match="cannot record"):
        lone(torch.tensor([[1.0]]), record=("w",))
    assert lone(torch.tensor([[1.0]]), record=("u",))[1].record["u"].item() == 1.875 - 9.0  # h = v / 2 + 1, of v = 1.75


def test_a_batch_norm_in_training_is_refused_unless_it_is_asked_for():
    net = sl.Network(nn.Linear(2, 3), nn.BatchNorm1d(3), sl.LIF())
    with pytest.raises(ValueError, match=r"BatchNorm1d at 'body\.1' is in training mode .*training=True"):
        net.stream()(torch.rand(4, 2))
    assert net.stream(training=True)(torch.rand(4, 2)).shape == (4, 3)
    stream = net.eval().stream()
    with torch.no_grad():
        stream(torch.rand(4, 2))
        net.body[1].train()
        with pytest.raises(ValueError, match="in training mode"):
            stream(torch.rand(4, 2))
    assert sl.Network(nn.Linear(2, 3), sl.LIF()).stream()(torch.rand(1, 2)).shape == (1, 3)  # nothing counts samples


def test_a_graph_over_many_steps_is_told_once(monkeypatch):
    from spikeloom.core import stream as streams

    monkeypatch.setattr(streams, "_MANY", 5)
    stream = sl.Network(nn.Linear(2, 3), sl.LIF()).stream()
    for _ in range(4):
        stream(torch.rand(1, 2))
    stream.detach()
    for _ in range(4):
        stream(torch.rand(1, 2))
    with pytest.warns(UserWarning, match=r"the graph of 5 steps.*no_grad.*stream\.detach"):
        stream(torch.rand(1, 2))
    stream(torch.rand(1, 2))  # not again
    stream.reset()
    with torch.no_grad():
        for _ in range(12):
            stream(torch.rand(1, 2))


def test_two_threads_in_one_stream_are_refused():
    begun, go_on = threading.Event(), threading.Event()

    class Waits(nn.Module):
        def forward(self, x):
            begun.set()
            go_on.wait(10)
            return x

    stream = sl.Network(Waits(), sl.LIF()).stream()
    thread = threading.Thread(target=stream, args=(torch.rand(1, 2),))
    thread.start()
    begun.wait(10)
    with pytest.raises(RuntimeError, match="another thread runs a step of this stream"):
        stream(torch.rand(1, 2))
    go_on.set()
    thread.join()
    stream(torch.rand(1, 2))  # free again
    copy.deepcopy(stream)(torch.rand(1, 2))
