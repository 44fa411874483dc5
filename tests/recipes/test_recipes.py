"""Every recipe learns, on real data where it has any, and writes what it promises. Short runs; docs/reproductions has
the long ones.
"""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch

import spikeloom as sl
from spikeloom import recipes, runs
from spikeloom.recipes import autoencoder, braille, digits, mnist_latency, population, regression, yin_yang

pytest.importorskip("safetensors", reason="the extra 'cli' is not installed")
ROOT = os.environ.get("SPIKELOOM_DATA")


def run(name, out, **settings):
    recipe = recipes.get(name)
    config = recipe.Config(**settings)
    with runs.Run(name, config, runs.Machine(data_root=ROOT), out=out) as this:
        recipe.train(config, this)
    return this


def test_the_list_is_complete_and_each_is_described():
    folder = Path(recipes.__file__).parent
    files = {f.stem.replace("_", "-") for f in folder.glob("*.py")} - {"--init--"}
    assert files == set(recipes.NAMES)
    for name in recipes.NAMES:
        recipe = recipes.get(name)
        assert len(Path(recipe.__file__).read_text().splitlines()) <= 170, f"{name}: readable on two screens"
        for part in ("Config", "data", "build", "measures", "train"):
            assert getattr(recipe, part).__doc__ or part == "measures"
    with pytest.raises(runs.ConfigError, match="there is no recipe 'nothing'; there are digits, "):
        recipes.get("nothing")


def test_the_demo(tmp_path, capsys):
    pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")
    done = run("digits", tmp_path / "run", epochs=3)
    text = capsys.readouterr().out
    assert done.result["test_accuracy"] > 0.9
    assert f"test accuracy {100 * done.result['test_accuracy']:.2f} %" in text
    for name in ("curves", "raster", "membranes", "rates"):
        assert (tmp_path / "run" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert name in text
    weights = pytest.importorskip("safetensors.torch").load_file(tmp_path / "run" / "weights.safetensors")
    net = digits.build(digits.Config())
    net.load_state_dict(weights)
    test = sl.data.load("digits", "test")
    images = torch.stack([test[i][0] for i in range(360)])
    net.eval()
    with torch.no_grad():
        right = net(images, repeat=6).mean(0).argmax(1) == test.labels
    assert float(right.double().mean()) == done.result["test_accuracy"]


@pytest.mark.skipif(not ROOT, reason="SPIKELOOM_DATA names no folder with MNIST and Fashion-MNIST")
@pytest.mark.parametrize(
    ("name", "settings", "least"),
    [
        ("mnist-mlp", dict(T=8, subset=2000, epochs=2, lr=5e-3), 0.7),
        ("fashion-csnn", dict(T=2, subset=2000, epochs=3, channels=6, hidden=64, lr=5e-3), 0.6),
        ("mnist-latency", dict(subset=4000, epochs=2, hidden=100, lr=5e-3), 0.6),
        ("mnist-sparse", dict(T=2, subset=2000, epochs=2, channels=4, hidden=64, density=0.05, lr=5e-3), 0.7),
        ("population", dict(subset=2000, epochs=2, hidden=64, members=10, lr=3e-3), 0.7),
        pytest.param("mnist-tempotron", dict(subset=2000, epochs=2, members=4), 0.6, marks=pytest.mark.slow),
    ],
)
def test_classifiers_learn(tmp_path, name, settings, least):
    done = run(name, tmp_path / "run", **settings)
    assert done.result["test_accuracy"] > least
    assert done.history[-1]["loss"] < done.history[0]["loss"]
    assert json.loads((tmp_path / "run" / "split.json").read_text())["train"]["samples"] == settings["subset"]


@pytest.mark.skipif(not ROOT, reason="SPIKELOOM_DATA names no folder with Braille letters and spoken digits")
@pytest.mark.parametrize(
    ("name", "settings", "chance"),
    [
        ("braille", dict(epochs=12, hidden=64), 1 / 27),
        ("fsdd", dict(epochs=6, hidden=128, T=32, step_ms=20.0, lr=5e-3), 1 / 10),
    ],
)
def test_spike_recordings_beat_a_line_through_their_counts(tmp_path, name, settings, chance):
    done = run(name, tmp_path / "run", **settings)
    assert done.result["chance_accuracy"] == chance
    assert 4 * chance < done.result["linear_accuracy"] < done.result["test_accuracy"]
    assert (tmp_path / "run" / "raster.png").exists() or not importlib.util.find_spec("matplotlib")


def test_level_crossings():
    """Spikes add up to the levels: ON less OFF is where the taxel is, from where it was at first."""
    taxels = torch.tensor([[0.5, 0.502, 0.51, 0.5]]).T.unsqueeze(-1).expand(4, 1, 12)
    coded = braille.spikes(taxels, braille.Config())
    levels = (taxels[:, 0, 0] * 255 + 1e-3).floor()  # 127, 128, 130, 127
    assert levels.tolist() == [127, 128, 130, 127]
    assert coded[:, 0, 0].tolist() == [0, 1, 2, 0]
    assert coded[:, 0, 12].tolist() == [0, 0, 0, 3]
    assert braille.spikes(taxels, braille.Config(step=2))[:, 0, 0].tolist() == [0, 1, 1, 0]


def test_the_yin_yang_figure_and_its_spike_times():
    p = torch.tensor([[0.75, 0.5], [0.25, 0.5], [0.5, 0.9], [0.5, 0.1], [0.25, 0.7], [0.75, 0.7], [0.25, 0.35]])
    assert yin_yang.kinds(p).tolist() == [2, 2, 1, 0, 1, 0, 1]
    coded = yin_yang.coded(p[:1], yin_yang.Config())  # 2 ms + 28 ms x, in steps of 0.5 ms
    assert coded.argmax(0).tolist() == [[46, 32, 18, 32, 0]]
    assert coded.sum() == 5
    counts = yin_yang.points(1000, seed=2)[1].bincount()
    assert counts.tolist() == [334, 333, 333]


@pytest.mark.slow
@pytest.mark.skipif(not ROOT, reason="SPIKELOOM_DATA names no folder with MNIST")
def test_neurons_that_compete_learn_digits_without_labels(tmp_path):
    done = run("diehl-cook", tmp_path / "run", subset=2500, naming=1500, neurons=40)
    assert done.result["test_accuracy"] > 0.5
    weights = pytest.importorskip("safetensors.torch").load_file(tmp_path / "run" / "weights.safetensors")
    torch.testing.assert_close(weights["layer.weight"].sum(1), torch.full((40,), 78.4), rtol=1e-4, atol=0.0)
    assert weights["neuron.neuron.v_threshold"].unique().numel() > 1
    assert weights["names"].unique().numel() > 3


@pytest.mark.slow
def test_the_yin_yang_figure_is_learned_by_spike_times(tmp_path):
    done = run("yin-yang", tmp_path / "run", epochs=4, samples=1500, hidden=80)
    assert done.result["test_accuracy"] > 0.6
    assert done.history[-1]["loss"] < done.history[0]["loss"]


def test_the_linear_baseline_is_logistic_regression():
    """As scikit-learn finds it: the same sum, penalty and minimum."""
    linear_model = pytest.importorskip("sklearn.linear_model", reason="the extra 'demo' is not installed")
    train, test = sl.data.load("digits", "train"), sl.data.load("digits", "test")
    loaders = sl.data.loaders("digits", batch_size=32)

    def counts(x):
        return x.flatten(1)[:, 10:50]

    found = runs.linear_baseline(loaders.train, loaders.test, counts)
    x, x_test = (counts(s.data / 16.0).double().numpy() for s in (train, test))
    mean, std = x.mean(0), x.std(0)
    std[std == 0] = 1
    model = linear_model.LogisticRegression(max_iter=10_000, tol=1e-8).fit((x - mean) / std, train.labels)
    assert found == pytest.approx(model.score((x_test - mean) / std, test.labels), abs=1 / 360)
    assert loaders.train.sampler.epoch == 0  # nothing of the order of training is used up


@pytest.mark.skipif(not ROOT, reason="SPIKELOOM_DATA names no folder with MNIST")
def test_the_autoencoder_beats_the_mean_image(tmp_path):
    done = run("autoencoder", tmp_path / "run", subset=3000, epochs=3, channels=6, T=2, latent=16, lr=1e-2)
    images = sl.data.load("mnist", "test", root=ROOT).data.float() / 255
    mean = float((images - images.mean(0)).square().mean())  # 0.067: what says nothing about the single image
    assert done.result["test_mse"] < mean
    assert (tmp_path / "run" / "reconstructions.png").exists()
    config = autoencoder.Config(T=3, latent=7, channels=2)
    net = autoencoder.build(config)
    membranes, recorded = net(torch.rand(2, 1, 28, 28), repeat=3, record=("9.output",))
    assert membranes.shape == (3, 2, 1, 28, 28)
    assert recorded.record["9.output"].shape == (3, 2, 7)  # the bottleneck


def test_the_series_is_that_of_the_equation():
    """Against the same equation at ten times finer steps, and its known range."""
    series = regression.mackey_glass(60)
    finer = regression.mackey_glass(60, per_unit=100)
    # Chaos lets errors grow by a factor of e in about 150 units: 300 of them are left out first.
    assert float((series - finer).abs().max()) < 2e-2
    long = regression.mackey_glass(3000)
    assert 0.35 < float(long.min()) < 0.55
    assert 1.25 < float(long.max()) < 1.4
    constant = regression.mackey_glass(1, delay=1)
    assert float(constant) == pytest.approx(
        1.0, abs=1e-3
    )  # 0.2 x / (1 + x^10) = 0.1 x at x = 1; stable for short delays


def test_the_regression_beats_persistence(tmp_path):
    done = run("regression", tmp_path / "run", epochs=8, samples=3000, hidden=48, lr=1e-2)
    assert done.result["test_mse"] < 0.5 * done.result["test_persistence_mse"]
    with pytest.raises(
        runs.ConfigError, match="a window and its horizon take 900 samples, a part of the series has 800"
    ):
        regression.data(regression.Config(samples=1000, window=890), batch_size=4)


def test_mixed_precision_trains(tmp_path):
    done = run("regression", tmp_path / "run", epochs=3, samples=1500, hidden=16, lr=1e-2, amp="bfloat16")
    assert done.history[-1]["loss"] < done.history[0]["loss"]
    exact = run("regression", tmp_path / "exact", epochs=3, samples=1500, hidden=16, lr=1e-2)
    assert done.history[0]["loss"] != exact.history[0]["loss"]  # it was another arithmetic


def test_windows_by_hand():
    config = regression.Config(window=21, horizon=2)
    samples = regression.windows(torch.arange(30.0), config, stride=5)
    assert len(samples) == 2
    x, y = samples[1]
    assert x[:, 0].tolist() == list(range(5, 26))
    assert y[:, 0].tolist() == list(range(7, 28))


class Fixed(torch.nn.Module):
    """A network with given outputs."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, x, **options):
        return self.outputs


def test_scores_by_hand():
    spikes = torch.zeros(4, 1, 10)
    spikes[1, 0, 3] = spikes[1, 0, 7] = spikes[3, 0, 7] = 1  # 3 and 7 fire first together, 7 once more
    spikes[2:, 0, 5] = 1  # more often, but later
    image = torch.zeros(1, 1, 28, 28)
    scores = mnist_latency.scores(Fixed(spikes), image, mnist_latency.Config(T=4))
    assert scores.argmax(1).tolist() == [7]
    assert scores[0].sort(descending=True).indices[:3].tolist() == [7, 3, 5]
    spikes = torch.zeros(2, 1, 20)
    spikes[:, 0, 6:8] = 1
    counts = population.scores(Fixed(spikes), image, population.Config(members=2))
    assert counts.tolist() == [[0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
