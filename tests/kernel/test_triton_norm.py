"""A batch norm before a neuron in Triton, against torch's on a CPU: on a GPU, or in Triton's interpreter."""

import copy
import math
import sys

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom.kernel import launch
from spikeloom.kernel.norm import Geometry, Norm, moved
from spikeloom.kernel.plan import in_memory
from spikeloom.kernel.triton import norm_target
from spikeloom.kernel.triton.target import TRITON
from spikeloom.native.build import BuildError

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
try:
    TRITON.ready(DEVICE)
except BuildError as missing:
    pytest.skip(f"Triton does not run here: {missing}", allow_module_level=True)

# The interpreter computes with NumPy, which warns of infinities where they are meant.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
KINDS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
SHAPES = {  # T, then the step
    "one value a channel": (5, (7, 150)),
    "of time": (4, (3, 6, 13)),
    "images": (3, (2, 5, 7, 3)),
    "volumes": (2, (2, 3, 2, 4, 3)),
}


def to_last(x):
    """``[T, B, C, H, W]`` in channels last."""
    return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])


def norm_of(shape, *, training=True, **options):
    bn = KINDS[len(shape)](shape[1], **options)
    g = torch.Generator().manual_seed(1)
    for number, low, high in (
        (bn.weight, 0.5, 1.5),
        (bn.bias, -0.2, 0.4),
        (bn.running_mean, -1, 1),
        (bn.running_var, 0.5, 2),
    ):
        if number is not None:
            nn.init.uniform_(number, low, high, generator=g)
    return bn.train(training)


def by_torch(bn, x, *, calls=1):
    """Outputs of LI, gradients of x, weight and bias, and the buffers, by a batch norm of torch and the loop."""
    norm, leaf, li = copy.deepcopy(bn), x.detach().clone(memory_format=torch.preserve_format), sl.LI(tau=2.0)
    leaf.requires_grad_()
    for _ in range(calls):
        with sl.backend("eager"):
            y = li.sequence(norm(leaf.flatten(0, 1)).unflatten(0, x.shape[:2]))[0]
    return results(y, leaf, norm)


def by_kernels(bn, x, *, calls=1):
    """The same by kernels."""
    norm, leaf = copy.deepcopy(bn).to(DEVICE), x.detach().to(DEVICE, memory_format=torch.preserve_format, copy=True)
    leaf.requires_grad_()
    module = sl.nn.NormNeuron(norm, sl.LI(tau=2.0)).to(DEVICE)
    for _ in range(calls):
        with sl.backend("triton"), sl.kernel.watching() as seen:
            y = module.sequence(leaf)[0]
        assert seen[0][1:] == ("triton", f"fused with {type(norm).__name__}")
    return results(y, leaf, norm)


def results(y, leaf, norm):
    upstream = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape)
    grads = torch.autograd.grad(y, [leaf, *norm.parameters()], upstream.to(y))
    return [y.detach().cpu(), *(g.cpu() for g in grads)], [b.cpu() for b in norm.buffers()]


def both(bn, x, *, calls=1):
    return by_torch(bn, x, calls=calls), by_kernels(bn, x, calls=calls)


def agree(found, limit):
    (wanted, buffers), (got, got_buffers) = found
    for a, b in zip(wanted, got, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert (a.double() - b.double()).abs().max() <= limit * a.double().abs().max()
    for a, b in zip(buffers, got_buffers, strict=True):
        torch.testing.assert_close(b, a, atol=limit, rtol=limit)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_equals_torch_in_all_shapes(name, training):
    T, shape = SHAPES[name]
    x = torch.randn(T, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1
    agree(both(norm_of(shape, training=training, dtype=torch.float64), x), 1e-11)


OPTIONS = {
    "not affine": {"affine": False},
    "not tracked": {"track_running_stats": False},
    "the average of all batches": {"momentum": None},
    "a large eps and momentum": {"eps": 0.1, "momentum": 0.7},
    "no momentum": {"momentum": 0.0},
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options(options, training):
    """Three calls, in float64: a momentum or an eps that came as a float32 would be seen, and so would a count."""
    x = torch.randn(4, 5, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1
    bn = norm_of(x.shape[1:], training=training, dtype=torch.float64, **options)
    found = both(bn, x, calls=3)
    agree(found, 1e-11)
    if bn.num_batches_tracked is not None:
        assert found[1][1][-1] == (3 if training else 0)


HALF = (torch.float16, torch.bfloat16)
OWN = [(layout, dtype, dtype) for layout in ("contiguous", "channels last", "a slice in time")
       for dtype in (torch.float32, *HALF)]  # fmt: skip


@pytest.mark.parametrize(("layout", "dtype", "own"), [*OWN, *(("channels last", d, torch.float32) for d in HALF)])
def test_layouts_and_half_precision(layout, dtype, own):
    """Weights of the input's dtype, and of float32 as under autocast; torch computes in float64."""
    x = (torch.randn(4, 3, 10, 4, 3, generator=torch.Generator().manual_seed(0)) * 2 + 1).to(dtype)
    x = to_last(x) if layout == "channels last" else x[::2] if layout == "a slice in time" else x
    bn = norm_of(x.shape[1:]).to(own)
    wanted, buffers = by_torch(copy.deepcopy(bn).double(), x.double())
    got, got_buffers = by_kernels(bn, x)
    limit = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert [g.dtype for g in got] == [dtype, dtype, own, own]
    for a, b in zip(wanted, got, strict=True):
        assert (a - b.double()).abs().max() <= limit * a.abs().max()
    for a, b in zip(buffers[:2], got_buffers[:2], strict=True):
        assert (a - b.double()).abs().max() <= (1e-6 if own == torch.float32 else limit)


def moments_of(x, bn=None):
    order, _, (ready,) = in_memory(sl.kernel.Request.of((x.to(DEVICE),), ()))
    norm = Norm.of(bn or nn.BatchNorm1d(x.shape[2]).to(DEVICE))
    mean, var, n, *_ = TRITON.moments(norm, Geometry.of(ready, order), ready, order)
    return mean.cpu(), var.cpu(), n


@pytest.mark.parametrize("shape", [(70, 128, 3), (4, 9, 200), (5, 2, 3, 2100), (2, 100, 2, 65)], ids=str)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 2e-7), (torch.float32, 2e-7), (torch.float64, 1e-14)])
def test_statistics_of_many_tiles_and_of_a_large_mean(shape, dtype, limit):
    """A mean of 500 deviations: errors are those of sums about a value of the channel, nothing cancels."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=g) * 0.25 + torch.linspace(-128, 128, shape[2]).view(-1, *(1,) * (len(shape) - 3))
    x = x.to(dtype)
    mean, var, n = moments_of(x)
    exact = x.double().transpose(0, 2).flatten(1)
    assert n == exact.shape[1]
    assert (mean - exact.mean(1)).abs().max() <= limit * 0.25
    assert ((var / exact.var(1, correction=0)) - 1).abs().max() <= 10 * limit


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_statistics_of_a_large_layer(layout, dtype):
    """33.5 M values; the mean is three deviations from 0."""
    x = (torch.randn(4, 64, 128, 32, 32, generator=torch.Generator(DEVICE).manual_seed(0), device=DEVICE) + 3).to(dtype)
    x = to_last(x) if layout == "channels last" else x
    mean, var, n = moments_of(x)
    exact = x.double().transpose(0, 2).flatten(1)
    assert n == exact.shape[1]
    assert (mean - exact.mean(1).cpu()).abs().max() <= 2e-7
    assert ((var / exact.var(1, correction=0).cpu()) - 1).abs().max() <= 2e-6


def test_statistics_in_parts_of_many_tiles(monkeypatch):
    """Sizes that a batch has on a device, made small: several tiles a part, several parts a program of finish."""
    for name, value in (
        ("_LANE", 3),
        ("_PROGRAMS", 12),
        ("_PARTS", 4),
        ("_TILE", 16),
        ("_COLUMNS", 32),
        ("_FINISHED", 64),
    ):
        monkeypatch.setattr(norm_target, name, value)
    monkeypatch.setattr(norm_target, "_WIDEST", 4)
    for kept in ("_statistics", "_finishing", "_slopes", "_correct"):  # by other sizes than those above
        monkeypatch.setattr(norm_target, kept, getattr(norm_target, kept).__wrapped__)
    for T, shape in SHAPES.values():
        x = torch.randn(T, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1
        bn = norm_of(shape, dtype=torch.float64, momentum=None)
        agree(both(bn, x), 1e-11)
        if len(shape) == 4:
            agree(both(bn, to_last(x)), 1e-11)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 3e38])
@pytest.mark.parametrize("at", [(0, 0), (2, 1)])
def test_values_that_are_not_finite_stay_in_their_channel(at, value):
    for inner in ((), (4,)):
        x = torch.randn(5, 4, 3, *inner, generator=torch.Generator().manual_seed(0))
        x[(*at, 1)] = value
        ours, theirs = nn.BatchNorm1d(3).to(DEVICE), nn.BatchNorm1d(3)
        mean, var, _ = moments_of(x, ours)
        theirs(x.flatten(0, 1))
        assert mean.isfinite().tolist() == [True, value == 3e38, True]
        assert var.isfinite().tolist() == [True, False, True]
        for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(a.cpu(), b, equal_nan=True, atol=1e-6, rtol=1e-5)


def test_numbers_with_strides():
    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = norm_of((4, 6), dtype=torch.float64)
    norm = copy.deepcopy(plain).to(DEVICE)  # which makes strides anew
    for table in (norm._parameters, norm._buffers):
        for name, number in table.items():
            if number.ndim:
                wide = torch.stack([number.detach(), number.detach()], 1)[:, 0]
                table[name] = nn.Parameter(wide) if name in norm._parameters else wide
    leaf, li = x.to(DEVICE, copy=True).requires_grad_(), sl.LI(tau=2.0).to(DEVICE)
    with sl.backend("triton"):
        y = sl.nn.NormNeuron(norm, li).sequence(leaf)[0]
    assert not norm.running_var.is_contiguous()
    agree((by_torch(plain, x), results(y, leaf, norm)), 1e-11)


def test_only_what_is_wanted_gets_a_gradient():
    for frozen in ("weight", "bias", "x"):
        bn, x = norm_of((4, 6)).to(DEVICE), torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0)).to(DEVICE)
        neuron = sl.LIF(v_threshold=0.3).to(DEVICE)
        if frozen != "x":
            getattr(bn, frozen).requires_grad_(False)
        leaf = x.requires_grad_(frozen != "x")
        with sl.backend("triton"):
            sl.nn.NormNeuron(bn, neuron).sequence(leaf)[0].sum().backward()
        got = {"weight": bn.weight.grad, "bias": bn.bias.grad, "x": leaf.grad}
        assert got.pop(frozen) is None
        assert all(g.abs().sum() > 0 for g in got.values())


def test_a_batch_counts_once_where_the_kernel_of_the_neuron_cannot_be_built(monkeypatch):
    """Its loop takes the same moments."""

    def fails(*args):
        raise BuildError("no space left")

    x = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted, bn = (norm_of((4, 6), dtype=torch.float64) for _ in range(2))
    module = sl.nn.NormNeuron(bn, sl.LI()).to(DEVICE)
    z = sl.LI().sequence(wanted(x.flatten(0, 1)).view_as(x))[0]
    monkeypatch.setattr(launch, "run", fails)
    monkeypatch.setattr(sys.modules["spikeloom.kernel.scan"], "target_for", lambda *args: TRITON)
    y = module.sequence(x.to(DEVICE))[0]
    torch.testing.assert_close(y.cpu(), z)
    for a, b in zip(module.bn.buffers(), wanted.buffers(), strict=True):
        torch.testing.assert_close(a.cpu(), b)


def test_running_statistics_that_moved_are_noticed():
    module = sl.nn.NormNeuron(nn.BatchNorm1d(3), sl.LIF()).to(DEVICE)
    before = module.bn.num_batches_tracked._version
    with sl.backend("triton"):
        module.sequence(torch.rand(4, 2, 3, device=DEVICE))
        assert module.bn.num_batches_tracked._version == before + 1
        with torch.inference_mode():
            module.sequence(torch.rand(4, 2, 3, device=DEVICE))
            moved(torch.zeros(()))
    assert module.bn.num_batches_tracked == 2
