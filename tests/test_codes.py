"""Codes of values by when and by which neurons fire, and their inverses: SpikingJelly's golden files, by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import spikeloom as sl
from spikeloom import decode, encode

X = torch.tensor([[0.0, 0.2, 0.5], [0.51, 0.9, 1.0]])


def times(spikes):
    """Steps of the spikes of each neuron of the first sample."""
    return [s.nonzero().flatten().tolist() for s in spikes[:, 0].flatten(1).T]


def test_phase_by_hand():
    """Periods of 5 steps: phases round(4 (1 - x))."""
    spikes = encode.phase(X, 12, period=5)
    assert times(spikes) == [[4, 9], [3, 8], [2, 7]]
    assert times(spikes[:, 1:]) == [[2, 7], [0, 5, 10], [0, 5, 10]]
    torch.testing.assert_close(decode.phase(spikes, period=5), (4 * X).round() / 4)
    assert encode.phase(X, 3, period=1).eq(1).all()
    assert decode.phase(torch.zeros(4, 1, 2), period=2).tolist() == [[0, 0]]
    assert decode.phase(torch.zeros(4, 1, 1), period=2, silent=math.nan).isnan().all()


@pytest.mark.parametrize("bits", [3, 8])
def test_weighted_phase_is_spikingjellys(golden, bits):
    data = golden("codes")
    x = data["x"] * (1 - 2**-bits)
    spikes = encode.weighted_phase(x, bits=bits)
    assert torch.equal(spikes, data[f"weighted_phase-{bits}"].float())
    assert not torch.equal(encode.weighted_phase(data["x"] * 0.8, bits=bits), spikes)
    again = encode.weighted_phase(x, 2 * bits + 2, bits=bits)
    assert torch.equal(again[bits : 2 * bits], spikes)
    for train in (spikes, again):
        torch.testing.assert_close(decode.weighted_phase(train, bits=bits), (x * 2**bits).floor() / 2**bits)
    weighted = encode.weighted_phase(x, bits=bits, weighted=True)
    torch.testing.assert_close(weighted.sum(0), (x * 2**bits).floor() / 2**bits)


def test_weighted_phase_literally():
    assert times(encode.weighted_phase(torch.tensor([[0.75, 0.125, 0.0]]), bits=3)) == [[0, 1], [2], []]
    deep = torch.tensor([[1 - 2.0**-40]], dtype=torch.float64)
    assert encode.weighted_phase(deep, bits=40).sum() == 40
    # samples of 1, 2 and 3 whole periods of 2 steps
    spikes = torch.zeros(7, 3, 1)
    spikes[0] = spikes[3] = spikes[6] = 1
    wanted = [0.5, 0.75 / 2, 0.75 / 3]
    got = decode.weighted_phase(spikes, bits=2, lengths=torch.tensor([3, 5, 7]))
    assert got.flatten().tolist() == pytest.approx(wanted)


def test_periodic():
    pattern = torch.arange(6.0).view(3, 2, 1)
    assert encode.periodic(pattern, 7)[:, :, 0].tolist() == [[0, 1], [2, 3], [4, 5]] * 2 + [[0, 1]]
    assert encode.periodic(pattern, 2).shape == (2, 2, 1)
    batch = encode.periodic(pattern.transpose(0, 1), 7, batch_first=True)
    assert torch.equal(batch, encode.periodic(pattern, 7).transpose(0, 1))


def test_burst_by_hand():
    """ceil(5 x) spikes, ceil(10 - 8 x) steps apart; T = 41 holds them all by default, (41 - 1) / 4 = 10."""
    x = torch.tensor([[0.0, 0.1, 0.2, 0.4, 0.95, 1.0]])
    wanted = [[], [0], [0], [0, 7], [0, 3, 6, 9, 12], [0, 2, 4, 6, 8]]
    for options in ({}, dict(longest=10)):
        spikes = encode.burst(x, 41, **options)
        assert times(spikes) == wanted
    assert decode.burst(spikes).tolist() == [
        [0.0, pytest.approx(0.2), pytest.approx(0.2), pytest.approx(0.4), 1.0, 1.0]
    ]
    assert times(encode.burst(x, 8, longest=10))[3:] == [[0, 7], [0, 3, 6], [0, 2, 4, 6]]  # lost at T
    assert times(encode.burst(x, 3, n_max=1))[1:] == [[0]] * 5
    with pytest.raises(ValueError, match="5 spikes that are 2 steps apart take 9 steps, but T is 8; lower"):
        encode.burst(x, 8)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6), st.integers(9, 60), st.integers(1, 5))
@settings(max_examples=50)
def test_no_burst_is_cut_off(thousandths, T, n_max):
    values = [v / 1000 for v in thousandths]  # none within a rounding of the next spike
    spikes = encode.burst(torch.tensor([values]), T, n_max=n_max)
    wanted = [math.ceil(n_max * v - 1e-6) for v in values]
    assert spikes.sum(0)[0].tolist() == wanted
    assert decode.burst(spikes, n_max=n_max)[0].tolist() == pytest.approx([n / n_max for n in wanted])


def test_rank_order_by_hand():
    x = torch.tensor([[0.3, -1.0, 0.3, 7.0]])
    assert times(encode.rank_order(x, 4)) == [[1], [3], [2], [0]]
    assert times(encode.rank_order(x, 9)) == [[1], [3], [2], [0]]
    assert times(encode.rank_order(x, 2)) == [[0], [1], [1], [0]]  # floor(rank 2 / 4)
    values = decode.rank_order(encode.rank_order(x, 4), factor=0.5)
    assert values.tolist() == [[0.5, 0.125, 0.25, 1.0]]
    together = decode.rank_order(encode.rank_order(x, 2), factor=0.5)  # two before the two
    assert together.tolist() == [[1.0, 0.25, 0.25, 1.0]]
    spikes = encode.rank_order(x, 4)
    spikes[:, :, 3] = 0
    assert decode.rank_order(spikes, factor=0.5).tolist() == [[1.0, 0.25, 0.5, 0.0]]
    images = torch.rand(3, 2, 4, 4)
    assert torch.equal(encode.rank_order(images, 32).sum(0), torch.ones_like(images))
    assert torch.equal(encode.rank_order(images, 32).argmax(0).flatten(1).sort(1).values[1], torch.arange(32))


OPTIONS = dict(neurons=6, low=-0.2, high=1.2, std=0.3)


def test_population_is_spikingjellys(golden):
    data = golden("codes")
    spikes = encode.population(data["x"], 12, **OPTIONS)
    assert torch.equal(spikes, data["population-deterministic"].float())
    x = data["x"].clone().requires_grad_()
    centres = torch.linspace(-0.2, 1.2, 6).expand(3, 6).clone().requires_grad_()
    std = torch.full((3, 6), 0.3, requires_grad=True)
    current = encode.population(x, 12, centres=centres, std=std, code="current")
    torch.testing.assert_close(current, data["population-current"])
    grads = torch.autograd.grad((data["population-g"] * current).sum(), [x, centres, std])
    for name, grad in zip(("x", "mean", "std"), grads, strict=True):
        torch.testing.assert_close(grad, data[f"population-grad_{name}"].view_as(grad), atol=1e-5, rtol=1e-4)
    wrong = encode.population(data["x"], 12, **{**OPTIONS, "std": 0.25})
    assert not torch.equal(wrong, spikes)


def test_deterministic_spikes_are_those_of_an_integrator():
    """Ours by sl.IF with a soft reset: one neuron whose activity is 1, others less."""
    x = torch.linspace(0, 1, 23, dtype=torch.float64).unsqueeze(0)
    activity = encode.population(x, 1, code="current", **OPTIONS)
    spikes = encode.population(x, 400, **OPTIONS)
    wanted = sl.IF(v_threshold=0.999, reset="soft").sequence(activity.expand(400, 1, -1))[0]
    assert torch.equal(spikes, wanted)
    assert encode.population(torch.tensor([[0.5]]), 3000, neurons=1, std=0.1).mean() == 1


@pytest.mark.parametrize("code", ["deterministic", "random"])
def test_rates_of_a_population_are_its_activities(code):
    x = torch.tensor([[0.1, 0.6], [0.3, 1.0]], dtype=torch.float64)
    centres = torch.linspace(-0.2, 1.2, 6, dtype=torch.float64)
    activity = torch.exp(-((x.unsqueeze(-1) - centres) ** 2) / (2 * 0.3**2)).flatten(1)
    T = 10_000
    spikes = encode.population(x, T, code=code, generator=torch.Generator().manual_seed(2), **OPTIONS)
    wanted = (activity / 0.999).clamp(max=1) if code == "deterministic" else activity
    tolerance = 1 / T if code == "deterministic" else 5 * 0.5 / math.sqrt(T)
    torch.testing.assert_close(spikes.mean(0), wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("code", ["deterministic", "random", "current"])
def test_gradients_of_populations_are_those_of_the_activities(code):
    x = torch.tensor([[0.1, 0.6]], dtype=torch.float64)
    weights = torch.randn(5, 1, 8, dtype=torch.float64)
    found = []
    for kind in (code, "current"):
        leaves = [x.clone().requires_grad_(), torch.tensor([0.0, 0.3, 0.7, 1.0], dtype=torch.float64).requires_grad_()]
        spikes = encode.population(leaves[0], 5, centres=leaves[1], std=0.2, code=kind)
        assert spikes.detach().unique().numel() == 2 or kind == "current"
        found.append(torch.autograd.grad((weights * spikes).sum(), leaves))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_population_options():
    # centres 0, 0.5, 1 and widths 1/3: a = exp(-9/8) at the neighbour
    current = encode.population(torch.tensor([[0.5]]), 1, neurons=3, code="current").flatten()
    torch.testing.assert_close(current, torch.tensor([math.exp(-9 / 8), 1.0, math.exp(-9 / 8)]))
    assert encode.population(torch.rand(4), 3).shape == (3, 4, 10)
    assert encode.population(torch.rand(4, 5, 2), 3, neurons=7).shape == (3, 4, 5, 14)
    assert encode.population(torch.rand(4, 2), 3, batch_first=True).shape == (4, 3, 20)


def test_population_vector():
    """Centres 0, 0.5, 1: (0 2 + 0.5 1 + 1 1) / 4."""
    spikes = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]).unsqueeze(1)
    assert decode.population_vector(spikes, neurons=3).tolist() == [[0.375]]
    assert decode.population_vector(spikes, centres=torch.tensor([4.0, 8.0, 0.0])).tolist() == [[4.0]]
    assert decode.population_vector(spikes[2:], neurons=3).isnan().all()
    assert decode.population_vector(spikes[2:], neurons=3, silent=0.5).tolist() == [[0.5]]
    assert decode.population_vector(spikes, neurons=3, lengths=torch.tensor([1])).tolist() == [[0.25]]
    x = torch.tensor([[0.3, 0.6], [0.45, 0.5]])
    for code in ("deterministic", "current"):
        spikes = encode.population(x, 200, neurons=20, low=-0.5, high=1.5, code=code)
        torch.testing.assert_close(
            decode.population_vector(spikes, neurons=20, low=-0.5, high=1.5), x, atol=0.02, rtol=0
        )
    with pytest.raises(ValueError, match="7 outputs cannot be divided into populations of 3 neurons"):
        decode.population_vector(torch.rand(2, 1, 7), neurons=3)


def test_gaussian_tuning_is_spikingjellys(golden):
    data = golden("codes")
    options = dict(neurons=6, low=data["tuning-low"], high=data["tuning-high"])
    times = encode.gaussian_tuning_time(data["x"], 50, **options)
    torch.testing.assert_close(times, data["tuning-times"], atol=1e-4, rtol=1e-5)
    wrong = encode.gaussian_tuning_time(data["x"], 50, neurons=6)
    assert not torch.allclose(wrong, data["tuning-times"], atol=0.1)
    spikes = encode.gaussian_tuning(data["x"], 50, **options)
    steps = times.round()
    for b, i in ((0, 0), (1, 7), (4, 17)):
        assert spikes[:, b, i].nonzero().flatten().tolist() == ([int(steps[b, i])] if steps[b, i] < 50 else [])
    assert spikes.sum() == (steps < 50).sum()


def test_gaussian_tuning_and_back():
    """Times of 10,000 steps are nearly exact; of 50 they are not."""
    low, high = torch.tensor([0.0, -3.0]), torch.tensor([1.0, 5.0])
    x = low + (high - low) * torch.rand(40, 2)
    for T, tolerance in ((10_000, 2e-4), (50, 0.03)):
        spikes = encode.gaussian_tuning(x, T, neurons=6, low=low, high=high)
        back = decode.gaussian_tuning(spikes, neurons=6, low=low, high=high)
        assert float(((back - x) / (high - low)).abs().max()) < tolerance
    one = torch.zeros(10, 1, 4)
    one[3, 0, 2] = 1  # centre (2 3 - 3) / 2 / (4 - 2) = 0.75
    assert decode.gaussian_tuning(one, neurons=4).tolist() == [[0.75]]
    assert decode.gaussian_tuning(torch.zeros(10, 1, 4), neurons=4).isnan().all()


ENCODERS = {
    "phase": lambda x, T=8, **k: encode.phase(x, T, period=3, **k),
    "weighted phase": lambda x, T=8, **k: encode.weighted_phase(0.9 * x, T, bits=4, **k),
    "burst": lambda x, T=8, **k: encode.burst(x, T, n_max=3, **k),
    "rank order": lambda x, T=8, **k: encode.rank_order(x, T, **k),
    "population": lambda x, T=8, **k: encode.population(x, T, neurons=3, **k),
    "population random": lambda x, T=8, **k: encode.population(
        x, T, neurons=3, code="random", generator=torch.Generator().manual_seed(1), **k
    ),
    "population current": lambda x, T=8, **k: encode.population(x, T, neurons=3, code="current", **k),
    "gaussian tuning": lambda x, T=8, **k: encode.gaussian_tuning(x, T, neurons=4, **k),
    "periodic": lambda x, T=8, **k: encode.periodic(torch.stack([x, 1 - x], 1 if k.get("batch_first") else 0), T, **k),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_lengths_layouts_and_dtypes(name):
    call, x, lengths = ENCODERS[name], torch.rand(3, 4, dtype=torch.float64), torch.tensor([8, 2, 5])
    whole = call(x)
    assert whole.ne(0).double().mean() > 0
    ragged = call(x, lengths=lengths)
    for b, n in enumerate(lengths.tolist()):
        assert torch.equal(ragged[:n, b], whole[:n, b])
        assert (ragged[n:, b] == 0).all()
    assert torch.equal(call(x, batch_first=True), whole.transpose(0, 1))
    assert torch.equal(call(x, batch_first=True, lengths=lengths), ragged.transpose(0, 1))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert call(x.to(dtype)).dtype == dtype
    assert call(torch.rand(3, 4, device="meta")).shape == whole.shape
    assert call(torch.rand(3, 0)).shape == (8, 3, 0)
    with pytest.raises(ValueError, match=r"NaN|must lie in \[0"):
        call(torch.tensor([[math.nan, 0.5]]))
    with pytest.raises(ValueError, match=r"at least 1, got 0"):
        call(x, 0)


DECODERS = {
    "phase": lambda s, **k: decode.phase(s, period=3, **k),
    "burst": lambda s, **k: decode.burst(s, n_max=3, **k),
    "rank order": decode.rank_order,
    "population vector": lambda s, **k: decode.population_vector(s, neurons=2, silent=0.0, **k),
    "gaussian tuning": lambda s, **k: decode.gaussian_tuning(s, neurons=4, silent=0.0, **k),
    "weighted phase": lambda s, **k: decode.weighted_phase(s, bits=2, **k),
}


def test_periodic_patterns_come_back():
    pattern = torch.rand(3, 2, 4)
    for T in (3, 8):  # whole periods, and a part of one
        torch.testing.assert_close(decode.periodic(encode.periodic(pattern, T), period=3), pattern)
    s = torch.tensor([1.0, 0.0, 0.0, 1.0, 5.0]).view(5, 1, 1).expand(5, 2, 1)
    got = decode.periodic(s, period=2, lengths=torch.tensor([5, 4]))
    assert got.flatten(1).tolist() == [[2.0, 0.5], [0.5, 0.5]]
    swapped = decode.periodic(s.transpose(0, 1), period=2, lengths=torch.tensor([5, 4]), batch_first=True)
    assert torch.equal(swapped, got.transpose(0, 1))
    packed = sl.pack((s > 0).float().contiguous())
    assert torch.equal(decode.periodic(packed, period=2), decode.periodic((s > 0), period=2))
    for short in (lambda: decode.periodic(s, period=6), lambda: decode.periodic(s, period=4, lengths=[5, 3])):
        with pytest.raises(ValueError, match=r"a whole period of . steps at least"):
            short()


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_count_valid_steps_alone(name):
    """Padding of NaN changes nothing; a sample is what it is alone."""
    call, s, lengths = DECODERS[name], (torch.rand(6, 3, 4) < 0.4).float(), torch.tensor([6, 2, 4])
    padded = s.clone()
    for b, n in enumerate(lengths.tolist()):
        padded[n:, b] = torch.nan
    got = call(padded, lengths=lengths)
    cleared = s.clone()
    for b, n in enumerate(lengths.tolist()):
        cleared[n:, b] = 0
        alone = cleared[:, b : b + 1] if name == "gaussian tuning" else s[:n, b : b + 1]  # whose T is the encoder's
        torch.testing.assert_close(got[b : b + 1], call(alone))
    assert torch.equal(call(padded.transpose(0, 1), lengths=lengths, batch_first=True), got)
    for dtype in (torch.bool, torch.int64, torch.bfloat16):
        assert call(s.to(dtype)).dtype == torch.float32
    assert torch.equal(call(sl.pack(s)), call(s))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: encode.phase(X, 4, period=0), "encode.phase: period must be a whole number of at least 1, got 0"),
        (lambda: encode.phase(X + 1, 4, period=2), r"x must lie in \[0, 1\], got 1 to 2; rescale it"),
        (
            lambda: encode.weighted_phase(X, bits=4),
            r"in \[0, 0.9375\], got 0 to 1; multiply numbers up to 1 by 1 - 2\*\*-4",
        ),
        (lambda: encode.weighted_phase(X, bits=53), "bits must be at most 52, got 53"),
        (lambda: encode.burst(X, 9, longest=1), "longest must be a whole number of at least 2, got 1"),
        (lambda: encode.population(X, 9, code="rate"), "one of deterministic, random, current; got 'rate'"),
        (lambda: encode.population(X, 9, neurons=1), "a single neuron has no neighbour; give std"),
        (lambda: encode.population(X, 9, std=0.0), "std must be positive, got 0.0"),
        (lambda: encode.population(X, 9, low=1.0), "low must be below high, got 1.0 and 1.0"),
        (lambda: encode.population(X, 9, threshold=0.0), "threshold must be positive"),
        (lambda: encode.population(X, 9, centres=torch.rand(2, 5)), r"\[F, neurons\] with F = 3, got \[2, 5\]"),
        (lambda: encode.gaussian_tuning(X, 9, neurons=2), "neurons must be a whole number of at least 3, got 2"),
        (lambda: encode.gaussian_tuning(X, 9, low=2.0), "low must be below high"),
        (lambda: decode.rank_order(torch.rand(2, 1, 3), factor=0.0), "factor must be above 0"),
        (lambda: decode.weighted_phase(torch.rand(2, 1, 3), bits=3), "a whole period of 3 steps at least"),
        (lambda: decode.weighted_phase(torch.rand(4, 1, 3), bits=3, lengths=torch.tensor([2])), "a whole period"),
        (lambda: decode.burst(torch.rand(2, 1, 3), n_max=0), "decode.burst: n_max must be a whole number"),
    ],
)
def test_wrong_use(call, message):
    with pytest.raises(ValueError, match=message):
        call()
