"""Under autocast states keep their dtype, outputs have that of the input, and parts and streams give the whole run."""

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import samples
import spikeloom as sl

ALL = {**samples.IN_ONE_STEP, **samples.LAYERS}
PLAIN = ("OneToOne", "ILC", "SparseLinear", "WSLinear", "WSConv2d", "Voting")  # layers that know no time

OF_A_LAYER = (
    "OTTT", "DropConnectLinear", "DelayLinear", "DelayConv2d", "Checkpoint", "Network", "SpikingSelfAttention",
    "QKAttention", "SpikeDrivenSelfAttention", "RepConv",
)  # fmt: skip
"""Those whose output is a layer's, of autocast's dtype."""


def dtypes(state):
    return [s.dtype for s in pytree.tree_leaves(state) if s is not None]


def behind_a_layer(sample):
    """What gives the sample an input of autocast's dtype."""
    if len(sample.step) == 4:
        layer = nn.Conv2d(sample.step[1], sample.step[1], 1)
    else:
        layer = nn.Linear(sample.step[-1], sample.step[-1])
    with torch.no_grad():
        nn.init.dirac_(layer.weight) if len(sample.step) == 4 else nn.init.eye_(layer.weight)
        layer.bias.zero_()
    return layer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [n for n in ALL if n not in PLAIN])
def test_states_keep_their_dtype(name, dtype):
    sample = ALL[name]
    module = sample.make().eval()
    x = samples.inputs(sample, dtype=dtype).float()
    for net, given in ((sl.Network(module), torch.float32), (sl.Network(behind_a_layer(sample), module), dtype)):
        net.eval()
        with torch.no_grad(), torch.autocast("cpu", dtype), sl.backend("eager"):
            y, whole = net(x, return_state=True)
            if name.split()[0] not in OF_A_LAYER and name != "Loop of layers":
                assert y.dtype == given
            assert y.isfinite().all()
            if not sample.causal:
                continue
            first, half = net(x[:5], return_state=True)
            second, end = net(x[5:], state=half.state, return_state=True)
            stream = net.stream()
            steps = torch.stack([stream(x_t) for x_t in x])
        for got in (torch.cat([first, second]), steps):
            assert got.dtype == y.dtype
            torch.testing.assert_close(got, y)
        for states in (half.state, end.state, stream.state):
            assert dtypes(states) == dtypes(whole.state)


class Feedback(sl.TemporalModule):
    """A user's: the state is what a layer made, so that autocast decides its dtype."""

    def __init__(self):
        super().__init__()
        self.up, self.back, self.neuron = nn.Linear(8, 5), nn.Linear(5, 5), sl.LIF(v_threshold=0.2)

    def initial_state(self, x_t):
        return x_t.new_zeros(x_t.shape[0], 5)

    def step(self, x_t, state=None):
        last = self.initial_state(x_t) if state is None else state
        y = self.neuron(self.up(x_t) + self.back(last))
        return y, y


class Smooth(Feedback):
    """Without a neuron inside, so that it has a sequence of its own too."""

    def step(self, x_t, state=None):
        y = torch.tanh(self.up(x_t) + self.back(self.initial_state(x_t) if state is None else state))
        return y, y


@pytest.mark.parametrize("make", [lambda: sl.Loop(Feedback()), Smooth, lambda: sl.Loop(Smooth())])
def test_states_that_layers_make(make):
    net, x = sl.Network(make()).eval(), torch.rand(7, 3, 8)
    lengths = torch.tensor([7, 4, 5])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y, whole = net(x, return_state=True)
        first, half = net(x[:3], return_state=True)
        second, end = net(x[3:], state=half.state, return_state=True)
        stream = net.stream()
        steps = torch.stack([stream(x_t) for x_t in x])
        ragged = net(x, lengths=lengths)
    assert torch.equal(torch.cat([first, second]), y)
    assert torch.equal(steps, y)
    for state in (whole.state, half.state, end.state, stream.state):
        assert set(dtypes(state)) == {torch.float32}
    torch.testing.assert_close(ragged[:4, 1], y[:4, 1])
    assert ragged[4:, 1].abs().sum() == 0


@pytest.mark.parametrize("name", [n for n in samples.LAYERS if n not in PLAIN])
def test_networks_of_a_small_dtype(name):
    """The weights in bfloat16, no autocast: states and outputs have the same dtypes as there."""
    sample = samples.LAYERS[name]
    net, x = sl.Network(sample.make()).eval().bfloat16(), samples.inputs(sample, dtype=torch.bfloat16)
    with torch.no_grad(), sl.backend("eager"):
        y, whole = net(x, return_state=True)
        assert y.dtype == torch.bfloat16
        if not sample.causal:
            return
        _, half = net(x[:5], return_state=True)
        second, end = net(x[5:], state=half.state, return_state=True)
    torch.testing.assert_close(second, y[5:])
    assert dtypes(end.state) == dtypes(whole.state)
