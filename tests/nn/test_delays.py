"""Delays: SpikingJelly's golden file, by hand, bits, states that nobody can write to."""

import pytest
import torch
from torch import nn

import spikeloom as sl

N = sl.nn


def test_delay_is_spikingjellys(golden):
    data = golden("layers")
    for steps, same in ((2, True), ((2, 2, 2, 2), True), (1, False), ((2, 2, 1, 2), False)):
        x = data["Delay/x"].clone().requires_grad_()
        y, _ = N.Delay(steps).sequence(x)
        assert torch.equal(y.detach(), data["Delay/y"]) == same
        grad = torch.autograd.grad((data["Delay/g"] * y).sum(), x)[0]
        assert torch.equal(grad, data["Delay/grad_x"]) == same


def by_hand(x, steps):
    """``x [T, B, C, *]``, a delay for each channel."""
    y = torch.zeros_like(x)
    for c, n in enumerate(steps):
        y[n:, :, c] = x[: max(0, len(x) - n), :, c]
    return y


STEPS = [0, 3, 1, 7, 0, 2, 1, 1]


@pytest.mark.parametrize("space", [(), (3, 2)])
@pytest.mark.parametrize("packed", [False, True])
def test_a_delay_for_each_channel(space, packed):
    x = (torch.rand(5, 2, 8, *space) < 0.4).float()
    given = sl.pack(x) if packed else x
    for steps in (STEPS, [2] * 8):
        layer = N.Delay(steps if steps == STEPS else 2)
        assert max(steps) == layer.initial_state(given[0]).shape[1]
        y, state = layer.sequence(given)
        assert isinstance(y, sl.SpikeTensor) == isinstance(state, sl.SpikeTensor) == packed
        assert torch.equal(y * 1, by_hand(x, steps))
        more = (torch.rand(4, 2, 8, *space) < 0.4).float()
        z, end = layer.sequence(sl.pack(more) if packed else more, state=state)
        assert isinstance(z, sl.SpikeTensor) == packed
        whole = torch.cat([x, more])
        assert torch.equal(torch.cat([y * 1, z * 1]), by_hand(whole, steps))
        assert torch.equal(end * 1, whole[9 - max(steps) :].transpose(0, 1))
        mixed, _ = layer.sequence(more, state=state)  # one of both is dense: nothing is packed
        assert type(mixed) is torch.Tensor
        assert torch.equal(mixed, z * 1)


def test_bits_through_a_network_with_lengths():
    x = torch.randn(6, 3, 8)
    lengths = torch.tensor([6, 2, 4])
    found = []
    for spikes in ("dense", "packed"):
        torch.manual_seed(0)
        net = sl.Network(
            nn.Linear(8, 16), sl.LIF(v_threshold=0.2), N.Delay(list(range(4)) * 4), nn.Linear(16, 3), spikes=spikes
        )
        y, result = net(x, lengths=lengths, return_state=True)
        y.sum().backward()
        found.append((y.detach(), net.body[0].weight.grad, result.state["2"] * 1))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert found[0][1].abs().sum() > 0


def test_gradients_by_way_of_the_state():
    x = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    layer = N.Delay([4, 0, 1])

    def run(x, state):
        return layer.sequence(x, state=state, lengths=torch.tensor([2, 1]))

    assert torch.autograd.gradcheck(run, (x, state))


def test_a_layer_that_writes_to_its_input_reaches_neither_state_nor_input():
    for steps in (0, 1, [1, 0]):
        x = -torch.ones(3, 1, 2)
        net = sl.Network(N.Delay(steps), nn.ReLU(inplace=True))
        y, result = net(x, return_state=True)
        assert y.eq(0).all()
        assert x.eq(-1).all()
        assert result.state["0"].eq(-1).all()


def test_wrong_use():
    for make, message in (
        (lambda: N.Delay(-1), "Delay: steps must be whole numbers from 0, one or one for each channel, got -1"),
        (lambda: N.Delay([1, -2]), "steps must be whole numbers"),
        (lambda: N.Delay([]), "steps must be whole numbers"),
        (lambda: N.Delay([0.5, 1]), "steps must be whole numbers"),
        (
            lambda: N.Delay([1, 2]).sequence(torch.rand(3, 1, 4)),
            r"Delay: has 2 delays, got a step \[1, 4\] \[B, C, \*\]",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    assert N.Delay(torch.tensor([1, 2])).steps == (1, 2)
