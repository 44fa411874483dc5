"""Masks that stay over time, by SpikingJelly's golden files, by counting and in closed form."""

import math

import pytest
import torch

import spikeloom as sl

N = sl.nn


def test_dropout_is_spikingjellys(golden):
    data = golden("layers")
    layer, x = N.Dropout(0.4), data["x"].clone().requires_grad_()
    y, mask = layer.sequence(x, state=data["Dropout/mask"])
    assert torch.equal(y.detach(), data["Dropout/y"])
    assert torch.equal(torch.autograd.grad((data["Dropout/g"] * y).sum(), x)[0], data["Dropout/grad_x"])
    assert torch.equal(mask, data["Dropout/mask"])
    other = N.Dropout(0.4).sequence(x)[0]
    assert not torch.equal(other, data["Dropout/y"])  # another mask


def test_drop_connect_is_spikingjellys(golden):
    data = golden("layers")
    layer = N.DropConnectLinear(4, 6, p=0.4)
    layer.load_state_dict({k: data[f"DropConnectLinear/before_{k}"] for k in ("weight", "bias")})
    masks = {k: data[f"DropConnectLinear/mask_{k}"].bool() for k in ("weight", "bias")}
    x = data["DropConnectLinear/x"].clone().requires_grad_()
    y, state = layer.sequence(x, state=masks)
    torch.testing.assert_close(y.detach(), data["DropConnectLinear/y"])
    assert state is masks
    grads = torch.autograd.grad((data["DropConnectLinear/g"] * y).sum(), [x, layer.weight, layer.bias])
    for key, grad in zip(("x", "weight", "bias"), grads, strict=True):
        torch.testing.assert_close(grad, data[f"DropConnectLinear/grad_{key}"], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(layer.sequence(x)[0], data["DropConnectLinear/y"])


@pytest.mark.parametrize(
    ("dims", "shape"), [(0, (40,)), (0, (5, 4, 4)), (1, (8, 5)), (2, (8, 3, 4)), (3, (8, 2, 3, 2))]
)
def test_one_mask_for_all_steps(dims, shape):
    """Elements, or whole channels, are 0 or 1/(1-p) at every step; a share p of them is dropped; samples differ."""
    layer = N.Dropout(0.2, dims=dims)
    y, mask = layer.sequence(torch.ones(6, 50, *shape))
    assert torch.equal(y, y[:1].expand_as(y))
    assert set(y.unique().tolist()) == {0.0, 1.25}
    if dims:
        space = y.flatten(3)
        assert torch.equal(space, space[..., :1].expand_as(space))  # one for all of a channel
        y = space[..., 0]
    dropped = (y[0] == 0).float()
    assert float(dropped.mean()) == pytest.approx(0.2, abs=5 * 0.4 / math.sqrt(dropped.numel()))
    assert not torch.equal(y[:, 0], y[:, 1])
    assert mask.shape == ((50, *shape) if not dims else (50, 8, *(1,) * dims))
    assert torch.equal(layer.eval().sequence(y)[0], y)
    assert layer.sequence(y)[1] is None


@pytest.mark.parametrize("make", [lambda: N.Dropout(0.5), lambda: N.DropConnectLinear(6, 6)], ids=["drop", "connect"])
def test_parts_and_steps_of_a_run_have_one_mask(make):
    net, x, found = sl.Network(make()), torch.randn(6, 3, 6), []
    for parts in ((6,), (2, 4)):
        torch.manual_seed(1)
        state, ys = None, []
        for part in x.split(parts):
            y, result = net(part, state=state, return_state=True)
            state = result.state
            ys.append(y)
        found.append(torch.cat(ys))
    torch.manual_seed(1)
    stream = net.stream()
    found.append(torch.stack([stream(x_t) for x_t in x]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
    torch.manual_seed(1)
    lengths = torch.tensor([6, 2, 4])
    ragged = net(x, lengths=lengths)
    for b, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(ragged[:n, b], found[0][:n, b])
        assert (ragged[n:, b] == 0).all()
    assert not torch.equal(net(x), found[0])  # a new call, a new mask


def test_torchs_dropout_draws_a_mask_for_every_step():
    """What the docstring warns of."""
    y = sl.Network(torch.nn.Dropout(0.5))(torch.ones(4, 2, 20))
    assert not torch.equal(y[0], y[1])


def test_checking_a_state_draws_nothing():
    layer, x = N.Dropout(0.5), torch.ones(4, 2, 5)
    _, mask = layer.sequence(x)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    sl.Network(layer)(x, state={"0": mask})
    assert torch.equal(torch.rand(3), expected)
    with pytest.raises(ValueError, match=r"Dropout: the given state is \[2, 5\]"):
        sl.Network(layer)(x[:, :1], state={"0": mask})
    layer.eval()
    with pytest.raises(ValueError, match="Dropout: the given state holds a Tensor where this module has none"):
        sl.Network(layer)(x, state={"0": mask})


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_which_connections_are_dropped(per_sample, same, bias):
    """The identity as input shows the weights in use, row by row."""
    layer = N.DropConnectLinear(4, 50, p=0.3, bias=bias, per_sample=per_sample, same_over_time=same)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    if bias:
        with torch.no_grad():
            layer.bias.zero_()
    y, state = layer.sequence(torch.eye(4).expand(4, 4, 4).contiguous())  # sample b has input b alone
    assert set(y.unique().tolist()) == {0.0, 1.0}
    assert float(1 - y.detach().mean()) == pytest.approx(0.3, abs=5 * 0.46 / math.sqrt(4 * 50))
    assert torch.equal(y[0], y[1]) == same
    if same:
        assert {k: v.shape for k, v in state.items()} == {
            "weight": (4 if per_sample else 1, 50, 4),
            **({"bias": (4 if per_sample else 1, 50)} if bias else {}),
        }
    else:
        assert state is None
    one, _ = layer.sequence(torch.ones(1, 4, 4))
    assert torch.equal(one[0, 0], one[0, 1]) == (not per_sample)


def test_evaluation_is_the_mean_over_masks():
    """Without an activation exactly; after a ReLU the mean of a rectified normal distribution, in closed form."""
    torch.manual_seed(0)
    layer = N.DropConnectLinear(5, 3, p=0.3).double().eval()
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    y, state = layer.sequence(x)
    mean = 0.7 * (x @ layer.weight.t() + layer.bias)
    torch.testing.assert_close(y, mean)
    assert state is None
    torch.testing.assert_close(layer.sequence(x)[0], y, atol=0, rtol=0)
    spread = (0.21 * (x.square() @ layer.weight.square().t() + layer.bias.square())).sqrt()
    many = N.DropConnectLinear(5, 3, p=0.3, activation=torch.relu, samples=20_000).double().eval()
    many.load_state_dict({k: v for k, v in layer.state_dict().items() if "extra" not in k})
    z = mean / spread
    wanted = mean * 0.5 * (1 + torch.erf(z / math.sqrt(2))) + spread * torch.exp(-z.square() / 2) / math.sqrt(
        2 * math.pi
    )
    torch.testing.assert_close(
        many.sequence(x)[0], wanted, atol=5 * float(spread.detach().max()) / math.sqrt(20_000), rtol=0
    )
    torch.manual_seed(3)
    trained = torch.stack([layer.train().sequence(x)[0] for _ in range(4000)]).detach()
    torch.testing.assert_close(
        trained.mean(0), mean.detach(), atol=5 * float(spread.detach().max()) / math.sqrt(4000), rtol=0
    )
    torch.testing.assert_close(trained.std(0), spread.detach(), rtol=0.1, atol=0.01)


@pytest.mark.parametrize("per_sample", [True, False])
def test_gradients(per_sample):
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    layer = N.DropConnectLinear(4, 3, per_sample=per_sample).double()
    masks = layer.draw(x[0])

    def run(x, weight, bias):
        found = {"weight": weight, "bias": bias}
        with torch.nn.utils.stateless._reparametrize_module(layer, found):
            return layer.sequence(x, state=masks, lengths=torch.tensor([3, 2]))[0]

    assert torch.autograd.gradcheck(run, (x, layer.weight, layer.bias))
    dropout = N.Dropout(0.5)
    mask = dropout.draw(x[0])
    assert torch.autograd.gradcheck(lambda x: dropout.sequence(x, state=mask)[0], (x,))


def test_constants():
    """Dropping is of training alone, but p of DropConnectLinear is part of its mean."""
    N.Dropout(0.1).load_state_dict(N.Dropout(0.5, dims=2).state_dict())
    N.DropConnectLinear(2, 3, per_sample=False).load_state_dict(N.DropConnectLinear(2, 3).state_dict())
    with pytest.raises(RuntimeError, match=r"p is 0.5 in the checkpoint but 0.1"):
        N.DropConnectLinear(2, 3, p=0.1).load_state_dict(N.DropConnectLinear(2, 3).state_dict())


def test_wrong_use():
    for make, message in (
        (lambda: N.Dropout(1.0), "Dropout: p must be from 0 to below 1, got 1.0"),
        (lambda: N.Dropout(dims=4), "dims must be 0, 1, 2 or 3, got 4"),
        (
            lambda: N.Dropout(dims=2).sequence(torch.rand(2, 3, 4)),
            r"a step is \[B, C, \*\] of 4 dimensions, got \[3, 4\]",
        ),
        (lambda: N.DropConnectLinear(2, 2, p=-0.1), "DropConnectLinear: p must be from 0"),
        (lambda: N.DropConnectLinear(2, 2, samples=0), "samples must be at least 1, got 0"),
        (lambda: N.DropConnectLinear(2, 2).sequence(torch.rand(2, 3, 4)), r"expected \[T, B, 2\], got \[2, 3, 4\]"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
