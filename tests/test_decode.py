"""Decoders by hand."""

import math

import pytest
import torch

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
