"""``spikeloom convert`` and the recipe that goes with it, as a user types them."""

import json
import os

import pytest
import torch

pytest.importorskip("typer", reason="the extra 'cli' is not installed")
pytest.importorskip("safetensors", reason="the extra 'cli' is not installed")

from spikeloom import cli, recipes, runs
from spikeloom.cli import convert
from spikeloom.convert import Calibrated, Delta, Exact, FewSpikes, Rate
from spikeloom.runs import ConfigError, UserError

ROOT = os.environ.get("SPIKELOOM_DATA")
needs_data = pytest.mark.skipif(not ROOT, reason="SPIKELOOM_DATA names no folder with MNIST")


def spikeloom(capsys, *arguments):
    """Status, output and errors of a command."""
    status = cli.main(list(map(str, arguments)))
    done = capsys.readouterr()
    return status, done.out, done.err


@pytest.mark.slow
@needs_data
def test_a_run_is_converted_and_evaluated(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run, out = tmp_path / "run", tmp_path / "run-delta"
    options = ["--epochs", 3, "--subset", 4000, "--channels", 8, "--T", 8, "--calibration", 100, "--lr", 1e-2]
    assert spikeloom(capsys, "train", "ann2snn-mnist", *options, "--out", run)[0] == 0
    result = json.loads((run / "result.json").read_text())
    assert result["test_accuracy"] > 0.8
    assert result["rate_accuracy"] > result["test_accuracy"] - 0.1
    assert result["delta_accuracy"] > result["test_accuracy"] - 0.02
    curves = json.loads((run / "curves.json").read_text())
    assert list(curves["rate"]) == ["1", "2", "4", "8"]
    assert curves["delta"]["4"] == result["delta_accuracy"]
    assert "3 sites: 3 converted" in (run / "conversion.txt").read_text()

    status, text, _ = spikeloom(capsys, "convert", run, "--method", "delta", "--T", 4, "--calibration", 100)
    assert status == 0
    assert "3 sites: 3 converted, 0 by difference, 0 kept; 3 norms folded" in text
    told = json.loads((out / "conversion.json").read_text())
    assert list(told["accuracy"]) == ["1", "2", "4"]
    assert abs(told["accuracy"]["4"] - result["test_accuracy"]) < 0.02
    assert f"T = 4    {100 * told['accuracy']['4']:.2f} % of 10,000 test samples" in text
    status, text, _ = spikeloom(capsys, "eval", out)
    assert status == 0
    evaluated = json.loads((out / "eval-test.json").read_text())
    assert evaluated["accuracy"] == told["accuracy"]["4"]

    status, _, error = spikeloom(capsys, "convert", run, "--T", 4, "--delay", 4, "--out", tmp_path / "other")
    assert (status, error.strip()) == (2, "error: --T must be more than --delay, 4; got 4")
    assert spikeloom(capsys, "convert", run, "--out", run)[0] == 1  # which holds a run


def test_options_are_those_of_the_method():
    assert convert.method_of("delta", {"levels": 5, "delay": None}, 4) == Delta(levels=5)
    assert convert.method_of("calibrated", {"quantile": 0.9}, 6) == Calibrated(Rate(quantile=0.9), T=6)
    assert convert.method_of("rate", {"threshold": "mse"}, 6) == Rate(threshold="mse", T=6)
    assert convert.method_of("exact", {"mode": "two_phase", "levels": 7}, 7) == Exact(mode="two_phase", levels=7)
    assert convert.method_of("few-spikes", {"K": 5}, 1) == FewSpikes(K=5)
    calibrated = convert.method_of("calibrated", {"v_init": 0.25, "weights": True, "voltages": False, "rounds": 2}, 6)
    mse = Rate(threshold="mse", T=6, v_init=0.25)
    assert calibrated == Calibrated(mse, T=6, weights=True, voltages=False, rounds=2)
    for name, options, message in [
        ("rate", {"weights": True}, "--weights is no option of the method rate"),
        ("exact", {"v_init": 0.0}, "--v-init is no option of the method exact"),
        ("rates", {}, "--method is one of rate, balanced, calibrated, delta, exact, few-spikes; got 'rates'"),
        ("delta", {"delay": 2}, "--delay is no option of the method delta"),
        ("rate", {"quantile": 99.9}, "quantile must be above 0 and at most 1, got 99.9"),
    ]:
        with pytest.raises(ConfigError, match=message):
            convert.method_of(name, options, 4)


@pytest.mark.slow
@needs_data
def test_networks_that_spike_already_are_refused(tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--epochs", 1, "--subset", 200, "--T", 2, "--out", run]
    assert spikeloom(capsys, "train", "mnist-mlp", *options)[0] == 0
    status, _, error = spikeloom(capsys, "convert", run)
    assert status == 1
    assert "Network knows time already: convert takes an ordinary network" in error


def test_a_weights_file_has_the_network_of_a_recipe(tmp_path):
    recipe = recipes.get("ann2snn-mnist")
    torch.manual_seed(5)
    net = recipe.build(recipe.Config(channels=3))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    (tmp_path / "net.toml").write_text('recipe = "ann2snn-mnist"\nchannels = 3\n')
    found = runs.load_weights(tmp_path / "net.pt", str(tmp_path / "net.toml"))
    assert found.config == recipe.Config(channels=3)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in found.net.state_dict().items())
    assert not found.net.training
    with pytest.raises(UserError, match=r"net.pt: the weights do not fit the network of ann2snn-mnist: "):
        runs.load_weights(tmp_path / "net.pt", "ann2snn-mnist")  # whose default is more channels
    with pytest.raises(ConfigError, match="there is no recipe 'resnet20'"):
        runs.load_weights(tmp_path / "net.pt", "resnet20")
    with pytest.raises(UserError, match="is a folder; give a weights file"):
        runs.load_weights(tmp_path, "ann2snn-mnist")


@pytest.mark.slow
@needs_data
def test_a_weights_file_is_converted_and_evaluated(tmp_path, capsys):
    recipe = recipes.get("ann2snn-mnist")
    torch.manual_seed(5)
    torch.save(recipe.build(recipe.Config(channels=3)).state_dict(), tmp_path / "net.pt")
    (tmp_path / "net.toml").write_text('recipe = "ann2snn-mnist"\nchannels = 3\n')
    (tmp_path / "config.toml").write_text('recipe = "ann2snn-mnist"\nchannels = 5\n')  # of something else
    options = ["--method", "exact", "--mode", "two_phase", "--levels", 2, "--T", 2, "--calibration", 50]
    status, text, _ = spikeloom(capsys, "convert", tmp_path / "net.pt", "--model", tmp_path / "net.toml", *options)
    assert status == 0
    assert "3 sites: 3 converted" in text
    told = json.loads((tmp_path / "net-exact" / "conversion.json").read_text())
    assert told["options"]["mode"] == "two_phase"
    assert spikeloom(capsys, "eval", tmp_path / "net-exact")[0] == 0
    evaluated = json.loads((tmp_path / "net-exact" / "eval-test.json").read_text())
    assert evaluated["accuracy"] == told["accuracy"]["2"]
    assert runs.load(tmp_path / "net-exact").config.channels == 3
