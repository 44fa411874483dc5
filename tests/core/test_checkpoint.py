"""Checkpointing inside networks: gradients, states, statistics and random numbers of the plain network, less kept."""

import pytest
import torch
from torch import nn

import spikeloom as sl


def block(channels, out, dropout=0.0):
    convolution = nn.Conv2d(channels, out, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), sl.LIF(v_threshold=0.4), nn.Dropout(dropout))


def network(kind, dropout=0.0, spikes="dense"):
    torch.manual_seed(0)
    blocks = [block(2, 6, dropout), block(6, 6, dropout), block(6, 4, dropout)]
    if kind == "checkpoint":
        blocks = [sl.memory.Checkpoint(b) for b in blocks]
    return sl.Network(*blocks, nn.Flatten(), nn.Linear(4 * 36, 3), spikes=spikes)


def run(net, x, **options):
    torch.manual_seed(7)
    y, result = net(x, return_state=True, record=("*.v",), **options)
    loss = y.square().sum() + sum(v.sum() for state in result.state.values() for v in state.values())
    grads = torch.autograd.grad(loss, [x, *net.parameters()])
    return y.detach(), result, grads, [b.clone() for b in net.buffers()]


@pytest.mark.parametrize("spikes", ["dense", "packed"])
@pytest.mark.parametrize("case", ["plain", "dropout", "state", "lengths", "eval"])
def test_checkpointed_networks_are_plain_networks(case, spikes):
    found = []
    for kind in ("plain", "checkpoint"):
        net = network(kind, dropout=0.3 if case == "dropout" else 0.0, spikes=spikes).train(case != "eval")
        x = torch.randn(5, 3, 2, 6, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
        options = {}
        if case == "lengths":
            options["lengths"] = torch.tensor([5, 2, 4])
        if case == "state":
            with torch.no_grad():
                options["state"] = net(x[:2] + 0.3, return_state=True)[1].state
        found.append(run(net, x, **options))
    (y, result, grads, buffers), (y2, result2, grads2, buffers2) = found
    assert torch.equal(y, y2)
    for a, b in zip(result.state.values(), result2.state.values(), strict=True):
        assert torch.equal(a["v"], b["v"])
    for a, b in zip(result.record.values(), result2.record.values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(grads, grads2, strict=True):
        torch.testing.assert_close(a, b)
    assert any(float(g.abs().max()) > 0 for g in grads)
    for a, b in zip(buffers, buffers2, strict=True):
        assert torch.equal(a, b)  # running statistics, and the number of batches, count once


def test_a_block_that_is_called_twice_keeps_two_states():
    class Twice(nn.Module):
        def __init__(self, checkpointed):
            super().__init__()
            torch.manual_seed(0)
            self.block = nn.Sequential(nn.Linear(4, 4), sl.LIF(v_threshold=0.2))
            self.checkpointed = checkpointed

        def forward(self, x):
            for _ in range(2):
                x = sl.memory.checkpoint(self.block, x) if self.checkpointed else self.block(x)
            return x

    found, x = [], torch.randn(6, 2, 4)
    for checkpointed in (False, True):
        net = sl.Network(Twice(checkpointed))
        first, result = net(x, return_state=True)
        second, after = net(x, state=result.state, return_state=True)
        assert list(result.state) == ["block.1", "block.1#1"]
        grads = torch.autograd.grad((first * second.cumsum(0)).sum(), list(net.parameters()))
        found.append((second.detach(), after.state["block.1#1"]["v"].detach(), *grads))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_only_the_inputs_of_blocks_are_kept():
    x = torch.randn(5, 3, 2, 6, 6)
    kept = {
        (kind, spikes): sl.memory.report(network(kind, spikes=spikes), x).saved
        for kind in ("plain", "checkpoint")
        for spikes in ("dense", "packed")
    }
    # Inputs of the second and the third block, of the linear layer: 15 rows of 6, 6 and 4 channels of 36 places.
    inputs = 15 * 36 * (6 + 6 + 4)
    assert kept["checkpoint", "dense"] == 4 * inputs
    assert kept["checkpoint", "packed"] == -(-inputs // 8)
    assert kept["plain", "dense"] > kept["plain", "packed"] > kept["checkpoint", "dense"]


@pytest.mark.parametrize("fuse", [True, False])
def test_blocks_are_fused_where_the_network_is(fuse):
    net = sl.Network(sl.memory.Checkpoint(block(2, 6)), fuse=fuse)
    (row,) = sl.explain(net, torch.randn(5, 3, 2, 6, 6)).rows
    assert row.path == "module.2"
    if row.backend == "c":  # there is a compiler
        assert ("fused with BatchNorm2d" in row.reason) == fuse


def test_outside_a_network_it_is_torchs():
    layer, x = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), torch.randn(2, 3)
    a = torch.autograd.grad(sl.memory.checkpoint(layer, x).sum(), list(layer.parameters()))
    b = torch.autograd.grad(layer(x).sum(), list(layer.parameters()))
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_torchs_own_checkpoint_raises_inside_a_network():
    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Linear(3, 3), sl.LIF())

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=False)

    y = sl.Network(Wrong())(torch.randn(4, 2, 3))
    with pytest.raises(RuntimeError, match="outside a Network"):
        y.sum().backward()


def test_the_report_names_what_keeps_how_much():
    net = sl.Network(nn.Linear(10, 64), sl.LIF(), nn.Linear(64, 5), spikes="packed")
    report = sl.memory.report(net, torch.rand(6, 4, 10))
    rows = {row.path: row for row in report.rows}
    assert rows["body.2"].saved == rows["body.2"].bits == 6 * 4 * 64 // 8
    assert rows["body.1"].module == "LIF"
    assert rows["body.1"].saved >= 6 * 4 * 64 * 4  # its input
    assert report.parameters == 4 * (10 * 64 + 64 + 64 * 5 + 5)
    assert report.saved == sum(row.saved for row in report.rows)
    lines = str(report).split("\n")
    assert lines[0].split() == ["path", "module", "kept", "MB", "of", "it", "bits"]
    assert lines[-1].split() == ["parameters", f"{report.parameters / 1e6:.3f}"]
