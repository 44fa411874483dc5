"""Trained weights that come with the package: what they say of themselves is so."""

import functools
import os

import pytest
import torch

import spikeloom as sl
from spikeloom.models import stored

pytest.importorskip("safetensors", reason="the extra 'cli' is not installed")
ROOT = os.environ.get("SPIKELOOM_DATA")
THERE = [("csnn_8x8", "digits"), ("csnn_28x28", "fashion"), ("csnn_28x28", "mnist")]
LARGE = [weights for name, weights in THERE if name == "csnn_28x28"]


def right(name, weights, of=None):
    """The number of test images, of the first ``of``, that a model names rightly, and how many there were."""
    net = sl.Network(sl.models.create(name, weights=weights))
    facts = sl.models.info(name).weights[weights]
    loader = sl.data.loaders(facts["dataset"], batch_size=250, seed=facts["seed"], root=ROOT).test
    found = n = 0
    with torch.no_grad():
        for images, labels in loader:
            found += int((net(images, repeat=facts["T"]).mean(0).argmax(1) == labels).sum())
            n += len(labels)
            if n == of:
                break
    return found, n


def test_what_is_there_and_how_large_it_is():
    assert [(name, w) for name in sl.models.names() for w in sl.models.info(name).weights] == THERE
    for name, weights in THERE:
        folder = stored.own(name)[weights]
        assert (folder / "model.safetensors").stat().st_size < 1_000_000
        facts = sl.models.info(name).weights[weights]
        assert {"dataset", "split", "seed", "T", "test_accuracy", "selected", "commit"} <= facts.keys()
        assert facts["selected"] == "last epoch"
        model = sl.models.create(name, weights=weights)
        assert not model.training
        assert model.built.arguments == {"num_classes": 10, "in_channels": 1}


def test_digits_are_named_as_the_facts_say():
    pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")
    found, n = right("csnn_8x8", "digits")
    assert found / n == sl.models.info("csnn_8x8").weights["digits"]["test_accuracy"] > 0.97


@pytest.mark.skipif(not ROOT, reason="SPIKELOOM_DATA names no folder with MNIST and Fashion-MNIST")
@pytest.mark.parametrize("weights", LARGE)
def test_images_are_named_about_as_the_facts_say(weights):
    found, n = right("csnn_28x28", weights, of=500)
    assert found / n == pytest.approx(sl.models.info("csnn_28x28").weights[weights]["test_accuracy"], abs=0.04)


@pytest.mark.slow
@pytest.mark.skipif(not ROOT, reason="SPIKELOOM_DATA names no folder with MNIST and Fashion-MNIST")
@pytest.mark.parametrize("weights", LARGE)
def test_all_images_are_named_as_the_facts_say(weights):
    """But for a few of ten thousand, whose voltages are so near the threshold that rounding decides."""
    found, n = right("csnn_28x28", weights)
    assert n == 10_000
    assert abs(found - n * sl.models.info("csnn_28x28").weights[weights]["test_accuracy"]) <= 5


def test_without_the_last_layer():
    whole, headless = (sl.models.create("csnn_8x8", weights="digits", num_classes=k) for k in (10, 0))
    x = torch.rand(2, 3, 1, 8, 8)
    with torch.no_grad():
        hidden = sl.Network(headless)(x)
        assert hidden.shape == (2, 3, 64)
        torch.testing.assert_close(whole.head[-1](hidden), sl.Network(whole)(x))


def test_what_does_not_fit_the_weights_is_refused():
    with pytest.raises(ValueError, match="model csnn_8x8 has no weights 'mnist'; there are digits"):
        sl.models.create("csnn_8x8", weights="mnist")
    with pytest.raises(ValueError, match="model sew_resnet18 has no weights 'imagenet'; none come with the package"):
        sl.models.create("sew_resnet18", weights="imagenet")
    with pytest.raises(ValueError, match="the weights 'digits' are for num_classes=10, got 7; leave it out, or create"):
        sl.models.create("csnn_8x8", weights="digits", num_classes=7)
    with pytest.raises(RuntimeError, match=r"tau is 2.0 in the checkpoint but 3.0"):
        sl.models.create("csnn_8x8", weights="digits", neuron=functools.partial(sl.LIF, tau=3.0))


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "OWN", tmp_path)
    folder = sl.models.save(sl.models.create("csnn_8x8"), tmp_path / "csnn_8x8" / "mine")
    assert sl.models.create("csnn_8x8", weights="mine").head[-1].out_features == 10
    (folder / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged, or not the weights that config.json beside it"):
        sl.models.create("csnn_8x8", weights="mine")
