"""Each family, small: what must hold of any model, and the equations of blocks by hand."""

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikeloom as sl
from spikeloom.core import TemporalModule
from spikeloom.models import (
    attention,
    delay_shd,
    max_resnet,
    maxformer,
    ms_resnet,
    ottt_vgg,
    plif,
    qkformer,
    resnet,
    sdt1,
    sdt2,
    sdt3,
    sew_events,
    small,
    spikformer,
    unet,
    vgg,
)

ONES = (1, 1, 1, 1)
SEW = resnet.Size("tiny", sew=True, depths=ONES, bottleneck=False)
NEXT = resnet.Size("tiny", sew=True, depths=ONES, bottleneck=True, groups=2, width=16)
MS, DEEP = ms_resnet.Size("tiny", ONES), ms_resnet.Size("tiny", ONES, deep=True)
EVENTS = sew_events.Size("tiny", (4, 4, 8))
CIFAR, QK = spikformer.Size("tiny", 1, 16, 2, bias=True), qkformer.Size("tiny", 16, (1, 1), 2)
MAX = maxformer.Size("tiny", 16, (1, 1), (0,), 2)
CONVS, NORMS = (nn.Conv1d, nn.Conv2d), (nn.BatchNorm1d, nn.BatchNorm2d)

DRIVEN = sdt2.Size("tiny", (4, 4, 4, 16, 16), depths=(1, 1), heads=1)
MASNN = attention.Net("tiny", ((4, 1), (8, 2)), 8)
ATT = ms_resnet.Size("tiny", (1, 1))

# name -> how it is built; the channels of its input, and height and width where there are; share of batch norms whose
# neuron takes them into its kernel
TINY = {
    "small": (lambda **o: small.build(small.Size("tiny", (8, 8), (4, 8), 16), **o), (1, 8), "2/2"),
    "sew ADD": (lambda **o: resnet.sew_resnet(SEW, stem="cifar", **o), (3, 8), "12/12"),
    "sew AND": (lambda **o: resnet.sew_resnet(SEW, stem="dvs", connect="AND", **o), (3, 16), "12/12"),
    "sew IAND": (lambda **o: resnet.sew_resnet(SEW, stem="imagenet", connect="IAND", **o), (3, 32), "12/12"),
    "sew resnext": (lambda **o: resnet.sew_resnet(NEXT, stem="cifar", **o), (3, 8), "17/17"),
    "spiking": (lambda **o: resnet.spiking_resnet(SEW._replace(sew=False), stem="cifar", **o), (3, 8), "5/12"),
    "events": (lambda **o: sew_events.build(EVENTS, **o), (2, 16), "8/8"),
    "ms a": (lambda **o: ms_resnet.build(MS, stem="cifar", **o), (3, 8), "4/12"),
    "ms b": (lambda **o: ms_resnet.build(MS, stem="dvs", block="b", **o), (3, 16), "9/14"),
    "ms c": (lambda **o: ms_resnet.build(MS, stem="imagenet", block="c", **o), (3, 32), "5/13"),
    "ms deep": (lambda **o: ms_resnet.build(DEEP, stem="cifar", **o), (3, 8), "4/12"),
    "vgg": (lambda **o: vgg.build(vgg.Size("tiny", ((8, 8), (16,)), norm=True), head="light", **o), (3, 8), "3/3"),
    "vgg linear": (
        lambda **o: vgg.build(
            vgg.Size("tiny", ((8,), (16,)), norm=False, last_pool=False), head="linear", pool="avg", **o
        ),
        (3, 14),
        "0/0",
    ),
    "ottt": (lambda **o: ottt_vgg.build(((8, 8), (16,)), **o), (3, 8), "0/0"),
    "sdt1": (lambda **o: sdt1.build(sdt1.Size("tiny", 1, 16, 2), stem="cifar", **o), (3, 8), "7/11"),
    "sdt1 dvs": (lambda **o: sdt1.build(sdt1.Size("tiny", 1, 16, 2), stem="dvs", dvs=True, **o), (2, 16), "7/11"),
    "sdt2": (lambda **o: sdt2.build(DRIVEN, **o), (3, 32), "16/49"),
    "sdt3": (lambda **o: sdt3.build(DRIVEN, **o), (3, 32), "24/43"),
    "masnn": (
        lambda **o: attention.masnn(MASNN, T=4, size=(8, 8), reduction_t=2, reduction_c=2, **o),
        (2, 8),
        "0/4",
    ),
    "att ms": (lambda **o: attention.att_ms_resnet(ATT, T=4, reduction_c=16, stem="dvs", **o), (3, 8), "2/7"),
    "delays": (lambda **o: delay_shd.build("tiny", hidden=16, max_delay=3, **o), (5,), "2/2"),
    "delays synapse": (
        lambda **o: delay_shd.build("tiny", hidden=16, max_delay=3, delays="synapse", **o),
        (5,),
        "2/2",
    ),
    "unet": (
        lambda **o: unet.build(
            "tiny", encoder="plif_cifar10dvs", encoder_options={"size": (16, 16), "channels": 4}, **o
        ),
        (3, 16),
        "4/8",
    ),
    "plif": (lambda **o: plif.build(plif.Size("tiny", (2, 1), 32), size=(8, 8), channels=8, **o), (2, 8), "3/3"),
    "spikformer": (lambda **o: spikformer.build(spikformer.Size("tiny", 1, 16, 2), **o), (3, 32), "11/11"),
    "spikformer cifar": (lambda **o: spikformer.build(CIFAR, stem="cifar", **o), (3, 8), "11/11"),
    "qkformer": (lambda **o: qkformer.build(qkformer.Size("tiny", 16, (1, 1, 1), 2), **o), (3, 32), "22/26"),
    "qkformer cifar": (lambda **o: qkformer.build(QK, stem="cifar", **o), (3, 8), "16/17"),
    "qkformer dvs": (lambda **o: qkformer.build(QK, stem="dvs", **o), (2, 32), "15/19"),
    "maxformer": (lambda **o: maxformer.build(maxformer.Size("tiny", 32, (1, 1, 1), (7, 5), 2), **o), (3, 32), "8/22"),
    "maxformer cifar": (lambda **o: maxformer.build(MAX, stem="cifar", **o), (3, 8), "5/14"),
    "maxformer dvs": (lambda **o: maxformer.build(MAX._replace(ratio=1), stem="dvs", **o), (2, 32), "4/16"),
    "max resnet": (lambda **o: max_resnet.build(max_resnet.Size("tiny", (1, 1, 1)), **o), (3, 8), "1/10"),
}

SLOW = {"sdt1 dvs", "sdt3", "att ms", "delays synapse"}
SLOW |= {"spikformer", "qkformer cifar", "qkformer dvs", "maxformer cifar", "maxformer dvs"}
"""Those of which there is another one of the kind."""
LONG = ["sdt1", "sdt2", "masnn", "unet"]
"""Those that torch.export takes apart within minutes."""


def some(names):
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names]


def lively(model, *, coarse=False):
    """Weights and norms that let spikes through. Coarse ones are few multiples of 1/32: sums are exact in any order."""
    scores = (sl.nn.MultiDimensionalAttention, sl.nn.TemporalAttention)  # of a sigmoid that is soon 1, or of dead ReLUs
    inside = {m for layer in model.modules() if isinstance(layer, scores) for m in layer.modules()}
    with torch.no_grad():
        for module in model.modules():
            if module in inside:
                for p in module.parameters(recurse=False):
                    p.abs_()
                continue
            if isinstance(module, (*CONVS, nn.Linear, sl.nn.DelayLinear)):
                module.weight.normal_(0, 4 * module.weight[0].numel() ** -0.5)
                for p in module.parameters(recurse=False) if coarse else ():
                    p.copy_((32 * p).round() / 32)
            elif isinstance(module, NORMS):
                module.weight.fill_(1.0)
                module.bias.fill_(0.25)
        for layer in (m for m in model.modules() if isinstance(m, sl.nn.SpikingSelfAttention)):
            for branch in (layer.q, layer.k, layer.v):  # few channels and tokens make small products
                branch[1].bn.bias.fill_(1.0)
        for layer in model.modules():
            if isinstance(layer, sl.nn.SpikeDrivenSelfAttention):  # whose products of few tokens are small
                for norm in (m for m in layer.modules() if isinstance(m, NORMS)):
                    norm.bias.fill_(1.0)
    return model


def tiny(name, *, coarse=False, **options):
    make, (channels, *size), _ = TINY[name]
    x = torch.randn(4, 3, channels, *size, *size)
    return lively(make(num_classes=5, in_channels=channels, **options), coarse=coarse), (8 * x).round() / 4


def causal(model):
    return all(m.causal for m in model.modules() if isinstance(m, TemporalModule))


@pytest.mark.parametrize("name", some(TINY))
def test_a_sample_does_not_depend_on_the_others_nor_the_whole_on_its_steps(name):
    model, x = tiny(name)
    net, x = sl.Network(model).eval().double(), x.double()  # in which no voltage is at its threshold by chance
    with torch.no_grad():
        whole, result = net(x, return_state=True)
        assert whole.shape[:3] == (4, 3, 5)
        assert whole.std(1).max() > 0
        single = torch.cat([net(x[:, b : b + 1]) for b in range(3)], 1)
        torch.testing.assert_close(single, whole)
        if not causal(model):
            with pytest.raises(ValueError, match="step by step"):
                net.step(x[0])
            return
        state, steps = None, []
        for x_t in x:
            y, state = net.step(x_t, state=state)
            steps.append(y)
        torch.testing.assert_close(torch.stack(steps), whole)
        assert state.keys() == result.state.keys()
        stream = net.stream()
        torch.testing.assert_close(torch.stack([stream(x_t) for x_t in x]), whole)


@pytest.mark.parametrize("name", some(TINY))
def test_bits_change_nothing(name):
    model, x = tiny(name, coarse=True)
    net, packed = sl.Network(model).eval(), sl.Network(model, spikes="packed").eval()
    with torch.no_grad():
        torch.testing.assert_close(packed(x), net(x))
    before = copy.deepcopy(model.state_dict())  # a RepConv has running statistics in its border, in training too
    torch.manual_seed(1)  # masks of dropout
    net.train()(x).square().sum().backward()
    wanted = {name: p.grad for name, p in model.named_parameters()}
    largest = max(grad.abs().max().item() for grad in wanted.values())
    net.zero_grad()
    model.load_state_dict(before)
    torch.manual_seed(1)
    packed.train()(x).square().sum().backward()
    for path, p in model.named_parameters():
        torch.testing.assert_close(p.grad, wanted[path], atol=1e-6 * largest, rtol=1e-3)


def smooth(v_threshold=0.5):
    """A neuron of another kind, through which much of the gradient passes."""
    return sl.PLIF(v_threshold=v_threshold, surrogate=sl.surrogate.Sigmoid(1.0))


@pytest.mark.parametrize("name", some(TINY))
def test_the_gradient_reaches_every_parameter(name):
    model, x = tiny(name, neuron=smooth)
    (sl.Network(model)(x) - 1).square().sum().backward()
    assert [path for path, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


@pytest.mark.parametrize("name", some(TINY))
def test_copies_and_weights(name):
    model, x = tiny(name)
    net, twin = sl.Network(model).eval(), sl.Network(copy.deepcopy(model)).eval()
    other = sl.Network(tiny(name)[0]).eval()
    with torch.no_grad():
        wanted = net(x)
        assert torch.equal(twin(x), wanted)
        other.load_state_dict(net.state_dict())
        assert torch.equal(other(x), wanted)
    assert [type(s.module) for s in twin.body.stages] == [type(s.module) for s in model.stages]
    assert all(new.module is not old.module for new, old in zip(twin.body.stages, model.stages, strict=True))


@pytest.mark.parametrize("name", some(TINY))
def test_weights_go_through_safetensors(name):
    files = pytest.importorskip("safetensors.torch", reason="the extra 'cli' is not installed")
    model, other = tiny(name)[0], tiny(name)[0]
    other.load_state_dict(files.load(files.save(model.state_dict())))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", some(TINY))
def test_feature_maps_and_the_output_without_classes(name):
    make, (channels, *size), _ = TINY[name]
    model = make(num_classes=0, in_channels=channels)

    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            maps = []
            looks = [s.module.register_forward_hook(lambda m, args, y: maps.append(y)) for s in self.model.stages]
            features = self.model.features(x)
            for look in looks:
                look.remove()
            return features, self.model(x), maps

    x = torch.randn(4, 3, channels, *size, *size)
    features, y, maps = sl.Network(Backbone().eval())(x)
    assert [m.shape[2:] for m in maps] == [(c, size[0] // s, size[0] // s) for _, c, s in model.stages]
    if name == "unet":  # whose last map is the decoder's
        assert features.shape[3:] == x.shape[3:]
        assert torch.equal(y, features)
    elif maps:
        torch.testing.assert_close(features, maps[-1])
        assert y.ndim == 3


@pytest.mark.parametrize("name", some(TINY))
def test_norms_that_join_their_neurons(name):
    """By structure, and as the network tells where a kernel ran."""
    model, x = tiny(name)
    joined, of = map(int, TINY[name][2].split("/"))
    assert sum(isinstance(m, NORMS) for m in model.modules()) == of
    told = sl.explain(sl.Network(model).eval(), x).rows
    if all(row.backend != "c" for row in told):
        pytest.skip("no kernels on this machine: no norm can join one")
    assert sum("fused" in row.reason for row in told) == joined


@pytest.mark.parametrize(
    "name", [pytest.param("delays", marks=pytest.mark.slow), *(pytest.param(n, marks=pytest.mark.full) for n in LONG)]
)
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # Dynamo's own doing,
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # as this is
def test_exported_networks_give_the_same(name):
    model, x = tiny(name)
    net = sl.Network(model).eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(net, (x,), strict=False).module()(x), net(x))


# The layers that are given something else than zeros and ones, but for the first. (What a head averages
# over space is of one pixel in some of these.)
DENSE = {
    "small": [],
    "sew ADD": [f"layer{k}.0.{path}" for k in (2, 3, 4) for path in ("shortcut.0", "residual.conv1")],
    "sew AND": [],
    "sew IAND": [],
    "spiking": [],
    "ms a": ["layer2.0.shortcut.0", "layer3.0.shortcut.0", "layer4.0.shortcut.0"],
    "ms c": [],
    "vgg": [],
    "ottt": ["stage2.0"],
    "plif": [],
    "spikformer": [f"blocks.0.{path}" for path in ("attention.q.0", "attention.k.0", "attention.v.0", "mlp.0")],
    "qkformer cifar": [
        *(f"stage1.3.{path}" for path in ("attention.q.0", "attention.k.0", "mlp.0")),
        *("stage2.0.spikes.0", "stage2.0.shortcut.0"),
        *(f"stage2.1.{path}" for path in ("attention.q.0", "attention.k.0", "attention.v.0", "mlp.0")),
    ],
    "maxformer": [],
    "maxformer dvs": [],
    "max resnet": [f"layer{k}.0.shortcut.0" for k in (1, 2, 3)],
    "sdt1": [],
    "sdt1 dvs": [],
    "sdt2": [
        *(f"stage{k}.separable.4" for k in ("1.1", "2.1", "3.1", "3.2")),
        *(
            f"stage{k}.1.attention.{b}.0.{c}"
            for k in (4, 5)
            for b in ("q", "k", "v", "proj")
            for c in ("depthwise", "out")
        ),
    ],
    "masnn": [],
    "att ms": ["layer1.0.shortcut.1", "layer2.0.shortcut.1"],
    "unet": [],
}


@pytest.mark.parametrize("name", some(DENSE))
def test_which_layers_are_given_spikes(name):
    model, x = tiny(name)
    dense = set()

    def look(module, args):
        if not ((args[0] == 0) | (args[0] == 1)).all():
            dense.add(paths[module])

    scores = {m for m in model.modules() if isinstance(m, sl.nn.MultiDimensionalAttention)}
    paths = {
        m: path
        for path, m in model.named_modules()
        if isinstance(m, CONVS) and not any(m is score.space for score in scores)
    }
    for module in paths:
        module.register_forward_pre_hook(look)
    with torch.no_grad():
        sl.Network(model).eval()(x)
    first = next(iter(paths.values()))
    assert dense == {first, *DENSE[name]}


@pytest.mark.parametrize("name", ["sew AND", "sew IAND", "spiking", "plif", "maxformer cifar", "sdt1", "unet"])
def test_bits_reach_all_convolutions_but_the_first(name):
    model, x = tiny(name)
    net = sl.Network(model, spikes="packed").eval()
    convs = [path for path, m in net.body.named_modules() if isinstance(m, CONVS)]
    told = sl.explain(net, x).rows
    if all(row.backend != "c" for row in told):
        pytest.skip("no kernels on this machine: nothing is computed from bits")
    assert {row.path for row in told if "Conv" in row.module and row.backend == "bits"} == {*convs[1:]}


def test_element_wise_functions():
    spikes, shortcut = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    for how, wanted in (("ADD", [0, 1, 1, 2]), ("AND", [0, 0, 0, 1]), ("IAND", [0, 1, 0, 0])):
        assert resnet.element_wise(how, spikes, shortcut).tolist() == wanted


def centre(block, *weights):
    """Sets the convolutions of a block of one channel, in order, to these numbers in the middle and 0 around."""
    convs = [m for m in block.residual.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        for module, weight in zip(convs, weights, strict=True):
            module.weight.zero_()
            module.weight[..., 1, 1] = weight
    return sl.Network(block).eval()


def ran(net, *values):
    """One channel, one pixel, a step for each value."""
    return net(torch.tensor(values).view(-1, 1, 1, 1, 1)).flatten().tolist()


@pytest.mark.parametrize(("how", "wanted"), [("ADD", [0, 2, 0, 2]), ("AND", [0, 1, 0, 1]), ("IAND", [0, 0, 0, 0])])
def test_a_sew_block_by_hand(how, wanted):
    """Weights of 2 hand each spike of the input on, weights of -2 none, which leaves the shortcut."""
    block = resnet.Block(SEW, 1, 1, 1, how, resnet.Neurons("block", None, resnet.paper_neuron))
    assert ran(centre(block, 2.0, 2.0), 0.0, 1.0, 0.0, 1.0) == wanted
    silent = {"ADD": [0, 1, 0, 1], "AND": [0, 0, 0, 0], "IAND": [0, 1, 0, 1]}[how]
    assert ran(centre(block, -2.0, 2.0), 0.0, 1.0, 0.0, 1.0) == silent


def test_a_spiking_block_by_hand():
    """The neuron is behind the sum: 0.8 of the branch, 0.8 and then 1.6 of it and the shortcut's 1 in its voltage."""
    block = resnet.Block(SEW._replace(sew=False), 1, 1, 1, "ADD", resnet.Neurons("block", None, resnet.paper_neuron))
    assert ran(centre(block, 2.0, -0.6), 1.0, 1.0, 1.0, 0.0) == [0.0, 0.0, 1.0, 0.0]  # 0.4, 0.8, 1.2 and a reset


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("a", [0.4, 2.1], [0.4, 0.6]),  # 0.6 > 0.5: spike, 2, norm 1, spike, 3, norm 1.5, and 0.6 added; no spike: i
        ("b", [0.4, 0.6, 4.2], [0.4, 0.6, 1.2]),  # norm 0.6 of 1.2: spike, 2, norm 1, spike, 3, and 1.2 added
        ("c", [0.0, 1.0], [0.0, 0.5 * 2]),  # 2, norm 1, spike, 3, norm 1.5, 1 added: a spike
    ],
)
def test_the_order_in_an_ms_block_by_hand(kind, first, second):
    neurons = ms_resnet.Neurons("block", None, ms_resnet.paper_neuron)
    for value, wanted in zip(second, first, strict=True):
        block = ms_resnet.Block(kind, 1, 1, 1, neurons, pooled_shortcut=False)
        assert ran(centre(block, 2.0, 3.0), value)[0] == pytest.approx(wanted, abs=1e-4)


def test_the_neuron_of_ms_resnet_by_hand():
    """0.4; 0.1 + 0.4, which is not above 0.5; 0.125 + 0.4, a spike; 0.4 from 0."""
    y, state = ms_resnet.paper_neuron().sequence(torch.tensor([0.4, 0.4, 0.4, 0.4]).view(4, 1))
    assert y.flatten().tolist() == [0, 0, 1, 0]
    assert state["v"].item() == pytest.approx(0.4)
    u = torch.tensor([-0.6, -0.4, 0.4, 0.6], requires_grad=True)
    ms_resnet.paper_neuron().surrogate(u).sum().backward()
    assert u.grad.tolist() == [0, 1, 1, 0]


def test_images_of_another_size_are_refused_where_the_size_is_part_of_the_model():
    model = sl.models.create("plif_mnist", size=(8, 12), channels=4)
    assert sl.Network(model)(torch.rand(2, 1, 1, 8, 12)).shape == (2, 1, 10)
    with pytest.raises(ValueError, match=r"plif_mnist: it was created for images of \(8, 12\).* give maps of \(7, 7\)"):
        sl.Network(model)(torch.rand(2, 1, 1, 28, 28))


@pytest.mark.parametrize(
    ("name", "options", "size", "wanted"),
    [
        ("sew_resnet18", {}, (224, 200), "sew_resnet18: got images of 224 x 200, its strides make 32 .* to 224 x 224"),
        (
            "sew_resnet18",
            {"stem": "cifar"},
            (28, 28),
            "its strides make 8 together, which must divide both; .* 32 x 32",
        ),
        ("ms_resnet18", {"stem": "dvs"}, (8, 16), "ms_resnet18: got images of 8 x 16, its strides make 16"),
        ("spiking_vgg9", {}, (28, 28), "spiking_vgg9: got images of 28 x 28, its strides make 16"),
        ("sew_resnet_dvsgesture", {}, (64, 64), "its strides make 128 together"),
        ("ottt_vgg", {}, (32, 30), "ottt_vgg: got images of 32 x 30, its strides make 8"),
    ],
)
def test_images_that_the_strides_do_not_divide_are_refused(name, options, size, wanted):
    """7 x 7 and two of the four stages, 8 x 8 of those in a VGG, by the strides that their papers give."""
    with torch.device("meta"):
        net = sl.Network(sl.models.create(name, **options))
        x = torch.empty(2, 1, net.body[1][0].in_channels, *size)
    for given in (lambda: net(x), lambda: net(x[0], repeat=2), lambda: net.body.features(x[0])):
        with pytest.raises(ValueError, match=wanted):
            given()


def test_zero_init_hands_on_the_shortcut():
    for how, wanted in (("ADD", [0, 1]), ("AND", [0, 1]), ("IAND", [0, 1])):
        model = resnet.sew_resnet(SEW, connect=how, zero_init=True)
        x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1).expand(2, 1, 64, 2, 2)
        y = sl.Network(model.layer1[0]).eval()(x)
        assert y[:, 0, 0, 0, 0].tolist() == wanted
    assert ms_resnet.build(MS).layer2[0].residual[-1].weight.abs().max() == 0
    assert ms_resnet.build(MS).layer2[0].residual[2].bn.weight.unique().tolist() == [0.5]


def test_an_image_that_stays_the_same_goes_through_the_stem_once(monkeypatch):
    rows, convolve = [], F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, *args: rows.append(len(x)) or convolve(x, *args))
    model, x = tiny("ms deep")
    net = sl.Network(model).eval()
    with torch.no_grad():
        y = net(x[0], repeat=4)
        assert rows[:4] == [3, 3, 3, 12]
        torch.testing.assert_close(y, sl.Network(model, static_prefix=False).eval()(x[0], repeat=4))


def test_a_model_with_a_forward_of_its_own_runs_it():
    class Twice(sl.models.Model):
        def forward(self, x):
            return 2 * super().forward(x)

    class Claims(Twice):
        in_order = True

    layers = {"first": nn.Linear(2, 3), "spike": sl.LIF(v_threshold=0.1), "head": nn.Linear(3, 2)}
    x = torch.ones(3, 1, 2)
    wanted = sl.Network(sl.models.Model(layers))(x)
    for kind in (Twice, Claims):
        torch.testing.assert_close(sl.Network(kind(layers))(x), 2 * wanted)
    for kind in (sl.models.Model, nn.Sequential):
        model = kind(OrderedDict(layers))
        net = sl.Network(model)
        torch.testing.assert_close(net(x), wanted)
        model.forward = lambda x, inner=model: 3 * type(inner).forward(inner, x)
        torch.testing.assert_close(net(x), 3 * wanted)
    assert len(sl.models.Model(layers)[:2]) == 2
