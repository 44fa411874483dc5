"""Spike times: EventProp against networks in continuous time, and layers whose output is a time or a peak."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import event_driven
import spikeloom as sl

L = sl.learn
DOUBLE = dict(dtype=torch.float64)
SIGNS = np.array([1.0, -0.7, 0.4])
END, TAU_MEM, TAU_SYN = 6.0, 4.0, 1.0


def of_times(spikes):
    """A smooth function of the spike times of the last layer."""
    return sum(SIGNS[j] * math.cos(0.7 * t + j) for t, j in spikes)


def net_of(seed):
    """Weights of two layers, and spikes of the inputs at times that are on all grids."""
    g = np.random.default_rng(seed)
    weights = [g.normal(1.0, 0.4, shape) * size for shape, size in (((5, 5), 2.2), ((3, 5), 2.4))]
    return weights, [(round(float(t) * 5) / 5, k) for k, t in enumerate(g.uniform(0, 2, 5))]


def on_a_grid(weights, inputs, steps, neuron=None, between=None):
    """Gradients of all weights with ``steps`` per tau_syn, and how many spikes the last layer has.

    ``between`` is a layer with delays, after the first one or in place of the second.
    """
    dt = TAU_SYN / steps
    T = round(END / dt)
    x = torch.zeros(T, 1, 5, **DOUBLE)
    for t, k in inputs:
        x[round(t / dt), 0, k] = 1
    layers = []
    for w in weights:
        layers += [nn.Linear(w.shape[1], w.shape[0], bias=False).double()]
        layers[-1].weight.data = torch.tensor(w)
        layers += [L.EventPropLIF(tau_mem=TAU_MEM / dt, tau_syn=TAU_SYN / dt) if neuron is None else neuron(dt)]
    after = layers[3:] if isinstance(between, sl.nn.DelayLinear) else layers[2:]
    s = sl.Network(*layers[:2], *([] if between is None else [between]), *after)(x)
    t = torch.arange(T, **DOUBLE).view(-1, 1) * dt
    (s[:, 0] * torch.tensor(SIGNS) * torch.cos(0.7 * t + torch.arange(3))).sum().backward()
    return [m.weight.grad.numpy() for m in layers[::2] if m.weight.grad is not None], int(s.sum())


def errors(got, wanted):
    return [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(got, wanted, strict=True)]


def test_eventprop_goes_to_the_gradient_of_continuous_time_with_the_step():
    weights, inputs = net_of(9)
    wanted = event_driven.gradients(of_times, inputs, weights, TAU_MEM, TAU_SYN, END)
    fine, spikes = on_a_grid(weights, inputs, 500)
    assert spikes == len(event_driven.run(inputs, weights, TAU_MEM, TAU_SYN, END)[1]) == 9
    at_500, at_100 = errors(fine, wanted), errors(on_a_grid(weights, inputs, 100)[0], wanted)
    assert max(at_500) < 0.02
    assert max(at_100) < 0.06
    assert all(a < 0.6 * b for a, b in zip(at_500, at_100, strict=True))
    cosine = [np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(fine, wanted, strict=True)]
    assert min(cosine) > 0.9998

    def by_surrogate(dt):
        decays = [math.exp(-dt / tau) for tau in (TAU_SYN, TAU_MEM)]
        return sl.Synaptic(alpha=decays[0], beta=decays[1], v_threshold=1 / dt, reset="hard", reset_delay=False)

    twin, _ = on_a_grid(weights, inputs, 100, by_surrogate)
    assert min(errors(twin, wanted)) > 0.5


@pytest.mark.slow
def test_the_table_of_errors_in_the_documentation():
    """Medians over those of ten nets that have all their spikes on that grid."""
    found = {steps: [] for steps in (5, 10, 25, 50, 100, 250, 500)}
    for seed in range(10):
        weights, inputs = net_of(seed)
        wanted = event_driven.gradients(of_times, inputs, weights, TAU_MEM, TAU_SYN, END)
        count = len(event_driven.run(inputs, weights, TAU_MEM, TAU_SYN, END)[1])
        for steps, rows in found.items():
            got, spikes = on_a_grid(weights, inputs, steps)
            if spikes == count:
                rows.append(errors(got, wanted))
    medians = {steps: np.median(rows, axis=0).round(3).tolist() for steps, rows in found.items()}
    page = (Path(__file__).parents[2] / "docs" / "learning.md").read_text()
    for steps, (first, second) in medians.items():
        assert re.search(
            rf"^\| 1/{steps} \| {len(found[steps])} \| {first:.3f} \| {second:.3f} \|$", page, re.MULTILINE
        )


def test_the_adjoint_is_the_equations_step_by_step_in_ragged_batches_too():
    neuron, lengths, T = L.EventPropLIF(tau_mem=20.0, tau_syn=10.0, least=0.05), torch.tensor([40, 25, 9]), 40
    x = (3 * torch.rand(T, 3, 4, **DOUBLE)).requires_grad_()
    start = {k: torch.rand(3, 4, **DOUBLE).requires_grad_() for k in ("i", "v")}
    s, end = neuron.sequence(x, state=start, lengths=lengths)
    g, ends = torch.randn(T, 3, 4, **DOUBLE), {k: torch.randn(3, 4, **DOUBLE) for k in ("i", "v")}
    ((s * g).sum() + sum((end[k] * ends[k]).sum() for k in end)).backward()
    assert 0.02 < s.mean() < 0.5
    am, as_, k = math.exp(-1 / 20), math.exp(-1 / 10), 10 / (10 - 20) * (math.exp(-1 / 10) - math.exp(-1 / 20))
    for b, n in enumerate(lengths.tolist()):
        for j in range(4):
            i, v, currents, spikes = start["i"][b, j].item(), start["v"][b, j].item(), [], []
            for t in range(n):
                h = am * v + k * i
                spikes.append(h >= 1)
                currents.append(i)
                v, i = 0.0 if h >= 1 else h, as_ * i + x[t, b, j].item()
            assert spikes == s[:n, b, j].bool().tolist()
            assert end["v"][b, j].item() == pytest.approx(v)
            here = g[:n, b, j].tolist()
            li, lv = ends["i"][b, j].item(), ends["v"][b, j].item()
            for t in reversed(range(n)):
                low, high = max(t - 1, 0), min(t + 1, n - 1)
                slope, u = (here[high] - here[low]) / (high - low), max(currents[t] - 1, 0.05) / 20
                lh = (1 + 1 / (20 * u)) * lv - slope / u if spikes[t] else lv
                assert x.grad[t, b, j].item() == pytest.approx(li, rel=1e-9, abs=1e-12)
                li, lv = as_ * li + k * lh, am * lh
            assert start["i"].grad[b, j].item() == pytest.approx(li, rel=1e-9)
            assert start["v"].grad[b, j].item() == pytest.approx(lv, rel=1e-9)
    assert torch.equal(x.grad[25:, 1], torch.zeros(15, 4, **DOUBLE))


def test_a_threshold_and_a_least_slope_that_are_set_later():
    x, g = (3 * torch.rand(40, 2, 3, **DOUBLE)).requires_grad_(), torch.randn(40, 2, 3, **DOUBLE)
    changed, made = (
        L.EventPropLIF(tau_mem=20.0, tau_syn=10.0),
        L.EventPropLIF(tau_mem=20.0, tau_syn=10.0, v_threshold=0.5, least=0.2),
    )
    torch.autograd.grad(changed.sequence(x)[0], x, g)
    changed.v_threshold, changed.least = 0.5, 0.2
    got, wanted = (torch.autograd.grad(neuron.sequence(x)[0], x, g)[0] for neuron in (changed, made))
    assert torch.equal(got, wanted)
    assert wanted.abs().max() > 0


def test_equal_time_constants_are_the_limit_of_unequal_ones():
    x = (4 * torch.rand(60, 2, 3, **DOUBLE)).requires_grad_()
    t = torch.arange(60.0, **DOUBLE).view(-1, 1, 1)

    def gradient(tau_syn):
        s, _ = L.EventPropLIF(tau_mem=12.0, tau_syn=tau_syn).sequence(x)
        return torch.autograd.grad((s * (0.1 * t).cos()).sum(), x)[0]

    same = gradient(12.0)
    assert same.abs().max() > 0
    assert ((gradient(12.0001) - same).norm() / same.norm()) < 1e-3


def test_a_number_of_spikes_pulls():
    x = torch.full((80, 2, 3), 1.5, **DOUBLE, requires_grad=True)
    layer = L.EventPropLIF(tau_mem=20.0, tau_syn=10.0, count_target=50.0, count_strength=0.1)
    s, _ = layer.sequence(x)
    plain, _ = L.EventPropLIF(tau_mem=20.0, tau_syn=10.0).sequence(x)
    assert 0 < s.sum(0).mean() < 50
    zero = torch.zeros_like(s)
    fewer = torch.autograd.grad(s, x, zero)[0]
    assert torch.equal(torch.autograd.grad(plain, x, zero)[0], zero)
    assert fewer.max() <= 0  # descending it raises the input, and with it the number of spikes
    assert fewer.min() < 0
    more, _ = layer.sequence((x - 0.5 * fewer / fewer.abs().max()).detach())
    assert more.sum() > s.sum()


def of_delays(weights, inputs, delays):
    """Spikes of two layers with delays ``[5]`` of the first layer's neurons, or ``[3, 5]`` of the synapses."""
    first, found = event_driven.layer(inputs, weights[0], TAU_MEM, TAU_SYN, END), []
    for j, row in enumerate(np.broadcast_to(delays, (3, 5))):
        events = [(t + row[k], k) for t, k in first if t + row[k] < END]
        found += [(t, j) for t, _ in event_driven.layer(events, weights[1][j : j + 1], TAU_MEM, TAU_SYN, END)]
    return found


@pytest.mark.parametrize("synapses", [False, True])
def test_delays_between_layers_move_with_the_gradient_of_continuous_time(synapses):
    weights, inputs = net_of(9)
    delays = np.array([0.2, 0.0, 0.6, 0.4, 0.2]) + 0.2  # on the grid, and none at the end
    delays = np.stack([delays, delays[::-1] + 0.2, delays]) if synapses else delays
    count, wanted = len(of_delays(weights, inputs, delays)), np.zeros(delays.shape)
    for place in np.ndindex(*delays.shape):
        both = []
        for sign in (1, -1):
            moved = delays.copy()
            moved[place] += sign * 1e-6
            found = of_delays(weights, inputs, moved)
            assert len(found) == count
            both.append(of_times(found))
        wanted[place] = (both[0] - both[1]) / 2e-6
    steps = 250
    if synapses:
        layer = sl.nn.DelayLinear(5, 3, 2 * steps, kernel="times").double()
        layer.weight.data = torch.tensor(weights[1]).unsqueeze(-1)
        layer.delay.data = torch.tensor(delays * steps).unsqueeze(-1)
    else:
        layer = sl.nn.LearnedDelay(5, 2 * steps, kernel="times").double()
        layer.delay.data = torch.tensor(delays * steps)
    _, spikes = on_a_grid(weights, inputs, steps, between=layer)
    assert spikes == count
    got = layer.delay.grad.reshape(delays.shape).numpy() * steps  # of steps, which are 1 / 250
    assert np.abs(wanted).max() > 0.1
    assert max(errors([got], [wanted])) < 0.05
    assert min(errors([-got], [wanted])) > 1


def test_a_delay_that_is_learned_by_times_step_by_step():
    torch.manual_seed(0)
    layer, lengths = sl.nn.LearnedDelay(3, 4, kernel="times").double(), torch.tensor([12, 7])
    layer.delay.data = torch.tensor([0.3, 2.6, 4.0], **DOUBLE)
    x = (torch.rand(12, 2, 3, **DOUBLE) < 0.5).double().requires_grad_()
    y, _ = layer.sequence(x, lengths=lengths)
    g = torch.randn(12, 2, 3, **DOUBLE)
    (y * g).sum().backward()

    def met(c, k):
        """What the gradient would be of an input that comes k steps later."""
        pairs = [(b, t) for b, n in enumerate(lengths.tolist()) for t in range(k, n)]
        return sum(g[t, b, c] * x.detach()[t - k, b, c] for b, t in pairs)

    for b, n in enumerate(lengths.tolist()):
        for c, d in enumerate((0, 3, 4)):
            for t in range(n):
                assert y[t, b, c] == (x[t - d, b, c] if t >= d else 0)
                assert x.grad[t, b, c] == (g[t + d, b, c] if t + d < n else 0)
    wanted = torch.stack([met(0, 1) - met(0, 0), (met(1, 4) - met(1, 2)) / 2, met(2, 4) - met(2, 3)])
    torch.testing.assert_close(layer.delay.grad, wanted)
    assert torch.equal(layer.eval().sequence(x, lengths=lengths)[0], y)


def test_first_spike_times_move_with_their_gradient():
    layer, neuron = nn.Linear(2, 3, bias=False).double(), L.EventPropLIF(tau_mem=400.0, tau_syn=100.0)
    layer.weight.data = torch.tensor([[4.0, 5.0], [7.0, 3.0], [0.1, 0.1]], **DOUBLE)
    x = torch.zeros(600, 1, 2, **DOUBLE)
    x[0, 0, 0] = x[30, 0, 1] = 1

    def times():
        return L.first_spike_time(neuron.sequence(layer(x))[0])

    t = times()
    assert t[0, 2] == 600
    (t[0, 0] + 2 * t[0, 1] + 5 * t[0, 2]).backward()
    inputs = [(0.0, 0), (30.0, 1)]

    def exact(w):
        found = event_driven.layer(inputs, w, 400.0, 100.0, 600.0)
        first = {j: min(t for t, k in found if k == j) for j in (0, 1)}
        return first[0] + 2 * first[1]

    w, wanted = layer.weight.detach().numpy().copy(), np.zeros((3, 2))
    for place in np.ndindex(2, 2):
        both = []
        for sign in (1, -1):
            w[place] += sign * 1e-5
            both.append(exact(w))
            w[place] -= sign * 1e-5
        wanted[place] = (both[0] - both[1]) / 2e-5
    assert abs(exact(w) - (t[0, 0] + 2 * t[0, 1]).item()) < 4
    assert max(errors([layer.weight.grad.numpy()], [wanted])) < 0.05
    assert torch.equal(layer.weight.grad[2], torch.zeros(2, **DOUBLE))


def test_a_spike_in_the_step_after_the_first_has_no_part_in_its_time():
    x = torch.zeros(12, 2, 1, **DOUBLE)
    x[1, 0], x[9, 1] = 60.0, 60.0  # so strong that the neuron fires in step after step
    for lengths, last in ((None, 12), (torch.tensor([3, 11]), 11)):
        given = x.clone().requires_grad_()
        neuron = L.EventPropLIF(tau_mem=20.0, tau_syn=10.0).double()
        s, _, recorded = neuron.sequence(given, lengths=lengths, record=("i",))
        assert s[2, 0] == s[10, 1] == 1
        assert s[3, 0] == (lengths is None)
        L.first_spike_time(s, lengths=lengths).sum().backward()
        # of the first spike alone: lh = -1/u, and a step before it dL/dx = k lh
        for b, t in ((0, 2), (1, 10)):
            u = (recorded["i"][t - 1, b] - 1) / 20.0
            assert given.grad[t - 1, b].item() == pytest.approx((-neuron.k / u).item())
            assert not given.grad[t:last, b].any()


def test_eventprop_takes_pieces_of_three_steps_or_more():
    net = sl.Network(nn.Linear(2, 4), L.EventPropLIF(tau_mem=20.0, tau_syn=10.0), nn.Linear(4, 1), sl.LI(tau=9.0))
    x = torch.ones(6, 2, 2)
    for method, steps in (("truncated", 1), ("eligibility", 2)):
        with pytest.raises(ValueError, match=f"fewer than 3 steps do not tell; got steps={steps}"):
            L.online(net, x, lambda y, t0: y.sum(), steps=steps, method=method)
    assert len(list(L.online(net, x, lambda y, t0: y.square().sum(), steps=3))) == 2


def test_what_eventprop_cannot_do_is_said():
    neuron, x = L.EventPropLIF(tau_mem=20.0, tau_syn=10.0), torch.full((30, 1, 2), 2.0, requires_grad=True)
    s, _ = neuron.sequence(x)
    with pytest.raises(RuntimeError, match="a loss of rates or counts has no gradient here"):
        s.mean().backward()
    with pytest.raises(RuntimeError, match="single steps give no gradient"):
        neuron.step(x[0])
    with torch.no_grad():
        state, found = None, []
        for x_t in x:
            y, state = neuron.step(x_t, state=state)
            found.append(y)
    assert torch.equal(torch.stack(found), s)
    with pytest.raises(ValueError, match="tau_syn must be finite and above 0, got -1"):
        L.EventPropLIF(tau_syn=-1.0)
    with pytest.raises(ValueError, match="with a count_target"):
        L.EventPropLIF(count_strength=1.0)
    assert repr(neuron) == "EventPropLIF(tau_mem=20.0, tau_syn=10.0, v_threshold=1.0)"
    with pytest.raises(AttributeError, match="tau_mem"):
        neuron.tau_mem = 30.0
    with pytest.raises(TypeError, match="EventPropLIF"):
        sl.options.Adaptive(neuron)


def test_eventprop_in_a_network_with_a_batch_norm_packed_spikes_and_sixteen_bits():
    def net(**options):
        torch.manual_seed(1)
        first = L.EventPropLIF(tau_mem=20.0, tau_syn=10.0, v_threshold=0.05)
        return sl.Network(nn.Linear(4, 6), nn.BatchNorm1d(6), first, nn.Linear(6, 2), sl.LI(tau=10.0), **options)

    x = torch.rand(40, 5, 4).round()
    plain, packed = net(), net(spikes="packed")
    for each in (plain, packed):
        each(x).square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in each.parameters())
    assert plain.body[0].weight.grad.abs().max() > 0
    assert torch.equal(plain.body[0].weight.grad, packed.body[0].weight.grad)
    with sl.backend("eager"):
        other = net()
        other(x).square().mean().backward()
    torch.testing.assert_close(other.body[0].weight.grad, plain.body[0].weight.grad, atol=1e-6, rtol=1e-4)
    low = (3 * torch.rand(40, 2, 3)).bfloat16().requires_grad_()
    s, _ = L.EventPropLIF(tau_mem=20.0, tau_syn=10.0).sequence(low)
    (s * torch.linspace(0, 1, 40).view(-1, 1, 1)).sum().backward()
    assert s.dtype == low.grad.dtype == torch.bfloat16


def test_eventprop_joins_a_norm_and_takes_a_still_input():
    def gradients(x, **options):
        torch.manual_seed(1)
        neuron = L.EventPropLIF(tau_mem=20.0, tau_syn=10.0, v_threshold=0.3, count_target=3.0, count_strength=0.1)
        norm = nn.BatchNorm1d(6)
        net = sl.Network(
            nn.Linear(4, 6), norm, neuron, nn.Linear(6, 2), sl.LI(tau=10.0), fuse=options.pop("fuse", True)
        )
        net.double()(x, **options).square().mean().backward()
        return [p.grad for p in net.parameters()]

    still = 5 * torch.rand(5, 4, **DOUBLE)
    each = still.expand(40, 5, 4).clone()  # which is no still input
    wanted = gradients(each, fuse=False)
    assert wanted[0].abs().max() > 0
    torch.testing.assert_close(gradients(each), wanted)
    torch.testing.assert_close(gradients(still, repeat=40), wanted)


def test_first_spikes_in_closed_form_are_those_of_an_integration():
    layer = L.FirstSpike(6, 4, tau=1.5, gain=6.0).double()
    times = torch.rand(8, 6, **DOUBLE) * 2
    times[:, 0] = math.inf
    times[0] = math.inf
    got = layer(times)
    t = torch.arange(0, 12, 2e-3, **DOUBLE)
    for b in range(8):
        for j in range(4):
            since = t.unsqueeze(1) - times[b]
            v = (layer.weight[j] * torch.where(since > 0, 1 - torch.exp(-since / 1.5), 0.0)).sum(1)
            crossed = (v >= 1).nonzero().flatten()
            if len(crossed) and t[crossed[0]] > 0:
                assert abs(got[b, j].item() - t[crossed[0]].item()) < 3e-3
            else:
                assert got[b, j] == math.inf or got[b, j] > 12
    assert torch.isfinite(got).any()
    assert torch.isinf(got[0]).all()


def test_gradients_of_first_spikes():
    layer = L.FirstSpike(5, 3, gain=8.0).double()
    times = torch.rand(4, 5, **DOUBLE).requires_grad_()
    assert torch.isfinite(layer(times)).all()

    def of(times, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (times,))

    assert torch.autograd.gradcheck(of, (times, layer.weight.detach().requires_grad_()))
    with torch.no_grad():
        layer.weight[0] = 0.1
    out = layer(times)
    assert torch.isinf(out[:, 0]).all()
    out[:, 1:].sum().backward()
    assert torch.isfinite(times.grad).all()
    assert torch.equal(layer.weight.grad[0], torch.zeros(5, **DOUBLE))
    assert layer.weight_sum_loss().item() == pytest.approx(0.5)
    late = layer((times + 900).detach())  # exp of the times alone would overflow
    torch.testing.assert_close(late[:, 1:], out[:, 1:].detach() + 900)


def test_first_spikes_of_times_that_lie_far_apart():
    layer = L.FirstSpike(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, 2.0], [0.8, 0.8]]))
    times = torch.tensor([[0.0, 100.0]], requires_grad=True)  # exp(100) is no float32
    out = layer(times)
    out.sum().backward()
    # 2 (1 - exp(-t)) = 1, before the second input; 0.8 + 0.8 (1 - exp(-(t - 100))) = 1
    torch.testing.assert_close(out.detach(), torch.tensor([[math.log(2), 100 + math.log(0.8 / 0.6)]]))
    torch.testing.assert_close(times.grad, torch.tensor([[1.0, 1.0]]))
    wanted = torch.tensor([[-0.5, 0.0], [-1 / 0.6, 1 / 0.8 - 1 / 0.6]])
    torch.testing.assert_close(layer.weight.grad, wanted)
    with pytest.raises(ValueError, match="more than 600 tau apart, 700"):
        layer(torch.tensor([[0.0, 700.0]]))


def test_the_tempotron_sums_kernels_and_its_loss_is_the_rule():
    neuron = L.Tempotron(5, 3, tau=15.0, tau_syn=3.75).double()
    nn.init.normal_(neuron.weight, std=0.6)
    x = (torch.rand(60, 4, 5) < 0.05).double()
    kernel = lambda d: (math.exp(-d / 15) - math.exp(-d / 3.75)) if d >= 0 else 0.0  # noqa: E731
    peak = 15 * 3.75 / (15 - 3.75) * math.log(4)
    K = torch.tensor([[kernel(t - u) / kernel(peak) for u in range(60)] for t in range(60)], **DOUBLE)
    wanted = torch.einsum("tu,ubi,ni->tbn", K, x, neuron.weight.detach())
    torch.testing.assert_close(neuron.voltage(x).detach(), wanted)
    peaks, target = neuron(x), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(peaks.detach(), wanted.amax(0))
    L.tempotron_loss(peaks, target).backward()
    change = torch.zeros(3, 5, **DOUBLE)
    for b in range(4):
        for n in range(3):
            top = wanted[:, b, n].argmax()
            wrong = (wanted[top, b, n] < 1) if target[b] == n else (wanted[top, b, n] > 1)
            change[n] += wrong * (-1 if target[b] == n else 1) * K[top] @ x[:, b] / 4
    assert change.abs().max() > 0
    torch.testing.assert_close(neuron.weight.grad, change)
    lengths = torch.tensor([10, 60, 30, 1])
    torch.testing.assert_close(
        neuron(x, lengths=lengths), torch.stack([wanted[:n, b].amax(0) for b, n in enumerate(lengths.tolist())])
    )
    assert L.tempotron_loss(torch.tensor([[0.2, 3.0]]), torch.tensor([[True, False]])).item() == pytest.approx(2.8)
    with pytest.raises(ValueError, match=r"Tempotron: expected \[T, B, 5\], got \[60, 4\]"):
        neuron(x[:, :, 0])
