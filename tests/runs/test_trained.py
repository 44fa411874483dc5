"""A run is loaded, begun from another's weights, and extended: weights and learning rates against torch's own."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom import data, recipes, runs

SCHEDULES = {
    "none": lambda optimiser, steps: None,
    "one-cycle": lambda optimiser, steps: torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.01, total_steps=steps),
    "cosine": lambda optimiser, steps: torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps),
    "steps": lambda optimiser, steps: torch.optim.lr_scheduler.StepLR(optimiser, 7, 0.5),
}


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    epochs: int = 2
    batch_size: int = 8
    lr: float = 0.01


def go(out, schedule="none", **options):
    """A run of 40 samples by 8, and the learning rate of every step that it took."""
    config = Config(epochs=options.pop("epochs", 2))
    x = torch.rand(40, 5, generator=torch.Generator().manual_seed(1))
    samples = data.Samples(x, torch.arange(40) % 3, classes=("a", "b", "c"))
    rates = []
    with runs.Run("tiny", config, out=out, **options) as run:
        loaders = run.load(lambda config, **loading: data.loaders((samples, samples), **loading))
        net = run.place(sl.Network(nn.Linear(5, 8), sl.LIF(v_threshold=0.3), nn.Linear(8, 3)))
        begun = {name: value.clone() for name, value in net.state_dict().items() if isinstance(value, torch.Tensor)}
        optimiser = torch.optim.AdamW(net.parameters(), lr=config.lr)
        found = SCHEDULES[schedule](optimiser, config.epochs * 5)
        run.keep(net=net, optimiser=optimiser, **({} if found is None else {"schedule": found}))
        if not run.resume:
            begun = {name: value.clone() for name, value in net.state_dict().items() if isinstance(value, torch.Tensor)}
        for _ in run.epochs():
            for x, y in run.steps(loaders.train):
                rates.append(optimiser.param_groups[0]["lr"])
                loss = sl.loss.rate_cross_entropy(net(x, repeat=4), y)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                if found is not None:
                    found.step()
                run.log(len(y), loss=loss)
        run.finish(net)
    return rates, begun


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_an_extended_run_has_the_schedule_of_a_longer_one(schedule, tmp_path, capsys):
    go(tmp_path / "run", schedule)
    rates, _ = go(tmp_path / "run", schedule, epochs=5, resume=True)
    whole, _ = go(tmp_path / "whole", schedule, epochs=5)
    assert rates == pytest.approx(whole[10:], rel=1e-12)
    assert "extended from 2 to 5 epochs; schedules go on as in a run of 5" in capsys.readouterr().out
    assert runs.read_file(tmp_path / "run" / "config.toml")["epochs"] == 5
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 25
    if schedule in ("none", "steps"):  # which do not depend on the length: the same run, bit by bit
        one, other = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("run", "whole"))
        assert one == other


def test_a_run_is_not_made_shorter_nor_changed_while_it_is_extended(tmp_path):
    go(tmp_path)
    with pytest.raises(runs.ConfigError, match=r"epochs was 2 when the run began, and is now 1; .*it may have more"):
        go(tmp_path, epochs=1, resume=True)
    with pytest.raises(runs.ConfigError, match="recipe was 'tiny'"):
        runs.Run("other", Config(epochs=3), out=tmp_path, resume=True).__enter__()
    assert runs.read_file(tmp_path / "config.toml")["epochs"] == 2


def test_a_run_begins_with_the_weights_of_another(tmp_path, capsys):
    from safetensors.torch import load_file

    go(tmp_path / "first")
    trained = load_file(tmp_path / "first" / "weights.safetensors")
    for source in (tmp_path / "first", tmp_path / "first" / "checkpoint.pt", str(tmp_path / "first")):
        _, begun = go(tmp_path / "second", init_from=source, overwrite=True)
        assert "begins with the weights of" in capsys.readouterr().out
        for name, value in begun.items():
            assert torch.equal(value, trained[name]), name
    for nowhere in (tmp_path / "nowhere", tmp_path / "first" / "typo.pt", "y" * 5000):  # never what lies beside it
        with pytest.raises(runs.UserError, match="there is no such run folder"):
            go(tmp_path / "third", init_from=nowhere, overwrite=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.toml").write_text('recipe = "tiny"\n')
    with pytest.raises(runs.UserError, match="was the run stopped before its first save"):
        go(tmp_path / "third", init_from=tmp_path / "empty")
    with (
        runs.Run("tiny", Config(), out=tmp_path / "wide", init_from=tmp_path / "first") as run,
        pytest.raises(runs.UserError, match=r"(?s)weights do not fit the network of tiny.*size mismatch"),
    ):
        run.keep(net=sl.Network(nn.Linear(5, 9), sl.LIF(), nn.Linear(9, 3)))


def test_a_recipe_is_loaded_with_its_config_and_data(tmp_path):
    digits = recipes.get("digits")
    config = digits.Config(epochs=1, T=2, channels=3)
    out = tmp_path / "digits"
    with runs.Run("digits", config, out=out) as run:
        digits.train(config, run)
    for path in (out, str(out), out / "checkpoint.pt"):
        trained = sl.runs.load(path)
        assert (trained.config, trained.folder, trained.net.training) == (config, out, False)
    loaders = trained.loaders()
    correct = total = 0
    with torch.no_grad():
        for images, labels in loaders.test:
            correct += int((digits.scores(trained.net, images, config).argmax(-1) == labels).sum())
            total += len(labels)
    assert correct / total == pytest.approx(trained.result["test_accuracy"], abs=1e-12)
    image = torch.full((1, 1, 8, 8), 16, dtype=torch.uint8)
    assert [float(transform(image).max()) for transform in loaders.transforms] == [1.0, 1.0]
    shutil.rmtree(out)
    with pytest.raises(runs.UserError, match="there is no such run folder"):
        sl.runs.load(Path(out))


def test_a_long_epoch_says_how_far_it_is_where_there_is_no_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs.progress, "_SPEAK", 0.0)
    go(tmp_path / "often", epochs=1)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in said if "epoch 1/1: " in line] == [
        f"epoch 1/1: {k} of 5 steps" for k in range(1, 6)
    ]
    assert all("loss " in line for line in said if "epoch 1/1: " in line and ": 1 of" not in line)
    monkeypatch.setattr(runs.progress, "_SPEAK", 1e9)
    go(tmp_path / "seldom", epochs=1)
    assert "of 5 steps" not in capsys.readouterr().out
