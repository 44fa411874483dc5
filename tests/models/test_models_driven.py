"""Models between currents, and those with attention of whole sequences, against their authors' code: outputs and
gradients of weights that both draw.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikeloom as sl
from reference import drawn
from spikeloom.models import attention, delay_shd, ms_resnet, sdt1, sdt2, sdt3

T, B, CLASSES = 3, 2, 5
SDT = sdt1.Size("small", 2, 16, 2)
MASNN = attention.Net("small", ((8, 1), (8, 2), (16, 2)), 12)
# how it is built, and the shape of its input
MAKE = {
    "sdt1": (lambda **o: sdt1.build(SDT, **o), (T, B, 3, 32, 32)),
    "sdt1 cifar": (lambda **o: sdt1.build(SDT, stem="cifar", **o), (T, B, 3, 16, 16)),
    "sdt1 dvs": (lambda **o: sdt1.build(SDT, stem="dvs", dvs=True, **o), (T, B, 2, 32, 32)),
    "masnn": (
        lambda **o: attention.masnn(MASNN, T=4, size=(8, 8), reduction_t=2, reduction_c=4, **o),
        (4, B, 2, 8, 8),
    ),
    "att_ms_resnet": (
        lambda **o: attention.att_ms_resnet(ms_resnet.Size("small", (1, 1)), T=T, **o),
        (1, B, 3, 16, 16),
    ),
}


def ran(name, **options):
    make, shape = MAKE[name]
    model = make(num_classes=CLASSES, in_channels=shape[2], **options).double()
    for module in model.modules():
        if isinstance(module, sl.nn.Dropout):
            module.p = 0.0
    found = drawn.places([model])
    drawn.fill(found)
    net, x = sl.Network(model), drawn.images(shape)
    x = x.repeat(T, 1, 1, 1, 1) if shape[0] == 1 else x
    y = net(x).mean(0)
    y.square().sum().backward()
    with torch.no_grad():
        return y.detach(), drawn.summary(found), net.eval()(x).mean(0), found


def pick_first(monkeypatch):
    """Where values share a maximum, ours share its gradient, or it goes to another one than theirs: of spikes after
    spikes in a window, and of currents that are equal.
    """
    layer = sl.nn.SpikeDrivenSelfAttention

    def pooled(self, x):
        return F.max_pool2d(self._heads(x).mT, 3, 1, 1).mT.flatten(1, 2) if self.dvs else x

    def amax(x, dims):
        dims = (dims,) if isinstance(dims, int) else dims
        return x.movedim(dims, tuple(range(-len(dims), 0))).flatten(-len(dims)).max(-1).values

    monkeypatch.setattr(layer, "_pooled_heads", pooled)
    monkeypatch.setattr(torch.Tensor, "amax", amax)


@pytest.mark.parametrize("name", MAKE)
def test_outputs_and_gradients(golden, monkeypatch, name):
    wanted = {key: golden("driven")[f"{name}/{key}"] for key in ("y", "gradients", "evaluated")}
    pick_first(monkeypatch)
    y, gradients, evaluated, found = ran(name)
    torch.testing.assert_close(y, wanted["y"], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(gradients, wanted["gradients"], atol=1e-8, rtol=1e-9)
    torch.testing.assert_close(evaluated, wanted["evaluated"], atol=1e-12, rtol=1e-12)
    silent = [place for place, (norm, *_) in zip(found, gradients, strict=True) if norm < 1e-3]
    if name != "sdt1 dvs":  # where the sums of pooled products are far above the threshold
        assert {(place.parameter.ndim, place.middle) for place in silent} <= {(1, 0.0)}  # biases in front of norms
    assert (y[0] - y[1]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["sdt1 cifar", "masnn"])
def test_another_neuron_gives_something_else(golden, name):
    """One threshold for all places, and a reset to 0 instead of the threshold."""
    other = {"sdt1 cifar": lambda v_threshold=1.0: sdt1.paper_neuron(), "masnn": reset_to_zero}[name]
    y, *_ = ran(name, neuron=other)
    assert (y - golden("driven")[f"{name}/y"]).abs().max() > 1e-3


def reset_to_zero():
    return sl.LIF(tau=10 / 7, decay_input=False, v_threshold=0.3, surrogate=sl.surrogate.Rect(2.0))


def fired(x, v_threshold=1.0):
    """Spikes of ``v = v / 2 + x / 2`` with a reset to 0."""
    v, spikes = torch.zeros_like(x[0]), []
    for x_t in x:
        v = (v + x_t) / 2
        spikes.append((v >= v_threshold).to(x.dtype))
        v = v * (1 - spikes[-1])
    return torch.stack(spikes)


def counted(x, divisor=4):
    """Whole numbers from 0 to 4 of ``v = v / 4 + x``, which are taken off, divided."""
    v, counts = torch.zeros_like(x[0]), []
    for x_t in x:
        v = v / 4 + x_t
        counts.append(v.clamp(0, 4).round())
        v = v - counts[-1]
    return torch.stack(counts) / divisor


class ByHand:
    """Versions 2 and 3 of the transformer in evaluation, ``[T, B, *]``, with the weights in the order of the text."""

    def __init__(self, model, version):
        kinds = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)
        self.layers = iter([m for m in model.modules() if isinstance(m, kinds)])
        self.version, self.fire = version, fired if version == 2 else counted

    def conv(self, x, *, stride=1, padding=0, groups=1):
        layer = next(self.layers)
        weight = layer.weight if layer.weight.ndim == 4 else layer.weight.unsqueeze(3)
        rows = F.conv2d(x.flatten(0, 1), weight, layer.bias, stride, padding, 1, groups)
        return rows.unflatten(0, x.shape[:2])

    def norm(self, x):
        layer = next(self.layers)
        mean, var, weight, bias = (
            t.view(-1, 1, 1) for t in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
        )
        return (x - mean) / (var + layer.eps).sqrt() * weight + bias

    def rep_conv(self, x):
        """What surrounds the image is what becomes of an image of zeros."""
        larger = F.pad(x, (1, 1, 1, 1))
        y = self.norm(self.conv(larger))
        return self.norm(self.conv(self.conv(y, groups=y.shape[2])))

    def chain(self, x, *convs):
        """``convs`` are the sizes, negative where each channel is by itself, 0 where no norm and neuron is before."""
        for k, size in enumerate(convs):
            if k and size and convs[k - 1]:
                x = self.norm(x)
            x = self.fire(x) if size else x
            size = size or 1
            x = self.conv(x, padding=abs(size) // 2, groups=x.shape[2] if size < 0 else 1)
        return self.norm(x)

    def convolutions(self, x):
        x = x + (self.separable_2(x) if self.version == 2 else self.chain(x, 1, -7, 1))
        return x + self.chain(x, 3, 3)

    def separable_2(self, x):
        x = self.fire(self.norm(self.conv(self.fire(x))))
        return self.norm(self.conv(self.conv(x, padding=3, groups=x.shape[2])))

    def attention(self, x):
        s = self.fire(x)
        if self.version == 2:
            q, k, v = (self.fire(self.norm(self.rep_conv(s))) for _ in "qkv")
            y = fired(self.products(q, k, v) / 8, 0.5)
            return self.norm(self.rep_conv(y))
        q, k, v = (self.fire(self.norm(self.conv(s))) for _ in "qkv")
        return self.norm(self.conv(self.fire(self.products(q, k, v) * 2 / (q.shape[2] / 2) ** 0.5)))

    def products(self, q, k, v):
        """Of two heads: each token of q asks all tokens of k, and gets their v."""
        one, two = (
            torch.einsum("tbcn,tbcm,tbdm->tbdn", *(p.flatten(3).chunk(2, 2)[h] for p in (q, k, v))) for h in (0, 1)
        )
        return torch.cat([one, two], 2).unflatten(3, q.shape[3:])

    def transformer(self, x):
        x = x + self.chain(x, 1, -3, 1) if self.version == 3 else x
        x = x + self.attention(x)
        return x + self.chain(x, 1, 1)

    def __call__(self, x):
        x = self.convolutions(self.norm(self.conv(x, stride=2, padding=3)))
        for stage, blocks in ((2, 1), (3, 2), (4, 1), (5, 1)):
            x = self.norm(self.conv(self.fire(x), stride=1 if stage == 5 else 2, padding=1))
            for _ in range(blocks):
                x = self.convolutions(x) if stage < 4 else self.transformer(x)
        pooled = x.mean((3, 4))
        head = next(self.layers)
        assert next(self.layers, None) is None
        return F.linear(fired(pooled) if self.version == 2 else counted(pooled, 1), head.weight, head.bias)


@pytest.mark.parametrize(("version", "build"), [(2, sdt2.build), (3, sdt3.build)])
def test_versions_2_and_3_by_hand(version, build):
    """Their authors' code has no licence."""
    model = build(sdt2.Size("small", (4, 8, 8, 16, 24), depths=(1, 1), heads=2), num_classes=CLASSES).double()
    drawn.fill(drawn.places([model]))
    x = drawn.images((T, B, 3, 64, 64))
    net = sl.Network(model)
    with torch.no_grad():
        net(x)  # moves running statistics
        y = net.eval()(x)
        torch.testing.assert_close(y, ByHand(model, version)(x), atol=1e-12, rtol=1e-12)
    assert y[-1].std(0).min() > 0.01


def test_two_heads_and_fused_attention():
    model = sdt2.build(sdt2.Size("small", (4, 8, 8, 16, 24), depths=(1, 1), heads=2), num_classes=3, distillation=True)
    drawn.fill(drawn.places([model]))
    net, x = sl.Network(model), drawn.images((T, B, 3, 64, 64)).float()
    with torch.no_grad():
        labels, teacher = net(x)
        assert labels.shape == teacher.shape == (T, B, 3)
        assert not torch.equal(labels, teacher)
        y = net.eval()(x)
        for block in (model.stage4[1], model.stage5[1]):
            block.attention = block.attention.fuse()
        assert sum(isinstance(m, sl.nn.RepConv) for m in model.modules()) == 0
        torch.testing.assert_close(net(x), y)
        heads = model.head[-1]
        spikes = sl.Network(nn.Sequential(*model[:-1], *model.head[:-1]))(x)
        torch.testing.assert_close((heads.classes(spikes) + heads.teacher(spikes)) / 2, y)
    assert sdt2.build(sdt2.Size("small", (4, 8, 8, 16, 24)), num_classes=0, distillation=True).head[-1].v_threshold == 1


@pytest.mark.parametrize("delays", ["channel", "synapse"])
def test_the_net_of_delays_by_hand(delays):
    """In evaluation delays are whole, neurons and the membrane of the output keep 1 - 1 / 1.005 of their voltage."""
    model = delay_shd.build("small", num_classes=3, in_channels=4, hidden=6, max_delay=5, delays=delays).double().eval()
    for layer in (part for stage in model for part in stage if hasattr(part, "weight") and part.weight.ndim > 1):
        nn.init.normal_(layer.weight, 0.3, 0.5)
    x = (torch.rand(12, 2, 4) < 0.5).double()
    y = sl.Network(model)(x)

    def delayed(layers, x):
        late = torch.zeros(len(x), x.shape[1], len(layers[-1].weight), dtype=x.dtype)
        for t, o, i in itertools.product(range(len(x)), range(late.shape[2]), range(x.shape[2])):
            d = layers[0].delay[i] if delays == "channel" else layers[0].delay[o, i, 0]
            ago = t - round(d.item())
            if ago >= 0:
                late[t, :, o] += layers[-1].weight.squeeze(-1)[o, i] * x[ago, :, i]
        return late

    def leaky(x, threshold):
        v, given = torch.zeros_like(x[0]), []
        for x_t in x:
            v = (1 - 1 / 1.005) * v + x_t
            spikes = (v >= threshold).double()
            given.append(spikes if threshold < 9 else v)
            v = v * (1 - spikes)
        return torch.stack(given)

    n = 2 if delays == "channel" else 1
    for stage in (model.hidden1, model.hidden2):
        x = leaky(delayed(stage[:n], x) / (1 + 1e-5) ** 0.5, 1.0)
        assert 0.05 < x.mean() < 0.95
    torch.testing.assert_close(y, leaky(delayed(model.head[:n], x), 1e9))
    assert model.hidden1[0].sigma == 3.0  # half of the delays from 0 to 5


def test_the_maps_that_a_u_net_joins():
    options = {"encoder": "plif_cifar10dvs", "encoder_options": {"channels": 4, "size": (32, 32)}, "in_channels": 2}
    model = sl.models.create("spiking_unet", num_classes=3, **options).eval()
    x = torch.rand(T, B, 2, 32, 32)
    y = sl.Network(model)(x)
    assert y.shape == (T, B, 3, 32, 32)
    assert [stage.stride for stage in model.stages] == [2, 4, 8, 16]
    assert [block[0].in_channels for block in model.decoder] == [8, 8, 8, 4]

    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            down, up = self.model.encoder, self.model.decoder
            one = down.stage1(x)
            two = down.stage2(one)
            three = down.stage3(two)
            y = down.stage4(three)
            for block, side in zip(up, (three, two, one, None), strict=True):
                y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
                y = block(y if side is None else torch.cat([y, side], 1))
            return self.model.head(y)

    torch.testing.assert_close(sl.Network(Joined())(x), y)
    whole = sl.models.create("spiking_unet", num_classes=0, encoder="sew_resnet18", encoder_options={"connect": "IAND"})
    assert [stage.stride for stage in whole.stages] == [1, 1, 2, 4, 8]
    assert len(whole.decoder) == 3
    with pytest.raises(ValueError, match="expected an encoder with stages of several sizes, delay_shd has none"):
        sl.models.create("spiking_unet", encoder="delay_shd")
    with pytest.raises(TypeError, match="model ms_resnet18 has no option 'connect'"):
        sl.models.create("spiking_unet", encoder="ms_resnet18", encoder_options={"connect": "AND"})
