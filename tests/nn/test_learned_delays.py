"""Learned delays: the equation as loops, gradients, limits, rounding, bits, and delays that have to be found."""

import math

import pytest
import torch
from torch import nn

import spikeloom as sl

N = sl.nn
KERNELS = ("gauss", "triangle")


def bump(kernel, d, sigma, most):
    d = min(max(d, 0.0), float(most))
    values = [
        math.exp(-((k - d) ** 2) / (2 * sigma**2)) if kernel == "gauss" else max(0.0, 1 + sigma - abs(k - d))
        for k in range(most + 1)
    ]
    return [v / sum(values) for v in values]


def spread_delays(layer):
    """Delays inside, at and beyond the limits."""
    with torch.no_grad():
        layer.delay.copy_(torch.linspace(-1.0, layer.max_delay + 1.0, layer.delay.numel()).view_as(layer.delay))
    return layer


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_the_equation_as_loops(kernel, sigma):
    channel = spread_delays(N.LearnedDelay(5, 4, kernel=kernel, sigma=sigma).double())
    synapse = spread_delays(N.DelayLinear(3, 2, 4, taps=2, bias=True, kernel=kernel, sigma=sigma).double())
    x = torch.randn(7, 2, 5, 3, dtype=torch.float64)  # with space, and three features for the linear layer
    y, z = channel.sequence(x)[0].detach(), synapse.sequence(x[:, :, 0])[0].detach()
    for t in range(7):
        for c in range(5):
            g = bump(kernel, float(channel.delay[c].detach()), sigma, 4)
            wanted = sum(g[k] * x[t - k, :, c] for k in range(5) if t >= k)
            torch.testing.assert_close(y[t, :, c], wanted)
        for o in range(2):
            wanted = synapse.bias[o].detach().expand(2).clone()
            for i in range(3):
                for tap in range(2):
                    g = bump(kernel, float(synapse.delay[o, i, tap].detach()), sigma, 4)
                    w = float(synapse.weight[o, i, tap].detach())
                    wanted += w * sum(g[k] * x[t - k, :, 0, i] for k in range(5) if t >= k)
            torch.testing.assert_close(z[t, :, o], wanted)


@pytest.mark.parametrize("sigma", [0.5, 3.0])
def test_delays_of_dilated_convolutions_with_learnable_spacings(sigma):
    """DCLS puts its tap at the position P of a cross-correlation of length D = max_delay + 1, with the weights
    exp(-((j - P - D // 2) / (|SIG| + 0.27))^2 / 2) normalised: d = D - 1 - (P + D // 2), sigma = SIG + 0.27."""
    D = 9
    layer = N.DelayLinear(2, 3, D - 1, sigma=sigma).double()
    P = D - 1 - layer.delay.detach() - D // 2
    j = torch.arange(D)
    dcls = torch.exp(-(((j - P.unsqueeze(-1) - D // 2) / (abs(sigma - 0.27) + 0.27)) ** 2) / 2)
    dcls = dcls / dcls.sum(-1, keepdim=True)
    kernel = (layer.weight.detach().unsqueeze(-1) * dcls).squeeze(2)  # [out, in, D]
    x = torch.randn(12, 4, 2, dtype=torch.float64)
    padded = nn.functional.pad(x.permute(1, 2, 0), (D - 1, 0))
    wanted = nn.functional.conv1d(padded, kernel).permute(2, 0, 1)
    torch.testing.assert_close(layer.sequence(x)[0].detach(), wanted)


MAKE = {
    "channel": lambda **o: N.LearnedDelay(3, 4, **o),
    "synapse": lambda **o: N.DelayLinear(3, 2, 4, taps=2, bias=True, **o),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", MAKE)
def test_gradients_of_inputs_states_delays_weights_and_sigma(name, kernel):
    sigma = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    layer = MAKE[name](kernel=kernel, sigma=sigma).double()
    with torch.no_grad():  # away from where a triangle has corners
        steps = torch.arange(layer.delay.numel(), dtype=torch.float64).view_as(layer.delay)
        layer.delay.copy_(0.1 + 0.6 * (steps % 6) + 0.01 * steps)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    names = [n for n, _ in layer.named_parameters()]

    class Run(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, state):
            return self.layer.sequence(x, state=state, lengths=torch.tensor([5, 3]))

    def run(x, state, *values):
        found = {f"layer.{n}": v for n, v in zip(names, values, strict=True)}
        return torch.func.functional_call(Run(), found, (x, state))

    assert "sigma" in names
    assert torch.autograd.gradcheck(run, (x, state, *layer.parameters()))


def test_gradients_point_inward():
    """Delays at or beyond a limit have a gradient where descent leads back, and none where it leads on out."""
    layer = N.LearnedDelay(4, 4, kernel="triangle", sigma=1.0)
    for delays in ([-1.0, 0.0, 4.0, 5.5], [2.0, 1.0, 3.0, 2.5]):
        for sign in (1.0, -1.0):
            with torch.no_grad():
                layer.delay.copy_(torch.tensor(delays))
            d = layer.delay
            limited = sl.nn.learned_delay.inward(d, 4)
            assert limited.tolist() == [min(max(v, 0.0), 4.0) for v in delays]
            (grad,) = torch.autograd.grad((sign * limited).sum(), d)
            wanted = [0.0 if (v <= 0 and sign > 0) or (v >= 4 and sign < 0) else sign for v in delays]
            assert grad.tolist() == wanted


def test_a_delay_that_left_its_range_comes_back():
    """A clamp alone would have no gradient there."""
    torch.manual_seed(0)
    x, layer = torch.randn(30, 4, 1), N.LearnedDelay(1, 6, sigma=1.5)
    with torch.no_grad():
        layer.delay.fill_(8.0)
    target = N.Delay(2).sequence(x)[0]
    optimizer = torch.optim.Adam([layer.delay], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        (layer.sequence(x)[0] - target).square().mean().backward()
        optimizer.step()
    assert layer.delay.item() == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("packed", [False, True])
def test_evaluation_rounds(packed):
    x = (torch.rand(9, 2, 8) < 0.4).float()
    given = sl.pack(x) if packed else x
    layer = N.LearnedDelay(8, 5).eval()
    with torch.no_grad():
        layer.delay.copy_(torch.tensor([-2.0, 0.4, 0.6, 1.9, 3.2, 4.6, 5.4, 9.0]))
    y, state = layer.sequence(given)
    assert isinstance(y, sl.SpikeTensor) == isinstance(state, sl.SpikeTensor) == packed
    delay = layer.rounded()
    assert type(delay) is N.Delay
    assert delay.steps == (0, 0, 1, 2, 3, 5, 5, 5)
    assert torch.equal(y * 1, delay.sequence(x)[0])
    synapse = N.DelayLinear(8, 3, 5).eval()
    steps = synapse.delay.detach().round().long().squeeze(2)
    z = synapse.sequence(given)[0].detach()
    for o in range(3):
        each = N.Delay(steps[o]).sequence(x)[0]
        torch.testing.assert_close(z[:, :, o], each @ synapse.weight[o, :, 0].detach())
    fixed = synapse.rounded()
    for mode in (True, False):
        torch.testing.assert_close(fixed.train(mode).sequence(given)[0].detach(), z)
    assert not fixed.delay.requires_grad
    assert torch.equal(fixed.delay.squeeze(2), steps.float())
    assert synapse.delay.requires_grad


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("train", [True, False])
def test_splits_streams_and_bits_in_both_modes(name, train):
    torch.manual_seed(1)
    net = sl.Network(MAKE[name]()).train(train)
    x = (torch.rand(9, 4, 3) < 0.4).float()
    found = []
    for given in (x, sl.pack(x)):
        whole = net(given)
        state, parts = None, []
        for part in given.split((1, 5, 3)):
            y, result = net(part, state=state, return_state=True)
            state = result.state
            parts.append(y * 1)
        stream = net.stream()
        steps = torch.stack([stream(x_t) * 1 for x_t in given])
        for other in (torch.cat(parts), steps):
            torch.testing.assert_close(other, whole * 1)
        found.append(whole * 1)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("B", [1, 5])
@pytest.mark.parametrize("taps", [1, 3])
def test_single_steps_in_evaluation(B, taps):
    """One sample reads by delays, five by the kernel over time; sequences, gradients and states are the same."""
    layer = N.DelayLinear(6, 4, 4, taps=taps, bias=True).double().eval()
    x = torch.randn(9, B, 6, dtype=torch.float64)
    wanted, end = layer.sequence(x)
    state, steps = None, []
    for x_t in x:
        y, state = layer.step(x_t, state=state)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps), wanted)
    assert torch.equal(state, end)
    parameters = [layer.weight, layer.bias]
    g = torch.randn_like(wanted)
    grads = [torch.autograd.grad((g * y).sum(), parameters) for y in (torch.stack(steps), wanted)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_of_bits_are_those_of_numbers():
    x = (torch.rand(12, 8, 16) < 0.3).float()
    layer, g = N.DelayLinear(16, 8, 6), torch.randn(12, 8, 8)
    found = []
    for pack in (lambda s: s, sl.pack):
        inputs = x.clone().requires_grad_()
        y, _ = layer.sequence(pack(inputs))
        found.append(torch.autograd.grad((g * y).sum(), [inputs, layer.weight, layer.delay]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("narrows", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_eight_delays_are_found(narrows):
    """Whole delays of 0 to 24 steps, from spikes, in 400 steps of Adam. Sigma narrows from 12.5 to 0.5 in 100 of them;
    where it is 0.5 from the beginning, delays that begin far off are not found."""
    torch.manual_seed(0)
    wanted = torch.tensor([0, 3, 6, 10, 13, 17, 20, 24])
    layer = N.LearnedDelay(8, 24)
    schedule = N.DelaySchedule(layer, epochs=400, start=None if narrows else 0.5)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.2)
    for _ in range(400):
        x = (torch.rand(80, 8, 8) < 0.05).float()
        loss = (layer.sequence(x)[0] - N.Delay(wanted).sequence(x)[0]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert float(layer.sigma) == 0.5
    found = sum(a == b for a, b in zip(layer.rounded().steps, wanted.tolist(), strict=True))
    assert found == 8 if narrows else found < 6


def test_schedule():
    net = nn.Sequential(N.LearnedDelay(2, 7), nn.ReLU(), N.DelayLinear(2, 2, 19))
    schedule = N.DelaySchedule(net, epochs=8)
    sigmas = []
    for _ in range(5):
        sigmas.append([float(net[0].sigma), float(net[2].sigma)])
        schedule.step()
    half = [math.sqrt(4 * 0.5), math.sqrt(10 * 0.5)]
    assert sigmas[0] == [4.0, 10.0]
    assert sigmas[1] == pytest.approx(half)
    assert sigmas[2:] == [[0.5, 0.5]] * 3
    again = N.DelaySchedule(net, epochs=8)
    again.load_state_dict({**schedule.state_dict(), "epoch": 1})
    assert [float(net[0].sigma), float(net[2].sigma)] == pytest.approx(half)
    with pytest.raises(ValueError, match="epochs is 8 in the checkpoint but 9 here"):
        N.DelaySchedule(net, epochs=9).load_state_dict(schedule.state_dict())
    with pytest.raises(ValueError, match="found no layer with learned delays in Linear"):
        N.DelaySchedule(nn.Linear(1, 1), epochs=4)
    with pytest.raises(ValueError, match="sigma of a layer is learnable"):
        N.DelaySchedule(N.LearnedDelay(1, 2, sigma=nn.Parameter(torch.tensor(1.0))), epochs=4)
    with pytest.raises(ValueError, match=r"share above 0 and at most 1.* share=0"):
        N.DelaySchedule(net, epochs=4, share=0.0)


def test_sigma_is_of_training_alone():
    """Weights load whatever sigma was, and evaluation does not depend on it."""
    layer = N.LearnedDelay(3, 5, sigma=4.0)
    other = N.LearnedDelay(3, 5)
    other.load_state_dict(layer.state_dict())
    assert float(other.sigma) == 0.5
    x = torch.randn(8, 2, 3)
    assert torch.equal(layer.eval().sequence(x)[0], other.eval().sequence(x)[0])
    assert not torch.equal(layer.train().sequence(x)[0], other.train().sequence(x)[0])


@pytest.mark.parametrize("kernel", KERNELS)
def test_narrow_and_wide_bumps_are_finite(kernel):
    layer = N.LearnedDelay(4, 50, kernel=kernel)
    for sigma in (0.0, 1e-6, 1e6):
        layer.sigma = sigma
        y, _ = layer.sequence(torch.rand(6, 2, 4))
        (grad,) = torch.autograd.grad(y.sum(), layer.delay)
        assert y.isfinite().all()
        assert grad.isfinite().all()
        torch.testing.assert_close(layer.spread().sum(1), torch.ones(4))


def test_beginnings_and_wrong_use():
    d = N.LearnedDelay(4000, 10).delay.detach()
    assert (d >= 0).all()
    assert (d <= 10).all()
    assert float(d.mean()) == pytest.approx(5.0, abs=5 * 2.9 / math.sqrt(4000))
    w = N.DelayLinear(16, 100, 3, taps=4).weight.detach()
    assert w.shape == (100, 16, 4)
    assert float(w.abs().max()) == pytest.approx(1 / 8, rel=0.01)
    for make, message in (
        (lambda: N.LearnedDelay(3, -1), r"LearnedDelay: expected sizes of at least 1 and max_delay from 0, got \(3,\)"),
        (lambda: N.LearnedDelay(3, 2, kernel="box"), "kernel must be gauss, triangle or times, got 'box'"),
        (lambda: N.LearnedDelay(3, 2, sigma=-1.0), "LearnedDelay.sigma: expected a number of at least 0, got -1"),
        (lambda: N.LearnedDelay(3, 2).sequence(torch.rand(2, 1, 4)), r"expected \[T, B, 3, \*\], got \[2, 1, 4\]"),
        (lambda: N.DelayLinear(3, 2, 2).sequence(torch.rand(2, 1, 4)), r"expected \[T, B, 3\], got \[2, 1, 4\]"),
        (lambda: N.DelayLinear(3, 2, 2, taps=0), r"DelayLinear: expected sizes of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize(
    "make", [lambda: N.DelayLinear(3, 3, 4), lambda: sl.Network(N.LearnedDelay(3, 4), nn.Linear(3, 3))]
)
@pytest.mark.parametrize("train", [True, False])
def test_recurrent_delays_by_hand(make, train):
    """What came out at t - 1 - k comes back at t with the weight of k steps ago."""
    torch.manual_seed(3)
    recurrent = N.Recurrent(sl.LIF(tau=1.5, v_threshold=0.5), make()).train(train)
    feedback = recurrent.feedback
    if isinstance(feedback, N.DelayLinear):
        weights, bias = feedback.weights(), 0.0
    else:
        delay, linear = feedback.body
        weights, bias = linear.weight.unsqueeze(2) * delay.spread(), linear.bias
    x, y, v = torch.rand(10, 2, 3), [], torch.zeros(2, 3)
    for t in range(10):
        back = bias + sum(y[t - 1 - k] @ weights[:, :, k].t() for k in range(5) if t - 1 - k >= 0)
        h = v + (x[t] + back - v) / 1.5
        y.append((h >= 0.5).float())
        v = h * (1 - y[-1])
    found, state = recurrent.sequence(x)
    assert torch.equal(found, torch.stack(y))
    torch.testing.assert_close(state["v"], v)
    assert not torch.equal(found, sl.LIF(tau=1.5, v_threshold=0.5).sequence(x)[0])
    found.sum().backward()
    assert all(p.grad is not None for p in recurrent.parameters()) == train  # in evaluation delays are whole


def test_delays_of_feedback_are_narrowed_by_the_schedule():
    recurrent = N.Recurrent(sl.LIF(), N.DelayLinear(3, 3, 7, kernel="triangle"))
    schedule = N.DelaySchedule(sl.Network(recurrent), epochs=4)
    assert float(recurrent.feedback.sigma) == 4.0
    schedule.step()
    assert float(recurrent.feedback.sigma) == 0.5


@pytest.mark.parametrize("train", [True, False])
def test_a_convolution_of_delays_is_the_sum_over_its_steps(train):
    torch.manual_seed(2)
    layer = N.DelayConv2d(2, 3, (3, 2), 4, stride=(2, 1), padding=(1, 0), bias=True, sigma=1.0).double().train(train)
    x = torch.randn(6, 2, 2, 5, 4, dtype=torch.float64)
    kernel = layer.weight.unsqueeze(-1) * layer.spread()
    assert layer.weight.shape == layer.delay.shape == (3, 2, 3, 2)
    wanted = 0
    for k in range(5):
        each = [nn.functional.conv2d(s, kernel[..., k], None, (2, 1), (1, 0)) for s in N.Delay(k).sequence(x)[0]]
        wanted = wanted + torch.stack(each)
    found, state = layer.sequence(x)
    torch.testing.assert_close(found, wanted + layer.bias.view(3, 1, 1))
    assert state.shape == (2, 4, 2, 5, 4)
    torch.testing.assert_close(layer.eval().sequence(x)[0], layer.rounded().train().sequence(x)[0])
    with pytest.raises(ValueError, match=r"DelayConv2d: expected \[T, B, 2, H, W\], got \[6, 2, 3, 5, 4\]"):
        layer.sequence(torch.rand(6, 2, 3, 5, 4))
