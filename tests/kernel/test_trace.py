"""What the tracer knows of dtypes, overloads and modes: kernels compute what the loop does, or it is named."""

import math

import pytest
import torch
from torch import nn

import spikeloom as sl
from kernel import operations
from spikeloom.kernel.program import Const
from spikeloom.kernel.trace import RefusedError, trace
from spikeloom.native import build

try:
    build.ready()
    HAVE_COMPILER = True
except build.BuildError:
    HAVE_COMPILER = False
needs_compiler = pytest.mark.skipif(not HAVE_COMPILER, reason="no C compiler on this machine")


def neuron_of(body, a=0.7, b=-1.25):
    class Custom(sl.Neuron):
        def __init__(self):
            super().__init__()
            self.numbers(a=a, b=b)
            self.states(v=0.25)

        dynamics = body

    return Custom()


class Rolled(torch.autograd.Function):
    """A derivative that mixes neurons."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return torch.roll(grad, 1, 0)


class Sized(Rolled):
    """A derivative that reads a shape."""

    @staticmethod
    def backward(ctx, grad):
        return grad * grad.shape[0]


def of_dtype(self, x, v):
    if x.dtype == torch.float64:
        return x * 3.0, v
    return x * 2.0, v


def of_mode(self, x, v):
    return (x * 2.0 if torch.is_grad_enabled() else x * 3.0), v


REFUSED = {
    "a branch on the mode": (of_mode, "computes something else without gradients than with them"),
    "decimals": (lambda self, x, v: (torch.round(x, decimals=1), v), "aten.round.decimals with decimals=1"),
    "rounding": (lambda self, x, v: (torch.div(x, 2, rounding_mode="floor"), v), "with rounding_mode='floor'"),
    "floor division": (lambda self, x, v: (x // 2, v), "aten.floor_divide"),
    "remainder": (lambda self, x, v: (x % 2, v), "aten.remainder"),
    "a factor that torch fuses": (lambda self, x, v: (torch.add(x, v, alpha=0.3), v), "with alpha=0.3"),
    "a scale": (
        lambda self, x, v: (torch.nn.functional.softplus(x, beta=2.0), v),
        "aten.softplus.default with beta=2.0",
    ),
    "a cube": (lambda self, x, v: (x**3, v), "aten.pow.Tensor_Scalar with exponent 3"),
    "a power": (lambda self, x, v: (2**x, v), "aten.pow.Scalar"),
    "a result given": (lambda self, x, v: (torch.add(x, v, out=torch.zeros_like(x)), v), "out="),
    "not of whole numbers": (
        lambda self, x, v: (x * ~torch.where(x > 0, 3, 2), v),
        "aten.bitwise_not.* on torch.int64",
    ),
    "bits of whole numbers": (
        lambda self, x, v: (x * (torch.where(x > 0, 3, 2) & 1), v),
        "aten.bitwise_and.* on torch.i",
    ),
    "shifted bits": (lambda self, x, v: (x * (torch.where(x > 0, 3, 2) << 1), v), "aten.__lshift__"),
    "bytes of negative numbers": (
        lambda self, x, v: (x * torch.where(x > 0, 3, -2).byte(), v),
        "from torch.int64 to torch.u",
    ),
    "bytes that wrap": (lambda self, x, v: (x * ((x > 0).byte() - 1), v), "aten.sub.Tensor on torch.uint8"),
    "half of many": (
        lambda self, x, v: (x * torch.where(x > 0, 3000, 2).half(), v),
        "from torch.int64 to torch.float16",
    ),
    "halves of whole numbers": (lambda self, x, v: (x * (torch.where(x > 0, 3, 2) / 2), v), "result is torch.float32"),
    "a share of truth": (
        lambda self, x, v: (x + (x > 0) * 0.3, v),
        "on torch.bool, 0.3, whose result is torch.float32",
    ),
    "truth times a number": (lambda self, x, v: (x + (x > 0) * self.a, v), "on torch.bool, torch.float64"),
    "numbers in the shape of x": (
        lambda self, x, v: (x * (self.a + torch.zeros_like(x)) ** 2, v),
        "in the shape and dtype",
    ),
    "a number in the shape of another": (
        lambda self, x, v: (x * self.a.view_as(self.b), v),
        "aten.view.default on numbers",
    ),
    "a number's truth times another": (
        lambda self, x, v: (x * ((self.a > 0) * self.b), v),
        "of some numbers and values",
    ),
    "a choice by another number": (lambda self, x, v: (x * torch.where(self.a > 0, self.b, 1.0), v), "of some numbers"),
    "a literal in float64": (
        lambda self, x, v: (x * (self.a * torch.tensor(0.3).double()), v),
        "torch.float64 where the state is torch.float32",
    ),
    "a choice of fractions": (lambda self, x, v: (torch.where(x > 0, 0.3, 0.0) * x, v), "result is torch.float32"),
    "a choice of numbers": (lambda self, x, v: (torch.where(x > 0, self.a, self.b) * x, v), r"write .to\(x\) behind"),
    "float": (lambda self, x, v: (x.float() * 0.3, v), "a conversion from torch.float64 to torch.float32"),
    "double": (lambda self, x, v: (x.double() * 0.3, v), "a conversion from torch.float32 to torch.float64"),
    "half": (lambda self, x, v: (x.half() * 0.3, v), "a conversion from torch.float64 to torch.float16"),
    "a dtype": (lambda self, x, v: (x.to(torch.bfloat16), v), "a conversion from torch.float64 to torch.bfloat16"),
    "a number's dtype": (
        lambda self, x, v: (x.to(self.a) * 0.3, v),
        "a conversion from torch.float32 to torch.float64",
    ),
    "whole numbers of any": (lambda self, x, v: (x.long() * x, v), "a conversion from torch.float64 to torch.int64"),
    "other bits": (lambda self, x, v: (x.view(torch.int64) * x, v), "aten.view.dtype, which changes shape or dtype"),
    "a device": (lambda self, x, v: (x.to("cpu"), v), "Tensor.to, which moves a tensor"),
    "the device": (lambda self, x, v: (x * (2.0 if x.device.type == "cpu" else 3.0), v), "Tensor.device"),
    "a shape": (lambda self, x, v: (x / x.shape[0], v), "Tensor.shape"),
    "a size": (lambda self, x, v: (x / x.size(0), v), "Tensor.size"),
    "a length": (lambda self, x, v: (x / len(x), v), "Tensor.__len__"),
    "dimensions": (lambda self, x, v: (x * x.ndim, v), "Tensor.ndim"),
    "a count": (lambda self, x, v: (x / x.numel(), v), "Tensor.numel"),
    "a stride": (lambda self, x, v: (x * x.stride(0), v), "Tensor.stride"),
    "a need of gradients": (lambda self, x, v: (x * (2.0 if x.requires_grad else 1.0), v), "Tensor.requires_grad"),
    "a hook": (lambda self, x, v: ((x * 1).register_hook(print), v), "Tensor.register_hook"),
    "eps": (lambda self, x, v: (x + torch.finfo(x.dtype).eps, v), "computes something else for torch.float32"),
    "a branch on the dtype": (of_dtype, "computes something else for torch.float32"),
    "a literal of several": (lambda self, x, v: (x * torch.tensor([0.5, 0.5]).sum(), v), "literal with dimensions"),
    "a cut in place": (lambda self, x, v: (x.detach_(), v), "Tensor.detach_, which changes"),
    "a running sum": (lambda self, x, v: (x.cumsum(0), v), "aten.cumsum"),
    "neighbours": (lambda self, x, v: (torch.roll(x, 1), v), "aten.roll"),
    "joined": (lambda self, x, v: (torch.cat([x, v])[: len(x)], v), "aten.cat"),
    "a transpose": (lambda self, x, v: (x.t(), v), "aten.t"),
    "a write by index": (lambda self, x, v: (_written(x), v), "aten.index_put_|aten.nonzero"),
    "a derivative by neighbours": (lambda self, x, v: (Rolled.apply(x), v), "aten.roll"),
    "a derivative by shape": (lambda self, x, v: (Sized.apply(x), v), "Tensor.shape"),
    "a state of another dtype": (lambda self, x, v: (x, (x > 0).float()), "returned torch.float32 as state 1"),
    "a state of truth": (lambda self, x, v: (x, x > v), "returned torch.bool as state 1"),
    "a number as a state": (lambda self, x, v: (x, self.a), "returned other shapes"),
}


def _written(x):
    h = x * 1
    h[x > 0] = 0.0
    return h


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_modelled_is_refused_by_name_and_line(name):
    body, what = REFUSED[name]
    with pytest.raises(RefusedError, match=what) as refused:
        trace(neuron_of(body))
    if "returned" not in what:
        assert "test_trace.py:" in str(refused.value)
    if body.__name__ == "<lambda>" and "derivative" not in name and "returned" not in what:
        assert f"test_trace.py:{body.__code__.co_firstlineno}" in str(refused.value)


def in_place(self, x, v):
    h = x * 1
    h.gt_(0).mul_(v).add_(x > v).clamp_(-1.0, 1.5)
    return h, v


def without_gradient(self, x, v):
    with torch.no_grad():
        h = x * v
    return h + x, v


def like(self, x, v):
    one = torch.ones_like(x, dtype=torch.bool)
    return torch.where(one & (x > 0), x.new_tensor(0.3), torch.full_like(x, -0.1)) * x.to(v.dtype), v


COMPUTED = {
    "or": lambda self, x, v: (x * ((x > 0) + (v > -0.5)), v),
    "and": lambda self, x, v: (x * ((x > 0) * (v > 0.3)), v),
    "or of more": lambda self, x, v: (x * torch.maximum(x > 0, v > 0.3), v),
    "and of less": lambda self, x, v: (x * torch.minimum(x > 0, v > 0.3), v),
    "exclusive or": lambda self, x, v: (x * ((x > 0) ^ (v > 0.3)), v),
    "not": lambda self, x, v: (x + ~(x > 0), v),
    "truth of numbers": lambda self, x, v: (x * ((self.a > 0) * 1.0 + (self.b > -2) * 1.0), v),
    "truth of a number and of x": lambda self, x, v: (x * ((self.a > 0.5) & (x > 0)), v),
    "a number's truth, negated": lambda self, x, v: (x * ~(self.a > 0.5) + v * torch.logical_not(self.b), v),
    "a count of truths": lambda self, x, v: (x * ((x > 0).long() + (v > 0.3) + 1), v),
    "whole numbers": lambda self, x, v: (x * torch.where(x > 0, 3, -2), v),
    "negative whole numbers": lambda self, x, v: (x / (-torch.where(x > 0, 0, 2) * x.new_ones(())), v),
    "truth by choice": lambda self, x, v: (x * torch.where(x > 0, v > 0.3, v > -0.3), v),
    "truth compared": lambda self, x, v: (x * ((x > 0) == (v > 0.3)) + v * ((x > 0) > 0.5), v),
    "float of truth": lambda self, x, v: (x * (x > 0).float() + (v > 0).to(x), v),
    "logic of values": lambda self, x, v: (x * torch.logical_and(x, v) + torch.logical_xor(x, v), v),
    "a choice of numbers": lambda self, x, v: (torch.where(x > 0, self.a, self.b).to(x) * x, v),
    "in place": in_place,
    "without a gradient": without_gradient,
    "like": like,
    "negative zero": lambda self, x, v: (
        torch.where(1 / (x * 0.0) > 0, x, v) + torch.where(1 / (x * -0.0) > 0, x, v),
        v,
    ),
    "alpha": lambda self, x, v: (torch.add(x, v, alpha=2) - torch.sub(v, x, alpha=0.5) + torch.rsub(x, v, alpha=4), v),
    "a bound reached": lambda self, x, v: (x * self.a.clamp(0.7, 1.0) + v * self.b.clamp(max=-1.25), v),
    "truth as the output": lambda self, x, v: (x > v, v + x),
    "whole numbers as the output": lambda self, x, v: (torch.where(x > v, 2, -1), v + x),
    "bytes": lambda self, x, v: (x * ((x > 0).byte() + 1) * torch.where(v > 0, 200, -2).bfloat16(), v),
    "a choice by the number itself": lambda self, x, v: (x * torch.where(self.a > 0.8, 1.0, self.a), v),
    "a constant's arithmetic": lambda self, x, v: (torch.ones_like(x) * 0.5 - 0.25 + x, v),
    "softplus": lambda self, x, v: (torch.nn.functional.softplus(x) * torch.nn.functional.softplus(self.a) + v, v),
    "a literal": lambda self, x, v: (x * torch.tensor(0.3) + torch.tensor(2), v),
    "a choice of whole numbers": lambda self, x, v: (torch.where(x > 0, 1.0, 0.0) * x, v),
}


@needs_compiler
def test_what_is_modelled_is_what_the_loop_computes():
    """In every dtype, for zeros of both signs, infinities and NaN, with numbers of three kinds."""
    tried = operations.Tried((torch.float32, torch.float64, torch.bfloat16), at_once=len(COMPUTED))
    for name, body in COMPUTED.items():
        tried.add(name, name, lambda self, x, v, w, body=body: body(self, x, v)[0])
    tried.compare()
    assert not tried.wrong
    assert tried.count == {"computed": len(COMPUTED)}


@needs_compiler
def test_values_by_hand():
    """Truth added to truth is truth, truth times 1.0 a number: 1 + 1 is 1 and 2; and a choice among whole numbers."""
    x = torch.tensor([[[2.0], [-3.0]]])
    expected = {"or": [2.0, -3.0], "truth of numbers": [4.0, -6.0], "whole numbers": [6.0, 6.0]}
    for name, values in expected.items():
        with sl.backend("c"):
            assert neuron_of(COMPUTED[name]).sequence(x)[0].flatten().tolist() == values, name


@needs_compiler
def test_the_gradient_at_a_bound_that_is_reached():
    """d clamp(a, 0.75, 1) / da at a = 0.75 is what torch has, 1 before PyTorch 2.14 and 0 since, not the half that
    maximum gives to each."""
    neuron = neuron_of(lambda self, x, v: (x * self.a.clamp(0.75, 1.0), v), a=nn.Parameter(torch.tensor(0.75)))
    a = torch.tensor(0.75, requires_grad=True)
    (2 * a.clamp(0.75, 1.0)).backward()
    with sl.backend("c"):
        neuron.sequence(torch.tensor([[[2.0]]]))[0].sum().backward()
    assert neuron.a.grad.item() == a.grad.item()
    assert a.grad.item() in (0.0, 2.0)


def test_constants_with_another_sign_of_zero_are_two():
    assert Const(0.0) != Const(-0.0)
    assert Const(math.nan) == Const(math.nan)
    assert len({Const(0.0), Const(-0.0), Const(0.0)}) == 2


def anomaly():
    return torch.autograd.set_detect_anomaly(True)


def hooks():
    def refuse(*_):
        raise AssertionError("a hook on saved tensors saw the trace")

    return torch.autograd.graph.saved_tensors_hooks(refuse, refuse)


class Changed:
    """A global setting of torch, changed in a block."""

    def __init__(self, get, put, value):
        self.get, self.put, self.value = get, put, value

    def __enter__(self):
        self.before = self.get()
        self.put(self.value)

    def __exit__(self, *_):
        assert self.get() == self.value  # nobody else set it
        self.put(self.before)


def default_dtype(dtype):
    return Changed(torch.get_default_dtype, torch.set_default_dtype, dtype)


def put_device(device):
    """None where it is the CPU: to set that one leaves a mode behind, which torch.compile meets in later tests."""
    torch.set_default_device(None if device == torch.device("cpu") else device)


MODES = {
    "float64 by default": lambda: default_dtype(torch.float64),
    "float16 by default": lambda: default_dtype(torch.float16),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "meta by default": lambda: Changed(torch.get_default_device, put_device, torch.device("meta")),
    "in a device": lambda: torch.device("meta"),
    "inference": torch.inference_mode,
    "no gradient": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "deterministic": lambda: Changed(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "saved tensors": hooks,
    "anomalies": anomaly,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
def test_a_program_depends_on_no_mode(mode):
    neurons = [sl.LIF(), sl.PLIF(), sl.ALIF(), sl.LIF(surrogate=sl.surrogate.PiecewiseQuadratic())]
    expected = [str(trace(n)) for n in neurons]
    with MODES[mode]():
        found = [str(trace(n)) for n in neurons]
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
        assert modes == (mode not in ("no gradient", "inference"), mode == "inference", mode == "autocast")
    assert found == expected


@needs_compiler
@pytest.mark.parametrize("mode", ["float64 by default", "bfloat16 by default", "meta by default", "in a device"])
def test_kernels_run_in_every_mode(mode):
    """What kernels allocate is on their device, whatever the default is; a batch norm and bits included."""
    x = torch.randn(5, 4, 8)
    tau = nn.Parameter(torch.tensor(2.3))
    neuron = sl.LIF(tau=tau, v_threshold=0.3)
    normed = sl.nn.NormNeuron(nn.BatchNorm1d(8), sl.LIF(v_threshold=0.3))
    bits = sl.Network(sl.LIF(v_threshold=0.3), nn.Flatten(), spikes="packed")

    def run():
        y, state = neuron.sequence(x)
        (grad,) = torch.autograd.grad(y.sum() + state["v"].sum(), [tau])
        return [y.detach(), state["v"].detach(), grad, normed.sequence(x)[0].detach(), bits(x).to_dense()]

    with sl.backend("eager"):
        expected = run()
    with MODES[mode](), sl.backend("c"):
        found = run()
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_has_the_default_dtype_follows_it(dtype):
    """``(x > 0) * 1.0`` is float64 where that is the default, and makes float64 of a float32 x: a loop."""
    neuron, x = neuron_of(lambda self, x, v: (x * ((x > 0) * 1.0) + x * 0.1, v)), torch.randn(3, 4, 5).to(dtype)
    for default in (torch.float32, torch.float64, torch.float16, torch.float32):
        with default_dtype(default):
            with sl.backend("eager"):
                expected = neuron.sequence(x)[0]
            assert torch.equal(neuron.sequence(x)[0], expected), default
