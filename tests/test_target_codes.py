"""Target codes against what snnTorch 1.0.0 printed for the same arguments, literal cases and closed forms."""

import pytest
import torch

import spikeloom as sl
from spikeloom import encode

ONE = torch.tensor([1])


@pytest.mark.parametrize(
    ("T", "first", "rate", "steps"),  # spikegen.target_rate_code(T, first, rate)
    [
        (10, 0, 0.3, [0, 3, 6]),
        (10, 2, 0.3, [2, 5, 8]),
        (9, 1, 1 / 3, [1, 4, 7]),
        (10, 0, 0.7, [0, 1, 2, 4, 5, 7, 8]),
        (12, 3, 0.25, [3, 7, 11]),
        (5, 0, 1.0, [0, 1, 2, 3, 4]),
        (5, 2, 0.0, []),
    ],
)
def test_regular_rates_are_snntorchs(T, first, rate, steps):
    spikes = encode.target_rate(ONE, 2, T, correct_rate=rate, first_spike_time=first)
    assert spikes.shape == (T, 1, 2)
    assert spikes[:, 0, 1].nonzero().flatten().tolist() == steps
    assert spikes[:, 0, 0].sum() == 0


def test_classes_have_their_own_rates():
    target = torch.tensor([2, 0])
    spikes = encode.target_rate(target, 3, 100, correct_rate=0.29, incorrect_rate=0.05)
    assert spikes.sum(0).tolist() == [[5, 5, 29], [29, 5, 5]]  # snnTorch stops at an incorrect rate
    assert sl.loss.count_mse(spikes, target, correct_rate=0.29, incorrect_rate=0.05) == 0
    again = encode.target_rate(target, 3, 100, correct_rate=0.29, incorrect_rate=0.05, batch_first=True)
    assert torch.equal(again.transpose(0, 1), spikes)


def test_random_patterns_have_their_rates():
    target = torch.arange(200) % 2
    poisson = encode.target_rate(target, 2, 500, correct_rate=0.4, incorrect_rate=0.1, pattern="poisson")
    uniform = encode.target_rate(target, 2, 500, correct_rate=0.4, incorrect_rate=0.1, pattern="uniform")
    assert set(poisson.unique().tolist()) == set(uniform.unique().tolist()) == {0.0, 1.0}
    # of n draws among T steps, T (1 - (1 - 1/T)^n) steps have at least one
    for rate, column in ((0.4, 1), (0.1, 0)):  # of the samples whose class is 1
        drawn = poisson[:, 1::2, column]
        assert drawn.mean() == pytest.approx(rate, abs=5 * (rate * (1 - rate) / drawn.numel()) ** 0.5)
        assert uniform[:, 1::2, column].mean() == pytest.approx(1 - (1 - 1 / 500) ** (500 * rate), abs=0.01)
    late = encode.target_rate(ONE, 2, 9, correct_rate=0.9, incorrect_rate=0.9, pattern="uniform", first_spike_time=7)
    assert late[:7].sum() == 0
    assert late[7:].sum() > 0
    made = [
        encode.target_rate(ONE, 2, 30, correct_rate=0.5, pattern="poisson", generator=torch.Generator().manual_seed(3))
        for _ in "ab"
    ]
    assert torch.equal(*made)


def test_latencies_are_snntorchs():
    # spikegen.targets_latency(ONE, 2, num_steps=6, normalize=True, ...): the class at first_spike_time, others last
    assert encode.target_latency(ONE, 2, 6)[:, 0].T.tolist() == [[0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0]]
    assert encode.target_latency(ONE, 2, 6, on_target=2)[:, 0].T.tolist() == [[0, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0]]
    clipped = encode.target_latency(ONE, 2, 6, on_target=2, silent=True)  # clip=True
    assert clipped[:, 0].T.tolist() == [[0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]


def test_latencies_are_what_the_losses_of_times_want():
    target, lengths = torch.tensor([2, 0, 1]), torch.tensor([5, 7, 3])
    spikes = encode.target_latency(target, 4, 7, lengths=lengths)
    assert sl.decode.first_spike(spikes, lengths=lengths).tolist() == [[4, 4, 0, 4], [0, 6, 6, 6], [2, 0, 2, 2]]
    assert sl.loss.first_spike_mse(spikes, target, lengths=lengths) == 0
    early = encode.target_latency(target, 4, 7, on_target=1, off_target=4)
    assert sl.loss.first_spike_mse(early, target, on_target=1, off_target=4) == 0


@pytest.mark.parametrize(
    ("steps", "T", "wanted"),  # spikegen.rate_interpolate(steps, T, on_target=1, off_target=0.25)
    [
        ([0, 3, 6], 10, [1, 0.25, 0.625, 1, 0.25, 0.625, 1, 0.25, 0.25, 0.25]),
        ([2, 5, 8], 10, [0.25, 0.625, 1, 0.25, 0.625, 1, 0.25, 0.625, 1, 0.25]),
        ([1, 4, 7], 9, [0.25, 1, 0.25, 0.625, 1, 0.25, 0.625, 1, 0.25]),
        ([], 3, [0.25, 0.25, 0.25]),
    ],
)
def test_ramps_are_snntorchs(steps, T, wanted):
    spikes = torch.zeros(T, 1, 1)
    spikes[steps] = 1
    assert encode.ramp(spikes, on=1.0, off=0.25).flatten().tolist() == wanted


def test_ramps_to_latencies_are_snntorchs():
    # spikegen.targets_latency(ONE, 2, num_steps=6, first_spike_time=2, normalize=True, interpolate=True)
    ramp = encode.ramp(encode.target_latency(ONE, 2, 6, on_target=2))[:, 0].T
    torch.testing.assert_close(ramp, torch.tensor([[0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 0.5, 1.0, 0.0, 0.0, 0.0]]))


def test_ramps_end_where_samples_end():
    spikes = torch.tensor([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])  # [T, B]
    ramp = encode.ramp(spikes, lengths=torch.tensor([4, 2]))
    assert ramp.T.tolist() == [[0, 0.5, 1, 1], [1, 0, 0, 0]]
    assert torch.equal(encode.ramp(spikes.T, batch_first=True), encode.ramp(spikes).T)
    assert encode.ramp(torch.tensor([[0], [0], [1]])).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: encode.target_rate(torch.tensor([2]), 2, 5), "classes must lie between 0 and num_classes-1 = 1"),
        (lambda: encode.target_rate(torch.tensor([0.5]), 2, 5), r"int64 \[B\], got \[1\] of torch.float32"),
        (lambda: encode.target_rate(ONE, 2, 5, correct_rate=1.5), "correct_rate must be between 0 and 1"),
        (lambda: encode.target_rate(ONE, 2, 5, pattern="even"), "one of regular, uniform, poisson; got 'even'"),
        (lambda: encode.target_rate(ONE, 2, 0), "T must be a whole number of at least 1, got 0"),
        (lambda: encode.target_latency(ONE, 2, 5, on_target=5), "on_target must be .* between 0 and T-1 = 4, got 5"),
        (lambda: encode.target_latency(ONE, 2, 5, off_target=-1), "off_target must be"),
    ],
)
def test_what_cannot_be_coded_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()
