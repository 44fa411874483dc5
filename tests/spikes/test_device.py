"""Bits and their products in Triton, in its interpreter, against sums in float64; test_gpu.py does so on a GPU.

A product in float16 that gives float32 is what a CPU refuses; float32 products of the same parts stand in for it.
"""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import spikeloom as sl
from spikeloom.kernel.triton.target import TRITON
from spikeloom.native.build import BuildError
from spikeloom.spikes import bits as bits_of_spikes
from spikeloom.spikes import convolution, device, tensor

try:
    TRITON.ready(torch.device("cpu"))
except BuildError as missing:
    pytest.skip(f"Triton's interpreter does not run here: {missing}", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy warns of infinities where they are meant
HALVES = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, torch.float64, *HALVES)
PRODUCT = ["largest", "split", "unpack", "join"]
"""The kernels of one product."""


@pytest.fixture(autouse=True)
def triton():
    with sl.backend("triton"):
        yield


@pytest.fixture
def launched(monkeypatch):
    """Names of the kernels that ran."""
    names, run = [], device._run

    def counted(name, *args, **options):
        names.append(name)
        return run(name, *args, **options)

    monkeypatch.setattr(device, "_run", counted)
    return names


def spikes(M, K, p=0.3, seed=0, dtype=torch.float32):
    return (torch.rand(M, K, generator=torch.Generator().manual_seed(seed)) < p).to(dtype)


def bytes_of(x):
    """What the bits of a flat list of values have to be."""
    return [sum(int(v) << j for j, v in enumerate(x[i : i + 8])) for i in range(0, len(x), 8)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 7, 8, 1023, 2048, 2049, 4096, 10001])
def test_pack_and_unpack(n, dtype, launched):
    """Blocks of 2,048 values are packed and of 4,096 unpacked at a time; the last of them is mostly not whole."""
    x = spikes(1, n, dtype=dtype)[0]
    s = sl.pack(x)
    assert s.bits.tolist() == bytes_of(x.tolist())
    assert s.unpack().dtype == dtype
    assert torch.equal(s.unpack(), x)
    assert launched == ["pack", "unpack", "unpack"]


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_bits_and_values_that_begin_anywhere(offset):
    """Views begin at bytes that are no multiple of four; nothing is written outside."""
    x = torch.full((6000,), 7.0)
    x[offset : offset + 5003] = spikes(1, 5003)[0]
    s = sl.pack(x[offset : offset + 5003])
    assert s.bits.tolist() == bytes_of(x[offset : offset + 5003].tolist())
    rows = sl.pack(spikes(9, 40))
    view = rows[offset : offset + 5]
    assert view.bits.data_ptr() == rows.bits.data_ptr() + 5 * offset  # 40 values are 5 bytes
    assert torch.equal(view.unpack(), spikes(9, 40)[offset : offset + 5])
    kept = torch.full((700,), 3.0)
    device._run("unpack", (1,), [rows.bits, kept[:353]], [353], BYTES=512)
    assert torch.equal(kept[:353], spikes(9, 40).flatten()[:353])
    assert (kept[353:] == 3.0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", [-1.0, 0.5, float("nan"), float("inf")])
@pytest.mark.parametrize("place", [5, 2345, 4999])
def test_what_is_no_spike_is_refused(dtype, wrong, place):
    x = spikes(1, 5000, dtype=dtype)[0]
    x[place] = wrong
    with pytest.raises(ValueError, match="pack: 1 of 5000 values are neither 0 nor 1"):
        sl.pack(x)
    x[place] = 0.0
    assert torch.equal(sl.pack(x, check=False).unpack(), x)


@pytest.mark.parametrize("n", [1, 8, 4096, 4097, 9001])
def test_bits_are_counted(n, launched):
    x = spikes(1, 8 * n - 5)[0]
    s = sl.pack(x)
    assert s.count() == int(x.sum())
    assert float(s.sum()) == float(x.sum())
    assert float(s.mean()) == pytest.approx(float(x.double().mean()), rel=1e-7)
    assert launched == ["pack", "count", "count"]  # .count() of a CPU's bits is C's


SIZES = [(1, 8, 1), (3, 64, 64), (37, 21, 5), (130, 520, 130), (600, 70, 20), (5, 3, 300), (9, 1, 1)]


def error(found, exact):
    """The largest error, as a share of the largest value. No number of float32 is below 1e-45."""
    found, exact = found.detach(), exact.detach()
    return float((found.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-45))


@pytest.mark.parametrize(("M", "K", "N"), SIZES)
@pytest.mark.parametrize("p", [0.0, 0.02, 0.5, 1.0])
def test_linear_forward_and_weight_gradient(M, K, N, p, launched):
    d, layer = spikes(M, K, p), nn.Linear(K, N)
    y = layer(sl.pack(d))
    exact = d.double() @ layer.weight.double().t() + layer.bias.double()
    assert error(y, exact) <= 5e-7
    g = torch.randn(M, N)
    by_weight, by_bias = torch.autograd.grad((g * y).sum(), [layer.weight, layer.bias])
    exact = g.double().t() @ d.double()
    assert error(by_weight, exact) <= 1e-6 if exact.any() else not by_weight.any()
    assert by_weight.is_contiguous()
    torch.testing.assert_close(by_bias, g.sum(0))
    assert launched == ["pack", *PRODUCT, *PRODUCT]


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "every second column", "expanded"])
def test_matrices_of_every_layout(layout, launched):
    W = {
        "contiguous": lambda: torch.randn(70, 33),
        "transposed": lambda: torch.randn(33, 70).t(),
        "every second column": lambda: torch.randn(70, 66)[:, ::2],
        "expanded": lambda: torch.randn(70, 1).expand(70, 33),
    }[layout]()
    d = spikes(50, 70)
    assert error(sl.pack(d) @ W, d.double() @ W.double()) <= 5e-7
    assert launched == ["pack", *PRODUCT]


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-20, 1e-6, 1.0, 6e4, 1e6, 1e30, 3e37])
def test_weights_of_any_size(scale, launched):
    """Also where float16 has no such numbers, and float32 hardly any."""
    d, W = spikes(64, 100, 0.1), torch.randn(100, 40, generator=torch.Generator().manual_seed(1)) * scale
    y, exact = torch.mm(sl.pack(d), W), d.double() @ W.double()
    assert error(y, exact) <= (5e-7 if scale > 1e-44 else 1e-2)  # where float32 itself has few bits
    assert launched == ["pack", *PRODUCT]


def test_two_parts_of_a_weight_are_22_of_its_24_bits():
    """One spike picks a row. Numbers keep 2 x 11 bits, and of those below 2^-28 of the largest what is above 2^-51."""
    W = torch.randn(40, 27, generator=torch.Generator().manual_seed(3)) * 2.0 ** -torch.arange(27.0)
    picked = torch.mm(sl.pack(torch.eye(40)), W)
    assert W.abs().min() < 2.0**-28 * W.abs().max()
    assert ((picked - W).double().abs() <= 2.0**-23 * W.abs() + 2.0**-51 * W.abs().max()).all()
    assert not torch.equal(picked, W)


def test_whole_numbers_are_exact():
    d, W = spikes(300, 333), torch.randint(-1000, 1000, (333, 70)).float()
    assert torch.equal(torch.mm(sl.pack(d), W), d @ W)
    G = torch.randint(-1000, 1000, (300, 9)).float()
    assert torch.equal(torch.mm(G.t(), sl.pack(d)), G.t() @ d)


def test_values_that_are_not_finite_give_what_a_dense_product_gives(launched):
    """0 times infinity is NaN; the columns beside them keep their sums, and gradients do the same."""
    W = torch.randn(8, 5)
    W[0, 0] = W[6, 2] = float("inf")
    W[5, 2], W[3, 1] = -float("inf"), float("nan")
    d = torch.cat([spikes(9, 8), torch.ones(1, 8)])
    s = sl.pack(d)
    y = torch.mm(s, W)
    torch.testing.assert_close(y, d @ W, equal_nan=True)
    assert y[-1, 0] == float("inf")
    assert y[:, 1].isnan().all()
    assert y[:, 3:].isfinite().all()
    G = torch.randn(10, 6)
    G[2, 1], G[9, 4] = float("inf"), float("nan")
    torch.testing.assert_close(torch.mm(G.t(), s), G.t() @ d, equal_nan=True)
    assert launched == ["pack", *PRODUCT, *PRODUCT]


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_torchs_product_of_unpacked_spikes(dtype):
    s, layer = sl.pack(spikes(300, 90, dtype=dtype)), nn.Linear(90, 33, dtype=dtype)
    assert not device.pays(s.bits, dtype, layer.weight.t(), 300, 90)
    y, exact = layer(s), s.unpack().double() @ layer.weight.double().t() + layer.bias.double()
    bound = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), exact, atol=bound, rtol=bound)


def test_empty_spikes_and_matrices(launched):
    for M, K, N in ((0, 8, 3), (4, 0, 3), (4, 8, 0)):
        y = torch.mm(sl.pack(torch.zeros(M, K)), torch.ones(K, N))
        assert y.shape == (M, N)
        assert not y.any()
    assert "split" not in launched


def test_autograd_keeps_bits_and_nothing_else_of_spikes():
    d, layer, kept = spikes(64, 256), nn.Linear(256, 32), []
    s = sl.pack(d.requires_grad_())
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = layer(s)
    assert any(isinstance(t, sl.SpikeTensor) for t in kept)
    for t in kept:  # of the weight there is the parameter itself
        own = isinstance(t, sl.SpikeTensor) or t.untyped_storage().data_ptr() == layer.weight.data_ptr()
        assert own, t.shape
    y.sum().backward()
    assert d.grad.shape == (64, 256)


class Watched(TorchDispatchMode):
    """Sees what is computed of plain tensors, inside of handlers of spikes too."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if sl.SpikeTensor in types:
            return NotImplemented  # it hands on to plain tensors
        self.see(func.name(), args)
        return func(*args, **(kwargs or {}))


class NoCopies(Watched):
    """Counts what waits for a device, or would copy Python's numbers to it."""

    def __init__(self):
        super().__init__()
        self.found = []

    def see(self, name, args):
        if name in ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero", "aten::lift_fresh"):
            self.found.append(name)


def test_nothing_waits_for_the_device_or_copies_to_it(monkeypatch):
    """Products, gradients, sums, views, pools and convolutions of spikes, and packing without the check."""
    d, layer = spikes(64, 256), nn.Linear(256, 32)
    conv, images = nn.Conv2d(4, 8, 3, padding=1), spikes(64, 256).view(16, 4, 16, 16)
    monkeypatch.setattr(convolution, "suits", lambda *args: False)  # C's, which a GPU has not
    made = []
    monkeypatch.setattr(torch, "tensor", lambda *args, **options: made.append(args))
    with NoCopies() as seen:
        s = sl.pack(d, check=False)
        layer(s).sum().backward()
        pooled = nn.functional.max_pool2d(sl.pack(images, check=False), 2)
        conv(pooled).sum().backward()
        (
            s.sum(),
            s.mean(),
            s.sum(0),
            s.mean(1),
            s * s,
            s * s[:1],
            s[3:9],
            s[:, 1:7],
            s.t().contiguous(),
            torch.cat([s, s]),
            s.half(),
        )
    assert not made
    assert not seen.found
    with NoCopies() as seen:
        sl.pack(d)
    assert len(seen.found) == 1


@pytest.mark.parametrize("features", [64, 13])
def test_neurons_that_are_binary_by_their_equation_are_not_looked_at(features, monkeypatch):
    """Neither where the kernel writes the bits, nor where a step is no whole bytes; on a CPU a look costs nothing."""
    checks, pack = [], device.pack
    monkeypatch.setattr(device, "pack", lambda x, size, *, check: checks.append(check) or pack(x, size, check=check))
    monkeypatch.setattr(sl.neuron.base.Tensor, "is_cpu", property(lambda self: False), raising=False)
    neuron = sl.LIF(v_threshold=0.2)
    y = torch.rand(3, 1, features)
    assert torch.equal(neuron._as_bits((y > 0.5).float(), 1).unpack(), (y > 0.5).float())
    assert checks == [False]
    assert sl.kernel.gives_spikes(neuron, 1)
    assert not sl.kernel.gives_spikes(sl.LI(), 1)


def test_a_capture_says_how_to_pack(monkeypatch):
    class OnGpu:
        is_cuda = True

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert torch.equal(sl.pack(spikes(3, 8)).unpack(), spikes(3, 8))  # a CPU captures nothing
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    with pytest.raises(RuntimeError, match=r"captured.*sl\.pack\(x, check=False\)"):
        sl.pack(spikes(3, 8))
    assert torch.equal(sl.pack(spikes(3, 8), check=False).bits, sl.pack(spikes(3, 8), check=False).bits)


def test_when_a_product_from_bits_pays(monkeypatch):
    """By size, precision and what torch has."""
    s, W = sl.pack(spikes(8, 8)).bits, torch.empty(2048, 2048)
    assert device.pays(s, torch.float32, W, 1, 2048)  # Triton was asked for
    monkeypatch.setattr(device, "available", lambda bits: True)
    with sl.backend("auto"):
        assert device.pays(s, torch.float32, W, 16384, 2048)
        assert device.pays(s, torch.float32, torch.empty(16384, 2048), 16384, 2048)  # the gradient of W
        assert device.pays(s, torch.float32, W, 16383, 2048)
        assert not device.pays(s, torch.float32, W, 100, 2048)
        assert not device.pays(s, torch.float32, torch.empty(100, 2048), 1 << 20, 100)
        assert not device.pays(s, torch.float32, torch.empty(512, 512), 4096, 512)
        assert not device.pays(s, torch.float32, torch.empty(2041, 2048), 16384, 2041)
        assert not device.pays(s, torch.float32, torch.empty(2048, 2041), 16384, 2048)
        assert not device.pays(s, torch.float32, W.half(), 16384, 2048)
        assert not device.pays(s, torch.float16, W.half(), 16384, 2048)
        monkeypatch.setattr(device, "_multiplies", lambda device: False)
        assert not device.pays(s, torch.float32, W, 16384, 2048)


def test_exact_products_only_where_they_are_asked_for(monkeypatch):
    matmul = torch.backends.cuda.matmul
    assert device._is_exact()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert not device._is_exact()
    finally:
        torch.set_float32_matmul_precision(before)
    assert device._is_exact()
    fp16 = matmul.allow_fp16_accumulation
    try:
        matmul.allow_fp16_accumulation = True
        assert not device._is_exact()
    finally:
        matmul.allow_fp16_accumulation = fp16


def test_a_packed_network_is_the_dense_one(launched):
    torch.manual_seed(0)
    net = sl.Network(nn.Linear(20, 64), sl.LIF(v_threshold=0.3), nn.Linear(64, 24), sl.LIF(v_threshold=0.2))
    x, weights = torch.randn(6, 5, 20), torch.randn(6, 5, 24)
    results = []
    for net.spikes in ("dense", "packed"):
        y = net(x)
        results.append([y + 0, *torch.autograd.grad((y * weights).sum(), list(net.parameters()))])
    assert launched.count("split") == 2
    for dense, packed in zip(*results, strict=True):
        torch.testing.assert_close(packed, dense, atol=1e-4, rtol=1e-4)


def test_what_triton_cannot_compile_is_dense_and_said_once(monkeypatch, caplog):
    class Fails:
        def __getitem__(self, grid):
            return self

        def __call__(self, *args, **options):
            raise ValueError("no such instruction")

    monkeypatch.setattr(device, "_failed", set())
    monkeypatch.setattr(device._code(), "split", Fails())
    d, layer = spikes(40, 24), nn.Linear(24, 5)
    for _ in range(2):
        torch.testing.assert_close(layer(sl.pack(d)), layer(d))
    said = [r.message for r in caplog.records if "unpacked" in r.message]
    assert len(said) == 1
    assert "ValueError: no such instruction" in said[0]


def test_elsewhere_nothing_of_this_runs(launched):
    with sl.backend("auto"):  # C on a CPU
        assert not device.available(torch.zeros(1, dtype=torch.uint8))
        nn.Linear(24, 5)(sl.pack(spikes(40, 24)))
    with sl.backend("eager"):
        sl.pack(spikes(40, 24)).unpack()
    assert not launched


def test_without_kernels_torch_packs_and_counts(monkeypatch):
    """As on a device that Triton does not drive."""
    monkeypatch.setattr(device, "available", lambda bits: False)
    monkeypatch.setattr(bits_of_spikes, "library", lambda: None)
    x = spikes(1, 1003)[0]
    with NoCopies() as seen:
        s = sl.pack(x, check=False)
        assert torch.equal(s.unpack(), x)
    assert s.bits.tolist() == bytes_of(x.tolist())
    assert [name for name in seen.found if name != "aten::_local_scalar_dense"] == []
    assert s.count() == int(x.sum())


class Convolutions(Watched):
    """The layouts in which convolutions get images, and copies of images; the interpreter copies flat tensors."""

    def __init__(self):
        super().__init__()
        self.last, self.copies = [], []

    def see(self, name, args):
        if name.startswith("aten::convolution"):
            x = args[1 if "backward" in name else 0]
            self.last.append(x.is_contiguous(memory_format=torch.channels_last))
        if name in ("aten::clone", "aten::copy_") and args[0].ndim == 4 and not args[0].is_meta:
            self.copies.append(name)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_convolutions_get_the_layout_of_the_spikes(layout, monkeypatch):
    """As on a GPU, where torch multiplies what was unpacked; in the layout that the bits have nothing is copied."""
    monkeypatch.setattr(convolution, "suits", lambda *args: False)
    d = spikes(16, 4 * 6 * 6).view(16, 4, 6, 6).contiguous(memory_format=layout)
    conv, kept = nn.Conv2d(4, 8, 3, padding=1).to(memory_format=layout), []
    s = sl.pack(d.clone(memory_format=torch.preserve_format).requires_grad_())
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(type(t)) or t, lambda t: t),
        Convolutions() as seen,
    ):
        y = conv(s)
        grads = torch.autograd.grad(y.square().sum(), [s, conv.weight, conv.bias])
    assert seen.last == [layout is torch.channels_last] * 2
    assert not seen.copies
    assert kept[0] is sl.SpikeTensor
    z = conv(d.requires_grad_())
    for a, b in zip(grads, torch.autograd.grad(z.square().sum(), [d, conv.weight, conv.bias]), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("channels", [16, 6])
def test_a_convolution_in_channels_last_turns_bits_not_images(channels, launched, monkeypatch):
    """Contiguous images before a weight in channels last: their bits are a sixteenth of a half-precision image."""
    monkeypatch.setattr(convolution, "suits", lambda *args: False)
    d = spikes(5, channels * 35).view(5, channels, 5, 7)
    conv = nn.Conv2d(channels, 8, 3).to(memory_format=torch.channels_last)
    with Convolutions() as seen:
        y = conv(sl.pack(d))
        (grad,) = torch.autograd.grad(y.square().sum(), conv.weight)
    assert seen.last == [channels == 16] * 2
    assert not seen.copies
    assert launched == ["pack", *(["transpose", "unpack"] if channels == 16 else ["unpack"]) * 2]
    torch.testing.assert_close(y, conv(d))
    torch.testing.assert_close(grad, torch.autograd.grad(conv(d).square().sum(), conv.weight)[0])


@pytest.mark.parametrize("shape", [(3, 8, 5, 7), (2, 72, 9, 8), (1, 5, 4, 6), (2, 130, 3, 3), (4, 64, 20, 30)])
def test_images_in_the_other_layout(shape, launched):
    """Bits are turned where channels, or pixels for the way back, are whole bytes; else the images are."""
    d = spikes(shape[0], shape[1] * shape[2] * shape[3]).view(shape)
    s = sl.pack(d)
    last = s.contiguous(memory_format=torch.channels_last)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert last.bits.tolist() == bytes_of(d.permute(0, 2, 3, 1).flatten().tolist())
    assert ("transpose" in launched) == (shape[1] % 8 == 0)
    launched.clear()
    assert torch.equal(last.contiguous().bits, s.bits)
    assert ("transpose" in launched) == (shape[2] * shape[3] % 8 == 0)


@pytest.mark.parametrize("backend", ["triton", "auto"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_frozen_convolution_unpacks_nothing_in_its_backward_pass(backend, groups, launched, monkeypatch):
    """The gradient of its input needs the weight and the input's shape."""
    with sl.backend(backend):
        d, conv = spikes(16, 4 * 6 * 6).view(16, 4, 6, 6), nn.Conv2d(4, 8, 3, padding=1, groups=groups)
        conv.weight.requires_grad_(False)
        s = sl.pack(d.requires_grad_())
        y = conv(s)
        launched.clear()
        monkeypatch.setattr(tensor, "unpack_bits", None)
        by_input, by_bias = torch.autograd.grad(y.square().sum(), [d, conv.bias])
        monkeypatch.undo()
    assert "unpack" not in launched
    z = conv(d)
    for a, b in zip((by_input, by_bias), torch.autograd.grad(z.square().sum(), [d, conv.bias]), strict=True):
        torch.testing.assert_close(a, b)
