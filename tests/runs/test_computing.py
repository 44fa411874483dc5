"""Precision, backends and graphs of runs, on a CPU: graphs by the stand-in of tests/recorder.py."""

import pytest
import torch

pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")

from recorder import StandIn, recording
from spikeloom import runs
from spikeloom.kernel.triton.target import problem
from spikeloom.recipes import digits

SMALL = dict(epochs=2, T=2, channels=4, subset=150, batch_size=32)


def trained(out, *, resume=False, graph=False, stop_after=None, **settings):
    """The weights of a short run, and the run; ``stop_after`` has it stop as by Ctrl-C."""
    config = digits.Config(**{**SMALL, **settings})
    with runs.Run("digits", config, runs.Machine(graph=graph), out=out, resume=resume) as run:
        if stop_after is not None:
            count = run.log

            def log(*args, **values):
                count(*args, **values)
                if run.step + 1 == stop_after:
                    run._stop.signal = 2

            run.log = log
        digits.train(config, run)
    return runs.load(out).net.state_dict(), run


def equal(a, b):
    return all(torch.equal(v, b[k]) for k, v in a.items() if isinstance(v, torch.Tensor))


def test_a_run_in_graphs_is_one_without(tmp_path):
    with recording():
        plain, _ = trained(tmp_path / "a")
        before = StandIn.count
        captured, run = trained(tmp_path / "b", graph=True)
    assert StandIn.count > before
    assert equal(plain, captured)
    assert [{**row, "seconds": 0} for row in run.history] == [
        {**row, "seconds": 0} for row in runs.load_checkpoint(tmp_path / "a" / runs.CHECKPOINT)["history"]
    ]


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_graphs_with_mixed_precision(tmp_path, amp):
    with recording():
        plain, _ = trained(tmp_path / "a", amp=amp)
        before = StandIn.count
        captured, _ = trained(tmp_path / "b", amp=amp, graph=True)
    assert StandIn.count > before
    assert equal(plain, captured)


def test_a_run_in_graphs_goes_on_where_it_stopped(tmp_path):
    with recording():
        whole, _ = trained(tmp_path / "a", graph=True, amp="float16")
        with pytest.raises(runs.Stopped):
            trained(tmp_path / "b", graph=True, amp="float16", stop_after=7)
        rest, run = trained(tmp_path / "b", graph=True, amp="float16", resume=True)
    assert run.step == 10
    assert equal(whole, rest)


def test_the_scaler_is_saved_and_gets_its_state_back(tmp_path):
    config = digits.Config(**SMALL, amp="float16")
    with runs.Run("digits", config, runs.Machine(), out=tmp_path / "run") as run:
        assert run.scaler.is_enabled()
        assert run.scaler.get_scale() == 65536.0
        digits.train(config, run)
        scale, seen = run.scaler.get_scale(), run.scaler.state_dict()
    saved = runs.load_checkpoint(tmp_path / "run" / runs.CHECKPOINT)["scaler"]
    assert saved == seen
    assert saved["_growth_tracker"] + (scale != 65536.0) > 0
    longer = digits.Config(**{**SMALL, "epochs": 3}, amp="float16")
    with runs.Run("digits", longer, runs.Machine(), out=tmp_path / "run", resume=True) as run:
        loaders = run.load(digits.data)
        net = run.place(digits.build(longer))
        optimiser = torch.optim.Adam(net.parameters(), lr=longer.lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, longer.lr, total_steps=3 * len(loaders.train))
        run.keep(net=net, optimiser=optimiser, schedule=schedule)
        next(run.epochs())
        assert run.scaler.state_dict() == saved


def test_a_step_with_a_gradient_out_of_range_is_skipped(tmp_path):
    with runs.Run("x", runs.Config(amp="float16"), out=tmp_path / "run") as run:
        w = torch.nn.Parameter(torch.ones(()))
        optimiser = torch.optim.SGD([w], lr=0.5)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimiser, 1.0)
        run.keep(optimiser=optimiser)
        for factor, after, scale in ((float("inf"), 1.0, 32768.0), (1.0, 0.5, 32768.0)):
            optimiser.zero_grad()
            run.scaler.scale(w * factor).backward()
            run.scaler.step(optimiser)
            run.scaler.update()
            schedule.step()  # warns of nothing
            assert (w.item(), run.scaler.get_scale()) == (after, scale)


def test_without_float16_the_scaler_does_nothing(tmp_path):
    with runs.Run("x", runs.Config(), out=tmp_path / "run") as run:
        loss = torch.ones(())
        assert not run.scaler.is_enabled()
        assert run.scaler.scale(loss) is loss


def test_float16_computes_in_it(tmp_path):
    with runs.Run("x", runs.Config(amp="float16"), out=tmp_path / "run") as run, run.autocast():
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float16


def test_what_cannot_be_had_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(runs.ConfigError, match=r"^graph needs a CUDA device, .* this run is on cpu$"):
        runs.Run("x", runs.Config(), runs.Machine(graph=True, device="cpu"), out=tmp_path / "a").__enter__()
    if problem("cpu"):
        with pytest.raises(runs.ConfigError, match=r"^backend 'triton' cannot be used on cpu: Triton runs on GPUs"):
            runs.Run("x", runs.Config(), runs.Machine(backend="triton", device="cpu"), out=tmp_path / "a").__enter__()
    assert not (tmp_path / "a").exists()


def test_steps_that_cannot_be_recorded_are_told_of_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(digits, "build", lambda config, build=digits.build: _hooked(build(config)))
    with recording():
        trained(tmp_path / "a", graph=True)
    notes = [line for line in capsys.readouterr().out.splitlines() if "no step" in line]
    assert notes == ["note: no step ran in a graph: 0: Conv2d has a hook or a method of its own"]


def _hooked(net):
    next(m for m in net.body.modules() if isinstance(m, torch.nn.Conv2d)).register_forward_hook(lambda m, i, o: None)
    return net
