"""Weights under the names of the authors' own code: made here, as their modules are named and ordered."""

import pytest
import torch

import spikeloom as sl
from spikeloom.models import authors

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def filled(shapes):
    """A state dict of tensors that differ everywhere."""
    total, found = 0, {}
    for key, shape in shapes:
        n = int(torch.tensor(shape).prod()) if shape else 1
        counter = key.endswith("num_batches_tracked")
        found[key] = torch.tensor(7) if counter else (torch.arange(n) + total).float().reshape(shape) / 1024
        total += n
    return found


def conv(key, out, of, size=3):
    return [(f"{key}.weight", (out, of, size, size))]


def norm(key, features):
    return [(f"{key}.{leaf}", () if leaf == NORM[-1] else (features,)) for leaf in NORM]


def resnet18(pair, shortcut, first, last, *, stages, classes=10, first_halves=False):
    """A net of 18 layers: ``pair(block, k)`` has the names of a block's k-th convolution and norm."""
    shapes = conv(first[0], 64, 3, 7) + norm(first[1], 64)
    before = 64
    for stage, width in zip(stages, (64, 128, 256, 512), strict=True):
        for b in range(2):
            block = f"{stage}.{b}"
            for k, of in ((1, before), (2, width)):
                shapes += conv(pair(block, k)[0], width, of) + norm(pair(block, k)[1], width)
            if before != width or (first_halves and b == 0):
                shapes += conv(shortcut(block)[0], width, before, 1) + norm(shortcut(block)[1], width)
            before = width
    return filled([*shapes, (f"{last}.weight", (classes, 512)), (f"{last}.bias", (classes,))])


def sew18():
    return resnet18(
        lambda block, k: (f"{block}.conv{k}.module.0", f"{block}.conv{k}.module.1"),
        lambda block: (f"{block}.downsample.0.module.0", f"{block}.downsample.0.module.1"),
        ("conv1", "bn1"),
        "fc",
        stages=("layer1", "layer2", "layer3", "layer4"),
    )


def ms18():
    return resnet18(
        lambda block, k: (f"{block}.residual_function.{3 * k - 2}", f"{block}.residual_function.{3 * k - 1}.bn"),
        lambda block: (f"{block}.shortcut.0", f"{block}.shortcut.1.bn"),
        ("conv1.0", "conv1.1.bn"),
        "fc",
        stages=("conv2_x", "conv3_x", "conv4_x", "conv5_x"),
        first_halves=True,
    )


def plif_gesture():
    shapes = []
    for k in range(5):
        shapes += conv(f"conv.{4 * k}", 128, 128 if k else 2) + norm(f"conv.{4 * k + 1}", 128)
        shapes.append((f"conv.{4 * k + 2}.w", ()))
    shapes += [("fc.2.weight", (512, 2048)), ("fc.3.w", ()), ("fc.5.weight", (110, 512)), ("fc.6.w", ())]
    return filled(shapes)


def sew_gesture():
    """A convolution of 1x1 first, and then blocks and pools in turn."""
    shapes = [("conv.0.0.module.0.weight", (32, 2, 1, 1)), *norm("conv.0.0.module.1", 32), ("conv.0.1.w", ())]
    for k in range(7):
        for i in range(2):
            at = f"conv.{1 + 2 * k}.conv.{i}"
            shapes += [*conv(f"{at}.0.module.0", 32, 32), *norm(f"{at}.0.module.1", 32), (f"{at}.1.w", ())]
    return filled([*shapes, ("out.weight", (11, 32)), ("out.bias", (11,))])


def vgg5():
    """Convolutions with bias, norms, and places of neurons and pools counted as torchvision does."""
    shapes, place, before = [], 0, 3
    for width in (64, "pool", 128, 128, "pool"):
        if width == "pool":
            place += 1
            continue
        shapes += [*conv(f"features.{place}", width, before), (f"features.{place}.bias", (width,))]
        shapes += norm(f"features.{place + 1}", width)
        place, before = place + 3, width
    return filled([*shapes, ("classifier.weight", (10, 128)), ("classifier.bias", (10,))])


def unit(conv_key, norm_key, out, of, *, size=(1,), bias=False):
    """A convolution and a norm, as transformers have them."""
    shapes = [(f"{conv_key}.weight", (out, of, *size))] + ([(f"{conv_key}.bias", (out,))] if bias else [])
    return [*shapes, *norm(norm_key, out)]


def attention(key, dim, parts="qkv"):
    shapes = [shape for part in parts for shape in unit(f"{key}.{part}_conv", f"{key}.{part}_bn", dim, dim)]
    return [*shapes, *unit(f"{key}.proj_conv", f"{key}.proj_bn", dim, dim, bias=True)]


def mlp(key, dim, hidden, layer, size):
    first, second = (f"{key}.{layer}{k}" for k in (1, 2))
    return unit(f"{first}_conv", f"{first}_bn", hidden, dim, size=size, bias=True) + unit(
        f"{second}_conv", f"{second}_bn", dim, hidden, size=size, bias=True
    )


def spikformer():
    """With the norms and the encoding of positions that are never used."""
    shapes, before = [("pos_embed", (1, 64, 256))], 2
    for k, width in zip(("", "1", "2", "3"), (32, 64, 128, 256), strict=True):
        shapes += unit(f"patch_embed.proj_conv{k}", f"patch_embed.proj_bn{k}", width, before, size=(3, 3))
        before = width
    shapes += unit("patch_embed.rpe_conv", "patch_embed.rpe_bn", 256, 256, size=(3, 3))
    for k in range(2):
        dead = [(f"block.{k}.norm{n}.{leaf}", (256,)) for n in (1, 2) for leaf in ("weight", "bias")]
        shapes += [*dead[:2], *attention(f"block.{k}.attn", 256), *dead[2:]]
        shapes += mlp(f"block.{k}.mlp", 256, 1024, "fc", (1,))
    return filled([*shapes, ("norm.weight", (256,)), ("norm.bias", (256,)), *head(256)])


def head(dim):
    return [("head.weight", (10, dim)), ("head.bias", (10,))]


def qkformer():
    """All embeddings before all stages, which is not how the data pass."""
    shapes, wide = [], (3, 3)
    for k, of, dim in ((1, 3, 96), (2, 96, 192), (3, 192, 384)):
        at, half = f"patch_embed{k}", dim // 2
        first, second = ("proj", "proj1") if k == 1 else ("proj3", "proj4")
        shapes += unit(f"{at}.{first}_conv", f"{at}.{first}_bn", half if k == 1 else dim, of, size=wide)
        shapes += unit(f"{at}.{second}_conv", f"{at}.{second}_bn", dim, half if k == 1 else dim, size=wide)
        shapes += unit(f"{at}.proj_res_conv", f"{at}.proj_res_bn", dim, half, size=(1, 1))
    for k, depth, dim in ((1, 1, 96), (2, 1, 192), (3, 2, 384)):
        for i in range(depth):
            shapes += attention(f"stage{k}.{i}.{'ssa' if k == 3 else 'tssa'}", dim, "qkv" if k == 3 else "qk")
            shapes += mlp(f"stage{k}.{i}.mlp", dim, 4 * dim, "mlp", (1, 1))
    return filled([*shapes, *head(384)])


def maxformer():
    """Embeddings before stages, and the shortcut's convolution after the others."""
    shapes, before = unit("patch_embed1.proj_conv", "patch_embed1.proj_bn", 16, 2, size=(3, 3)), 16
    for k, dim in ((1, 32), (2, 64), (3, 128)):
        at = f"patch_embed1.max_embed{k}.embed"
        shapes += unit(f"{at}_conv", f"{at}_bn", dim, before, size=(3, 3))
        before = dim
    shapes += unit("patch_embed1.embed1.embed_conv", "patch_embed1.embed1.embed_bn", 128, 32, size=(1, 1))
    for part, of, size in (("max_embed1", 128, (3, 3)), ("embed1", 256, (3, 3)), ("max_embed2", 128, (1, 1))):
        shapes += unit(f"patch_embed2.{part}.embed_conv", f"patch_embed2.{part}.embed_bn", 256, of, size=size)
    shapes += unit("stage1.0.mixer.conv", "stage1.0.mixer.conv_bn", 128, 1, size=(3, 3), bias=True)
    shapes += mlp("stage1.0.mlp", 128, 128, "fc", (1, 1))
    shapes += attention("stage2.0.attn", 256) + mlp("stage2.0.mlp", 256, 256, "fc", (1, 1))
    return filled([*shapes, *head(256)])


DEAD = {"pos_embed", "norm.weight", "norm.bias"}
# name, the weights, and some keys with where they belong, by the layers' places in the authors' modules
FAMILIES = [
    (
        "sew_resnet18",
        sew18,
        {
            "stem.0.weight": "conv1.weight",
            "layer1.1.residual.conv2.weight": "layer1.1.conv2.module.0.weight",
            "layer3.0.residual.spike1.bn.running_mean": "layer3.0.conv1.module.1.running_mean",
            "layer3.0.shortcut.0.weight": "layer3.0.downsample.0.module.0.weight",
            "layer3.0.shortcut.1.bn.bias": "layer3.0.downsample.0.module.1.bias",
            "head.2.bias": "fc.bias",
        },
    ),
    (
        "ms_resnet18",
        ms18,
        {
            "layer2.0.residual.1.weight": "conv3_x.0.residual_function.1.weight",
            "layer2.0.residual.2.bn.weight": "conv3_x.0.residual_function.2.bn.weight",
            "layer2.0.residual.4.running_var": "conv3_x.0.residual_function.5.bn.running_var",
            "layer2.0.shortcut.0.weight": "conv3_x.0.shortcut.0.weight",
            "head.3.weight": "fc.weight",
        },
    ),
    (
        "plif_dvsgesture",
        plif_gesture,
        {
            "stage3.0.weight": "conv.8.weight",
            "stage3.2.w": "conv.10.w",
            "head.3.w": "fc.3.w",
            "head.5.weight": "fc.5.weight",
        },
    ),
    (
        "sew_resnet_dvsgesture",
        sew_gesture,
        {
            "layer1.2.w": "conv.0.1.w",
            "layer1.3.residual.spike2.neuron.w": "conv.1.conv.1.1.w",
            "layer7.0.residual.conv1.weight": "conv.13.conv.0.0.module.0.weight",
            "head.2.weight": "out.weight",
        },
    ),
    (
        "spikformer_cifar10dvs",
        spikformer,
        {
            "stem.8.weight": "patch_embed.proj_conv2.weight",
            "stem.16.spike.bn.running_var": "patch_embed.rpe_bn.running_var",
            "blocks.1.attention.k.0.weight": "block.1.attn.k_conv.weight",
            "blocks.1.attention.proj.0.bias": "block.1.attn.proj_conv.bias",
            "blocks.0.mlp.3.bn.weight": "block.0.mlp.fc2_bn.weight",
        },
    ),
    (
        "qkformer_cifar10_4_384",
        qkformer,
        {
            "stage1.0.weight": "patch_embed1.proj_conv.weight",
            "stage2.0.spikes.3.running_mean": "patch_embed2.proj4_bn.running_mean",
            "stage2.0.shortcut.0.weight": "patch_embed2.proj_res_conv.weight",
            "stage2.1.attention.k.1.bn.bias": "stage2.0.tssa.k_bn.bias",
            "stage3.2.attention.v.0.weight": "stage3.1.ssa.v_conv.weight",
        },
    ),
    (
        "maxformer_cifar10dvs",
        maxformer,
        {
            "stage1.0.first.2.weight": "patch_embed1.max_embed1.embed_conv.weight",
            "stage1.0.shortcut.1.bias": "patch_embed1.embed1.embed_bn.bias",
            "stage1.1.mixer.1.bias": "stage1.0.mixer.conv.bias",
            "stage1.1.inner.1.weight": "stage1.0.mlp.fc1_conv.weight",
            "stage2.1.mixer.attention.proj.1.running_var": "stage2.0.attn.proj_bn.running_var",
        },
    ),
    ("spiking_vgg5_bn", vgg5, {"stage2.3.weight": "features.7.weight", "stage2.4.bias": "features.8.bias"}),
]


@pytest.mark.parametrize(("name", "make", "some"), FAMILIES, ids=[name for name, *_ in FAMILIES])
def test_weights_of_the_authors(name, make, some):
    weights = make()
    model, keys, dropped = sl.models.convert(name, weights, num_classes=10 if "gesture" not in name else 11)
    state = model.state_dict()
    assert some.items() <= keys.items()
    assert dropped == tuple(key for key in weights if key in DEAD or ".norm" in key)
    assert sorted([*keys.values(), *dropped]) == sorted(weights)  # each of theirs once
    assert keys.keys() == {key for key in state if not key.endswith("_extra_state")}  # all of ours
    for key, other in keys.items():
        assert torch.equal(state[key].flatten(), weights[other].flatten()), key
    assert not model.training


def test_keys_in_another_order_are_refused_and_the_models_own_need_none():
    weights = plif_gesture()
    sorted_keys = {key: weights[key] for key in sorted(weights)}  # conv.12 is before conv.4, and their shapes are equal
    with pytest.raises(ValueError, match=r"'conv.2.w' comes after 'conv.18.w', .* order of registration"):
        sl.models.convert("plif_dvsgesture", sorted_keys)
    own = sl.models.convert("plif_dvsgesture", weights).model.state_dict()
    own = {key: own[key] for key in sorted(own) if not key.endswith("_extra_state")}
    own["stage3.0.weight"] = own.pop("stage3.0.weight")  # after all others
    found = sl.models.convert("plif_dvsgesture", own)
    assert all(key == other for key, other in found.keys.items())
    assert all(torch.equal(found.model.state_dict()[key], value) for key, value in own.items())


def test_what_the_authors_never_use_is_left_out_and_listed(monkeypatch):
    weights = vgg5()
    weights["features.0.talking_heads"] = torch.ones(3)
    weights["norm.weight"] = torch.ones(4)
    drop = ("*.talking_heads", "norm.*")
    found = sl.models.convert("spiking_vgg5_bn", weights, drop=drop)
    assert found.dropped == ("features.0.talking_heads", "norm.weight")
    assert torch.equal(found.model.head[2].bias, weights["classifier.bias"])
    monkeypatch.setitem(authors.DEAD, "vgg", drop)  # as it is known of a family
    assert sl.models.convert("spiking_vgg5_bn", weights).dropped == found.dropped


def test_a_linear_layer_may_be_a_convolution_of_one_pixel_and_norms_need_not_count():
    weights = {key: value for key, value in vgg5().items() if "num_batches" not in key}
    weights["classifier.weight"] = weights["classifier.weight"].reshape(10, 128, 1, 1)
    found = sl.models.convert("spiking_vgg5_bn", weights)
    assert torch.equal(found.model.head[2].weight.flatten(), weights["classifier.weight"].flatten())
    assert "stage1.1.num_batches_tracked" not in found.keys


def test_what_does_not_fit_is_refused_with_both():
    weights = vgg5()
    with pytest.raises(
        ValueError, match=r"6 layers fit, then the model has head.2 .*\[100, 128\].*classifier .*\[10, 128\]"
    ):
        sl.models.convert("spiking_vgg5_bn", weights, num_classes=100)
    with pytest.raises(ValueError, match=r"then the model has no more, the weights have extra \(weight \[3\]\)"):
        sl.models.convert("spiking_vgg5_bn", {**weights, "extra.weight": torch.ones(3)})
    with pytest.raises(
        ValueError, match=r"0 layers fit, then the model has stage1.0 \(bias .*, the weights have no more"
    ):
        sl.models.convert("spiking_vgg5_bn", {})
    with pytest.raises(
        ValueError, match=r"got dict at 'model'; give the state_dict that the file holds, weights\['model'\]"
    ):
        sl.models.convert("spiking_vgg5_bn", {"model": weights})
    swapped = {"q_conv.weight": torch.ones(2), "k_conv.weight": torch.ones(2)}
    own = [authors._Layer("attn.k", {"weight": torch.ones(2)}), authors._Layer("attn.q", {"weight": torch.ones(2)})]
    with pytest.raises(ValueError, match=r"the model has attn.k .*, the weights have q_conv"):
        authors._pairs("x", own, authors._layers(swapped))
