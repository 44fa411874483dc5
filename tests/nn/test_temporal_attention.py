"""Attention over time, channels and places: SpikingJelly's (golden files), the equations, ragged batches, dtypes."""

import copy

import pytest
import torch
from torch import nn

import spikeloom as sl

N = sl.nn
T, B, C, H, W = 6, 3, 4, 5, 3

MAKES = {
    "TA": (lambda: N.TemporalAttention(T, reduction=2), (H, W)),
    "TA of rows": (lambda: N.TemporalAttention(T, reduction=4), ()),
    "MA": (lambda: N.MultiDimensionalAttention(T, C, reduction_t=3, reduction_c=2), (H, W)),
    "MA of places": (lambda: N.MultiDimensionalAttention(T, C, kernel=5, dims="s"), (H, W)),
    "MA of rows": (lambda: N.MultiDimensionalAttention(T, C, reduction_t=2, reduction_c=1, dims="tc"), ()),
    "MA of volumes": (lambda: N.MultiDimensionalAttention(T, C, reduction_c=2, dims="c"), (2, 3, 2)),
    "TCJA": (lambda: N.TCJA(T, C), (H, W)),
    "TCJA wide": (lambda: N.TCJA(T, C, kernel_t=3, kernel_c=4), (H, W)),
    "TCJA of rows": (lambda: N.TCJA(T, C, kernel_t=4, kernel_c=3), ()),
}
LENGTHS = [T, 2, 1]


def made(name, seed=0):
    torch.manual_seed(seed)
    make, space = MAKES[name]
    module = make().double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, mean=0.2, std=0.4)  # at 0 one ReLU of few may be silent for all inputs
    return module, 0.5 + torch.randn(T, B, C, *space, dtype=torch.float64)


# -- the equations, sample by sample -----------------------------------------------------------------------------------


def of_sums(mlp, mean, most):
    """Scores ``[n]`` of means and maxima ``[n]``; each goes through both layers by itself."""
    squeeze, excite = mlp.squeeze.weight, mlp.excite.weight
    by = [torch.einsum("nk,k->n", excite, torch.einsum("kn,n->k", squeeze, v).clamp(min=0)) for v in (mean, most)]
    return 1 / (1 + (-(by[0] + by[1])).exp())


def zeros_beside(x, k):
    """``x`` ``[n, m]`` with k - 1 columns of zeros, the odd one at the end."""
    before = (k - 1) // 2
    return torch.cat([x.new_zeros(len(x), before), x, x.new_zeros(len(x), k - 1 - before)], 1)


def slid(weight, x):
    """``y[o, i] = sum_c sum_j weight[o, c, j] x[c, i + j]``."""
    k, n = weight.shape[2], x.shape[1]
    x = zeros_beside(x, k)
    return torch.stack([torch.einsum("ocj,cj->o", weight, x[:, i : i + k]) for i in range(n)], 1)


def by_hand(layer, x, n):
    """What a sample ``x`` ``[n, C, *]`` gives, n of T steps; steps that it has not are zeros in sums over them."""

    def filled(values):
        return torch.cat([values, values.new_zeros(T - n)])

    def over_time(mlp, x):
        rows = x.flatten(1)
        return torch.einsum("t,t...->t...", of_sums(mlp, filled(rows.mean(1)), filled(rows.max(1).values))[:n], x)

    if isinstance(layer, N.TemporalAttention):
        return over_time(layer.mlp, x)
    if isinstance(layer, N.TCJA):
        mean = torch.cat([x.flatten(2).mean(2) if x.ndim > 2 else x, x.new_zeros(T - n, C)])
        product = slid(layer.conv_t.weight, mean) * slid(layer.conv_c.weight, mean.t()).t()
        return torch.einsum("tc,tc...->tc...", 1 / (1 + (-product[:n]).exp()), x)
    if layer.time is not None:
        x = over_time(layer.time, x)
    if layer.channels is not None:
        columns = x.transpose(0, 1).flatten(1)
        x = torch.einsum("c,tc...->tc...", of_sums(layer.channels, columns.mean(1), columns.max(1).values), x)
    if layer.space is not None:
        maps, weight = x.flatten(0, 1), layer.space.weight[0]
        k = weight.shape[1]
        r = k // 2
        wide = x.new_zeros(2, H + 2 * r, W + 2 * r)
        wide[:, r : r + H, r : r + W] = torch.stack([maps.mean(0), maps.max(0).values])
        score = x.new_zeros(H, W)
        for i in range(k):
            for j in range(k):
                score = score + torch.einsum("m,mhw->hw", weight[:, i, j], wide[:, i : i + H, j : j + W])
        x = torch.einsum("hw,tchw->tchw", 1 / (1 + (-score).exp()), x)
    return x.clamp(min=0)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", MAKES)
def test_equations(name, ragged):
    """Outputs and gradients of each sample alone; what stands behind the end of a sample does not matter."""
    layer, x = made(name)
    lengths = LENGTHS if ragged else [T] * B
    given = x.clone()
    for b, n in enumerate(lengths):
        given[n:, b] = torch.nan
    given.requires_grad_()
    y, state = layer.sequence(given, lengths=torch.tensor(lengths) if ragged else None)
    assert state is None
    g = torch.randn_like(x)
    leaves = list(layer.parameters())
    x.requires_grad_()
    wanted = torch.zeros_like(x)
    for b, n in enumerate(lengths):
        wanted[:n, b] = by_hand(layer, x[:n, b], n)
    torch.testing.assert_close(y, wanted, rtol=1e-12, atol=1e-12)
    assert float((y.detach() / given.detach()).nan_to_num().std()) > 0.02  # scores differ
    found = torch.autograd.grad((g * y).sum(), [given, *leaves])
    for got, want in zip(found, torch.autograd.grad((g * wanted).sum(), [x, *leaves]), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
        assert float(want.abs().max()) > 1e-3


@pytest.mark.parametrize("name", MAKES)
def test_gradients(name):
    layer, x = made(name)
    names = [n for n, _ in layer.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(Only(layer), {f"layer.{n}": v for n, v in zip(names, values, strict=True)}, x)

    small = (x[:, :1, :, :2, :2] if x.ndim == 5 else x[:, :1]).clone().requires_grad_()
    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(run, (small, *values), atol=1e-7)


class Only(nn.Module):
    """The sequence of a module as a forward."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer.sequence(x)[0]


# -- the peer ----------------------------------------------------------------------------------------------------------

PEERS = {
    "TA of images": lambda: N.TemporalAttention(6, reduction=2),
    "TA of rows": lambda: N.TemporalAttention(6, reduction=3),
    "MA tcs": lambda: N.MultiDimensionalAttention(6, 4, reduction_t=2, reduction_c=2),
    "MA s7": lambda: N.MultiDimensionalAttention(6, 4, kernel=7, dims="s"),
    "MA cs": lambda: N.MultiDimensionalAttention(6, 4, reduction_c=2, dims="cs"),
    "MA c": lambda: N.MultiDimensionalAttention(6, 4, reduction_c=2, dims="c"),
}
THERE = {"mlp": "sharedMLP", "time": "ta.sharedMLP", "channels": "ca.sharedMLP", "space": "sa.conv"}
"""As docs/porting.md has it: parts, and the layers of an MLP by number."""


def there(key):
    part, _, rest = key.partition(".")
    return f"{THERE[part]}.{rest.replace('squeeze', '0').replace('excite', '2')}"


@pytest.mark.parametrize("name", PEERS)
def test_attention_is_spikingjellys(golden, name):
    data = golden("temporal_attention")
    layer = PEERS[name]()
    parameters = dict(layer.named_parameters())
    assert {f"{name}/weight_{there(key)}" for key in parameters} == {k for k in data if f"{name}/weight" in k}
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(data[f"{name}/weight_{there(key)}"].view(parameter.shape))
    x = data[f"{name}/x"].clone().requires_grad_()
    y = sl.Network(layer)(x)
    torch.testing.assert_close(y, data[f"{name}/y"], rtol=1e-5, atol=1e-6)
    dim = {"MA c": 2, "MA cs": 2, "MA s7": 3}.get(name, 0)
    twin = layer.sequence(x.flip(dim))[0].flip(dim)  # steps, channels or rows have each other's weights
    assert float((twin - y).detach().abs().max()) > 1e-3
    grads = torch.autograd.grad((data[f"{name}/g"] * y).sum(), [x, *parameters.values()])
    for key, grad in zip(["x", *parameters], grads, strict=True):
        wanted = data[f"{name}/grad_{key if key == 'x' else there(key)}"].view(grad.shape)
        assert float(wanted.abs().max()) > 1e-3
        torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


# -- numbers by hand ---------------------------------------------------------------------------------------------------


def test_tcja_slides_over_the_other_dimension():
    """T = C = 2. conv_t of two channels: y[t, c] = sum_s w[t, s, 0] m[s, c] + w[t, s, 1] m[s, c + 1], a zero after the
    last; conv_c of one step: y[t, c] = sum_d w[c, d] m[t, d]."""
    layer = N.TCJA(2, 2)
    with torch.no_grad():
        layer.conv_t.weight.copy_(torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]))
        layer.conv_c.weight.copy_(torch.tensor([[1.0], [1.0]]).mul(torch.tensor([1.0, -1.0])).unsqueeze(2))
    m = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    of_steps = torch.tensor([[1.0, 2.0], [4.0, 0.0]])  # step 0 as it is, step 1 moved by a channel
    of_channels = torch.tensor([[-1.0, -1.0], [-1.0, -1.0]])  # the first channel less the second
    y, _ = layer.sequence(m.view(2, 1, 2))
    torch.testing.assert_close(y.view(2, 2), m / (1 + (-of_steps * of_channels).exp()))


def test_values_that_share_the_maximum_share_its_gradient():
    """Spikes: the maximum of each step is 1, and three values have it."""
    layer = N.TemporalAttention(1, reduction=1)
    with torch.no_grad():
        layer.mlp.squeeze.weight.fill_(1.0)
        layer.mlp.excite.weight.fill_(1.0)
    x = torch.tensor([1.0, 0.0, 1.0, 1.0]).view(1, 1, 4).requires_grad_()
    y, _ = layer.sequence(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    score = 1 / (1 + torch.tensor(-1.75).exp())  # mean 0.75 and maximum 1
    slope = 3 * score * (1 - score)  # of the sum of y by the score's argument
    torch.testing.assert_close(grad.flatten(), score + slope / 4 + slope / 3 * torch.tensor([1.0, 0.0, 1.0, 1.0]))


# -- dtypes, spikes, layouts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKES)
def test_spikes_in_any_form(name):
    layer, x = made(name)
    layer.float()
    spikes = (x > 0.5).float()
    y, _ = layer.sequence(spikes)
    for same in (sl.pack(spikes), spikes.bool(), spikes.long()):
        z, _ = layer.sequence(same)
        assert type(z) is torch.Tensor
        assert z.dtype == torch.float32
        assert torch.equal(z, y)
    ragged, _ = layer.sequence(sl.pack(spikes), lengths=torch.tensor(LENGTHS))
    assert torch.equal(ragged, layer.sequence(spikes, lengths=torch.tensor(LENGTHS))[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MAKES)
def test_statistics_are_float32_under_autocast(name, dtype):
    """Means of large numbers, of which bfloat16 has eight bits, decide the scores; x 2 ^ -8 is all that is lost."""
    layer, x = made(name)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter /= 30
    x = (10 + x).to(dtype)
    wanted, _ = layer.sequence(x.double())
    layer.float()
    with torch.autocast("cpu", dtype):
        y, _ = layer.sequence(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), wanted, rtol=4 * torch.finfo(dtype).eps, atol=1e-3)


@pytest.mark.parametrize("name", ["TA", "MA", "TCJA"])
def test_channels_last_stays(name):
    layer, x = made(name)
    last = x.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (T, B)).requires_grad_()
    y, _ = layer.sequence(last)
    assert y.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, layer.sequence(x)[0])
    (grad,) = torch.autograd.grad((y * torch.randn_like(y)).sum(), last)
    assert grad.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


# -- in networks, compiled, exported, copied ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TA", "MA", "TCJA"])
def test_in_a_network(name):
    """Between a convolution and a neuron, where the papers have it, with T and B or B and T first."""
    layer, _ = made(name)
    layers = nn.Conv2d(2, C, 3, padding=1), layer.float(), sl.LIF(v_threshold=0.3), nn.Flatten(), nn.Linear(60, 2)
    net, x = sl.Network(*layers), 6 * torch.rand(T, B, 2, H, W)
    y = net(x)
    h = layers[0](x.flatten(0, 1)).unflatten(0, (T, B))
    torch.testing.assert_close(layers[4](layers[2].sequence(layer.sequence(h)[0])[0].flatten(2)), y)
    torch.testing.assert_close(sl.Network(*layers, batch_first=True)(x.transpose(0, 1)).transpose(0, 1), y)
    torch.testing.assert_close(sl.Network(*layers, spikes="packed")(x), y)
    y.sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in net.parameters())


@pytest.mark.parametrize("name", MAKES)
def test_steps_parts_and_streams_are_refused(name):
    layer, x = made(name)
    net = sl.Network(layer)
    for call in (net.stream, lambda: net(x[:2], return_state=True), lambda: layer.step(x[0])):
        with pytest.raises(ValueError, match=r"is not causal: it needs the whole sequence|was made for T = 6"):
            call()
    with pytest.raises(ValueError, match=r"takes no state; give it all steps in one"):
        layer.sequence(x, state={"v": x[0]})
    with pytest.raises(ValueError, match=r"cannot record 'score', only scores"):
        layer.sequence(x, record=("score",))


@pytest.mark.parametrize("name", ["TA", "MA", "TCJA wide"])
def test_copies_and_checkpoints(name):
    layer, x = made(name)
    y, _ = layer.sequence(x)
    assert torch.equal(copy.deepcopy(layer).sequence(x)[0], y)
    other, _ = made(name, seed=1)
    assert not torch.equal(other.sequence(x)[0], y)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.sequence(x)[0], y)


def test_what_checkpoints_have():
    parts = {key: tuple(p.shape) for key, p in N.MultiDimensionalAttention(32, 64).named_parameters()}
    assert parts == {
        "time.squeeze.weight": (2, 32),
        "time.excite.weight": (32, 2),
        "channels.squeeze.weight": (4, 64),
        "channels.excite.weight": (64, 4),
        "space.weight": (1, 2, 3, 3),
    }
    assert [p.shape for p in N.TemporalAttention(32).parameters()] == [(2, 32), (32, 2)]
    assert [p.shape for p in N.TCJA(8, 16).parameters()] == [(8, 8, 2), (16, 16, 1)]
    with pytest.raises(RuntimeError, match=r"T is 32 in the checkpoint but 33 in this TemporalAttention"):
        N.TemporalAttention(33).load_state_dict(N.TemporalAttention(32).state_dict())
    with pytest.raises(RuntimeError, match=r"dims is tc in the checkpoint but cs in this MultiDimensionalAttention"):
        N.MultiDimensionalAttention(32, 64, dims="cs").load_state_dict(
            N.MultiDimensionalAttention(32, 64, dims="tc").state_dict()
        )


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated")
@pytest.mark.filterwarnings("ignore:torch.compile is ignored when called inside torch.export")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # Dynamo's own doing
@pytest.mark.parametrize("name", ["TA", "MA", "TCJA"])
def test_compiled_and_exported(name):
    torch._dynamo.reset()
    layer, x = made(name)
    net = sl.Network(nn.Conv2d(C, C, 1).double(), layer)
    y = net(x)
    z = torch.compile(net, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(z, y)
    grads = [torch.autograd.grad(out.square().sum(), list(net.parameters())) for out in (z, y)]
    torch.testing.assert_close(*grads)
    with torch.no_grad():
        shapes = {"args": ({1: torch.export.Dim("B", min=1, max=64)},)}
        exported = torch.export.export(net.eval(), (x,), dynamic_shapes=shapes, strict=True).module()
        more = torch.cat([2 * x, x], 1)
        torch.testing.assert_close(exported(more), net(more))


# -- wrong use ---------------------------------------------------------------------------------------------------------

WRONG = [
    (lambda: N.TemporalAttention(0), "TemporalAttention: T must be at least 1, got 0"),
    (lambda: N.TemporalAttention(10), r"reduction must be from 1 to T = 10, got 16: the MLP has T // reduction units"),
    (lambda: N.MultiDimensionalAttention(16, 8), r"Attention: reduction_c must be from 1 to C = 8, got 16"),
    (lambda: N.MultiDimensionalAttention(4, 32, reduction_t=0), r"reduction_t must be from 1 to T = 4, got 0"),
    (lambda: N.MultiDimensionalAttention(4, 0, dims="s"), "C must be at least 1, got 0"),
    (lambda: N.MultiDimensionalAttention(4, 4, dims="ct"), r"dims must be some of .* in this order, got 'ct'"),
    (lambda: N.MultiDimensionalAttention(4, 4, dims=""), r"dims must be some of .*, got ''"),
    (lambda: N.MultiDimensionalAttention(4, 4, dims="s", kernel=4), "kernel must be an odd number, .* got 4"),
    (lambda: N.TCJA(4, 4, kernel_c=0), "C, kernel_t and kernel_c must be at least 1, got 4, 2 and 0"),
    (
        lambda: N.TCJA(4, 2).sequence(torch.rand(3, 1, 2)),
        r"TCJA: was made for T = 4 steps, got a sequence of 3; make it with T=3, or append zeros up to T and pass len",
    ),
    (
        lambda: N.TemporalAttention(4, reduction=2).sequence(torch.rand(5, 1, 2)),
        r"TemporalAttention: was made for T = 4 steps, got a sequence of 5; make it with T=5$",
    ),
    (lambda: N.TCJA(4, 2).sequence(torch.rand(4, 1, 3)), r"TCJA: expected \[T, B, 2, \*\], got \[4, 1, 3\]"),
    (lambda: N.TemporalAttention(4, reduction=1).sequence(torch.rand(4, 1)), r"expected \[T, B, \*\] with at least"),
    (
        lambda: N.MultiDimensionalAttention(4, 2, dims="s").sequence(torch.rand(4, 1, 2, 3)),
        r"MultiDimensionalAttention: expected \[T, B, 2, H, W\], got \[4, 1, 2, 3\]",
    ),
    (
        lambda: N.MultiDimensionalAttention(4, 2, reduction_c=1, dims="c").sequence(torch.rand(4, 1, 3)),
        r"MultiDimensionalAttention: expected \[T, B, 2, \*\], got \[4, 1, 3\]",
    ),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_wrong_use(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_scores_are_recorded(name, lengths):
    """The output, which is checked above, is the input times them."""
    layer, x = made(name)
    lengths = None if lengths is None else torch.tensor(lengths)
    net = sl.Network(nn.Identity(), layer)
    y, result = net(x, lengths=lengths, record=("1.scores",))
    scores = result.record["1.scores"]
    torch.testing.assert_close(y, net(x, lengths=lengths))
    product = x * scores.reshape(scores.shape + (1,) * (x.ndim - scores.ndim))
    torch.testing.assert_close(y, product.clamp(min=0) if name.startswith("MA") else product)
    assert scores.min() >= 0
    assert scores.max() < 1
    assert (scores > 0).sum() == scores[0].numel() * T if lengths is None else (scores[2:, 1:] == 0).all()
    assert "1.scores" not in net(x, lengths=lengths, record=("1.*",))[1].record  # only where its name is given
    assert torch.autograd.grad(scores.sum(), next(layer.parameters()))[0].abs().sum() > 0


def test_shapes_of_scores():
    shapes = {}
    for name in ("TA", "MA", "MA of places", "MA of rows", "TCJA"):
        layer, x = made(name)
        shapes[name] = tuple(layer.sequence(x, record=("scores",))[2]["scores"].shape)
    assert shapes == {
        "TA": (T, B), "MA": (T, B, C, H, W), "MA of places": (T, B, 1, H, W), "MA of rows": (T, B, C),
        "TCJA": (T, B, C),
    }  # fmt: skip
