"""The demo: split, learning, files, refusals. A short run; `make demo SEEDS=5` is the full one."""

import json

import pytest
import torch

pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="the extra 'demo' is not installed")

from spikeloom.recipes import digits  # noqa: E402


def test_split_is_stratified_and_has_the_stated_sizes():
    x_train, x_test, y_train, y_test = digits.load(0)
    assert x_train.shape == (1437, 1, 8, 8)
    assert x_test.shape == (360, 1, 8, 8)
    assert (float(x_train.min()), float(x_train.max())) == (0.0, 1.0)
    whole = torch.cat([y_train, y_test]).bincount()
    assert whole.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # scikit-learn's description
    assert ((y_test.bincount() - whole * 360 / 1797).abs() < 1).all()
    both = torch.cat([x_train, x_test]).flatten(1)
    assert len({tuple(row.tolist()) for row in both}) == 1797  # no image in both parts


def test_three_epochs_learn_and_write_everything(tmp_path, capsys):
    out = tmp_path / "run"
    assert digits.main(["--epochs", "3", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in rows] == [1, 2, 3]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["test_accuracy"] > 0.9
    assert f"test accuracy {100 * rows[-1]['test_accuracy']:.2f} % on 360 images" in text
    assert "next: make demo SEEDS=5" in text
    for name in ("curves.png", "raster.png", "membranes.png", "rates.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
        assert name in text
    config = json.loads((out / "config.json").read_text())
    assert config["epochs"] == 3
    net = digits.build(digits.Config(T=config["T"], channels=config["channels"]))
    net.load_state_dict(safetensors.load_file(out / "weights.safetensors"))
    _, x_test, _, y_test = digits.load(0)
    assert digits.accuracy(net, x_test, y_test, config["T"]) == rows[-1]["test_accuracy"]


def test_same_seed_same_run():
    config = digits.Config(epochs=1, T=2)
    first, second = digits.train(config)[1], digits.train(config)[1]
    assert first == second
    assert digits.train(digits.Config(epochs=1, T=2, seed=1))[1] != first


def test_several_seeds_have_a_folder_each(tmp_path, capsys):
    assert digits.main(["--epochs", "1", "--T", "2", "--seeds", "2", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "seed-1" / "weights.safetensors").exists()
    assert "test accuracy of 2 seeds" in capsys.readouterr().out
    assert digits.main(["--epochs", "1", "--T", "2", "--out", str(tmp_path)]) == 0  # its own runs may be replaced


def test_user_errors_are_messages(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("do not touch")
    for argv, message in (
        (["--out", str(tmp_path)], "holds something else than a run of this recipe"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--seeds", "x"], "invalid int value"),
    ):
        with pytest.raises(SystemExit) as stop:
            digits.main(argv)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "do not touch"
