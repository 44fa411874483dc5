"""A folder belongs to one run at a time, and to nobody once its process is dead."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom import data, runs
from spikeloom.runs import lock

pytest.importorskip("safetensors", reason="the extra 'cli' is not installed")


def load(config, **loading):
    g = torch.Generator().manual_seed(0)
    samples = data.Samples(torch.rand(12, 3, generator=g), torch.arange(12) % 2, classes=("a", "b"))
    return data.loaders((samples, samples), **loading)


def go(out, inside=lambda run: None, **options):
    config = runs.Config(epochs=1, batch_size=4, **{k: options.pop(k) for k in ("seed", "lr") if k in options})
    with runs.Run("tiny", config, out=out, **options) as run:
        net = run.place(sl.Network(nn.Linear(3, 2), sl.LI()))
        loaders, optimiser = run.load(load), torch.optim.SGD(net.parameters(), config.lr)
        run.keep(net=net, optimiser=optimiser)
        for _ in run.epochs():
            for x, y in run.steps(loaders.train):
                inside(run)
                loss = sl.loss.rate_cross_entropy(net(x, repeat=2), y)
                loss.backward()
                optimiser.step()
                run.log(len(y), loss=loss)
        run.finish(net)


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}, {"seed": 1, "overwrite": True}])
def test_a_second_run_is_refused_and_changes_nothing(tmp_path, options):
    refused = []

    def inside(run):
        before = {p.name: p.read_bytes() for p in run.out.iterdir()}
        with pytest.raises(runs.ConfigError) as problem:
            go(run.out, **options)
        refused.append(str(problem.value))
        assert {p.name: p.read_bytes() for p in run.out.iterdir()} == before

    go(tmp_path / "run", inside)
    assert len(refused) == 3
    assert f"run: a run (process {os.getpid()} on {socket.gethostname()}, since 20" in refused[0]
    assert "is in this folder; wait until it has ended, or choose another one with --out" in refused[0]
    assert (tmp_path / "run" / ".lock").read_bytes() == b""
    go(tmp_path / "run", overwrite=True)  # which has ended


def test_a_folder_that_was_replaced_is_not_written_to(tmp_path):
    """By another run, say, that was started after the folder had been removed."""
    out = tmp_path / "run"

    def replaced(run):
        if run.step == 1:
            shutil.rmtree(out)
            go(out, seed=1)

    with pytest.raises(runs.UserError, match="run was removed or replaced while the run was in it, which ends without"):
        go(out, replaced)
    assert runs.load_checkpoint(out / "checkpoint.pt")["config"]["seed"] == 1
    assert json.loads((out / "result.json").read_text())["seed"] == 1


def test_an_error_leaves_no_lock(tmp_path):
    def broken(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go(tmp_path / "run", broken)
    go(tmp_path / "run")
    with pytest.raises(runs.UserError, match="holds a run"):
        go(tmp_path / "run")
    go(tmp_path / "run", resume=True)


def test_the_killed_keep_nothing(tmp_path):
    """Nor do the children that they leave behind."""
    code = f"""
import os, signal, sys, time
from pathlib import Path
from spikeloom.runs import lock
with lock.held(Path({str(tmp_path)!r})):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    try:
        with (
            pytest.raises(runs.ConfigError, match=rf"a run \(process {process.pid} on .* is in this folder"),
            lock.held(tmp_path),
        ):
            pass
        process.stdin.write("go\n")
        process.stdin.close()
        assert process.wait(60) == -signal.SIGKILL
        assert json.loads((tmp_path / ".lock").read_text())["process"] == process.pid
        os.kill(child, 0)  # which is there
        with lock.held(tmp_path):
            assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_file_systems_without_locks(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    monkeypatch.setattr(lock, "_SETTLED", 0.0)
    dead = subprocess.Popen(["true"])
    dead.wait()
    here = socket.gethostname()
    for owner, lives in (
        (b"", False),
        (b"\xff{", False),
        (b"[1]", False),
        (json.dumps({"process": dead.pid, "host": here}).encode(), False),
        (json.dumps({"process": os.getpid(), "host": here}).encode(), True),
        (json.dumps({"process": dead.pid, "host": here + "2"}).encode(), True),
    ):
        (tmp_path / ".lock").write_bytes(owner)
        if not lives:
            with lock.held(tmp_path):
                pass
            continue
        with pytest.raises(runs.ConfigError, match=r"is in this folder; .*; if it has ended, remove \.lock there"):
            lock.held(tmp_path).__enter__()
    (tmp_path / ".lock").unlink()
    monkeypatch.setattr(lock, "_owner", lambda file: {} if not file.tell() else {"process": 1})  # wrote last
    with pytest.raises(runs.ConfigError, match="is in this folder"):
        lock.held(tmp_path).__enter__()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(runs.UserError, match=r"\.lock cannot be written: Is a directory"):
        go(tmp_path)


def test_a_checkpoint_must_be_the_runs_own(tmp_path):
    """config.toml and the options agree, but the checkpoint is that of another seed."""
    for seed in (0, 1):
        go(tmp_path / str(seed), seed=seed)
    shutil.copy(tmp_path / "1" / "checkpoint.pt", tmp_path / "0" / "checkpoint.pt")
    with pytest.raises(runs.ConfigError, match=r"checkpoint\.pt: seed was 1 when the run began, and is now 0; a run"):
        go(tmp_path / "0", resume=True)
    (tmp_path / "1" / "config.toml").unlink()
    shutil.rmtree(tmp_path / "1" / "tensorboard", ignore_errors=True)  # or it is no run's folder
    with pytest.raises(runs.ConfigError, match=r"checkpoint\.pt: lr was 0\.001 when the run began, and is now 0\.1"):
        go(tmp_path / "1", seed=1, lr=0.1, resume=True)
    assert not (tmp_path / "1" / "config.toml").exists()  # a refused run says nothing
    go(tmp_path / "1", seed=1, resume=True)
    torch.save({"format": 1, "recipe": "tiny"}, tmp_path / "1" / "checkpoint.pt")
    with pytest.raises(runs.CheckpointError, match="no checkpoint of a run: it has no config"):
        go(tmp_path / "1", seed=1, resume=True)
