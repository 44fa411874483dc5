"""SparseLinear: a dense layer with a mask, values and gradients of existing synapses alone."""

import copy
import pickle

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom.nn import synapses


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("B", "inputs", "outputs"), [(1, 30, 40), (5, 200, 70), (64, 300, 30), (133, 40, 300)])
def test_sums_over_synapses_and_their_gradients(B, inputs, outputs, dtype, monkeypatch):
    """Against the dense layer in float64, inputs dense and of one bit, on one thread or more."""
    ran = []
    real = synapses._call
    monkeypatch.setattr(synapses, "_call", lambda *args: ran.append(args[0]) or real(*args))
    monkeypatch.setattr(synapses, "_SMALL", 100)
    layer = sl.nn.SparseLinear(inputs, outputs, density=0.03, seed=3).to(dtype)
    W, b = layer.dense_weight().detach().double(), layer.bias.detach().double()
    dense, g = torch.randn(B, inputs, dtype=dtype), torch.randn(B, outputs, dtype=dtype)
    few = (torch.rand(B, inputs) < 0.2).to(dtype)
    limits = {"atol": 2e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-12, "rtol": 1e-12}
    for x, values in ((dense.clone().requires_grad_(), dense), (sl.pack(few), few)):
        y = layer(x)
        torch.testing.assert_close(y.double(), values.double() @ W.t() + b, **limits)
        wanted = [(g.double().t() @ values.double())[layer.mask], g.double().sum(0), g.double() @ W]
        inputs_of = [layer.weight, layer.bias, *([x] if x.requires_grad else [])]
        for found, exact in zip(torch.autograd.grad((y * g).sum(), inputs_of), wanted, strict=False):
            torch.testing.assert_close(found.double(), exact, **limits)
    assert ran == ["times", "times", "gradient", "times", "gradient"]
    first = layer(dense)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert torch.equal(layer(dense), first)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own, inside of jvp
def test_where_sums_over_synapses_have_no_form_the_layer_is_dense():
    layer, x = sl.nn.SparseLinear(50, 20, fan_in=2), torch.randn(3, 50)
    y = layer(x)
    with sl.backend("eager"):
        twice = torch.autograd.grad(layer(x.requires_grad_()).square().sum(), x, create_graph=True)[0]
        assert torch.autograd.grad(twice.sum(), layer.weight)[0].abs().sum() > 0
    once = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="second derivatives"):
        once.sum().backward()
    x = x.detach()
    rows = torch.func.vmap(layer)(x)
    torch.testing.assert_close(rows, y)
    torch.testing.assert_close(torch.func.jvp(layer, (x,), (x,))[1], y - layer.bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), y)


def test_places_follow_the_synapses():
    layer = sl.nn.SparseLinear(50, 20, fan_in=2)
    other = sl.nn.SparseLinear(50, 20, fan_in=2, seed=1)
    x = torch.randn(3, 50)
    layer(x)
    other(x)
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), other(x))
    assert torch.equal(copy.deepcopy(layer)(x), other(x))
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), other(x))
    empty = sl.nn.SparseLinear(4, 3, mask=torch.zeros(3, 4, dtype=torch.bool))
    assert torch.equal(empty(torch.randn(2, 4)), empty.bias.expand(2, 3))


def test_places_follow_the_shape():
    layer = sl.nn.SparseLinear(100, 50, fan_in=2, bias=False)
    layer(torch.rand(3, 100))
    layer.in_features, layer.out_features = 50, 100
    x = torch.rand(3, 50)
    torch.testing.assert_close(layer(x), x @ layer.dense_weight().T)


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
