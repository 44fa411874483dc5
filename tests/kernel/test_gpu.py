"""Kernels in Triton on a GPU: what the interpreter cannot show. Without one everything here is skipped."""

import pytest
import torch
from torch import nn

import spikeloom as sl
from kernel import spec
from spikeloom.kernel.compiled import kernels_of
from spikeloom.kernel.triton.target import TRITON, problem

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    pytest.skip("no GPU on this machine", allow_module_level=True)
if problem("cuda"):
    pytest.skip(problem("cuda"), allow_module_level=True)

RANDOM = [name for name, sample in spec.samples.SURROGATES.items() if sample.random]
ROWS = [(name, kind) for name, kind in spec.rows() if name not in RANDOM]
CASES = spec.pairwise(spec.AXES)


@pytest.fixture(autouse=True)
def _exact_products():
    """The loop's own arithmetic in float32, not in TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def ran(net, *args):
    return {row.backend for row in sl.explain(net, *args).rows}


@pytest.mark.parametrize("name", [name for name, _ in ROWS])
def test_every_neuron_and_every_surrogate(name):
    torch.manual_seed(0)
    assert spec.check({**spec.BASE, "neuron": "LIF", **dict(ROWS)[name]}, "triton", "cuda") > 0


@pytest.mark.parametrize("part", range(8))
def test_pairwise_cover(part):
    rates = [spec.check(case, "triton", "cuda") for case in CASES[part::8]]
    assert any(0.05 < r < 0.95 for r in rates)


def network():
    torch.manual_seed(0)
    return sl.Network(
        nn.Conv2d(2, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        sl.LIF(v_threshold=0.3),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 16, 10),
        sl.PLIF(v_threshold=0.1),
    ).cuda()


def gradients(net, x, weights):
    y = net(x)
    return y.detach(), torch.autograd.grad((y.float() * weights).sum(), list(net.parameters()))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_network_against_the_loop(layout):
    net = network()
    x = spec.LAYOUTS[layout](torch.randn(12, 5, 2, 8, 8)).cuda()
    weights = torch.randn(12, 5, 10, device="cuda")
    assert ran(net, x) == {"triton"}
    y, grads = gradients(net, x, weights)
    with sl.backend("eager"):
        z, wanted = gradients(net, x, weights)
    assert (y != z).float().mean() < 0.005  # the batch norm of the two rounds in its own way
    flat, other = (torch.cat([g.flatten() for g in side]) for side in (grads, wanted))
    assert torch.nn.functional.cosine_similarity(flat, other, dim=0) > 0.99


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    net, x = network(), torch.randn(12, 5, 2, 8, 8, device="cuda")
    with torch.autocast("cuda", dtype):
        y = net(x)
        loss = y.float().square().mean()
    loss.backward()
    assert y.dtype in (dtype, torch.float32)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_second_stream_and_strided_upstream_gradients():
    x = torch.randn(20, 64, 100, device="cuda")
    wanted = []
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            leaf = x.clone().requires_grad_()
            y = sl.LIF(v_threshold=0.3).cuda().sequence(leaf)[0]
            y.mean(0).square().sum().backward()
            y = y.detach()
        torch.cuda.current_stream().wait_stream(stream)
        wanted.append((y, leaf.grad))
    assert torch.equal(wanted[0][0], wanted[1][0])
    assert torch.equal(wanted[0][1], wanted[1][1])


def test_other_shapes_and_durations_compile_nothing(monkeypatch):
    """But for another number of steps in a segment, of which there are few."""
    neuron = sl.LIF(v_threshold=0.3).cuda()

    def step(T, n):
        x = torch.randn(T, 4, n, device="cuda", requires_grad=True)
        neuron.sequence(x)[0].sum().backward()

    for T in (16, 8, 4, 2, 1, 17, 20):  # segments of 8, 4, 2, 1 and 5 steps, with states kept or not, a rest or none
        for n in (64, 63, 16, 5):  # divisible by a block, by 16 or not
            step(T, n)
    compiled = []
    import triton

    original = triton.compile
    monkeypatch.setattr(triton.compiler, "compile", lambda *a, **k: compiled.append(a) or original(*a, **k))
    monkeypatch.setattr(triton, "compile", triton.compiler.compile)
    before = _compiled_kernels()
    for T, n in ((32, 128), (19, 77), (13, 4096), (8, 32), (4, 1001), (25, 64)):
        step(T, n)
    assert _compiled_kernels() == before
    assert not compiled


def _compiled_kernels():
    """How many binaries the generated functions hold, over all devices."""
    count = 0
    for run in kernels_of(sl.LIF())._functions.values():
        for entry in getattr(run, "device_caches", {}).values():
            count += len(entry[0])
    return count


def test_a_training_step_in_a_cuda_graph():
    """Captured once and replayed, the step trains as it does without."""
    x, target = torch.randn(10, 8, 2, 8, 8, device="cuda"), torch.randint(10, (8,), device="cuda")
    losses = []
    for captured in (False, True):
        net = network()
        optimiser = torch.optim.SGD(net.parameters(), lr=0.1)

        def step(net=net, optimiser=optimiser):
            optimiser.zero_grad(set_to_none=False)
            loss = nn.functional.cross_entropy(net(x).mean(0), target)
            loss.backward()
            optimiser.step()
            return loss

        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                loss = step()
            for _ in range(5):
                graph.replay()
        else:
            for _ in range(5):
                loss = step()
        losses.append(float(loss))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated")  # the compiler's own
def test_torch_compile_sees_one_operator_per_layer():
    net, x = network().eval(), torch.randn(6, 3, 2, 8, 8, device="cuda")
    compiled = torch.compile(net, fullgraph=True)
    with torch.no_grad():
        assert (compiled(x) != net(x)).float().mean() < 0.005


def test_peak_memory_of_a_layer():
    """A training step keeps x, spikes, gradients of both and a state every SEGMENT steps; nothing per step besides."""
    T, n = 32, 1 << 20
    x = torch.randn(T, 1, n, device="cuda", dtype=torch.float16, requires_grad=True)
    upstream = torch.randn(T, 1, n, device="cuda", dtype=torch.float16)
    neuron = sl.LIF().cuda()
    neuron.sequence(x)[0].backward(upstream)
    x.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    base = torch.cuda.memory_allocated()
    neuron.sequence(x)[0].backward(upstream)
    peak = torch.cuda.max_memory_allocated() - base
    steps = TRITON.segment_at_any(kernels_of(neuron).program, x.dtype)
    states = ((T - 1) // steps + 4) * n * 4  # kept, start, final and their like
    assert peak <= 2 * T * n * 2 + states + (1 << 22)


def test_spikes_as_bits():
    x = torch.randn(5, 4, 64, device="cuda")
    net = sl.Network(sl.LIF(v_threshold=0.3), nn.Flatten(), spikes="packed").cuda()
    y = net(x)
    assert isinstance(y, sl.SpikeTensor)
    with sl.backend("eager"):
        assert torch.equal(y.to_dense(), net(x).to_dense())


def test_debug_compares_on_the_device(monkeypatch):
    monkeypatch.setenv("SPIKELOOM_DEBUG", "1")
    x = torch.randn(20, 3, 4, device="cuda", requires_grad=True)
    y, _, recorded = sl.PLIF(v_threshold=0.3).cuda().sequence(x, record=("v",))
    assert y.is_cuda
    assert recorded["v"].is_cuda


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("n", [50, 4099, 3000 * 700, 1 << 24])
def test_bits(n, dtype):
    d = (torch.rand(n, device="cuda") < 0.2).to(dtype)
    s = sl.pack(d)
    assert torch.equal(s.bits, sl.pack(d.cpu()).bits.cuda())
    assert torch.equal(s.unpack(), d)
    assert s.count() == int(d.double().sum()) == int(s.to(torch.float32).sum())
    part = sl.pack(d[1:], check=False)  # which begins at no multiple of 16 bytes
    assert torch.equal(part.unpack(), d[1:])
    rows = sl.pack(d[: n // 24 * 24].view(-1, 24))[1:]  # and so do these bits
    plain = d[: n // 24 * 24].view(-1, 24)[1:]
    assert torch.equal(rows.unpack(), plain)
    torch.testing.assert_close(rows.mean(1), plain.mean(1))
    for dims in (0, 1, (0, 1)):
        assert torch.equal(rows.sum(dims, dtype=torch.int64), plain.sum(dims, dtype=torch.int64))
    assert torch.equal((rows * rows[:1]).unpack(), plain * plain[:1])
    d[-1] = 0.5
    with pytest.raises(ValueError, match="1 of"):
        sl.pack(d)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo makes Functions
@torch.no_grad()
def test_a_compiled_packed_network_looks_at_nothing():
    """Neither where a step is whole bytes nor, with 13 features, where it is not."""
    torch.manual_seed(0)
    net = sl.Network(nn.Linear(20, 16), sl.LIF(v_threshold=0.2), nn.Linear(16, 13), sl.LIF(v_threshold=0.1)).cuda()
    x = torch.randn(6, 5, 20, device="cuda")
    y = net(x)
    net.spikes = "packed"
    run = torch.compile(net, fullgraph=True, backend="aot_eager")
    run(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        z = run(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (y != z).float().mean() < 0.01


def test_bits_of_images_in_the_other_layout():
    d = (torch.rand(9, 72, 14, 20, device="cuda") < 0.3).half()
    s = sl.pack(d)
    last = s.contiguous(memory_format=torch.channels_last)
    assert torch.equal(last.bits, sl.pack(d.contiguous(memory_format=torch.channels_last)).bits)
    assert torch.equal(last.contiguous().bits, s.bits)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize(("M", "K", "N"), [(3000, 700, 130), (1, 8, 1), (513, 2048, 1000)])
def test_products_from_bits(M, K, N, scale):
    """Two parts in float16, by the GPU's library: no worse than a float32 product."""
    d = (torch.rand(M, K, device="cuda") < 0.2).float()
    s, bias = sl.pack(d), torch.randn(N, device="cuda") * scale
    W, G = (torch.randn(n, N, device="cuda") * scale for n in (K, M))
    with sl.backend("triton"), sl.kernel.watching() as seen:
        for found, exact in (
            (torch.mm(s, W), d.double() @ W.double()),
            (torch.addmm(bias, s, W.t().contiguous().t()), d.double() @ W.double() + bias.double()),
            (torch.mm(G.t(), s), G.double().t() @ d.double()),
        ):
            assert found.dtype == torch.float32
            assert (found.double() - exact).abs().max() <= 1e-6 * exact.abs().max()
    assert [row[1] for row in seen] == ["bits"] * 3
    W[0, 0], W[K - 1, N - 1] = float("inf"), float("nan")
    with sl.backend("triton"):
        torch.testing.assert_close(torch.mm(s, W), d @ W, rtol=1e-4, atol=1e-4 * scale, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_layer_on_bits_in_a_cuda_graph(dtype):
    """Forward and backward, with a convolution: nothing waits for the device."""
    layers = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.Flatten(), nn.Linear(16 * 64, 50)).cuda().to(dtype)
    layers = layers.to(memory_format=torch.channels_last)
    d = (torch.rand(64, 8, 8, 8, device="cuda") < 0.3).to(dtype)
    x = d.clone(memory_format=torch.channels_last).requires_grad_()

    def run():
        s = sl.pack(x, check=False)
        flat = sl.pack((layers[0](s) > 0).to(dtype).flatten(1), check=False)
        y = layers[2](flat) + layers[1](layers[0](s)).mean()
        return [y, *torch.autograd.grad(y.float().mean(), [x, *layers.parameters()])]

    with sl.backend("triton"):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                expected = [t.clone() for t in run()]
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = run()
            with pytest.raises(RuntimeError, match="check=False"):
                sl.pack(d)
        graph.replay()
        torch.cuda.synchronize()
    bound = 1e-4 if dtype == torch.float32 else 3e-2
    for a, b in zip(found, expected, strict=True):
        assert (a.double() - b.double()).abs().max() <= bound * b.double().abs().max()


def test_a_packed_network_is_the_dense_one():
    net, x, weights = network(), torch.randn(12, 5, 2, 8, 8, device="cuda"), torch.randn(12, 5, 10, device="cuda")
    y, wanted = gradients(net, x, weights)
    net.spikes = "packed"
    z, grads = gradients(net, x, weights)
    assert torch.equal(y, z)
    for a, b in zip(grads, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
