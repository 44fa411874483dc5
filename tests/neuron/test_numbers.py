"""The value of a number stands in its tensor: whoever writes to it, by whatever way, is seen everywhere."""

import copy
import math
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import spikeloom as sl

# A leaky integrator with decay 1 - 1/tau: after the steps 1, 0 the state is 1 - 1/tau.
X = torch.tensor([[[1.0]], [[0.0]]])


def after(neuron, backend="auto"):
    with sl.backend(backend), torch.no_grad():
        return float(neuron.sequence(X)[1]["v"])


def make():
    return sl.LIF(tau=2.0, decay_input=False, v_threshold=9.0)


def by_numpy(neuron):
    neuron.tau.numpy()[()] = 4.0


def by_storage(neuron):
    neuron.tau.untyped_storage().copy_(torch.tensor(4.0, dtype=torch.float64).untyped_storage())


WRITES = {
    "assigned": lambda n: setattr(n, "tau", 4.0),
    "assigned a tensor": lambda n: setattr(n, "tau", torch.tensor(4.0)),
    "fill_": lambda n: n.tau.fill_(4.0),
    "mul_": lambda n: n.tau.mul_(2.0),
    "copy_": lambda n: n.tau.copy_(torch.tensor(4.0)),
    "data": lambda n: setattr(n.tau, "data", torch.tensor(4.0)),
    "data in place": lambda n: n.tau.data.fill_(4.0),
    "numpy": by_numpy,
    "its storage": by_storage,
    "named_buffers": lambda n: dict(n.named_buffers())["tau"].fill_(4.0),
    "_buffers": lambda n: n._buffers.update(tau=torch.tensor(4.0, dtype=torch.float64)),
    "a parameter": lambda n: setattr(n, "tau", nn.Parameter(torch.tensor(4.0))),
    "a value per channel": lambda n: setattr(n, "tau", torch.tensor([4.0])),
}


@pytest.mark.parametrize("way", WRITES)
def test_a_written_number_is_seen_everywhere(way):
    neuron = make()
    stream = sl.Network(neuron).eval().stream()
    assert after(neuron) == after(neuron, "eager") == 0.5
    with torch.no_grad():
        stream(X[0])
        stream(X[1])
        assert float(stream.state["0"]["v"]) == 0.5
        stream.reset()
    WRITES[way](neuron)
    assert after(neuron) == after(neuron, "eager") == 0.75
    with torch.no_grad():
        stream(X[0])
        stream(X[1])
    assert float(stream.state["0"]["v"]) == 0.75
    assert after(copy.deepcopy(neuron)) == after(pickle.loads(pickle.dumps(neuron))) == 0.75
    assert after(make()) == 0.5  # no other neuron has changed
    if way not in ("a parameter", "a value per channel"):
        assert "tau=4" in repr(neuron)
        assert neuron.constants()["tau"] == 4.0
        with pytest.raises(RuntimeError, match=r"tau is 4\.0 in the checkpoint but 2\.0"):
            make().load_state_dict(neuron.state_dict())


@pytest.mark.parametrize("cast", ["half", "bfloat16", "float", "double"])
def test_casts_do_not_turn_a_written_number_back(cast):
    neuron = make()
    neuron.v_threshold.fill_(0.3)
    before = neuron.v_threshold
    getattr(neuron, cast)()
    assert neuron.v_threshold is before
    assert neuron.v_threshold.dtype == torch.float64
    assert neuron.v_threshold.item() == 0.3


def test_a_number_on_another_device_keeps_its_value():
    neuron = make().to("meta")  # weights go there, numbers stay where their value is
    neuron.to_empty(device="cpu")
    assert after(neuron) == 0.5


def test_constants_per_channel_survive_the_meta_device_and_follow_casts():
    neuron = sl.LIF(tau=torch.tensor([2.0, 4.0]), decay_input=False).to("meta").to_empty(device="cpu")
    assert neuron.tau.tolist() == [2.0, 4.0]
    assert neuron.half().tau.dtype == torch.float16


def test_one_neuron_never_feeds_another():
    """Kernels keep the values of numbers by the values themselves, not by the neuron that they were first read from."""
    first = sl.LIF(tau=2.0, v_threshold=8.0, decay_input=False)
    first.tau.fill_(5.0)
    assert after(first) == pytest.approx(0.8)
    assert after(sl.LIF(tau=2.0, v_threshold=8.0, decay_input=False)) == 0.5


@pytest.mark.parametrize("value", [0.0, -0.0])
def test_zeros_of_both_signs_are_two_values(value):
    class Signed(sl.Neuron):
        def __init__(self, zero):
            super().__init__()
            self.numbers(zero=zero)
            self.states(v=0.0)

        def dynamics(self, x, v):
            return x * 0, v + x / self.zero

    assert after(Signed(0.0)) == math.inf or math.isnan(after(Signed(0.0)))
    neuron = Signed(value)
    with torch.no_grad():
        assert float(neuron.sequence(X[:1])[1]["v"]) == math.copysign(math.inf, value)


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_functional_call(backend):
    net = sl.Network(make())
    other = {"body.0.tau": torch.tensor(4.0, dtype=torch.float64), "body.0.v_threshold": torch.tensor([0.5])}
    with sl.backend(backend), torch.no_grad():
        y, result = functional_call(net, other, (X,), {"return_state": True})
        assert y.flatten().tolist() == [1.0, 0.0]
        _, result = functional_call(net, {"body.0.tau": other["body.0.tau"]}, (X,), {"return_state": True})
        assert float(result.state["0"]["v"]) == 0.75
        assert float(net(X, return_state=True)[1].state["0"]["v"]) == 0.5


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_functional_call_with_a_gradient(backend):
    """dv/dtau = 1/tau^2 of v = 1 - 1/tau."""
    net = sl.Network(sl.LIF(decay_input=False, reset="none"))
    tau = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    with sl.backend(backend):
        _, result = functional_call(net, {"body.0.tau": tau}, (X,), {"return_state": True})
        result.state["0"]["v"].sum().backward()
    assert tau.grad.item() == pytest.approx(1 / 16)


def test_an_average_of_models_follows():
    net = sl.Network(make())
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    average.update_parameters(net)
    assert after(average.module.body[0]) == 0.5
    net.body[0].tau = 4.0
    for _ in range(60):
        average.update_parameters(net)
    assert after(average.module.body[0]) == after(average.module.body[0], "eager") == 0.75


def test_options_around_a_neuron_and_values_at_rest():
    neuron = sl.options.Refractory(sl.LIF(tau=2.0, decay_input=False, v_threshold=0.9), steps=3)
    x = torch.ones(6, 1, 1)
    assert neuron.sequence(x)[0].flatten().tolist() == [1, 0, 0, 0, 1, 0]
    neuron.steps.fill_(1)
    neuron.neuron.v_reset.fill_(-4.0)  # also the value at rest: -4 + (1 - (-4 + 4)/2) = -3
    for backend in ("eager", "auto"):
        with sl.backend(backend):
            y, state = neuron.sequence(torch.ones(1, 1, 1))
        assert (float(y), float(state["v"])) == (0.0, -3.0)


def test_threads_that_write_while_others_read():
    """Each result belongs to one of the values that were there, never to a mixture kept for later."""
    neuron, found, stop = make(), set(), threading.Event()

    def write():
        while not stop.is_set():
            neuron.tau.fill_(4.0)
            neuron.tau.fill_(2.0)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        found = {after(neuron) for _ in range(200)}
    finally:
        stop.set()
        thread.join()
    assert found <= {0.5, 0.75}
    assert after(sl.LIF(tau=2.0, decay_input=False, v_threshold=9.0)) == 0.5
    assert after(sl.LIF(tau=4.0, decay_input=False, v_threshold=9.0)) == 0.75
