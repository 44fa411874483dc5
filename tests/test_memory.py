"""What sl.memory says: the report counts what is kept, each storage once; checkpoints keep their inputs alone."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import samples
import spikeloom as sl


def test_parameters_and_inputs_are_not_counted():
    x = torch.rand(5, 2, 8)
    report = sl.memory.report(sl.Network(nn.Linear(8, 4)), x)
    assert report.saved == 0  # a linear layer keeps its input and its weight
    assert report.parameters == 4 * (8 * 4 + 4)
    net = sl.Network(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3), nn.Sigmoid())
    rows = {row.path: row for row in sl.memory.report(net, x).rows}
    # Tanh keeps its output, which is also the input of the next layer: counted once, where it was kept first
    assert {path: row.saved for path, row in rows.items()} == {"1": 5 * 2 * 6 * 4, "3": 5 * 2 * 3 * 4}
    assert [row.module for row in rows.values()] == ["Tanh", "Sigmoid"]


def test_a_module_that_is_called_twice_is_one_row():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.Tanh()

        def forward(self, x):
            return self.act(self.act(x))

    (row,) = sl.memory.report(sl.Network(Twice()), torch.rand(3, 2, 4, requires_grad=True)).rows
    assert (row.path, row.saved, row.bits) == ("act", 2 * 3 * 2 * 4 * 4, 0)


def test_the_report_runs_as_training_does_and_leaves_no_hooks():
    net, x = sl.Network(nn.Linear(4, 4), nn.BatchNorm1d(4), samples.lif()), torch.rand(6, 3, 4)
    hooks = torch.nn.modules.module
    before = (len(hooks._global_forward_hooks), len(hooks._global_forward_pre_hooks))
    with torch.no_grad():
        assert sl.memory.report(net, x).saved > 0
    assert net.body[1].num_batches_tracked == 1
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        sl.memory.report(net, torch.rand(6, 3, 5))
    assert (len(hooks._global_forward_hooks), len(hooks._global_forward_pre_hooks)) == before
    lengths = torch.tensor([6, 2, 1])
    ragged = sl.memory.report(net, x, lengths=lengths).saved  # arguments are those of the network
    assert ragged > 0


def test_a_report_keeps_nothing():
    net, x, seen = sl.Network(nn.Linear(4, 4), nn.Tanh(), samples.lif()), torch.rand(6, 3, 4), []
    for layer in net.body:
        layer.register_forward_hook(lambda m, args, y: seen.append(weakref.ref(y)))
    sl.memory.report(net, x)
    gc.collect()
    assert [ref() for ref in seen] == [None] * 3


def test_the_table_of_a_report():
    text = str(
        sl.memory.Report((sl.memory.Row("1", "LIF", 2_500_000, 0), sl.memory.Row("2", "Linear", 4000, 4000)), 1_000_000)
    )
    assert text.split("\n") == [
        "path  module      kept MB  of it bits",
        "1     LIF           2.500",
        "2     Linear        0.004       0.004",
        "      all           2.504",
        "      parameters    1.000",
    ]


@pytest.mark.parametrize("name", ["LIF", "Recurrent", "SlidingPSN", "NormNeuron", "Loop", "SpikingLSTM"])
def test_every_kind_of_module_may_be_checkpointed(name):
    """Outputs, states and gradients of the plain network, with a state to begin with."""
    sample = {**samples.NEURONS, **samples.LAYERS}[name]
    torch.manual_seed(0)
    layer, module = nn.Linear(8, 8), sample.make()
    x, found = samples.inputs(sample), []
    with sl.backend("eager"):
        for block in (nn.Sequential(layer, module), sl.memory.Checkpoint(nn.Sequential(layer, module))):
            net = sl.Network(block).eval()
            _, half = net(x[:4], return_state=True)
            y, end = net(x[4:], state=sl.detach(half.state), return_state=True)
            grads = torch.autograd.grad(y.square().sum(), list(net.parameters()), allow_unused=True)
            found.append((y, tree_leaves(list(end.state.values())), [g for g in grads if g is not None]))
    torch.testing.assert_close(found[0], found[1])
    assert any(g.abs().max() > 0 for g in found[0][2])
