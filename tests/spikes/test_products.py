"""Products with spikes: against exact sums in float64, order of additions, weights that are not finite."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikeloom as sl
from spikeloom.native import build
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
    monkeypatch.setattr(products, "times", lambda *args, **stride: calls.append(args[1:3]) or real(*args, **stride))
    return calls


# N: whole panels of 64 columns, parts of one; K: one block of 512 rows, several, a part of a byte; M: rows of a block
SIZES = [
    (1, 8, 1),
    (3, 64, 64),
    (37, 21, 5),
    (130, 520, 130),
    (257, 1097, 70),
    (65, 512, 192),
    (8, 2048, 33),
    (600, 70, 20),
]
SIZES += [(40, 2600, 65)]


@pytest.mark.parametrize(("M", "K", "N"), SIZES)
@pytest.mark.parametrize("p", [0.0, 0.02, 0.3, 1.0])
def test_linear_forward_and_weight_gradient(M, K, N, p, counted):
    d, layer = spikes(M, K, p), nn.Linear(K, N)
    y = layer(sl.pack(d))
    exact = d.double() @ layer.weight.double().t() + layer.bias.double()
    assert counted == [(M, K)]
    torch.testing.assert_close(y.double(), exact, atol=2e-6 * K**0.5, rtol=1e-5)
    g = torch.randn(M, N)
    by_weight, by_bias = torch.autograd.grad((g * y).sum(), [layer.weight, layer.bias])
    assert counted[1:] == ([(K, M)] if M >= 32 else [])
    torch.testing.assert_close(by_weight.double(), g.double().t() @ d.double(), atol=1e-5 * M**0.5, rtol=1e-5)
    torch.testing.assert_close(by_bias, g.sum(0))


def by_groups(d, W):
    """The sum that is promised, in float32: rows of W in groups of four, from the first on."""
    rows = []
    for spikes in d.tolist():
        total = torch.zeros(W.shape[1])
        for start in range(0, len(spikes), 4):
            group = [W[k] for k in range(start, min(start + 4, len(spikes))) if spikes[k]]
            if group:
                total = total + list(itertools.accumulate(group))[-1]
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize(("K", "N"), [(1200, 130), (90, 64), (37, 7)])
def test_the_order_of_additions_is_the_same_whatever_fires_beside_a_row(K, N, counted):
    """A few spikes are listed, many looked up in tables: the same bits, in any batch, by any number of threads."""
    W = torch.randn(K, N, generator=torch.Generator().manual_seed(1))
    few, many = spikes(150, K, 0.02), spikes(300, K, 0.6, seed=1)
    for d in (few, many):
        assert torch.equal(torch.mm(sl.pack(d), W), by_groups(d, W))
    d = torch.cat([few, many])
    whole = torch.mm(sl.pack(d), W)
    for rows in (slice(0, 1), slice(5, 6), slice(7, 135), slice(100, 300), slice(449, 450)):
        assert torch.equal(torch.mm(sl.pack(d[rows]), W), whole[rows])
    columns = W.t().contiguous().t()  # the weight of a linear layer is the transpose of one
    assert torch.equal(torch.mm(sl.pack(d), columns), whole)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(torch.mm(sl.pack(d), W), whole)
    finally:
        torch.set_num_threads(threads)
    one = torch.zeros(1, K)  # one spike alone adds its row to 0
    one[0, 33] = 1.0
    assert torch.equal(torch.mm(sl.pack(one), W)[0], W[33])
    assert len(counted) == 11


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


def test_nothing_is_kept_of_a_weight(counted):
    """Neither what moves its version nor what moves nothing is missed."""
    d, W = spikes(2, 64, 0.2), torch.randn(64, 10)
    s = sl.pack(d)
    for change in (lambda: None, lambda: W.mul_(2.0), lambda: W.data.fill_(1.0), lambda: W.numpy().fill(3.0)):
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
    "stride of 3, kernel of 2": dict(kernel_size=2, stride=3, padding=1),
    "1x1": dict(kernel_size=1),
}
# Channels of whole passes of 32, of parts, of no whole group of 4; images of more outputs than a tile; many small ones
IMAGES = [((3, 16, 8, 8), 70), ((2, 24, 4, 6), 64), ((1, 9, 15, 7), 5), ((2, 64, 9, 9), 33), ((1, 6, 30, 37), 20)]
IMAGES += [((70, 33, 5, 5), 12)]


@pytest.fixture
def convolved(monkeypatch):
    """The convolutions and gradients that were computed from the bits."""
    from spikeloom.spikes import convolution

    calls = []
    for name in ("convolve", "weight_gradient"):
        real = getattr(convolution, name)
        monkeypatch.setattr(
            convolution, name, lambda s, *args, real=real, name=name: calls.append((name, *s.shape)) or real(s, *args)
        )
    return calls


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.03, 0.4])
def test_convolution_and_its_gradients(name, dtype, p, convolved):
    options = CONVOLUTIONS[name]
    for (shape, channels), last in itertools.product(IMAGES, (False, True)):
        layer = nn.Conv2d(shape[1], channels, **options).to(dtype)
        d = (torch.rand(shape, generator=torch.Generator().manual_seed(2)) < p).to(dtype)
        d = d.contiguous(memory_format=torch.channels_last) if last else d
        convolved.clear()
        y, wanted = layer(sl.pack(d)), layer(d)
        assert convolved == [("convolve", *shape)]
        assert y.dtype == dtype
        assert (y.shape, y.stride()) == (wanted.shape, wanted.stride())
        parameters = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
        exact = [t.detach().double().requires_grad_() for t in (d, *parameters)]
        y_exact = F.conv2d(*exact, stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
        limit = 2**-8 if dtype == torch.bfloat16 else 1e-6
        off = (y.detach().double() - y_exact.detach()).abs().max()
        assert float(off) <= limit * float(y_exact.detach().abs().max())
        s = sl.pack(d).requires_grad_()
        g = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y)
        g = g.contiguous(memory_format=torch.channels_last) if last and shape[0] != 2 else g
        got = torch.autograd.grad((g * layer(s)).sum(), [s, *parameters])
        for a, b in zip(got, torch.autograd.grad((g.double() * y_exact).sum(), exact), strict=True):
            assert a.shape == b.shape
            assert float((a.double() - b).abs().max()) <= 3 * limit * float(b.abs().max())


def test_the_gradient_of_a_convolution_comes_from_the_bits(convolved):
    d = (torch.rand(4, 8, 8, 8) < 0.2).float()
    layer = nn.Conv2d(8, 12, 3, padding=1)
    layer(sl.pack(d)).sum().backward()
    assert [name for name, *_ in convolved] == ["convolve", "weight_gradient"]
    # Each weight meets the spikes of its channel, but those that its tap does not reach.
    assert torch.equal(layer.weight.grad[5, :, 1, 1], d.sum((0, 2, 3)))
    assert torch.equal(layer.weight.grad[0, :, 0, 2], d[:, :, :-1, 1:].sum((0, 2, 3)))
    assert torch.equal(layer.bias.grad, torch.full((12,), 256.0))
    convolved.clear()
    layer(sl.pack(d)).mul(float("inf")).sum().backward()
    assert [name for name, *_ in convolved] == ["convolve"]
    assert layer.weight.grad.isnan().all()  # 0 * infinity somewhere


@pytest.mark.parametrize("options", [dict(), dict(stride=2, padding=1, dilation=2)])
def test_convolution_over_time(options, convolved):
    d, layer = (torch.rand(5, 12, 40) < 0.2).float(), nn.Conv1d(12, 7, 3, **options)
    y, wanted = layer(sl.pack(d)), layer(d)
    torch.testing.assert_close(y, wanted)
    g = torch.randn_like(wanted)
    for a, b in zip(*(torch.autograd.grad((g * o).sum(), list(layer.parameters())) for o in (y, wanted)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert [name for name, *_ in convolved] == ["convolve", "weight_gradient"]


def test_convolutions_without_a_kernel_are_dense(convolved):
    d = (torch.rand(2, 8, 6, 6) < 0.1).float()
    infinite = nn.Conv2d(8, 4, 3)
    with torch.no_grad():
        infinite.weight[0, 0, 0, 0] = float("inf")
    for layer, x in (
        (nn.Conv2d(8, 8, 3, groups=2), d),
        (nn.ConvTranspose2d(8, 4, 2), d),
        (nn.Conv2d(8, 4, 3).double(), d.double()),
        (nn.Conv3d(2, 4, 3), d.view(2, 2, 4, 6, 6)),
        (infinite, d),
    ):
        torch.testing.assert_close(layer(sl.pack(x)), layer(x), equal_nan=True)
    assert not convolved


@pytest.mark.parametrize(("C", "O"), [(16, 24), (33, 70)])
def test_a_convolved_image_is_the_same_in_any_batch(C, O, convolved):  # noqa: E741
    d = torch.cat([(torch.rand(9, C, 8, 8) < p).float() for p in (0.01, 0.5)])
    layer = nn.Conv2d(C, O, 3, padding=1)
    whole = layer(sl.pack(d))
    for part in (slice(0, 1), slice(3, 8), slice(8, 12), slice(17, 18)):
        assert torch.equal(layer(sl.pack(d[part])), whole[part])
    assert torch.equal(layer(sl.pack(d.contiguous(memory_format=torch.channels_last))), whole)
    # As sums of rows: all that an output sees, tap by tap, with channels filled up to whole groups of four.
    W = torch.zeros(3, 3, -(-C // 4) * 4, O)
    W[:, :, :C] = layer.weight.detach().permute(2, 3, 1, 0)
    seen = torch.zeros(3, 3, -(-C // 4) * 4)
    seen[:, :, :C] = d[12, :, 3:6, 2:5].permute(1, 2, 0)
    assert torch.equal(whole[12, :, 4, 3], by_groups(seen.view(1, -1), W.view(-1, O))[0] + layer.bias)
    assert len(convolved) == 6


def test_inference_mode_reaches_the_kernels(counted, convolved):
    """There, layers come to a tensor subclass whole: nothing has taken a linear layer apart into a product."""
    net = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(256, 12))
    d = (torch.rand(3, 8, 6, 6) < 0.2).float()
    s = sl.pack(d)
    with torch.inference_mode():
        y, spikes = net(s), F.max_pool2d(s, 2)
        assert isinstance(spikes.flatten(1), sl.SpikeTensor)
        linear = nn.Linear(288, 5, bias=False)(s.flatten(1))
    assert linear.shape == (3, 5)
    assert [name for name, *_ in convolved] == ["convolve"]
    assert counted == [(3, 288)]
    assert torch.equal(spikes.unpack(), F.max_pool2d(d, 2))
    torch.testing.assert_close(y, net(d))


@pytest.mark.parametrize("shape", [(64, 10), (513, 70), (1100, 33)])
@pytest.mark.parametrize("rate", [0.0, 0.02, 0.3, 1.0])
def test_a_row_of_a_linear_layer_is_the_same_in_any_batch_bit_by_bit(shape, rate):
    """Few rows read the weight where it lies, more rows copies of it, most of them tables: the sums are the same."""
    K, N = shape
    layer, d = torch.nn.Linear(K, N), spikes(300, K, rate)
    with torch.no_grad():
        whole = layer(sl.pack(d))
        for M in (1, 2, 5, 16, 40):
            assert torch.equal(layer(sl.pack(d[:M])), whole[:M])
        torch.testing.assert_close(whole, layer(d), atol=1e-4, rtol=1e-4)
