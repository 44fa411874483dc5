"""Accuracies by hand."""

import pytest
import torch

from spikeloom import metrics

# B = 3: rates 2:1, 1:2, silent; first spikes at (1, 0), (0, 1), never
S = torch.zeros(4, 3, 2)
S[1:3, 0, 0] = 1
S[0, 0, 1] = 1
S[0, 1, 0] = 1
S[1:3, 1, 1] = 1


def test_by_rate():
    assert float(metrics.accuracy_rate(S, torch.tensor([0, 1, 0]))) == 1.0  # a tie goes to the lower class
    assert float(metrics.accuracy_rate(S, torch.tensor([1, 1, 1]))) == pytest.approx(1 / 3)


def test_by_first_spike_a_silent_sample_is_wrong():
    assert float(metrics.accuracy_first_spike(S, torch.tensor([1, 0, 0]))) == pytest.approx(2 / 3)
    assert float(metrics.accuracy_first_spike(S, torch.tensor([0, 1, 1]))) == 0.0


def test_lengths_cut():
    lengths = torch.tensor([1, 1, 4])
    assert float(metrics.accuracy_rate(S, torch.tensor([1, 0, 0]), lengths=lengths)) == 1.0
    assert float(metrics.accuracy_first_spike(S, torch.tensor([1, 0, 0]), lengths=lengths)) == pytest.approx(2 / 3)


def test_by_population():
    s = torch.zeros(2, 1, 4)
    s[:, 0, 3] = 1
    s[0, 0, 0] = 1
    assert float(metrics.accuracy_population(s, torch.tensor([1]), 2)) == 1.0
    assert float(metrics.accuracy_population(s, torch.tensor([1]), 2, lengths=torch.tensor([1]))) == 0.0


def test_wrong_targets_raise():
    for call in (metrics.accuracy_rate, metrics.accuracy_first_spike):
        with pytest.raises(ValueError, match=r"\[B\] = \[3\], got \[2\]"):
            call(S, torch.tensor([0, 1]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.bool, torch.int32])
def test_one_spike_more_decides(dtype):
    s = torch.zeros(3000, 2, 2)
    s[:2500, :, 0] = s[:2501, :, 1] = 1  # both are 2,500 in float16 and 2,496 in bfloat16
    s[:, 1] = s[:, 1].flip(-1)
    s, y = s.to(dtype), torch.tensor([1, 0])
    assert metrics.accuracy_rate(s, y) == 1.0
    assert metrics.accuracy_population(s, y, 2) == 1.0
    late = torch.zeros(3000, 1, 2)
    late[2050, 0, 0] = late[2049, 0, 1] = 1
    assert metrics.accuracy_first_spike(late.to(dtype), torch.tensor([1])) == 1.0


def test_ignored_samples_batch_first_and_nan():
    calls = (
        metrics.accuracy_rate,
        metrics.accuracy_first_spike,
        lambda *a, **k: metrics.accuracy_population(*a, 2, **k),
    )
    s = torch.zeros(3, 3, 2)  # T = B; sample b of [B, T, C]: class 0, class 1, class 0
    s[0, 1, 0] = s[1, 0, 1] = s[2, 0, 0] = 1
    for call in calls:
        assert call(s, torch.tensor([0, 1, 0]), batch_first=True) == 1.0
        assert call(s.transpose(0, 1), torch.tensor([0, 1, 0])) == 1.0
        assert call(s, torch.tensor([0, 0, 0]), batch_first=True) == pytest.approx(2 / 3)
        assert call(s, torch.tensor([0, -100, 1]), batch_first=True) == 0.5  # of the two that count
        assert call(s, torch.tensor([0, 7, 0]), batch_first=True, ignore_index=7) == 1.0
        assert call(s, torch.full((3,), -100)).isnan()
        with pytest.raises(ValueError, match=r"class indices, \[B\] = \[3\], got \[3, 2\] of torch.float32; .*argmax"):
            call(s, torch.ones(3, 2))
    diverged = torch.full((2, 2, 2), float("nan"))
    assert metrics.accuracy_rate(diverged, torch.tensor([0, 1])) == 0.0


def test_a_share_is_exact_whatever_the_default_dtype():
    s, y = torch.ones(2, 1001, 1), torch.zeros(1001, dtype=torch.int64)
    y[0] = 5
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = metrics.accuracy_rate(s, y)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.item() == pytest.approx(1000 / 1001, rel=1e-6)


@pytest.mark.parametrize("metric", [metrics.accuracy_rate, metrics.accuracy_first_spike])
def test_no_classes(metric):
    with pytest.raises(ValueError, match=r"expected \[T, B, C\] with C > 0, got \[3, 2, 0\]"):
        metric(torch.ones(3, 2, 0), torch.tensor([0, 1]))
