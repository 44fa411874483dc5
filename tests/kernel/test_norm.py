"""Batch norm before a neuron, in one kernel: against torch's batch norm and the PyTorch loop."""

import copy
import math

import pytest
import torch
from torch import nn

import spikeloom as sl
from kernel import spec
from spikeloom.kernel.c.target import C
from spikeloom.kernel.norm import Geometry, Norm, NormByTorch
from spikeloom.kernel.plan import in_memory
from spikeloom.native import build

try:
    build.ready()
except build.BuildError as missing:
    pytest.skip(f"no C kernels on this machine: {missing}", allow_module_level=True)


def learn(*values):
    return nn.Parameter(torch.tensor(values if len(values) > 1 else values[0]))


KINDS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
NEURONS = {
    "LIF": lambda: sl.LIF(v_threshold=0.3),
    "LIF soft": lambda: sl.LIF(tau=learn(2.3), v_threshold=0.3, reset="soft"),
    "PLIF": lambda: sl.PLIF(shape=6, v_threshold=0.3),
    "Synaptic": lambda: sl.Synaptic(alpha=learn(0.4), beta=0.7),
    "LI": lambda: sl.LI(tau=learn(2.0)),
}
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2]),
    "a slice in time": lambda x: torch.stack([x, x], 1).flatten(0, 1)[::2],
    "batch outermost": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
}


def pair(neuron, shape, **options):
    torch.manual_seed(1)
    bn = KINDS[len(shape)](shape[1], **options)
    if bn.affine:
        nn.init.uniform_(bn.weight, 0.5, 1.5)
        nn.init.uniform_(bn.bias, -0.2, 0.4)
    return sl.nn.NormNeuron(bn, NEURONS[neuron]())


def run(module, x, backend):
    module = copy.deepcopy(module).to(x.dtype)
    return *spec.results(module, x, backend), list(module.bn.buffers())


def agree(module, x):
    """float64: everything to 1e-10, so that only a spike on the threshold could differ."""
    (outs, grads, buffers), (got, got_grads, got_buffers) = (run(module, x, b) for b in ("eager", "c"))
    for a, b in zip(outs, got, strict=True):
        torch.testing.assert_close(b, a, atol=1e-11, rtol=1e-11)
    for a, b in zip(grads, got_grads, strict=True):
        assert (a - b).abs().max() <= 1e-10 * a.abs().max()
    for a, b in zip(buffers, got_buffers, strict=True):
        torch.testing.assert_close(b, a, atol=1e-12, rtol=1e-12)
    return float(got[0].mean())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NEURONS)
def test_equals_batch_norm_then_neuron(name, training):
    rates = []
    for T, shape in ((1, (9, 6)), (17, (4, 6, 7)), (20, (3, 6, 5, 5)), (5, (2, 6, 3, 2, 4))):
        module = pair(name, shape).train(training)
        module.bn.running_mean += torch.linspace(-0.3, 0.3, 6)
        module.bn.running_var *= 1.7
        rates.append(agree(module, torch.randn(T, *shape, dtype=torch.float64) * 2 + 1))
    assert name == "LI" or any(0.05 < r < 0.95 for r in rates)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    shape = (3, 6, 5, 7)
    agree(pair("LIF soft", shape), LAYOUTS[layout](torch.randn(18, *shape, dtype=torch.float64) + 0.5))


@pytest.mark.parametrize(
    "options",
    [{"affine": False}, {"track_running_stats": False}, {"momentum": None}, {"eps": 0.1, "momentum": 0.7}],
    ids=str,
)
def test_options_of_the_batch_norm(options):
    module = pair("LIF", (5, 6), **options)
    for training in (True, False):
        agree(module.train(training), torch.randn(12, 5, 6, dtype=torch.float64) + 0.5)


def test_running_statistics_by_hand():
    """Mean 0.1 of 3; variance with n - 1: x = 1..5 has mean 3 and unbiased variance 2.5."""
    module = sl.nn.NormNeuron(nn.BatchNorm1d(1), sl.LIF())
    with sl.backend("c"):
        module.sequence(torch.arange(1.0, 6.0).view(5, 1, 1))
    assert float(module.bn.running_mean) == pytest.approx(0.3)
    assert float(module.bn.running_var) == pytest.approx(0.9 + 0.25)
    assert int(module.bn.num_batches_tracked) == 1


def test_a_mean_far_from_zero_loses_nothing():
    """Mean 100, deviation 1.5, float32: within 1e-5 of float64; spikes differ only next to the threshold."""
    x = torch.randn(8, 16, 6, 9, 9, dtype=torch.float64) * 1.5 + 100
    order, _, (ready,) = in_memory(sl.kernel.Request.of((x.float(),), ()))
    mean, var, n, *_ = C.moments(Norm.of(nn.BatchNorm2d(6)), Geometry.of(ready, order), ready, order)
    exact = x.float().double().transpose(0, 2).flatten(1)
    assert n == 8 * 16 * 81
    torch.testing.assert_close(mean, exact.mean(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(var, exact.var(1, correction=0), atol=1e-5, rtol=0)
    module = pair("LIF", (16, 6, 9, 9))
    (outs, grads, _), (got, got_grads, _) = run(module, x, "eager"), run(module, x.float(), "c")
    assert (outs[0] != got[0]).double().mean() < 1e-4
    assert torch.nn.functional.cosine_similarity(grads[0].flatten(), got_grads[0].double().flatten(), dim=0) > 0.9999


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("affine", [True, False])
def test_c_and_torch_make_the_same_of_the_sums(dtype, affine):
    """Moments, scale and shift, running statistics, the correction; NaN and infinity in a channel as in torch."""
    torch.manual_seed(3)
    x, limit = torch.randn(4, 3, 5, 7, dtype=dtype), {torch.float32: 1e-6, torch.float64: 1e-13}[dtype]
    x[0, 0, 1, 0], x[2, 1, 2, 3], x[0, 0, 3] = math.nan, math.inf, 2.0
    order = (0, 1, 2)
    made = []
    for target in (C, NormByTorch):
        bn = nn.BatchNorm1d(5, affine=affine, momentum=0.3).to(dtype)
        if affine:
            nn.init.normal_(bn.weight, generator=torch.Generator().manual_seed(0))
            nn.init.normal_(bn.bias, generator=torch.Generator().manual_seed(1))
        norm = Norm.of(bn)
        if target is NormByTorch:
            target = type("ByTorch", (NormByTorch,), {"statistics": lambda self, *given: C.statistics(*given)})()
        found = target.moments(norm, Geometry.of(x, order), x, order)
        g = torch.linspace(-1, 1, 20, dtype=torch.float64).view(2, 5, 2)
        slopes = target.slopes(norm, found, g, g.flip(0, 1, 2), correction=True)
        made.append((*found, bn.running_mean, bn.running_var, *slopes))
        assert int(bn.num_batches_tracked) == 1
    for a, b in zip(*made, strict=True):
        torch.testing.assert_close(
            torch.as_tensor(a).double(), torch.as_tensor(b).double(), atol=limit, rtol=limit, equal_nan=True
        )
    finite = x[:, :, [0, 3, 4]].double().transpose(0, 2).flatten(1)
    torch.testing.assert_close(made[0][0][[0, 3, 4]], finite.mean(1), atol=1e-6, rtol=0)
    assert made[0][0][1].isnan()


def test_large_batches_and_half_precision():
    """Every value against torch's batch norm in float64: statistics and the kernel's own scale and shift."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for make in LAYOUTS.values():
            x = make((torch.randn(6, 40, 6, 11, 13) + 0.4).to(dtype))
            module = pair("LI", x.shape[1:])
            (outs, grads, buffers), (got, got_grads, got_buffers) = (
                run(module, x.double(), "eager"),
                run(module.to(torch.float32), x, "c") if dtype == torch.float32 else _half(module, x),
            )
            loose = 1e-5 if dtype == torch.float32 else 2e-2
            for a, b in zip((*outs, *grads), (*got, *got_grads), strict=True):
                assert (a - b).abs().max() <= loose * a.abs().max()
            for a, b in zip(buffers, got_buffers, strict=True):
                assert (a - b).abs().max() <= 1e-6


def _half(module, x):
    """The module's own weights stay float32, as under autocast."""
    module = copy.deepcopy(module)
    outs, grads = spec.results(module, x, "c")
    assert outs[0].dtype == x.dtype
    return outs, grads, list(module.bn.buffers())


def net_of(**options):
    torch.manual_seed(0)
    return sl.Network(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        sl.LIF(v_threshold=0.3),
        nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(6, 4, 3, bias=False), nn.BatchNorm2d(4), sl.PLIF(v_threshold=0.3)),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.BatchNorm1d(5),
        sl.LI(tau=2.0),
        **options,
    ).double()


def gradients(net, x, **options):
    y = net(x, **options)
    net.zero_grad()
    y.square().sum().backward()
    return y.detach(), [p.grad for p in net.parameters()], [b.clone() for b in net.buffers()]


@pytest.mark.parametrize("training", [True, False])
def test_a_network_finds_neighbours_and_computes_the_same(training):
    x = torch.rand(7, 3, 2, 8, 8, dtype=torch.float64)
    fused, plain = net_of(), net_of(fuse=False)
    assert list(fused.state_dict()) == list(plain.state_dict())
    reasons = [row.reason for row in sl.explain(copy.deepcopy(fused), x).rows]
    assert reasons == ["fused with BatchNorm2d", "fused with BatchNorm2d", "fused with BatchNorm1d"]
    assert not any(row.reason for row in sl.explain(copy.deepcopy(plain), x).rows)
    found = [gradients(net.train(training), x) for net in (fused, plain)]
    torch.testing.assert_close(found[0], found[1], atol=1e-10, rtol=1e-10)


def test_state_recordings_streams_and_ragged_batches_are_those_of_the_neuron():
    x = torch.rand(9, 3, 2, 8, 8, dtype=torch.float64)
    net, plain = net_of().eval(), net_of(fuse=False).eval()
    y, result = net(x, return_state=True, record=("2.v", "3.3.output"))
    z, other = plain(x, return_state=True, record=("2.v", "3.3.output"))
    torch.testing.assert_close((y, result.state, result.record), (z, other.state, other.record))
    first, half = net(x[:4], return_state=True)
    torch.testing.assert_close(torch.cat([first, net(x[4:], state=half.state)]), y)
    stream = net.stream()
    torch.testing.assert_close(torch.stack([stream(x_t) for x_t in x]), y)
    lengths = torch.tensor([9, 4, 7])
    torch.testing.assert_close(net(x, lengths=lengths), plain(x, lengths=lengths))
    torch.testing.assert_close(net(x[0], repeat=9), plain(x[0], repeat=9))


def test_what_is_not_fused():
    x = torch.rand(7, 3, 2, 8, 8, dtype=torch.float64)
    seen, net = [], net_of()
    net.body[1].register_forward_hook(lambda m, args, out: seen.append(out.shape))
    reasons = [row.reason for row in sl.explain(net, x).rows]
    assert reasons == ["", "fused with BatchNorm2d", "fused with BatchNorm1d"]
    assert seen == [(21, 6, 8, 8)]
    with sl.backend("eager"):
        assert {row.reason for row in sl.explain(net_of(), x).rows} == {"chosen"}
    sync = sl.Network(nn.SyncBatchNorm(2), sl.LIF())
    assert sync.body[1].absorb(sync.body[0]) is None
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        sl.Network(nn.BatchNorm1d(3), sl.LIF())(torch.rand(1, 1, 3))
    with pytest.raises(RuntimeError, match="running_mean should contain 3 elements not 4"):
        sl.Network(nn.BatchNorm1d(4), sl.LIF())(torch.rand(2, 2, 3))


def test_norm_neuron_is_one_module_for_the_network():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.spike = sl.nn.NormNeuron(nn.BatchNorm1d(4), sl.LIF(v_threshold=0.3))

        def forward(self, x):
            return self.spike(x) + x

    net, x = sl.Network(Block()), torch.rand(6, 5, 4)
    assert list(net.temporal_modules().values()) == ["spike"]
    _, result = net(x, record=("*.v",), return_state=True)
    assert list(result.record) == ["spike.v"]
    assert result.state["spike"]["v"].shape == (5, 4)
    (row,) = sl.explain(net, x).rows
    assert (row.path, row.reason) == ("spike", "fused with BatchNorm1d")
    net.eval()
    lengths = torch.tensor([6, 2, 3, 1, 4])
    whole = net(x, lengths=lengths)
    for b, n in enumerate(lengths):
        torch.testing.assert_close(whole[:n, b], net(x[:n, b : b + 1])[:, 0])
        assert not whole[n:, b].any()
    with pytest.raises(TypeError, match=r"NormNeuron: expected one of nn.BatchNorm1d, .* got LayerNorm"):
        sl.nn.NormNeuron(nn.LayerNorm(4), sl.LIF())
    with pytest.raises(TypeError, match="expected a neuron such as"):
        sl.nn.NormNeuron(nn.BatchNorm1d(4), nn.ReLU())


def test_second_derivatives_raise_and_threads_do_not_matter():
    x = torch.randn(4, 30, 6, 10, 10)
    module = pair("LIF soft", x.shape[1:])
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            outs, grads, buffers = run(module, x, "c")
            found.append([*outs, *grads, *buffers])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
    leaf = torch.randn(4, 3, 6, requires_grad=True)
    with sl.backend("c"):
        y = pair("LI", (3, 6)).sequence(leaf)[0]
    (g,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives are not available"):
        g.sum().backward()


CORNERS = {
    "no count of batches": {"num_batches_tracked": None},
    "neither a count nor a momentum": {"num_batches_tracked": None, "momentum": None},
    "no longer tracked": {"track_running_stats": False},
    "no mean": {"running_mean": None},
    "no variance": {"running_var": None},
    "no statistics": {"running_mean": None, "running_var": None},
    "no weight": {"weight": None},
    "no bias": {"bias": None},
    "eps 0": {"eps": 0.0},
    "momentum 0": {"momentum": 0.0},
    "momentum 1": {"momentum": 1.0},
    "another dtype": {"weight": nn.Parameter(torch.ones(3))},
}


class Confusing(sl.Neuron):
    """Has a number of the name ``norm.scale``."""

    def __init__(self):
        super().__init__()
        self.norm = sl.surrogate.Sigmoid(3.0)
        self.numbers(tau=learn(2.0))
        self.states(v=0.0)

    def dynamics(self, x, v):
        v = v + (x - v) / self.tau
        s = self.norm(v - 0.3, False)
        return s, v * (1 - s)


def test_numbers_of_a_neuron_are_not_those_of_the_norm():
    torch.manual_seed(2)
    module = sl.nn.NormNeuron(nn.BatchNorm1d(6), Confusing())
    assert 0.05 < agree(module, torch.randn(9, 5, 6, dtype=torch.float64) * 2 + 1) < 0.95


def test_a_norm_runs_once_where_the_kernel_cannot_be_built(monkeypatch):
    from spikeloom.kernel import launch

    def fails(*args):
        raise build.BuildError("no space left")

    monkeypatch.setattr(launch, "run", fails)
    module, x = sl.nn.NormNeuron(nn.BatchNorm1d(6), sl.LIF()), torch.rand(5, 4, 6)
    for hooks in (0, 1):
        module.sequence(x)
        assert module.bn.num_batches_tracked == hooks + 1
        module.bn.register_forward_hook(lambda *args: None)  # with one it cannot join, and runs before the neuron


def test_a_norm_in_evaluation_keeps_its_statistics_where_the_kernel_cannot_be_built(monkeypatch):
    from spikeloom.kernel import launch

    module, x = sl.nn.NormNeuron(nn.BatchNorm1d(6), sl.LIF(v_threshold=0.3)).double(), torch.randn(5, 4, 6).double()
    module.sequence(x + 1.0)
    module.eval()
    wanted = module.neuron.sequence(module.bn(x.flatten(0, 1)).view_as(x))[0]

    def fails(*args):
        raise build.BuildError("no space left")

    monkeypatch.setattr(launch, "run", fails)
    assert torch.equal(module.sequence(x)[0], wanted)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("corner", CORNERS)
def test_what_torch_takes_is_taken_and_what_it_refuses_is_refused(corner, training):
    torch.manual_seed(0)
    for shape in ((4, 2, 3), (1, 1, 3), (1, 1, 3, 1), (3, 1, 3, 2)):
        x = torch.randn(*shape, dtype=torch.float64) * 2 + 1
        ours, theirs = (nn.BatchNorm1d(3, dtype=torch.float64).train(training) for _ in range(2))
        for module in (ours, theirs):
            for name, value in CORNERS[corner].items():
                setattr(module, name, value)
        neuron = sl.LIF(v_threshold=0.3).train(training)
        try:
            wanted = neuron.sequence(theirs(x.flatten(0, 1)).view_as(x))[0]
        except (ValueError, RuntimeError) as error:
            with pytest.raises(type(error)):
                sl.Network(ours, neuron)(x)
            continue
        torch.testing.assert_close(sl.Network(ours, neuron)(x), wanted)
        for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("at", [(0, 0), (2, 1)])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e38])
def test_values_that_are_not_finite_give_what_torch_gives(at, value):
    torch.manual_seed(0)
    x = torch.randn(5, 4, 3)
    x[at] = value
    ours, theirs, neuron = nn.BatchNorm1d(3), nn.BatchNorm1d(3), sl.LIF(v_threshold=0.3)
    wanted = neuron.sequence(theirs(x.flatten(0, 1)).view_as(x))[0]
    assert torch.equal(sl.Network(ours, neuron)(x), wanted)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def test_one_batch_norm_in_two_places():
    bn, x = nn.BatchNorm1d(3), torch.rand(5, 4, 3)
    body = [bn, nn.ReLU(), bn, sl.LIF(v_threshold=0.3)]
    found = []
    for fuse in (True, False):
        bn.reset_running_stats()
        grads = torch.autograd.grad(sl.Network(*body, fuse=fuse)(x).sum(), [bn.weight, bn.bias])
        found.append([*grads, bn.running_mean.clone(), bn.running_var.clone()])
        assert bn.num_batches_tracked == 2
    for fused, plain in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-4)
