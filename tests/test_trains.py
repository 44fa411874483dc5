"""Regularisers of rates, distances of spike trains: SpikingJelly's golden files, closed forms, lengths, gradients."""

import math

import pytest
import torch

from spikeloom import loss

# [T=4, B=2, N=2]: rates 0.5, 0 and 0.75, 1
S = torch.tensor([[[0, 0], [1, 1]], [[1, 0], [1, 1]], [[1, 0], [0, 1]], [[0, 0], [1, 1]]], dtype=torch.float64)
LENGTHS = torch.tensor([2, 4])


def test_rates_by_hand():
    assert loss.rate_l1(S, reduction="none").tolist() == [0.25, 0.875]
    assert float(loss.rate_l1(S)) == 0.5625
    assert float(loss.rate_l1(S, reduction="sum")) == 1.125
    assert loss.rate_l2(S, reduction="none").tolist() == [0.125, (0.5625 + 1) / 2]
    assert loss.rate_l1(-S, reduction="none").tolist() == [0.25, 0.875]  # spikes of two signs
    assert loss.rate_l1(S, reduction="none", lengths=LENGTHS).tolist() == [0.25, 0.875]
    assert loss.rate_l2(S, reduction="none", lengths=torch.tensor([3, 4])).tolist()[0] == pytest.approx(4 / 9 / 2)
    # snnTorch's l1_rate_sparsity(1e-2): 0.01 times the number of spikes, 9; T N = 8
    assert 0.01 * 8 * float(loss.rate_l1(S, reduction="sum")) == pytest.approx(0.01 * float(S.sum()))


def test_bounds_by_hand():
    none = dict(reduction="none")
    assert loss.rate_bounds(S, lower=0.25, **none).tolist() == [0.0625 / 2, 0]
    assert loss.rate_bounds(S, upper=0.5, **none).tolist() == [0, (0.0625 + 0.25) / 2]
    assert loss.rate_bounds(S, lower=0.25, upper=0.5, **none).tolist() == [0.0625 / 2, (0.0625 + 0.25) / 2]
    assert loss.rate_bounds(S, lower=0.25, upper=0.5, power=1.0, **none).tolist() == [0.125, (0.25 + 0.5) / 2]
    assert loss.rate_bounds(S, lower=0.5, upper=0.75, over="population", **none).tolist() == [0.0625, 0.125**2]
    s = S.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss.rate_bounds(s, lower=0.25, upper=0.9), s)
    assert grad[:, 0, 0].eq(0).all()  # inside
    assert (grad[:, 0, 1] == -2 * 0.25 / 4 / 2 / 2).all()  # silent: more spikes are better
    assert grad[:, 1, 1].tolist() == pytest.approx([2 * 0.1 / 4 / 2 / 2] * 4)


def test_van_rossum_in_closed_form():
    """Two spikes d steps apart: 2 (1 - q^d) / (tau (1 - q^2)), q = exp(-1/tau); a spike more: half, without q^d."""
    tau, T = 3.0, 30
    q = math.exp(-1 / tau)
    one = torch.zeros(T, 1, 1, dtype=torch.float64)
    one[4] = 1
    alone = 1 / (tau * (1 - q * q))
    assert float(loss.van_rossum(one, torch.zeros_like(one), tau=tau)) == pytest.approx(alone)
    for d in (1, 5, 25):
        assert float(loss.van_rossum(one, one.roll(d, 0), tau=tau)) == pytest.approx(2 * alone * (1 - q**d))
    last = torch.zeros_like(one)
    last[-1] = 1  # counts as any other, though nothing of its trace is within T
    assert float(loss.van_rossum(last, torch.zeros_like(one), tau=tau)) == pytest.approx(alone)
    # in the limit of long time constants: van Rossum's 1/2 for a spike more
    assert float(loss.van_rossum(one, torch.zeros_like(one), tau=1e4)) == pytest.approx(0.5, rel=1e-3)


def test_van_rossum_is_the_sum_over_filtered_trains():
    """The traces step by step, 400 steps past the end."""
    tau, T = 2.5, 9
    s, y = (torch.rand(T, 3, 4, dtype=torch.float64) < 0.4).double(), (torch.rand(T, 3, 4) < 0.4).double()
    f, total = torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64)
    for t in range(T + 400):
        f = math.exp(-1 / tau) * f + (s[t] - y[t] if t < T else 0)
        total += f.square() / tau
    torch.testing.assert_close(loss.van_rossum(s, y, tau=tau, reduction="none"), total.mean(1))
    torch.testing.assert_close(loss.van_rossum(s, y, tau=tau), total.mean())
    assert float(loss.van_rossum(s, s, tau=tau)) == 0
    torch.testing.assert_close(loss.van_rossum(s, y, tau=tau), loss.van_rossum(y, s, tau=tau))


KERNELS = {
    "linear": dict(kernel="linear"),
    "polynomial": dict(kernel="polynomial", degree=1.5),
    "sigmoid": dict(kernel="sigmoid", alpha=0.2),
    "gaussian": dict(kernel="gaussian", sigma=3.0),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_spikingjellys(golden, name):
    data = golden("codes")
    s = data["spikes"].float()
    found = loss.spike_kernel(s, s, **KERNELS[name])
    torch.testing.assert_close(found, data[f"kernel-{name}"])
    wrong = {"linear": "cosine", "polynomial": "linear", "sigmoid": "gaussian", "gaussian": "sigmoid"}[name]
    assert not torch.allclose(loss.spike_kernel(s, s, kernel=wrong), found, atol=1e-3)
    for error in ("mse", "l1", "bce"):
        if f"similar-{name}-{error}" not in data:
            continue
        x = s.clone().requires_grad_()
        options = {**KERNELS[name], "kernel": "cosine" if name == "linear" else name}
        value = loss.spike_similarity(x, data["labels"], error=error, **options)
        torch.testing.assert_close(value.detach(), data[f"similar-{name}-{error}"])
        (grad,) = torch.autograd.grad(value, x)
        torch.testing.assert_close(grad, data[f"similar-{name}-{error}-grad"], atol=1e-6, rtol=1e-4)


def test_similarity_by_hand():
    """Trains 11, 10, 00: cosines 1, 1/sqrt(2), 0; a silent train is like none, not even itself."""
    s = torch.tensor([[[1.0], [1.0], [0.0]], [[1.0], [0.0], [0.0]]], dtype=torch.float64)
    cosines = loss.spike_kernel(s, s, kernel="cosine")
    half = 1 / math.sqrt(2)
    torch.testing.assert_close(cosines, torch.tensor([[1, half, 0], [half, 1, 0], [0, 0, 0]], dtype=torch.float64))
    y = torch.tensor([0, 0, 1])
    each = loss.spike_similarity(s, y, reduction="none")
    wanted = torch.tensor([[0, (1 - half) ** 2, 0], [(1 - half) ** 2, 0, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(each, wanted)
    assert float(loss.spike_similarity(s, y)) == pytest.approx(float(wanted.mean()))
    onehot = torch.nn.functional.one_hot(y)
    torch.testing.assert_close(loss.spike_similarity(s, onehot), loss.spike_similarity(s, y))
    cross = loss.spike_similarity(s[:, :2], y[:2], error="bce", reduction="none")
    torch.testing.assert_close(cross[0], torch.tensor([0.0, -math.log(half)], dtype=torch.float64))
    assert loss.spike_kernel(s, s[:, :1]).tolist() == [[2], [1], [0]]


LOSSES = {
    "l1": loss.rate_l1,
    "l2": loss.rate_l2,
    "bounds": lambda s, **k: loss.rate_bounds(s, lower=0.3, upper=0.5, **k),
    "bounds of the population": lambda s, **k: loss.rate_bounds(s, lower=0.3, upper=0.4, over="population", **k),
    "van Rossum": lambda s, **k: loss.van_rossum(s, torch.ones_like(s), tau=2.0, **k),
}


@pytest.mark.parametrize("name", LOSSES)
def test_each_sample_counts_as_its_own_shorter_run(name):
    """Padding of NaN changes nothing and has no gradient; layouts and dtypes."""
    call, lengths = LOSSES[name], torch.tensor([2, 6, 4])
    s = (torch.rand(6, 3, 2, 2) < 0.4).double()
    padded = s.clone()
    for b, n in enumerate(lengths.tolist()):
        padded[n:, b] = torch.nan
    padded.requires_grad_()
    each = call(padded, lengths=lengths, reduction="none")
    for b, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(each[b], call(s[:n, b : b + 1]))
    torch.testing.assert_close(call(padded, lengths=lengths), each.mean())
    torch.testing.assert_close(call(padded, lengths=lengths, reduction="sum"), each.sum())
    (grad,) = torch.autograd.grad(each.sum(), padded)
    for b, n in enumerate(lengths.tolist()):
        assert grad[:n, b].isfinite().all()
        assert (grad[n:, b] == 0).all()
    torch.testing.assert_close(call(s.transpose(0, 1), batch_first=True), call(s))
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.bool):
        with torch.autocast("cpu", torch.bfloat16):
            found = call(s.to(dtype))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), call(s), atol=1e-6, rtol=1e-5)
    inside = (0.2 + 0.6 * torch.rand(4, 2, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: call(x, reduction="none"), (inside,))
    with pytest.raises(ValueError, match="one of mean, sum, none; got 'avg'"):
        call(s, reduction="avg")


@pytest.mark.parametrize("kernel", ["linear", "cosine", "polynomial", "sigmoid", "gaussian"])
def test_kernels_of_ragged_trains(kernel):
    s, lengths, y = (torch.rand(5, 3, 2) < 0.5).double(), torch.tensor([5, 2, 4]), torch.tensor([0, 1, 0])
    cleared, padded = s.clone(), s.clone()
    for b, n in enumerate(lengths.tolist()):
        cleared[n:, b], padded[n:, b] = 0, torch.nan
    wanted = loss.spike_kernel(cleared, cleared, kernel=kernel)
    torch.testing.assert_close(loss.spike_kernel(padded, padded, kernel=kernel, lengths=lengths), wanted)
    padded.requires_grad_()
    value = loss.spike_similarity(padded, y, kernel=kernel, lengths=lengths)
    torch.testing.assert_close(value, loss.spike_similarity(cleared, y, kernel=kernel))
    (grad,) = torch.autograd.grad(value, padded)
    for b, n in enumerate(lengths.tolist()):
        assert (grad[n:, b] == 0).all()
    batch = loss.spike_kernel(s.transpose(0, 1), s.transpose(0, 1), kernel=kernel, batch_first=True)
    torch.testing.assert_close(batch, loss.spike_kernel(s, s, kernel=kernel))
    inside = (0.2 + 0.6 * torch.rand(3, 3, 2, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss.spike_similarity(x, y, kernel=kernel), (inside,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loss.rate_l1(torch.rand(3)), r"loss.rate_l1: expected \[T, B, \*\]"),
        (lambda: loss.rate_bounds(S), "loss.rate_bounds: give lower, upper or both"),
        (lambda: loss.rate_bounds(S, lower=0.5, upper=0.2), "lower must not exceed upper, got 0.5 and 0.2"),
        (lambda: loss.rate_bounds(S, upper=0.2, power=0.5), "power must be at least 1, got 0.5"),
        (lambda: loss.rate_bounds(S, upper=0.2, over="layer"), "over must be neurons or population, got 'layer'"),
        (lambda: loss.van_rossum(S, S, tau=0.0), "loss.van_rossum: tau must be positive and finite, got 0.0"),
        (lambda: loss.van_rossum(S, S[:2], tau=1.0), r"the shape of spikes, \[4, 2, 2\], got \[2, 2, 2\]"),
        (lambda: loss.spike_kernel(S, S, kernel="rbf"), "one of linear, cosine, .* gaussian; got 'rbf'"),
        (lambda: loss.spike_kernel(S, S, kernel="gaussian", sigma=0.0), "sigma must be positive, got 0.0"),
        (lambda: loss.spike_kernel(S, S[:2]), r"the same T and neurons, got \[4, 2, 2\] and \[2, 2, 2\]"),
        (lambda: loss.spike_similarity(S, torch.tensor([0])), r"int64 \[B\] = \[2\], or classes \[B, C\], got \[1\]"),
        (lambda: loss.spike_similarity(S, torch.tensor([0, 1]), error="kl"), "one of mse, l1, bce; got 'kl'"),
    ],
)
def test_wrong_use(call, message):
    with pytest.raises(ValueError, match=message):
        call()
