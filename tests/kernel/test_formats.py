"""A network in channels_last: no image, gradient or state is copied from one memory format into the other."""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import spikeloom as sl
from spikeloom.kernel.triton.target import TRITON
from spikeloom.native.build import BuildError

T, B, SIZE = 9, 2, 8
LAST = torch.channels_last
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's, of infinities that are meant


class Copies(TorchDispatchMode):
    """Notes operations whose result lies in another order than an image of the same shape that they are given."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        name = operator.overloadpacket.__name__
        if isinstance(out, torch.Tensor) and not operator.is_view and "empty" not in name:
            given = [a for a in args if isinstance(a, torch.Tensor) and a.shape == out.shape and is_image(a)]
            if any(order(a) != order(out) and 0 not in a.stride() for a in given):
                self.found.append(name)
        return out


def is_image(x):
    """Whether it holds every sample at every step, with and without a dimension for each."""
    return x.shape[:1] == (T * B,) or x.shape[:2] == (T, B)


def order(x):
    """The strides of the dimensions that have more than one value."""
    return [stride for stride, n in zip(x.stride(), x.shape, strict=True) if n > 1]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
        self.spike1 = sl.nn.NormNeuron(nn.BatchNorm2d(8), sl.LIF(v_threshold=0.4))
        self.spike2 = sl.nn.NormNeuron(nn.BatchNorm2d(8), sl.PLIF(v_threshold=0.4))

    def forward(self, x):
        return self.spike2(self.conv2(self.spike1(self.conv1(x)))) + x


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((-2, -1))


def residual(*head):
    return [nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), sl.LIF(v_threshold=0.4),
            Residual(), Residual(), *head, nn.Linear(8, 10)]  # fmt: skip


def pooled(pool):
    return [nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), sl.LIF(v_threshold=0.4), pool(2),
            nn.Conv2d(8, 8, 3, padding=1), sl.ALIF(v_threshold=0.2), pool(4),
            nn.Flatten(), nn.Linear(8, 10)]  # fmt: skip


NETWORKS = {
    "residual": lambda: residual(nn.AvgPool2d(SIZE), nn.Flatten()),
    "residual, mean": lambda: residual(Mean()),
    "max pools": lambda: pooled(nn.MaxPool2d),
    "average pools": lambda: pooled(nn.AvgPool2d),
}
COPIES = {"residual, mean": ["clone"]}  # of the gradient that torch gives a mean, before the first layer sees it


def run(name, *, spikes, last, train, amp=False):
    """Output and gradients, the gradient of x first, and which operations changed the order."""
    torch.manual_seed(0)
    net = sl.Network(*NETWORKS[name](), spikes=spikes).train(train)
    x = torch.randn(T * B, 2, SIZE, SIZE)
    if last:
        net, x = net.to(memory_format=LAST), x.contiguous(memory_format=LAST)
    x = x.unflatten(0, (T, B)).requires_grad_()
    with Copies() as copies, torch.autocast("cpu", torch.bfloat16, enabled=amp):
        y = net(x)
        y.float().square().sum().backward()
    assert order(x.grad) == order(x)
    return y.detach().float(), [x.grad, *(p.grad for p in net.parameters())], copies.found


@pytest.fixture
def kernels_as_ever(monkeypatch):
    """Kernels run inside a dispatch mode too, which otherwise has to see every operation of an equation."""
    monkeypatch.setattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)


@pytest.mark.parametrize("spikes", ["dense", "packed"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("backend", "train"), [("c", True), ("c", False), pytest.param("triton", True, marks=pytest.mark.slow)]
)
@pytest.mark.usefixtures("kernels_as_ever")
def test_nothing_is_copied_into_another_format(backend, name, spikes, train):
    if backend == "triton":
        try:
            TRITON.ready(torch.device("cpu"))
        except BuildError as missing:
            pytest.skip(f"Triton's interpreter does not run here: {missing}")
    with sl.backend(backend):
        y, grads, copied = run(name, spikes=spikes, last=True, train=train)
        z, others, _ = run(name, spikes=spikes, last=False, train=train)
    assert copied == COPIES.get(name, [])
    torch.testing.assert_close(y, z)
    for g, h in zip(grads, others, strict=True):
        assert g.isfinite().all()
        torch.testing.assert_close(g, h, atol=1e-4 * max(1.0, float(h.abs().max())), rtol=1e-3)


@pytest.mark.parametrize("spikes", ["dense", "packed"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("kernels_as_ever")
def test_nothing_is_under_autocast_either(name, spikes):
    assert run(name, spikes=spikes, last=True, train=True, amp=True)[2] == COPIES.get(name, [])


def test_a_gradient_of_channels_last_images_lies_as_they_do():
    """The output of every layer of a Sequential gets it so, and what its hook changes is nothing but the order."""
    x = torch.randn(B, 4, 5, 5).contiguous(memory_format=LAST).requires_grad_()
    net = sl.Network(nn.Identity(), nn.ReLU(), Mean())
    (g,) = torch.autograd.grad(net(x.unsqueeze(0)).sum(), x)
    assert g.is_contiguous(memory_format=LAST)
    assert torch.equal(g, (x > 0) / 25)
    assert x._backward_hooks is None  # what belongs to the caller is left alone
    assert math.isclose(float(g.sum()), int((x > 0).sum()) / 25, rel_tol=1e-5)
