"""Neurons of the catalogue against their equations, written once more as loops over plain numbers, and by what their
papers say of them. Kernels against the loop, and a test that none is forgotten.
"""

import inspect
import math
from itertools import pairwise

import pytest
import torch

import samples
import spikeloom as sl
from spikeloom.native import build

CASES = [name for name, sample in samples.IN_ONE_STEP.items() if sample.equation is not None]
ELSEWHERE = {"IF", "LIF", "PLIF", "Leaky", "Synaptic", "LI"}  # test_traces.py
RANDOM = {"Noisy", "MPBN"}  # test_options.py


def test_no_neuron_is_forgotten():
    """One that is added without its equation fails here: give its sample the loop over plain numbers."""
    found = {n.split()[0] for n in CASES} | ELSEWHERE | RANDOM
    named = {n.removeprefix("options.") for n in sl.neurons() if not n.startswith("nn.")}
    assert found == named | {n.split()[0] for n in samples.SYNAPSES}


def drive(gain, T=60, N=7):
    g = torch.Generator().manual_seed(5)
    return gain * (0.5 + torch.randn(T, N, generator=g, dtype=torch.float64))


@pytest.mark.parametrize("name", CASES)
def test_equation(name):
    sample = samples.IN_ONE_STEP[name]
    loop, rest = sample.equation, sample.rest
    neuron, x = sample.make().double(), drive(sample.gain)
    with sl.backend("eager"), torch.no_grad():  # test_kernel compares the rest
        y, final, *also = neuron.sequence(x, record=neuron.recordable)
        recorded = also[0] if also else {}
    assert y.ne(0).double().mean() > (0.97 if sample.analog else 0.03)
    assert sample.analog or y.ne(0).double().mean() < 0.97
    for n in range(x.shape[1]):
        states = rest
        for t in range(len(x)):
            spike, *states = loop(float(x[t, n]), *states)
            assert float(y[t, n]) == pytest.approx(float(spike), rel=1e-9), (n, t)
            found = [float(recorded[k][t, n]) for k in neuron.recordable]
            assert found == pytest.approx(states, rel=1e-9, abs=1e-9), (n, t)
    assert all(torch.equal(final[k], recorded[k][-1]) for k in neuron.recordable)


@pytest.mark.parametrize("name", CASES)
def test_kernel(name):
    try:
        build.ready()
    except build.BuildError as missing:
        pytest.skip(f"no C kernels on this machine: {missing}")
    sample = samples.IN_ONE_STEP[name]
    neuron = samples.learnable(sample.make(), 7).double()
    x = drive(sample.gain).unsqueeze(1).requires_grad_()
    weights = [torch.randn(60, 1, 7, dtype=torch.float64) for _ in range(1 + len(neuron.recordable))]
    found = []
    for backend in ("eager", "c"):
        with sl.backend(backend):
            y, _, *also = neuron.sequence(x, record=neuron.recordable)
            outs = (y, *(o for recorded in also for o in recorded.values()))
            loss = sum((w * o).sum() for w, o in zip(weights, outs, strict=True))
            leaves = [x, *neuron.parameters()]
            found.append((y.detach(), torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)))
    (y, grads), (z, others) = found
    assert torch.equal(y, z)
    for a, b in zip(grads, others, strict=True):
        assert float((a - b).abs().max()) <= 1e-8 * max(float(a.abs().max()), 1.0)
    if name not in (
        "STBIF",
        "HalfThreshold",
        "Graded Refractory Adaptive",
        "Refractory",
        "FewSpike",
    ):  # part or all has none
        names = ["x", *(name for name, _ in neuron.named_parameters())]
        silent = {n for n, g in zip(names, grads, strict=True) if not float(g.abs().max()) > 0}
        unused = ["neuron.surrogate.scale", "surrogate.scale"] if name == "SigmaDelta" else []
        assert len(silent - set(unused)) <= 1  # one resting value may never be used


def test_numbers_may_be_learned_and_are_checked():
    for wrong, message in (
        (lambda: sl.QIF(tau=0.5), "tau"),
        (lambda: sl.ALIF(alpha=1.5), "alpha"),
        (lambda: sl.KLIF(k=0.0), "k"),
        (lambda: sl.ResonateFire(omega=1.0, b=0.1), "b"),
        (lambda: sl.Alpha(alpha=0.5, beta=0.6), r"alpha must be larger than beta, got alpha=0\.5 and beta=0\.6"),
        (lambda: sl.STBIF(most=-1), "least must be at most 0 and most at least 0, got 0 and -1"),
        (lambda: sl.ILIF(levels=0), "levels must be at least 1, got 0"),
        (lambda: sl.Lapicque(r=0.1, c=1.0, dt=1.0), r"dt must be at most r c = 0\.1, got 1"),
        (lambda: sl.QIF(reset="soft", v_reset=-0.1), "v_reset is used by reset='hard' only"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    assert sl.KLIF().k.requires_grad
    assert inspect.signature(sl.AdEx).parameters["tau_w"].default == 20.0


def intervals(current=10.0, ms=500, **constants):
    """Intervals between spikes in ms, of the paper's neuron under a constant current, with steps of 0.25 ms."""
    neuron = sl.Izhikevich(dt=0.25, **constants)
    y, _ = neuron.sequence(torch.full((4 * ms, 1), current, dtype=torch.float64))
    return 0.25 * y.flatten().nonzero().flatten().diff().double()


def test_izhikevichs_patterns():
    """Figure 2 of the paper, by the statistics of the spikes."""
    regular = intervals()
    assert 4 <= len(regular) <= 30
    assert regular[0] < 0.7 * regular[-1]  # slows down,
    assert (regular[2:].max() - regular[2:].min()) < 0.2 * regular[-1]  # and then keeps its pace
    bursting = intervals(v_reset=-55.0, d=4.0)
    assert bursting[0] < 6
    assert bursting[-3:].min() > 3 * bursting[0]  # a burst first, then single spikes
    chattering = intervals(v_reset=-50.0, d=2.0)
    within, between = chattering[chattering < 8], chattering[chattering > 15]
    assert len(within) > 2 * len(between) > 8  # bursts again and again,
    assert len(within) + len(between) >= 0.9 * len(chattering)  # with nothing in between
    fast = intervals(a=0.1, d=2.0)
    assert len(fast) > 2.5 * len(regular)
    assert fast[1:].max() < 1.3 * fast[1:].min()  # without adaptation
    low = intervals(b=0.25, d=2.0)
    assert len(low) > 1.5 * len(regular)
    assert low[-1] > 1.5 * low[1]  # fires fast, and adapts
    assert len(intervals(b=0.25, d=2.0, current=1.0)) > 0  # at a current
    assert len(intervals(current=1.0)) == 0  # that does not move a regular one


def test_stbif_adds_up_to_a_quantised_relu():
    """After enough steps: v_threshold clamp(floor(sum / v_threshold + 1/2), least, most). You et al., 2024."""
    total = torch.linspace(-2.0, 4.0, 61, dtype=torch.float64)[1:-1:2] + 0.003
    x = torch.zeros(60, len(total), dtype=torch.float64)
    x[0], x[5], x[9] = 1.7 * total, -0.9 * total, 0.2 * total  # on the way it may have gone too far
    y, _ = sl.STBIF(v_threshold=0.25, most=12, least=-3).sequence(x)
    wanted = 0.25 * torch.floor(total / 0.25 + 0.5).clamp(-3, 12)
    torch.testing.assert_close(y.sum(0), wanted)


def test_a_published_trace_of_integer_spikes():
    counts, _ = sl.ILIF(tau=4 / 3).sequence(torch.tensor([[3.2], [0.4], [5.8]]))
    assert counts.flatten().tolist() == [3.0, 0.0, 4.0]
    spikes = sl.ILIF(tau=4 / 3).binary(counts)
    assert spikes.shape == (12, 1)
    assert spikes.flatten().tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    many = sl.ILIF(levels=400).binary(torch.tensor([[300.0]], dtype=torch.bfloat16))  # which has no 257
    assert many.flatten().tolist() == [1] * 300 + [0] * 100


def test_the_window_of_integer_spikes():
    x = torch.tensor([[-0.5, 0.2, 1.9, 2.1]], requires_grad=True)
    y, _ = sl.ILIF(levels=4, v_threshold=0.5).sequence(x)
    assert y.flatten().tolist() == [0, 0, 4, 4]
    assert torch.autograd.grad(y.sum(), x)[0].flatten().tolist() == [0.0, 2.0, 2.0, 0.0]  # 1 / v_threshold within


def test_lapicque_converges_to_the_circuit():
    """v(t) = r x (1 - exp(-t / (r c))); forward Euler is of first order."""
    errors = []
    for steps in (20, 40, 80, 160):
        neuron = sl.Lapicque(r=1.5, c=2.0, dt=4.0 / steps, v_threshold=9.0)
        v = neuron.sequence(torch.full((steps, 1), 0.7, dtype=torch.float64))[1]["v"].item()
        errors.append(abs(v - 1.5 * 0.7 * (1 - math.exp(-4 / 3))))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders == pytest.approx([1, 1, 1], abs=0.06)


def test_resonate_and_fire_turns_exactly():
    """Without input, z(t) = exp((b + i omega) t) z(0), whatever the step."""
    neuron = sl.ResonateFire(omega=0.9, b=-0.05, v_threshold=9.0)
    start = {"u": torch.ones(1, 1, dtype=torch.float64), "v": torch.zeros(1, 1, dtype=torch.float64)}
    _, _, recorded = neuron.sequence(torch.zeros(30, 1, 1, dtype=torch.float64), state=start, record=("u", "v"))
    t = torch.arange(1, 31, dtype=torch.float64)
    torch.testing.assert_close(recorded["u"].flatten(), torch.exp(-0.05 * t) * torch.cos(0.9 * t))
    torch.testing.assert_close(recorded["v"].flatten(), torch.exp(-0.05 * t) * torch.sin(0.9 * t))


def test_the_symplectic_form_stays_stable_where_plain_euler_does_not():
    """Baronig et al., 2025: with alpha = exp(-1/tau_u), beta = exp(-1/tau_w), tau_u = 25, tau_w = 60 and a = 120,
    plain Euler diverges, the symplectic form decays.
    """
    alpha, beta, a = math.exp(-1 / 25), math.exp(-1 / 60), 120.0
    x = torch.zeros(2000, 1, dtype=torch.float64)
    x[0] = 1.0
    neuron = sl.SEAdLIF(alpha=alpha, beta=beta, a=a, v_threshold=1e9)
    v = neuron.sequence(x, record=("v",))[2]["v"].flatten()
    assert v[-100:].abs().max() < 0.1 * v[:100].abs().max()
    u = w = 0.0
    plain = []
    for current in x.flatten().tolist():
        u, w = alpha * u + (1 - alpha) * (current - w), beta * w + (1 - beta) * a * u
        plain.append(abs(u))
    assert max(plain[-100:]) > 10 * max(plain[:100])
