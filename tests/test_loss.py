"""Losses: by hand, against snnTorch's golden values, weights and reductions as torch, lengths as shorter runs."""

import math

import pytest
import torch
from torch.nn import functional as F

from spikeloom import loss, metrics

Y = torch.tensor([1, 0])
S = torch.tensor([[[0, 1], [1, 0]], [[0, 1], [0, 1]], [[1, 1], [0, 0]]], dtype=torch.float64)  # [T=3, B=2, C=2]


def ce(logits, y):
    return -logits[y] + math.log(sum(math.exp(z) for z in logits))


def test_rate_and_count_cross_entropy_by_hand():
    b0 = (ce([0, 1], 1) + ce([0, 1], 1) + ce([1, 1], 1)) / 3
    b1 = (ce([1, 0], 0) + ce([0, 1], 0) + ce([0, 0], 0)) / 3
    assert loss.rate_cross_entropy(S, Y, reduction="none").tolist() == pytest.approx([b0, b1])
    assert float(loss.rate_cross_entropy(S, Y)) == pytest.approx((b0 + b1) / 2)
    c0, c1 = ce([1, 3], 1), ce([1, 1], 0)
    assert loss.count_cross_entropy(S, Y, reduction="none").tolist() == pytest.approx([c0, c1])
    assert float(loss.count_cross_entropy(S, Y, reduction="sum")) == pytest.approx(c0 + c1)


def test_population_forms_by_hand():
    s = torch.zeros(3, 1, 4, dtype=torch.float64)
    s[:, 0, 0], s[:2, 0, 1], s[0, 0, 3] = 1, 1, 1  # counts 3 2 | 0 1
    y = torch.tensor([0])
    assert float(loss.count_cross_entropy(s, y, num_classes=2)) == pytest.approx(ce([5, 1], 0))
    # wanted counts: 2 neurons x floor(3 x .8) = 4 and 2 x floor(3 x .2) = 0
    value = loss.count_mse(s, y, num_classes=2, correct_rate=0.8, incorrect_rate=0.2)
    assert float(value) == pytest.approx(((5 - 4) ** 2 + (1 - 0) ** 2) / 2 / 3)
    assert float(metrics.accuracy_population(s, y, 2)) == 1.0


def test_membrane_losses_by_hand():
    v = torch.tensor([[[0.5, -1.0]], [[2.0, 0.0]]], dtype=torch.float64)
    y = torch.tensor([1])
    assert float(loss.max_membrane_cross_entropy(v, y)) == pytest.approx(ce([2, 0], 1))
    # step 0: (.5-.1)^2, (-1-.9)^2; step 1: (2-.1)^2, (0-.9)^2
    wanted = ((0.16 + 3.61) / 2 + (3.61 + 0.81) / 2) / 2
    assert float(loss.membrane_mse(v, y, on_target=0.9, off_target=0.1)) == pytest.approx(wanted)
    course = torch.zeros_like(v)
    assert float(loss.membrane_mse(v, course)) == pytest.approx((0.25 + 1 + 4) / 4)
    assert float(loss.membrane_mse(v, torch.tensor([[1.0, 0.0]]))) == pytest.approx((0.25 + 1 + 1) / 4)


def test_first_spike_losses_by_hand():
    s = torch.zeros(4, 1, 3, dtype=torch.float64)
    s[1, 0, 0], s[2, 0, 1] = 1, 1  # times 1, 2, silent
    y = torch.tensor([0])
    assert float(loss.first_spike_cross_entropy(s, y)) == pytest.approx(ce([-1, -2, -4], 0))
    assert float(loss.first_spike_cross_entropy(s, y, silent=3)) == pytest.approx(ce([-1, -2, -3], 0))
    value = loss.first_spike_cross_entropy(s, y, inverse="reciprocal")
    assert float(value) == pytest.approx(ce([1 / 2, 1 / 3, 1 / 5], 0))
    # class at 0, the others at T-1 = 3: errors 1, -1, 1
    assert float(loss.first_spike_mse(s, y)) == pytest.approx(1 / 16)
    assert float(loss.first_spike_mse(s, y, tolerance=1.0)) == 0
    assert float(loss.first_spike_mse(s, y, on_target=1.0, off_target=2.0)) == pytest.approx(4 / 16 / 3)
    times = torch.tensor([[1.0, 0.0, 4.0]])
    assert float(loss.first_spike_mse(s, times)) == pytest.approx(4 / 16 / 3)


def test_first_spike_gradient_pulls_the_class_earlier():
    s = torch.zeros(4, 1, 2)
    s[2] = 1
    s.requires_grad_()
    loss.first_spike_cross_entropy(s, torch.tensor([0])).backward()
    assert s.grad[2, 0, 0] < 0 < s.grad[2, 0, 1]  # descent raises the class's spike
    assert s.grad[[0, 1, 3]].abs().sum() == 0


def test_tet_in_both_forms_by_hand():
    o = torch.tensor([[[0.2, 1.0]], [[-0.4, 0.6]]], dtype=torch.float64)
    y = torch.tensor([1])
    steps = (ce([0.2, 1.0], 1) + ce([-0.4, 0.6], 1)) / 2
    paper = ((0.2 - 1) ** 2 + 0 + (-0.4 - 1) ** 2 + (0.6 - 1) ** 2) / 4
    assert float(loss.tet(o, y, lamb=0.05)) == pytest.approx(0.95 * steps + 0.05 * paper)
    assert float(loss.tet(o, y, lamb=0.0)) == pytest.approx(steps)
    mean = ce([-0.1, 0.8], 1)
    assert float(loss.tet(o, y, lamb=0.1, form="mean_output")) == pytest.approx(0.9 * steps + 0.1 * mean)
    with pytest.raises(ValueError, match="paper or mean_output"):
        loss.tet(o, y, form="snetx")


def test_against_snntorch(golden):
    data = golden("snntorch")
    s, v, y = data["loss/spikes"].float(), data["gs"], data["loss/target"]
    T = s.shape[0]
    values = {
        "rate_cross_entropy": loss.rate_cross_entropy(s, y),
        "count_cross_entropy": loss.count_cross_entropy(s, y),
        "max_membrane_cross_entropy": loss.max_membrane_cross_entropy(v, y),
        "count_mse": loss.count_mse(s, y, correct_rate=0.8, incorrect_rate=0.2),
        "membrane_mse": loss.membrane_mse(v, y, on_target=1.1, off_target=0.2),
        "first_spike_negate": loss.first_spike_cross_entropy(s, y, silent=T - 1),
        "first_spike_reciprocal": loss.first_spike_cross_entropy(s, y, inverse="reciprocal", silent=T - 1),
        "accuracy_rate": metrics.accuracy_rate(s, y),
    }
    for name, value in values.items():
        assert float(value) == pytest.approx(float(data[f"loss/{name}"]), rel=2e-6), name
    s = s.requires_grad_()
    (g,) = torch.autograd.grad(loss.first_spike_cross_entropy(s, y, silent=T - 1), s)
    torch.testing.assert_close(g, data["loss/first_spike_grad"])


ALL = {
    "rate": loss.rate_cross_entropy,
    "count": loss.count_cross_entropy,
    "population": lambda s, y, **k: loss.count_cross_entropy(s.repeat_interleave(3, -1), y, num_classes=5, **k),
    "max membrane": loss.max_membrane_cross_entropy,
    "count mse": loss.count_mse,
    "membrane mse": loss.membrane_mse,
    "first spike": loss.first_spike_cross_entropy,
    "first spike mse": loss.first_spike_mse,
    "tet": loss.tet,
    "tet mean": lambda s, y, **k: loss.tet(s, y, form="mean_output", **k),
}


@pytest.mark.parametrize("name", ALL)
def test_weights_and_reductions_are_torchs(name):
    s, y = (torch.rand(6, 4, 5) > 0.6).double(), torch.tensor([0, 3, 3, 1])
    w = torch.tensor([1.0, 2.0, 3.0, 0.5, 4.0]).double()
    each = ALL[name](s, y, reduction="none")
    assert each.shape == (4,)
    torch.testing.assert_close(ALL[name](s, y), each.mean())
    torch.testing.assert_close(ALL[name](s, y, weight=w, reduction="none"), w[y] * each)
    torch.testing.assert_close(ALL[name](s, y, weight=w, reduction="sum"), (w[y] * each).sum())
    torch.testing.assert_close(ALL[name](s, y, weight=w), (w[y] * each).sum() / w[y].sum())
    if name == "count":  # the same rule as torch's own
        torch.testing.assert_close(ALL[name](s, y, weight=w), F.cross_entropy(s.sum(0), y, weight=w))
    with pytest.raises(ValueError, match="one of mean, sum, none; got 'avg'"):
        ALL[name](s, y, reduction="avg")


@pytest.mark.parametrize("name", ALL)
def test_with_lengths_each_sample_counts_as_its_own_shorter_run(name):
    s, y = (torch.rand(6, 3, 5) > 0.6).double() - 0.3, torch.tensor([0, 3, 1])
    s = s if "spike" not in name else (s > 0).double()
    lengths = torch.tensor([2, 6, 4])
    got = ALL[name](s.requires_grad_(), y, reduction="none", lengths=lengths)
    for b, n in enumerate(lengths):
        torch.testing.assert_close(got[b], ALL[name](s[:n, b : b + 1], y[b : b + 1]))
    (g,) = torch.autograd.grad(got.sum(), s)
    for b, n in enumerate(lengths):
        assert (g[n:, b] == 0).all()


def test_label_smoothing_is_torchs():
    s, y = torch.randn(4, 3, 5), torch.tensor([0, 3, 1])
    torch.testing.assert_close(
        loss.count_cross_entropy(s, y, label_smoothing=0.1), F.cross_entropy(s.sum(0), y, label_smoothing=0.1)
    )


@pytest.mark.parametrize("name", ALL)
def test_bad_targets_raise(name):
    s = torch.rand(6, 3, 5)
    for y in (torch.tensor([0, 1]), torch.tensor([0, 1, 2], dtype=torch.int32), torch.zeros(3, 5, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"class indices, int64 \[B\] = \[3\]"):
            ALL[name](s, y)


def test_other_bad_input_raises():
    v = torch.rand(4, 2, 3)
    with pytest.raises(ValueError, match=r"\[T, B, C\] = \[4, 2, 3\] or \[B, C\], got \[3, 2\]"):
        loss.membrane_mse(v, torch.rand(3, 2))
    with pytest.raises(ValueError, match="weight belongs to class targets"):
        loss.membrane_mse(v, torch.rand(2, 3), weight=torch.ones(3))
    with pytest.raises(ValueError, match="times must be"):
        loss.first_spike_mse(v, torch.rand(3))
    with pytest.raises(ValueError, match="negate or reciprocal"):
        loss.first_spike_cross_entropy(v, torch.tensor([0, 1]), inverse="no")
    with pytest.raises(ValueError, match=r"expected \[T, B, C\]"):
        loss.rate_cross_entropy(torch.rand(4, 2), torch.tensor([0, 1]))
