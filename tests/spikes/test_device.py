"""Bits and their products in Triton, in its interpreter, against sums in float64; test_gpu.py does so on a GPU."""

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom.kernel.triton.target import TRITON
from spikeloom.native.build import BuildError
from spikeloom.spikes import device

try:
    TRITON.ready(torch.device("cpu"))
except BuildError as missing:
    pytest.skip(f"Triton's interpreter does not run here: {missing}", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy warns of infinities where they are meant
HALVES = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def triton():
    with sl.backend("triton"):
        yield


@pytest.fixture
def launched(monkeypatch):
    """Names of the kernels that ran."""
    names, run = [], device._run

    def counted(kernel, *args, **options):
        names.append(kernel.__name__)
        return run(kernel, *args, **options)

    monkeypatch.setattr(device, "_run", counted)
    return names


def spikes(M, K, p=0.3, seed=0, dtype=torch.float32):
    return (torch.rand(M, K, generator=torch.Generator().manual_seed(seed)) < p).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("n", [1, 7, 8, 1023, 1024, 5001])
def test_pack_and_unpack(n, dtype, launched):
    x = spikes(1, n, dtype=dtype)[0]
    s = sl.pack(x)
    assert s.bits.tolist() == [sum(int(v) << j for j, v in enumerate(x[i : i + 8].tolist())) for i in range(0, n, 8)]
    assert torch.equal(s.unpack(), x)
    assert launched == ["pack", "unpack"]


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("wrong", [-1.0, 0.5, float("nan"), float("inf")])
def test_what_is_no_spike_is_refused(dtype, wrong):
    x = spikes(1, 3000, dtype=dtype)[0]
    x[2345] = wrong
    with pytest.raises(ValueError, match="pack: 1 of 3000 values are neither 0 nor 1"):
        sl.pack(x)


SIZES = [(1, 8, 1), (3, 64, 64), (37, 21, 5), (130, 520, 130), (600, 70, 20), (5, 3, 200)]


@pytest.mark.parametrize(("M", "K", "N"), SIZES)
@pytest.mark.parametrize("p", [0.0, 0.02, 0.5, 1.0])
def test_linear_forward_and_weight_gradient(M, K, N, p, launched):
    d, layer = spikes(M, K, p), nn.Linear(K, N)
    y = layer(sl.pack(d))
    exact = d.double() @ layer.weight.double().t() + layer.bias.double()
    torch.testing.assert_close(y.double(), exact, atol=2e-6 * K**0.5, rtol=1e-5)
    g = torch.randn(M, N)
    by_weight, by_bias = torch.autograd.grad((g * y).sum(), [layer.weight, layer.bias])
    torch.testing.assert_close(by_weight.double(), g.double().t() @ d.double(), atol=1e-5 * M**0.5, rtol=1e-5)
    torch.testing.assert_close(by_bias, g.sum(0))
    assert launched == ["pack", "times", "times"]


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_adds_in_float32(dtype, launched):
    d, layer = spikes(300, 90, dtype=dtype), nn.Linear(90, 33, dtype=dtype)
    y = layer(sl.pack(d))
    exact = d.double() @ layer.weight.double().t() + layer.bias.double()
    bound = 2 * torch.finfo(dtype).eps  # of the interpreter's sums and of the rounding of the result
    torch.testing.assert_close(y.double(), exact, atol=bound, rtol=bound)
    assert launched == ["pack", "times"]


def test_three_parts_of_a_weight_are_the_weight():
    """One spike picks a row, which comes out bit by bit, but for numbers whose last part would be denormal."""
    W = torch.randn(40, 27, generator=torch.Generator().manual_seed(3)) * 10.0 ** torch.linspace(-26, 37, 27)
    picked = device.times(sl.pack(torch.eye(40)).bits, 40, 40, W)
    assert torch.equal(picked, W)


def test_a_row_is_the_same_in_any_batch():
    d, W = spikes(300, 333), torch.randn(333, 70)
    whole = device.times(sl.pack(d).bits, 300, 333, W)
    for rows in (slice(0, 1), slice(100, 260)):
        part = d[rows]
        assert torch.equal(device.times(sl.pack(part).bits, len(part), 333, W), whole[rows])


def test_parts_of_the_depth_and_places_in_64_bits(monkeypatch):
    d, g = spikes(1000, 50), torch.randn(1000, 9)
    exact = g.double().t() @ d.double()
    for long in (2**31, 0):
        monkeypatch.setattr(device, "_LONG", long)
        for most in (1, 3, 512):  # of the programs that a gradient is spread over
            monkeypatch.setattr(device, "_PROGRAMS", most)
            found = device.weight_gradient(sl.pack(d).bits, 1000, 50, g)
            torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-5)
        strided = torch.randn(9, 50).t()
        torch.testing.assert_close(device.times(sl.pack(d).bits, 1000, 50, strided), d @ strided, atol=1e-4, rtol=1e-5)


def test_weights_that_are_not_finite_give_what_a_dense_product_gives():
    W = torch.randn(8, 5)
    W[0, 0] = W[6, 2] = float("inf")
    W[5, 2], W[3, 1] = -float("inf"), float("nan")
    d = torch.cat([spikes(9, 8), torch.ones(1, 8)])
    y = device.times(sl.pack(d).bits, 10, 8, W)
    torch.testing.assert_close(y, d @ W, equal_nan=True)
    assert y[-1, 0] == float("inf")
    assert y[:, 1].isnan().all()


def test_a_packed_network_is_the_dense_one(launched):
    torch.manual_seed(0)
    net = sl.Network(nn.Linear(20, 64), sl.LIF(v_threshold=0.3), nn.Linear(64, 24), sl.LIF(v_threshold=0.2))
    x, weights = torch.randn(6, 5, 20), torch.randn(6, 5, 24)
    results = []
    for net.spikes in ("dense", "packed"):
        y = net(x)
        results.append([y + 0, *torch.autograd.grad((y * weights).sum(), list(net.parameters()))])
    assert launched.count("times") == 2
    for dense, packed in zip(*results, strict=True):
        torch.testing.assert_close(packed, dense, atol=1e-4, rtol=1e-4)


def test_what_triton_cannot_compile_is_dense_and_said_once(monkeypatch, caplog):
    class Fails:
        def __getitem__(self, grid):
            return self

        def __call__(self, *args, **options):
            raise ValueError("no such instruction")

    monkeypatch.setattr(device, "_failed", set())
    monkeypatch.setattr(device._code(), "times", Fails())
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
