"""With the rest of PyTorch: compile, export, deepcopy, pickle, autocast, functorch, DDP, checkpoints."""

import copy
import gc
import io
import pickle
import shutil

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

import spikeloom as sl

# PyTorch's own, raised inside torch.compile and torch.func.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script.*` is deprecated"),
]


def dense_net():
    return sl.Network(
        nn.Linear(5, 6),
        sl.LIF(v_threshold=0.2),
        nn.Linear(6, 4),
        sl.PLIF(shape=4, v_threshold=0.2),
        nn.Linear(4, 3),
        sl.LI(),
    )


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


def test_compile_fullgraph_gives_the_same_with_gradients(fresh_dynamo):
    net, x = dense_net(), torch.randn(4, 3, 5)
    y, result = net(x, return_state=True, record=("1.v",))
    (y.square().sum() + result.record["1.v"].sum()).backward()
    wanted = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    z, again = compiled(x, return_state=True, record=("1.v",))
    (z.square().sum() + again.record["1.v"].sum()).backward()
    torch.testing.assert_close(z, y)
    torch.testing.assert_close(again.state["3"]["v"], result.state["3"]["v"])
    for g, p in zip(wanted, net.parameters(), strict=True):
        torch.testing.assert_close(p.grad, g)
    assert fresh_dynamo["stats"]["unique_graphs"] == 1


def test_twelve_changes_of_numbers_and_scales_are_one_compile(fresh_dynamo):
    net, x = dense_net(), torch.randn(4, 3, 5)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for k in range(12):
        net.body[1].tau = 1.5 + 0.1 * k
        net.body[3].v_threshold = 0.1 + 0.05 * k
        net.body[1].surrogate.scale = 1.0 + k
        torch.testing.assert_close(compiled(x), net(x))
    assert fresh_dynamo["stats"]["unique_graphs"] == 1


def test_modes_come_and_go_without_recompiling(fresh_dynamo):
    net, x = dense_net(), torch.randn(4, 3, 5)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for _ in range(6):
        for training in (True, False):
            net.train(training)
            torch.testing.assert_close(compiled(x), net(x))
    assert fresh_dynamo["stats"]["unique_graphs"] <= 2


class InMode(sl.Neuron):
    def __init__(self):
        super().__init__()
        self.states(v=0.0)
        self.gain = 1.0

    def dynamics(self, x, v):
        v = v + x * self.gain * (1.0 if self.training else 3.0) * FACTOR
        return v, v


FACTOR = 1.0


def test_compiled_graphs_see_options_and_modes_and_other_code_after_a_reset(fresh_dynamo, monkeypatch):
    """What docs/kernels.md says: attributes of the neuron are guarded; what stands elsewhere needs dynamo's reset."""
    net = sl.Network(InMode())
    compiled, x = torch.compile(net, fullgraph=True, backend="aot_eager"), torch.ones(1, 1, 1)
    assert compiled(x).item() == 1.0
    net.eval()
    assert compiled(x).item() == 3.0
    net.body[0].gain = 2.0
    assert compiled(x).item() == 6.0
    monkeypatch.setitem(globals(), "FACTOR", 10.0)
    torch._dynamo.reset()
    assert compiled(x).item() == 60.0


def test_compile_with_a_static_prefix_and_a_residual_block(fresh_dynamo):
    net = sl.Network(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), sl.LIF(v_threshold=0.2), nn.Flatten(), nn.Linear(144, 2)
    ).eval()
    image = torch.rand(2, 1, 8, 8)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image, repeat=4), net(image, repeat=4))


def test_compiled_with_inductor_trains_the_same(fresh_dynamo):
    if shutil.which("g++") is None:
        pytest.skip("inductor needs g++, which this machine lacks")
    net, x = dense_net(), torch.randn(4, 3, 5)
    net(x).sum().backward()
    wanted = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    torch.compile(net, fullgraph=True)(x).sum().backward()
    for g, p in zip(wanted, net.parameters(), strict=True):
        torch.testing.assert_close(p.grad, g, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated")
@pytest.mark.filterwarnings("ignore:torch.compile is ignored when called inside torch.export")
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # of torch.export.load before PyTorch 2.12
def test_export_with_dynamic_steps_and_batch(tmp_path):
    table = sl.FewSpikeTable(theta=(0.8, 0.5, 0.2), h=(0.7, 0.5, 0.3), d=(1.0, 0.6, 0.1))  # of a neuron without state
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), sl.LIF(v_threshold=0.2), nn.Flatten(), nn.Linear(144, 2)
    net = sl.Network(*layers, sl.FewSpike(table), sl.LI()).eval()
    T, B = torch.export.Dim("T", min=1, max=256), torch.export.Dim("B", min=1, max=256)
    x = torch.rand(4, 3, 1, 8, 8)
    with torch.no_grad():
        exported = torch.export.export(net, (x,), dynamic_shapes={"args": ({0: T, 1: B},)}, strict=True)
    torch.export.save(exported, tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    for t, b in ((4, 3), (1, 1), (9, 2), (30, 5)):
        x = torch.rand(t, b, 1, 8, 8)
        torch.testing.assert_close(loaded(x), net(x))


class Average(sl.TemporalModule):
    """A layer of one's own: ``m = 0.5 m + x``."""

    def initial_state(self, x_t):
        return torch.zeros_like(x_t)

    def step(self, x_t, state=None):
        m = 0.5 * (self.initial_state(x_t) if state is None else state) + x_t
        return m, m


class Feedback(sl.TemporalModule):
    def __init__(self):
        super().__init__()
        self.back, self.neuron = nn.Linear(6, 6), sl.LIF(v_threshold=0.2)

    def initial_state(self, x_t):
        return torch.zeros_like(x_t)

    def step(self, x_t, state=None):
        y = self.neuron(x_t + self.back(self.initial_state(x_t) if state is None else state))
        return y, y


STEP_BY_STEP = {
    "own step": Average,
    "Recurrent": lambda: sl.nn.Recurrent(sl.LIF(v_threshold=0.2), nn.Linear(6, 6)),
    "Loop": lambda: sl.Loop(Feedback()),
}


def by_name(*quick):
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in STEP_BY_STEP]


@pytest.mark.parametrize("name", by_name("own step"))
def test_what_runs_step_by_step_is_one_compiled_graph(name, fresh_dynamo):
    net, x = sl.Network(nn.Linear(5, 6), STEP_BY_STEP[name](), nn.Linear(6, 2)), torch.randn(4, 3, 5)
    y = net(x)
    wanted = torch.autograd.grad(y.square().sum(), list(net.parameters()))
    z = torch.compile(net, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(z, y)
    for found, g in zip(torch.autograd.grad(z.square().sum(), list(net.parameters())), wanted, strict=True):
        torch.testing.assert_close(found, g)
    assert fresh_dynamo["stats"]["unique_graphs"] == 1


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated")
@pytest.mark.filterwarnings("ignore:torch.compile is ignored when called inside torch.export")
@pytest.mark.parametrize("name", by_name("own step"))
def test_what_runs_step_by_step_is_exported(name, fresh_dynamo):
    net, x = sl.Network(nn.Linear(5, 6), STEP_BY_STEP[name](), nn.Linear(6, 2)).eval(), torch.randn(4, 3, 5)
    with torch.no_grad():
        exported = torch.export.export(net, (x,), strict=True).module()
        x = torch.randn(4, 3, 5)
        torch.testing.assert_close(exported(x), net(x))


def test_deepcopy_and_pickle(conv_net):
    conv_net.eval()
    x = torch.rand(3, 2, 1, 8, 8)
    wanted = conv_net(x)
    for other in (copy.deepcopy(conv_net), pickle.loads(pickle.dumps(conv_net))):
        assert torch.equal(other(x), wanted)
        other.body[2].v_threshold = 100.0
        assert not torch.equal(other(x, record=("2.output",))[1].record["2.output"], wanted)
        assert torch.equal(conv_net(x), wanted)


def test_saved_whole_and_by_weights_only(tmp_path, conv_net):
    torch.save(conv_net.state_dict(), tmp_path / "w.pt")
    other = copy.deepcopy(conv_net)
    for p in other.parameters():
        p.data.zero_()
    other.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True))
    x = torch.rand(3, 2, 1, 8, 8)
    assert torch.equal(other.eval()(x), conv_net.eval()(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_keep_the_state_in_float32(dtype):
    net, x = dense_net(), torch.randn(4, 3, 5)
    with torch.autocast("cpu", dtype=dtype):
        y, result = net(x, return_state=True, record=("1.output",))
    assert result.record["1.output"].dtype == dtype
    assert y.dtype == dtype
    assert {v.dtype for s in result.state.values() for v in s.values()} == {torch.float32}
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in net.parameters())
    half = dense_net().to(dtype)
    y, result = half(x.to(dtype), return_state=True)
    assert y.dtype == dtype
    assert result.state["1"]["v"].dtype == torch.float32
    # the neuron itself computes in float32: half-precision input, exact voltage
    xs = torch.full((3, 1), 0.1, dtype=dtype)
    _, state = sl.IF().sequence(xs)
    assert float(state["v"]) == float(xs[0].float() + xs[0].float() + xs[0].float())


class InHalf(sl.LIF):
    """A neuron whose sequence runs in what autocast chose."""

    def sequence(self, *xs, **options):
        y, state = super().sequence(*xs, **options)
        return y, {name: v.bfloat16() for name, v in state.items()}


def test_a_sequence_of_ones_own_is_asked_for_its_dtypes_under_autocast():
    x = torch.randn(4, 3, 5)
    for neuron, norm in ((sl.LIF(), False), (InHalf(), False), (sl.LIF(), True), (InHalf(), True)):
        module = sl.nn.NormNeuron(nn.BatchNorm1d(5), neuron) if norm else neuron
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, result = sl.Network(module)(x, return_state=True)
        assert result.state["0"]["v"].dtype == torch.float32


def test_meta_and_fake_tensors_give_shapes():
    assert dense_net().to("meta")(torch.randn(4, 3, 5, device="meta")).shape == (4, 3, 3)
    with torch._subclasses.FakeTensorMode():
        assert dense_net()(torch.randn(4, 3, 5)).shape == (4, 3, 3)


@torch.no_grad()
def test_a_compiled_body_and_a_compiled_step(fresh_dynamo):
    net, x = dense_net().eval(), torch.randn(4, 3, 5)
    inside = sl.Network(torch.compile(net.body, backend="aot_eager"))
    for t in (4, 2, 3, 4):
        torch.testing.assert_close(inside(x[:t]), net(x[:t]))
    assert list(inside(x, return_state=True)[1].state) == ["1", "3", "5"]
    step, state, ys = torch.compile(net.step, backend="aot_eager", fullgraph=True), None, []
    for x_t in x:
        y, state = step(x_t, state=state)
        ys.append(y)
    torch.testing.assert_close(torch.stack(ys), net(x))


def test_an_ensemble_by_vmap():
    nets, x, base = [dense_net() for _ in range(3)], torch.randn(4, 3, 5), dense_net()
    params, buffers = torch.func.stack_module_state(nets)
    y = vmap(lambda p, b: functional_call(base, (p, b), (x,)))(params, buffers)
    torch.testing.assert_close(y, torch.stack([net(x) for net in nets]), atol=1e-6, rtol=1e-6)


def test_a_parametrised_number_is_learned():
    class Above1(nn.Module):
        def forward(self, w):
            return 1 + nn.functional.softplus(w)

        def right_inverse(self, tau):
            return torch.log(torch.expm1(tau - 1))

    neuron, x = sl.LIF(tau=nn.Parameter(torch.tensor(2.0))), torch.randn(4, 3, 5)
    wanted = neuron.sequence(x)[1]["v"]
    nn.utils.parametrize.register_parametrization(neuron, "tau", Above1())
    v = neuron.sequence(x)[1]["v"]
    torch.testing.assert_close(v, wanted)
    v.sum().backward()
    assert neuron.parametrizations.tau.original.grad != 0


def test_inference_mode():
    net, x = dense_net(), torch.randn(4, 3, 5)
    with torch.inference_mode():
        y = net(x.clone())
    assert torch.equal(y, net(x))


def test_autocast_is_off_inside_dynamics():
    class Multiplies(sl.Neuron):
        def __init__(self):
            super().__init__()
            self.states(v=0.0)

        def dynamics(self, x, v):
            assert not torch.is_autocast_enabled("cpu")
            return x, v + x

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sl.Network(Multiplies())(torch.ones(2, 1)).sum() == 2


def test_func_grad_jvp_and_vmap_agree_with_autograd():
    net, x = dense_net().double(), torch.randn(4, 3, 5, dtype=torch.float64)
    params = dict(net.named_parameters())

    def loss(p, x):
        return functional_call(net, p, (x,)).square().sum()

    by_func = grad(loss)(params, x)
    loss(params, x).backward()
    for name, p in params.items():
        torch.testing.assert_close(by_func[name], p.grad)
    tangent = torch.randn_like(x)
    _, forward = jvp(lambda x: loss(params, x), (x,), (tangent,))
    gradient = grad(loss, argnums=1)(params, x)
    torch.testing.assert_close(forward, (gradient * tangent).sum())
    per_sample = vmap(grad(loss), (None, 1))(params, x.unsqueeze(2))
    for name in params:
        torch.testing.assert_close(per_sample[name].sum(0), by_func[name])


def test_forward_mode_and_double_backward_of_a_learnable_scale():
    scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    neuron = sl.LIF(surrogate=sl.surrogate.ATan(scale)).double()
    x = torch.randn(5, 3, dtype=torch.float64)

    def loss(s):
        return functional_call(sl.Network(neuron), {"body.0.surrogate.scale": s}, (x,)).sum()

    _, forward = jvp(loss, (scale.detach(),), (torch.ones((), dtype=torch.float64),))
    torch.testing.assert_close(forward, grad(loss)(scale.detach()))
    assert forward != 0
    hessian = torch.func.hessian(loss)(scale.detach())
    assert hessian.isfinite()


def _worker(rank, meeting, queue):
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = nn.parallel.DistributedDataParallel(dense_net())
    x = torch.randn(4, 6, 5)
    net(x[:, rank * 3 : rank * 3 + 3]).mean().backward()
    if rank == 0:
        queue.put([p.grad.numpy() for p in net.parameters()])
    dist.barrier()
    del net  # it holds the group, whose threads must end before the interpreter does
    gc.collect()
    dist.destroy_process_group()


def test_two_processes_average_the_gradients_of_one(tmp_path):
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    processes = mp.start_processes(_worker, (tmp_path / "meeting", queue), nprocs=2, start_method="spawn", join=False)
    while not processes.join():  # raises what a worker raised, where waiting for its result would wait for ever
        pass
    got = queue.get()
    torch.manual_seed(0)
    net = dense_net()
    net(torch.randn(4, 6, 5)).mean().backward()
    for g, p in zip(got, net.parameters(), strict=True):
        torch.testing.assert_close(torch.from_numpy(g), p.grad, atol=1e-7, rtol=1e-5)


def test_safetensors_round_trip(tmp_path, conv_net):
    safetensors = pytest.importorskip("safetensors.torch", reason="the extra 'demo' is not installed")
    safetensors.save_file(conv_net.state_dict(), tmp_path / "w.safetensors")
    loaded = safetensors.load_file(tmp_path / "w.safetensors")
    other = copy.deepcopy(conv_net)
    other.load_state_dict(loaded)
    buffer = io.BytesIO()
    torch.save(loaded, buffer)
    assert set(loaded) == set(conv_net.state_dict())


# torch asks every tensor that it compiles for a gradient, which warns of those that are no leaves, ordinary ones too.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_recordings_in_and_for_compiled_code(fresh_dynamo):
    """A compiled network gives plain tensors, and a compiled loss takes recordings."""
    net, x = sl.Network(nn.Linear(3, 5), sl.LIF(v_threshold=0.3), nn.Linear(5, 2)), torch.rand(7, 4, 3)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    result, other = net(x, record=("1.u",))[1], compiled(x, record=("1.u",))[1]
    assert type(other.record["1.u"]) is torch.Tensor
    assert torch.equal(other.record["1.u"], result.record["1.u"])
    (wanted,) = torch.autograd.grad(gram(result.record["1.u"]), net.body[0].weight, retain_graph=True)
    loss = torch.compile(gram, backend="aot_eager")
    for u in (result.record["1.u"], other.record["1.u"]):
        torch.testing.assert_close(torch.autograd.grad(loss(u), net.body[0].weight)[0], wanted)


def gram(r):
    return (r @ r.transpose(1, 2)).square().mean()
