"""The forms of the kernels on a GPU: with masks and without, rests of segments, memory formats, graphs, launches.

Large layers against the PyTorch loop on the same device. Skipped without one.
"""

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom.kernel.triton.target import problem

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    pytest.skip("no GPU on this machine", allow_module_level=True)
if problem("cuda"):
    pytest.skip(problem("cuda"), allow_module_level=True)

WIDE = 1 << 14
NEURONS = {
    "LIF": lambda n: sl.LIF(v_threshold=0.5),
    "LIF, learned per channel": lambda n: sl.LIF(tau=nn.Parameter(torch.linspace(1.5, 3.0, n)), v_threshold=0.5),
    "ALIF": lambda n: sl.ALIF(v_threshold=0.5),
    "Synaptic": lambda n: sl.Synaptic(alpha=0.7, beta=0.8, v_threshold=0.5),
    "LIF, learned slope": lambda n: sl.LIF(
        v_threshold=0.5, surrogate=sl.surrogate.ATan(nn.Parameter(torch.tensor(2.0)))
    ),
}


@pytest.fixture(autouse=True)
def _exact_products():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def results(run, x, leaves, upstream):
    """The output of ``run(x)`` and the gradients of x and ``leaves``."""
    x = x.detach().requires_grad_()
    y = run(x)
    return y.detach(), torch.autograd.grad(y, [x, *leaves], upstream)


def agree(run, x, leaves, *, flips=0.0):
    """Kernels and loop: equal spikes (but for a share of ``flips``), and gradients that differ by rounding."""
    generator = torch.Generator(x.device).manual_seed(1)
    with torch.no_grad():
        shape, dtype = run(x).shape, run(x).dtype
    upstream = torch.randn(shape, generator=generator, device=x.device).to(dtype)
    with sl.backend("triton"):
        y, grads = results(run, x, leaves, upstream)
    with sl.backend("eager"):
        z, wanted = results(run, x, leaves, upstream)
    assert (y != z).double().mean() <= flips
    limit = 1e-4 if x.dtype == torch.float32 else 0.02
    for g, h in zip(grads, wanted, strict=True):
        assert g.dtype == h.dtype
        assert g.isfinite().all()
        g, h = g.double(), h.double()
        if flips:
            assert torch.nn.functional.cosine_similarity(g.flatten(), h.flatten(), dim=0) > 0.99
        else:
            assert (g - h).abs().max() <= limit * h.abs().max()
    return float(y.double().mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n", [WIDE, WIDE - 1, 24, 7])
@pytest.mark.parametrize("name", NEURONS)
def test_whole_blocks_and_rests(name, n, dtype):
    """16,384 neurons are whole blocks, 16,383 are not; of 24 and 7 there is less than one; T = 19 leaves a rest."""
    torch.manual_seed(0)
    neuron = NEURONS[name](n).cuda()
    for T in (1, 4, 16, 19):
        x = (torch.randn(T, 3, n, device="cuda") + 0.6).to(dtype)
        rate = agree(lambda x: neuron.sequence(x)[0], x, list(neuron.parameters()))
    assert 0.02 < rate < 0.98


@pytest.mark.parametrize("n", [WIDE, 77])
@pytest.mark.parametrize("name", NEURONS)
def test_lengths(name, n):
    """What lies after the end of a sample counts in nothing, and its gradient is 0."""
    torch.manual_seed(0)
    neuron, lengths = NEURONS[name](n).cuda(), torch.tensor([11, 1, 4, 7], device="cuda")
    x = torch.randn(11, 4, n, device="cuda") + 0.6
    agree(lambda x: neuron.sequence(x, lengths=lengths)[0], x, list(neuron.parameters()))
    x.requires_grad_()
    with sl.backend("triton"):
        (g,) = torch.autograd.grad(neuron.sequence(x, lengths=lengths)[0].sum(), x)
    assert not g[4:, 2].any()
    assert not g[7:, 3].any()
    assert g[:7, 3].any()


def images(*shape, last, dtype):
    """``[T, B, C, H, W]``, channels last or not."""
    x = (torch.randn(shape[0] * shape[1], *shape[2:], device="cuda") * 2 + 0.5).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    return x.unflatten(0, shape[:2])


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(4, 16, 128, 16, 16), (5, 3, 6, 7, 9), (3, 2, 1000, 2, 2)])
def test_a_batch_norm_with_its_neuron(shape, last, dtype, train):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(shape[2]).cuda()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-0.5, 0.5)
    module = sl.nn.NormNeuron(norm, sl.LIF(v_threshold=0.4)).cuda().train(train)
    x = images(*shape, last=last, dtype=dtype)
    agree(lambda x: module.sequence(x)[0], x, list(module.parameters()), flips=0.005)
    x.requires_grad_()
    y = module.sequence(x)[0]
    (g,) = torch.autograd.grad(y.sum(), x)
    assert y.stride() == x.stride()
    assert g.stride() == x.stride()
    found = norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone()
    fresh = nn.BatchNorm2d(shape[2]).cuda().train(train)
    for _ in range(int(found[2])):
        fresh(x.detach().flatten(0, 1).float())
    for a, b in zip(found, (fresh.running_mean, fresh.running_var, fresh.num_batches_tracked), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_step_with_learnable_numbers_in_a_cuda_graph():
    """A number, a number per channel and a slope are learned as they are without a graph."""
    x = torch.randn(9, 8, 2, 12, 12, device="cuda")
    target = torch.arange(8, device="cuda") % 5
    found = []
    for captured in (False, True):
        torch.manual_seed(0)
        net = sl.Network(
            nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6),
            sl.LIF(tau=nn.Parameter(torch.linspace(1.5, 3.0, 6)), v_threshold=0.3),
            nn.AvgPool2d(4), nn.Flatten(), nn.Linear(54, 12),
            sl.PLIF(v_threshold=0.2, surrogate=sl.surrogate.Sigmoid(nn.Parameter(torch.tensor(3.0)))),
            nn.Linear(12, 5),
        ).cuda()  # fmt: skip
        before = [p.detach().clone() for p in net.parameters()]
        optimiser = torch.optim.SGD(net.parameters(), lr=0.05)

        def step(net=net, optimiser=optimiser):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x).mean(0), target).backward()
            optimiser.step()

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        run = step
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            run = graph.replay
        for _ in range(4):
            run()
        torch.cuda.synchronize()
        assert all((p != b).any() for p, b in zip(net.parameters(), before, strict=True))
        found.append([p.detach() for p in net.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-2)


def launched(run):
    """The kernels, copies and fills that the device runs in the second call."""
    run()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize()
    events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    names = [e.name for e in events if not getattr(e, "is_user_annotation", False) and "#" not in e.name]
    if not names:
        pytest.skip("torch.profiler sees no kernels of this device")
    return names


LAYERS = {
    "a neuron": (lambda: sl.LIF(), 2),
    "a neuron that learns a number": (lambda: sl.LIF(tau=nn.Parameter(torch.tensor(2.0))), 4),
    "a batch norm and a neuron": (lambda: sl.nn.NormNeuron(nn.BatchNorm2d(16), sl.LIF()), 6),
    "the same in eval mode": (lambda: sl.nn.NormNeuron(nn.BatchNorm2d(16), sl.LIF()).eval(), 4),
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_launches_of_a_training_step(name, dtype, last):
    make, most = LAYERS[name]
    module, x = make().cuda(), images(4, 8, 16, 8, 8, last=last, dtype=dtype).requires_grad_()
    upstream = torch.randn_like(x)

    def step():
        torch.autograd.grad(module.sequence(x)[0], [x, *module.parameters()], upstream)

    names = launched(step)
    assert len(names) <= most, names


def test_a_network_in_channels_last_moves_no_image_into_the_other_format():
    """By its kernels' names: those of torch that copy between formats."""
    torch.manual_seed(0)
    net = sl.Network(
        nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), sl.LIF(v_threshold=0.4), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), sl.LIF(v_threshold=0.4), nn.AvgPool2d(8),
        nn.Flatten(), nn.Linear(16, 10),
    ).cuda().to(memory_format=torch.channels_last)  # fmt: skip
    x = images(4, 8, 8, 16, 16, last=True, dtype=torch.float32)

    def step():
        with torch.autocast("cuda", torch.float16):
            loss = net(x).float().square().sum()
        torch.autograd.grad(loss, list(net.parameters()))

    names = launched(step)
    assert not [n for n in names if "nchwToNhwc" in n or "nhwcToNchw" in n], names
