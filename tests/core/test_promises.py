"""What the docstrings of the core say of every temporal module, for all samples, and what no other test holds."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import samples
import spikeloom as sl

SAMPLES = {**samples.IN_ONE_STEP, **samples.LAYERS}
TEMPORAL = [n for n, s in SAMPLES.items() if isinstance(s.make(), sl.TemporalModule)]
CAUSAL = [n for n in TEMPORAL if SAMPLES[n].causal]
INSIDE = ("Loop", "Loop of layers", "Network")  # whose state is that of the modules inside, and None before they run


@pytest.mark.parametrize("name", TEMPORAL)
def test_no_state_is_the_state_at_rest(name):
    sample = SAMPLES[name]
    module, x = sample.make().eval(), samples.inputs(sample)
    if name in INSIDE:
        assert module.initial_state(x[0]) is None
        return
    rest = module.initial_state(x[0])
    with sl.backend("eager"):
        y, end = module.sequence(x)
        z, other = module.sequence(x, state=rest)
    assert torch.equal(y, z)
    torch.testing.assert_close(end, other)
    if rest is not None:
        module.check_state(rest, x[0])


@pytest.mark.parametrize("name", CAUSAL)
def test_a_step_is_a_sequence_of_one(name):
    sample = SAMPLES[name]
    module, x = sample.make().eval(), samples.inputs(sample)
    with sl.backend("eager"):
        state = module.sequence(x[:3])[1]
        y, after = module.step(x[3], state=state)
        z, other = module.sequence(x[3:4], state=state)
    torch.testing.assert_close(y, z[0])
    torch.testing.assert_close(after, other)
    with sl.backend("eager"):  # and from rest
        torch.testing.assert_close(module.step(x[0])[0], module.sequence(x[:1])[0][0])


@pytest.mark.parametrize("name", CAUSAL)
def test_steps_streams_and_whole_runs_agree(name):
    sample = SAMPLES[name]
    net, x = sl.Network(sample.make()).eval(), samples.inputs(sample)
    with torch.no_grad(), sl.backend("eager"):
        whole, result = net(x, return_state=True)
        stream, state, stepped = net.stream(), None, []
        for x_t in x:
            y, state = net.step(x_t, state=state)
            stepped.append(y)
        streamed = torch.stack([stream(x_t) for x_t in x])
    for got in (torch.stack(stepped), streamed):
        torch.testing.assert_close(got, whole)
    for got in (state, stream.state):
        assert got.keys() == result.state.keys()
        torch.testing.assert_close(tree_leaves(got), tree_leaves(result.state))


@pytest.mark.parametrize("name", TEMPORAL)
def test_outside_a_network_a_module_says_how_to_call_it(name):
    sample = SAMPLES[name]
    module = sample.make()
    if name == "Network":
        return
    with pytest.raises(RuntimeError, match=r"outside a Network: wrap the model in sl\.Network, which takes .* or call"):
        module(samples.inputs(sample)[0])


def test_several_modules_or_a_dictionary_of_them():
    layers = OrderedDict(up=nn.Linear(3, 5), spike=sl.LIF(v_threshold=0.2))
    named, plain = sl.Network(layers), sl.Network(*layers.values())
    x = torch.rand(4, 2, 3)
    y, result = named(x, record=("spike.v",))
    assert torch.equal(y, plain(x))
    assert list(result.state) == ["spike"]
    assert named.temporal_modules() == {layers["spike"]: "spike"}
    assert isinstance(sl.Network(layers["spike"]).body, nn.Sequential)


def test_keyword_arguments_reach_the_model_in_every_way_to_run_it():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.neuron = sl.LI(tau=2.0)

        def forward(self, x, *, gain):
            return self.neuron(x * gain)

    net, x = sl.Network(Scaled()), torch.rand(3, 2, 4)
    doubled = net(2 * x, gain=1.0)
    torch.testing.assert_close(net(x, gain=2.0), doubled)
    stream = net.stream()
    torch.testing.assert_close(torch.stack([stream(x_t, gain=2.0) for x_t in x]), doubled)
    torch.testing.assert_close(net.step(x[0], gain=2.0)[0], doubled[0])
    with pytest.raises(TypeError, match="gain"):
        net(x)


def test_the_state_of_a_stream_may_be_set():
    net, x = sl.Network(nn.Linear(3, 4), sl.LIF(v_threshold=0.2)).eval(), torch.rand(6, 2, 3)
    for mode in (torch.no_grad, torch.enable_grad):  # prepared, and not
        with mode():
            whole = net(x)
            stream = net.stream()
            stream.state = net(x[:3], return_state=True)[1].state
            torch.testing.assert_close(torch.stack([stream(x_t) for x_t in x[3:]]), whole[3:])
            for wrong in (x[0, :1], x[0].double()):
                with pytest.raises((ValueError, RuntimeError)):
                    stream(wrong)


def test_tensors_of_a_state_that_are_not_of_samples_are_shared():
    """A state of [B, *] ends with each sample; one of another shape counts the steps of the batch."""

    class Counts(sl.TemporalModule):
        def initial_state(self, x_t):
            return {"mine": torch.zeros_like(x_t), "ours": torch.zeros(())}

        def step(self, x_t, state=None):
            state = self.initial_state(x_t) if state is None else state
            new = {"mine": state["mine"] + x_t, "ours": state["ours"] + 1}
            return new["mine"] * new["ours"], new

    y, state = Counts().sequence(torch.ones(5, 3, 1), lengths=torch.tensor([5, 1, 2]))
    assert state["mine"].flatten().tolist() == [5, 1, 2]
    assert state["ours"].item() == 5
    assert y[:, 2].flatten().tolist() == [1, 4, 0, 0, 0]


def test_options_of_a_network_are_checked():
    with pytest.raises(ValueError, match="spikes must be dense or packed, got 'bits'"):
        sl.Network(sl.LIF(), spikes="bits")
    net = sl.Network(sl.Network(sl.LIF()))
    with pytest.raises(TypeError, match="options of a Network inside another network's call"):
        sl.Network(Options())(torch.rand(3, 2, 1))
    assert torch.equal(net(torch.full((2, 1, 1), 3.0)), torch.ones(2, 1, 1))


class Options(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = sl.Network(sl.LIF())

    def forward(self, x):
        return self.inner(x, return_state=True)


@pytest.mark.parametrize("name", [n for n in TEMPORAL if n != "Network"])
def test_what_can_be_recorded_is_and_the_rest_is_refused(name):
    sample = SAMPLES[name]
    module, x = sample.make().eval(), samples.inputs(sample)
    with sl.backend("eager"):
        with pytest.raises(ValueError, match=rf"{name.split()[0]}: cannot record 'nothing', only"):
            module.sequence(x, record=("nothing",))
        if module.recordable:
            y, state, recorded = module.sequence(x, record=module.recordable)
            assert tuple(recorded) == module.recordable
            assert all(torch.equal(recorded[n][-1], state[n]) for n in module.recordable)
            assert torch.equal(y, module.sequence(x)[0])
