"""C kernels against the PyTorch loop: equal spikes and states, gradients of inputs, states and numbers."""

import math

import pytest
import torch
from torch import nn

import samples
import spikeloom as sl
from kernel import spec
from spikeloom.native import build

try:
    build.ready()
except build.BuildError as missing:
    pytest.skip(f"no C kernels on this machine: {missing}", allow_module_level=True)


def learn(*values):
    return nn.Parameter(torch.tensor(values if len(values) > 1 else values[0]))


class Adaptive(sl.Neuron):
    """A user's neuron: two states, an exponential, learnable per feature."""

    def __init__(self, features=6):
        super().__init__(surrogate=sl.surrogate.Sigmoid(4.0))
        self.numbers(tau=3.0, rho=nn.Parameter(torch.linspace(0.7, 0.98, features)))
        self.states(v=0.1, a=nn.Parameter(torch.zeros(features)))

    def dynamics(self, x, v, a):
        v = v + (x * torch.exp(-a) - v) / self.tau
        s = self.fire(v - 0.3 * a - 0.4)
        return s, v - s, a * self.rho + s * (1 - self.rho)


class Izhikevich(sl.Neuron):
    """where, products of states, a reset by selection."""

    def __init__(self):
        super().__init__()
        self.numbers(a=0.02, b=0.2, c=-65.0, d=learn(8.0))
        self.states(v=-65.0, u=-13.0)

    def dynamics(self, x, v, u):
        v1 = v + 0.5 * (0.04 * v * v + 5 * v + 140 - u + 20 * x)
        u1 = u + 0.5 * self.a * (self.b * v - u)
        s = self.fire((v1 - 30) / 30)
        return s, torch.where(v1 >= 30, self.c, v1), u1 + s * self.d


S = sl.surrogate
EXACT = {  # programs of + - * / comparison, select: bit-equal
    "IF": lambda: sl.IF(v_threshold=0.7, v_reset=learn(0.1)),
    "IF soft": lambda: sl.IF(v_threshold=torch.linspace(0.5, 1.0, 6), reset="soft"),
    "LIF": lambda: sl.LIF(v_threshold=0.3),
    "LIF detached": lambda: sl.LIF(tau=torch.linspace(1.5, 3.0, 6), v_threshold=0.3, detach_reset=True, strict=True),
    "LIF soft": lambda: sl.LIF(
        tau=learn(2.3),
        v_threshold=0.3,
        reset="soft",
        decay_input=False,
        v_leak=nn.Parameter(torch.linspace(-0.1, 0.1, 6)),
    ),
    "LIF none": lambda: sl.LIF(v_threshold=learn(0.2), reset="none"),
    "PLIF": lambda: sl.PLIF(shape=6, v_threshold=0.3),
    "Leaky": lambda: sl.Leaky(beta=nn.Parameter(torch.full((6,), 0.7)), v_threshold=0.5),
    "Leaky hard": lambda: sl.Leaky(beta=learn(0.7), reset="hard", detach_reset=False),
    "Leaky now": lambda: sl.Leaky(beta=0.7, reset_delay=False, v_threshold=learn(0.9)),
    "Synaptic": lambda: sl.Synaptic(alpha=learn(0.4), beta=0.7, v_threshold=nn.Parameter(torch.full((6,), 1.2))),
    "Synaptic hard": lambda: sl.Synaptic(alpha=0.4, beta=0.7, reset="hard"),
    "LI": lambda: sl.LI(tau=learn(2.0), v_leak=0.3),
    "Izhikevich": Izhikevich,
    "ATan learnable": lambda: sl.LIF(v_threshold=0.3, surrogate=S.ATan(learn(3.0))),
    "FastSigmoid": lambda: sl.LIF(v_threshold=0.3, surrogate=S.FastSigmoid(learn(10.0))),
    "PiecewiseQuadratic": lambda: sl.LIF(v_threshold=0.3, surrogate=S.PiecewiseQuadratic()),
    "Sigmoid": lambda: sl.LIF(v_threshold=0.3, surrogate=S.Sigmoid(learn(4.0))),
    "Erf": lambda: sl.LIF(v_threshold=0.3, surrogate=S.Erf()),
    "StraightThrough": lambda: sl.LIF(v_threshold=0.3, surrogate=S.StraightThrough()),
}
CLOSE = {  # programs with exp or atan: equal up to rounding where nothing is near the threshold
    "smooth": lambda: sl.LIF(surrogate=S.ATan(spiking=False)),
    "smooth sigmoid": lambda: sl.LIF(surrogate=S.Sigmoid(spiking=False)),
    "Adaptive": Adaptive,
}


def run(make, x, backend, **options):
    neuron = make()
    return spec.results(neuron.double() if x.dtype == torch.float64 else neuron, x, backend, **options)


def agree(make, x, *, exact=True, **options):
    (outs, grads), (got, got_grads) = (run(make, x, backend, **options) for backend in ("eager", "c"))
    for a, b in zip(outs, got, strict=True):
        assert a.dtype == b.dtype
        assert a.stride() == b.stride() or not exact
        if exact:
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-4)
    spec.assert_gradients(grads, got_grads, (1e-10 if x.dtype == torch.float64 else 1e-5) * (1 if exact else 10))
    return outs[0]


SHAPES = [(1, (2, 6)), (4, (1, 6)), (17, (5, 6, 7)), (40, (4, 6, 5, 5)), (33, (43, 6))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EXACT)
def test_every_neuron_and_surrogate(name, dtype):
    rates = []
    for k, (T, shape) in enumerate(SHAPES):
        x = torch.randn(T, *shape, dtype=dtype) + 0.4
        x = x if k % 2 else (x * 10).round() / 10  # quantised inputs meet thresholds exactly
        rates.append(float(agree(EXACT[name], x, state=_start(EXACT[name], x) if k % 2 else None).mean()))
    assert name == "LI" or any(0.05 < r < 0.95 for r in rates)


def _start(make, x):
    rest = make().initial_state(x[0])
    return {k: v.detach() + 0.1 * torch.randn_like(v) for k, v in rest.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CLOSE)
def test_neurons_with_transcendental_functions(name, dtype):
    torch.manual_seed(5)
    for T, shape in SHAPES:
        x = torch.randn(T, *shape, dtype=dtype) + 0.4
        if name == "Adaptive":
            assert _distance_from_threshold(x) > (1e-6 if dtype == torch.float32 else 1e-10)
        agree(CLOSE[name], x, exact=False)


def _distance_from_threshold(x):
    neuron, least = Adaptive().double(), math.inf
    v, a = neuron.initial_state(x[0].double()).values()
    for x_t in x.double():
        h = v + (x_t * torch.exp(-a) - v) / 3.0
        shape = (-1,) + (1,) * (x_t.ndim - 2)
        least = min(least, float((h - 0.3 * a - 0.4).detach().abs().min()))
        _, v, a = neuron.bind(x_t.shape, torch.float64).dynamics(x_t, v, a)
        assert shape
    return least


@pytest.mark.parametrize("name", ["LIF soft", "Synaptic", "PLIF", "Izhikevich", "LI"])
def test_ragged_batches(name):
    for T, shape in ((7, (5, 6)), (40, (3, 6, 11))):
        lengths = torch.randint(1, T + 1, shape[:1])
        x = torch.randn(T, *shape) + 0.4
        agree(EXACT[name], x, lengths=lengths)
        x[T - 1, lengths < T] = math.nan
        outs, grads = run(EXACT[name], x, "c", lengths=lengths)
        assert all(t.isfinite().all() for t in (*outs, *grads))


LAYOUTS = {
    "channels_last": lambda x: x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2]),
    "batch outermost": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "a slice in time": lambda x: torch.stack([x, x], 1).flatten(0, 1)[::2],
    "transposed space": lambda x: x.transpose(3, 4).contiguous().transpose(3, 4),
    "a slice of channels": lambda x: torch.cat([x, x], 2)[:, :, :6],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "tau",
    [
        lambda: torch.linspace(1.5, 3, 6),
        lambda: 1.5 + torch.rand(6, 3, 4),
        lambda: 1.5 + torch.rand(1, 3, 4),
        lambda: 2.0,
    ],
    ids=["channel", "neuron", "space", "scalar"],
)
def test_layouts_and_shapes_of_numbers(layout, tau):
    torch.manual_seed(1)
    value = tau()
    x = LAYOUTS[layout](torch.randn(18, 5, 6, 3, 4) + 0.4)
    make = lambda: sl.LIF(tau=value if isinstance(value, float) else nn.Parameter(value.clone()), v_threshold=0.3)  # noqa: E731
    outs, grads = run(make, x, "eager")
    got, got_grads = run(make, x, "c")
    for a, b in zip(outs, got, strict=True):
        assert torch.equal(a, b)
    spec.assert_gradients(grads, got_grads, 1e-5)
    if layout == "channels_last":
        assert got[1].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_and_out_with_float32_states(dtype):
    x = (torch.randn(20, 4, 6) + 0.4).to(dtype)
    y, state = sl.LIF(v_threshold=0.3).sequence(x)
    with sl.backend("eager"):
        z, other = sl.LIF(v_threshold=0.3).sequence(x)
    assert y.dtype == dtype
    assert torch.equal(y, z)
    assert torch.equal(state["v"], other["v"])


def test_static_and_expanded_inputs():
    image = torch.randn(3, 6) + 0.6
    for backend in ("eager", "c"):
        net = sl.Network(sl.LIF(v_threshold=0.3, tau=learn(2.0)))
        x = image.clone().requires_grad_()
        z = image.clone().requires_grad_()
        with sl.backend(backend):
            y = net(x, repeat=37)
            direct, _ = net.body[0].sequence(z.expand(37, 3, 6))
        weights = torch.linspace(0, 1, 37).view(-1, 1, 1)
        (y * weights).sum().backward()
        (direct * weights).sum().backward()
        if backend == "eager":
            wanted = y, x.grad
        assert torch.equal(y, direct)
        torch.testing.assert_close(x.grad, z.grad, atol=1e-5, rtol=1e-5)
    assert torch.equal(y, wanted[0])
    torch.testing.assert_close(x.grad, wanted[1], atol=1e-5, rtol=1e-5)


UPSTREAM = {
    "mean over time": lambda y: y.mean(0).square().sum(),
    "sum": lambda y: y.sum(),
    "last step": lambda y: y[-1].sum(),
    "every other step": lambda y: (y[::2] * 2).sum(),
    "transposed": lambda y: (y.transpose(0, 1).contiguous() * torch.arange(6.0)).sum(),
}


@pytest.mark.parametrize("name", UPSTREAM)
def test_strided_upstream_gradients(name):
    grads = []
    for backend in ("eager", "c"):
        torch.manual_seed(0)
        x = (torch.randn(21, 4, 6) + 0.4).requires_grad_()
        with sl.backend(backend):
            UPSTREAM[name](sl.LIF(v_threshold=0.3).sequence(x)[0]).backward()
        grads.append(x.grad)
    torch.testing.assert_close(grads[1], grads[0], atol=1e-6, rtol=1e-5)


def test_only_what_is_asked_for_gets_a_gradient():
    neuron = sl.LIF(v_threshold=0.3, tau=learn(2.0), v_reset=learn(0.1))
    neuron.v_reset.requires_grad_(False)
    x = torch.randn(20, 4, 6) + 0.4
    with sl.backend("c"):
        _, state = neuron.sequence(x)
        state["v"].sum().backward()  # nothing flows through y
    assert neuron.tau.grad is not None
    assert neuron.v_reset.grad is None
    with torch.no_grad(), sl.backend("c"):
        assert not neuron.sequence(x)[0].requires_grad


def test_inference_saves_nothing_and_threads_do_not_matter():
    x = torch.randn(33, 40, 6, 20) + 0.4
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t), torch.no_grad():
        sl.LIF().sequence(x)
    assert not saved
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(run(EXACT["LIF soft"], x, "c"))
    finally:
        torch.set_num_threads(threads)
    for outs, grads in results[1:]:
        for a, b in zip((*outs, *grads), (*results[0][0], *results[0][1]), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("given", [False, True])
def test_nothing_but_inputs_and_checkpoints_is_saved(given):
    saved, lif = [], sl.LIF()
    x = torch.randn(40, 4, 6, requires_grad=True)
    state = lif.initial_state(x[0]) if given else None
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t), sl.backend("c"):
        lif.sequence(x, state=state)
    sizes = sorted(t.untyped_storage().nbytes() // 4 for t in saved if t.numel() > 1)
    start = [24] if given else []  # a state at rest is one value
    assert sizes == [*start, 2 * 24, 40 * 24]  # start state, states at steps 16 and 32, x


class StartsAnywhere(sl.IF):
    """Its states at rest are one value, expanded or not, of any dtype."""

    def __init__(self, dtype, expanded):
        super().__init__(v_threshold=2.0)
        self.dtype, self.expanded = str(dtype).removeprefix("torch."), expanded

    def initial_state(self, x):
        value = torch.full((), 0.75, dtype=getattr(torch, self.dtype)).expand(x.shape)
        return {"v": value if self.expanded else value.contiguous()}


@pytest.mark.parametrize("expanded", [False, True])
@pytest.mark.parametrize("own", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_state_at_rest_of_another_dtype_starts_at_its_value(own, expanded):
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        neuron, x = StartsAnywhere(own, expanded), torch.full((3, 2, 5), 0.25, dtype=dtype)
        with sl.backend("c"):
            y, state = neuron.sequence(x)
        assert state["v"].eq(1.5).all()
        assert not y.any()
        with torch.no_grad():
            stream = sl.Network(neuron).stream()
            for step in x:
                stream(step)
            assert all(s["v"].eq(1.5).all() for s in stream.state.values())


def test_an_input_changed_in_place_is_noticed():
    x = torch.randn(5, 4, 6, requires_grad=True)
    z = x * 1
    with sl.backend("c"):
        y = sl.LIF().sequence(z)[0]
    z.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_nan_and_infinity_as_in_eager():
    x = torch.randn(9, 4, 6)
    x[2, 0, 0], x[3, 1, 1], x[4, 2, 2] = math.nan, math.inf, -math.inf
    for name in ("LIF", "LIF soft", "Leaky", "LI", "Izhikevich"):
        outs, _ = run(EXACT[name], x, "eager")
        got, _ = run(EXACT[name], x, "c")
        for a, b in zip(outs, got, strict=True):
            assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)), name


def test_changing_a_number_is_seen():
    neuron, x = sl.LIF(tau=2.0), torch.ones(1, 1, 1)
    for tau in (2.0, 4.0, 5.0):
        neuron.tau = tau
        with sl.backend("c"):
            assert float(neuron.sequence(x)[1]["v"]) == pytest.approx(1 / tau)
    neuron.surrogate.scale = 3.0
    x = torch.ones(1, 1, 1, requires_grad=True)
    with sl.backend("c"):
        neuron.sequence(x)[0].sum().backward()
    assert float(x.grad) == pytest.approx((1.5 / (1 + (math.pi * 1.5 * 0.8) ** 2)) / 5)


def test_a_network_trains_the_same():
    losses = []
    for backend in ("eager", "c"):
        torch.manual_seed(0)
        net = sl.Network(nn.Linear(8, 32), Adaptive(32), nn.Linear(32, 4), sl.LI())
        x, y = torch.rand(20, 16, 8), torch.randint(4, (16,))
        optimiser = torch.optim.SGD(net.parameters(), lr=0.5)
        with sl.backend(backend):
            for _ in range(15):
                loss = sl.loss.rate_cross_entropy(net(x), y)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        losses.append(loss.item())
    assert losses[0] < 1.35
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


class Twice(sl.Neuron):
    """Writes the same expression of a number in two places; y = x d + x d^2 with d = tau / 2."""

    def __init__(self, tau):
        super().__init__(reset="none")
        self.numbers(tau=nn.Parameter(torch.tensor(tau)))
        self.states(v=0.0)

    def dynamics(self, x, v):
        v = x * (self.tau * 0.5)
        return v + v * (self.tau * 0.5), v


def test_an_expression_of_numbers_written_twice_has_both_gradients():
    neuron = Twice(1.2)
    with sl.backend("c"):
        neuron.sequence(torch.tensor([[[2.0]]]))[0].sum().backward()
    assert neuron.tau.grad.item() == pytest.approx(2.0 * (1 + 2 * 0.6) / 2)  # x (1 + 2 d) / 2


@pytest.mark.parametrize("name", samples.SURROGATES)
def test_every_surrogate_in_a_kernel(name):
    """A learnable scale for each channel where there is a scale; gradients of all, in float64."""
    kind, sample = getattr(sl.surrogate, name), samples.SURROGATES[name]
    scale = nn.Parameter(torch.tensor([1.2, 1.7, 3.0], dtype=torch.float64))
    made = sample.make(scale) if kind.scaled else sample.make()
    neuron = sl.LIF(tau=2.0, v_threshold=0.5, surrogate=made).double()
    x = torch.randn(9, 4, 3, dtype=torch.float64) + 0.7
    if sample.random:
        assert "rand" in str(sl.explain(sl.Network(neuron), x))  # which says why it is a loop
        return
    by_step = {"record": (), "loss": lambda outs: (outs[0] * torch.arange(9.0).reshape(9, 1, 1)).sum()}
    ((y, _), grads), ((z, _), others) = (spec.results(neuron, x, backend, **by_step) for backend in ("eager", "c"))
    assert torch.equal(y, z)
    assert 0.1 < float(y.mean()) < 0.9
    assert len(grads) == 1 + kind.scaled
    for a, b in zip(grads, others, strict=True):
        torch.testing.assert_close(b, a, atol=1e-11, rtol=1e-9)
