"""Products with spikes: against exact sums in float64, order of additions, weights that are not finite."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikeloom as sl
from spikeloom.kernel import build
from spikeloom.spikes import products

try:
    build.ready()
except build.BuildError as missing:
    pytest.skip(f"no C kernels on this machine: {missing}", allow_module_level=True)


def spikes(M, K, p=0.1, seed=0, dtype=torch.float32):
    return (torch.rand(M, K, generator=torch.Generator().manual_seed(seed)) < p).to(dtype)


@pytest.fixture
def counted(monkeypatch):
    """How often a product was computed from the bits."""
    calls, real = [], products.times
    monkeypatch.setattr(products, "times", lambda *args: calls.append(args[1:3]) or real(*args))
    return calls


# N: whole panels of 64 columns, parts of one; K: one block of 512 rows, several, a part of a word; M: rows of a block
SIZES = [(1, 8, 1), (3, 64, 64), (37, 24, 5), (130, 520, 130), (257, 1096, 70), (65, 512, 192), (8, 2048, 33)]


@pytest.mark.parametrize(("M", "K", "N"), SIZES)
@pytest.mark.parametrize("p", [0.0, 0.05, 0.3])
def test_linear_forward_and_weight_gradient(M, K, N, p, counted):
    d, layer = spikes(M, K, p), nn.Linear(K, N)
    y = layer(sl.pack(d))
    exact = d.double() @ layer.weight.double().t() + layer.bias.double()
    assert counted == ([(M, K)] if d.mean() <= products.MOST else [])
    torch.testing.assert_close(y.double(), exact, atol=2e-6 * K**0.5, rtol=1e-5)
    g = torch.randn(M, N)
    by_weight, by_bias = torch.autograd.grad((g * y).sum(), [layer.weight, layer.bias])
    assert len(counted) == (2 if d.mean() <= products.MOST else 0)
    torch.testing.assert_close(by_weight.double(), g.double().t() @ d.double(), atol=1e-5 * M**0.5, rtol=1e-5)
    torch.testing.assert_close(by_bias, g.sum(0))


def test_a_row_is_the_same_in_any_batch_and_with_any_number_of_threads(counted):
    d, W = spikes(300, 1200, 0.15), torch.randn(1200, 130)
    whole = torch.mm(sl.pack(d), W)
    for rows in (slice(0, 1), slice(5, 6), slice(7, 135), slice(200, 300)):
        assert torch.equal(torch.mm(sl.pack(d[rows]), W), whole[rows])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(torch.mm(sl.pack(d), W), whole)
    finally:
        torch.set_num_threads(threads)
    # The order is that of the rows of W, whatever fires besides: one spike alone adds its row to 0.
    one = torch.zeros(1, 1200)
    one[0, 777] = 1.0
    assert torch.equal(torch.mm(sl.pack(one), W)[0], W[777])
    assert len(counted) == 7


def test_bfloat16_adds_in_float32():
    d, W = spikes(40, 512, 0.2, dtype=torch.bfloat16), torch.randn(512, 96).to(torch.bfloat16)
    y = torch.mm(sl.pack(d), W)
    assert y.dtype == torch.bfloat16
    exact = d.double() @ W.double()
    assert (
        torch.equal(y, exact.to(torch.bfloat16)) or float((y.double() - exact).abs().max()) < 0.01 * exact.abs().max()
    )
    layer = nn.Linear(512, 96)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(sl.pack(d.float()))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    torch.testing.assert_close(layer.weight.grad, d.float().sum(0).expand(96, 512), rtol=0.02, atol=0.02)


def test_weights_that_are_not_finite_go_dense(counted):
    d = spikes(70, 64, 0.1)
    d[:, 3] = 0.0
    for value in (float("inf"), float("nan")):
        W = torch.randn(64, 10)
        W[3, 2] = value  # no spike meets it, but 0 * inf is NaN
        for M in (70, 5):
            y = torch.mm(sl.pack(d[:M]), W)
            assert y[:, 2].isnan().all()
            assert y[:, :2].isfinite().all()
    assert not counted
    g = torch.randn(10, 70)
    g[0, 0] = float("inf")
    assert torch.equal(torch.mm(g, sl.pack(d)).isnan(), (g @ d).isnan())


def test_kept_weights_follow_changes(counted):
    """Small products keep what they made of a weight until it changes."""
    d, W = spikes(2, 64, 0.2), torch.randn(64, 10)
    s = sl.pack(d)
    for change in (lambda: None, lambda: W.mul_(2.0), lambda: W[3].fill_(1.0), lambda: W.zero_()):
        change()
        torch.testing.assert_close(torch.mm(s, W), d @ W)
    for seed in range(80):  # tensors that come and go may get the same address
        W = torch.randn(64, 10, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(torch.mm(s, W), d @ W)
    with torch.inference_mode():
        W = torch.randn(64, 10)
        torch.testing.assert_close(torch.mm(s, W), d @ W)
    assert len(counted) == 85


def test_what_has_no_kernel_is_dense(counted):
    d = spikes(6, 64, 0.1)
    for s, W in (
        (sl.pack(d.double()), torch.randn(64, 5).double()),  # float64
        (sl.pack(d[:, :63]), torch.randn(63, 5)),  # rows of no whole bytes
        (sl.pack(1 - d), torch.randn(64, 5)),  # many spikes
        (sl.pack(d.t().contiguous()).t(), torch.randn(64, 5)),  # rows are not in memory
        (sl.pack(d), sl.pack(spikes(64, 5, 0.1))),  # spikes on both sides
    ):
        dense = [t.unpack() if isinstance(t, sl.SpikeTensor) else t for t in (s, W)]
        torch.testing.assert_close(torch.mm(s, W), dense[0] @ dense[1])
    assert torch.equal(torch.addmm(torch.ones(5), sl.pack(d), torch.zeros(64, 5), beta=0.5), torch.full((6, 5), 0.5))
    assert not counted


def test_attention_and_batched_layouts_reach_the_kernel(counted):
    d = spikes(12, 64, 0.1).view(3, 4, 64)
    layer = nn.Linear(64, 16)
    torch.testing.assert_close(layer(sl.pack(d)), layer(d))
    assert counted == [(12, 64)]
    torch.testing.assert_close(F.linear(sl.pack(d[0]), layer.weight), F.linear(d[0], layer.weight))


CONVOLUTIONS = {
    "3x3": dict(kernel_size=3, padding=1),
    "stride and dilation": dict(kernel_size=3, stride=2, padding=2, dilation=2),
    "no padding, no bias": dict(kernel_size=3, bias=False),
    "oblong": dict(kernel_size=(1, 5), stride=(2, 1), padding=(0, 2)),
    "1x1": dict(kernel_size=1),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolution_and_its_gradients(name, dtype, monkeypatch):
    from spikeloom.spikes import convolution

    calls, real = [], convolution.convolve
    monkeypatch.setattr(convolution, "convolve", lambda *args: calls.append(args[1]) or real(*args))
    for shape, channels in (((3, 16, 8, 8), 70), ((2, 24, 4, 6), 64), ((1, 8, 16, 8), 5)):
        layer = nn.Conv2d(shape[1], channels, **CONVOLUTIONS[name]).to(dtype)
        for last in (False, True):
            d = (torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.15).to(dtype)
            d = d.contiguous(memory_format=torch.channels_last) if last else d
            calls.clear()
            y, wanted = layer(sl.pack(d)), layer(d)
            assert calls == [shape]
            assert y.dtype == dtype
            assert (y.shape, y.stride()) == (wanted.shape, wanted.stride())
            exact = nn.functional.conv2d(
                d.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double(),
                layer.stride, layer.padding, layer.dilation,
            )  # fmt: skip
            limit = 2**-8 if dtype == torch.bfloat16 else 1e-6
            assert float((y.detach().double() - exact.detach()).abs().max()) <= limit * float(
                exact.detach().abs().max()
            )
            if dtype == torch.float32:
                g = torch.randn_like(y)
                grads = [torch.autograd.grad((g * o).sum(), list(layer.parameters())) for o in (y, wanted)]
                for a, b in zip(*grads, strict=True):
                    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_convolutions_without_a_kernel_are_dense(monkeypatch):
    from spikeloom.spikes import convolution

    monkeypatch.setattr(convolution, "convolve", lambda *args: pytest.fail("this should have been dense"))
    d = (torch.rand(2, 8, 6, 6) < 0.1).float()
    infinite = nn.Conv2d(8, 4, 3)
    with torch.no_grad():
        infinite.weight[0, 0, 0, 0] = float("inf")
    for layer, x in (
        (nn.Conv2d(8, 8, 3, groups=2), d),
        (nn.ConvTranspose2d(8, 4, 2), d),
        (nn.Conv2d(5, 4, 3), d[:, :5, :5, :5].contiguous()),  # 25 bits a channel
        (nn.Conv2d(8, 4, 3).double(), d.double()),
        (nn.Conv2d(8, 4, 3), 1 - d),
        (nn.Conv1d(8, 4, 3), d[:, :, 0].contiguous()),
        (infinite, d),
    ):
        torch.testing.assert_close(layer(sl.pack(x)), layer(x), equal_nan=True)


def test_a_convolved_image_is_the_same_in_any_batch():
    d = (torch.rand(9, 16, 8, 8) < 0.1).float()
    layer = nn.Conv2d(16, 24, 3, padding=1)
    whole = layer(sl.pack(d))
    for part in (slice(0, 1), slice(3, 8)):
        assert torch.equal(layer(sl.pack(d[part])), whole[part])
    assert torch.equal(layer(sl.pack(d.contiguous(memory_format=torch.channels_last))), whole)
