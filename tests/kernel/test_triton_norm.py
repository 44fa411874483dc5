"""A batch norm before a neuron in Triton's interpreter: against torch's, and how many kernels a step launches."""

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

try:
    TRITON.ready(torch.device("cpu"))
except BuildError as missing:
    pytest.skip(f"Triton's interpreter does not run here: {missing}", allow_module_level=True)

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


def both(bn, x, *, calls=1):
    """By a batch norm of torch and by the kernels: outputs of LI, gradients of x, weight and bias, and the buffers."""
    upstream = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).reshape(x.shape)
    found = []
    for kernels in (False, True):
        norm, leaf = copy.deepcopy(bn), x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        li = sl.LI(tau=2.0)
        for _ in range(calls):
            if kernels:
                with sl.backend("triton"), sl.kernel.watching() as seen:
                    y = sl.nn.NormNeuron(norm, li).sequence(leaf)[0]
                assert seen[0][1:] == ("triton", f"fused with {type(norm).__name__}")
            else:
                with sl.backend("eager"):
                    y = li.sequence(norm(leaf.flatten(0, 1)).unflatten(0, x.shape[:2]))[0]
        grads = torch.autograd.grad(y, [leaf, *norm.parameters()], upstream.to(y.dtype))
        found.append(([y.detach(), *grads], list(norm.buffers())))
    return found


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
    agree(found, 1e-12)
    if bn.num_batches_tracked is not None:
        assert found[1][1][-1] == (3 if training else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("own", [torch.float32, None])
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "a slice in time"])
def test_layouts_and_half_precision(layout, own, dtype):
    """Weights of float32, as under autocast, and of the input's dtype; torch computes in float64."""
    x = (torch.randn(6, 3, 10, 5, 4, generator=torch.Generator().manual_seed(0)) * 2 + 1).to(dtype)
    x = to_last(x) if layout == "channels last" else x[::2] if layout == "a slice in time" else x
    bn = norm_of(x.shape[1:]).to(own or dtype)
    wanted, buffers = both(copy.deepcopy(bn).double(), x.double())[0]
    got, got_buffers = both(bn, x.double() if dtype == torch.float64 else x)[1]
    limit = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert [g.dtype for g in got] == [dtype, dtype, own or dtype, own or dtype]
    for a, b in zip(wanted, got, strict=True):
        assert (a - b.double()).abs().max() <= limit * a.abs().max()
    for a, b in zip(buffers[:2], got_buffers[:2], strict=True):
        assert (a - b.double()).abs().max() <= (1e-6 if own else limit)


def moments_of(x, bn=None):
    order, _, (ready,) = in_memory(sl.kernel.Request.of((x,), ()))
    return TRITON.moments(Norm.of(bn or nn.BatchNorm1d(x.shape[2])), Geometry.of(ready, order), ready, order)


@pytest.mark.parametrize("shape", [(70, 128, 3), (4, 9, 200), (5, 2, 3, 2100), (2, 100, 2, 65)], ids=str)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 2e-7), (torch.float32, 2e-7), (torch.float64, 1e-14)])
def test_statistics_of_many_tiles_and_of_a_large_mean(shape, dtype, limit):
    """A mean of 500 deviations: errors are those of sums about a value of the channel, nothing cancels."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=g) * 0.25 + torch.linspace(-128, 128, shape[2]).view(-1, *(1,) * (len(shape) - 3))
    x = x.to(dtype)
    mean, var, n, *_ = moments_of(x)
    exact = x.double().transpose(0, 2).flatten(1)
    assert n == exact.shape[1]
    assert (mean - exact.mean(1)).abs().max() <= limit * 0.25
    assert ((var / exact.var(1, correction=0)) - 1).abs().max() <= 10 * limit


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
    for T, shape in SHAPES.values():
        x = torch.randn(T, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1
        bn = norm_of(shape, dtype=torch.float64, momentum=None)
        agree(both(bn, x, calls=2), 1e-11)
        if len(shape) == 4:
            agree(both(bn, to_last(x)), 1e-11)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 3e38])
@pytest.mark.parametrize("at", [(0, 0), (2, 1)])
def test_values_that_are_not_finite_stay_in_their_channel(at, value):
    for inner in ((), (4,)):
        x = torch.randn(5, 4, 3, *inner, generator=torch.Generator().manual_seed(0))
        x[(*at, 1)] = value
        ours, theirs = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        mean, var, *_ = moments_of(x, ours)
        theirs(x.flatten(0, 1))
        assert mean.isfinite().tolist() == [True, value == 3e38, True]
        assert var.isfinite().tolist() == [True, False, True]
        for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(a, b, equal_nan=True, atol=1e-6, rtol=1e-5)


def test_numbers_with_strides():
    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = norm_of((4, 6), dtype=torch.float64)
    strided = copy.deepcopy(plain)
    for table in (strided._parameters, strided._buffers):
        for name, number in table.items():
            if number.ndim:
                wide = torch.stack([number.detach(), number.detach()], 1)[:, 0]
                table[name] = nn.Parameter(wide) if name in strided._parameters else wide
    assert not strided.running_var.is_contiguous()
    (wanted, buffers), _ = both(plain, x)
    with sl.backend("triton"):
        leaf = x.clone().requires_grad_()
        y = sl.nn.NormNeuron(strided, sl.LI(tau=2.0)).sequence(leaf)[0]
    upstream = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).reshape(x.shape)
    agree([(wanted, buffers), ([y.detach(), *torch.autograd.grad(y, [leaf, *strided.parameters()], upstream)],
                               list(strided.buffers()))], 1e-11)  # fmt: skip


def test_only_what_is_wanted_gets_a_gradient():
    for frozen in ("weight", "bias", "x"):
        bn, x = norm_of((4, 6)), torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
        if frozen != "x":
            getattr(bn, frozen).requires_grad_(False)
        leaf = x.requires_grad_(frozen != "x")
        with sl.backend("triton"):
            sl.nn.NormNeuron(bn, sl.LIF(v_threshold=0.3)).sequence(leaf)[0].sum().backward()
        got = {"weight": bn.weight.grad, "bias": bn.bias.grad, "x": leaf.grad}
        assert got.pop(frozen) is None
        assert all(g.abs().sum() > 0 for g in got.values())


def test_a_batch_counts_once_where_the_kernel_of_the_neuron_cannot_be_built(monkeypatch):
    """Its loop takes the same moments."""

    def fails(*args):
        raise BuildError("no space left")

    x = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted, bn = (norm_of((4, 6), dtype=torch.float64) for _ in range(2))
    module = sl.nn.NormNeuron(bn, sl.LI())
    z = sl.LI().sequence(wanted(x.flatten(0, 1)).view_as(x))[0]
    monkeypatch.setattr(launch, "run", fails)
    monkeypatch.setattr(sys.modules["spikeloom.kernel.scan"], "target_for", lambda *args: TRITON)
    y = module.sequence(x)[0]
    torch.testing.assert_close(y, z)
    for a, b in zip(module.bn.buffers(), wanted.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_running_statistics_that_moved_are_noticed():
    module = sl.nn.NormNeuron(nn.BatchNorm1d(3), sl.LIF())
    before = module.bn.num_batches_tracked._version
    with sl.backend("triton"):
        module.sequence(torch.rand(4, 2, 3))
        assert module.bn.num_batches_tracked._version == before + 1
        with torch.inference_mode():
            module.sequence(torch.rand(4, 2, 3))
            moved(torch.zeros(()))
    assert module.bn.num_batches_tracked == 2
