"""The call: folding, state by path, pytrees, options, refusals."""

import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import spikeloom as sl


class Accumulate(sl.TemporalModule):
    """y[t] = x[0] + ... + x[t]; defines only step."""

    recordable = ("total",)

    def initial_state(self, x_t):
        return {"total": torch.zeros_like(x_t)}

    def step(self, x_t, state=None):
        total = (self.initial_state(x_t) if state is None else state)["total"] + x_t
        return total, {"total": total}


class Backwards(sl.TemporalModule):
    """y[t] = x[T-1-t]: needs the whole sequence."""

    causal = False

    def sequence(self, x, state=None, lengths=None, record=()):
        return x.flip(0), None


def ramp(T, B, F=1):
    return torch.arange(T * B * F, dtype=torch.float32).view(T, B, F)


def test_plain_layers_see_the_folded_batch_and_temporal_modules_see_time():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(tuple(x.shape))
            return x * 2

    x = ramp(4, 3, 2)
    y = sl.Network(Spy(), Accumulate())(x)
    assert seen == [(12, 2)]
    assert torch.equal(y, (2 * x).cumsum(0))


def test_forward_outside_a_network_raises_with_the_remedy():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), sl.LIF(), nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(RuntimeError, match=r"LIF got \[8, 4, 6, 6\] outside a Network: wrap the model in sl.Network"):
        net(torch.rand(8, 1, 8, 8))


def test_nothing_is_kept_between_calls():
    net = sl.Network(Accumulate())
    x = ramp(3, 2)
    assert torch.equal(net(x), net(x))
    assert not list(net.state_dict())


def test_state_is_carried_on_when_asked_for():
    net = sl.Network(Accumulate())
    x = ramp(6, 2)
    first, result = net(x[:2], return_state=True)
    second = net(x[2:], state=result.state)
    assert torch.equal(torch.cat([first, second]), x.cumsum(0))


def test_one_module_called_twice_has_two_states():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = Accumulate()

        def forward(self, x):
            return self.act(self.act(x))

    y, result = sl.Network(Twice())(ramp(3, 2), return_state=True, record=("act.total",))
    assert list(result.state) == ["act", "act#1"]
    assert torch.equal(y, ramp(3, 2).cumsum(0).cumsum(0))
    assert torch.equal(result.record["act.total"], ramp(3, 2).cumsum(0))
    assert torch.equal(result.record["act#1.total"], y)


def test_one_module_at_two_paths_is_known_by_the_first():
    shared = Accumulate()
    _, result = sl.Network(shared, nn.Identity(), shared)(ramp(2, 1), return_state=True)
    assert list(result.state) == ["0", "0#1"]


def test_networks_nest_transparently():
    inner = sl.Network(nn.Identity(), Accumulate(), batch_first=True)
    outer = sl.Network(nn.Identity(), inner, Accumulate())
    y, result = outer(ramp(4, 2), return_state=True)
    assert torch.equal(y, ramp(4, 2).cumsum(0).cumsum(0))
    assert list(result.state) == ["1.1", "2"]

    class Carries(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x, return_state=True)

    with pytest.raises(TypeError, match="give them to the outer call"):
        sl.Network(Carries())(ramp(4, 2))


def test_network_is_a_temporal_module_itself():
    net = sl.Network(nn.Identity(), Accumulate(), batch_first=True)
    y, state, recorded = net.sequence(ramp(4, 2), record=("1.total",))
    assert torch.equal(y, ramp(4, 2).cumsum(0))
    assert torch.equal(recorded["1.total"], y)
    y_t, _ = net.step(ramp(1, 2)[0], state=state)
    assert torch.equal(y_t, ramp(1, 2)[0] + ramp(4, 2).sum(0))


def test_pytrees_go_in_and_out():
    class Tree(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = Accumulate(), Accumulate()

        def forward(self, pair, other, *, gain):
            return {"a": self.a(pair["left"]) * gain, "rest": (self.b(other), None, "text")}

    x, z = ramp(3, 2), 10 * ramp(3, 2)
    y = sl.Network(Tree())({"left": x}, z, gain=torch.tensor(3.0))
    assert torch.equal(y["a"], 3 * x.cumsum(0))
    assert torch.equal(y["rest"][0], z.cumsum(0))
    assert y["rest"][1:] == (None, "text")


def test_an_output_without_the_folded_rows_is_an_error_that_names_the_leaf():
    class Wrong(nn.Module):
        def forward(self, x):
            return {"ok": x, "mean": x.mean(0)}

    with pytest.raises(ValueError, match=r"output\['mean'\]: got \[1\], expected dimension 0 to be T\*B = 3\*2 = 6"):
        sl.Network(Wrong())(ramp(3, 2))


def test_static_arguments_pass_unfolded():
    class Shift(nn.Module):
        def forward(self, x, by):
            return x + by

    shift = torch.tensor([100.0])
    assert torch.equal(sl.Network(Shift())(ramp(3, 2), sl.static(shift)), ramp(3, 2) + 100)
    stream = sl.Network(Shift()).stream()
    assert torch.equal(stream(ramp(1, 2)[0], sl.static(shift)), ramp(1, 2)[0] + 100)


def test_batch_first_takes_and_gives_batch_first():
    x = ramp(4, 2)
    net = sl.Network(Accumulate(), batch_first=True)
    y, result = net(x.transpose(0, 1), record=("0.total",))
    assert torch.equal(y, x.cumsum(0).transpose(0, 1))
    assert torch.equal(result.record["0.total"], y)
    assert torch.equal(net(torch.ones(2, 1), repeat=3), torch.tensor([[[1.0], [2.0], [3.0]]] * 2))


@pytest.mark.parametrize("shape", [(0, 2, 3), (4, 0, 3), (4,)])
def test_empty_time_or_batch_raises(shape):
    x = torch.zeros(shape)
    with pytest.raises(ValueError, match="T > 0 and B > 0"):
        sl.Network(sl.LIF())(x)
    with pytest.raises(ValueError, match="T > 0 and B > 0"):
        sl.LIF().sequence(x)


def test_sequences_of_different_size_raise():
    class Add(nn.Module):
        def forward(self, x, y):
            return x + y

    with pytest.raises(ValueError, match=r"\(3, 2\), but an earlier one has \(4, 2\)"):
        sl.Network(Add())(ramp(4, 2), ramp(3, 2))
    with pytest.raises(ValueError, match="no tensor"):
        sl.Network(Add())()
    with pytest.raises(ValueError, match="at least 1"):
        sl.Network(Accumulate())(torch.ones(2, 1), repeat=0)


def test_a_state_that_does_not_fit_raises(conv_net):
    x = torch.rand(2, 3, 1, 8, 8)
    _, result = conv_net(x, return_state=True)
    with pytest.raises(ValueError, match=r"\[3, 4, 8, 8\] .* needs \[2, 4, 8, 8\]"):
        conv_net(x[:, :2], state=result.state)
    with pytest.raises(ValueError, match=r"float32 .* needs .*float64"):
        conv_net.double()(x.double(), state=result.state)
    conv_net.float()
    with pytest.raises(ValueError, match="nothing for '2', only for \\['6'\\]"):
        conv_net(x, state={"6": result.state["6"]})
    with pytest.raises(ValueError, match="entries for \\['9'\\]"):
        conv_net(x, state={**result.state, "9": None})
    with pytest.raises(ValueError, match=r"expected a state with \['v'\], got \['u'\]"):
        conv_net(x, state={**result.state, "2": {"u": result.state["2"]["v"]}})
    again = sl.Synaptic(alpha=0.5, beta=0.5)
    _, state = again.sequence(x[..., 0])
    assert again.sequence(x[..., 0], state=dict(reversed(state.items())))[1].keys() == state.keys()  # order is free
    with pytest.raises(ValueError, match="needs"):
        sl.Network(Accumulate())(ramp(2, 3), state={"0": {"total": torch.zeros(2, 1)}})


def test_recordings_carry_gradients_and_names_may_hold_wildcards(conv_net):
    x = torch.rand(3, 2, 1, 8, 8)
    y, result = conv_net(x, record=("*.v", "6.output"))
    assert list(result.record) == ["2.v", "6.v", "6.output"]
    assert result.record["2.v"].shape == (3, 2, 4, 8, 8)
    assert torch.equal(result.record["6.output"], y)
    assert torch.equal(result.record["6.v"][-1], result.state["6"]["v"])
    result.record["6.v"].sum().backward()
    assert conv_net.body[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("names", "message"), [(("1.v",), "this network has 2.output, 2.v, 2.u, 6"), (("2.w",), "2.w")]
)
def test_unknown_recordings_raise(conv_net, names, message):
    with pytest.raises(ValueError, match=message):
        conv_net(torch.rand(3, 2, 1, 8, 8), record=names)
    with pytest.raises(TypeError, match=r"record=\('2.v',\)"):
        conv_net(torch.rand(3, 2, 1, 8, 8), record="2.v")


def test_recording_a_module_that_did_not_run_raises():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = sl.LIF()

        def forward(self, x):
            return x

    with pytest.raises(ValueError, match=r"cannot record \['unused'\]: this call did not run them"):
        sl.Network(Skips())(ramp(2, 1), record=("unused.v",))


REFUSED = {
    "LSTM": (lambda: nn.LSTM(4, 4), "batch_first=True"),
    "GRU": (lambda: nn.GRU(4, 4), "batch_first=True"),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(4, 2), "batch_first=True"),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 8), "batch_first=True"),
    "TransformerDecoderLayer": (lambda: nn.TransformerDecoderLayer(4, 2, 8), "batch_first=True"),
    "Transformer": (lambda: nn.Transformer(4, 2, 1, 1, 8), "batch_first=True"),
    "Flatten": (lambda: nn.Flatten(0), "start_dim=1"),
    "Unflatten": (lambda: nn.Unflatten(0, (2, 2)), "dimension 1"),
    "Softmax": (lambda: nn.Softmax(dim=0), "dim=1"),
    "LogSoftmax": (lambda: nn.LogSoftmax(), "dim=1"),
    "DataParallel": (lambda: nn.DataParallel(nn.Linear(2, 2)), "DistributedDataParallel"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_modules_that_mix_rows_are_refused_with_their_path(name):
    make, remedy = REFUSED[name]
    module = make()
    with pytest.raises(TypeError, match=rf"{type(module).__name__} at '0.0.inner' .*{remedy}"):
        sl.Network(nn.Sequential(nn.ModuleDict({"inner": module})), nn.Identity())


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_the_same_with_batch_first_are_taken():
    accepted = [nn.LSTM(4, 4, batch_first=True), nn.MultiheadAttention(4, 2, batch_first=True)]
    accepted += [nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Transformer(4, 2, 1, 1, 8, batch_first=True)]
    net = sl.Network(nn.ModuleList(accepted), nn.Flatten(), nn.Softmax(dim=-1))
    assert len(list(net.modules())) > len(accepted)


def test_a_structure_that_changes_is_seen():
    net = sl.Network(nn.Linear(1, 1), sl.LIF())
    net(ramp(2, 1))
    net.body.append(sl.LIF())
    assert list(net(ramp(2, 1), return_state=True)[1].state) == ["1", "2"]
    net.body[1] = nn.LSTM(1, 1)
    with pytest.raises(TypeError, match="LSTM at '1'"):
        net(ramp(2, 1))


def test_a_module_made_during_the_call_raises():
    class Makes(nn.Module):
        def forward(self, x):
            return sl.LIF()(x)

    with pytest.raises(RuntimeError, match="LIF is not part of the network"):
        sl.Network(Makes())(ramp(2, 1))


def test_wrong_rows_inside_the_network_raise_with_the_path():
    class Pools(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = sl.LIF()

        def forward(self, x):
            return self.act(x[:2])

    with pytest.raises(ValueError, match=r"input of 'act': got \[2, 1\], expected dimension 0 to be T\*B = 3\*2 = 6"):
        sl.Network(Pools())(ramp(3, 2))


def test_after_an_error_the_thread_is_outside_again():
    class Fails(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sl.Network(Fails())(ramp(2, 1))
    with pytest.raises(RuntimeError, match="outside a Network"):
        sl.LIF()(ramp(2, 1))


def test_wrappers_leave_no_trace_in_paths():
    averaged = torch.optim.swa_utils.AveragedModel(nn.Sequential(nn.Identity(), Accumulate()))
    compiled = torch.compile(nn.Sequential(nn.Identity(), Accumulate()), backend="eager")
    net = sl.Network(nn.ModuleDict({"module": nn.ModuleDict({"acc": Accumulate()})}), averaged, compiled)
    assert list(net._paths().values()) == ["0.module.acc", "1.1", "2.1"]


def test_not_causal_modules_run_whole_sequences_only():
    net = sl.Network(nn.Identity(), Backwards())
    assert torch.equal(net(ramp(3, 2)), ramp(3, 2).flip(0))
    with pytest.raises(ValueError, match="Backwards at '1' is not causal"):
        net.stream()
    with pytest.raises(ValueError, match="cannot continue from a state"):
        net(ramp(3, 2), state={})
    with pytest.raises(ValueError, match="not causal"):
        sl.Loop(Backwards())


def test_a_temporal_module_without_step_or_sequence_says_so():
    with pytest.raises(NotImplementedError, match="must define step or sequence"):
        sl.Network(sl.TemporalModule())(ramp(2, 1))


def test_ordinary_checkpointing_inside_raises():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = sl.LIF()

        def forward(self, x):
            return checkpoint(self.act, x, use_reentrant=False)

    x = ramp(3, 2).requires_grad_()
    y = sl.Network(Block())(x)
    with pytest.raises(RuntimeError, match="outside a Network"):
        y.sum().backward()


def test_checkpointing_a_whole_call_works():
    net = sl.Network(nn.Linear(1, 3), sl.LIF())
    x = torch.rand(5, 2, 1)
    net(x).sum().backward()
    wanted = net.body[0].weight.grad.clone()
    net.zero_grad()
    checkpoint(net, x, use_reentrant=False).sum().backward()
    assert torch.equal(net.body[0].weight.grad, wanted)


def test_two_threads_share_one_network(conv_net):
    conv_net.eval()
    xs = [torch.rand(6, b, 1, 8, 8) for b in (2, 5)]
    wanted = [conv_net(x) for x in xs]
    failures = []

    def work(i):
        for _ in range(20):
            y, result = conv_net(xs[i], record=("2.v",))
            if not torch.equal(y, wanted[i]) or result.record["2.v"].shape[1] != xs[i].shape[1]:
                failures.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


def test_network_needs_a_module():
    with pytest.raises(TypeError, match="at least one module"):
        sl.Network()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: sl.Network(3), "Network takes modules, such as .*; got int 3"),
        (lambda x: sl.Network([nn.Linear(3, 3), sl.LIF()]), r"got a list; write Network\(\*modules\)"),
        (lambda x: sl.Network(nn.Linear(3, 3), sl.LIF), r"got the class LIF; construct it, LIF\(...\)"),
        (lambda x: sl.Network(sl.LIF())(x[0], repeat="4"), "repeat must be a number of steps of at least 1, got '4'"),
        (lambda x: sl.Network(sl.LIF())(x, record=None), "record takes a tuple of names, got NoneType"),
        (lambda x: sl.Network(sl.LIF())(x, state=[1]), "state takes states by the names of modules, .* got a list"),
        (lambda x: sl.explain(nn.Linear(3, 3), x), r"explain: expected a Network, got Linear"),
        (lambda x: sl.cite(3), "cite: expected a module, got int"),
        (lambda x: sl.pack(None), "pack: expected a tensor, got NoneType"),
        (lambda x: sl.replace(None, nn.ReLU, sl.LIF), "replace: expected a module, got NoneType"),
        (lambda x: sl.replace(nn.Sequential(nn.ReLU()), nn.ReLU, None), "replace: expected a class or a function"),
        (
            lambda x: sl.Network(sl.replace(nn.Sequential(nn.ReLU()), nn.ReLU, sl.LIF)),
            r"got what sl.replace did; it changes the model in place: write .*, then Network\(model\)",
        ),
        (
            lambda x: sl.replace(nn.Sequential(nn.ReLU()), nn.ReLU, sl.LIF(tau=3.0)),
            r"got one LIF, .* give the class, LIF, or functools.partial\(LIF, ...\)",
        ),
        (
            lambda x: sl.replace(nn.Sequential(nn.ReLU()), nn.ReLU, lambda: sl.LIF()),
            r"got one that takes \(\): write lambda path, old",
        ),
        (lambda x: sl.data.Samples([1], torch.zeros(1)), r"data must be a tensor \[N, \*\], got list"),
        (lambda x: sl.data.Samples(x, torch.tensor(1)), r"labels must be a tensor \[N, \*\], got a number"),
        (lambda x: sl.data.read_events(None), "read_events: path must be text or a Path, got NoneType"),
        (lambda x: sl.data.write_events(None, {}), "write_events: path must be text or a Path, got NoneType"),
    ],
)
def test_what_is_given_in_a_wrong_form_is_told_in_a_sentence(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call(torch.rand(4, 2, 3))


def test_a_whole_result_is_no_state():
    net = sl.Network(sl.LIF())
    x = torch.rand(4, 2, 3)
    result = net(x, return_state=True)[1]
    with pytest.raises(TypeError, match=r"got a Result, pass its \.state"):
        net(x, state=result)
