"""Transformers against their authors' code and SpikingJelly's, by outputs and gradients of weights that both draw."""

import pytest
import torch

import spikeloom as sl
from reference import drawn
from spikeloom.models import maxformer, qkformer, spikformer

T, B, CLASSES = 3, 2, 5
CIFAR = spikformer.Size("small", 2, 16, 2, bias=True)
MAKE = {
    "spikformer imagenet": (lambda **o: spikformer.build(spikformer.Size("small", 2, 16, 2), **o), 3, 64),
    "spikformer cifar10": (lambda **o: spikformer.build(CIFAR, stem="cifar", **o), 3, 32),
    "spikformer cifar10dvs": (
        lambda **o: spikformer.build(spikformer.Size("small", 1, 16, 4, scale=0.25), stem="dvs", **o),
        2,
        128,
    ),
    "qkformer": (lambda **o: qkformer.build(qkformer.Size("small", 32, (1, 2, 2), 2), **o), 3, 64),
    "maxformer cifar": (
        lambda **o: maxformer.build(maxformer.Size("small", 32, (1, 1, 2), (0, 3), 8), stem="cifar", **o),
        3,
        32,
    ),
}


def ran(name, **options):
    make, channels, size = MAKE[name]
    model = make(num_classes=CLASSES, in_channels=channels, **options).double()
    found = drawn.places([model])
    drawn.fill(found)
    y = sl.Network(model)(drawn.images((T, B, channels, size, size))).mean(0)
    y.square().sum().backward()
    return y.detach(), drawn.summary(found), found


@pytest.mark.parametrize("name", MAKE)
def test_outputs_and_gradients(golden, name):
    wanted = {key: golden("models")[f"{name}/{key}"] for key in ("y", "gradients")}
    y, gradients, found = ran(name)
    torch.testing.assert_close(y, wanted["y"], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(gradients, wanted["gradients"], atol=1e-8, rtol=1e-9)
    silent = [place for place, (norm, *_) in zip(found, gradients, strict=True) if norm < 1e-3]
    assert {(place.parameter.ndim, place.middle) for place in silent} == {(1, 0.0)}  # biases in front of norms
    assert (y[0] - y[1]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["spikformer cifar10", "qkformer", "maxformer cifar"])
def test_one_threshold_for_all_neurons_gives_something_else(golden, name):
    same = spikformer.paper_neuron
    y, *_ = ran(name, neuron=lambda v_threshold=1.0: same())
    assert (y - golden("models")[f"{name}/y"]).abs().max() > 1e-3
