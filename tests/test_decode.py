"""Decoders by hand."""

import math

import pytest
import torch

import spikeloom as sl
from spikeloom import decode

# [T=4, B=2, N=2]
S = torch.tensor([[[0, 0], [1, 0]], [[1, 0], [1, 1]], [[1, 0], [0, 1]], [[0, 0], [1, 1]]], dtype=torch.float32)
LENGTHS = torch.tensor([2, 4])


def test_count_and_rate():
    assert decode.count(S).tolist() == [[2, 0], [3, 3]]
    assert decode.rate(S).tolist() == [[0.5, 0], [0.75, 0.75]]
    assert decode.count(S, lengths=LENGTHS).tolist() == [[1, 0], [3, 3]]
    assert decode.rate(S, lengths=LENGTHS).tolist() == [[0.5, 0], [0.75, 0.75]]
    assert decode.rate(S.bool()).dtype == torch.float32


def test_first_spike():
    assert decode.first_spike(S).tolist() == [[1, 4], [0, 1]]
    assert decode.first_spike(S, silent=3).tolist() == [[1, 3], [0, 1]]
    assert decode.first_spike(S, lengths=torch.tensor([1, 4])).tolist() == [[1, 1], [0, 1]]
    assert decode.first_spike(S, silent=math.inf)[0, 1] == math.inf


def test_first_spike_gradient_goes_to_the_first_spike_or_the_last_step():
    s = S.clone().requires_grad_()
    (decode.first_spike(s) * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    wanted = torch.zeros(4, 2, 2)
    wanted[1, 0, 0], wanted[3, 0, 1], wanted[0, 1, 0], wanted[1, 1, 1] = -1, -2, -3, -4
    assert torch.equal(s.grad, wanted)
    s.grad = None
    decode.first_spike(s, lengths=LENGTHS)[0, 1].backward()
    assert s.grad[:, 0, 1].tolist() == [0, -1, 0, 0]


def test_population():
    s = torch.ones(3, 1, 6)
    s[:, :, 4:] = 0
    assert decode.population(s, 3).tolist() == [[6, 6, 0]]
    assert decode.population(s, 2, lengths=torch.tensor([2])).tolist() == [[6, 2]]
    with pytest.raises(ValueError, match="6 neurons cannot be divided into 4"):
        decode.population(s, 4)


def test_membrane():
    v = torch.tensor([[[1.0, -3.0]], [[-2.0, 2.0]], [[0.5, 1.0]]])
    assert decode.membrane(v).tolist() == [[1.0, 2.0]]
    assert decode.membrane(v, "max_abs").tolist() == [[-2.0, -3.0]]
    torch.testing.assert_close(decode.membrane(v, "mean"), torch.tensor([[-0.5 / 3, 0.0]]))
    assert decode.membrane(v, "last").tolist() == [[0.5, 1.0]]
    two = torch.tensor([2])
    assert decode.membrane(-v, "max", lengths=two).tolist() == [[2.0, 3.0]]
    assert decode.membrane(v - 5, "max", lengths=two).tolist() == [[-4.0, -3.0]]  # not the padding's 0
    assert decode.membrane(v, "last", lengths=two).tolist() == [[-2.0, 2.0]]
    assert decode.membrane(v, "mean", lengths=two).tolist() == [[-0.5, -0.5]]
    with pytest.raises(ValueError, match="one of max, max_abs, mean, last; got 'min'"):
        decode.membrane(v, "min")


def test_shapes_are_checked():
    for call in (decode.count, decode.rate, decode.first_spike, decode.membrane):
        with pytest.raises(ValueError, match=r"expected \[T, B, \*\]"):
            call(torch.zeros(3))
    with pytest.raises(ValueError, match=r"expected \[T, B, C\]"):
        decode.population(torch.zeros(3, 2), 2)


HALVES = (torch.bfloat16, torch.float16)


def fired(*steps, T=3000, dtype=torch.float32):
    """Neurons ``[T, B, 1]`` that fire once, at these steps."""
    s = torch.zeros(T, len(steps), 1, dtype=dtype)
    s[list(steps), range(len(steps))] = 1
    return s


@pytest.mark.parametrize("dtype", HALVES)
def test_steps_and_counts_are_whole_numbers_in_half_precision(dtype):
    """bfloat16 has no 257, float16 no 2,049."""
    steps = (257, 511, 2049, 2999)
    s = fired(*steps, dtype=dtype).requires_grad_()
    times = decode.first_spike(s)
    assert times.dtype == torch.float32
    assert times.flatten().tolist() == list(steps)
    times.sum().backward()
    assert s.grad.nonzero()[:, 0].sort().values.tolist() == list(steps)  # at these steps, once each
    assert s.grad.dtype == dtype
    silent = torch.zeros(3000, 4, 1, dtype=dtype, requires_grad=True)
    lengths = torch.tensor([257, 511, 2049, 2999])
    times = decode.first_spike(silent, lengths=lengths)
    assert times.flatten().tolist() == lengths.tolist()
    times.sum().backward()
    assert silent.grad.nonzero()[:, 0].sort().values.tolist() == (lengths - 1).tolist()
    on = torch.ones(3000, 4, 2, dtype=dtype)
    assert decode.count(on, lengths=lengths)[:, 0].tolist() == lengths.tolist()
    assert decode.population(on, 1, lengths=lengths)[:, 0].tolist() == (2 * lengths).tolist()
    assert decode.rate(on, lengths=lengths).unique().tolist() == [1.0]
    assert decode.rate(fired(5, dtype=dtype)).item() == pytest.approx(1 / 3000, rel=1e-6)
    assert decode.membrane(100 * on, "mean").unique().tolist() == [100.0]  # 300,000 is no float16
    last = fired(*(lengths - 1).tolist(), dtype=dtype)
    assert decode.membrane(last, "last", lengths=lengths).flatten().tolist() == [1, 1, 1, 1]
    assert decode.membrane(last, "last", lengths=lengths).dtype == dtype


def test_spikes_that_are_no_floats():
    s = torch.ones(300, 2, 4, dtype=torch.bool)
    s[:, 1] = False
    lengths = torch.tensor([300, 7])
    for dtype in (torch.bool, torch.uint8, torch.int8, torch.int64):
        given = s.to(dtype)
        assert decode.count(given).dtype == torch.int64
        assert decode.count(given)[:, 0].tolist() == [300, 0]
        assert decode.population(given, 2)[:, 0].tolist() == [600, 0]
        assert decode.first_spike(given, lengths=lengths)[:, 0].tolist() == [0, 7]
        for how in ("max", "max_abs", "mean", "last"):
            assert decode.membrane(given, how, lengths=lengths)[:, 0].tolist() == [1, 0], how
    assert decode.membrane(-given, "max", lengths=lengths)[:, 0].tolist() == [-1, 0]  # not the padding's 0
    packed = sl.pack(s.float())
    assert decode.count(packed, lengths=lengths)[:, 0].tolist() == [300, 0]
    assert decode.first_spike(packed, lengths=lengths)[:, 0].tolist() == [0, 7]


@pytest.mark.parametrize("filling", [math.nan, math.inf, -math.inf])
def test_padding_changes_nothing_and_has_no_gradient(filling):
    v, lengths = torch.randn(5, 3, 2), torch.tensor([5, 1, 3])
    past = torch.arange(5).unsqueeze(1) >= lengths
    for call in (
        decode.count,
        decode.rate,
        decode.first_spike,
        lambda x, **k: decode.population(x, 2, **k),
        *(lambda x, how=how, **k: decode.membrane(x, how, **k) for how in ("max", "max_abs", "mean", "last")),
    ):
        clean, padded = v.clone().requires_grad_(), v.masked_fill(past.unsqueeze(-1), filling).requires_grad_()
        values = [call(x, lengths=lengths) for x in (clean, padded)]
        assert torch.equal(*values)
        for value in values:
            value.sum().backward()
        assert torch.equal(clean.grad, padded.grad)
        assert (padded.grad[past] == 0).all()


def test_batch_first_is_said_and_not_guessed():
    s = (torch.rand(4, 4, 6) > 0.5).float()  # T = B
    lengths = torch.tensor([4, 1, 2, 3])
    calls = {
        "count": decode.count,
        "rate": decode.rate,
        "first spike": decode.first_spike,
        "population": lambda x, **k: decode.population(x, 3, **k),
        **{how: lambda x, how=how, **k: decode.membrane(x, how, **k) for how in ("max", "max_abs", "mean", "last")},
    }
    for name, call in calls.items():
        wanted = torch.stack([call(s[b, :n].unsqueeze(1))[0] for b, n in enumerate(lengths)])
        assert torch.equal(call(s, lengths=lengths, batch_first=True), wanted), name
        assert torch.equal(call(s.transpose(0, 1), lengths=lengths), wanted), name
    with pytest.raises(ValueError, match=r"expected \[B, T, C\] with T > 0 and B > 0, got \[4, 4\]"):
        decode.population(s[0, :4, :4], 2, batch_first=True)


def test_what_is_no_sequence_of_real_numbers_is_told():
    with pytest.raises(TypeError, match=r"decode\.rate: expected a tensor, got list"):
        decode.rate([[1.0]])
    with pytest.raises(TypeError, match=r"decode\.count: expected real numbers, got torch.complex64"):
        decode.count(torch.ones(3, 2, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"decode.membrane: expected \[T, B, \*\] with T > 0 and B > 0, got \[0, 2\]"):
        decode.membrane(torch.zeros(0, 2))
    with pytest.raises(ValueError, match=r"6 neurons cannot be divided into 2\.0 equal groups"):
        decode.population(torch.ones(3, 1, 6), 2.0)
