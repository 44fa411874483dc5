"""Max pools of spikes: values and gradients are torch's own, bit by bit."""

import pytest
import torch
import torch.nn.functional as F

import spikeloom as sl
from spikeloom.native import build
from spikeloom.spikes import averaging, pooling

try:
    build.ready()
except build.BuildError as missing:
    pytest.skip(f"no C kernels on this machine: {missing}", allow_module_level=True)


@pytest.fixture
def called(monkeypatch):
    """The C functions that were called."""
    calls, real = [], pooling.Pool.call
    monkeypatch.setattr(pooling.Pool, "call", lambda self, name, *args: calls.append(name) or real(self, name, *args))
    return calls


POOLS = {
    "2": dict(kernel_size=2),
    "3, stride 2, padded": dict(kernel_size=3, stride=2, padding=1),
    "3, stride 1": dict(kernel_size=3, stride=1),
    "2, stride 3": dict(kernel_size=2, stride=3, padding=1),
    "oblong": dict(kernel_size=(3, 1), stride=(1, 2)),
    "dilated": dict(kernel_size=2, stride=4, dilation=3),
    "ceil": dict(kernel_size=4, ceil_mode=True, padding=2),
    "whole": dict(kernel_size=7),
}
SHAPES = [(2, 3, 8, 8), (9, 5, 7, 11), (1, 40, 9, 35), (3, 7, 14)]


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_and_gradients_are_those_of_the_dense_pool(name, p, dtype, called):
    options = POOLS[name]
    for shape in SHAPES:
        for last in (False, True) if len(shape) == 4 else (False,):
            g = torch.Generator().manual_seed(0)
            d = (torch.rand(shape, generator=g) < p).to(dtype)
            d = d.contiguous(memory_format=torch.channels_last) if last else d
            called.clear()
            s, x = sl.pack(d).requires_grad_(), d.clone().requires_grad_()
            y, wanted = F.max_pool2d(s, **options), F.max_pool2d(x, **options)
            assert isinstance(y, sl.SpikeTensor)
            assert torch.equal(y.detach().unpack(), wanted)
            assert (y.shape, y.stride()) == (wanted.shape, wanted.stride())
            upstream = torch.randn(y.shape, generator=g).to(dtype)
            by_s = torch.autograd.grad((upstream * y).sum(), s)[0]
            by_x = torch.autograd.grad((upstream * wanted).sum(), x)[0]
            assert torch.equal(by_s, by_x)
            halves = dtype == torch.bfloat16 and name in ("3, stride 2, padded", "3, stride 1", "oblong")
            assert called == ["max_pool"] + [f"backward_{dtype.itemsize}"] * (not halves)


def test_a_window_by_hand():
    """The first of two spikes gets the gradient; the first place where there is none; padding never."""
    s = sl.pack(torch.tensor([[[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]])).requires_grad_()
    y = F.max_pool2d(s, 2)
    assert y.detach().tolist() == [[[1.0, 0.0]]]
    y.backward(torch.tensor([[[2.0, 3.0]]]))
    assert s.grad.tolist() == [[[0.0, 2.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]


@pytest.mark.parametrize("options", [dict(kernel_size=2), dict(kernel_size=3, stride=2, padding=1)])
def test_over_one_dimension(options, called):
    d = (torch.rand(3, 5, 37) < 0.3).float()
    s, x = sl.pack(d).requires_grad_(), d.clone().requires_grad_()
    y, wanted = F.max_pool1d(s, **options), F.max_pool1d(x, **options)
    assert torch.equal(y.detach().unpack(), wanted)
    for o in (y, wanted):
        (o * torch.arange(float(o.numel())).view(o.shape)).sum().backward()
    assert torch.equal(s.grad, x.grad)
    assert called == ["max_pool", "backward_4"]


def test_large_windows_and_three_dimensions_are_dense(called):
    d = (torch.rand(2, 3, 20, 20) < 0.01).float()
    assert torch.equal(F.max_pool2d(sl.pack(d), 9).unpack(), F.max_pool2d(d, 9))
    d = d.view(2, 3, 4, 10, 10)
    assert torch.equal(F.max_pool3d(sl.pack(d), 2).unpack(), F.max_pool3d(d, 2))
    assert not called


def test_errors_are_those_of_torch():
    with pytest.raises(RuntimeError, match="pad should be at most half"):
        F.max_pool2d(sl.pack(torch.zeros(1, 1, 4, 4)), 2, padding=2)


AVERAGES = {
    "2": dict(kernel_size=2),
    "3, stride 2": dict(kernel_size=3, stride=2),
    "oblong": dict(kernel_size=(3, 1), stride=(1, 2)),
    "divided by 5": dict(kernel_size=(2, 3), divisor_override=5),
    "whole": dict(kernel_size=7),
    "padded": dict(kernel_size=3, padding=1),
    "ceil": dict(kernel_size=4, ceil_mode=True),
}


def test_averages_by_nothing_are_refused_as_torch_does():
    s = sl.pack(torch.ones(1, 2, 4, 4).contiguous(memory_format=torch.channels_last))
    for wrong in (dict(divisor_override=0), dict(stride=0)):
        with pytest.raises(RuntimeError, match="zero"):
            F.avg_pool2d(s, 2, **wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_averages_are_those_of_the_dense_pool(dtype, monkeypatch):
    """Bit by bit, where channels come last counted from the bits, and the gradient torch's."""
    calls, real = [], averaging.call
    monkeypatch.setattr(averaging, "call", lambda function, *args: calls.append(1) or real(function, *args))
    for name, options in AVERAGES.items():
        for shape in [(2, 3, 8, 8), (9, 5, 7, 11), (1, 40, 9, 35), (5, 16, 8, 7)]:
            for last in (False, True):
                calls.clear()
                g = torch.Generator().manual_seed(0)
                d = (torch.rand(shape, generator=g) < 0.3).to(dtype)
                d = d.contiguous(memory_format=torch.channels_last) if last else d
                s, x = sl.pack(d).requires_grad_(), d.clone().requires_grad_()
                y, wanted = F.avg_pool2d(s, **options), F.avg_pool2d(x, **options)
                assert torch.equal(y, wanted)
                assert y.stride() == wanted.stride()
                assert len(calls) == (last and dtype != torch.bfloat16 and name not in ("padded", "ceil"))
                upstream = torch.randn(y.shape, generator=g).to(dtype)
                assert torch.equal(
                    *(torch.autograd.grad((upstream * z).sum(), at)[0] for z, at in ((y, s), (wanted, x)))
                )
