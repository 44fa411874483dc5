"""Steps in CUDA graphs on a GPU: what the stand-in of tests/recorder.py cannot show. Skipped without one."""

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

X = (6, 8, 2, 8, 8)


@pytest.fixture(autouse=True)
def _exact():
    """Convolutions and products that give the same twice."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


def network(*, dropout=0.0, spikes="dense", neuron=None):
    torch.manual_seed(0)
    return sl.Network(
        nn.Conv2d(2, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        sl.LIF(v_threshold=0.3),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(8 * 16, 10),
        sl.PLIF(v_threshold=0.1) if neuron is None else neuron,
        spikes=spikes,
    ).cuda()


def train(call, net, *, steps=8, amp=None):
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cuda", enabled=amp is torch.float16)
    torch.manual_seed(1)
    losses = []
    for _ in range(steps):
        x, target = torch.randn(X, device="cuda"), torch.randint(10, (8,), device="cuda")
        with torch.autocast("cuda", amp, enabled=amp is not None):
            y = call(x)
        loss = nn.functional.cross_entropy(y.float().mean(0), target)
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(optimiser)
        scaler.update()
        losses.append(loss.item())
    return losses


def state(net):
    return {name: v for name, v in net.state_dict().items() if isinstance(v, torch.Tensor)}


@pytest.mark.parametrize("amp", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spikes", ["dense", "packed"])
def test_training_is_that_of_the_network(amp, spikes):
    plain, captured = network(spikes=spikes), network(spikes=spikes)
    fast = sl.graphed(captured)
    losses, found = train(plain, plain, amp=amp), train(fast, captured, amp=amp)
    assert fast.captured, fast.reason
    assert found == pytest.approx(losses, rel=1e-6 if amp is None else 1e-3)
    for name, value in state(plain).items():
        torch.testing.assert_close(
            state(captured)[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert int(captured.body[1].num_batches_tracked) == 8


def test_random_numbers_are_new_in_each_replay_and_those_of_the_network():
    plain, captured = network(dropout=0.5), network(dropout=0.5)
    fast = sl.graphed(captured)
    losses, found = train(plain, plain), train(fast, captured)
    assert fast.captured, fast.reason
    assert found == pytest.approx(losses, rel=1e-5)
    x = torch.randn(X, device="cuda")
    with torch.no_grad():
        ys = [fast(x) for _ in range(6)]
    assert fast.captured
    assert not torch.equal(ys[-1], ys[-2])


def test_capturing_leaves_all_as_it_was():
    net, x = network(dropout=0.5), torch.randn(X, device="cuda")
    net(x).sum().backward()
    before = {name: v.clone() for name, v in state(net).items()}
    gradients, generator = [p.grad.clone() for p in net.parameters()], torch.cuda.get_rng_state()
    fast = sl.graphed(net, x)
    assert fast.graphs == 1
    assert all(torch.equal(v, state(net)[name]) for name, v in before.items())
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), gradients, strict=True))
    assert torch.equal(torch.cuda.get_rng_state(), generator)


def test_other_shapes_modes_and_streams():
    net = network().eval()
    fast = sl.graphed(net, after=2)
    for k in range(3):
        for T in (6, 3):
            x = torch.randn(T, *X[1:], device="cuda")
            with torch.no_grad():
                y, z = fast(x), net(x)
                assert fast.captured is (k >= 1), fast.reason
            assert torch.equal(y, z)
            with torch.inference_mode():
                assert torch.equal(fast(x), z)
    assert fast.graphs == 4
    side, x = torch.cuda.Stream(), torch.randn(X, device="cuda")
    with torch.no_grad():
        wanted = net(x)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            y = fast(x)
        torch.cuda.current_stream().wait_stream(side)
    assert fast.captured, fast.reason
    assert torch.equal(y, wanted)
    net.train()
    assert not torch.equal(fast(x), wanted)


def test_what_waits_for_the_device_is_named_and_leaves_the_device_well():
    class Waits(nn.Module):
        def forward(self, x):
            return x * float(x.sum().item() < 1e9)

    net = sl.Network(nn.Linear(4, 4), Waits(), nn.Dropout(0.5), sl.LIF()).cuda()
    x = torch.randn(5, 2, 4, device="cuda")
    with pytest.raises(RuntimeError, match=r"1: Waits: .*synchroniz"):
        sl.graphed(net, x)
    assert net(x).shape == (5, 2, 4)
    good = network(dropout=0.5)
    assert sl.graphed(good, torch.randn(X, device="cuda")).graphs == 1


def test_a_capture_that_fails_leaves_the_device_well():
    class WaitsWithin(nn.Module):
        def forward(self, x):
            return x * x.sum().item() if torch.cuda.is_current_stream_capturing() else x * 1.0

    net = sl.Network(nn.Linear(4, 4), WaitsWithin(), sl.LIF()).cuda()
    fast, x = sl.graphed(net), torch.randn(5, 2, 4, device="cuda")
    for _ in range(4):
        assert fast(x).shape == (5, 2, 4)
        assert torch.rand(3, device="cuda").shape == (3,)
    assert not fast.captured
    assert fast.reason
    good = network(dropout=0.5)
    assert sl.graphed(good, torch.randn(X, device="cuda")).graphs == 1


def test_numbers_and_weights_that_change_are_seen():
    net = network().eval()
    x = torch.randn(X, device="cuda")
    with torch.no_grad():
        fast = sl.graphed(net, after=1)
        for change in (
            lambda: setattr(net.body[2], "v_threshold", 0.6),
            lambda: net.body[0].weight.mul_(2),
            lambda: setattr(net.body[2], "reset", "soft"),
            lambda: setattr(net.body[6], "weight", nn.Parameter(torch.randn(10, 128, device="cuda"))),
            lambda: net.load_state_dict({k: v * 1 if torch.is_tensor(v) else v for k, v in net.state_dict().items()}),
        ):
            for _ in range(2):
                assert torch.equal(fast(x), net(x))
                assert fast.captured, fast.reason
            change()
            assert torch.equal(fast(x), net(x))


@pytest.mark.parametrize("name", ["LIF", "Leaky", "PLIF", "AdEx", "Izhikevich", "ALIF"])
def test_neurons(name):
    if not hasattr(sl, name):
        pytest.skip(f"there is no {name}")
    arguments = {"Leaky": {"beta": 0.9}}.get(name, {})
    plain, captured = (network(neuron=getattr(sl, name)(**arguments)) for _ in range(2))
    fast = sl.graphed(captured)
    losses, found = train(plain, plain), train(fast, captured)
    assert fast.captured, fast.reason
    assert found == pytest.approx(losses, rel=1e-6, nan_ok=True)


def test_memory_of_graphs_is_that_of_one_step():
    """Two kinds of calls share a pool: the second, smaller one adds its inputs and outputs only."""
    net = network()
    x = torch.randn(32, 64, 2, 8, 8, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    fast = sl.graphed(net, x)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    first = torch.cuda.memory_reserved()
    fast.capture(torch.randn(16, 64, 2, 8, 8, device="cuda"))
    assert fast.graphs == 2
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() - first < 0.5 * (first - before)


def test_a_frozen_stream():
    net = network().eval()
    x, stream = torch.randn(12, *X[1:], device="cuda"), net.stream(frozen=True)
    state = None
    with torch.inference_mode():
        for x_t in x:
            y, state = net.step(x_t, state=state)
            assert torch.equal(stream(x_t), y)
    assert stream.prepared


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("spikes", ["dense", "packed"])
def test_a_stream_is_the_network_bit_by_bit(mode, spikes):
    net = network(spikes=spikes).eval()
    x = torch.randn(20, *X[1:], device="cuda")
    captured, plain = net.stream(), None
    with mode():
        for t, x_t in enumerate(x):
            y = captured(x_t)
            z, plain = net.step(x_t, state=plain)
            assert captured.prepared is (t >= 3)
            assert torch.equal(y, z)
        state = captured.state
        for path, values in plain.items():
            assert all(torch.equal(v, state[path][name]) for name, v in values.items())
        captured.reset()
        first = torch.stack([captured(x_t) for x_t in x])
        assert captured.prepared
        captured.reset()
        assert torch.equal(torch.stack([captured(x_t) for x_t in x]), first)
        net.body[2].v_threshold = 0.7
        y, _ = net.step(x[0], state=captured.state)
        assert torch.equal(captured(x[0]), y)


def _loaders(config, **loading):
    from spikeloom import data

    g = torch.Generator().manual_seed(1)
    labels = torch.randint(10, (90,), generator=g)
    images = torch.rand(90, 2, 8, 8, generator=g) + nn.functional.one_hot(labels, 10).sum(1).view(-1, 1, 1, 1)
    samples = data.Samples(images, labels, classes=tuple("abcdefghij"))
    return data.loaders((samples, samples), **loading)


def _run(out, *, graph, amp, epochs=2, resume=False):
    """The recipes' loop on samples of its own: clipping, scaler, schedule, checkpoints."""
    from spikeloom import runs

    config = runs.Config(epochs=epochs, batch_size=20, amp=amp)
    with runs.Run("own", config, runs.Machine(graph=graph, device="cuda"), out=out, resume=resume) as run:
        loaders = run.load(_loaders)
        net = run.place(network(dropout=0.2))
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimiser, 0.5, total_iters=4)
        run.keep(net=net, optimiser=optimiser, schedule=schedule)
        fast = run.graphed(net)
        for _ in run.epochs():
            for images, labels in run.steps(loaders.train):
                with run.autocast():
                    y = fast(images, repeat=6)
                loss = nn.functional.cross_entropy(y.float().mean(0), labels)
                optimiser.zero_grad()
                run.scaler.scale(loss).backward()
                run.scaler.unscale_(optimiser)
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                run.scaler.step(optimiser)
                run.scaler.update()
                schedule.step()
                run.log(len(labels), loss=loss)
        return net, run, fast


@pytest.mark.parametrize("amp", ["off", "float16"])
def test_a_run_in_graphs_is_one_without_and_goes_on(tmp_path, amp):
    plain, without, _ = _run(tmp_path / "plain", graph=False, amp=amp, epochs=3)
    _run(tmp_path / "graph", graph=True, amp=amp)
    captured, run, fast = _run(tmp_path / "graph", graph=True, amp=amp, epochs=3, resume=True)
    assert fast.captured or fast.graphs, fast.reason
    assert run.step == without.step == 15
    tolerance = 1e-5 if amp == "off" else 1e-2
    for one, other in zip(run.history, without.history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=tolerance)
    for name, value in state(plain).items():
        torch.testing.assert_close(
            state(captured)[name], value, rtol=10 * tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
