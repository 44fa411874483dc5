"""Encoders against literal cases and closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikeloom import encode


def test_repeat_is_a_view_that_takes_no_memory():
    x = torch.rand(2, 3)
    y = encode.repeat(x, 5)
    assert y.shape == (5, 2, 3)
    assert y.stride(0) == 0
    assert y.data_ptr() == x.data_ptr()
    assert torch.equal(y[4], x)


def test_poisson_rates_are_the_intensities():
    x = torch.linspace(0, 1, 11).unsqueeze(0)
    spikes = encode.poisson(x, 20_000, generator=torch.Generator().manual_seed(1))
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    # standard deviation of a rate is at most 0.5 / sqrt(20,000) = 0.0035; five of them
    torch.testing.assert_close(spikes.mean(0), x, atol=0.018, rtol=0)
    assert (spikes[:, 0, 0] == 0).all()
    assert (spikes[:, 0, -1] == 1).all()


def test_poisson_options():
    x = torch.full((1, 1000), 0.5)
    first = encode.poisson(torch.ones(1, 1), 5, first_spike_time=3)
    assert first.flatten().tolist() == [0, 0, 0, 1, 1]  # snnTorch's test: sum 2
    g = lambda: torch.Generator().manual_seed(7)  # noqa: E731
    assert torch.equal(encode.poisson(x, 3, generator=g()), encode.poisson(x, 3, generator=g()))
    assert encode.poisson(x, 3, gain=2.0).mean() == 1
    assert encode.poisson(x, 3, gain=0.0, offset=-1.0).sum() == 0
    sequence = torch.tensor([[[0.0]], [[1.0]], [[0.0]]])
    assert encode.poisson(sequence).flatten().tolist() == [0, 1, 0]
    assert encode.poisson(x.bfloat16(), 2).dtype == torch.bfloat16


def test_latency_times_are_snntorchs():
    x = torch.tensor([[0.02, 0.5, 1.0]])
    torch.testing.assert_close(encode.latency_time(x, 5), torch.tensor([[3.92, 2.0, 0.0]]))
    rc = encode.latency_time(x, 5, code="rc")
    torch.testing.assert_close(rc, torch.tensor([[4.0, 0.1166, 0.0580]]), atol=5e-5, rtol=0)
    ends = torch.tensor([[0.0, 1.0]])
    linear = encode.latency_time(ends, 5, normalize=False, first_spike_time=2)
    torch.testing.assert_close(linear, torch.tensor([[2.99, 2.0]]))
    # threshold + 1e-7 against threshold: tau ln(.0100001 / 1e-7) = 11.51294, plus 2
    rc = encode.latency_time(ends.double(), 20, code="rc", normalize=False, first_spike_time=2)
    torch.testing.assert_close(rc, torch.tensor([[13.51294, 2 + math.log(1 / 0.99)]]).double(), atol=1e-4, rtol=0)


def test_latency_ends_are_spikingjellys():
    x = torch.tensor([[0.0, 1.0]])
    for code in ("linear", "log"):
        spikes = encode.latency(x, 4, code=code, threshold=0.0)
        assert spikes[:, 0].T.tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]
    # SpikingJelly's log code at x = .5, T = 4: t = 3 - ln((e^3 - 1) / 2 + 1) = 0.6453
    t = encode.latency_time(torch.tensor([[0.5]]), 4, code="log")
    assert float(t) == pytest.approx(3 - math.log((math.e**3 - 1) / 2 + 1), abs=1e-6)


def test_latency_normalises_each_sample_alone():
    x = torch.tensor([[0.02, 0.5], [0.3, 0.9]])
    together = encode.latency_time(x, 6, code="rc")
    for b in range(2):
        torch.testing.assert_close(encode.latency_time(x[b : b + 1], 6, code="rc"), together[b : b + 1])
    assert together.max(1).values.tolist() == pytest.approx([5.0, 5.0])


def test_latency_clip_and_silence():
    x = torch.tensor([[0.005, 0.5]])
    assert encode.latency(x, 5).sum(0).tolist() == [[1, 1]]
    assert encode.latency(x, 5, clip=True).sum(0).tolist() == [[0, 1]]
    late = encode.latency(torch.tensor([[0.1, 1.0]]), 4, tau=10.0, normalize=False)  # t = 9 and 0
    assert late.sum(0).tolist() == [[0, 1]]


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8),
    st.integers(1, 12),
    st.sampled_from(["linear", "log", "rc"]),
)
def test_latency_gives_one_spike_and_never_later_for_more(values, T, code):
    x = torch.tensor([sorted(values)], dtype=torch.float32)
    spikes = encode.latency(x, T, code=code)
    assert (spikes.sum(0) == 1).all()
    times = spikes.argmax(0)[0]
    assert (times.diff() <= 0).all()


def test_delta_is_snntorchs():
    x = torch.tensor([1.0, 2.0, 2.91, 3.0, 3.9])
    assert encode.delta(x).tolist() == [1, 1, 1, 0, 1]
    assert encode.delta(x, padding=True).tolist() == [0, 1, 1, 0, 1]
    down = torch.tensor([0.0, 1.0, 0.5, 0.45, -1.0])
    assert encode.delta(down, off_spike=True).tolist() == [0, 1, -1, 0, -1]


def test_lengths_silence_the_rest():
    lengths = torch.tensor([1, 3])
    x = torch.ones(2, 2)
    for spikes in (
        encode.repeat(x, 3, lengths=lengths),
        encode.poisson(x, 3, lengths=lengths),
        encode.delta(torch.arange(1.0, 4.0).view(3, 1, 1).expand(3, 2, 2), lengths=lengths),
    ):
        assert spikes[:, :, 0].tolist() == [[1, 1], [0, 1], [0, 1]]
    late = encode.latency(torch.zeros(2, 1), 3, threshold=0.0, lengths=lengths)
    assert late.flatten(1).tolist() == [[0, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: encode.poisson(torch.ones(1, 2, dtype=torch.uint8), 3), TypeError, "x / 255"),
        (lambda: encode.poisson(torch.ones(2), None), ValueError, r"\[T, B, \*\]"),
        (lambda: encode.poisson(torch.ones(1, 2), 0), ValueError, "at least 1, got 0"),
        (lambda: encode.poisson(torch.ones(1, 2), 3, first_spike_time=3), ValueError, "between 0 and T-1 = 2"),
        (lambda: encode.repeat(torch.ones(1, 2), 2.5), ValueError, "T must be a number of steps"),
        (lambda: encode.repeat(torch.tensor(1.0), 2), ValueError, r"expected \[B, \*\]"),
        (lambda: encode.latency(torch.tensor([[1.5]]), 3), ValueError, r"in \[0, 1\], got 1.5"),
        (lambda: encode.latency(torch.tensor([[math.nan]]), 3), ValueError, r"in \[0, 1\]"),
        (lambda: encode.latency(torch.ones(1, 1), 3, code="exp"), ValueError, "one of linear, log, rc; got 'exp'"),
        (lambda: encode.latency(torch.ones(1, 1), 3, threshold=1.0), ValueError, "threshold"),
        (lambda: encode.delta(torch.ones(3), threshold=0.0), ValueError, "threshold must be positive"),
        (lambda: encode.delta(torch.tensor(1.0)), ValueError, r"expected \[T, \*\]"),
    ],
)
def test_bad_input_raises(call, error, message):
    with pytest.raises(error, match=message):
        call()


DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@pytest.mark.parametrize("T", [1, 2, 90, 257, 1000, 5000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_latency_gives_one_spike_for_each_of_any_dtype_and_number_of_steps(dtype, T):
    x = torch.tensor([[0.0, 0.001, 0.1, 0.3, 0.5, 0.9, 1.0], [1.0, 0.9, 0.5, 0.3, 0.1, 0.001, 0.0]]).to(dtype)
    for code in ("linear", "log", "rc"):
        for threshold in (0.0, 0.01, 0.5, 0.99):
            spikes = encode.latency(x, T, code=code, threshold=threshold)
            assert spikes.dtype == dtype
            assert (spikes.float().sum(0) == 1).all(), (code, threshold)
            wanted = encode.latency(x.double(), T, code=code, threshold=threshold).argmax(0)
            assert (spikes.float().argmax(0) - wanted).abs().max() <= 1  # a time of nearly k + 1/2 may be rounded down


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_times_of_many_steps(dtype):
    """``last - ln((e^last - 1) x + 1)`` by Python's whole and fractional numbers, whose logarithm overflows nowhere."""
    x = torch.tensor([[0.0, 1e-30, 0.1, 0.5, 1.0]], dtype=dtype)
    for T in (2, 80, 90, 700, 720, 5000):
        last = T - 1
        scale = math.expm1(last) if last < 700 else math.inf
        wanted = [
            last if v == 0 else last - math.log(scale * v + 1) if scale < math.inf else -math.log(v)
            for v in x[0].tolist()
        ]  # past 700 steps, (e^last - 1) x + 1 = e^last x to all digits of these x
        got = encode.latency_time(x, T, code="log")[0]
        assert got.dtype == dtype
        assert got.tolist() == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_times_have_finite_gradients_at_the_ends():
    x = torch.tensor([[0.0, 0.5, 1.0]], requires_grad=True)
    for T, a in ((4, math.exp(3) - 1), (200, math.exp(199) - 1)):
        (grad,) = torch.autograd.grad(encode.latency_time(x, T, code="log").sum(), x)
        assert grad.isfinite().all()
        assert grad[0, 1:].tolist() == pytest.approx([-a / (a / 2 + 1), -a / (a + 1)], rel=1e-5)
    (grad,) = torch.autograd.grad(encode.latency_time(x, 4, code="log").sum(), x)
    assert grad[0, 0].item() == pytest.approx(1 - math.exp(3), rel=1e-5)


def test_samples_without_elements_and_meta_tensors():
    for code in ("linear", "log", "rc"):
        assert encode.latency(torch.rand(2, 0), 4, code=code).shape == (4, 2, 0)
        assert encode.latency(torch.rand(0, 3), 4, code=code).shape == (4, 0, 3)
        assert encode.latency(torch.rand(2, 3, device="meta"), 4, code=code).shape == (4, 2, 3)
    lengths = torch.ones(0, dtype=torch.int64)
    for x in (torch.rand(0, 3), torch.rand(2, 0)):
        assert encode.repeat(x, 4).shape == encode.poisson(x, 4).shape == (4, *x.shape)
    assert encode.poisson(torch.rand(0, 3), 4, lengths=lengths).shape == (4, 0, 3)
    assert encode.delta(torch.rand(4, 2, 0)).shape == (4, 2, 0)
    meta = torch.rand(4, 2, device="meta")
    assert encode.delta(meta).shape == encode.poisson(meta.unsqueeze(0)).shape[1:] == (4, 2)
    assert encode.repeat(meta, 3).shape == (3, 4, 2)


def test_padding_may_hold_nan():
    x = torch.tensor([[[1.0], [1.0]], [[math.nan], [5.0]]])  # T = 2; the first sample ends after one step
    lengths = torch.tensor([1, 2])
    assert encode.poisson(x, lengths=lengths).flatten().tolist() == [1, 1, 0, 1]
    assert encode.delta(x, lengths=lengths).flatten().tolist() == [1, 1, 0, 1]


def test_infinite_and_negative_intensities_are_clipped_like_others():
    x = torch.tensor([[-math.inf, -3.0, 2.0, math.inf]])
    assert encode.poisson(x, 50).mean(0).tolist() == [[0, 0, 1, 1]]
    assert encode.delta(torch.tensor([0.0, math.inf, 0.0, 1.0]), off_spike=True).tolist() == [0, 1, -1, 1]


def test_rates_in_half_precision_are_those_of_the_intensities():
    """p = 0.257 x + 0.5 for x = 1 is 0.757; the nearest bfloat16 is 0.7578, six deviations of 10 million draws away."""
    x = torch.full((1, 5000), 1.0, dtype=torch.bfloat16)
    rate = encode.poisson(x, 2000, gain=0.257, offset=0.5, generator=torch.Generator().manual_seed(3)).float().mean()
    assert rate.item() == pytest.approx(0.757, abs=3 * (0.757 * 0.243 / 1e7) ** 0.5)


def test_batch_first_sequences():
    x, lengths = torch.ones(3, 3, 1), torch.tensor([1, 3, 2])
    wanted = [[1, 0, 0], [1, 1, 1], [1, 1, 0]]  # [B, T]
    for spikes in (
        encode.repeat(x[:, 0], 3, lengths=lengths, batch_first=True),
        encode.poisson(x[:, 0], 3, lengths=lengths, batch_first=True),
        encode.poisson(x, lengths=lengths, batch_first=True),
        encode.delta(x.cumsum(1), lengths=lengths, batch_first=True),
    ):
        assert spikes[:, :, 0].tolist() == wanted
    late = encode.latency(torch.tensor([[1.0], [0.0], [0.0]]), 3, threshold=0.0, lengths=lengths, batch_first=True)
    assert late[:, :, 0].tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


NAN = torch.tensor([[math.nan, 0.5]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: encode.repeat(NAN, 3), "encode.repeat: x holds NaN"),
        (lambda: encode.poisson(NAN, 3), "encode.poisson: x, gain or offset holds NaN"),
        (lambda: encode.poisson(NAN.bfloat16().unsqueeze(0)), "holds NaN"),
        (lambda: encode.poisson(torch.ones(1, 2), 3, gain=math.nan), "gain must be finite, got nan"),
        (lambda: encode.poisson(torch.ones(1, 2), 3, gain=NAN), "x, gain or offset holds NaN"),
        (lambda: encode.poisson(torch.ones(1, 2), 3, offset=math.inf), "offset must be finite, got inf"),
        (
            lambda: encode.poisson(torch.ones(1, 2), 3, first_spike_time=1.5),
            "whole number between 0 and T-1 = 2, got 1.5",
        ),
        (lambda: encode.latency(torch.ones(1, 2), 3, first_spike_time=-1), "encode.latency: first_spike_time"),
        (lambda: encode.latency(torch.ones(1, 2), 3, tau=0.0), "tau must be positive, got 0.0"),
        (lambda: encode.latency(torch.ones(1, 2), 3, tau=-1.0, code="rc"), "tau must be positive, got -1.0"),
        (lambda: encode.latency(torch.ones(1, 2), 3, tau=math.nan, normalize=False), "tau must be finite"),
        (lambda: encode.latency(torch.ones(1, 2), 3, tau=math.inf, normalize=False), "tau must be finite"),
        (lambda: encode.latency(torch.ones(1, 2), 3, threshold=math.nan), "threshold must be finite"),
        (lambda: encode.latency(torch.tensor([[-0.1]]), 3), r"in \[0, 1\], got -0.1 to -0.1"),
        (lambda: encode.delta(torch.tensor([0.0, math.nan, 5.0])), "encode.delta: x holds NaN"),
        (lambda: encode.delta(torch.tensor([math.inf, math.inf])), "the same infinity at two steps"),
        (lambda: encode.delta(torch.ones(3), threshold=math.nan), "threshold must be finite"),
        (lambda: encode.delta(torch.ones(3), batch_first=True), r"encode.delta: expected \[B, T, \*\]"),
    ],
)
def test_what_would_be_silence_or_noise_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
