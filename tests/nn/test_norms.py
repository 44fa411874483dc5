"""Norms over time: SpikingJelly's (golden files), the equations, ragged batches, splits, dtypes, gradients."""

import pytest
import torch
from torch import nn

import spikeloom as sl

N = sl.nn
T, B, C, H, W = 5, 3, 4, 3, 2


def close(a, b, tolerance=3e-6):
    return float((a - b).abs().max()) <= tolerance * float(b.abs().max())


def taken(data, name, when, key):
    """What BNTT's five batch norms have in one tensor here, and the others as they have it."""
    if f"{name}/{when}_{key}" in data:
        return data[f"{name}/{when}_{key}"]
    return torch.stack([data[f"{name}/{when}_bn_list.{t}.{key}"] for t in range(T)])


PEERS = {  # how it is made, and our names of what the peer calls otherwise
    "tdBN": (lambda: N.td_batch_norm(C, v_threshold=0.5, alpha=0.7), {}),
    "TEBN": (lambda: N.TEBN(C, T), {"norm.weight": "weight", "norm.bias": "bias", "p": "scale"}),
    "BNTT": (lambda: N.BNTT(C, T), {}),
    "NeuNorm": (lambda: N.NeuNorm(C, (H, W), k=0.8), {}),
}


def as_the_peer(name, data):
    make, names = PEERS[name]
    module = make()
    with torch.no_grad():
        for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
            theirs = names.get(key, key).removeprefix("norm.")
            if tensor.is_floating_point() and name != "tdBN" and not theirs.startswith("trace"):
                tensor.copy_(taken(data, name, "before", theirs))
    return module, names


@pytest.mark.parametrize("name", PEERS)
def test_norms_are_spikingjellys(golden, name):
    data = golden("layers")
    module, names = as_the_peer(name, data)
    if name == "tdBN":
        assert type(module) is nn.BatchNorm2d
        assert torch.equal(module.weight, data["tdBN/before_weight"])
    x = data["x"].clone().requires_grad_()
    net = sl.Network(module)
    y = net(x)
    assert close(y.detach(), data[f"{name}/y"])
    parameters = dict(module.named_parameters())
    grads = torch.autograd.grad((data[f"{name}/g"] * y).sum(), [x, *parameters.values()])
    for key, grad in zip(["x", *parameters], grads, strict=True):
        wanted = taken(data, name, "grad", names.get(key, key))
        if key.endswith("weight") and name == "BNTT":
            assert grad.shape == wanted.shape
        assert float((grad - wanted).abs().max()) <= 1e-5 * float(
            data[f"{name}/grad_x"].abs().max() + wanted.abs().max()
        )
    if name != "NeuNorm":
        norm = module.norm if name == "TEBN" else module
        for key in ("running_mean", "running_var"):
            torch.testing.assert_close(getattr(norm, key), taken(data, name, "after", key), atol=1e-6, rtol=1e-5)
        assert close(net.eval()(x).detach(), data[f"{name}/evaluated"])


@pytest.mark.parametrize("name", ["TEBN", "BNTT", "NeuNorm"])
def test_twins_of_another_equation_differ(golden, name):
    data = golden("layers")
    x, wanted = data["x"], data[f"{name}/y"]
    module, _ = as_the_peer(name, data)
    if name == "NeuNorm":
        wrong = N.NeuNorm(C, (H, W), k=0.9)
        with torch.no_grad():
            wrong.w.copy_(module.w)
        twins = [wrong.sequence(x)[0]]
    else:
        twins = [module.sequence(x.flip(0))[0].flip(0)]  # steps in another order
    for twin in twins:
        assert not close(twin.detach(), wanted, 3e-5)


def test_td_batch_norm_joins_its_neuron():
    x = torch.randn(6, 2, 3, 4, 4)
    net = sl.Network(N.td_batch_norm(3, v_threshold=0.4, alpha=0.5**0.5), sl.LIF(v_threshold=0.4))
    if {row.backend for row in sl.explain(net, x).rows} != {"c"}:
        pytest.skip("no C kernels on this machine")
    assert "fused with BatchNorm2d" in str(sl.explain(net, x))
    mean, var = x.mean((0, 1, 3, 4), keepdim=True), x.var((0, 1, 3, 4), unbiased=False, keepdim=True)
    h = 0.4 * 0.5**0.5 * (x - mean) / (var + 1e-5).sqrt()
    with sl.backend("eager"):
        wanted = sl.LIF(v_threshold=0.4).sequence(h)[0]
    assert float((net(x) - wanted).detach().abs().mean()) < 1e-3
    for dims, kind in ((1, nn.BatchNorm1d), (2, nn.BatchNorm2d), (3, nn.BatchNorm3d)):
        assert type(N.td_batch_norm(3, dims=dims)) is kind


def bntt_by_hand(layer, x, lengths):
    """The equation, sample by sample and step by step; what a step's statistics are is collected first."""
    y = torch.zeros_like(x)
    means, variances = layer.running_mean.clone(), layer.running_var.clone()
    for t in range(len(x)):
        going = [b for b in range(x.shape[1]) if t < lengths[b]]
        rows = x[t, going].reshape(len(going), x.shape[2], -1)  # [n, C, space]
        values = rows.transpose(0, 1).flatten(1)  # [C, n space]
        n = values.shape[1]
        if n > 1:
            mean, var = values.mean(1), values.var(1, unbiased=False)
            means[t] = 0.9 * means[t] + 0.1 * mean
            variances[t] = 0.9 * variances[t] + 0.1 * var * n / (n - 1)
        else:
            mean, var = means[t], variances[t]
        for b in going:
            shape = (-1, *(1,) * (x.ndim - 3))
            scale = (layer.weight[t] / (var + layer.eps).sqrt()).reshape(shape)
            y[t, b] = (x[t, b] - mean.reshape(shape)) * scale
            if layer.bias is not None:
                y[t, b] += layer.bias[t].reshape(shape)
    return y, means, variances


@pytest.mark.parametrize("space", [(), (2,), (2, 3), (2, 1, 2)])
def test_bntt_of_ragged_batches_by_hand(space):
    """In training; the longest sample is alone at the end, where without space there is no variance."""
    layer = N.BNTT(4, 6, dims=max(1, len(space)), bias=bool(space)).double()
    with torch.no_grad():
        layer.weight.uniform_(0.5, 1.5)
        layer.running_var.uniform_(0.5, 1.5)
    x = torch.randn(5, 3, 4, *space, dtype=torch.float64)
    for lengths in ([5, 5, 5], [5, 2, 3]):
        with torch.no_grad():
            wanted, means, variances = bntt_by_hand(layer, x, lengths)
        padded = x.clone()
        for b, n in enumerate(lengths):
            padded[n:, b] = torch.nan
        y, state = layer.sequence(padded, lengths=None if min(lengths) == 5 else torch.tensor(lengths))
        torch.testing.assert_close(y.detach(), wanted)
        torch.testing.assert_close(layer.running_mean, means)
        torch.testing.assert_close(layer.running_var, variances)
        assert state["step"].tolist() == lengths


def test_bntt_continues_where_each_sample_is():
    """After a ragged part samples are at different steps; each goes on with the numbers of its own step."""
    layer = N.BNTT(4, 8, dims=1).eval()
    with torch.no_grad():
        layer.weight.uniform_(0.5, 1.5)
        layer.running_mean.normal_()
    x = torch.randn(8, 3, 4)
    lengths = torch.tensor([5, 2, 3])
    _, state = layer.sequence(x[:5], lengths=lengths)
    more = torch.randn(3, 3, 4)
    y, end = layer.sequence(more, state=state)
    assert end["step"].tolist() == [8, 5, 6]
    for b, n in enumerate(lengths.tolist()):
        whole, _ = layer.sequence(torch.cat([x[:n, b : b + 1], more[:, b : b + 1]]))
        torch.testing.assert_close(y[:, b : b + 1], whole[n:])


@pytest.mark.parametrize("name", ["BNTT", "TEBN"])
def test_parts_in_training(name):
    """BNTT's statistics are those of a step, so parts and steps give the whole run, and move as much. TEBN's are those
    of what it is given."""
    x, found = torch.randn(6, 3, 4), []
    for parts in ((6,), (2, 4), (1,) * 6):
        torch.manual_seed(0)
        layer, state, ys = getattr(N, name)(4, 6, dims=1), None, []
        for part in x.split(parts):
            y, state = layer.sequence(part, state=state)
            ys.append(y)
        norm = layer if name == "BNTT" else layer.norm
        found.append((torch.cat(ys), norm.running_mean.clone(), norm.running_var.clone()))
    for other in found[1:]:
        same = [torch.allclose(a, b, atol=1e-6) for a, b in zip(other, found[0], strict=True)]
        assert same == [name == "BNTT"] * 3


def test_tebn_scales_and_its_ragged_statistics():
    """Statistics are those of the 5 + 2 + 3 valid steps."""
    layer = N.TEBN(4, 7, dims=1)
    with torch.no_grad():
        layer.p.copy_(torch.linspace(0.5, 2.0, 7))
    x, lengths = torch.randn(5, 3, 4), [5, 2, 3]
    y, state = layer.sequence(x, lengths=torch.tensor(lengths))
    valid = torch.cat([x[:n, b] for b, n in enumerate(lengths)])
    mean, std = valid.mean(0), (valid.var(0, unbiased=False) + 1e-5).sqrt()
    for b, n in enumerate(lengths):
        torch.testing.assert_close(y[:n, b], (x[:n, b] - mean) / std * layer.p[:n, None])
    torch.testing.assert_close(layer.norm.running_mean, 0.1 * mean)
    layer.eval()
    more = torch.randn(2, 3, 4)
    z, end = layer.sequence(more, state=state)
    for b, n in enumerate(lengths):
        torch.testing.assert_close(z[:, b], layer.norm(more[:, b]) * layer.p[n : n + 2, None])
    assert end["step"].tolist() == [7, 4, 5]


@pytest.mark.parametrize("name", ["TEBN", "BNTT"])
def test_beyond_the_last_step(name):
    layer = getattr(N, name)(4, 3, dims=1)
    with pytest.raises(ValueError, match=rf"{name}: was made for T = 3 steps, this sequence goes to step 4"):
        layer.sequence(torch.randn(4, 2, 4))
    layer.eval()
    stream = sl.Network(layer).stream()
    for _ in range(3):
        stream(torch.randn(2, 4))
    with pytest.raises(ValueError, match=r"goes to step 4; give it a larger T"):
        stream(torch.randn(2, 4))


def test_neunorm_by_hand():
    """C = 2, k = 0.5: m = 0.5 m + 0.125 sum_c s."""
    layer = N.NeuNorm(2, 1, k=0.5, shared=True)
    with torch.no_grad():
        layer.w.fill_(2.0)
    s = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]).view(3, 1, 2, 1, 1)
    y, state, recorded = layer.sequence(s, record=("v",))
    assert recorded["v"].flatten().tolist() == [0.25, 0.25, 0.125]
    assert y.flatten().tolist() == [0.5, 0.5, -0.5, 0.5, -0.25, -0.25]
    assert state["v"].shape == (1, 1, 1, 1)
    packed, _ = layer.sequence(sl.pack(s))
    assert torch.equal(packed, y)
    for shared in (False, True):
        w = N.NeuNorm(6, (4, 9), shared=shared).w.detach()
        assert w.shape == (1 if shared else 6, 4, 9)
        assert 0.9 / 6 < float(w.abs().max()) <= 1 / 6  # 1 / sqrt(H W)


GRADED = {
    "TEBN": (lambda: N.TEBN(3, 4, dims=1), (4, 2, 3)),
    "BNTT": (lambda: N.BNTT(3, 4, dims=1, bias=True), (4, 3, 3)),
    "NeuNorm": (lambda: N.NeuNorm(2, (2, 1), k=0.7), (4, 2, 2, 2, 1)),
}


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", GRADED)
def test_gradients(name, ragged):
    make, shape = GRADED[name]
    module = make().double()
    if ragged and name == "BNTT":
        module.eval()
    names = [n for n, _ in module.named_parameters()]
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([4, 2, 3][: shape[1]]) if ragged else None

    def run(x, *values):
        return torch.func.functional_call(
            Only(module), {f"module.{n}": v for n, v in zip(names, values, strict=True)}, (x, lengths)
        )

    values = [p.detach().clone().requires_grad_() for p in module.parameters()]
    assert torch.autograd.gradcheck(run, (x, *values), atol=1e-7)


class Only(nn.Module):
    """The sequence of a module as a forward."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x, lengths):
        return self.module.sequence(x, lengths=lengths)[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["TEBN", "BNTT", "NeuNorm"])
def test_statistics_are_float32_under_autocast(name, dtype):
    """Inputs of 8 or 11 bits, means and traces of 24: they are those that float64 gives for the same inputs."""
    make = {"TEBN": lambda: N.TEBN(16, 8), "BNTT": lambda: N.BNTT(16, 8), "NeuNorm": lambda: N.NeuNorm(16, 4)}[name]
    torch.manual_seed(0)
    layer = make()
    torch.manual_seed(0)
    exact = make().double()
    x = (100 + torch.randn(8, 6, 16, 4, 4)).to(dtype)
    wanted, want = exact.sequence(x.double())
    with torch.autocast("cpu", dtype):
        y, state = layer.sequence(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), wanted, atol=0.02, rtol=0.01)
    if name == "NeuNorm":
        assert state["v"].dtype == torch.float32
        torch.testing.assert_close(state["v"].double(), want["v"], atol=0, rtol=1e-5)
        return
    norms = [m.norm if name == "TEBN" else m for m in (layer, exact)]
    assert norms[0].running_mean.dtype == torch.float32
    for key in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(norms[0], key).double(), getattr(norms[1], key), atol=0, rtol=1e-5)


def test_wrong_use():
    for make, message in (
        (lambda: N.TEBN(3, 0), "TEBN: T must be at least 1, got 0"),
        (lambda: N.BNTT(0, 3), "features and T must be at least 1, got 0 and 3"),
        (lambda: N.td_batch_norm(3, dims=4), "td_batch_norm: dims, the dimensions of space, must be 1, 2 or 3, got 4"),
        (lambda: N.NeuNorm(3, 4, k=1.0), "k must be from 0 to below 1, got 1.0"),
        (
            lambda: N.NeuNorm(3, 4).sequence(torch.rand(2, 1, 3, 4, 5)),
            r"expected \[T, B, 3, 4, 4\], got \[2, 1, 3, 4, 5\]",
        ),
        (lambda: N.BNTT(3, 4).sequence(torch.rand(2, 1, 3)), r"expected \[T, B, 3, \*\] with 2 dimensions of space"),
        (lambda: N.BNTT(3, 4, dims=1).sequence(torch.rand(2, 1, 4)), r"expected \[T, B, 3, \*\]"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
