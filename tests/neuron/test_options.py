"""Options around neurons: by closed forms, statistics, and batch norm's own arithmetic. Their equations are compared
with loops in test_catalogue.py.
"""

import math

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom.neuron.noise import draw


def inputs(*shape, seed=0):
    return 0.5 + torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_options_compose_into_the_neurons_of_the_catalogue():
    x = inputs(60, 4, 5)
    adaptive = sl.options.Adaptive(
        sl.Leaky(beta=0.8, v_threshold=0.7, reset_delay=False, strict=False), beta=0.3, rho=0.9
    )
    assert torch.equal(adaptive.sequence(x)[0], sl.ALIF(alpha=0.8, rho=0.9, beta=0.3, v_threshold=0.7).sequence(x)[0])
    refractory = sl.options.Refractory(sl.LIF(v_threshold=0.5), steps=0)
    assert torch.equal(refractory.sequence(x)[0], sl.LIF(v_threshold=0.5).sequence(x)[0])


def test_a_refractory_period_bounds_the_rate():
    y, _ = sl.options.Refractory(sl.IF(), steps=torch.tensor([0.0, 1.0, 3.0])).sequence(torch.full((12, 1, 3), 5.0))
    assert y.sum(0).flatten().tolist() == [12, 6, 3]


def test_numbers_inside_an_option_are_learned_and_kept_in_checkpoints():
    neuron = sl.options.Graded(sl.LIF(tau=nn.Parameter(torch.tensor(2.0)), v_threshold=0.5), factor=0.5)
    assert [name for name, _ in neuron.named_parameters()] == ["neuron.tau"]
    saved = neuron.state_dict()
    sl.options.Graded(sl.LIF(tau=nn.Parameter(torch.tensor(3.0)), v_threshold=0.5), factor=0.5).load_state_dict(saved)
    for other, message in (
        (sl.options.Graded(sl.LIF(tau=nn.Parameter(torch.tensor(3.0))), factor=0.5), r"neuron\.v_threshold is 0\.5"),
        (
            sl.options.Graded(sl.LIF(tau=nn.Parameter(torch.tensor(3.0)), v_threshold=0.5), factor=0.6),
            r"factor is 0\.5",
        ),
    ):
        with pytest.raises(RuntimeError, match=message):
            other.load_state_dict(saved)
    neuron.neuron.v_threshold = 0.1  # a change inside is seen
    x = inputs(20, 2, 3)
    assert torch.equal(neuron.sequence(x)[0], 0.5 * sl.LIF(v_threshold=0.1).sequence(x)[0])
    assert "LIF(" in repr(neuron)
    assert "factor=0.5" in repr(neuron)


def test_what_does_not_fit_is_refused():
    late, signed = sl.Leaky(beta=0.5), sl.TernaryIF()
    x = inputs(5, 2, 3)
    for neuron in (late, signed):
        for option in (
            sl.options.Adaptive(neuron),
            sl.options.Noisy(neuron, threshold=0.1),
            sl.options.MPBN(neuron, 3),
        ):
            with sl.backend("eager"), pytest.raises(ValueError, match="the inner neuron fires twice in a step"):
                option.sequence(x.float())
    for wrong, message in (
        (lambda: sl.options.Graded(nn.ReLU()), "expected a neuron such as"),
        (lambda: sl.options.Graded(sl.options.Noisy(sl.LIF(), input=0.1)), "Noisy must be the outermost option"),
        (lambda: sl.options.HalfThreshold(sl.LI()), "LI has no v_threshold"),
        (lambda: sl.options.MPBN(sl.LI(), 3), "LI has no v_threshold"),
    ):
        with pytest.raises(TypeError, match=message):
            wrong()
    for wrong, message in (
        (lambda: sl.options.Refractory(sl.LIF(), steps=-1), "steps"),
        (
            lambda: sl.options.Refractory(sl.options.Refractory(sl.LIF(), steps=1), steps=1),
            "has a state 'wait' already",
        ),
        (lambda: sl.options.StateQuant(sl.LIF(), bits=0), "bits must be at least 1, got 0"),
        (lambda: sl.options.StateQuant(sl.LIF(), low=1.0, high=0.0), "high must be larger than low"),
        (lambda: sl.options.Noisy(sl.LIF()), "give the strength of the noise"),
        (lambda: sl.options.Noisy(sl.LIF(), input=1.0, distribution="cauchy"), "distribution must be"),
        (lambda: sl.options.Noisy(sl.LIF(), input=1.0, distribution="gumbel", exponent=1.0), "only gaussian noise"),
        (lambda: sl.FewSpikeTable((1.0,), (1.0,), ()), "need the same number of values"),
        (lambda: sl.FewSpike(), "one gate fewer than tables, got 0 and 0"),
        (lambda: sl.FewSpike(sl.FewSpikeTable.relu(2, 1.0), sl.FewSpikeTable.relu(3, 1.0), gates=(1,)), "the same K"),
        (lambda: sl.FewSpike(*[sl.FewSpikeTable.relu(2, 1.0)] * 3, gates=(2, 1)), "gates must rise"),
        (lambda: sl.FewSpike(sl.FewSpikeTable.relu(2, 1.0), clamp=(1, 1)), "clamp must be"),
        (lambda: sl.FewSpikeTable.line(1.0, 1.0, 0.0, 1.0, 3), "expected low < high"),
        (lambda: sl.FewSpike.fit(torch.exp, 0.0, 1.0, tables=0), "tables must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_states_of_four_bits_are_snntorchs_levels():
    """state_quant(4 bits, threshold 1): 16 levels from -1 to 1.2, 0.146667 apart."""
    x = torch.linspace(-3, 3, 601, dtype=torch.float64).unsqueeze(0)
    neuron = sl.options.StateQuant(sl.IF(v_threshold=9.0, detach_reset=True), bits=4, low=-1.0, high=1.2)
    levels = neuron.sequence(x)[1]["v"].unique()
    assert len(levels) == 16
    torch.testing.assert_close(levels, torch.linspace(-1.0, 1.2, 16, dtype=torch.float64))
    assert levels.diff().max().item() == pytest.approx(0.146667, abs=1e-6)
    y = x.clone().requires_grad_()
    slope = torch.autograd.grad(neuron.sequence(y)[1]["v"].sum(), y)[0].flatten()
    inside = (x.flatten() > -1.0 + 1e-9) & (x.flatten() < 1.2 - 1e-9)
    assert torch.equal(slope[inside], torch.ones_like(slope[inside]))
    assert torch.equal(slope[x.flatten().abs() > 1.3], torch.zeros(int((x.abs() > 1.3).sum())).double())


def test_sltt_has_the_gradient_of_single_steps():
    """dL/dx[t] = g[t] surrogate'(h[t] - 1) / tau, with h from the forward pass: nothing of other steps."""
    x = inputs(30, 2, 3).requires_grad_()
    g = torch.randn(30, 2, 3, dtype=torch.float64)
    neuron = sl.options.SLTT(sl.LIF(tau=2.0, v_threshold=0.6))
    y, _, recorded = neuron.sequence(x, record=("v",))
    before = torch.cat([torch.zeros(1, 2, 3), recorded["v"].detach()[:-1]])
    u = before + (x.detach() - before) / 2.0 - 0.6
    wanted = g / (1 + (math.pi * u).square()) / 2.0  # ATan(2): 1 / (1 + (pi u)^2)
    torch.testing.assert_close(torch.autograd.grad((g * y).sum(), x)[0], wanted)


@pytest.mark.parametrize("distribution", ["gaussian", "logistic", "gumbel"])
def test_noise_in_the_threshold_is_an_escape_rate(distribution):
    u, n = torch.tensor([-0.6, -0.2, 0.0, 0.3]), 20_000
    chance = {
        "gaussian": lambda z: 0.5 * (1 + math.erf(z / math.sqrt(2))),
        "logistic": lambda z: 1 / (1 + math.exp(-z)),
        "gumbel": lambda z: 1 - math.exp(-math.exp(z)),
    }[distribution]
    neuron = sl.options.Noisy(sl.IF(reset="none"), threshold=0.25, distribution=distribution, always=True).eval()
    torch.manual_seed(0)
    y, _ = neuron.sequence((1.0 + u).expand(1, n, 4))
    for found, at in zip(y[0].mean(0).tolist(), u.tolist(), strict=True):
        p = chance(at / 0.25)
        assert abs(found - p) < 5 * math.sqrt(p * (1 - p) / n) + 1e-9


@pytest.mark.parametrize("T", [32, 33])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_coloured_noise_has_its_spectrum_and_variance(T, exponent):
    torch.manual_seed(1)
    noise = draw((T, 30_000), "gaussian", exponent, torch.float64, torch.device("cpu"))
    assert float(noise.square().mean()) == pytest.approx(1.0, abs=0.02)
    power = torch.fft.rfft(noise, dim=0).abs().square().mean(1)[1 : (T + 1) // 2].log()
    f = torch.arange(1, 1 + len(power)).double().log()
    slope = ((f - f.mean()) * (power - power.mean())).sum() / (f - f.mean()).square().sum()
    assert float(slope) == pytest.approx(-exponent, abs=0.03)


def test_noise_is_for_training_repeats_by_seed_and_has_a_gradient():
    x = inputs(20, 4, 5)
    sigma = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
    neuron = sl.options.Noisy(sl.LIF(v_threshold=0.5), input=sigma, output=0.1)
    plain = sl.LIF(v_threshold=0.5).sequence(x)[0]
    assert torch.equal(neuron.eval().sequence(x)[0], plain)
    assert torch.equal(neuron.step(x[0])[0], plain[0])
    neuron.train()
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(neuron.sequence(x)[0].detach())
    assert torch.equal(*found)
    assert not torch.equal(neuron.sequence(x)[0], found[0])
    torch.manual_seed(3)
    first = neuron.step(x[0])[0]
    assert first.shape == (4, 5)
    assert not torch.equal(first, plain[0])
    # LI is linear: dL/dsigma = sum over steps of the response to the noise alone
    linear = sl.options.Noisy(sl.LI(tau=2.0), input=sigma)
    torch.manual_seed(4)
    (grad,) = torch.autograd.grad(linear.sequence(x)[0].sum(), sigma)
    torch.manual_seed(4)
    response = sl.LI(tau=2.0).sequence(draw((20, 4, 5), "gaussian", 0.0, torch.float64, x.device))[0].sum()
    torch.testing.assert_close(grad, response)


def test_coloured_noise_is_not_causal_and_noise_fits_into_networks():
    net = sl.Network(nn.Linear(3, 5), sl.options.Noisy(sl.LIF(), input=0.5, exponent=1.0))
    assert net(torch.rand(6, 2, 3)).shape == (6, 2, 5)
    with pytest.raises(ValueError, match="causal"):
        net.stream()(torch.rand(2, 3))
    white = sl.Network(nn.Linear(3, 5), nn.BatchNorm1d(5), sl.options.Noisy(sl.LIF(v_threshold=0.2), threshold=0.5))
    y = white.stream(training=True)(torch.rand(2, 3))
    assert y.shape == (2, 5)
    assert white(torch.rand(2, 3), repeat=4).shape == (4, 2, 5)
    noisy = sl.Network(
        sl.options.Noisy(sl.LIF(v_threshold=0.2), input=0.5)
    )  # a repeated input beside noise of every step
    found = []
    for backend in ("eager", "auto"):
        torch.manual_seed(5)
        with sl.backend(backend):
            found.append(noisy(torch.full((2, 3), 0.3), repeat=9))
    assert torch.equal(*found)
    assert 0 < float(found[0].mean()) < 1


def test_mpbn_normalises_what_it_fires_on():
    """Step by step with torch's own batch norm: h = v + (x - v)/tau, s = [BN(h) >= 0.4], v = h (1 - s)."""
    x = inputs(6, 8, 3)
    neuron = sl.options.MPBN(sl.LIF(tau=2.0, v_threshold=0.4), 3).double()
    norm = nn.BatchNorm1d(3).double()
    with torch.no_grad():
        for n in (neuron.norm, norm):
            n.weight.copy_(torch.tensor([1.2, 0.7, 1.0]))
            n.bias.copy_(torch.tensor([0.1, -0.1, 0.2]))
    y, state = neuron.sequence(x)
    v, spikes = torch.zeros(8, 3).double(), []
    for x_t in x:
        h = v + (x_t - v) / 2.0
        s = (norm(h) >= 0.4).double()
        v = h * (1 - s)
        spikes.append(s)
    assert 0.1 < float(y.detach().mean()) < 0.9
    assert torch.equal(y, torch.stack(spikes))
    torch.testing.assert_close(state["v"], v)
    torch.testing.assert_close(neuron.norm.running_mean, norm.running_mean)
    torch.testing.assert_close(neuron.norm.running_var, norm.running_var)
    assert all(p.grad is not None for p in neuron.parameters()) or y.sum().backward() is None
    assert float(neuron.norm.weight.grad.abs().sum()) > 0
    with pytest.raises(ValueError, match="lengths cannot be used"):
        neuron.sequence(x, lengths=torch.full((8,), 6))

    neuron.eval()  # (v_threshold - bias) sigma / weight + mean
    sigma = (norm.running_var + norm.eps).sqrt()
    wanted = (0.4 - norm.bias) * sigma / norm.weight + norm.running_mean
    folded = neuron.fold()
    torch.testing.assert_close(folded.v_threshold, wanted.detach())
    fresh = inputs(40, 8, 3, seed=7)
    with sl.backend("eager"):
        loop = neuron.sequence(fresh)[0]
    assert torch.equal(loop, folded.sequence(fresh)[0])
    assert torch.equal(loop, neuron.sequence(fresh)[0])  # and as a kernel
    assert not torch.equal(loop, sl.LIF(tau=2.0, v_threshold=0.4).sequence(fresh)[0])
    copy = sl.options.MPBN(sl.LIF(tau=2.0, v_threshold=0.4), 3).double().eval()
    copy.load_state_dict(neuron.state_dict())
    assert torch.equal(copy.sequence(fresh)[0], loop)


def test_mpbn_folds_only_what_a_threshold_can_stand_for():
    with pytest.raises(ValueError, match="a soft reset subtracts the threshold"):
        sl.options.MPBN(sl.LIF(reset="soft"), 3).fold()
    neuron = sl.options.MPBN(sl.LIF(), 3)
    with torch.no_grad():
        neuron.norm.weight[1] = -1.0
    with pytest.raises(ValueError, match="1 of 3 weights of the batch norm are not positive"):
        neuron.fold()
    with pytest.raises(ValueError, match=r"has 3 features, got a step \[2, 4\]"):
        neuron.eval().sequence(torch.rand(3, 2, 4))


def test_sigma_delta_adds_up_to_the_activation():
    """Sum of the outputs: within the threshold of f(sum of the inputs), and its gradient is that of f."""
    x = inputs(40, 3, 5).requires_grad_()
    y, _ = sl.SigmaDelta(v_threshold=0.25, activation=torch.tanh).sequence(x)
    wanted = torch.tanh(x.detach().cumsum(0))
    assert float((y.detach().cumsum(0) - wanted).abs().max()) < 0.25
    assert 0.02 < float(y.detach().ne(0).double().mean()) < 0.9
    (grad,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(grad, (1 - wanted[-1].square()).expand_as(x))


def test_few_spikes_for_a_function():
    """Error bounds of straight lines and bits: w^2 max|f''| / 8 + w max|f'| / 2^K."""
    x = torch.linspace(-5, 5, 2001, dtype=torch.float64)
    for function, first, second in ((torch.sigmoid, 0.25, 0.0963), (torch.tanh, 1.0, 0.7699)):
        for tables, K in ((8, 6), (20, 10)):
            w = 10 / tables
            neuron = sl.FewSpike.fit(function, -5.0, 5.0, K=K, tables=tables)
            with sl.backend("eager"):
                y = neuron.sequence(x.unsqueeze(0))[0][0]
            assert float((y - function(x)).abs().max()) <= w * w * second / 8 + w * first / 2**K + 1e-9
            assert neuron.spikes(x).unique().tolist() == [0.0, 1.0]
            assert neuron.spikes(x).shape == (K, 2001)
    relu = sl.FewSpike(sl.FewSpikeTable.relu(3, most=4.0))
    assert relu.sequence(torch.tensor([[-1.0, 0.4, 0.5, 1.9, 3.9, 9.0]]))[0].tolist() == [[0, 0, 0.5, 1.5, 3.5, 3.5]]
    assert relu.spikes(torch.tensor([2.6])).flatten().tolist() == [1, 0, 1]
    learned = sl.FewSpike(sl.FewSpikeTable.relu(3, most=4.0), learnable=True)
    assert len(list(learned.parameters())) == 9
