"""sl.graphed without a GPU: a stand-in records operators and replays them, see tests/recorder.py."""

import copy
import gc
import pickle
import random
import threading

import pytest
import torch
from torch import nn

import spikeloom as sl
from recorder import StandIn, recording
from spikeloom.spikes import from_bits

X = (5, 3, 2, 4, 4)
GAIN = 1.0


@pytest.fixture(autouse=True)
def _recording():
    with recording():
        yield


def network(*, dropout=0.3, norm=True):
    torch.manual_seed(0)
    return sl.Network(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4) if norm else nn.Identity(),
        sl.LIF(v_threshold=0.3),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(64, 5),
        sl.PLIF(v_threshold=0.1),
    )


def train(call, net, steps=6):
    """The losses of some steps, and all that training leaves behind."""
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    torch.manual_seed(1)
    losses = []
    for _ in range(steps):
        x, target = torch.randn(X), torch.randint(5, (3,))
        loss = nn.functional.cross_entropy(call(x).mean(0), target)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    state = {name: v for name, v in net.state_dict().items() if isinstance(v, torch.Tensor)}
    return losses, state, torch.get_rng_state()


def ready(net, x, **options):
    """A graphed network that has captured calls with such an input."""
    return sl.graphed(net, x, **options)


def test_training_is_the_same_bit_by_bit():
    plain, captured = network(), network()
    fast = sl.graphed(captured)
    (losses, state, generator), (found, now, drawn) = train(plain, plain), train(fast, captured)
    assert fast.captured
    assert found == losses
    assert state.keys() == now.keys()
    for name, value in state.items():
        assert torch.equal(value, now[name]), name
    assert int(now["body.1.num_batches_tracked"]) == 6
    assert torch.equal(generator, drawn)


def test_a_kind_of_call_is_captured_at_its_third():
    fast = sl.graphed(network())
    for captured in (False, False, True, True):
        fast(torch.randn(X)).sum().backward()
        assert fast.captured is captured
    fast(torch.randn(4, 3, 2, 4, 4)).sum().backward()
    assert not fast.captured
    assert fast.reason == "call 1 of its kind; number 3 is recorded"
    assert fast.graphs == 1


def test_capturing_leaves_all_as_it_was():
    net, x = network(), torch.randn(X)
    net(x).sum().backward()
    values = {name: v.clone() for name, v in net.state_dict().items() if isinstance(v, torch.Tensor)}
    gradients = [p.grad.clone() for p in net.parameters()]
    torch.manual_seed(7)
    generator, host = torch.get_rng_state(), random.getstate()
    fast = sl.graphed(net, x)
    assert fast.graphs == 1
    assert all(torch.equal(v, net.state_dict()[name]) for name, v in values.items())
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), generator)
    assert random.getstate() == host


def test_outputs_and_gradients_are_copies():
    net = network(dropout=0.0, norm=False)
    x = torch.randn(X, requires_grad=True)
    fast = ready(net, x)
    y = fast(x)
    before = y.detach().clone()
    y.sum().backward()
    first, of_x = [p.grad for p in net.parameters()], x.grad
    values = [g.clone() for g in (*first, of_x)]
    z = torch.randn(X, requires_grad=True)
    net.zero_grad()
    fast(z).sum().backward()
    assert fast.captured
    assert torch.equal(y, before)
    assert all(torch.equal(g, v) for g, v in zip((*first, of_x), values, strict=True))


def test_gradients_accumulate():
    net, plain = network(dropout=0.0), network(dropout=0.0)
    fast = ready(net, torch.randn(X))
    for call in (fast, plain):
        torch.manual_seed(3)
        for _ in range(3):
            call(torch.randn(X)).square().sum().backward()
    assert fast.captured
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_two_calls_before_a_backward_pass():
    """The second runs ungraphed, since a replay would write over what the first has saved."""
    net, plain = network(dropout=0.0), network(dropout=0.0)
    fast = ready(net, torch.randn(X))
    a, b = torch.randn(X), torch.randn(X)
    ys = fast(a), fast(b)
    assert "still to come" in fast.reason
    (ys[0] - ys[1]).square().sum().backward()
    (plain(a) - plain(b)).square().sum().backward()
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-6)
    fast(a)  # nobody keeps what it gives
    gc.collect()
    fast(a)
    assert fast.captured


def test_a_second_backward_pass_through_a_call_raises():
    fast = ready(network(), torch.randn(X))
    loss = fast(torch.randn(X)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="a second backward pass through the same call"):
        loss.backward()


def test_gradients_of_gradients_raise():
    x = torch.randn(X, requires_grad=True)
    fast = ready(network(norm=False, dropout=0.0), x)
    (g,) = torch.autograd.grad(fast(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


def test_without_gradients_and_in_inference_mode():
    net = network().eval()
    fast = sl.graphed(net)
    for mode in (torch.no_grad, torch.inference_mode):
        for k in range(4):
            x = torch.randn(X)
            with mode():
                y, wanted = fast(x), net(x)
            assert fast.captured is (k >= 2)
            assert torch.equal(y, wanted)
            assert not y.requires_grad
    assert fast.graphs == 2


def test_states_and_recordings_are_part_of_a_call():
    net = network(norm=False, dropout=0.0).eval()
    fast, x = sl.graphed(net), torch.randn(X)
    state = wanted = None
    for _ in range(6):
        with torch.no_grad():
            y, result = fast(x, state=state, return_state=True, record=("2.v",))
            z, expected = net(x, state=wanted, return_state=True, record=("2.v",))
        state, wanted = result.state, expected.state
        assert torch.equal(y, z)
        assert torch.equal(result.record["2.v"], expected.record["2.v"])
        assert torch.equal(state["6"]["v"], wanted["6"]["v"])
    assert fast.captured, fast.reason


def test_plain_arguments_decide_on_the_graph():
    net = network(norm=False, dropout=0.0).eval()
    fast, image = sl.graphed(net, after=1), torch.randn(3, 2, 4, 4)
    with torch.no_grad():
        for T in (2, 5, 2):
            assert torch.equal(fast(image, repeat=T), net(image, repeat=T))
            assert fast.captured
    assert fast.graphs == 2


def test_a_still_input_stays_one():
    net = network(norm=False, dropout=0.0).eval()
    fast = sl.graphed(net, after=1)
    for _ in range(2):
        x = torch.randn(1, 3, 2, 4, 4).expand(5, 3, 2, 4, 4)
        with torch.no_grad():
            assert torch.equal(fast(x), net(x))
        assert fast.captured


def test_the_graph_that_was_not_used_for_longest_goes():
    fast = sl.graphed(network().eval(), after=1, limit=2)
    with torch.no_grad():
        for T in (1, 2, 1, 3, 1):
            fast(torch.randn(T, 3, 2, 4, 4))
            assert fast.captured
        assert fast.graphs == 2
        before = StandIn.count
        fast(torch.randn(1, 3, 2, 4, 4))
        assert StandIn.count == before
        fast(torch.randn(2, 3, 2, 4, 4))
        assert StandIn.count == before + 1
    fast.clear()
    assert fast.graphs == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_decides_on_the_graph(dtype):
    net, plain = network(dropout=0.0), network(dropout=0.0)
    fast = sl.graphed(net, after=1)
    for _ in range(2):
        x = torch.randn(X)
        for on in (False, True):
            with torch.autocast("cpu", dtype, enabled=on):
                y, z = fast(x), plain(x)
            assert fast.captured
            assert y.dtype == z.dtype
            y.float().sum().backward()
            z.float().sum().backward()
    assert fast.graphs == 2
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        assert p.grad.dtype == torch.float32
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-2, atol=1e-2)


# -- what cannot be captured says so, with the path


class Waits(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum().item() > 1e9 else x


class Makes(nn.Module):
    def forward(self, x):
        return x + torch.tensor(0.5)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x


class Draws(nn.Module):
    def forward(self, x):
        return x * float(torch.rand(()) if not x.ndim else random.random())


class Writes(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))

    def forward(self, x):
        with torch.no_grad():
            self.w.mul_(0.5)
        return x


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Waits, "1: Waits: aten::_local_scalar_dense waits for the device"),
        (Makes, "1: Makes: aten::lift_fresh waits for the device"),
        (Counts, "1: 'calls' of Counts changes whenever the module runs"),
        (Writes, "writes to a parameter"),
        (Draws, r"code of its modules reads random at .*test_graphed\.py"),
    ],
)
def test_what_cannot_be_captured_is_named(layer, reason, caplog):
    net = sl.Network(nn.Linear(2, 2), layer(), sl.LIF()).eval()
    calls = getattr(net.body[1], "calls", None)
    with pytest.raises(RuntimeError, match="graphed: Network cannot be captured: .*" + reason):
        sl.graphed(net, torch.randn(4, 3, 2))
    assert getattr(net.body[1], "calls", None) == calls
    fast = sl.graphed(net, after=1)
    for _ in range(3):  # and calls run as they did
        fast(torch.randn(4, 3, 2))
        assert not fast.captured
        assert layer is not Counts or fast.reason.startswith("1: 'calls' of Counts change")
    said = [r.getMessage() for r in caplog.records if "ungraphed" in r.getMessage()]
    assert len(said) == 2  # of the first try and of these calls
    assert said[1] == said[0] or fast.reason in said[1]
    if calls is not None:
        assert net.body[1].calls == 3


def test_lengths_hooks_taps_and_explain_leave_the_graph():
    net, x = network(norm=False, dropout=0.0).eval(), torch.randn(X)
    with torch.no_grad():
        fast = ready(net, x)
        fast(x, lengths=torch.tensor([5, 2, 3]))
        assert "lengths" in fast.reason
        seen = []
        handle = net.body[5].register_forward_hook(lambda m, i, o: seen.append(o))
        fast(x)
        assert (len(seen), fast.reason) == (1, "5: Linear has a hook or a method of its own")
        handle.remove()
        with sl.taps(net, "2.output") as tapped:
            fast(x)
        assert (len(tapped["2.output"]), fast.reason) == (1, "taps look on")
        fast(x)
        assert fast.captured
        assert fast.graphs == 1


def test_a_hook_of_a_parameter_sees_what_it_sees_without():
    """And not what is rehearsed."""
    net, x, seen = network(), torch.randn(X), []
    net.body[5].weight.register_hook(lambda g: seen.append(g))
    fast = ready(net, x)
    assert not seen
    fast(x).sum().backward()
    assert fast.captured
    assert len(seen) == 1
    assert torch.equal(seen[0], net.body[5].weight.grad)


def test_gradients_are_handed_out_in_the_layout_of_their_weights():
    net = sl.Network(nn.Conv2d(4, 8, 3, padding=1), sl.LIF(v_threshold=0.3), nn.Conv2d(8, 3, 3)).to(
        memory_format=torch.channels_last
    )
    plain, fast = copy.deepcopy(net), sl.graphed(net, after=1)
    for _ in range(2):
        x = torch.randn(5, 2, 4, 6, 6)
        fast(x).square().sum().backward()
        plain(x).square().sum().backward()
    assert fast.captured
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
        assert p.grad.stride() == p.stride()
        assert p.grad.storage_offset() % 4 == 0


def test_shared_weights_stay_shared():
    net = sl.Network(nn.Linear(4, 4), sl.LIF(v_threshold=0.3), nn.Linear(4, 4), sl.LI())
    net.body[2].weight = net.body[0].weight
    plain, fast = copy.deepcopy(net), sl.graphed(net, after=1)
    for _ in range(2):
        x = torch.randn(6, 3, 4)
        fast(x).square().sum().backward()
        plain(x).square().sum().backward()
    assert fast.captured
    assert net.body[2].weight is net.body[0].weight
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(net.parameters(), plain.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated")  # torch's own
def test_inside_other_tools_the_module_runs():
    net, x = network(norm=False, dropout=0.0).eval(), torch.randn(X)
    fast = ready(net, x)
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        fast(x)
    assert fast.reason == "anomaly detection looks on"
    tangent = torch.func.jvp(fast, (x,), (torch.ones_like(x),))[1]
    assert fast.reason == "something traces or transforms the call"
    assert tangent.shape == (5, 3, 5)
    outer = sl.Network(nn.Identity())
    assert fast.module is net
    assert outer(x).shape == X


def test_tensors_elsewhere_are_named():
    net = network()
    net.body[5].to("meta")
    with pytest.raises(RuntimeError, match=r"5\.weight is on meta, the input on cpu"):
        sl.graphed(net, torch.randn(X))
    with pytest.raises(RuntimeError, match="the input is on meta; steps are recorded on cuda, cpu"):
        sl.graphed(network(), torch.randn(X, device="meta"))


def test_errors_are_those_of_the_module():
    fast = sl.graphed(network(), after=1)
    with pytest.raises((RuntimeError, ValueError), match=r"expected|got"):
        fast(torch.randn(5, 3, 7, 4, 4))


class Bits(nn.Module):
    """Spikes of one bit, by operators alone."""

    def forward(self, x):
        place = 2 ** torch.arange(8)
        return from_bits(((x > 0).reshape(-1, 8) * place).sum(1).to(torch.uint8), tuple(x.shape), x.dtype)


def test_spikes_of_one_bit_are_outputs():
    net = nn.Sequential(nn.Linear(8, 8), Bits())
    with torch.no_grad():
        fast = ready(net, torch.randn(3, 8))
        first, second = fast(torch.ones(3, 8)), fast(-torch.ones(3, 8))
        assert fast.captured
        assert isinstance(first, sl.SpikeTensor)
        assert torch.equal(first.unpack(), net(torch.ones(3, 8)).unpack())
        assert not torch.equal(first.unpack(), second.unpack())


def test_outputs_that_nobody_uses():
    net = network(norm=False, dropout=0.0)
    plain, x = copy.deepcopy(net), torch.randn(X)
    fast = sl.graphed(net, after=1)
    for _ in range(2):
        fast(x, record=("2.v", "6.v"), return_state=True)[1].record["2.v"].square().sum().backward()
        plain(x, record=("2.v", "6.v"), return_state=True)[1].record["2.v"].square().sum().backward()
    assert fast.captured, fast.reason
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        assert (p.grad is None or not p.grad.any()) if q.grad is None else torch.equal(p.grad, q.grad)


def test_large_containers_are_refused_by_name():
    net = sl.Network(nn.Linear(2, 2), Mine(), sl.LIF()).eval()
    net.body[1].table = {"a": [0.0] * 2000}
    with pytest.raises(RuntimeError, match=r"1: Mine has a list of 2,000 values, too many to be compared"):
        sl.graphed(net, torch.randn(4, 3, 2))


class Own(sl.surrogate.Surrogate):
    """A surrogate of somebody's."""

    def derivative(self, u, scale):
        return scale * torch.exp(-(scale * u).abs())

    def primitive(self, u, scale):
        return torch.where(u >= 0, 2 - torch.exp(-scale * u), torch.exp(scale * u))


def test_a_surrogate_of_ones_own():
    net = sl.Network(nn.Linear(4, 4), sl.LIF(surrogate=Own(2.0), v_threshold=0.3))
    fast, plain = sl.graphed(net, after=1), copy.deepcopy(net)
    for _ in range(3):
        x = torch.randn(6, 3, 4)
        fast(x).sum().backward()
        plain(x).sum().backward()
    assert fast.captured, fast.reason
    assert torch.equal(net.body[0].weight.grad, plain.body[0].weight.grad)


def test_copies_and_threads():
    net, x = network(dropout=0.0).eval(), torch.randn(X)
    fast = ready(net, x)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert other.module is not net
        assert other.graphs == 0
        assert torch.equal(other(x), fast.module(x))
    found = {}

    def work(k):
        with sl.backend("eager"), torch.no_grad():
            found[k] = [fast(x) for _ in range(20)]

    workers = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    wanted = net(x)
    assert all(torch.equal(y, wanted) for ys in found.values() for y in ys)


# -- what changes is seen


class Mine(nn.Module):
    """A layer of somebody's, which reads what one may read."""

    factor = 1.0

    def __init__(self):
        super().__init__()
        self.shift, self.table, self.inner = 0.0, {"a": [0.0]}, type("Inner", (), {})()
        self.inner.k = 1.0

    def forward(self, x):
        return helper(x) * GAIN * self.factor * self.inner.k + self.shift + self.table["a"][0]


def helper(x):
    return x


def set_global(net):
    global GAIN
    GAIN = 0.5


def set_code(net):
    helper.__code__ = (lambda x: 0.25 * x).__code__


def change_class(net):
    class Other(Mine):
        def forward(self, x):
            return -super().forward(x)

    net.body[1].__class__ = Other


CHANGES = {
    "an attribute": lambda net: setattr(net.body[1], "shift", 0.5),
    "a new attribute": lambda net: setattr(net.body[1], "factor", 0.5),
    "inside a container": lambda net: net.body[1].table["a"].__setitem__(0, 0.5),
    "inside an object": lambda net: setattr(net.body[1].inner, "k", 0.5),
    "of the class": lambda net: setattr(Mine, "factor", 2.0),
    "a global": set_global,
    "code of a helper": set_code,
    "another class": change_class,
    "a method": lambda net: setattr(Mine, "forward", lambda self, x: 3 * x),
    "a method of its own": lambda net: setattr(net.body[1], "forward", lambda x: 3 * x),
    "a number": lambda net: setattr(net.body[2], "v_threshold", 0.7),
    "an option": lambda net: setattr(net.body[2], "reset", "soft"),
    "a weight": lambda net: setattr(net.body[0], "weight", nn.Parameter(torch.ones(4, 4))),
    "values of a weight": lambda net: net.body[0].weight.data.mul_(3),
    "new data of a weight": lambda net: setattr(net.body[0].weight, "data", torch.ones(4, 4)),
    "a layer": lambda net: net.body.__setitem__(0, nn.Linear(4, 4)),
    "one layer more": lambda net: net.body.append(nn.Linear(4, 4)),
    "training": lambda net: net.train(),
    "no gradient of a weight": lambda net: net.body[0].weight.requires_grad_(False),
    "packed spikes": lambda net: setattr(net, "spikes", "packed"),
    "float64": lambda net: net.double(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_seen(name):
    """The call after a change gives what the module gives, and so do those that are captured anew."""
    torch.manual_seed(0)
    net = sl.Network(nn.Linear(4, 4), Mine(), sl.LIF(v_threshold=0.3), nn.Linear(4, 4), nn.Dropout(0.5)).eval()
    fast, x = sl.graphed(net, after=1), torch.randn(6, 3, 4)
    before, code, forward = fast(x).detach(), helper.__code__, Mine.forward
    assert fast.captured
    try:
        CHANGES[name](net)
        x = x.to(next(net.parameters()).dtype)
        for _ in range(3):
            net.zero_grad()
            torch.manual_seed(2)
            y = fast(x)
            y.sum().backward()
            found = [p.grad for p in net.parameters()]
            net.zero_grad()
            torch.manual_seed(2)
            z = net(x)
            z.sum().backward()
            assert torch.equal(y, z)
            for g, p in zip(found, net.parameters(), strict=True):
                assert (g is None and p.grad is None) or torch.equal(g, p.grad)
        same = name in ("no gradient of a weight", "packed spikes", "float64", "an option")
        assert same or not torch.equal(y, before)
    finally:
        helper.__code__, Mine.forward, Mine.factor = code, forward, 1.0
        globals()["GAIN"] = 1.0


@pytest.mark.parametrize(
    "change",
    [
        lambda: sl.backend("auto"),
        lambda: torch.no_grad(),
        lambda: torch.autocast("cpu", torch.bfloat16),
    ],
)
def test_modes_have_graphs_of_their_own(change):
    net, x = network(norm=False, dropout=0.0).eval(), torch.randn(X)
    fast = ready(net, x)
    with change():
        y = fast(x)
        assert not fast.captured
        assert torch.equal(y, net(x))
    fast(x)
    assert fast.captured


def test_a_module_that_changes_always_is_looked_at_ever_less_often(monkeypatch):
    from spikeloom.core import captures

    looks = []
    original = captures.Unchanged
    monkeypatch.setattr(captures, "Unchanged", lambda m: looks.append(1) or original(m))
    net = sl.Network(nn.Linear(2, 2), Counts(), sl.LIF()).eval()
    fast = sl.graphed(net)
    with torch.no_grad():
        for _ in range(200):
            fast(torch.randn(4, 3, 2))
            net.body[1].calls += 1
    assert len(looks) < 12
