"""How many kernels a training step launches, ours and torch's, counted in Triton's interpreter."""

import importlib
import sys
import traceback
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import spikeloom as sl
from spikeloom.kernel import compiled
from spikeloom.kernel.triton.target import TRITON
from spikeloom.native.build import BuildError

try:
    TRITON.ready(torch.device("cpu"))
except BuildError as missing:
    pytest.skip(f"Triton's interpreter does not run here: {missing}", allow_module_level=True)

# The interpreter computes with NumPy, which warns of infinities where they are meant.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
OURS = ("spikeloom/kernel/", "spikeloom/neuron/", "spikeloom/nn/norm_neuron")
FREE = {  # operators that launch nothing: they make views, or memory that nobody has written to
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "view", "_unsafe_view", "detach", "alias",
    "as_strided", "permute", "transpose", "t", "unbind", "select", "slice", "expand", "unsqueeze", "squeeze",
}  # fmt: skip
NORMED = {"statistics": 1, "finish": 1, "slopes": 1, "correct": 1, "run": 2}
"""The kernels of a batch norm and a neuron in a training step, by their names; ``run`` are those of the neuron."""


class Launches(TorchDispatchMode):
    """Counts kernels in Triton, and operators of torch that would launch one on a device and are called by ours."""

    def __init__(self):
        super().__init__()
        self.triton, self.torch = Counter(), Counter()
        self.interpreting = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        if not self.interpreting and name not in FREE:
            where = [f.filename.replace("\\", "/") for f in traceback.extract_stack()]
            if any(part in file for file in where for part in OURS):
                self.torch[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def launches(monkeypatch):
    """Counts of what runs inside ``with``; numbers cannot be read without waiting, as on a device."""
    from triton.runtime.interpreter import GridExecutor

    mode, launch = Launches(), GridExecutor.__call__

    def counted(self, *args, **options):
        mode.triton[self.fn.__name__] += 1
        mode.interpreting = True
        try:
            return launch(self, *args, **options)
        finally:
            mode.interpreting = False

    monkeypatch.setattr(GridExecutor, "__call__", counted)
    monkeypatch.setattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)  # under a mode no kernel runs
    monkeypatch.setattr(compiled, "_constant_key", lambda numbers: None)
    monkeypatch.setattr(compiled, "_kernels", {})
    monkeypatch.setattr(sys.modules["spikeloom.kernel.backend"], "is_plain_float", lambda number: False)
    return mode


def second(step, launches):
    """Counts the second call of a step: what the first one prepares is there."""
    with sl.backend("triton"):
        step()
        launches.triton.clear()
        with launches:
            step()
    return dict(launches.triton), dict(launches.torch)


def training(module, x):
    """A step of ``[T, B, C, *]``, forward and backward, of a module with ``sequence``."""
    x = x.requires_grad_()
    upstream = torch.linspace(-1, 1, x.numel()).view(x.shape).to(x.dtype)
    if not x.is_contiguous():
        upstream = torch.empty_like(x).copy_(upstream)

    def step():
        y = module.sequence(x)[0]
        torch.autograd.grad(y, [x, *module.parameters()], upstream)

    return step


def input_of(layout, dtype):
    x = torch.randn(4, 2, 8, 6, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    last = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
    return last if layout == "channels last" else x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_a_batch_norm_and_a_neuron_are_six_launches(layout, dtype, launches):
    module = sl.nn.NormNeuron(nn.BatchNorm2d(8), sl.LIF())
    assert second(training(module, input_of(layout, dtype)), launches) == (NORMED, {})


@pytest.mark.parametrize("options", [{"momentum": None}, {"affine": False}, {"track_running_stats": False}], ids=str)
def test_options_of_the_norm_launch_nothing_more(options, launches):
    module = sl.nn.NormNeuron(nn.BatchNorm2d(8, **options), sl.LIF())
    assert second(training(module, input_of("contiguous", torch.float32)), launches) == (NORMED, {})


def test_a_learnable_number_is_two_launches_of_torch_more(launches):
    """Its gradient is summed, and gets the dtype of the number."""
    module = sl.nn.NormNeuron(nn.BatchNorm2d(8), sl.LIF(tau=nn.Parameter(torch.tensor(2.0))))
    found = second(training(module, input_of("channels last", torch.float32)), launches)
    assert found == (NORMED, {"sum": 1, "_to_copy": 1})


def test_in_eval_mode_they_are_four(launches):
    module = sl.nn.NormNeuron(nn.BatchNorm2d(8), sl.LIF()).eval()
    found = second(training(module, input_of("contiguous", torch.float32)), launches)
    assert found == ({"finish": 1, "slopes": 1, "run": 2}, {})


def test_a_neuron_alone_is_two_launches(launches):
    assert second(training(sl.LIF(), input_of("contiguous", torch.float16)), launches) == ({"run": 2}, {})


def benchmark():
    """The networks of ``benchmarks/gpu.py``."""
    root = Path(__file__).parents[2]
    sys.path.insert(0, str(root))
    try:
        return importlib.import_module("benchmarks.gpu_networks")
    finally:
        sys.path.remove(str(root))


@pytest.mark.parametrize(("name", "normed", "alone"), [("convolutional", 3, 0), ("transformer", 7, 1)])
def test_networks_of_the_benchmark(name, normed, alone, launches):
    """One block of each: six launches for a batch norm and a neuron, two for a neuron alone, and nothing of torch's
    inside.
    """
    gpu = benchmark()
    net = sl.Network(*getattr(gpu, name)(gpu.Side(), True))
    x, labels = torch.rand(2, 2, 3, 8, 8), torch.tensor([3, 7])

    def step():
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(net(x).float().mean(0), labels)
        torch.autograd.grad(loss, list(net.parameters()))

    wanted = {kernel: count * normed for kernel, count in NORMED.items()}
    wanted["run"] += 2 * alone
    assert second(step, launches) == (wanted, {})
