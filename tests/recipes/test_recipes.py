"""Every recipe learns, on real data where it has any, and writes what it promises. Short runs; docs/reproductions has
the long ones.
"""

import functools
import importlib.util
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

import spikeloom as sl
from spikeloom import recipes, runs
from spikeloom.data import events as ev
from spikeloom.data.finders import CIFAR10
from spikeloom.recipes import autoencoder, braille, cifar10, digits, mnist_latency, population, regression, yin_yang

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
    files = {f.stem.replace("_", "-") for f in folder.glob("[!_]*.py")}
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
    assert done.confusion.sum(1).tolist() == torch.bincount(sl.data.load("digits", "test").labels).tolist()
    assert int(done.confusion.diagonal().sum()) / 360 == done.result["test_accuracy"]
    for name in ("curves", "confusion-test", "raster", "maps", "membranes", "rates"):
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


def test_any_model_on_small_images(tmp_path):
    pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")
    settings = dict(dataset="digits", model="csnn_8x8", T=2, epochs=4, warmup=1, batch_size=32, lr=1e-2)
    settings |= dict(subset=600, optimiser="adamw", crop=1, flip=False, cutout=2, loss="tet", neuron="PLIF")
    done = run("cifar10", tmp_path / "run", **settings)
    assert done.result["test_accuracy"] > 0.7
    assert json.loads((tmp_path / "run" / "split.json").read_text())["validation"]["samples"] == 60
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    facts = config["facts"]
    assert config["name"] == "csnn_8x8"
    assert (facts["dataset"], facts["T"], facts["seed"], facts["selected"]) == ("digits", 2, 0, "last epoch")
    assert facts["test_accuracy"] == done.result["test_accuracy"]
    assert facts["split"]["test"]["samples"] == 360
    factory = functools.partial(sl.PLIF, tau=2.0, detach_reset=True)
    net = sl.Network(sl.models.load(tmp_path / "run" / "model", neuron=factory))
    test = sl.data.load("digits", "test")
    with torch.no_grad():
        right = net(test.data.float() / 16, repeat=2).mean(0).argmax(1) == test.labels
    assert float(right.double().mean()) == done.result["test_accuracy"]


def test_networks_of_the_recipe_for_any_model():
    """For the images of the data set, with the neurons and the surrogate that were asked for."""
    net = cifar10.build(cifar10.Config(dataset="cifar100", model="sew_resnet18"))
    assert net.body.stem[0].kernel_size == (3, 3)
    assert net.body.head[-1].out_features == 100
    neuron = next(m for m in net.modules() if isinstance(m, sl.IF))
    assert repr(neuron.surrogate) == "ATan(scale=2)"
    config = cifar10.Config(dataset="mnist", model="plif_mnist", neuron="LIF", tau=3.0, surrogate="Sigmoid", scale=4.0)
    net = cifar10.build(config)
    assert net.body.stage1[0].in_channels == 1
    found = [m for m in net.modules() if isinstance(m, sl.Neuron)]
    assert [(type(m), float(m.tau), m.detach_reset, repr(m.surrogate)) for m in found] == [
        (sl.LIF, 3.0, True, "Sigmoid(scale=4)")
    ] * 4
    net = cifar10.build(cifar10.Config(model="masnn_dvsgesture", T=10))  # of steps that are seen at once
    assert [net.body.stage1[2].T, net.body.head[0].size] == [10, (32, 32)]
    with pytest.raises(runs.ConfigError, match=r"^model has no 'sew_resnet17'; the nearest are sew_resnet1\d"):
        cifar10.Config(model="sew_resnet17")


def moving(t, label):
    """Events of a bar that stands at a place of its own for each label."""
    draw = np.random.default_rng(label)
    x = 10 * label + draw.integers(0, 8, len(t))
    return ev.make_events(t, x, draw.integers(0, 128, len(t)), draw.integers(0, 2, len(t)))


def test_a_model_with_another_surrogate_is_loaded_with_its_factory(tmp_path):
    net = cifar10.build(cifar10.Config(dataset="digits", model="csnn_8x8", surrogate="Sigmoid", scale=4.0))
    sl.models.save(net, tmp_path)
    with pytest.raises(ValueError, match="was created with neurons of its own; give the factory again, neuron="):
        sl.models.load(tmp_path)
    neuron = functools.partial(sl.LIF, surrogate=sl.surrogate.Sigmoid(4.0))
    model, images = sl.models.load(tmp_path, neuron=neuron), torch.rand(2, 3, 1, 8, 8)
    assert torch.equal(sl.Network(model)(images), net.eval()(images))


def test_gestures_in_their_published_layout(tmp_path):
    """AEDAT 3.1, a table of class, begin and end beside each recording, lists of recordings for each split."""
    top = tmp_path / "dvs128-gesture" / "DvsGesture"
    top.mkdir(parents=True)
    for split, people in (("train", range(1, 7)), ("test", range(24, 26))):
        names = [f"user{k:02}_led.aedat" for k in people]
        (top / f"trials_to_{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            times = [np.arange(200) * 20 + 10_000 * k for k in range(11)]
            data = np.concatenate([moving(t, label) for label, t in enumerate(times)])
            sl.data.write_events(top / name, data, size=(128, 128))
            rows = [f"{label + 1},{t[0]},{t[-1] + 1}" for label, t in enumerate(times)]
            (top / name.replace(".aedat", "_labels.csv")).write_text(
                "class,startTime_usec,endTime_usec\n" + "\n".join(rows)
            )
    settings = dict(model="spiking_vgg5_bn", size=16, T=2, shift=0, epochs=4, warmup=1, partial=True, batch_size=11)
    config = recipes.get("dvs-gesture").Config(**settings, lr=5e-3, validation=0.2)
    with runs.Run("dvs-gesture", config, runs.Machine(data_root=str(tmp_path)), out=tmp_path / "run") as this:
        recipes.get("dvs-gesture").train(config, this)
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert [split[part]["samples"] for part in ("train", "validation", "test")] == [53, 13, 22]
    assert this.result["test_accuracy"] > 0.5
    assert sl.models.load(tmp_path / "run" / "model").head[-1].out_features == 11


def test_pictures_before_a_camera_in_their_published_layout(tmp_path):
    """AEDAT 2.0 as a DVS128 writes it, a folder for each class, the first hundred of each for testing."""
    recipe = recipes.get("cifar10-dvs")
    for label, name in enumerate(CIFAR10):
        folder = tmp_path / "cifar10-dvs" / name
        folder.mkdir(parents=True)
        for k in (3, 99, 100, 101, 102):
            e = moving(np.arange(150) * 10, label)
            words = [struct.pack(">II", int(x) << 1 | int(y) << 8 | int(p), int(t)) for t, x, y, p in e.tolist()]
            (folder / f"cifar10_{name}_{k}.aedat").write_bytes(b"#!AER-DAT2.0\r\n" + b"".join(words))
    config = recipe.Config(model="spiking_vgg5_bn", T=3, partial=True, shift=2, nda=True, validation=0.0, batch_size=30)
    loaders = recipe.data(config, batch_size=30, root=tmp_path)
    assert (len(loaders.train.dataset), len(loaders.test.dataset)) == (30, 20)
    frames, labels = next(iter(loaders.test))
    assert frames.shape == (3, 20, 2, 48, 48)
    assert labels.tolist() == [k for k in range(10) for _ in range(2)]
    assert frames.sum((0, 2, 3, 4)).tolist() == [150] * 20
    net = recipe.build(config)
    assert recipe.scores(net, frames[:, :2], config).shape == (2, 10)


def write_spoken_digits(root):
    """HDF5 files as the data set has them; a word is two bursts, on lines of its own, that are so many steps apart."""
    h5py = pytest.importorskip("h5py", reason="the extra 'data' is not installed")
    draw = np.random.RandomState(0)
    for split, n in (("train", 200), ("test", 60)):
        (root / "shd").mkdir(exist_ok=True)
        with h5py.File(root / "shd" / f"shd_{split}.h5", "w") as file:
            labels = np.arange(n) % 20
            times = file.create_dataset("spikes/times", n, h5py.vlen_dtype(np.float16))
            units = file.create_dataset("spikes/units", n, h5py.vlen_dtype(np.int64))
            for k, label in enumerate(labels):
                late = np.repeat([0.0, 0.01 * (label % 4 + 1)], 20)
                units[k] = np.concatenate(
                    [draw.randint(60, size=20), 70 * (label // 4 + 1) + draw.randint(60, size=20)]
                )
                times[k] = late + 0.005
            file["labels"] = labels
            file["extra/keys"] = [f"word {k}".encode() for k in range(20)]


@pytest.mark.slow
def test_spoken_digits_by_spike_times(tmp_path):
    write_spoken_digits(tmp_path)
    recipe = recipes.get("shd-eventprop")
    settings = dict(T=70, hidden=64, epochs=12, batch_size=20, validation=0.0, lr=1e-2, partial=True)
    config = recipe.Config(**settings, max_delay=20, first=0.3, second=0.15, count=2.0)
    with runs.Run("shd-eventprop", config, runs.Machine(data_root=str(tmp_path)), out=tmp_path / "run") as done:
        recipe.train(config, done)
    assert done.result["test_accuracy"] > 0.3
    assert done.result["linear_accuracy"] < 0.2  # how often lines fired says nothing of when


def test_the_network_of_spike_times_learns_weights_and_delays():
    recipe = recipes.get("shd-eventprop")
    counts = (torch.rand(200, 2, 700) < 10 / 700).float()
    config = recipe.Config()
    net = recipe.build(config)
    _, result = net(counts, record=("neurons1.output", "neurons2.output"))
    for spikes in result.record.values():  # the first weights make neurons fire, in a quarter of a recording
        assert 1 < spikes.sum(0).mean() < 10
    torch.nn.functional.cross_entropy(recipe.scores(net, counts, config), torch.tensor([3, 19])).backward()
    assert all(p.grad.abs().max() > 0 for p in net.parameters())
    assert net.body.delay.delay.shape == (512,)
    assert "delay" not in dict(recipe.build(recipe.Config(hidden=40, max_delay=0)).body.named_children())


def test_letters_by_eprop_have_nearly_the_gradient_of_all_steps_at_once():
    recipe, taxels, labels = recipes.get("braille-eprop"), torch.rand(24, 6, 12).cumsum(0) / 24, torch.arange(6)
    found = []
    for settings in ({"piece": 24}, {"piece": 6}, {"piece": 6, "feedback": "random"}, {"method": "bptt"}):
        config = recipe.Config(hidden=30, **settings)
        torch.manual_seed(1)
        net = recipe.build(config)
        torch.manual_seed(2)
        for p in (net.body[0].weight, net.body[1].feedback.weight, net.body[2].weight):
            torch.nn.init.normal_(p, 0.0, 0.3)
        for layer in (net.body[0], net.body[2]):
            torch.nn.init.zeros_(layer.bias)
        loss, outputs = recipe.learn(net, taxels, labels, config)
        assert outputs.argmax(1).tolist() == recipe.scores(net, taxels, config).argmax(1).tolist()
        found.append((loss.item(), net.body[0].weight.grad.flatten()))
    losses, gradients = zip(*found, strict=True)
    assert losses == pytest.approx([losses[0]] * 4)
    close = [torch.cosine_similarity(gradients[0], g, 0).item() for g in gradients]
    assert 0.9 < close[1] < 1 - 1e-6  # the leak of the read-out is cut between pieces
    assert close[2] < 0.5  # random feedback is another direction
    assert close[3] < 1 - 1e-6  # which goes through the recurrent spikes


def test_steps_that_learn_alone_have_parts_of_the_gradient_of_all_of_them():
    recipe, images, labels = recipes.get("fashion-online"), torch.rand(8, 1, 28, 28), torch.arange(8)
    gradients = {}
    for method in ("bptt", "sltt", "ottt"):
        config = recipe.Config(method=method, channels=4, hidden=20, T=4)
        torch.manual_seed(1)
        net = recipe.build(config).double().eval()  # batch norm has other statistics in steps than in all of them
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(4)
        recipe.learn(net, images.double(), labels, config)
        gradients[method] = [p.grad.flatten() for p in net.parameters()]
    last = [gradients[method][-2] for method in gradients]
    torch.testing.assert_close(last[1], last[0])  # of the read-out, which no neuron follows
    torch.testing.assert_close(last[2], last[0])
    # before the last neurons a trace is exact, because their reset passes no gradient; before the others it is closer
    torch.testing.assert_close(gradients["ottt"][-4], gradients["bptt"][-4])
    for place, least in ((-4, 0.5), (3, 0.3)):
        wanted, sltt, ottt = (gradients[method][place] for method in gradients)
        close = [torch.cosine_similarity(wanted, g, 0).item() for g in (sltt, ottt)]
        assert least < close[0] < min(close[1], 1 - 1e-6)


@pytest.mark.slow
def test_spoken_digits_in_their_published_layout(tmp_path):
    write_spoken_digits(tmp_path)
    recipe = recipes.get("shd")
    config = recipe.Config(
        T=12, max_delay=5, hidden=64, epochs=30, batch_size=20, validation=0.0, lr=2e-2, partial=True
    )
    with runs.Run("shd", config, runs.Machine(data_root=str(tmp_path)), out=tmp_path / "run") as done:
        recipe.train(config, done)
    assert done.result["test_accuracy"] > 0.6
    assert done.result["linear_accuracy"] < 0.4  # how often lines fired says nothing of when
    model = sl.models.load(tmp_path / "run" / "model")
    assert model.hidden1[0].delay.shape == (140,)
    net = recipe.build(recipe.Config(delays="synapse"))
    (weights, _), (delays, _) = recipe.optimisers(net, recipe.Config())
    sizes = [[sum(p.numel() for p in group["params"]) for group in o.param_groups] for o in (weights, delays)]
    assert sizes == [[106_496, 1_024], [106_496]]
    without = recipe.Config(delays="none")
    assert [name for name, _ in recipe.build(without).named_parameters() if name.endswith("delay")] == []
    assert len(recipe.optimisers(recipe.build(without), without)) == 1


@pytest.mark.slow
@pytest.mark.skipif(not ROOT, reason="SPIKELOOM_DATA names no folder with spoken digits")
@pytest.mark.parametrize("delays", ["none", "channel"])
def test_recorded_digits_with_and_without_delays(tmp_path, delays):
    """Ten classes, 64 hair cells; after two epochs on 300 recordings better than chance, by the log of the run."""
    recipe = recipes.get("shd")
    config = recipe.Config(
        dataset="fsdd", T=64, delays=delays, hidden=64, epochs=6, batch_size=20, lr=2e-2, max_delay=8, subset=400
    )
    with runs.Run("shd", config, runs.Machine(data_root=ROOT), out=tmp_path) as done:
        recipe.train(config, done)
    weights = sum(p.numel() for name, p in recipe.build(config).named_parameters() if name.endswith("weight"))
    assert weights == 64 * (64 + 64 + 10) + 2 * 64
    assert done.result["test_accuracy"] > 0.3


def test_the_learning_rate_climbs_and_falls_along_half_a_cosine():
    """By hand, for 2 + 4 epochs of two steps: 1/4 to 1 of the highest, then (1 + cos(pi k / 8)) / 2."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    config = cifar10.Config(epochs=6, warmup=2, lr=8.0, weight_decay=0.25)
    optimiser, schedule = cifar10.learning(net, config, steps=2)
    weights, others = optimiser.param_groups
    assert ([len(g["params"]) for g in (weights, others)], weights["weight_decay"], others["weight_decay"]) == (
        [1, 3],
        0.25,
        0.0,
    )
    rates = []
    for _ in range(12):
        rates.append(weights["lr"])
        optimiser.step()
        schedule.step()
    assert rates[:5] == [2.0, 4.0, 6.0, 8.0, 8.0]
    assert rates[8] == pytest.approx(4.0)
    assert rates[6] == pytest.approx(4 + 4 * 0.5**0.5)
    assert weights["lr"] == pytest.approx(0.0)


@pytest.mark.parametrize("activation", ["relu", pytest.param("qcfs", marks=pytest.mark.slow)])
def test_residual_networks_are_trained_and_converted(tmp_path, monkeypatch, activation):
    """Images of one colour for each class."""
    recipe = recipes.get("ann2snn-cifar10")
    labels, draw = torch.arange(200) % 10, torch.Generator().manual_seed(0)
    colours = torch.stack([labels / 5 - 1, 1 - labels / 5, labels % 3 - 1.0], 1)[:, :, None, None]
    sets = tuple(sl.data.Samples(colours + torch.randn(200, 3, 8, 8, generator=draw) / 10, labels) for _ in range(2))
    monkeypatch.setattr(recipe, "data", lambda config, root, **loading: sl.data.loaders(sets, **loading))
    settings = dict(epochs=5, warmup=1, batch_size=20, channels=4, blocks=1, calibration=50, T=8, lr=0.05)
    done = run("ann2snn-cifar10", tmp_path / "run", activation=activation, **settings)
    assert done.result["test_accuracy"] > 0.8
    assert done.result["calibrated_accuracy"] > 0.7
    assert abs(done.result["delta_accuracy"] - done.result["test_accuracy"]) <= 0.05
    assert list(json.loads((tmp_path / "run" / "curves.json").read_text())["calibrated"]) == ["1", "2", "4", "8"]
    assert "7 sites: 7 converted" in (tmp_path / "run" / "conversion.txt").read_text()


def test_a_transformer_is_trained_and_converted(tmp_path):
    pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")
    settings = dict(dataset="digits", patch=4, width=16, heads=2, depth=1, batch_size=32, epochs=4, lr=2e-2)
    done = run("ann2snn-vit", tmp_path / "run", **settings, calibration=100)
    assert done.result["test_accuracy"] > 0.7
    assert abs(done.result["delta_accuracy"] - done.result["test_accuracy"]) < 0.03
    assert "5 sites: 1 converted, 4 by difference" in (tmp_path / "run" / "conversion.txt").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not ROOT, reason="SPIKELOOM_DATA names no folder with MNIST")
def test_a_converted_network_is_trained_on(tmp_path):
    settings = dict(subset=2000, channels=8, epochs=6, ann_epochs=4, lr=1e-2, calibration=100)
    done = run("hybrid-mnist", tmp_path / "run", **settings)
    assert done.result["ann_accuracy"] > 0.7
    assert done.result["test_accuracy"] > done.result["converted_accuracy"] + 0.02
    trained = runs.load(tmp_path / "run")
    neurons = [m for m in trained.net.modules() if isinstance(m, sl.IF)]
    assert [float(m.v_threshold) for m in neurons] == [1.0, 1.0, 1.0]
    with pytest.raises(runs.ConfigError, match="ann_epochs must be less than epochs"):
        run("hybrid-mnist", tmp_path / "other", epochs=2)


@pytest.mark.skipif(not ROOT, reason="SPIKELOOM_DATA names no folder with MNIST and Fashion-MNIST")
@pytest.mark.parametrize(
    ("name", "settings", "least"),
    [
        ("mnist-mlp", dict(T=8, subset=2000, epochs=2, lr=5e-3), 0.7),
        ("fashion-csnn", dict(T=2, subset=2000, epochs=3, channels=6, hidden=64, lr=5e-3), 0.6),
        ("mnist-latency", dict(subset=4000, epochs=2, hidden=100, lr=5e-3), 0.6),
        ("mnist-sparse", dict(T=2, subset=2000, epochs=2, channels=4, hidden=64, density=0.05, lr=5e-3), 0.7),
        pytest.param(
            "fashion-online",
            dict(subset=2000, epochs=2, channels=8, hidden=64, T=4, lr=5e-3),
            0.65,
            marks=pytest.mark.slow,
        ),
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
@pytest.mark.skipif(not ROOT, reason="SPIKELOOM_DATA names no folder with Braille letters")
def test_letters_are_learned_by_eprop(tmp_path):
    assert run("braille-eprop", tmp_path / "run", epochs=5, hidden=64).result["test_accuracy"] > 0.4


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


@pytest.mark.parametrize("name", ["braille-eprop", "fashion-online", "diehl-cook"])
def test_what_exchanges_no_gradients_runs_in_one_process(tmp_path, name):
    recipe = recipes.get(name)
    with runs.Run(name, recipe.Config(), runs.Machine(), out=tmp_path / "run") as run:
        run.processes.world = 2
        try:
            with pytest.raises(runs.ConfigError, match=f"{name} runs in one process, got 2"):
                recipe.train(run.config, run)
        finally:
            run.processes.world = 1


@pytest.mark.parametrize(
    "name", ["braille-eprop", "fashion-online", "diehl-cook", "shd-eventprop", "yin-yang", "mnist-tempotron"]
)
def test_what_knows_no_mixed_precision_says_so(tmp_path, name):
    recipe = recipes.get(name)
    given = runs.Run(name, recipe.Config(amp="bfloat16"), runs.Machine(), out=tmp_path / "run")
    with given as run, pytest.raises(runs.ConfigError, match=f"amp must be off for {name}, got bfloat16"):
        recipe.train(run.config, run)


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
