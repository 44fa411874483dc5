"""Folders of models: the way there and back, and what is refused."""

import functools
import json

import pytest
import torch

import spikeloom as sl

pytest.importorskip("safetensors", reason="the extra 'cli' is not installed")
SMALL = {"size": (8, 8), "channels": 4, "num_classes": 3}


@pytest.fixture
def model():
    model = sl.models.create("plif_dvsgesture", in_channels=1, **{**SMALL, "size": (32, 32)})
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_()
    return model


def test_there_and_back(model, tmp_path):
    folder = sl.models.save(sl.Network(model), tmp_path / "a" / "b", facts={"T": 4, "accuracy": 0.5})
    again = sl.models.load(folder)
    assert again.built == model.built._replace(arguments={**model.built.arguments, "size": [32, 32]})
    assert not again.training
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    config = json.loads((folder / "config.json").read_text())
    assert config["name"] == "plif_dvsgesture"
    assert config["facts"] == {"T": 4, "accuracy": 0.5}
    assert config["arguments"] == {"in_channels": 1, "size": [32, 32], "channels": 4, "num_classes": 3}
    sl.models.save(again, folder)  # over the first
    assert json.loads((folder / "config.json").read_text())["facts"] == {}
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_neurons_of_ones_own(tmp_path):
    slow = functools.partial(sl.LIF, tau=4.0)
    sl.models.save(sl.models.create("plif_mnist", neuron=slow, **SMALL), tmp_path)
    with pytest.raises(ValueError, match=r"plif_mnist was created with neurons of its own; give the factory again"):
        sl.models.load(tmp_path)
    assert sl.models.load(tmp_path, neuron=slow).stage1[2].tau.item() == 4.0
    with pytest.raises(RuntimeError, match=r"tau is 4.0 in the checkpoint but 3.0"):
        sl.models.load(tmp_path, neuron=functools.partial(sl.LIF, tau=3.0))


def test_what_is_refused(model, tmp_path):
    for other in (torch.nn.Linear(2, 2), model[:2]):
        with pytest.raises(TypeError, match=r"models.save: expected a model of sl.models.create, got (Linear|Model)"):
            sl.models.save(other, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        sl.models.load(tmp_path)
    sl.models.save(model, tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, text = weights.read_bytes(), config.read_text()
    weights.write_bytes(whole[:-1] + b"?")
    with pytest.raises(ValueError, match=r"model.safetensors: damaged, or not the weights that config.json beside it"):
        sl.models.load(tmp_path)
    weights.write_bytes(whole)
    for wrong, message in (
        ("{", "config.json: no JSON"),
        ("[]", "expected format 1 of sl.models.save"),
        (text.replace('"format": 1', '"format": 2'), "expected format 1 of sl.models.save"),
        (text.replace('"sha256"', '"sha"'), "damaged, sha256 is missing or of another kind"),
        (text.replace("plif_dvsgesture", "plif_gesture"), "there is no model 'plif_gesture'"),
    ):
        config.write_text(wrong)
        with pytest.raises(ValueError, match=message):
            sl.models.load(tmp_path)
    before = config.read_text()
    with pytest.raises(TypeError, match="not JSON serializable"):
        sl.models.save(model, tmp_path, facts={"x": torch.ones(2)})
    assert config.read_text() == before
