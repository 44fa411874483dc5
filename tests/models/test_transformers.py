"""Where transformers are easily got wrong: thresholds, biases, heads, the order of norm, pool and neuron. By hand."""

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom.models import max_resnet, maxformer, qkformer, spikformer
from spikeloom.models.blocks import Neurons

NEURONS = Neurons("by hand", None, spikformer.paper_neuron)


def on_meta(name, **options):
    with torch.device("meta"):
        return sl.models.create(name, **options)


@pytest.mark.parametrize(
    ("name", "products", "others"),
    [
        ("spikformer_8_384", 8, 4 + 1 + 8 * 6),
        ("spikformer_cifar10dvs", 2, 4 + 1 + 2 * 6),
        ("qkformer_10_384", 10, 4 + 3 + 3 + 3 * 5 + 7 * 6),
        ("maxformer_10_384", 7, 2 + 2 + 2 + 3 * 3 + 7 * 6 + 1),
        ("max_resnet18", 0, 2 * 8 + 1),
    ],
)
def test_the_neurons_on_products_have_half_the_threshold(name, products, others):
    neurons = {path: m for path, m in on_meta(name).named_modules() if isinstance(m, sl.LIF)}
    low = [path for path, neuron in neurons.items() if neuron.v_threshold == 0.5]
    assert (len(low), len(neurons)) == (products, products + others)
    assert all(path.endswith("attention.attention") for path in low)
    for neuron in neurons.values():
        assert (neuron.tau, neuron.v_threshold in (0.5, 1.0), neuron.detach_reset) == (2.0, True, True)
        assert type(neuron.surrogate) is sl.surrogate.Sigmoid
        assert neuron.surrogate.scale == 4.0


def test_there_are_no_dead_norms_and_biases_are_where_the_authors_have_them():
    """SpikingJelly's model for CIFAR has 13,824 parameters fewer, which are these biases."""
    for name, wanted in (
        ("spikformer_cifar_4_384", 4 * (3 * 384 + 384 + 4 * 384 + 384)),
        ("spikformer_8_384", 8 * (384 + 4 * 384 + 384)),
        ("qkformer_10_384", (96 + 2 * 192 + 7 * 384) * (1 + 4 + 1)),
        ("maxformer_10_384", (96 + 2 * 192) * (1 + 4 + 1) + 7 * 384 * (1 + 4 + 1)),
    ):
        model = on_meta(name)
        biases = [m.bias for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d))]
        assert sum(bias.numel() for bias in biases if bias is not None) == wanted, name
        assert not any(isinstance(m, nn.LayerNorm) for m in model.modules())
    assert 4 * (3 * 384 + 384 + 4 * 384 + 384) == 9_324_730 - 9_310_906


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("spikformer_8_512", [8] * 8),
        ("spikformer_cifar_4_384", [12] * 4),
        ("spikformer_cifar10dvs", [16] * 2),
        ("qkformer_10_384", [6] * 10),  # SpikingJelly's class has 3 in its first stage
        ("qkformer_10_768", [12] * 10),
        ("qkformer_cifar10_4_384", [8] * 4),
        ("qkformer_cifar10dvs", [16] * 2),
        ("maxformer_10_512", [8] * 7),
        ("maxformer_cifar", [8] * 2),
    ],
)
def test_heads_and_the_factor_of_the_products(name, heads):
    kinds = (sl.nn.SpikingSelfAttention, sl.nn.QKAttention)
    layers = [m for m in on_meta(name).modules() if isinstance(m, kinds)]
    assert [m.heads for m in layers] == heads
    scales = {m.scale for m in layers if isinstance(m, sl.nn.SpikingSelfAttention)}
    assert scales == {0.25 if name == "spikformer_cifar10dvs" else 0.125}


def test_attention_of_tokens_comes_before_attention_between_them():
    kinds = [
        type(m).__name__
        for m in on_meta("qkformer_10_512").modules()
        if isinstance(m, qkformer.Block | sl.nn.QKAttention)
    ]
    assert kinds == ["Block", "QKAttention"] * 3 + ["Block"] * 7


def centred(module, *weights):
    """Sets the convolutions of a module of one channel, in order, to these numbers in the middle and 0 around."""
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        for conv, weight in zip(convs, weights, strict=True):
            conv.weight.zero_()
            conv.weight[..., conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = weight
    return sl.Network(module).eval()


def two_pixels(value):
    """A step with a number at the first of two pixels, and one with it at the second."""
    return value * torch.eye(2).view(2, 1, 1, 1, 2)


def test_a_pool_of_currents_fires_where_a_pool_of_spikes_is_silent():
    """1.5 at either pixel makes 0.75 there and no more; where they are pooled, the second makes 1.125 of it."""
    pooled = nn.Sequential(*qkformer.convolutions(1, ((1, True),), NEURONS))
    assert centred(pooled, 1.0)(two_pixels(1.5)).flatten().tolist() == [0, 1]
    stem = spikformer.build(spikformer.Size("by hand", 1, 8, 1), in_channels=1).stem
    assert centred(nn.Sequential(*stem[:4]), 1.0)(two_pixels(1.5)).flatten().tolist() == [0, 0]
    assert [type(m).__name__ for m in stem[:4]] == ["Conv2d", "BatchNorm2d", "LIF", "MaxPool2d"]


def test_an_embedding_of_max_former_by_hand():
    """2 makes a spike at once, which both branches get: 0.5 of each pool, and 3 of the neuron behind the other pool."""
    y = centred(maxformer.halved(1, 1, NEURONS), 1.5, 3.0, 0.5)(two_pixels(2.0))
    assert y.flatten().tolist() == pytest.approx([0.5, 3.5], abs=1e-4)


def test_a_block_of_max_former_as_wide_inside_by_hand():
    """2 fires: 1 and a bias of 0.5 are added, and 3.5 fires: 1 is added.

    Where the inside is wider, the second neuron is given 1.5 without the 2, and is silent.
    """
    for hidden, wanted in ((1, 4.5), (2, 2.0)):
        block = maxformer.Block(None, 1, hidden, NEURONS)
        convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
        with torch.no_grad():
            for conv, bias in zip(convs, (0.5, 0.0), strict=True):
                conv.weight.fill_(1.0)
                conv.bias.fill_(bias)
        y = sl.Network(block).eval()(torch.full((1, 1, 1, 1, 1), 2.0))
        assert y.item() == pytest.approx(wanted, abs=1e-4)


def test_a_block_of_max_resnet_by_hand():
    """The branch as in Max-Former; the shortcut is given currents, 2 at the first pixel in the first step."""
    block = max_resnet.Block(1, 2, NEURONS, pooled=True)
    y = centred(block, 1.5, 1.5, 0.5)(two_pixels(2.0))  # two channels inside, each of which hands on 1.5
    assert y.flatten().tolist() == pytest.approx([1.0, 1.0, 3.0, 3.0], abs=1e-4)


def test_papers_are_named():
    papers = " ".join(sl.cite(sl.Network(on_meta("qkformer_cifar10dvs"))))
    assert papers.startswith(
        "Zhou et al., QKFormer: Hierarchical Spiking Transformer using Q-K Attention, NeurIPS 2024"
    )
    assert "Zhou et al., Spikformer" in papers


@pytest.mark.parametrize(
    ("make", "size", "wanted"),
    [
        (lambda: qkformer.build(qkformer.Size("tiny", 16, (1, 1), 2)), 32, [32, 16, 8, 8, 8, 4, 4]),
        (lambda: qkformer.build(qkformer.Size("tiny", 16, (1, 1), 2), stem="cifar"), 8, [8, 8, 8, 8, 8, 4]),
        (lambda: qkformer.build(qkformer.Size("tiny", 16, (1, 1), 2), stem="dvs"), 32, [32, 32, 16, 8, 4, 4, 4, 2]),
        (lambda: maxformer.build(maxformer.Size("tiny", 16, (0, 0), (), 2)), 32, [16, 8, 8, 8, 8, 4, 8]),
        (lambda: maxformer.build(maxformer.Size("tiny", 16, (0, 0), (), 2), stem="cifar"), 8, [8, 8, 8, 8, 4, 8]),
        (
            lambda: maxformer.build(maxformer.Size("tiny", 16, (0, 0), (), 2), stem="dvs"),
            32,
            [32, 32, 16, 8, 4, 4, 2, 4],
        ),
        (lambda: spikformer.build(spikformer.Size("tiny", 0, 8, 2)), 32, [32, 16, 8, 4, 2]),
        (lambda: spikformer.build(spikformer.Size("tiny", 0, 8, 2), stem="cifar"), 8, [8, 8, 8, 4, 2]),
        (lambda: max_resnet.build(max_resnet.Size("tiny", (1, 1, 1))), 8, [8, 8, 8, 8, 8, 4, 4, 4, 2, 2]),
    ],
)
def test_the_sizes_at_which_convolutions_run(make, size, wanted):
    """Of the stem and the embeddings, branch and then shortcut; a pool and a stride differ in where they halve."""
    model, sizes = make(), []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, args, y: sizes.append(y.shape[-1]))
    channels = next(m for m in model.modules() if isinstance(m, nn.Conv2d)).in_channels
    with torch.no_grad():
        sl.Network(model).eval()(torch.rand(1, 1, channels, size, size))
    assert sizes == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: spikformer.build(spikformer.Size("tiny", 1, 16, 2, bias=True), stem="cifar"),
        lambda: qkformer.build(qkformer.Size("tiny", 16, (1, 1), 2), stem="cifar"),
        lambda: maxformer.build(maxformer.Size("tiny", 16, (1, 1), (3,), 2), stem="cifar"),
    ],
    ids=["spikformer", "qkformer", "maxformer"],
)
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # Dynamo's own doing,
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # as this is
def test_exported_networks_give_the_same(make):
    net, x = sl.Network(make()).eval(), 4 * torch.rand(3, 2, 3, 8, 8)
    with torch.no_grad():
        exported = torch.export.export(net, (x,), strict=False)
        torch.testing.assert_close(exported.module()(x), net(x))
