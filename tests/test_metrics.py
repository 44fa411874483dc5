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
