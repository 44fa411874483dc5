"""Runs that are stopped, killed, damaged and continued. The recipe is a small one with noise of every kind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom import data, runs
from spikeloom.runs import files

pytest.importorskip("safetensors", reason="the extra 'cli' is not installed")

SMALL = '''
from dataclasses import dataclass
import torch
from torch import nn
import spikeloom as sl
from spikeloom import data, runs


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Small."""

    epochs: int = 3
    batch_size: int = 8
    schedule_each_epoch: int = runs.option(1, "whether", minimum=0)


class Noise(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn(x.shape)


def samples(seed):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (60,), generator=g)
    return data.Samples(nn.functional.one_hot(y, 5).float() + 0.2 * torch.rand(60, 5, generator=g), y,
                        classes=("a", "b", "c"), transform=Noise(), seed=seed)


def load(config, **loading):
    return data.loaders((samples(1), samples(2)), **loading)


def measures(net, x, y, config):
    return {"accuracy": net(x, repeat=4).mean(0).argmax(-1) == y}


def train(config, run, spy=lambda run: None):
    loaders = run.load(load)
    hidden = nn.Linear(5, 16), nn.BatchNorm1d(16), sl.PLIF(shape=16), nn.Dropout(0.3)
    net = run.place(sl.Network(*hidden, nn.Linear(16, 3), sl.LI()))
    optimiser = torch.optim.Adam(net.parameters(), lr=config.lr)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.9)
    run.keep(net=net, optimiser=optimiser, schedule=schedule)
    for _ in run.epochs():
        for x, y in run.steps(loaders.train):
            spy(run)
            x = x + 0.1 * torch.randn(x.shape)
            loss = sl.loss.rate_cross_entropy(net(x, repeat=4), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            run.log(len(y), loss=loss)
        schedule.step()
        run.report(**run.measure(net, loaders.test, measures, "test"))
    run.finish(net, **run.measure(net, loaders.test, measures, "test"))
'''
small = {}
exec(compile(SMALL, "small.py", "exec"), small)
Config, train = small["Config"], small["train"]


def go(out, config=None, machine=None, spy=lambda run: None, **options):
    with runs.Run("small", config or Config(), machine, out=out, **options) as run:
        train(run.config, run, spy)
    return run


def at(step, number):
    """Sends a signal in the middle of a step."""

    def spy(run):
        if run.step == step:
            signal.raise_signal(number)

    return spy


def outcome(out):
    """All that a run says, but for the time it took."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("seconds")
    result = json.loads((out / "result.json").read_text())
    result.pop("seconds")
    return rows, result, (out / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    go(out)
    return out


def test_the_folder_says_everything(whole, capsys):
    rows, result, _ = outcome(whole)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert result["test_accuracy"] == rows[-1]["test_accuracy"]
    assert (result["steps"], result["seed"]) == (24, 0)  # 3 epochs of 60 samples by 8
    table = (whole / "metrics.csv").read_text().splitlines()
    assert table[0] == "epoch,loss,test_accuracy,seconds"
    assert float(table[3].split(",")[1]) == rows[2]["loss"]
    config = runs.read_file(whole / "config.toml")
    assert (config["recipe"], config["epochs"], config["seed"], config["lr"]) == ("small", 3, 0, 1e-3)
    environment = json.loads((whole / "environment.json").read_text())
    assert environment["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert environment["threads"] == torch.get_num_threads()
    assert environment["machine"]["save_every"] == 1000
    assert set(environment["git"]) == {"run from", "spikeloom"}
    split = json.loads((whole / "split.json").read_text())
    assert split["train"]["samples"] == 60


def test_the_loss_is_the_mean_over_samples(tmp_path):
    losses = []

    def spy(run):
        losses.append(dict(run._sums).get("loss", (0.0, 0)))

    run = go(tmp_path / "run", Config(epochs=1), spy=spy)
    counts = [n for _, n in losses]
    assert counts == [0, 8, 16, 24, 32, 40, 48, 56]
    total, n = losses[-1]
    first = float(losses[1][0]) / 8
    assert run.history[0]["loss"] != pytest.approx(first)
    assert abs(run.history[0]["loss"] * 60 - float(total)) < 60  # the last four samples are in it
    assert n == 56


@pytest.mark.parametrize(
    ("step", "number"),  # first of all, within an epoch, last of an epoch, last of all
    [(0, signal.SIGINT), (10, signal.SIGTERM), (15, signal.SIGINT), (23, signal.SIGTERM)],
)
def test_a_stopped_run_goes_on_bit_by_bit(whole, tmp_path, number, step, capsys):
    before = signal.getsignal(number)
    with pytest.raises(runs.Stopped) as stopped:
        go(tmp_path / "run", spy=at(step, number))
    assert stopped.value.signal == number
    assert signal.getsignal(number) is before
    assert f"saved after {step + 1} steps" in str(stopped.value)
    torch.manual_seed(99)  # another process has other generators
    run = go(tmp_path / "run", resume=True)
    assert run.step == 24
    assert outcome(tmp_path / "run") == outcome(whole)
    assert f"after {step + 1} steps" in capsys.readouterr().out


def test_stopping_while_measuring_does_not_wait(whole, tmp_path):
    measures = small["measures"]

    def interrupt(net, x, y, config):
        signal.raise_signal(signal.SIGTERM)
        return measures(net, x, y, config)

    small["measures"] = interrupt
    try:
        with pytest.raises(runs.Stopped):
            go(tmp_path / "run")
    finally:
        small["measures"] = measures
    assert not (tmp_path / "run" / "metrics.csv").exists()  # the epoch's row comes after it
    go(tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(whole)


def test_workers_change_nothing(whole, tmp_path):
    with pytest.raises(runs.Stopped):
        go(tmp_path / "run", machine=runs.Machine(workers=1), spy=at(10, signal.SIGINT))
    go(tmp_path / "run", machine=runs.Machine(workers=2), resume=True)
    assert outcome(tmp_path / "run") == outcome(whole)


def script(tmp_path, body):
    file = tmp_path / "script.py"
    file.write_text(SMALL + textwrap.dedent(body))
    return subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=False)


def test_killed_in_the_middle_of_a_save(whole, tmp_path, capsys):
    out = tmp_path / "run"
    done = script(
        tmp_path,
        f"""
        import os, signal
        from pathlib import Path
        from spikeloom.runs import files
        sync, torch_threads = os.fsync, torch.set_num_threads({torch.get_num_threads()})

        def killed(handle):
            name = os.readlink(f"/proc/self/fd/{{handle}}")
            if name.endswith("checkpoint.pt.partial") and run.step == 14:
                os.truncate(name, os.path.getsize(name) // 2)  # half of it is on the disk
                os.kill(os.getpid(), signal.SIGKILL)
            sync(handle)

        files.os.fsync = killed
        with runs.Run("small", Config(), runs.Machine(save_every=2), out=Path({str(out)!r})) as run:
            train(run.config, run)
        """,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (out / ".checkpoint.pt.partial").exists()
    assert runs.load_checkpoint(out / "checkpoint.pt")["step"] == 12  # at most save_every steps are lost
    go(out, resume=True)
    assert "goes on in epoch 2 after 12 steps" in capsys.readouterr().out
    assert outcome(out) == outcome(whole)
    assert not (out / ".checkpoint.pt.partial").exists()


def test_a_full_disk_stops_the_run_and_keeps_the_checkpoint(whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if not shutil.which("unshare"):
        pytest.skip("unshare is not installed: no small disk can be made")
    file = tmp_path / "script.py"
    file.write_text(
        SMALL
        + textwrap.dedent(f"""
        import sys
        from pathlib import Path
        try:
            with runs.Run("small", Config(), runs.Machine(save_every=2), out=Path({str(disk)!r}) / "run") as run:
                def spy(run):
                    if run.step == 5:  # somebody else fills the disk
                        with Path({str(disk)!r}, "other").open("wb", buffering=0) as other:
                            try:
                                while True:
                                    other.write(bytes(4096))
                            except OSError:
                                pass
                train(run.config, run, spy)
        except runs.UserError as problem:
            kept = runs.load_checkpoint(Path({str(disk)!r}) / "run" / "checkpoint.pt")["step"]
            print("step", kept, [p.name for p in (Path({str(disk)!r}) / "run").iterdir() if "partial" in p.name])
            sys.exit(str(problem))
        """)
    )
    mount = f"mount -t tmpfs -o size=400k none {disk} && exec {sys.executable} {file}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, text=True, check=False)
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 1, done.stderr
    assert "No space left on device; checkpoint.pt is as it was before" in done.stderr
    assert "step 4 []" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    files.write(file, "old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(
        runs.WriteError, match=r"a\.txt could not be written: No space left .*; a\.txt is as it was before"
    ):
        files.write(file, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert file.read_text() == "old"


def test_damaged_checkpoints(whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    path = out / "checkpoint.pt"
    good = path.read_bytes()
    middle = good.index(torch.load(path, weights_only=True)["parts"]["net"]["body.0.weight"].numpy().tobytes())
    for bad, message in (
        (good[: len(good) // 2], "damaged or no checkpoint"),
        (b"", "damaged or no checkpoint"),
        (good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :], "damaged"),  # one bit of one weight
    ):
        path.write_bytes(bad)
        with pytest.raises(runs.CheckpointError, match=f"checkpoint.pt: {message}.*restore it from a copy, or start"):
            go(out, resume=True)
    torch.save({"format": 99}, path)
    with pytest.raises(runs.CheckpointError, match="format 99 is not 1"):
        go(out, resume=True)
    torch.save([1], path)
    with pytest.raises(runs.CheckpointError, match="expected a dictionary, got list"):
        go(out, resume=True)
    with pytest.raises(runs.CheckpointError, match="there is no checkpoint"):
        runs.load_checkpoint(out / "none.pt")


def test_a_run_is_continued_as_it_began(whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    with pytest.raises(runs.ConfigError, match=r"config\.toml: lr was 0\.001 when the run began, and is now 0\.002"):
        go(out, Config(lr=2e-3), resume=True)
    with pytest.raises(runs.ConfigError, match="subset was 'not given' when the run began, and is now 5"):
        go(out, Config(subset=5), resume=True)
    with pytest.raises(runs.UserError, match="holds a run; go on with it by --resume, replace it by --overwrite"):
        go(out)
    before = outcome(out)
    go(out, resume=True)  # a finished run stays what it is
    assert outcome(out) == before


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not touch")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(runs.UserError, match="holds something else than a run; choose another folder with --out"):
            go(tmp_path, **options)
    with pytest.raises(runs.UserError, match=r"thesis\.txt is a file"):
        go(tmp_path / "thesis.txt")
    out = tmp_path / "run"
    go(out, Config(epochs=1))
    for name in ("notes.txt", "mine.png"):
        (out / name).write_text("mine")
    (out / "eval-test.json").write_text("of the old weights")
    go(out, Config(epochs=2), overwrite=True)
    assert (out / "notes.txt").read_text() == (out / "mine.png").read_text() == "mine"  # only what a run writes goes
    assert not (out / "eval-test.json").exists()
    assert len(outcome(out)[0]) == 2


def test_a_run_that_never_saved_is_replaced(tmp_path):
    def broken(run):
        raise ZeroDivisionError

    (tmp_path / "run").mkdir()  # which therefore stays
    with pytest.raises(ZeroDivisionError):
        go(tmp_path / "run", spy=broken)
    assert (tmp_path / "run" / "config.toml").exists()
    assert go(tmp_path / "run", Config(epochs=1)).step == 8
    assert go(tmp_path / "new", Config(epochs=1), resume=True).step == 8  # nothing to go on with: it begins


def test_a_run_that_fails_before_it_saved_leaves_no_folder(tmp_path):
    def missing(config, **loading):
        raise data.DataError("not there")

    def failing(out, config=None, machine=None):
        with (
            pytest.raises((data.DataError, runs.UserError)),
            runs.Run("small", config or Config(), machine, out=out) as run,
        ):
            run.load(missing)

    failing(tmp_path / "runs" / "small")
    assert list(tmp_path.iterdir()) == []
    failing(tmp_path / "runs" / "small", machine=runs.Machine(device="nowhere"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()  # not made by the run
    failing(tmp_path / "mine" / "small")
    failing(tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    failing(tmp_path / "runs" / "small")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["notes.txt"]


def test_a_run_that_fails_after_it_saved_stays(tmp_path):
    def broken(run):
        if run.epoch == 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go(tmp_path / "runs" / "small", spy=broken)
    assert (tmp_path / "runs" / "small" / "checkpoint.pt").exists()
    assert (tmp_path / "runs" / "small" / "config.toml").exists()


def test_what_a_recipe_must_not_forget(tmp_path):
    with runs.Run("small", Config(), out=tmp_path / "run") as run, pytest.raises(RuntimeError, match=r"run\.keep"):
        next(run.epochs())


def test_other_parts_or_shapes_do_not_continue(whole, tmp_path):
    for keep, message in (
        (lambda net, optimiser: dict(net=net), "saved net, optimiser, schedule, the recipe keeps net: it is another"),
        (
            lambda net, optimiser: dict(net=nn.Linear(2, 2), optimiser=optimiser, schedule=optimiser),
            "state of net does",
        ),
    ):
        out = tmp_path / str(len(message))
        shutil.copytree(whole, out)
        net = nn.Linear(5, 3)
        with (
            runs.Run("small", Config(), out=out, resume=True) as run,
            pytest.raises(runs.CheckpointError, match=message),
        ):
            run.keep(**keep(net, torch.optim.Adam(net.parameters())))


def test_mixed_precision_and_backends(tmp_path):
    with runs.Run("small", Config(amp="bfloat16"), out=tmp_path / "a") as run, run.autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16
    with runs.Run("small", Config(), runs.Machine(backend="eager"), out=tmp_path / "b"):
        net = sl.Network(sl.IF())
        assert "eager" in str(sl.explain(net, torch.ones(2, 1, 3)))
    with pytest.raises(runs.UserError, match="device 'nowhere' cannot be used here"):
        runs.Run("small", Config(), runs.Machine(device="nowhere"), out=tmp_path / "c").__enter__()


def test_events_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra 'train' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    go(tmp_path / "run", Config(epochs=2))
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    rows, _, _ = outcome(tmp_path / "run")
    assert [(e.step, pytest.approx(e.value)) for e in events.Scalars("loss")] == [
        (8, rows[0]["loss"]),
        (16, rows[1]["loss"]),
    ]


def test_average_is_over_samples_and_leaves_the_generators_alone():
    y = torch.tensor([0, 1, 1, 1, 0, 1, 1])
    samples = data.Samples(torch.arange(7.0).unsqueeze(1), y, classes=("a", "b"))
    loader = data.loaders((samples, samples), batch_size=3, distributed=False).test  # batches of 3, 3 and 1
    net = nn.Sequential(nn.Dropout(0.5), nn.Identity().eval())
    state = torch.get_rng_state()
    drawn = []

    def measures(net, x, y):
        drawn.append(torch.rand(()).item())
        return {"share": y == 1, "x": net(x)[:, 0]}

    for _ in range(2):
        found = runs.average(net, loader, measures, device=torch.device("cpu"), seed=3)
        assert found == {"share": 5 / 7, "x": 3.0}
    assert [part.training for part in net.modules()] == [True, True, False]
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn[:3] == drawn[3:]
    with pytest.raises(ValueError, match=r"measures: x must have a value for each sample, \[B\], got \[3, 1\]"):
        runs.average(net, loader, lambda net, x, y: {"x": x}, device=torch.device("cpu"), seed=3)


def test_average_counts_samples_and_not_steps():
    x, y = torch.zeros(5, 3, 1), torch.arange(15).reshape(5, 3) % 2
    samples = data.Samples(x, y, per_step=True)
    loader = data.loaders((samples, samples), batch_size=2, batch_first=False).test  # [3, B], B = 2, 2, 1

    def measures(net, x, y):
        return {"ones": y.sum(0)}

    found = runs.average(nn.Identity(), loader, measures, device=torch.device("cpu"), seed=0)
    assert found == {"ones": 7 / 5}


def test_which_class_is_taken_for_which():
    counted = runs.Confusion(lambda net, x: x, 3)
    scores = torch.eye(4)[[0, 2, 2, 1, 3, 2]]  # predicts 0, 2, 2, 1, 3, 2
    right = counted(nn.Identity(), scores, torch.tensor([0, 0, 2, 1, 1, 7]))["accuracy"]
    assert right.tolist() == [True, False, True, True, False, False]
    assert counted.counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]  # 3 and 7 are none of the three classes
    counted(nn.Identity(), scores[:2], torch.tensor([0, 1]))
    assert counted.counts.tolist() == [[2, 0, 1], [0, 1, 1], [0, 0, 1]]


PROCESSES = """
from spikeloom.recipes import regression
import sys
from pathlib import Path

config = regression.Config(epochs=2, hidden=16, samples=1240, batch_size=8)
resume = len(sys.argv) > 2
import signal

def train(config, run):
    if not resume and run.processes.rank == 1 and run.processes.world > 1:
        place = run.place

        def placed(net):
            def interrupt(*_):
                if run.step == 3:
                    signal.raise_signal(signal.SIGTERM)  # in one process only
            net.register_forward_pre_hook(interrupt)
            return place(net)

        run.place = placed
    regression.train(config, run)

try:
    with runs.Run("regression", config, runs.Machine(device="cpu"), out=Path(sys.argv[1]), resume=resume) as run:
        train(config, run)
except runs.Stopped as stopped:  # into a file for each process: on one pipe their lines may mix
    Path(f"{sys.argv[1]}-stopped-{run.processes.rank}").write_text(str(stopped))
"""


def test_two_processes_train_as_one(tmp_path):
    """The same global batches: the figures agree, one process writes, and a stop in one is a stop in all."""
    file = tmp_path / "script.py"
    file.write_text(SMALL + PROCESSES)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(*arguments, processes):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if processes == 2 else []
        command = [sys.executable, *launcher, str(file), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    start(tmp_path / "one", processes=1)
    start(tmp_path / "two", processes=2)
    for rank in (0, 1):
        assert (tmp_path / f"two-stopped-{rank}").read_text().startswith("stopped and saved after 4 steps")
    with pytest.raises(runs.CheckpointError, match="was saved by 2 processes, this run has 1; start it with torchrun"):
        runs.Run("regression", regression_config(), out=tmp_path / "two", resume=True).__enter__()
    said = start(tmp_path / "two", "resume", processes=2)
    assert said.count("goes on in epoch") == 1  # one of them talks
    (rows, result, _), (others, other, _) = outcome(tmp_path / "one"), outcome(tmp_path / "two")
    assert result["steps"] == other["steps"]
    for row, its in [*zip(rows, others, strict=True), (result, other)]:
        assert its == {k: v if isinstance(v, str) else pytest.approx(v, rel=2e-3) for k, v in row.items()}


def regression_config():
    from spikeloom.recipes import regression

    return regression.Config(epochs=2, hidden=16, samples=1240, batch_size=8)
