"""Checkpointing inside networks: gradients, states, statistics and random numbers of the plain network, less kept."""

import os
import random
import subprocess
import sys

import numpy as np
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
    assert rows["2"].saved == rows["2"].bits == 6 * 4 * 64 // 8
    assert rows["1"].module == "LIF"
    assert rows["1"].saved >= 6 * 4 * 64 * 4  # its input
    assert report.parameters == 4 * (10 * 64 + 64 + 64 * 5 + 5)
    assert report.saved == sum(row.saved for row in report.rows)
    lines = str(report).split("\n")
    assert lines[0].split() == ["path", "module", "kept", "MB", "of", "it", "bits"]
    assert lines[-1].split() == ["parameters", f"{report.parameters / 1e6:.3f}"]


class Counts(nn.Module):
    """The n-th call multiplies by n; what is counted is a buffer, an attribute, an item of a dict or of a list."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.register_buffer("buffer", torch.zeros(()))
        self.tensor, self.number, self.table, self.items = torch.zeros(1), 0, {}, [0.0]

    def forward(self, x):
        if self.kind == "buffer":
            self.buffer += 1
        elif self.kind == "other buffer":
            self.buffer = self.buffer + 1
        elif self.kind == "data":
            self.buffer.data.add_(1)
        elif self.kind == "tensor":
            self.tensor.add_(1)
        elif self.kind == "number":
            self.number += 1
        elif self.kind == "dict":
            self.table["n"] = self.table.get("n", 0) + 1
        else:
            self.items[0] += 1
        return x * (self.buffer + self.tensor + self.number + self.table.get("n", 0) + self.items[0])


@pytest.mark.parametrize("kind", ["buffer", "other buffer", "data", "tensor", "number", "dict", "list"])
def test_what_the_forward_counts_counts_once(kind):
    counts = Counts(kind)
    net, x = sl.Network(sl.memory.Checkpoint(nn.Sequential(counts))), torch.ones(1, 1, 1, requires_grad=True)
    first = net(x)
    second = net(x)
    assert [first.item(), second.item()] == [1.0, 2.0]
    assert torch.autograd.grad(first, x, retain_graph=True)[0].item() == 1.0
    assert torch.autograd.grad(first, x)[0].item() == 1.0  # again: what the first one computed was lost
    assert net(x).item() == 3.0
    assert torch.autograd.grad(second, x)[0].item() == 2.0


class Draws(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.generator = kind, torch.Generator().manual_seed(0)

    def forward(self, x):
        made = {
            "torch": lambda: torch.rand(()),
            "generator": lambda: torch.rand((), generator=self.generator),
            "numpy": np.random.rand,
            "python": random.random,
        }[self.kind]()
        return x * torch.as_tensor(made, dtype=x.dtype)


@pytest.mark.parametrize("kind", ["torch", "generator", "numpy", "python"])
def test_random_numbers_are_those_of_the_forward_and_are_drawn_once(kind):
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    net, x = sl.Network(sl.memory.Checkpoint(Draws(kind))), torch.ones(1, 1, 1, requires_grad=True)
    ys = [net(x) for _ in range(3)]
    for y in (ys[1], ys[0], ys[2]):
        assert torch.autograd.grad(y, x)[0].item() == y.item()
    fourth, again = net(x).item(), Draws(kind)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    assert [again(torch.ones(())).item() for _ in range(4)] == [*(y.item() for y in ys), fourth]


def statistics(momentum, checkpointed):
    torch.manual_seed(0)
    part = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=momentum), sl.LIF(v_threshold=0.3))
    net = sl.Network(sl.memory.Checkpoint(part) if checkpointed else part)
    for step in range(3):
        x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(step))
        net(x).square().sum().backward()
    norm = part[1]
    return [p.grad for p in net.parameters()], [norm.running_mean, norm.running_var, norm.num_batches_tracked.float()]


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_are_those_of_the_plain_network(momentum):
    (grads, buffers), (grads2, buffers2) = statistics(momentum, False), statistics(momentum, True)
    assert buffers2[2] == 3
    for a, b in zip(grads + buffers, grads2 + buffers2, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("old", [True, False])
def test_spectral_norm(old):
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        norm = nn.utils.spectral_norm if old else nn.utils.parametrizations.spectral_norm
        part = nn.Sequential(norm(nn.Linear(5, 5)), sl.LIF(v_threshold=0.1))
        net, x = sl.Network(sl.memory.Checkpoint(part) if checkpointed else part), torch.rand(4, 2, 5)
        for _ in range(2):
            net(x).square().sum().backward()
        found.append([p.grad for p in net.parameters()] + list(net.buffers()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_what_is_changed_before_the_backward_pass():
    def grads(checkpointed, change):
        torch.manual_seed(0)
        part = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), sl.LIF(tau=3.0, v_threshold=0.3))
        net = sl.Network(sl.memory.Checkpoint(part) if checkpointed else part)
        y = net(torch.rand(5, 2, 4))
        change(net, part)
        weights = [part[0].weight, part[1].weight]
        if change is assigned:
            weights = [kept_weight[0]]
        return torch.autograd.grad(y.sum(), weights)

    kept_weight = []

    def evaluated(net, part):
        net.eval()

    def another_number(net, part):
        part[3].tau = 10.0

    def hooked(net, part):
        part[1].register_forward_hook(lambda module, args, y: 2 * y)

    def assigned(net, part):
        kept_weight[:] = [part[0].weight]
        part.load_state_dict({k: v * 2 if "weight" in k else v for k, v in part.state_dict().items()}, assign=True)

    for change in (evaluated, another_number, hooked, assigned):
        for a, b in zip(grads(False, change), grads(True, change), strict=True):
            torch.testing.assert_close(a, b, msg=change.__name__)
            assert a.any()

    def stepped(net, part):
        with torch.no_grad():
            part[0].weight.mul_(0.5)

    with pytest.raises(RuntimeError, match="'weight' of Linear was changed in place between the forward and the back"):
        grads(True, stepped)


def test_what_functional_call_gave_gets_the_gradient():
    net = sl.Network(sl.memory.Checkpoint(nn.Sequential(nn.Linear(3, 2, bias=False))))
    given = {"body.module.0.weight": torch.ones(2, 3, requires_grad=True)}
    x = torch.arange(6.0).view(2, 1, 3)
    torch.func.functional_call(net, given, (x,)).sum().backward()
    assert given["body.module.0.weight"].grad.tolist() == [[3.0, 5.0, 7.0]] * 2  # x summed over its two steps
    assert net.body.module[0].weight.grad is None


def test_it_is_computed_again_on_the_same_backend():
    net = sl.Network(sl.memory.Checkpoint(nn.Sequential(nn.Linear(3, 2), sl.LIF(v_threshold=0.1))))
    with sl.backend("eager"):
        y = net(torch.rand(4, 2, 3))
    (g,) = torch.autograd.grad(y.square().sum(), net.body.module[0].weight, create_graph=True)
    assert g.square().sum().requires_grad  # kernels have no second derivative


def test_autocast_is_that_of_the_forward():
    seen = []

    class Sees(nn.Module):
        def forward(self, x):
            seen.append(torch.is_autocast_enabled("cpu"))
            return x

    net = sl.Network(sl.memory.Checkpoint(nn.Sequential(Sees(), nn.Linear(3, 2), nn.Tanh())))
    with torch.autocast("cpu", torch.bfloat16):
        y = net(torch.rand(4, 2, 3))
    y.float().sum().backward()
    assert seen == [True, True]


def test_the_first_thing_that_a_process_runs(tmp_path):
    code = (
        "import torch, spikeloom as sl; from torch import nn\n"
        "part = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), sl.PLIF())\n"
        "net = sl.Network(sl.memory.Checkpoint(part))\n"
        "net(torch.rand(5, 3, 4)).sum().backward()\n"
        "print(part[0].weight.grad.shape)\n"
    )
    env = {**os.environ, "SPIKELOOM_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "torch.Size([4, 4])", done.stderr
    assert "loop" not in done.stderr or "not available" in done.stderr  # there may be no compiler


@pytest.mark.filterwarnings("ignore")  # torch's own, about what it does not compile
def test_in_a_compiled_network():
    found, x = [], torch.rand(5, 3, 4)
    for compiled in (False, True):
        torch.manual_seed(0)
        net = sl.Network(sl.memory.Checkpoint(nn.Sequential(nn.Linear(4, 4), sl.LIF())), nn.Linear(4, 2))
        y = (torch.compile(net, backend="eager") if compiled else net)(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), list(net.parameters()))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_only_modules_are_taken():
    with pytest.raises(TypeError, match="expected a module, got function"):
        sl.memory.checkpoint(lambda x: x, torch.rand(2))


def test_checkpoints_in_checkpoints():
    found, x = [], torch.rand(5, 3, 4)
    for wrap in (lambda part: part, sl.memory.Checkpoint):
        torch.manual_seed(0)
        inner = wrap(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.4), sl.LIF(v_threshold=0.2)))
        net = sl.Network(wrap(nn.Sequential(nn.Linear(4, 4), inner, Counts("buffer"))), nn.Linear(4, 2))
        torch.manual_seed(1)
        for _ in range(2):
            net(x).square().sum().backward()
        found.append([*(p.grad for p in net.parameters()), *net.buffers()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


class Momentum(nn.Module):
    """A frozen parameter that follows the data, as key encoders have it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x):
        self.scale.data.mul_(2.0)
        return x * self.scale


def test_frozen_parameters_that_the_forward_moves_are_those_of_the_first_computation():
    module = Momentum()
    x = torch.ones(3, 1, 1, requires_grad=True)
    y = sl.Network(sl.memory.Checkpoint(module))(x)
    assert y.tolist() == [[[2.0]]] * 3
    y.sum().backward()
    assert x.grad.tolist() == [[[2.0]]] * 3
    assert module.scale.item() == 2.0  # moved once


def test_lazy_layers_are_made_by_the_first_computation():
    torch.manual_seed(0)
    lazy = nn.LazyLinear(2)
    x = torch.rand(4, 3, 5, requires_grad=True)
    y = sl.Network(sl.memory.Checkpoint(nn.Sequential(lazy)))(x)
    (y * torch.arange(4.0).reshape(4, 1, 1)).sum().backward()
    assert type(lazy) is nn.Linear
    assert torch.allclose(x.grad[2], 2 * lazy.weight.detach().sum(0).expand(3, 5))
    assert lazy.bias.grad.tolist() == [18.0, 18.0]  # 3 samples at steps 0, 1, 2, 3
