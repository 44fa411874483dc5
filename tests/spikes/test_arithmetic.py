"""Products of spikes with spikes, their sums and means: what dense tensors give, from bits."""

import itertools

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom.kernel.triton.target import problem
from spikeloom.native import build
from spikeloom.spikes import arithmetic

WAYS = ["auto"] if problem("cpu") else ["auto", "triton"]
C = build.compiled(arithmetic._SOURCE) is not None


@pytest.fixture(params=WAYS)
def way(request):
    with sl.backend(request.param):
        yield request.param


def spikes(*shape, p=0.4, seed=0, dtype=torch.float32):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < p).to(dtype)


@pytest.fixture
def unpacked(monkeypatch):
    """How often spikes were unpacked for a handler."""
    calls, real = [], arithmetic.dense
    monkeypatch.setattr(arithmetic, "dense", lambda s: calls.append(s.shape) or real(s))
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    ("first", "second", "as_bits"),
    [
        ((3, 5), (3, 5), True),
        ((2, 3, 4, 16), (2, 3, 1, 16), True),  # attention by a mask over tokens
        ((2, 3, 1, 16), (2, 3, 4, 16), True),
        ((2, 4, 8), (4, 8), True),
        ((6, 1, 4, 6), (1, 5, 4, 6), True),
        ((2, 3, 4, 5), (2, 3, 1, 5), False),
        ((2, 3, 4, 16), (2, 3, 4, 1), False),
        ((1,), (7, 1), False),
        ((), (3,), False),
    ],
)
def test_spikes_times_spikes_are_spikes(first, second, as_bits, dtype, way, unpacked):
    a, b = spikes(*first, dtype=dtype), spikes(*second, seed=1, dtype=dtype)
    y = sl.pack(a) * sl.pack(b)
    assert isinstance(y, sl.SpikeTensor)
    assert y.dtype == dtype
    assert torch.equal(y.unpack(), a * b)
    assert bool(unpacked) == (not as_bits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5), (2, 8), (1,), (), (0, 4), (7, 3, 5, 4)])
def test_what_is_no_spike_is_a_spike(shape, dtype):
    d = spikes(*shape, dtype=dtype)
    y = 1.0 - sl.pack(d)
    assert torch.equal(y.unpack() if isinstance(y, sl.SpikeTensor) else y, 1 - d)
    if d.numel():
        assert y.count() == d.numel() - int(d.sum())  # none past the last
        s, t, grad = sl.pack(d).requires_grad_(), sl.pack(1 - d).requires_grad_(), torch.randn(shape).to(dtype)
        ((1 - s) * t).backward(grad)  # an inhibited spike: its gradients by hand
        assert torch.equal(s.grad * 1, -grad * (1 - d))
        assert torch.equal(t.grad * 1, grad * (1 - d))


def test_spikes_of_two_layouts(unpacked):
    a = spikes(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    both = sl.pack(a) * sl.pack(a.flip(0).contiguous(memory_format=torch.channels_last))
    assert not unpacked
    assert both.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(both.unpack(), a * a.flip(0))
    mixed = sl.pack(a) * sl.pack(a.flip(0).contiguous())
    assert unpacked
    assert torch.equal(mixed.unpack(), a * a.flip(0))


def test_other_products_are_dense():
    a = spikes(3, 8)
    s = sl.pack(a)
    for other in (2.0, torch.rand(3, 8), torch.rand(8), sl.pack(a.double())):
        y = s * other
        assert type(y) is torch.Tensor
        assert torch.equal(y, a * (other.unpack() if isinstance(other, sl.SpikeTensor) else other))


def test_gradients_of_a_product_and_what_autograd_keeps():
    a, b, kept = spikes(2, 3, 4, 16).requires_grad_(), spikes(2, 3, 1, 16, seed=1).requires_grad_(), []
    g = torch.randn(2, 3, 4, 16)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(type(t)) or t, lambda t: t):
        y = sl.pack(a) * sl.pack(b)
    assert kept == [sl.SpikeTensor, sl.SpikeTensor]
    for found, expected in zip(torch.autograd.grad(y, [a, b], g), torch.autograd.grad(a * b, [a, b], g), strict=True):
        torch.testing.assert_close(found, expected)


LARGE = [(1, 300, 1, 9), (2, 520, 57)]  # several blocks: the interpreter takes its time
SHAPES = [(7,), (5, 16), (3, 21), (4, 3, 600), (2, 3, 4, 5), *(pytest.param(s, marks=pytest.mark.slow) for s in LARGE)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("keepdim", [False, True])
def test_sums_over_every_choice_of_dimensions(shape, keepdim, way):
    a = spikes(*shape)
    s = sl.pack(a)
    for n in range(1, len(shape) + 1):
        for dims in itertools.combinations(range(len(shape)), n):
            y = s.sum(dims, keepdim=keepdim)
            assert type(y) is torch.Tensor
            assert torch.equal(y, a.sum(dims, keepdim=keepdim)), dims
            assert torch.equal(s.mean(dims, keepdim=keepdim), a.mean(dims, keepdim=keepdim)), dims
    assert torch.equal(s.sum(-1), a.sum(-1))
    assert torch.equal(s.sum(()), a.sum(()))
    assert torch.equal(s.sum(0, dtype=torch.int64), a.sum(0, dtype=torch.int64))


@pytest.mark.skipif(not C, reason="no C kernels on this machine")
@pytest.mark.parametrize("dims", [1, (2, 3), (0, 2, 3), 3, (0, 1, 2, 3)])
def test_sums_in_channels_last_are_not_unpacked(dims, way, monkeypatch):
    a = spikes(2, 16, 5, 4).contiguous(memory_format=torch.channels_last)
    s = sl.pack(a)
    monkeypatch.setattr(sl.spikes.tensor, "unpack_bits", None)
    assert torch.equal(s.sum(dims), a.sum(dims))
    assert torch.equal(s.transpose(1, 3).sum(2), a.transpose(1, 3).sum(2))


def test_sums_in_half_precision_and_beyond_its_range(way):
    a = torch.ones(70000, 2)
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(sl.pack(a.to(dtype)).sum(0), a.sum(0).to(dtype))
        assert torch.equal(sl.pack(a.to(dtype)).sum(), a.sum().to(dtype))
        b = spikes(300, 7, dtype=dtype)
        assert torch.equal(sl.pack(b).mean(0), b.mean(0))


def test_sums_of_nothing_and_wrong_dimensions(way):
    assert torch.equal(sl.pack(torch.zeros(0, 4)).sum(0), torch.zeros(4))
    assert float(sl.pack(torch.zeros(0)).sum()) == 0.0
    assert sl.pack(torch.zeros(0, 4)).mean(0).isnan().all()
    for dims in (2, (0, 0), -3):
        with pytest.raises((IndexError, RuntimeError), match=r"(?i)dim"):
            sl.pack(spikes(3, 4)).sum(dims)


def test_gradients_of_sums():
    a = spikes(3, 4, 8).requires_grad_()
    g = torch.randn(3, 8)
    (found,) = torch.autograd.grad(sl.pack(a).sum(1), a, g)
    assert torch.equal(found, g.unsqueeze(1).expand(3, 4, 8))


def test_what_has_the_size_already_is_expanded_as_bits():
    s = sl.pack(spikes(2, 3, 8))
    for same in (s.expand(2, 3, 8), s.expand(-1, 3, -1), s.expand(1, 2, 3, 8)):
        assert isinstance(same, sl.SpikeTensor)
        assert same.bits.data_ptr() == s.bits.data_ptr()
    grown = sl.pack(spikes(2, 1, 8)).expand(2, 3, 8)
    assert type(grown) is torch.Tensor
    assert torch.equal(grown, spikes(2, 1, 8).expand(2, 3, 8))


class Attention(nn.Module):
    """Spikes of queries, keys and values ``[rows, heads, d, N]``, multiplied without softmax."""

    def forward(self, q, k, v):
        return (v @ k.transpose(-1, -2)) @ q * 0.125


def test_attention_keeps_bits():
    """Of the factors that are spikes autograd keeps bits: 1/32 of their size."""
    parts = [spikes(2, 4, 8, 16, seed=seed).requires_grad_() for seed in range(3)]
    g, kept = torch.randn(2, 4, 8, 16), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = Attention()(*[sl.pack(part) for part in parts])
    assert sum(isinstance(t, sl.SpikeTensor) for t in kept) == 3
    assert [t.shape for t in kept if type(t) is torch.Tensor] == [(8, 8, 8)]  # v k^T
    dense = Attention()(*parts)
    assert torch.equal(y, dense)
    for a, b in zip(torch.autograd.grad(y, parts, g), torch.autograd.grad(dense, parts, g), strict=True):
        assert torch.equal(a, b)
