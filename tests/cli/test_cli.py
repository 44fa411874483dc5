"""The command line as a user types it: help, options, files, exit status, no traceback."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("typer", reason="the extra 'cli' is not installed")
pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")

from spikeloom import cli, recipes
from spikeloom._extras import install
from spikeloom.cli import evaluate
from spikeloom.native import build as kernel_build
from spikeloom.runs import lock

SHORT = ["--epochs", "1", "--T", "2", "--channels", "4"]


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


def spikeloom(capsys, *arguments):
    """Status, output and errors of a command."""
    status = cli.main(list(map(str, arguments)))
    done = capsys.readouterr()
    return status, done.out, done.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    assert cli.main(["train", "digits", *SHORT, "--epochs", "2", "--validation", "0.1", "--out", str(out)]) == 0
    return out


def test_help(capsys):
    status, out, _ = spikeloom(capsys, "--help")
    assert status == 0
    for word in ("train", "eval", "convert", "data", "info", "list"):
        assert word in out
    status, out, _ = spikeloom(capsys, "train", "--help")
    for name in recipes.NAMES:
        assert name in out
    status, out, _ = spikeloom(capsys, "train", "digits", "--help")
    options = "epochs lr T channels resume device amp graph seed seeds data-root workers backend out save-every subset"
    for option in options.split():
        assert f"--{option} " in out
    assert "[default: 0.004]" in out
    assert spikeloom(capsys, "--version")[1].strip() == "0.1.0"


def test_every_recipe_has_help_and_nothing_is_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in recipes.NAMES:
        status, out, _ = spikeloom(capsys, "train", name, "--help")
        assert status == 0
        assert "--batch-size" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["train", "digit"], 2, "'digit' is no recipe, config file (.toml, .yaml) or run folder; did you mean digits?"),
        (["train", "digits", "--epoch", "1"], 2, "No such option: --epoch"),
        (["train", "digits", "--epochs", "0"], 2, "--epochs must be at least 1, got 0"),
        (["train", "digits", "--lr", "x"], 2, "Invalid value for '--lr'"),
        (
            ["train", "digits", "--amp", "bfloat"],
            2,
            "--amp must be one of off, bfloat16, float16, got 'bfloat'; did you mean 'bfloat16'?",
        ),
        (["train", "digits", "--backend", "cuda"], 2, "--backend must be one of auto, eager, c, triton, got 'cuda'"),
        (["train", "digits", "--device", "abc"], 1, "--device 'abc' cannot be used here"),
        (["train", "digits", "--seeds", "0"], 2, "--seeds must be at least 1, got 0"),
        (["train", "digits", "--subset", "9999"], 1, "--subset must be from 1 to the 1,437 training samples, got 9999"),
        (["train", "mnist-mlp", "--data-root", "nowhere"], 1, "data set mnist: train-images-idx3-ubyte"),
        (["train", "none.toml"], 2, "none.toml: cannot be read"),
        (["train", "x" * 5000], 2, "cannot be read: File name too long"),
        (["train", "digits", "--lr", "inf"], 2, "--lr must be finite, got inf"),
        (["train", "digits", "--validation", "nan"], 2, "--validation must be finite, got nan"),
        (["train", "digits", "--epochs", "7" * 5000], 2, "Invalid value for '--epochs'"),
        (["train", "digits", "--epochs", "7" * 4000], 2, "got a whole number of about 3,"),
        (["train", "digits", "--seed", str(2**64)], 2, "--seed must be at most 18446744073709551615"),
        (
            ["train", "digits", "--seed", str(2**64 - 1), "--seeds", "2"],
            2,
            "--seed must be at most 18446744073709551615",
        ),
        (["train", "digits", "--batch-size", str(2**63)], 2, "--batch-size must be at most 9223372036854775807"),
        (["train", "digits", "--batch-size", "-1"], 2, "--batch-size must be at least 1, got -1"),
        (["train", "digits", "--channels", str(10**15)], 1, "this does not fit into memory"),
        (["train", "digits", "--out", "x" * 5000], 2, "no folder can be there: File name too long"),
        (["train", "digits", "--graph", "--device", "cpu"], 2, "--graph needs a CUDA device, whose steps are launched"),
        (["train", "digits", "--save-every", "0"], 2, "--save-every must be at least 1, got 0"),
        (["train", "braille", "--tau-max", "1"], 2, "--tau-max must be more than 2, got 1.0"),
        (
            ["train", "cifar10", "--model", "sew_resnet17"],
            2,
            "--model has no 'sew_resnet17'; the nearest are sew_resnet1",
        ),
        (["eval", "x" * 5000], 1, "there is no such run folder"),
        (["eval", "nowhere"], 1, "there is no such run folder"),
        (["eval", "."], 1, "no run folder, it has no config.toml"),
        (["list", "everything"], 2, "list knows recipes, neurons, surrogates, data, models and all; got 'everything'"),
        (["nothing"], 2, "No such command 'nothing'"),
    ],
)
def test_user_errors_are_messages(capsys, tmp_path, monkeypatch, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    got, out, err = spikeloom(capsys, *arguments)
    assert (got, message in err) == (status, True), err
    assert "Traceback" not in out + err
    assert len(err) < 1500


def test_config_files(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text('recipe = "digits"\nepochs = 1\nT = 2\nchannels = 4\nworkers = 0\n')
    assert spikeloom(capsys, "train", "mine.toml", "--lr", "0.002")[0] == 0
    described = Path("runs/mine/config.toml").read_text()
    assert "lr = 0.002" in described  # options win over the file
    assert "channels = 4" in described
    assert "[default: 4]" in spikeloom(capsys, "train", "mine.toml", "--help")[1]
    Path("packed.toml").write_text('recipe = "fashion-csnn"\npacked = true\ndata_root = "nowhere"\n')
    assert spikeloom(capsys, "train", "packed.toml", "--no-packed")[0] == 1  # known, though there are no data
    for text, message in (
        ('recipe = "digits"\nepoch = 1', "mine.toml: there is no setting 'epoch'; did you mean 'epochs'?"),
        ('recipe = "digits"\nepochs = "1"', "mine.toml: epochs must be a whole number, got '1'"),
        ("epochs = 1", 'mine.toml: has to name its recipe, as in recipe = "digits"'),
        ('recipe = "digit"', "there is no recipe 'digit'"),
    ):
        Path("mine.toml").write_text(text)
        status, _, err = spikeloom(capsys, "train", "mine.toml", "--out", "other")
        assert (status, message in err) == (2, True), err
        assert not Path("other").exists()


def test_a_run_can_be_repeated_from_its_folder(capsys, trained, tmp_path):
    """Its config.toml alone is enough."""
    (tmp_path / "again.toml").write_text((trained / "config.toml").read_text())
    assert spikeloom(capsys, "train", tmp_path / "again.toml", "--out", tmp_path / "run")[0] == 0
    same = [(folder / "weights.safetensors").read_bytes() for folder in (trained, tmp_path / "run")]
    assert same[0] == same[1]
    status, _, err = spikeloom(capsys, "train", trained)
    assert (status, "holds a run; go on with it by --resume" in err) == (1, True)
    status, out, _ = spikeloom(capsys, "train", trained, "--resume")
    assert (status, "finished: test accuracy" in out, "goes on" in out) == (0, True, False)
    steps = 2 * 27  # 1,293 images by 48
    assert f"is finished after 2 epochs and {steps} steps; to train on, give --epochs N with more than 2" in out
    status, _, err = spikeloom(capsys, "train", trained, "--resume", "--lr", "0.1")
    assert (status, "lr was 0.004 when the run began, and is now 0.1" in err) == (2, True)


def test_seeds(capsys, tmp_path):
    status, out, _ = spikeloom(
        capsys, "train", "digits", *SHORT, "--seeds", "2", "--seed", "3", "--out", tmp_path / "r"
    )
    assert status == 0
    values = [json.loads((tmp_path / "r" / f"seed-{k}" / "result.json").read_text())["test_accuracy"] for k in (3, 4)]
    a, b = (100 * v for v in values)
    deviation = abs(a - b) / 2**0.5
    line = f"test accuracy: mean {(a + b) / 2:.2f} %, standard deviation {deviation:.2f} ({a:.2f}, {b:.2f})"
    assert line in out
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert (summary["recipe"], summary["seeds"]) == ("digits", [3, 4])
    found = summary["figures"]["test_accuracy"]
    assert found == {"mean": sum(values) / 2, "deviation": pytest.approx(deviation / 100), "values": values}
    splits = [json.loads((tmp_path / "r" / f"seed-{k}" / "split.json").read_text()) for k in (3, 4)]
    assert splits[0]["train"]["sha256"] != splits[1]["train"]["sha256"]  # each seed has a split of its own


def test_weights_that_were_trained_on_the_test_samples_are_refused(capsys, trained, tmp_path):
    seed = json.loads((trained / "split.json").read_text())["seed"]
    for source in (trained, trained / "weights.safetensors", trained / "checkpoint.pt"):
        status, _, err = spikeloom(
            capsys, "train", "digits", *SHORT, "--init-from", source, "--seed", seed + 1, "--out", tmp_path / "other"
        )
        assert status == 2
        assert "test samples of this run were among the training samples of" in err
        assert f"use --seed {seed}" in err
        assert not (tmp_path / "other").exists()
    several = ("--init-from", trained, "--seed", seed, "--seeds", "2", "--out", tmp_path / "several")
    status, _, err = spikeloom(capsys, "train", "digits", *SHORT, *several)
    assert (status, f"use --seed {seed}" in err, (tmp_path / "several").exists()) == (2, True, False)
    status, out, _ = spikeloom(
        capsys, "train", "digits", *SHORT, "--init-from", trained, "--seed", seed, "--out", tmp_path / "same"
    )
    assert (status, "begins with the weights of" in out, "note: validation" in out) == (0, True, False)
    for share, noted in (("0.1", False), ("0.2", True)):  # the weights were trained with a tenth held out
        status, out, _ = spikeloom(
            capsys, "train", "digits", *SHORT, "--init-from", trained, "--validation", share, "--out", tmp_path / share
        )
        assert (status, "note: validation samples of this run were among the training" in out) == (0, noted)


def test_weights_of_another_recipe_are_one_sentence(capsys, trained, tmp_path, recwarn):
    for source in ("weights.safetensors", "checkpoint.pt"):
        status, _, err = spikeloom(
            capsys, "train", "regression", "--init-from", trained / source, "--out", tmp_path / "other"
        )
        said = f"error: {trained / source} is of a run of recipe digits, not regression, and its weights do not fit"
        assert (status, err.startswith(said), len(err.splitlines())) == (1, True, 1)
    assert not [str(w.message) for w in recwarn if "constants of neurons" in str(w.message)]


def test_a_config_file_repeats_a_run_that_began_with_weights(capsys, trained, tmp_path):
    one, again = tmp_path / "one", tmp_path / "again"
    assert spikeloom(capsys, "train", "digits", *SHORT, "--init-from", trained, "--out", one)[0] == 0
    status, out, _ = spikeloom(capsys, "train", one / "config.toml", "--out", again)
    assert (status, f"begins with the weights of {trained}" in out) == (0, True)
    assert (one / "weights.safetensors").read_bytes() == (again / "weights.safetensors").read_bytes()
    assert (one / "config.toml").read_text() == (again / "config.toml").read_text()
    recorded = json.loads((again / "environment.json").read_text())["init_from"]
    digest = hashlib.sha256((trained / "weights.safetensors").read_bytes()).hexdigest()
    assert recorded == {"file": str(trained / "weights.safetensors"), "sha256": digest}
    assert spikeloom(capsys, "eval", again)[0] == 0
    for more in ([one], ["digits", *SHORT, "--out", one], ["digits", *SHORT, "--init-from", trained, "--out", one]):
        assert spikeloom(capsys, "train", *more, "--resume", "--epochs", "2")[0] == 0  # whose own weights go on
        assert f'init_from = "{trained}"' in (one / "config.toml").read_text()
    status, _, err = spikeloom(capsys, "train", one, "--resume", "--init-from", again)
    assert (status, f"init_from was '{trained}' when the run began" in err) == (2, True)
    (tmp_path / "odd.toml").write_text('recipe = "digits"\ninit_from = 3\n')
    status, _, err = spikeloom(capsys, "train", tmp_path / "odd.toml")
    assert (status, "odd.toml: init_from must name a run or weights file, got 3" in err) == (2, True)


def test_eval_gives_the_figure_of_the_training(capsys, trained):
    recorded = json.loads((trained / "result.json").read_text())["test_accuracy"]
    status, out, _ = spikeloom(capsys, "eval", trained)
    assert status == 0
    assert f"accuracy {100 * recorded:.2f} % on 360 test samples" in out
    found = json.loads((trained / "eval-test.json").read_text())
    assert found["accuracy"] == recorded
    counts = torch.tensor(found["confusion"])
    assert counts.sum().item() == 360
    assert counts.diagonal().sum().item() / 360 == pytest.approx(recorded)
    assert (trained / "confusion-test.png").read_bytes().startswith(b"\x89PNG")
    for file, split, n in (("checkpoint.pt", "validation", 144), ("weights.safetensors", "train", 1293)):
        status, out, _ = spikeloom(capsys, "eval", trained / file, "--split", split, "--out", trained / "more")
        assert (status, f"on {n:,} {split} samples" in out) == (0, True)
        assert (trained / "more" / f"eval-{split}.json").exists()


def test_figures_of_classes_by_hand():
    counts = torch.tensor([[8, 2, 0], [1, 3, 0], [5, 1, 0]])
    found = evaluate.by_class(counts, ("a", "b", "never"))
    assert found["a"] == {"precision": 8 / 14, "recall": 0.8, "f1": pytest.approx(2 * 8 / 24), "samples": 10}
    assert found["b"] == {"precision": 0.5, "recall": 0.75, "f1": pytest.approx(0.6), "samples": 4}
    assert found["never"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "samples": 6}


def test_a_folder_in_use_is_left_alone(capsys, trained, tmp_path):
    with lock.held(trained):
        for arguments in (
            ("train", trained), ("train", trained, "--resume"), ("train", trained, "--overwrite"), ("eval", trained),
        ):  # fmt: skip
            status, _, err = spikeloom(capsys, *arguments)
            assert (status, "is in this folder; wait until it has ended, or choose another one" in err) == (2, True), (
                err
            )
            assert "Traceback" not in err
        assert spikeloom(capsys, "eval", trained, "--out", tmp_path)[0] == 0
        assert not (tmp_path / ".lock").exists()
    with lock.held(tmp_path):  # of several seeds each has a folder of its own
        seeds = ("train", "digits", *SHORT, "--seeds", "2", "--out", tmp_path.parent / "seeds")
        assert spikeloom(capsys, *seeds)[0] == 0
    with lock.held(tmp_path.parent / "seeds" / "seed-1"):
        status, _, err = spikeloom(capsys, *seeds, "--overwrite")
        assert (status, "seed-1: a run (process" in err) == (2, True), err


def test_eval_takes_a_checkpoint_of_its_own_run_only(capsys, trained, tmp_path):
    (tmp_path / "config.toml").write_text((trained / "config.toml").read_text().replace("seed = 0", "seed = 5"))
    (tmp_path / "checkpoint.pt").write_bytes((trained / "checkpoint.pt").read_bytes())
    status, _, err = spikeloom(capsys, "eval", tmp_path)
    assert (status, "checkpoint.pt: seed was 0 when the run began, and is now 5" in err) == (2, True), err


def test_eval_says_what_is_wrong(capsys, trained, tmp_path):
    for arguments, status, message in (
        ((trained, "--out", trained / "config.toml"), 1, "config.toml is a file; give a folder"),
        ((trained, "--out", trained / "config.toml" / "x"), 1, "no folder can be made there: Not a directory"),
        ((trained, "--device", "meta"), 1, "--device 'meta' cannot be used here"),
        ((trained, "--split", "val"), 2, "--split must be one of test, validation, train; got 'val'"),
        ((trained / "none.pt",), 1, "there is no such run folder, checkpoint or weights file"),
    ):
        got, _, err = spikeloom(capsys, "eval", *arguments)
        assert (got, message in err) == (status, True), err
    (tmp_path / "config.toml").write_text('recipe = "digits"\nchannels = 5\n')
    status, _, err = spikeloom(capsys, "eval", tmp_path)
    assert (status, "has neither weights.safetensors nor checkpoint.pt" in err) == (1, True)
    for name, content, message in (
        ("weights.safetensors", (trained / "weights.safetensors").read_bytes(), "the weights do not fit the network"),
        ("weights.safetensors", b"short", "damaged or no weights file"),
        ("checkpoint.pt", b"short", "damaged or no checkpoint"),
    ):
        (tmp_path / name).write_bytes(content)
        status, _, err = spikeloom(capsys, "eval", tmp_path / name)
        assert (status, message in err) == (1, True), err
    (trained.parent / "plain").mkdir()
    no_validation = trained.parent / "plain" / "config.toml"
    no_validation.write_text('recipe = "digits"\nT = 2\nchannels = 4\n')
    (trained.parent / "plain" / "weights.safetensors").write_bytes((trained / "weights.safetensors").read_bytes())
    status, _, err = spikeloom(capsys, "eval", trained.parent / "plain", "--split", "validation")
    assert (status, "the run held no validation samples out; choose --split test or train" in err) == (2, True)


def test_info_and_clearing_the_cache(capsys, tmp_path, monkeypatch):
    if kernel_build.compiler():
        kernel_build._tools()  # which keeps a file of its own, in the folder in force when it is first asked
    monkeypatch.setenv("SPIKELOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SPIKELOOM_DATA", str(tmp_path))
    (tmp_path / "cache").mkdir(mode=0o700)
    for name in (f"{'0a' * 16}.so", f"{'0a' * 16}.sha256", f"{'1b' * 16}.program"):
        (tmp_path / "cache" / name).write_bytes(bytes(1 << 19))
    (tmp_path / "cache" / "mine.txt").write_text("mine")
    status, out, _ = spikeloom(capsys, "info")
    assert status == 0
    assert torch.__version__ in out
    assert "3 files, 1.5 MB" in out
    assert "data: mnist" in out
    status, out, _ = spikeloom(capsys, "info", "--clear-cache")
    assert (status, "removed 3 files" in out) == (0, True)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["mine.txt"]
    monkeypatch.setattr("spikeloom.native.build._toolchain", _no_compiler)
    assert "backends" in spikeloom(capsys, "info")[1]
    assert "eager, c" not in spikeloom(capsys, "info")[1]


def _no_compiler():
    from spikeloom.native.build import BuildError

    raise BuildError("no C compiler (cc, gcc or clang) was found")


def test_list(capsys):
    _, out, _ = spikeloom(capsys, "list")
    for name in (*recipes.NAMES, "PLIF", "Synaptic", "ATan", "fashion-mnist", "braille"):
        assert name in out
    _, out, _ = spikeloom(capsys, "list", "neurons")
    assert "LIF" in out
    assert "braille" not in out
    _, out, _ = spikeloom(capsys, "list", "models")
    assert "13,690 parameters, 1 x 8 x 8, 10 classes; weights: digits" in out
    assert "60,192,808 parameters" in out[out.index("sew_resnet152") :].split("sew_resnext50")[0]
    assert "braille" not in out


def test_data_files(capsys, tmp_path):
    """info, convert and what goes wrong, with numbers by hand."""
    (tmp_path / "a.txt").write_text("240 180\n1000 3 4 1\n2500 5 6 0\n501000 7 8 1\n")
    status, out, _ = spikeloom(capsys, "data", "info", tmp_path / "a.txt", "--plot", tmp_path / "a.png")
    assert status == 0
    rows = {line.split(None, 1)[0]: line.split(None, 1)[1] for line in out.splitlines()}
    assert rows.pop("picture") == str(tmp_path / "a.png")
    assert rows == {
        "format": "lines of t x y p",
        "sensor": "180 x 240",
        "events": "3",
        "on": "66.7 %",
        "from": "1,000 us",
        "duration": "0.500000 s",
        "rate": "6 events/s",
        "order": "by time",
    }
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert spikeloom(capsys, "data", "info", tmp_path / "a.txt", "--plot", tmp_path / "a.gif")[0] == 0
    assert (tmp_path / "a.gif").read_bytes().startswith(b"GIF")
    status, out, _ = spikeloom(capsys, "data", "convert", tmp_path / "a.txt", tmp_path / "a.dat")
    assert (status, out.split(": ")[1]) == (0, f"3 events, {(tmp_path / 'a.dat').stat().st_size} bytes\n")
    assert "Prophesee and ATIS DAT" in spikeloom(capsys, "data", "info", tmp_path / "a.dat")[1]
    status, _, err = spikeloom(capsys, "data", "convert", tmp_path / "a.txt", tmp_path / "a.dat")
    assert (status, "--overwrite replaces it" in err) == (1, True)
    assert spikeloom(capsys, "data", "convert", tmp_path / "a.txt", tmp_path / "a.dat", "--overwrite")[0] == 0
    (tmp_path / "cut.dat").write_bytes((tmp_path / "a.dat").read_bytes()[:-3])
    status, _, err = spikeloom(capsys, "data", "info", tmp_path / "cut.dat")
    assert (status, "byte" in err, "the file ends 5 bytes into a record of 8" in err) == (1, True, True)
    status, out, _ = spikeloom(capsys, "data", "info", tmp_path / "cut.dat", "--skip-damage")
    assert (status, "5 bytes left out" in out) == (0, True)
    status, _, err = spikeloom(capsys, "data", "info", tmp_path / "a.txt", "--size", "big")
    assert (status, "--size is HxW" in err) == (2, True)
    assert spikeloom(capsys, "data", "convert", tmp_path / "a.txt", tmp_path / "a.mp4")[0] == 1


def test_help_is_text_without_markup(capsys):
    for arguments in (("train",), *(("train", name) for name in recipes.NAMES), ("eval",), ("data",), ()):
        status, out, _ = spikeloom(capsys, *arguments, "--help")
        assert (status, "``" in out, "\\[" in out) == (0, False, False), arguments


def test_what_cannot_be_written_is_one_line(capsys, tmp_path):
    (tmp_path / "events.txt").write_text("0 1 1 1\n")
    target = tmp_path / "events.txt" / "out.npz"
    status, out, err = spikeloom(capsys, "data", "convert", tmp_path / "events.txt", target, "--columns", "t x y p")
    assert (status, out) == (1, "")
    assert err == f"error: {target}: cannot be written: Not a directory\n"


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--columns", "q"], 2, "error: --columns must name t and x, "),
        (["--index", "-1"], 2, "error: --index must be whole, got -1"),
        (["--unit", "h"], 2, "error: --unit is s, ms, us or ns; got 'h'"),
        (["--size", "3y4"], 2, "error: --size is HxW"),
        (["--format", "nope"], 1, "there is no event format 'nope'"),
        ([], 1, "(if the columns are others, --columns says which): '1 2 9 100'; --skip-damage reads what is intact"),
        (["--columns", "x y _ t", "--unit", "us", "--plot", "a.zzz"], 1, "error: --plot a.zzz: cannot be written: "),
    ],
)
def test_options_of_files_are_named_as_they_are_typed(capsys, tmp_path, monkeypatch, options, status, message):
    monkeypatch.chdir(tmp_path)
    Path("e.txt").write_text("1 2 9 100\n3 4 9 200\n")
    got, _, err = spikeloom(capsys, "data", "info", "e.txt", *options)
    assert (got, message in err) == (status, True), err


def test_a_set_that_cannot_be_fetched_leaves_nothing_behind(capsys, tmp_path, monkeypatch):
    def nobody(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    monkeypatch.chdir(tmp_path)
    for arguments in (("data", "fetch", "mnist"), ("train", "mnist-mlp"), ("train", "mnist-mlp", "--seeds", "2")):
        status, _, err = spikeloom(capsys, *arguments, "--data-root", "data")
        assert status == 1
        assert ("is not resolved (Name or service not known)" in err) == (arguments[0] == "data"), err
        assert not list(tmp_path.iterdir())


def test_data_sets(capsys, tmp_path):
    status, out, _ = spikeloom(capsys, "data", "list", "--data-root", tmp_path)
    assert status == 0
    for name in ("n-mnist", "dvs128-gesture", "1,176 + 288 samples", "75,466 + 9,981 + 20,382 samples"):
        assert name in out
    status, _, err = spikeloom(capsys, "data", "fetch", "dvs-lip", "--data-root", tmp_path)
    assert (status, "Google Drive gives it to a browser only. Put DVS-Lip.zip into" in err) == (1, True)
    status, _, err = spikeloom(capsys, "data", "verify", "n-cars", "--data-root", tmp_path)
    assert (status, "data set n-cars: *train/cars/*.dat" in err) == (1, True)
    status, _, err = spikeloom(capsys, "data", "verify", "n-dogs")
    assert (status, "there is no data set 'n-dogs'" in err) == (1, True)
    assert spikeloom(capsys, "data", "verify", "digits")[:2] == (
        0,
        "digits: all files are there and as they should be\n",
    )


def test_ctrl_c_in_a_process_of_its_own(tmp_path):
    """The status is that of the signal, and --resume goes on."""
    command = [sys.executable, "-m", "spikeloom", "train", "digits", "--T", "2", "--channels", "4", "--epochs", "400"]
    command += ["--out", str(tmp_path / "run"), "--resume"]
    for number, status, said in ((signal.SIGINT, 130, "into "), (signal.SIGTERM, 143, "goes on in epoch")):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = process.stdout.readline()
        assert said in line
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "metrics.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == status, err
        assert "stopped and saved after" in err
        assert "Traceback" not in err


def test_torchrun(tmp_path):
    """Two processes on the CPU: one talks, one writes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "spikeloom", "train", "digits", *SHORT, "--out", str(tmp_path / "run"), "--device", "cpu"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished: test accuracy") == 1
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 <= result["test_accuracy"] <= 1
    assert round(result["test_accuracy"] * 360, 6) == round(result["test_accuracy"] * 360)  # a count of 360 samples


def test_without_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "typer", None)
    assert spikeloom(capsys, "info") == (
        2,
        "",
        f"the command line needs typer; install the extra: {install('cli')}\n",
    )
