"""Layers that know no time: standardised weights and voting, against SpikingJelly's golden files and by hand."""

import pytest
import torch
from torch import nn

import spikeloom as sl

N = sl.nn


def loaded(layer, data, name):
    """The peer divides the variance by fan_in - 1, ours by fan_in: with these numbers both are the same."""
    layer.load_state_dict({k: data[f"{name}/before_{k}"] for k in ("weight", "bias", "gain")})
    n = layer.weight[0].numel()
    layer.eps = layer.eps * (n - 1) / n
    layer.scale = ((n - 1) / n) ** 0.5
    return layer


@pytest.mark.parametrize("name", ["WSLinear", "WSConv2d"])
def test_standardised_weights_are_spikingjellys_but_for_the_divisor(golden, name):
    data = golden("layers")
    make = {
        "WSLinear": lambda: N.WSLinear(4, 6),
        "WSConv2d": lambda: N.WSConv2d(4, 4, 3, stride=2, padding=1, groups=2),
    }
    layer = loaded(make[name](), data, name)
    x = data[f"{name}/x"].clone().requires_grad_()
    y = sl.Network(layer)(x)
    torch.testing.assert_close(y.detach(), data[f"{name}/y"], atol=3e-6, rtol=1e-5)
    parameters = dict(layer.named_parameters())
    grads = torch.autograd.grad((data[f"{name}/g"] * y).sum(), [x, *parameters.values()])
    for key, grad in zip(["x", *parameters], grads, strict=True):
        torch.testing.assert_close(grad, data[f"{name}/grad_{key}"], atol=1e-5, rtol=1e-4)
    layer.scale = 1.0
    assert not torch.allclose(sl.Network(layer)(x), data[f"{name}/y"], atol=1e-3)


CASES = {"linear": (lambda: N.WSLinear(50, 4), (50,)), "conv": (lambda: N.WSConv2d(6, 4, 3, groups=2), (6, 4, 4))}


@pytest.mark.parametrize("name", CASES)
def test_each_output_has_weights_of_mean_zero_and_norm_one(name):
    make, shape = CASES[name]
    layer, x = make().double(), torch.randn(1, *shape, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.mul_(10).add_(3.0)
        layer.gain.copy_(torch.tensor([1.0, 2.0, 0.5, -1.0]).view_as(layer.gain))
    for scale in (1.0, 2.74):
        layer.scale = scale
        rows = layer.standardised().flatten(1)
        torch.testing.assert_close(rows.sum(1), torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)
        wanted = scale**2 * torch.tensor([1.0, 4.0, 0.25, 1.0], dtype=torch.float64)
        torch.testing.assert_close(rows.square().sum(1), wanted, rtol=1e-4, atol=0)  # of eps
    names = ("weight", "gain")
    run = lambda *values: torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))  # noqa: E731
    assert torch.autograd.gradcheck(run, (layer.weight, layer.gain))


def test_options_of_torchs_layers():
    layer = N.WSConv2d(2, 4, (3, 1), stride=2, padding=1, dilation=2, bias=False, padding_mode="circular", gain=False)
    plain = nn.Conv2d(2, 4, (3, 1), stride=2, padding=1, dilation=2, bias=False, padding_mode="circular")
    assert layer.gain is None
    with torch.no_grad():
        plain.weight.copy_(layer.standardised())
    x = torch.rand(2, 2, 9, 9)
    assert torch.equal(layer(x), plain(x))
    assert N.WSLinear(3, 2, False).bias is None
    assert N.WSLinear(3, 2, dtype=torch.float64).gain.dtype == torch.float64
    with pytest.raises(RuntimeError, match=r"scale is 2.74 in the checkpoint but 1.0"):
        N.WSLinear(3, 2).load_state_dict(N.WSLinear(3, 2, scale=2.74).state_dict())
    assert sl.cite(layer)[0].startswith("Brock et al.")


def test_standardised_layers_read_bits():
    s = sl.pack((torch.rand(6, 2, 8, 6, 6) < 0.3).float())
    for layer, x in ((N.WSConv2d(8, 4, 3), s), (N.WSLinear(288, 4), s.flatten(2))):
        net = sl.Network(layer)
        torch.testing.assert_close(net(x), net(x * 1))


def test_voting_is_spikingjellys(golden):
    data = golden("layers")
    x = data["Voting/x"].clone().requires_grad_()
    y = sl.Network(N.Voting(3))(x)
    torch.testing.assert_close(y.detach(), data["Voting/y"])
    torch.testing.assert_close(torch.autograd.grad((data["Voting/g"] * y).sum(), x)[0], data["Voting/grad_x"])
    assert not torch.allclose(N.Voting(2)(x)[..., :2], data["Voting/y"])


def test_voting_of_bits_and_wrong_numbers():
    s = (torch.rand(5, 2, 40) < 0.5).float()
    assert torch.equal(N.Voting()(sl.pack(s)), N.Voting()(s))
    with pytest.raises(ValueError, match="Voting: 7 features cannot be divided into groups of 3"):
        N.Voting(3)(torch.rand(2, 7))
    with pytest.raises(ValueError, match="Voting: size must be at least 1, got 0"):
        N.Voting(0)
    with pytest.raises(ValueError, match=r"Voting: expected \[N, classes \* 3\], got \[6\]: inside a Network"):
        sl.Network(N.Voting(3))(torch.rand(2, 3))


class Calls(nn.Module):
    """Counts the rows that come by."""

    row_wise = True

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, x):
        self.rows.append(len(x))
        return x


class Derived(Calls):
    """What it does with rows nobody knows."""


@pytest.mark.parametrize("kind", [Calls, Derived])
def test_layers_that_say_so_run_once_on_a_still_input(kind):
    """Exactly the classes that say it themselves: one derived from them may do anything."""
    seen = kind()
    layers = [
        N.WSConv2d(1, 6, 3),
        nn.Flatten(),
        N.WSLinear(96, 12),
        N.Voting(2),
        N.SparseLinear(6, 6, density=0.5),
        seen,
    ]
    net, image = sl.Network(*layers, sl.LIF()), torch.rand(3, 1, 6, 6)
    y = net(image, repeat=5)
    assert seen.rows == [3 if kind is Calls else 15]
    torch.testing.assert_close(y, net(image.expand(5, *image.shape).contiguous()))
