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
    ("spiking_vgg5_bn", vgg5, {"stage2.3.weight": "features.7.weight", "stage2.4.bias": "features.8.bias"}),
]


@pytest.mark.parametrize(("name", "make", "some"), FAMILIES, ids=[name for name, *_ in FAMILIES])
def test_weights_of_the_authors(name, make, some):
    weights = make()
    model, keys, dropped = sl.models.convert(name, weights, num_classes=10 if "gesture" not in name else 11)
    state = model.state_dict()
    assert some.items() <= keys.items()
    assert dropped == ()
    assert sorted(keys.values()) == sorted(weights)  # each of theirs once
    assert keys.keys() == {key for key in state if not key.endswith("_extra_state")}  # all of ours
    for key, other in keys.items():
        assert torch.equal(state[key], weights[other]), key
    assert not model.training


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
