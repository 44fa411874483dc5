"""SpikeTensor: the values of a dense tensor in every operation, bits where it pays, errors where it would be wrong."""

import copy
import io
import pickle
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikeloom as sl
from spikeloom.spikes import bits

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SHAPES = ((1,), (7,), (8,), (3, 21), (4, 3, 8, 8), (2, 5, 6, 7), (0, 3))


def spikes(*shape, p=0.3, dtype=torch.float32, seed=0):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < p).to(dtype)


def same(a, b):
    a = a.unpack() if isinstance(a, sl.SpikeTensor) else a
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_are_in_order_and_come_back(dtype):
    """The first spike in the lowest bit: 1 0 1 1 0 0 0 0 | 0 1 is 13, 2."""
    x = torch.tensor([1, 0, 1, 1, 0, 0, 0, 0, 0, 1], dtype=dtype)
    assert sl.pack(x).bits.tolist() == [13, 2]
    for shape in SHAPES:
        d = spikes(*shape, dtype=dtype)
        s = sl.pack(d)
        assert s.storage_nbytes == -(-d.numel() // 8)
        assert same(s, d)
        assert s.count() == int(d.double().sum())
        assert (s.shape, s.dtype, s.stride()) == (d.shape, d.dtype, d.stride())


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_without_a_compiler(dtype, monkeypatch):
    d = spikes(3, 21, dtype=dtype)
    packed = sl.pack(d).bits
    monkeypatch.setattr(bits, "library", lambda: None)
    s = sl.pack(d)
    assert torch.equal(s.bits, packed)
    assert same(s, d)
    assert s.count() == int(d.double().sum())
    with pytest.raises(ValueError, match="1 of 3 values are neither 0 nor 1"):
        sl.pack(torch.tensor([0.0, 0.25, 1.0], dtype=dtype))


def test_only_zeros_and_ones_are_packed():
    assert same(sl.pack(torch.tensor([-0.0, 1.0])), torch.tensor([0.0, 1.0]))
    for wrong in (0.5, -1.0, 2.0, float("nan"), float("inf")):
        for dtype in DTYPES:
            with pytest.raises(ValueError, match="1 of 9 values are neither 0 nor 1"):
                sl.pack(torch.tensor([0.0] * 8 + [wrong], dtype=dtype))
    with pytest.raises(TypeError, match=r"expected a tensor of torch\.float32, .*, got torch\.int64"):
        sl.pack(torch.tensor([0, 1]))
    s = sl.pack(torch.ones(3))
    assert sl.pack(s) is s


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "slice": lambda x: torch.cat([x, x], 3)[..., ::2],
}
# name -> (operation, whether the result is spikes again)
OPERATIONS = {
    "view": (lambda t: t.reshape(4, -1), None),
    "flatten": (lambda t: t.flatten(1), True),
    "transpose": (lambda t: t.transpose(1, 2), True),
    "permute": (lambda t: t.permute(0, 2, 3, 1), True),
    "mT": (lambda t: t.mT, True),
    "select": (lambda t: t[1], True),
    "select inside": (lambda t: t[:, 1], True),
    "slice": (lambda t: t[1:3], True),
    "slice inside": (lambda t: t[:, :, 1:3], True),
    "step": (lambda t: t[..., ::3], True),
    "new axis": (lambda t: t[None, :, None], True),
    "squeeze": (lambda t: t[:1].squeeze(), True),
    "unbind": (lambda t: t.unbind(1)[2], True),
    "split": (lambda t: t.split([1, 3])[1], True),
    "chunk": (lambda t: t.chunk(3, 1)[1], True),
    "clone": (lambda t: t.clone(), True),
    "detach": (lambda t: t.detach(), True),
    "channels_last": (lambda t: t.contiguous(memory_format=torch.channels_last), True),
    "contiguous": (lambda t: t.contiguous(), True),
    "flatten after channels_last": (lambda t: t.contiguous(memory_format=torch.channels_last).flatten(1), True),
    "clone as contiguous": (lambda t: t.clone(memory_format=torch.contiguous_format).flatten(), True),
    "bfloat16": (lambda t: t.to(torch.bfloat16), True),
    "double": (lambda t: t.double(), True),
    "cat": (lambda t: torch.cat([t, t]), True),
    "cat inside": (lambda t: torch.cat([t, t[:, :1]], 1), True),
    "stack": (lambda t: torch.stack([t, t], 1), True),
    "max pool": (lambda t: F.max_pool2d(t, 2), True),
    "max pool padded": (lambda t: F.max_pool2d(t, 3, 2, 1), True),
    "expand": (lambda t: t.expand(2, *t.shape), False),
    "cat with dense": (lambda t: torch.cat([t, torch.full_like(t, 0.5)]), False),
    "adaptive pool": (lambda t: F.adaptive_avg_pool2d(t, 1), False),
    "avg pool": (lambda t: F.avg_pool2d(t, 2), False),
    "int": (lambda t: t.long(), False),
    "bool": (lambda t: t.bool(), False),
    "equals": (lambda t: t == 1, False),
    "add": (lambda t: t + 1, False),
    "add itself": (lambda t: t + t, False),
    "no spikes": (lambda t: 1 - t, True),
    "two without": (lambda t: 2 - t, False),
    "without twice": (lambda t: torch.rsub(t, 1, alpha=2), False),
    "mul": (lambda t: 0.5 * t, False),
    "one minus": (lambda t: 1 - t, True),
    "one minus, a few": (lambda t: 1 - t[0, 0, 0, :5], None),
    "two minus": (lambda t: 2 - t, False),
    "and": (lambda t: t * t.flip(0), None),
    "iand": (lambda t: t * (1.0 - t), True),
    "sum": (lambda t: t.sum(), False),
    "sum over": (lambda t: t.sum((1, 2)), False),
    "mean": (lambda t: t.mean(), False),
    "mean over": (lambda t: t.mean(0), False),
    "index": (lambda t: t[:, [2, 0]], False),
    "mask": (lambda t: t[t > 0], False),
    "where": (lambda t: torch.where(t > 0, 2.0, t), False),
    "pad": (lambda t: F.pad(t, (1, 2)), False),
    "interpolate": (lambda t: F.interpolate(t, scale_factor=2), True),
    "interpolate to a size": (lambda t: F.interpolate(t, (7, 5)), True),
    "interpolate between": (lambda t: F.interpolate(t, scale_factor=2, mode="bilinear"), False),
    "unfold": (lambda t: F.unfold(t, 3), False),
    "matmul": (lambda t: t @ t.mT, False),
    "einsum": (lambda t: torch.einsum("bchw,bdhw->bcd", t, t), False),
    "attention": (lambda t: F.scaled_dot_product_attention(t, t, t), False),
    "softmax": (lambda t: t.softmax(1), False),
    "zeros_like": (lambda t: torch.zeros_like(t), False),
    "sort": (lambda t: t.sort(dim=1).values, False),
    "norm": (lambda t: F.layer_norm(t, t.shape[1:]), False),
    "batch norm": (lambda t: F.batch_norm(t, torch.zeros(6), torch.ones(6)), False),
    "roll": (lambda t: t.roll(1, 0), False),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_gives_the_dense_result(name):
    operation, packed = OPERATIONS[name]
    for layout, made in LAYOUTS.items():
        d = made(spikes(4, 6, 5, 8))
        result = operation(sl.pack(d))
        if isinstance(result, sl.SpikeTensor):
            assert same(result, operation(d)), layout
        else:  # another layout may add in another order
            torch.testing.assert_close(result, operation(d))
        if packed is not None and layout in ("contiguous", "channels_last"):
            assert isinstance(result, sl.SpikeTensor) == packed, layout


def test_values_as_other_things():
    d = spikes(2, 5)
    s = sl.pack(d)
    assert np.array_equal(s.numpy(), d.numpy())
    assert np.array_equal(np.asarray(s), d.numpy())
    assert np.asarray(s, dtype=np.int64).dtype == np.int64
    assert s.tolist() == d.tolist()
    assert torch.equal(torch.from_dlpack(s), d)
    assert s.rate() == pytest.approx(float(d.mean()))
    assert torch.equal(s.events(), d.nonzero())
    assert torch.equal(s, d)
    assert torch.equal(s, sl.pack(d))
    assert not torch.equal(s, sl.pack(1 - d))
    assert (
        repr(s)
        == f"SpikeTensor(shape=[2, 5], dtype=torch.float32, device=cpu, {int(d.sum())} spikes, {10 * d.sum():.1f} %)"
    )


def test_nothing_writes_to_spikes():
    d = spikes(4, 6)
    s = sl.pack(d)
    for write in (
        lambda: s.add_(1.0),
        lambda: s.zero_(),
        lambda: s.relu_(),
        lambda: s.copy_(d),
        lambda: s[0].fill_(1.0),
        lambda: s.__setitem__(0, 0.0),
        lambda: torch._foreach_mul_([s], 2.0),
        lambda: torch.add(d, d, out=s),
        lambda: F.relu(s, inplace=True),
        lambda: F.dropout(s, 0.5, inplace=True),
    ):
        with pytest.raises(RuntimeError, match="would write to spikes, which are read-only"):
            write()
    with pytest.raises(RuntimeError, match="spikes have no memory of their dtype"):
        s.data_ptr()
    with pytest.raises(RuntimeError, match="read-only and cannot move"):
        s.share_memory_()
    with pytest.raises(TypeError, match="SpikeTensor is final"):

        class Other(sl.SpikeTensor):
            pass

    assert same(s, d)
    t = s
    t += 1
    assert type(t) is torch.Tensor
    assert torch.equal(t, d + 1)
    assert same(s, d)
    t = s
    t *= d
    t -= 0.5
    assert torch.equal(t, d * d - 0.5)
    target = d.clone()  # writing spikes to others is fine
    target.add_(s)
    target[0] = s[1]
    target.copy_(s)
    assert torch.equal(target, d)


def test_copies_pickles_and_checkpoints_hold_bits():
    d = spikes(64, 1000)
    s = sl.pack(d)
    for made in (copy.deepcopy(s), pickle.loads(pickle.dumps(s)), copy.copy(s)):
        assert isinstance(made, sl.SpikeTensor)
        assert same(made, d)
    assert len(pickle.dumps(s)) < 64 * 1000 / 8 + 1000
    assert len(pickle.dumps(s[:8])) < 8 * 1000 / 8 + 1000  # the bits of a part are not those of the whole
    file = io.BytesIO()
    torch.save({"spikes": s}, file)
    assert file.tell() < 64 * 1000 / 8 + 5000
    file.seek(0)
    assert same(torch.load(file, weights_only=True)["spikes"], d)


def test_gradients_pass_packing_and_unpacking():
    x = torch.rand(3, 16, requires_grad=True)
    y = (x > 0.5).float() + x - x.detach()
    (grad,) = torch.autograd.grad((sl.pack((y > 0.5).float() * 1.0).unpack().sum() * x).sum(), x)
    assert grad.isfinite().all()
    d = spikes(3, 16).requires_grad_()
    g = torch.randn(3, 16)
    assert torch.equal(torch.autograd.grad((sl.pack(d).unpack() * g).sum(), d)[0], g)
    assert torch.equal(torch.autograd.grad((sl.pack(d) * g).sum(), d)[0], g)
    assert torch.equal(torch.autograd.grad((sl.pack(d).view(4, 12) * g.view(4, 12)).sum(), d)[0], g)


def test_random_sequences_of_operations():
    """Views, copies, joins and arithmetic in a random order, on spikes and on the dense tensor."""
    r = random.Random(0)
    steps = [
        lambda t: t.transpose(0, -1), lambda t: t.flatten(), lambda t: t.reshape(-1, 4) if t.numel() % 4 == 0 else t,
        lambda t: t[1:], lambda t: t[..., ::2], lambda t: t.contiguous(), lambda t: torch.cat([t, t]),
        lambda t: t.unsqueeze(1), lambda t: t.squeeze(), lambda t: t.clone(), lambda t: t.to(torch.bfloat16).float(),
        lambda t: t.movedim(0, -1), lambda t: t.unbind(0)[0] if t.ndim > 1 else t, lambda t: torch.stack([t, t], -1),
        lambda t: t.detach(), lambda t: t.narrow(-1, 0, max(1, t.shape[-1] // 2)) if t.ndim else t,
    ]  # fmt: skip
    stayed = 0
    for trial in range(150):
        d = spikes(r.choice([4, 8]), r.choice([3, 5, 8]), r.choice([2, 6]), seed=trial)
        s = sl.pack(d)
        for _ in range(6):
            if d.numel() == 0 or d.ndim == 0:
                break
            step = r.choice(steps)
            s, d = step(s), step(d)
            assert same(s, d), trial
        stayed += isinstance(s, sl.SpikeTensor)
    assert stayed > 140


class Fire(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return (x > 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad / (1 + x.abs())


class Spike(nn.Module):
    def __init__(self, packed):
        super().__init__()
        self.packed = packed

    def forward(self, x):
        y = Fire.apply(x)
        return sl.pack(y) if self.packed else y


class Block(nn.Module):
    def __init__(self, channels, packed):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm, self.fire = nn.BatchNorm2d(channels), Spike(packed)

    def forward(self, x):
        y = self.second(self.fire(self.norm(self.first(x))))
        y += x
        return self.fire(y)


class Attention(nn.Module):
    def __init__(self, width, packed):
        super().__init__()
        self.qkv, self.out, self.fire = nn.Linear(width, 3 * width), nn.Linear(width, width), Spike(packed)

    def forward(self, x):
        q, k, v = self.fire(self.qkv(x)).chunk(3, -1)
        return x + self.out(self.fire(q @ k.mT @ v - 1.0))


def zoo(name, packed):
    torch.manual_seed(0)
    fire = Spike(packed)
    return {
        "convolutional": lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), fire, nn.MaxPool2d(2), Block(8, packed), nn.AvgPool2d(2),
            nn.Conv2d(8, 4, 3, padding=1), fire, nn.Flatten(), nn.Linear(16, 24), fire, nn.Linear(24, 5),
        ),
        "linear": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(192, 64), fire, nn.Linear(64, 40), nn.LayerNorm(40), fire, nn.Linear(40, 5)
        ),
        "attention": lambda: nn.Sequential(
            nn.Flatten(2), nn.Linear(64, 16), fire, Attention(16, packed), Attention(16, packed), nn.Flatten(),
            nn.Linear(48, 5),
        ),
        "odd": lambda: nn.Sequential(
            nn.Conv2d(3, 5, 3, stride=2), fire, nn.MaxPool2d(2, ceil_mode=True), nn.ConvTranspose2d(5, 3, 2), fire,
            nn.Upsample(scale_factor=2), nn.PixelUnshuffle(2), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(12, 5),
        ),
    }[name]()  # fmt: skip


@pytest.mark.parametrize("name", ["convolutional", "linear", "attention", "odd"])
@pytest.mark.parametrize("mode", ["plain", "channels_last", "double", "autocast", "checkpoint", "grad of func"])
def test_networks_have_the_dense_outputs_and_gradients(name, mode):
    found = []
    for packed in (False, True):
        net, x = zoo(name, packed), 0.5 + torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        if mode == "channels_last":
            net, x = net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
        if mode == "double":
            net, x = net.double(), x.double()
        x.requires_grad_()
        if mode == "grad of func":
            net.eval()  # torch.func.grad lets batch norm write no statistics
            params = {k: v.detach() for k, v in net.named_parameters()}
            loss = lambda p, x: torch.func.functional_call(net, p, (x,)).square().sum()  # noqa: E731
            grads = torch.func.grad(loss)(params, x.detach())
            found.append(list(grads.values()))
            continue
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
            if mode == "checkpoint":
                y = torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False)
            else:
                y = net(x)
        y.float().square().sum().backward()
        found.append([y.detach(), x.grad, *(p.grad for p in net.parameters())])
    assert any(float(g.abs().max()) > 0 for g in found[0][1:])
    limit = 0.02 if mode == "autocast" else 1e-5
    for a, b in zip(*found, strict=True):
        assert float((a - b).abs().max()) <= limit * max(float(a.abs().max()), 1.0)


def test_max_pooling_saves_bits_and_no_indices():
    d = spikes(2, 4, 8, 8, p=0.1).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = nn.MaxPool2d(2)(sl.pack(d))
    assert [type(t) for t in saved] == [sl.SpikeTensor]
    g = torch.randn(2, 4, 4, 4)
    (grad,) = torch.autograd.grad((g * y).sum(), d)
    reference = d.detach().clone().requires_grad_()
    assert torch.equal(grad, torch.autograd.grad((g * F.max_pool2d(reference, 2)).sum(), reference)[0])
    pooled, indices = F.max_pool2d(sl.pack(d.detach()), 2, return_indices=True)
    assert indices.dtype == torch.int64
    assert torch.equal(pooled, F.max_pool2d(d.detach(), 2))
    for pool, shape in ((F.max_pool1d, (2, 3, 8)), (F.max_pool3d, (2, 3, 4, 4, 4))):
        d = spikes(*shape)
        assert same(pool(sl.pack(d), 2), pool(d, 2))


class FireForward(Fire):
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return tangent / (1 + x.abs())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, in forward mode
@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp", "jacrev"])
def test_transforms_of_torch_func(transform):
    W, V, x = torch.randn(8, 16), torch.randn(3, 8), torch.randn(5, 16)

    def loss(packed, W, x=x):
        s = FireForward.apply(F.linear(x, W))
        return F.linear(sl.pack(s) if packed else s, V).square().sum()

    func = torch.func
    run = {
        "grad": lambda p: func.grad(lambda W: loss(p, W))(W),
        "vmap": lambda p: func.vmap(func.grad(lambda W, x: loss(p, W, x[None])), (None, 0))(W, x),  # of each sample
        "jvp": lambda p: func.jvp(lambda W: loss(p, W), (W,), (torch.ones_like(W),))[1],
        "jacrev": lambda p: func.jacrev(lambda W: loss(p, W))(W),
    }[transform]
    torch.testing.assert_close(run(True), run(False), atol=1e-4, rtol=1e-4)


def test_hooks_collation_and_compiled_functions():
    x, V = torch.randn(4, 16, requires_grad=True), torch.randn(3, 16)
    s, seen = sl.pack(FireForward.apply(x)), []
    s.retain_grad()
    s.register_hook(lambda g: seen.append(g.shape))
    F.linear(s, V).sum().backward()
    torch.testing.assert_close(s.grad, V.sum(0).expand(4, 16))
    assert seen == [(4, 16)]
    rows = [s.detach()[0], s.detach()[1]]
    batch = torch.utils.data.default_collate(rows)
    assert isinstance(batch, sl.SpikeTensor)
    assert same(batch, s.detach()[:2].unpack())
    compiled = torch.compile(lambda s: F.linear(s, V), backend="aot_eager")
    torch.testing.assert_close(compiled(s.detach()), F.linear(s.detach().unpack(), V))


def test_products_in_threads():
    from concurrent.futures import ThreadPoolExecutor

    d = [spikes(64, 256, p=0.1, seed=k) for k in range(8)]
    W = torch.randn(256, 32)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda t: torch.mm(sl.pack(t), W), d))
    for a, t in zip(found, d, strict=True):
        torch.testing.assert_close(a, t @ W)


@pytest.mark.parametrize("shape", [(3, 16, 4, 6), (2, 8, 5, 7), (2, 5, 4, 4), (3, 3, 3, 3)])
def test_images_change_their_layout(shape):
    """As bits where whole bytes make up what is turned, and by way of the dense tensor elsewhere."""
    d = (torch.rand(shape) < 0.4).float()
    last = d.contiguous(memory_format=torch.channels_last)
    for s, layout in ((sl.pack(d), torch.channels_last), (sl.pack(last), torch.contiguous_format)):
        turned = s.contiguous(memory_format=layout)
        wanted = d.contiguous(memory_format=layout)
        assert isinstance(turned, sl.SpikeTensor)
        assert (turned.stride(), turned.bits.tolist()) == (wanted.stride(), sl.pack(wanted).bits.tolist())
        assert torch.equal(turned.unpack(), d)
        assert torch.equal(s.flatten(1).unpack(), d.flatten(1))
