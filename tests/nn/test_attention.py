"""Attention between spikes: against the equations in plain PyTorch, exact, fused, packed, in parts and ragged."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikeloom as sl
from spikeloom.native import build

T, B, C, H, W = 4, 2, 8, 3, 4
HEADS = 2


def low(v_threshold=1.0):
    return sl.LIF(v_threshold=0.4 * v_threshold, detach_reset=True)


MAKE = {
    "spiking": lambda **o: sl.nn.SpikingSelfAttention(C, HEADS, neuron=low, **o),
    "token": lambda **o: sl.nn.QKAttention(C, HEADS, neuron=low, **o),
    "channel": lambda **o: sl.nn.QKAttention(C, HEADS, over="channel", neuron=low, **o),
    "driven 1": lambda: sl.nn.SpikeDrivenSelfAttention(C, HEADS, neuron=low),
    "driven 1 dvs": lambda: sl.nn.SpikeDrivenSelfAttention(C, HEADS, neuron=low, dvs=True),
    "driven 2": lambda: sl.nn.SpikeDrivenSelfAttention(C, HEADS, version=2, neuron=low),
    "driven 3": lambda: sl.nn.SpikeDrivenSelfAttention(C, HEADS, version=3),
}
TOKENS = ("spiking", "token", "channel")


def made(name):
    """With norms that have seen something, and weights that let neurons fire."""
    torch.manual_seed(1)
    layer = MAKE[name]()
    for part in layer.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(part.weight, 0.6, 1.4)
            nn.init.uniform_(part.bias, 0.1, 0.5)
            nn.init.uniform_(part.running_mean, -0.2, 0.2)
            nn.init.uniform_(part.running_var, 0.3, 0.6)
    return layer


def inputs(name, dtype=torch.float32):
    if name in TOKENS:
        return (torch.rand(T, B, C, H * W) < 0.5).to(dtype)
    return (2 * torch.randn(T, B, C, H, W, dtype=torch.float64)).to(dtype)


# ---- the equations, in plain PyTorch ----


class Fire(torch.autograd.Function):
    """A step, and backward the derivative of ``atan(pi u) / pi``; ATan of scale 2."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u >= 0).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad / (1 + (math.pi * ctx.saved_tensors[0]).square())


def lif(x, v_threshold):
    x, v, out = x.unflatten(0, (T, B)), 0.0, []
    for x_t in x:
        h = v + (x_t - v) / 2
        s = Fire.apply(h - v_threshold)
        v = h * (1 - s.detach())
        out.append(s)
    return torch.cat(out)


def counts(x):
    """ILIF with a decay by 1/4 and four levels, divided by four."""
    x, v, out = x.unflatten(0, (T, B)), 0.0, []
    for x_t in x:
        h = 0.25 * v + x_t
        s = h.clamp(0, 4) + (h.clamp(0, 4).round() - h.clamp(0, 4)).detach()
        v = h - s
        out.append(s / 4)
    return torch.cat(out)


def norm(x, bn):
    """In training: over all but the channels."""
    dims, shape = [0, *range(2, x.ndim)], (1, -1, *(1,) * (x.ndim - 2))
    mean, var = x.mean(dims, keepdim=True), x.var(dims, keepdim=True, correction=0)
    return (x - mean) / torch.sqrt(var + bn.eps) * bn.weight.view(shape) + bn.bias.view(shape)


def mix(x, conv):
    y = torch.einsum("rc...,oc->ro...", x, conv.weight.flatten(1))
    return y if conv.bias is None else y + conv.bias.view(1, -1, *(1,) * (x.ndim - 2))


def rep(x, layer):
    y = norm(mix(x, layer.into), layer.norm)
    bn = layer.norm  # whose statistics this batch has moved already
    border = (bn.bias - bn.running_mean * bn.weight / torch.sqrt(bn.running_var + bn.eps)).detach()
    whole = border.view(1, -1, 1, 1).repeat(len(y), 1, y.shape[2] + 2, y.shape[3] + 2)
    whole[:, :, 1:-1, 1:-1] = y
    y = F.conv2d(whole, layer.depthwise.weight, groups=whole.shape[1])
    return norm(mix(y, layer.out), layer.out_norm)


def branch(x, layers, neuron):
    y = rep(x, layers[0]) if isinstance(layers[0], sl.nn.RepConv) else mix(x, layers[0])
    y = norm(y, layers[1].bn if isinstance(layers[1], sl.nn.NormNeuron) else layers[1])
    return neuron(y) if neuron else y


def split(x):
    return x.flatten(2).reshape(len(x), HEADS, -1, x.flatten(2).shape[2])


def erode(x):
    """The largest of neighbouring channels of a head and neighbouring tokens."""
    y = F.max_pool2d(split(x), 3, 1, 1)
    theirs = F.max_pool3d(split(x).transpose(-1, -2), (1, 3, 3), 1, (0, 1, 1))  # as the authors write it
    assert torch.equal(theirs.transpose(-1, -2), y)
    return y.flatten(1, 2)


def equation(name, layer, x):
    spike, half = functools.partial(lif, v_threshold=0.4), functools.partial(lif, v_threshold=0.2)
    if name == "driven 3":
        spike = half = counts
    shape, x = x.shape, x.flatten(0, 1)
    s = x if name in TOKENS else spike(x)
    q, k = branch(s, layer.q, spike), branch(s, layer.k, spike)
    v = branch(s, layer.v, spike) if hasattr(layer, "v") else None
    if name == "token":
        y = (half(split(q).sum(2)).unsqueeze(2) * split(k)).flatten(1, 2)
    elif name == "channel":
        y = half(q.sum(-1, keepdim=True)) * k
    elif name.startswith("driven 1"):
        pool = name.endswith("dvs")
        k, v = (F.max_pool2d(z, 3, 1, 1) if pool else z for z in (k, v))
        both = (k * v).flatten(2)
        y = q.flatten(2) * half((erode(both) if pool else both).sum(-1, keepdim=True))
        y = (erode(y) if pool else y).view_as(q)
    else:
        scale = 2 / math.sqrt(C / HEADS) if name == "driven 3" else 0.125
        sums = torch.einsum("rhen,rhdn,rhdm->rhem", split(v), split(k), split(q)).flatten(1, 2)
        y = half(scale * sums).unflatten(2, q.shape[2:])
    return branch(y, layer.proj, spike if name in TOKENS else None).view(shape)


@pytest.mark.parametrize("name", MAKE)
def test_outputs_and_gradients_are_those_of_the_equation(name):
    layer, x = made(name).double(), inputs(name, torch.float64).requires_grad_()
    y = sl.Network(layer)(x)
    wanted = equation(name, layer, x)
    torch.testing.assert_close(y, wanted, atol=1e-10, rtol=1e-10)
    if name in TOKENS:
        assert 0.05 < y.mean() < 0.95
    g, leaves = torch.randn_like(y), [x, *layer.parameters()]
    got, want = (torch.autograd.grad((z * g).sum(), leaves, allow_unused=True) for z in (y, wanted))
    for (key, _), a, b in zip([("x", x), *layer.named_parameters()], got, want, strict=True):
        assert b is not None, key
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)
    assert sum(float(g.abs().max()) > 1e-6 for g in want) > 0.6 * len(want)


@pytest.mark.parametrize("name", ["spiking", "token", "channel"])
def test_autocast_changes_no_spike(name):
    """Weights of -1, 0 and 1 and norms that change nothing: what is left to round are the sums of spikes."""
    layer = made(name)
    for part in layer.modules():
        if isinstance(part, nn.Conv1d):
            part.weight.data = torch.randint(-1, 2, part.weight.shape).float()
            nn.init.zeros_(part.bias) if part.bias is not None else None
        if isinstance(part, nn.BatchNorm1d):
            part.reset_parameters()
            part.eps = 1e-20  # which changes no float32, and PyTorch before 2.13 takes no 0
    net, x = sl.Network(layer).eval(), (torch.rand(T, 3, C, 700) < 0.5).float()
    wanted = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    assert 0.05 < wanted.mean() < 0.95
    assert y.dtype == torch.bfloat16
    assert torch.equal(y.float(), wanted)
    assert torch.equal(net.bfloat16()(x.bfloat16()).float(), wanted)


# ---- what a layer holds ----


@pytest.mark.parametrize("name", MAKE)
def test_neurons_of_the_papers(name):
    kind, options = type(MAKE[name]()), {}
    if name.startswith("driven"):
        options = {"version": int(name[7])}
    layer = kind(C, HEADS, **options)
    found = {path: n for path, n in layer.named_modules() if isinstance(n, sl.Neuron)}
    if name == "driven 3":
        assert {type(n) for n in found.values()} == {sl.ILIF}
        return
    assert all(type(n) is sl.LIF and n.detach_reset and float(n.tau) == 2 for n in found.values())
    assert {p: float(n.v_threshold) for p, n in found.items() if float(n.v_threshold) != 1} == {"attention": 0.5}


def test_factories():
    seen = []

    def neuron(*, features, v_threshold=1.0):
        seen.append((features, v_threshold))
        return sl.LIF(v_threshold=torch.full((features, 1), v_threshold))

    net = sl.Network(sl.nn.QKAttention(C, HEADS, neuron=neuron))
    net(inputs("token"))
    assert seen == [(C, 1.0), (C, 1.0), (HEADS, 0.5), (C, 1.0)]
    with pytest.raises(
        TypeError, match=r"SpikingSelfAttention: the neuron of 'q': neuron must be a function .* got one neuron, LIF"
    ):
        sl.nn.SpikingSelfAttention(C, HEADS, neuron=sl.LIF())
    with pytest.raises(
        TypeError, match=r"QKAttention: the neuron of 'attention': the neuron factory failed .*\(v_threshold=0.5\)"
    ):
        sl.nn.QKAttention(C, HEADS, neuron=lambda: sl.LIF())
    with pytest.raises(TypeError, match=r"the neuron of 'first': expected one such as .* got Linear"):
        sl.nn.SpikeDrivenSelfAttention(C, HEADS, neuron=lambda **place: nn.Linear(1, 1))


@pytest.mark.parametrize("name", MAKE)
def test_weights_travel(name, tmp_path):
    layer, other, x = made(name), MAKE[name](), inputs(name)
    torch.save(layer.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(sl.Network(other).eval()(x), sl.Network(layer).eval()(x))
    assert sl.cite(layer)[0].split(",")[0] in {"Zhou et al.", "Yao et al."}


def test_what_is_wrong():
    with pytest.raises(ValueError, match="SpikingSelfAttention: gives must be spikes or currents, got 'both'"):
        sl.nn.SpikingSelfAttention(C, HEADS, gives="both")
    for kind in (sl.nn.SpikingSelfAttention, sl.nn.QKAttention, sl.nn.SpikeDrivenSelfAttention):
        with pytest.raises(
            ValueError, match=rf"{kind.__name__}: dim must be a multiple of heads, got dim=8 and heads=3"
        ):
            kind(8, 3)
    with pytest.raises(RuntimeError, match=r"heads is 2 in the checkpoint but 4"):
        sl.nn.QKAttention(C, 4).load_state_dict(sl.nn.QKAttention(C, 2).state_dict())
    with pytest.raises(ValueError, match="over must be token or channel, got 'tokens'"):
        sl.nn.QKAttention(C, HEADS, over="tokens")
    with pytest.raises(ValueError, match="version must be 1, 2 or 3, got 4"):
        sl.nn.SpikeDrivenSelfAttention(C, HEADS, version=4)
    with pytest.raises(ValueError, match="dvs is an option of version 1, got version=2"):
        sl.nn.SpikeDrivenSelfAttention(C, HEADS, version=2, dvs=True)
    for layer, x, told in (
        (MAKE["spiking"](), torch.rand(T, B, C, H, W), r"\[rows, 8, N\].* got \[8, 8, 3, 4\]; x.flatten\(2\) makes"),
        (MAKE["token"](), torch.rand(T, B, 12, C), r"\[rows, 8, N\], channels first, got \[8, 12, 8\]"),
        (MAKE["driven 2"](), torch.rand(T, B, C, 12), r"\[rows, 8, H, W\], channels first, got \[8, 8, 12\]"),
        (MAKE["driven 1 dvs"](), torch.rand(T, B, C, 12), r"\[rows, 8, H, W\]"),
        (MAKE["driven 3"](), torch.rand(T, B, C), r"\[rows, 8, \*\]"),
        (sl.nn.RepConv(C, 4), torch.rand(T, B, 3, H, W), r"RepConv: expected \[rows, 8, H, W\], got \[8, 3, 3, 4\]"),
    ):
        with pytest.raises(ValueError, match=told):
            sl.Network(layer)(x)
    with pytest.raises(RuntimeError, match="outside a Network"):
        MAKE["spiking"]()(torch.rand(B, C, 12))


# ---- fused, in parts, ragged, packed ----


@pytest.mark.parametrize("name", MAKE)
def test_fused_layers_compute_the_same(name):
    layer, x = made(name), inputs(name)
    with pytest.raises(RuntimeError, match=r"fuse: it is in training mode, .* call .eval\(\) first"):
        layer.fuse()
    layer.eval()
    layer.k[1].train()
    with pytest.raises(RuntimeError, match=r"fuse: its part 'k.1' is in training mode"):
        layer.fuse()
    layer.eval()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    fused = layer.fuse()
    left = {type(part) for part in fused.modules()}
    assert not left & {nn.BatchNorm1d, nn.BatchNorm2d, sl.nn.RepConv, sl.nn.NormNeuron}
    assert not fused.training
    torch.testing.assert_close(sl.Network(fused)(x), sl.Network(layer)(x), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("name", MAKE)
def test_parts_streams_and_samples_alone(name):
    net, x = sl.Network(made(name)).eval(), inputs(name)
    whole, result = net(x, return_state=True)
    first, half = net(x[:1], return_state=True)
    rest, end = net(x[1:], state=half.state, return_state=True)
    stream = net.stream()
    for got in (torch.cat([first, rest]), torch.stack([stream(x_t) for x_t in x])):
        torch.testing.assert_close(got, whole)
    assert end.state.keys() == result.state.keys()
    ragged = net(x, lengths=torch.tensor([T, 2]))
    torch.testing.assert_close(ragged[:2, 1], whole[:2, 1])
    assert ragged[2:, 1].eq(0).all()
    for b in range(B):
        torch.testing.assert_close(net(x[:, b : b + 1]), whole[:, b : b + 1])


class ByHand(nn.Module):
    """The equation, on the branches of a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        q, k, v = (branch(x).unflatten(1, (HEADS, -1)) for branch in (self.layer.q, self.layer.k, self.layer.v))
        y = torch.einsum("rhin,rhjn,rhjm->rhim", v, k, q).flatten(1, 2) / 8
        return self.layer.proj(self.layer.attention(y))


def test_neurons_without_a_recurrence_are_neurons_too():
    layer = sl.nn.SpikingSelfAttention(C, HEADS, neuron=lambda **place: sl.nn.PSN(T)).double()
    for neuron in (m for m in layer.modules() if isinstance(m, sl.nn.PSN)):
        nn.init.uniform_(neuron.weight, 0.0, 1.0)
        nn.init.constant_(neuron.bias, -0.2)
    x, by_hand = inputs("spiking", torch.float64), ByHand(layer)
    for train in (True, False):
        y = sl.Network(layer).train(train)(x)
        assert 0.05 < y.mean() < 0.95
        torch.testing.assert_close(y, sl.Network(by_hand).train(train)(x))
    torch.testing.assert_close(sl.Network(layer.eval().fuse())(x), y)


def test_currents_are_what_the_last_neuron_would_have_been_given():
    layer = made("spiking").eval().double()
    currents = sl.nn.SpikingSelfAttention(C, HEADS, neuron=low, gives="currents").eval().double()
    neuron = layer.proj[1].neuron
    weights = {key.replace("proj.1.bn.", "proj.1."): value for key, value in layer.state_dict().items()}
    currents.load_state_dict({key: value for key, value in weights.items() if not key.startswith("proj.1.neuron.")})
    assert not any(isinstance(m, sl.LIF) for m in currents.proj.modules())
    x = inputs("spiking", torch.float64)
    wanted = sl.Network(layer)(x)
    assert 0.1 < wanted.mean() < 0.9
    assert torch.equal(sl.Network(currents, neuron)(x), wanted)
    torch.testing.assert_close(sl.Network(currents.fuse(), neuron)(x), wanted)


def test_padding_does_not_reach_the_statistics_of_training():
    layer, x, lengths = made("spiking"), inputs("spiking"), torch.tensor([T, 1])
    layer.q[1].bn.momentum = 1.0
    sl.Network(layer)(x, lengths=lengths)
    valid = torch.cat([x[:, 0], x[:1, 1]])
    mean = torch.einsum("rcn,oc->on", valid, layer.q[0].weight[..., 0]).sum(1) / (len(valid) * H * W)
    torch.testing.assert_close(layer.q[1].bn.running_mean, mean)


@pytest.mark.parametrize("name", [*TOKENS, "driven 1", "driven 3"])
def test_the_order_of_tokens_does_not_matter(name):
    net, x, order = sl.Network(made(name)).eval(), inputs(name).flatten(3), torch.randperm(H * W)
    torch.testing.assert_close(net(x[..., order]), net(x)[..., order])
    if name not in TOKENS:
        torch.testing.assert_close(net(x.unflatten(3, (H, W))).flatten(3), net(x))


@pytest.mark.parametrize("name", [n for n in MAKE if n != "driven 3"])
def test_packed_spikes_give_the_same_and_only_bits_are_kept(name):
    """What the layer itself keeps of q, k, v and the masks, 4 steps of 4 samples with 8 x 16 x 16 values."""
    layer = made(name)
    x = (torch.rand(4, 4, C, 256) < 0.5).float() if name in TOKENS else 2 * torch.randn(4, 4, C, 16, 16)
    found, kept = [], {}
    for spikes in ("dense", "packed"):
        net = sl.Network(layer, spikes=spikes).eval()
        y = net(x)
        found.append([y * 1, *torch.autograd.grad(y.square().sum(), list(net.parameters()))])
        rows = {row.path: row for row in sl.memory.report(net, x).rows}
        kept[spikes] = rows[""]
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)
    assert kept["packed"].saved == kept["packed"].bits
    assert kept["dense"].bits == 0
    if name in ("spiking", "driven 2"):
        assert kept["packed"].saved == 3 * x.numel() // 8
        assert kept["dense"].saved == 3 * x.numel() * 4


@pytest.mark.parametrize("name", MAKE)
def test_norms_join_their_neurons(name):
    try:
        build.ready()
    except build.BuildError as missing:
        pytest.skip(f"no C kernels on this machine: {missing}")
    rows = {row.path: row for row in sl.explain(sl.Network(made(name)), inputs(name)).rows}
    joined = {path for path, row in rows.items() if row.reason.startswith("fused with BatchNorm")}
    assert joined == {f"{part}.1" for part in ("q", "k", *"v" * hasattr(made(name), "v"), *["proj"] * (name in TOKENS))}
    assert all(row.backend == "c" for row in rows.values() if row.module in ("LIF", "ILIF"))


class Shortcuts(nn.Module):
    """Two attentions with IAND shortcuts, so that bits stay bits."""

    def __init__(self):
        super().__init__()
        self.first, self.second = made("spiking"), made("token")

    def forward(self, x):
        x = x * (1 - self.first(x))
        return x * (1 - self.second(x))


def test_iand_shortcuts_stay_bits():
    layer, x = Shortcuts(), inputs("token")
    y = sl.Network(layer)(x)
    packed = sl.Network(layer, spikes="packed")(sl.pack(x))
    assert isinstance(packed, sl.SpikeTensor)
    assert torch.equal(packed.unpack(), y)
    assert 0.02 < y.mean() < 0.98


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # Dynamo's own doing,
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # as this is
def test_compiled_and_exported_networks_give_the_same():
    torch._dynamo.reset()
    net = sl.Network(nn.Conv1d(3, C, 1), sl.LIF(v_threshold=0.1), Shortcuts(), spikes="packed").eval()
    x = torch.randn(T, B, 3, 16)
    y, z = net(x) * 1, torch.compile(net, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(z, y)
    found = [torch.autograd.grad((one + 1).square().sum(), list(net.parameters())) for one in (y, z)]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        exported = torch.export.export(net, (x,), strict=False)
        torch.testing.assert_close(exported.module()(x), y)
