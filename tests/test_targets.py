"""What losses take for targets, and what counts of them: torch's own cross entropy says what is right, for one step and
for the rows of many; padding and ignored rows may hold anything.
"""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spikeloom as sl
from spikeloom import loss

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.25])
CROSS = {
    "rate": loss.rate_cross_entropy,
    "count": loss.count_cross_entropy,
    "max membrane": loss.max_membrane_cross_entropy,
    "tet": lambda o, y, **k: loss.tet(o, y, lamb=0.0, **k),
    "tet mean": lambda o, y, **k: loss.tet(o, y, lamb=0.3, form="mean_output", **k),
}
FIRST = {"first spike": loss.first_spike_cross_entropy, "first spike mse": loss.first_spike_mse}
SQUARES = {"count mse": loss.count_mse, "membrane mse": loss.membrane_mse, "tet paper": loss.tet}
ALL = {**CROSS, **FIRST, **SQUARES}
BY_STEP = ("rate", "tet", "tet paper", "membrane mse")


def shares(*shape):
    return torch.rand(*shape).softmax(-1)


def classes(*shape, ignored=()):
    y = torch.randint(5, shape)
    y[list(ignored)] = -100
    return y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CROSS)
def test_one_step_is_torchs_cross_entropy(name, dtype):
    """Of the same numbers in float32 (or float64), which is what half-precision outputs are computed in."""
    o = torch.randn(1, 7, 5).to(dtype)
    rows = o[0].to(torch.float64 if dtype == torch.float64 else torch.float32)
    targets = (classes(7), classes(7, ignored=(1, 4)), shares(7, 5).to(rows.dtype))
    options = itertools.product(targets, (None, WEIGHT.to(rows.dtype)), (0.0, 0.1, 1.0), ("mean", "sum", "none"))
    for y, weight, smoothing, reduction in options:
        given = dict(weight=weight, label_smoothing=smoothing, reduction=reduction)
        wanted = F.cross_entropy(rows, y, **given)
        for first in (False, True):
            got = CROSS[name](o.transpose(0, 1) if first else o, y, batch_first=first, **given)
            torch.testing.assert_close(got, wanted, msg=f"{y.dtype} {given} {first}")  # and the same dtype


@pytest.mark.parametrize("name", ["rate", "count", "max membrane"])
def test_infinite_outputs_are_whatever_they_are_in_torch(name):
    o = torch.randn(1, 4, 5)
    o[0, 0, 2], o[0, 1, 3], o[0, 2, 1], o[0, 3] = math.inf, math.inf, -math.inf, -math.inf
    for y in (torch.tensor([2, 1, 0, 0]), torch.tensor([0, 3, 1, 4]), shares(4, 5)):
        wanted = F.cross_entropy(o[0], y, reduction="none")
        torch.testing.assert_close(CROSS[name](o, y, reduction="none"), wanted, equal_nan=True)


@pytest.mark.parametrize("name", ALL)
def test_autocast_changes_no_loss(name):
    o, weight = (torch.randn(300, 3, 5) > 0).bfloat16(), WEIGHT * 1.01
    for y in (classes(3), shares(3, 5)):
        if y.ndim == 2 and name in ("membrane mse", "first spike mse"):
            continue
        wanted = ALL[name](o, y, weight=weight)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(ALL[name](o, y, weight=weight), wanted)


def test_first_spikes_and_an_ignore_index_among_the_classes():
    s = torch.eye(5).unsqueeze(1).expand(5, 2, 5)  # class c fires at step c
    y, times = torch.tensor([1, 2]), torch.arange(5.0).expand(2, 5)
    got = loss.first_spike_cross_entropy(s, y, weight=WEIGHT, label_smoothing=0.2, ignore_index=2)
    torch.testing.assert_close(got, F.cross_entropy(-times, y, weight=WEIGHT, label_smoothing=0.2, ignore_index=2))
    mixed = shares(2, 5)
    torch.testing.assert_close(loss.first_spike_cross_entropy(s, mixed), F.cross_entropy(-times, mixed))


@pytest.mark.parametrize("name", ["rate", "tet"])
@pytest.mark.parametrize("first", [False, True])
def test_targets_for_each_step_are_torchs_over_all_rows(name, first):
    o, given = torch.randn(6, 3, 5), classes(6, 3)
    given[[0, 2, 5], [1, 1, 2]] = -100
    swap = (lambda x: x.transpose(0, 1)) if first else (lambda x: x)
    for y, weight, smoothing in itertools.product((given, shares(6, 3, 5)), (None, WEIGHT), (0.0, 0.1)):
        options = dict(weight=weight, label_smoothing=smoothing)
        got = CROSS[name](swap(o), swap(y), batch_first=first, **options)
        torch.testing.assert_close(got, F.cross_entropy(o.flatten(0, 1), y.flatten(0, 1), **options))
    constant = classes(3)
    torch.testing.assert_close(
        CROSS[name](o, constant.expand(6, 3), reduction="none"), CROSS[name](o, constant, reduction="none")
    )


def test_a_batch_as_long_as_its_sequences_is_read_as_it_is_said():
    o, y = torch.randn(4, 4, 5), classes(4)
    assert loss.rate_cross_entropy(o, y) != loss.rate_cross_entropy(o, y, batch_first=True)
    for name, f in ALL.items():
        x = (o > 0).float() if "first" in name else o
        each = torch.stack([f(x[b].unsqueeze(1), y[b : b + 1]) for b in range(4)])
        torch.testing.assert_close(f(x, y, reduction="none", batch_first=True), each, msg=name)


def test_membranes_that_shall_have_a_class_at_each_step():
    v, y = torch.randn(3, 2, 5), classes(3, 2)
    wanted = torch.where(F.one_hot(y, 5).bool(), 0.9, 0.1)
    torch.testing.assert_close(loss.membrane_mse(v, y, on_target=0.9, off_target=0.1), F.mse_loss(v, wanted))
    torch.testing.assert_close(loss.membrane_mse(v, wanted), F.mse_loss(v, wanted))
    swapped = loss.membrane_mse(v.transpose(0, 1), wanted.transpose(0, 1), batch_first=True)
    torch.testing.assert_close(swapped, F.mse_loss(v, wanted))
    kept = y.clone()
    kept[0, 0] = -100  # one of six rows
    each = (v - torch.where(F.one_hot(y, 5).bool(), 1.0, 0.0)).square().mean(-1)
    torch.testing.assert_close(loss.membrane_mse(v, kept), (each.sum() - each[0, 0]) / 5)


def test_shares_mix_the_wanted_counts():
    s = torch.zeros(10, 1, 2, dtype=torch.float64)
    s[:5, 0, 0], s[:2, 0, 1] = 1, 1  # counts 5 and 2
    # 10 (0.1 + 0.75 (0.9 - 0.1)) = 7 and 10 (0.1 + 0.25 0.8) = 3
    value = loss.count_mse(s, torch.tensor([[0.75, 0.25]]), correct_rate=0.9, incorrect_rate=0.1)
    assert value.item() == pytest.approx(((5 - 7) ** 2 + (2 - 3) ** 2) / 2 / 10)


def test_a_wanted_count_is_rounded_down_from_the_number_and_not_from_its_binary_form():
    s = torch.ones(100, 1, 2)  # 100 0.29 is 29, which binary floats put at 28.999999999999996
    for dtype in DTYPES:
        value = loss.count_mse(s.to(dtype), torch.tensor([0]), correct_rate=0.29, incorrect_rate=1.0)
        assert value.item() == pytest.approx((100 - 29) ** 2 / 2 / 100)


@pytest.mark.parametrize("name", ALL)
def test_what_is_ignored_counts_nowhere(name):
    o, y, kept = (torch.randn(4, 5, 5) > 0).double(), classes(5, ignored=(1, 3)), torch.tensor([0, 2, 4])
    for weight in (None, WEIGHT.double()):
        for reduction in ("mean", "sum"):
            got = ALL[name](o, y, weight=weight, reduction=reduction)
            torch.testing.assert_close(got, ALL[name](o[:, kept], y[kept], weight=weight, reduction=reduction))
        assert ALL[name](o, y, weight=weight, reduction="none")[[1, 3]].tolist() == [0, 0]
    nothing = torch.full((5,), -100)
    assert math.isnan(ALL[name](o, nothing))  # as torch's mean
    assert ALL[name](o, nothing, reduction="sum") == 0
    marked = o.clone()
    marked[:, [1, 3]] = math.nan
    marked.requires_grad_()
    ALL[name](marked, y).backward()
    assert marked.grad.isfinite().all()
    assert (marked.grad[:, [1, 3]] == 0).all()


def forms(name):
    """Targets of all forms that a loss takes, T = 6, B = 3, C = 5, and whether they have a value for each step."""
    yield classes(3), False
    yield classes(3, ignored=(1,)), False
    if name in BY_STEP:
        yield classes(6, 3), True
    if name in ("membrane mse", "first spike mse"):
        yield torch.randn(3, 5), False
    if name == "membrane mse":
        yield torch.randn(6, 3, 5), True
    elif name != "first spike mse":
        yield shares(3, 5), False
        if name in BY_STEP:
            yield shares(6, 3, 5), True


@pytest.mark.parametrize("filling", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ALL)
def test_padding_may_hold_anything(name, filling):
    lengths = torch.tensor([6, 2, 4])
    past = torch.arange(6).unsqueeze(1) >= lengths
    for (y, by_step), dtype in itertools.product(forms(name), DTYPES):
        o = torch.randn(6, 3, 5).to(dtype)
        clean, padded = o.clone().requires_grad_(), o.masked_fill(past.unsqueeze(-1), filling).requires_grad_()
        other = y
        if by_step:
            other = y.masked_fill(past, -7) if y.ndim == 2 else y.masked_fill(past.unsqueeze(-1), filling)
        values = [ALL[name](x, t, lengths=lengths) for x, t in ((clean, y), (padded, other))]
        assert values[0].isfinite()
        assert torch.equal(*values)
        for value in values:
            value.backward()
        assert torch.equal(clean.grad, padded.grad)
        assert (padded.grad[past] == 0).all()


def test_a_ragged_target_padded_with_nan_trains_a_network():
    lengths = torch.tensor([6, 2, 4])
    net = sl.Network(nn.Linear(3, 8), sl.LIF(), nn.Linear(8, 2), sl.LI())
    target = torch.randn(6, 3, 2).masked_fill((torch.arange(6).unsqueeze(1) >= lengths).unsqueeze(-1), math.nan)
    loss.membrane_mse(net(torch.randn(6, 3, 3)), target, lengths=lengths).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", BY_STEP)
def test_lengths_and_targets_for_each_step(name):
    s, y, lengths = torch.randn(6, 3, 5), classes(6, 3), torch.tensor([2, 6, 4])
    got = ALL[name](s, y, reduction="none", lengths=lengths)
    for b, n in enumerate(lengths):
        torch.testing.assert_close(got[b], ALL[name](s[:n, b : b + 1], y[:n, b : b + 1]))
    torch.testing.assert_close(ALL[name](s, y, lengths=lengths), got.mean())


@pytest.mark.parametrize("name", ALL)
def test_outputs_of_any_dtype_are_the_same_numbers(name):
    s, y = (torch.rand(300, 3, 5) > 0.2).float(), classes(3)
    wanted = ALL[name](s, y)
    for other in (s.bool(), s.int(), s.to(torch.uint8), s.bfloat16(), s.half(), sl.pack(s)):
        got = ALL[name](other, y)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("name", ALL)
def test_gradients_of_each_sample_by_torch_func(name):
    o, y = torch.randn(4, 3, 5), classes(3)

    def alone(x, label):
        return ALL[name](x.unsqueeze(1), label.unsqueeze(0))

    each = torch.func.vmap(torch.func.grad(alone), in_dims=(1, 0), out_dims=1)(o, y)
    o.requires_grad_()
    ALL[name](o, y, reduction="sum").backward()
    torch.testing.assert_close(each, o.grad)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda o: loss.rate_cross_entropy(o, classes(6)),
            ValueError,
            r"\[B\] = \[3\] or \[T, B\] = \[6, 3\].*pass batch_first=True",
        ),
        (
            lambda o: loss.rate_cross_entropy(o, classes(3, 6)),
            ValueError,
            r"got torch.int64 \[3, 6\]; .*pass batch_first=True",
        ),
        (
            lambda o: loss.rate_cross_entropy(o, classes(3), batch_first=True),
            ValueError,
            r"\[B, T\] = \[6, 3\].*pass batch_first=False",
        ),
        (lambda o: loss.rate_cross_entropy(o, torch.ones(3)), ValueError, r"got torch.float32 \[3\]; target.long\(\)"),
        (
            lambda o: loss.rate_cross_entropy(o, shares(3, 4)),
            ValueError,
            r"floats \[B, C\] = \[3, 5\] or \[T, B, C\] = \[6, 3, 5\]; got",
        ),
        (lambda o: loss.rate_cross_entropy(o, [0, 1, 2]), TypeError, "target must be a tensor, got list"),
        (lambda o: loss.rate_cross_entropy([o], classes(3)), TypeError, "expected a tensor, got list"),
        (lambda o: loss.rate_cross_entropy(o + 0j, classes(3)), TypeError, "real numbers, got torch.complex64"),
        (
            lambda o: loss.rate_cross_entropy(o.unsqueeze(-1), classes(3)),
            ValueError,
            r"\[T, B, C\].*got \[6, 3, 5, 1\]; flatten\(2\)",
        ),
        (
            lambda o: loss.rate_cross_entropy(o, torch.tensor([0, 5, 1])),
            ValueError,
            "the class 5, but outputs have C = 5",
        ),
        (lambda o: loss.count_mse(o, torch.tensor([0, -1, 1])), ValueError, "the class -1, .* ignore_index"),
        (
            lambda o: loss.count_cross_entropy(o, classes(6, 3)),
            ValueError,
            r"int64 \[B\] = \[3\], or floats \[B, C\] = \[3, 5\]; got",
        ),
        (lambda o: loss.tet(o, classes(6, 3), form="mean_output"), ValueError, r"loss.tet: .*int64 \[B\] = \[3\], or"),
        (lambda o: loss.tet(o, classes(3), weight=torch.ones(4)), ValueError, r"each class, \[C\] = \[5\], got \[4\]"),
        (lambda o: loss.tet(o, classes(3), label_smoothing=1.5), ValueError, "between 0 and 1, got 1.5"),
        (
            lambda o: loss.membrane_mse(o, torch.ones(3, 5), on_target=0.5),
            ValueError,
            "on_target belongs to class targets",
        ),
        (
            lambda o: loss.first_spike_mse(o, torch.ones(3, 5), off_target=2.0),
            ValueError,
            "off_target belongs to class",
        ),
        (
            lambda o: loss.membrane_mse(o, torch.ones(3, 6, 5), batch_first=True),
            ValueError,
            r"must be \[B, T, C\] = \[6, 3, 5\] or \[B, C\], got \[3, 6, 5\]",
        ),
    ],
)
def test_what_is_no_target_is_told(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.randn(6, 3, 5))


def test_checks_of_values_break_no_graph():
    o, y, x = torch.randn(4, 3, 5), classes(3, ignored=(1,)), torch.rand(3, 5)

    def computed(o, y, x):
        rates = sl.encode.poisson(sl.encode.latency(x, 4, code="log"), gain=2.0)
        return loss.tet(o + rates, y, weight=WEIGHT), sl.metrics.accuracy_rate(o, y)

    compiled = torch.compile(computed, fullgraph=True, backend="eager")
    for got, wanted in zip(compiled(o, y, x), computed(o, y, x), strict=True):
        torch.testing.assert_close(got, wanted)
