"""A stream's steps as graphs, without a GPU: by the stand-in of tests/recorder.py."""

import copy
import pickle

import pytest
import torch
from torch import nn

import spikeloom as sl
from recorder import StandIn, recording
from spikeloom.core.unchanged import Unchanged


@pytest.fixture(autouse=True)
def _recording():
    with recording(), torch.no_grad():
        yield


def network(*layers):
    torch.manual_seed(0)
    return sl.Network(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        sl.LIF(v_threshold=0.3),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 5),
        *layers or (sl.Leaky(beta=0.9, v_threshold=0.3), nn.Linear(5, 2), sl.LI()),
    ).eval()


def same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[k][n], b[k][n]) for k in a for n in a[k])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_stream_gives_what_the_network_gives(mode):
    net, x = network(), torch.randn(12, 3, 2, 4, 4)
    stream = net.stream()
    wanted, result = net(x, return_state=True)
    with mode():
        ys = []
        for t, x_t in enumerate(x):
            ys.append(stream(x_t))
            assert stream.prepared is (t >= 3)  # from rest, two of the kind, captured
    assert torch.equal(torch.stack(ys), wanted)
    assert same(stream.state, result.state)


def test_outputs_and_states_are_copies():
    net, x = network(sl.LI()), torch.randn(8, 3, 2, 4, 4)
    stream = net.stream()
    ys = [stream(x_t) for x_t in x[:5]]
    assert stream.prepared
    state, before = stream.state, ys[-1].clone()
    values = {k: {n: v.clone() for n, v in s.items()} for k, s in state.items()}
    for x_t in x[5:]:
        stream(x_t)
    assert torch.equal(ys[-1], before)
    assert same(state, values)
    assert not same(stream.state, values)


def test_a_state_may_be_set_and_reset():
    net, x = network(), torch.randn(10, 3, 2, 4, 4)
    stream = net.stream()
    first = [stream(x_t) for x_t in x]
    assert stream.prepared
    stream.reset()
    assert stream.state is None
    assert all(torch.equal(stream(x_t), y) for x_t, y in zip(x, first, strict=True))
    half = net(x[:4], return_state=True)[1].state
    stream.state = half
    assert all(torch.equal(stream(x_t), y) for x_t, y in zip(x[4:], first[4:], strict=True))
    assert stream.prepared


def test_recordings_gradients_and_other_batches_leave_the_graph():
    net, x = network(), torch.randn(10, 3, 2, 4, 4)
    stream, plain = net.stream(), net(x)
    for t in range(5):
        stream(x[t])
    y, result = stream(x[5], record=("2.v",))
    assert not stream.prepared
    assert torch.equal(y, plain[5])
    assert result.record["2.v"].shape == (3, 4, 4, 4)
    assert torch.equal(stream(x[6]), plain[6])
    assert stream.prepared
    with torch.enable_grad():
        assert torch.equal(stream(x[7]), plain[7])
    assert not stream.prepared
    stream.detach()
    assert torch.equal(stream(x[8]), plain[8])
    assert stream.prepared
    with pytest.raises(ValueError, match=r"the given state 'v' is"):
        stream(torch.randn(2, 2, 4, 4))
    assert torch.equal(stream(x[9]), plain[9])


def test_changes_of_the_network_are_seen():
    net, x = network(), torch.randn(60, 3, 2, 4, 4)
    stream, state, captured = net.stream(), None, 0
    changes = {
        8: lambda: setattr(net.body[2], "v_threshold", 0.5),
        16: lambda: net.body[0].weight.data.mul_(2),
        24: lambda: setattr(net.body[2], "reset", "soft"),
        32: lambda: net.body.__setitem__(5, nn.Linear(16, 5)),
        40: lambda: setattr(net.body[0], "weight", nn.Parameter(torch.randn(4, 2, 3, 3))),
        48: lambda: net.body[1].running_mean.add_(0.5),
    }
    for t, x_t in enumerate(x):
        changes.get(t, lambda: None)()
        y = stream(x_t)
        wanted, state = net.step(x_t, state=state)
        assert torch.equal(y, wanted), t
        captured += stream.prepared
    assert captured >= 40
    stream.refresh()
    assert torch.equal(stream(x[0]), net.step(x[0], state=state)[0])


def test_two_batch_sizes_share_a_stream():
    net = network()
    stream = net.stream()
    for n in (3, 1, 3, 1):
        x = torch.randn(6, n, 2, 4, 4)
        stream.reset()
        assert torch.equal(torch.stack([stream(x_t) for x_t in x]), net(x))
        assert stream.prepared


def test_hooks_and_taps_leave_the_graph():
    net, x, seen = network(), torch.randn(12, 3, 2, 4, 4), []
    stream, plain = net.stream(), net(x)
    for t in range(4):
        stream(x[t])
    handle = net.body[5].register_forward_hook(lambda m, i, o: seen.append(1))
    assert torch.equal(stream(x[4]), plain[4])
    assert seen == [1]
    handle.remove()
    with sl.taps(net, "2.output") as tapped:
        assert torch.equal(stream(x[5]), plain[5])
    assert len(tapped["2.output"]) == 1
    assert torch.equal(stream(x[6]), plain[6])
    assert stream.prepared


def test_a_norm_in_training_mode_is_refused_as_ever():
    net, x = network(), torch.randn(3, 2, 4, 4)
    stream = net.stream()
    for _ in range(5):
        stream(x)
    net.body[1].train()
    for _ in range(5):
        with pytest.raises(ValueError, match="in training mode and would count the samples of one step"):
            stream(x)


def test_copies_have_the_state_and_graphs_of_their_own():
    net, x = network(), torch.randn(12, 3, 2, 4, 4)
    stream, plain = net.stream(), net(x)
    for t in range(5):
        stream(x[t])
    for other in (copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))):
        assert torch.equal(torch.stack([other(x_t) for x_t in x[5:]]), plain[5:])
    before = StandIn.count
    assert torch.equal(stream(x[5]), plain[5])
    assert StandIn.count == before


def test_states_that_change_their_kind_run_as_ever():
    class Growing(sl.TemporalModule):
        def initial_state(self, x):
            return {"n": 0}

        def sequence(self, x, *, state=None, lengths=None, record=()):
            n = 0 if state is None else state["n"]
            steps = torch.arange(n + 1, n + 1 + len(x)).reshape(-1, 1, 1).to(x.dtype)
            return x * steps, {"n": n + len(x)}

        def step(self, x, *, state=None):
            n = 0 if state is None else state["n"]
            return x * (n + 1), {"n": n + 1}

    net = sl.Network(nn.Linear(2, 2), Growing(), sl.LI()).eval()
    stream, x = net.stream(), torch.randn(80, 3, 2)
    wanted = net(x)
    for t, x_t in enumerate(x):
        torch.testing.assert_close(stream(x_t), wanted[t])
        assert not stream.prepared


def test_a_frozen_stream_looks_at_its_input_alone(monkeypatch):
    net, x = network(), torch.randn(30, 3, 2, 4, 4)
    stream, plain = net.stream(frozen=True), net(x)
    looks = []
    original = Unchanged.hold
    monkeypatch.setattr(Unchanged, "hold", lambda self: looks.append(1) or original(self))
    for t in range(5):
        assert torch.equal(stream(x[t]), plain[t])
    before = len(looks)
    for t in range(5, 10):
        assert torch.equal(stream(x[t]), plain[t])
        assert stream.prepared
    assert len(looks) == before
    with torch.enable_grad():
        assert torch.equal(stream(x[10]), plain[10])
    assert torch.equal(stream(x[11]), plain[11])
    with pytest.raises(ValueError, match=r"the given state 'v' is"):
        stream(torch.randn(2, 2, 4, 4))
    net.body[2].v_threshold = 0.6
    stream.refresh()
    state = stream.state
    for t in range(12, 20):
        y, state = net.step(x[t], state=state)
        assert torch.equal(stream(x[t]), y)
    assert stream.prepared


def test_a_frozen_stream_of_prepared_steps(monkeypatch):
    from spikeloom.core.watch import Watch

    net, x = network(), torch.randn(10, 3, 2, 4, 4)
    with sl.backend("auto"):
        plain, stream, looks = net(x), net.stream(frozen=True), []
        monkeypatch.setattr(Watch, "holds", lambda self: looks.append(1) or True)
        for t, x_t in enumerate(x):
            torch.testing.assert_close(stream(x_t), plain[t])
        assert stream.prepared
        assert not looks
        copied = copy.deepcopy(stream)
        torch.testing.assert_close(copied(x[0]), stream(x[0]))
        assert not looks


def test_a_neuron_alone():
    neuron, x = sl.LIF(v_threshold=0.3), torch.randn(9, 3, 4)
    stream = sl.Stream(neuron)
    assert torch.equal(torch.stack([stream(x_t) for x_t in x]), neuron.sequence(x)[0])
    assert stream.prepared
