"""SparseLinear: a dense layer with a mask, values and gradients of existing synapses alone."""

import pytest
import torch
from torch import nn

import spikeloom as sl


@pytest.mark.parametrize(
    "options", [dict(density=0.3), dict(density=0.01), dict(fan_in=4), dict(density=0.3, bias=False)]
)
def test_it_is_a_masked_linear_layer(options):
    layer = sl.nn.SparseLinear(64, 20, **options)
    reference = nn.Linear(64, 20, bias=layer.bias is not None)
    with torch.no_grad():
        reference.weight.copy_(layer.dense_weight())
        if layer.bias is not None:
            reference.bias.copy_(layer.bias)
    assert torch.equal(reference.weight != 0, layer.mask)
    x = torch.randn(7, 3, 64, requires_grad=True)
    torch.testing.assert_close(layer(x), reference(x))
    with torch.no_grad():  # sparsely, where the density is small
        torch.testing.assert_close(layer(x), reference(x))
    g = torch.randn(7, 3, 20)
    by_x, by_weight = torch.autograd.grad((g * layer(x)).sum(), [x, layer.weight])
    wanted = torch.autograd.grad((g * reference(x)).sum(), [x, reference.weight])
    torch.testing.assert_close(by_x, wanted[0])
    torch.testing.assert_close(by_weight, wanted[1][layer.mask])
    spikes = sl.pack((torch.rand(9, 64) < 0.1).float())
    torch.testing.assert_close(layer(spikes), reference(spikes.unpack()))


def test_connections():
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]], dtype=torch.bool)
    layer = sl.nn.SparseLinear(3, 2, mask=mask)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, 3.0]))
        layer.bias.copy_(torch.tensor([0.5, -1.0]))
    assert layer(torch.tensor([[1.0, 10.0, 100.0]])).tolist() == [[302.5, -1.0]]
    assert torch.equal(layer.mask, mask)
    many = sl.nn.SparseLinear(500, 400, density=0.1)
    assert many.density == pytest.approx(0.1, abs=0.005)
    assert float(many.weight.detach().abs().max()) < 0.25  # 1/sqrt(50), more where an output has few synapses
    assert torch.equal(many.mask, sl.nn.SparseLinear(500, 400, density=0.1).mask)
    assert not torch.equal(many.mask, sl.nn.SparseLinear(500, 400, density=0.1, seed=1).mask)
    fixed = sl.nn.SparseLinear(50, 40, fan_in=7)
    assert fixed.mask.sum(1).tolist() == [7] * 40
    assert "280 synapses (14 %)" in repr(fixed)
    assert sl.nn.SparseLinear(8, 8, density=1.0).density == 1.0


def test_a_checkpoint_brings_its_connections():
    one, other = sl.nn.SparseLinear(30, 20, fan_in=3), sl.nn.SparseLinear(30, 20, fan_in=3, seed=5)
    other.load_state_dict(one.state_dict())
    x = torch.randn(4, 30)
    assert torch.equal(one(x), other(x))
    assert torch.equal(one.mask, other.mask)


def test_it_learns_inside_networks():
    torch.manual_seed(0)
    net = sl.Network(
        sl.nn.SparseLinear(20, 64, density=0.2), sl.LIF(v_threshold=0.3), nn.Linear(64, 2), spikes="packed"
    )
    x, target = torch.randn(8, 16, 20), torch.arange(16) % 2
    optimiser, losses = torch.optim.Adam(net.parameters(), lr=0.02), []
    for _ in range(30):
        loss = nn.functional.cross_entropy(net(x).mean(0), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


def test_what_it_refuses():
    for options, message in (
        (dict(), "give one of mask, density and fan_in"),
        (dict(density=0.1, fan_in=2), "give one of mask, density and fan_in"),
        (dict(density=0.0), "density must be above 0 and at most 1, got 0"),
        (dict(fan_in=9), "fan_in must be from 1 to in_features = 8, got 9"),
        (dict(mask=torch.ones(8, 4)), r"mask must be \[out_features, in_features\] = \[4, 8\], got \[8, 4\]"),
    ):
        with pytest.raises(ValueError, match=message):
            sl.nn.SparseLinear(8, 4, **options)
    with pytest.raises(ValueError, match=r"expected \[\*, 8\], got \[2, 7\]"):
        sl.nn.SparseLinear(8, 4, fan_in=2)(torch.rand(2, 7))
