"""Spikes of one bit inside torch.compile: outputs and gradients of dense networks, and bits as what is saved."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikeloom as sl
from spikeloom.kernel.backend import _said
from spikeloom.spikes import bits

pytestmark = [  # of torch's own doing: Dynamo makes objects of Functions and asks for gradients, inductor's imports
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


class Residual(nn.Module):
    """Adds spikes to spikes, in place."""

    def __init__(self):
        super().__init__()
        self.conv, self.spike = nn.Conv2d(8, 8, 3, padding=1), sl.LIF(v_threshold=0.1)

    def forward(self, x):
        y = self.spike(self.conv(x))
        y += x
        return y


class Attention(nn.Module):
    """Products of spikes with spikes, without softmax."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.spikes = nn.ModuleList(sl.LIF(v_threshold=0.05) for _ in range(3))

    def forward(self, x):
        x = x.unflatten(1, (8, 16))
        q, k, v = (s(f(x)) for s, f in zip(self.spikes, (self.q, self.k, self.v), strict=True))
        return ((q @ k.transpose(-1, -2)) @ v * 0.125).flatten(1)


class Masked(nn.Module):
    """Keys times a mask over tokens, which is made of the sum of queries, and a sum over tokens."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.mask = (sl.LIF(v_threshold=threshold) for threshold in (0.05, 0.05, 0.6))

    def forward(self, x):
        x = x.unflatten(1, (8, 16))
        q, k = self.q(x), self.k(-x)
        return (k * self.mask(q.sum(1, keepdim=True))).sum(1)


NETS = {
    "linear": lambda: [nn.Linear(128, 64), sl.LIF(v_threshold=0.2), nn.Linear(64, 48), sl.PLIF(v_threshold=0.1)],
    "odd sizes": lambda: [nn.Linear(128, 13), sl.LIF(v_threshold=0.1), nn.Linear(13, 7), sl.LIF(v_threshold=0.1)],
    "pools": lambda: [
        nn.Unflatten(1, (2, 8, 8)), nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8),
        sl.LIF(v_threshold=0.2), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 16, 3, stride=2), sl.LIF(v_threshold=0.1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ],
    "one dimension": lambda: [
        nn.Unflatten(1, (2, 64)), nn.Conv1d(2, 8, 5, padding=2), sl.LIF(v_threshold=0.1), nn.MaxPool1d(2),
        nn.Conv1d(8, 6, 3, dilation=2), sl.LIF(v_threshold=0.1), nn.AvgPool1d(2), nn.Flatten(),
    ],
    "residual": lambda: [
        nn.Unflatten(1, (2, 8, 8)), nn.Conv2d(2, 8, 1), sl.LIF(v_threshold=0.1), Residual(), nn.AvgPool2d(2),
        nn.Flatten(),
    ],
    "attention": lambda: [nn.Linear(128, 128), sl.LIF(v_threshold=0.1), Attention()],
    "attention by a mask": lambda: [nn.Linear(128, 128), Masked()],
    "norm and dropout": lambda: [
        nn.Linear(128, 64), sl.LIF(v_threshold=0.2), nn.BatchNorm1d(64), nn.Linear(64, 32), sl.IF(v_threshold=0.3),
        nn.Dropout(0.0), nn.LayerNorm(32),
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _from_anew():
    torch._dynamo.reset()


def both(layers, x, *, net_of=lambda net: net, backend="aot_eager", **options):
    """Outputs and gradients of the dense network in eager, and of the packed one compiled."""
    found = []
    for spikes in ("dense", "packed"):
        torch.manual_seed(0)
        net = net_of(sl.Network(*layers(), spikes=spikes))
        run = torch.compile(net, backend=backend, fullgraph=True) if spikes == "packed" else net
        y = run(x, **options)
        loss = (y.float() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum()
        found.append([y.detach() * 1, *torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True)])
    return found


@pytest.mark.parametrize("name", NETS)
def test_a_compiled_packed_network_is_the_dense_one(name):
    dense, packed = both(NETS[name], torch.randn(6, 4, 128))
    assert any(g.abs().sum() > 0 for g in dense[1:])
    for a, b in zip(dense, packed, strict=True):
        assert type(b) is torch.Tensor
        torch.testing.assert_close(b, a, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["linear", "odd sizes"])
def test_binary_outputs_are_packed_without_a_look(name, monkeypatch):
    """As on a GPU, where a look would wait for the device."""

    def packed_there(self, y, inputs):
        return sl.pack(y, check=not self._gives_spikes(inputs))

    monkeypatch.setattr(sl.Neuron, "_as_bits", packed_there)
    looked, real = [], bits.pack_bits
    monkeypatch.setattr(bits, "pack_bits", lambda x, *, check: looked.append(check) or real(x, check=check))
    for a, b in zip(*both(NETS[name], torch.randn(6, 4, 128)), strict=True):
        torch.testing.assert_close(b, a, atol=2e-5, rtol=1e-4)
    assert looked
    assert not any(looked)


@pytest.mark.skipif(not shutil.which("g++"), reason="TorchInductor needs a compiler of C++")
def test_inductor():
    dense, packed = both(NETS["pools"], torch.randn(6, 4, 128), backend="inductor")
    for a, b in zip(dense, packed, strict=True):
        torch.testing.assert_close(b, a, atol=2e-5, rtol=1e-4)


def test_channels_last_and_half_precision():
    def last(net):
        return net.to(memory_format=torch.channels_last)

    def layers():
        return [
            nn.Conv2d(2, 8, 3, padding=1), sl.LIF(v_threshold=0.2), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3),
            sl.LIF(v_threshold=0.1), nn.Flatten(), nn.Linear(64, 10),
        ]  # fmt: skip

    x = torch.randn(6, 4, 2, 8, 8)
    images = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (6, 4))
    for a, b in zip(*both(layers, images, net_of=last), strict=True):
        torch.testing.assert_close(b, a, atol=2e-5, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        for a, b in zip(*both(layers, x), strict=True):
            assert float((a - b).abs().max()) <= 0.02 * max(float(a.abs().max()), 1e-3)


@pytest.mark.parametrize("half", [False, True])
def test_pools_whose_windows_share_places_or_are_large(half):
    """For which bits have no gradient of their own: torch's, inside of an operator."""

    def layers():
        return [
            nn.Conv2d(2, 8, 3, padding=1), sl.LIF(v_threshold=0.2), nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(8, 8, 3, padding=4), sl.LIF(v_threshold=0.1), nn.MaxPool2d(9, 1), nn.Flatten(),
        ]  # fmt: skip

    x = torch.randn(4, 3, 2, 10, 10)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        dense, packed = both(layers, x)
    assert dense[1].abs().sum() > 0
    for a, b in zip(dense, packed, strict=True):
        assert float((a - b).abs().max()) <= (0.02 if half else 1e-5) * max(float(a.abs().max()), 1e-3)


def test_ragged_batches_and_other_batch_sizes():
    lengths = torch.tensor([6, 3, 1, 5])
    torch.manual_seed(0)
    net = sl.Network(*NETS["linear"](), spikes="packed")
    compiled = torch.compile(net, backend="aot_eager", dynamic=True, fullgraph=True)
    for B in (4, 7, 9):
        x = torch.randn(6, B, 128)
        torch.testing.assert_close(compiled(x) * 1, net(x).unpack())
    x, compiled = torch.randn(6, 4, 128), torch.compile(net, backend="aot_eager")
    torch.testing.assert_close(compiled(x, lengths=lengths) * 1, net(x, lengths=lengths) * 1)


def saved(run):
    """``{dtype: bytes}`` that autograd saves, each storage once."""
    kept = {}

    def note(t):
        storage = (t.bits if isinstance(t, sl.SpikeTensor) else t).untyped_storage()
        kept[storage._cdata] = storage, t.bits.dtype if isinstance(t, sl.SpikeTensor) else t.dtype
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        run()
    found = {}
    for storage, dtype in kept.values():
        found[dtype] = found.get(dtype, 0) + storage.nbytes()
    return found


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_what_a_compiled_network_saves_of_spikes_is_bits(backend):
    """Conv(8 -> 16), its max pool, Linear(256 -> 64) and Linear(64 -> 10) read spikes again: bits, and no indices."""
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("TorchInductor needs a compiler of C++")
    if backend == "aot_eager" and torch.__version__ < "2.13":
        pytest.skip("aot_eager saves what is pooled, in place of its bits, before PyTorch 2.13")
    x, found = torch.randn(6, 4, 1, 8, 8), {}
    for spikes in ("dense", "packed"):
        torch.manual_seed(0)
        net = sl.Network(
            nn.Conv2d(1, 8, 3, padding=1), sl.LIF(v_threshold=0.4), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), sl.LIF(v_threshold=0.4), nn.Flatten(),
            nn.Linear(256, 64), sl.LIF(v_threshold=0.2), nn.Linear(64, 10),
            spikes=spikes,
        )  # fmt: skip
        compiled = torch.compile(net, backend=backend, fullgraph=True)
        found[spikes] = saved(lambda run=compiled: run(x))
    values = 24 * (8 * 64 + 8 * 16 + 16 * 16 + 64)
    assert found["packed"].pop(torch.uint8) == values / 8
    assert torch.int64 not in found["packed"]
    before = 24 * 8 * 64 * (backend == "aot_eager")  # TorchInductor saves indices of a byte, and not what is pooled
    assert found["dense"][torch.float32] - found["packed"][torch.float32] == 4 * (values - 24 * 8 * 64 + before)


def test_pack_unpack_and_spikes_that_come_in():
    W = torch.randn(5, 16, requires_grad=True)

    def inside(x):
        s = sl.pack((x > 0).float() + 0 * x)
        return F.linear(s, W).sum() + (s.unpack() * x).sum()

    x = torch.randn(4, 16, requires_grad=True)
    wanted = torch.autograd.grad(inside(x), [x, W])
    for a, b in zip(wanted, torch.autograd.grad(torch.compile(inside, backend="aot_eager")(x), [x, W]), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="pack: 1 of 4 values are neither 0 nor 1"):
        torch.compile(lambda x: sl.pack(x), backend="aot_eager")(torch.tensor([0.0, 1.0, 0.5, 1.0]))
    images = sl.pack((torch.rand(3, 2, 6, 6) < 0.3).float())
    conv = nn.Conv2d(2, 4, 3)

    def outside(s):
        y, places = F.max_pool2d(s, 2, return_indices=True)
        return conv(s), y * 1, places

    found = torch.compile(outside, backend="aot_eager", fullgraph=True)(images)
    for a, b in zip(found, outside(images.unpack()), strict=True):
        torch.testing.assert_close(a, b)


def test_where_a_graph_may_break_spikes_are_dense_and_that_is_said_once(caplog):
    class Breaks(nn.Module):
        def forward(self, x):
            torch._dynamo.graph_break()
            return x * 1

    _said.clear()
    torch.manual_seed(0)
    net = sl.Network(nn.Linear(128, 16), sl.LIF(v_threshold=0.1), Breaks(), nn.Linear(16, 4), spikes="packed")
    x = torch.randn(6, 4, 128)
    wanted = net(x)
    compiled = torch.compile(net, backend="aot_eager")
    for _ in range(2):
        y = compiled(x)
        torch.testing.assert_close(y, wanted)
        by_net, by_compiled = (torch.autograd.grad(z.square().sum(), list(net.parameters())) for z in (net(x), y))
        for a, b in zip(by_net, by_compiled, strict=True):
            torch.testing.assert_close(a, b)
    assert sum("inside torch.compile spikes are dense" in r.message for r in caplog.records) == 1


def test_recorded_spikes_and_a_compiled_part_of_a_network():
    torch.manual_seed(0)
    net = sl.Network(nn.Linear(128, 16), sl.LIF(v_threshold=0.1), nn.Linear(16, 4), sl.LIF(), spikes="packed")
    x = torch.randn(6, 4, 128)
    wanted, reference = net(x, record=("1.output", "1.v"))
    y, result = torch.compile(net, backend="aot_eager", fullgraph=True)(x, record=("1.output", "1.v"))
    assert torch.equal(y, wanted.unpack())
    for name in ("1.output", "1.v"):
        torch.testing.assert_close(result.record[name], reference.record[name] * 1)
    result.record["1.output"].sum().backward()
    by_record = net.body[0].weight.grad
    net.zero_grad()
    reference.record["1.output"].sum().backward()
    torch.testing.assert_close(by_record, net.body[0].weight.grad)
    block = nn.Sequential(nn.Linear(16, 4), sl.LIF(v_threshold=0.05))
    outer = sl.Network(nn.Linear(128, 16), sl.LIF(v_threshold=0.1), block, nn.Linear(4, 2), spikes="packed")
    wanted = outer(x)
    grads = torch.autograd.grad(wanted.square().sum(), list(outer.parameters()))
    block.compile(backend="aot_eager", fullgraph=True)
    y = outer(x)
    torch.testing.assert_close(y, wanted)
    for a, b in zip(grads, torch.autograd.grad(y.square().sum(), list(outer.parameters())), strict=True):
        torch.testing.assert_close(b, a)
