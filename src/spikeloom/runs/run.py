"""A run: a folder with all that is known of it, and a plain training loop that can be stopped and continued."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .. import data, native
from . import checkpoint, environment, files, folder, measure, pictures, progress, trained
from .computing import Computing
from .folder import CHECKPOINT, INIT_FROM, RESULT, SPLIT, WEIGHTS
from .parts import Stateful, load_parts
from .processes import Processes, choose_device, unwrap
from .settings import Config, ConfigError, Machine, UserError
from .stop import Stopped, StopRequest
from .tensorboard import Events


class Run:
    """One training run, as a context.

    ::

        with Run("mine", config, Machine(), out=Path("runs/mine")) as run:
            loaders = run.load(data)
            net = run.place(build(config))
            optimiser = torch.optim.Adam(net.parameters(), config.lr)
            run.keep(net=net, optimiser=optimiser)
            for _ in run.epochs():
                for x, y in run.steps(loaders.train):
                    with run.autocast():
                        loss = ...
                    optimiser.zero_grad()
                    run.scaler.scale(loss).backward()
                    run.scaler.step(optimiser)
                    run.scaler.update()
                    run.log(len(y), loss=loss)
            run.finish(net, test_accuracy=...)

    Everything that :meth:`keep` was given, the generators, the position in the epoch and the sums of :meth:`log` are
    saved after the last step of each epoch, every ``machine.save_every`` steps, and after the step in which Ctrl-C or
    SIGTERM arrives (then :class:`Stopped` is raised). With ``resume`` the run goes on from there: on a CPU with as many
    threads, bit by bit as if it had not been interrupted.

    Args:
        recipe: the name that is written into the folder.
        out: the folder. One that holds something raises, unless it holds a run and ``resume`` or ``overwrite`` is
            given. A run that never saved anything is replaced.
        resume: whether the run in ``out`` goes on; if there is none, it begins. The settings must be those of the run,
            but there may be more epochs: then the run is extended, and schedules go on as those of the longer run.
        init_from: a run folder, checkpoint or weights file whose weights the network begins with (:meth:`keep` loads
            them); a resumed run uses its own weights instead. Where those weights were trained on test samples of this
            run, because a split depends on the seed, :meth:`load` raises ConfigError.

    Until this context is left, another run in the same folder raises ConfigError, in this process and in others.

    Under torchrun each process has a Run of its own, and the first one writes.
    """

    def __init__(
        self,
        recipe: str,
        config: Config,
        machine: Machine | None = None,
        *,
        out: Path,
        resume: bool = False,
        overwrite: bool = False,
        init_from: str | Path | None = None,
    ) -> None:
        self.recipe, self.config, self.machine = recipe, config, machine or Machine()
        self.out, self.resume, self.overwrite, self.init_from = out, resume, overwrite, init_from
        self.history: list[dict[str, float]] = []
        self.epoch = self.position = self.step = 0
        self.result: dict[str, Any] = {}
        self.confusion: Tensor | None = None
        self._classes: tuple[str, ...] = ()
        self._seconds = 0.0
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self._reported: dict[str, float] = {}
        self._parts: dict[str, Stateful] | None = None
        self._saved: dict[str, Any] | None = None
        self._events = Events(out)
        self._saved_at = -1
        self._interruptible = False
        self._still_ours: Callable[[], None] = lambda: None
        self._closing = ExitStack()

    # -- the context ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Run:
        with self._closing as closing:
            self.device = choose_device(self.machine.device)
            self.processes = Processes(self.device)
            closing.callback(self.processes.close)
            if self.config.batch_size % self.processes.world:
                raise ConfigError(
                    f"batch_size is that of all {self.processes.world} processes together and must be a multiple of "
                    f"their number, got {self.config.batch_size}",
                    setting="batch_size",
                )
            self._computing = Computing(self.config, self.machine, self.device, self.processes.world)
            self.progress = progress.choose(first=self.processes.first)
            closing.callback(self.progress.close)
            self._together(self._prepare)
            if not self.processes.first:
                self.init_from, self._saved = folder.begun_with(self.out), self._read()
            native.retain_memory()
            closing.enter_context(self._computing.backend())
            closing.callback(self._events.close)
            self._stop = closing.enter_context(StopRequest())
            random.seed(self.config.seed)
            np.random.seed(self.config.seed % 2**32)
            torch.manual_seed(self.config.seed)
            self._begun = time.perf_counter()
            self._closing = closing.pop_all()
        return self

    def __exit__(self, *problem: Any) -> None:
        self._closing.__exit__(*problem)

    # -- what a training loop uses -------------------------------------------------------------------------------

    @property
    def loading(self) -> dict[str, Any]:
        """The options of :func:`spikeloom.data.loaders` that a recipe passes on."""
        return {**self.config.loading(), "workers": self.machine.workers, "root": self.machine.data_root}

    def load(self, loaders: Callable[..., data.Loaders]) -> data.Loaders:
        """The result of ``loaders(config, **loading)``, whose split is written to ``split.json``."""
        try:
            found = loaders(self.config, **self.loading)
        except data.DataError as problem:
            setting = str(problem).partition(" ")[0]
            if setting not in self.config.loading():
                raise
            raise UserError(str(problem), setting=setting) from problem
        if self.init_from is not None and self._saved is None:
            note = trained.must_not_have_seen(self.init_from, found.split)
            if note and self.processes.first:
                self.progress.line(note)
        if self.processes.first:
            files.write_json(self.out / SPLIT, found.split)
        self._classes = found.classes
        return found

    def place(self, net: nn.Module) -> nn.Module:
        """The network on the run's device, in DistributedDataParallel where torchrun started several processes.

        From here on each process draws noise of its own.
        """
        net = self.processes.wrap(net)
        if self.processes.world > 1:
            torch.manual_seed(data.mix(self.config.seed, self.processes.rank))
        return net

    def autocast(self) -> AbstractContextManager[Any]:
        """A context for forward and loss, with mixed precision if the run has it."""
        return self._computing.autocast()

    @property
    def scaler(self) -> torch.amp.GradScaler:
        """What keeps gradients within float16's range (``--amp float16``); otherwise it does nothing.

        A step is ``run.scaler.scale(loss).backward()``, ``run.scaler.unscale_(optimiser)`` where gradients are clipped,
        ``run.scaler.step(optimiser)``, ``run.scaler.update()``. Checkpoints have its state.
        """
        return self._computing.scaler

    def graphed(self, net: nn.Module) -> Any:
        """What training steps call: with ``--graph`` what :func:`spikeloom.graphed` makes of the network, or itself."""
        return self._computing.graphed(net)

    def keep(self, **parts: Stateful) -> None:
        """Names everything that has to be saved; a run that is resumed gets its state back here."""
        self._parts = {name: unwrap(p) if isinstance(p, nn.Module) else p for name, p in parts.items()}
        for part in parts.values():
            if isinstance(part, torch.optim.Optimizer):
                self._computing.may_skip(part)
        if self._saved is None:
            self._begin_with_weights()
            return
        load_parts(self._parts, self._saved, self.out / CHECKPOINT, longer=self._longer(self._saved))

    def epochs(self) -> Iterator[int]:
        """The numbers of the epochs that are left, counted from 1. After each one its row of figures is written."""
        if self._parts is None:
            raise RuntimeError("Run.epochs: call run.keep(net=..., optimiser=...) first, or nothing could be resumed")
        if self._saved is not None:
            self._restore(self._saved)
        elif self.processes.first:
            self.progress.line(f"{self.recipe}: seed {self.config.seed} on {self.device}, into {self.out}/")
        while self.epoch < self.config.epochs:
            yield self.epoch + 1
            self._end_epoch()

    def steps(self, loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of this epoch that are left, on the run's device."""
        self._interruptible = False
        loader.sampler.seek(self.epoch, self.position)  # type: ignore[attr-defined]  # the sampler is Batches
        self.progress.open(f"epoch {self.epoch + 1}/{self.config.epochs}", len(loader), self.position)
        for x, y in loader:
            yield x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
            self.position += 1
            self.step += 1
            self.progress.step(self._averages(alone=True) if self.progress.due() else None)
            if self._asked():
                self._stopped()
            if self.step % self.machine.save_every == 0:
                self._save()
        self.progress.close()
        if self._saved_at != self.step:
            self._save()  # a run that is stopped while measuring continues here
        self._interruptible = self.processes.world == 1

    def log(self, n: int, **values: Tensor | float) -> None:
        """Adds figures of a step with ``n`` samples to the averages of the epoch."""
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        for name, value in values.items():
            total, count = self._sums.get(name, (0, 0))
            scaled = n * torch.as_tensor(value).detach().to(self.device, dtype)
            self._sums[name] = (total + scaled, count + n)

    def report(self, **values: float) -> None:
        """Adds figures to the epoch's row as they are, beside the averages."""
        self._reported.update(values)

    def measure(
        self,
        net: nn.Module,
        loader: DataLoader[tuple[Tensor, Tensor]] | None,
        measures: Callable[[nn.Module, Tensor, Tensor, Any], Mapping[str, Tensor]],
        prefix: str,
    ) -> dict[str, float]:
        """Averages of ``measures(net, x, y, config)`` over a loader (see :func:`average`), named ``prefix_*``; empty
        without a loader. With the prefix "test", what :func:`accuracy` made counts ``run.confusion`` too.
        """
        if loader is None:
            return {}
        counted = None
        if prefix == "test" and self._classes and isinstance(measures, measure.Accuracy):
            scores = measures.scores
            counted = measure.Confusion(lambda net, x: scores(net, x, self.config), len(self._classes))
        found = measure.average(
            net,
            loader,
            counted or (lambda net, x, y: measures(net, x, y, self.config)),
            device=self.device,
            seed=self.config.seed,
            processes=self.processes,
            progress=self.progress,
            label=f"measuring {prefix.replace('_', ' ')}",
            check=self._check,
        )
        if counted is not None:
            self.confusion = self.processes.sum(counted.counts)
        return {f"{prefix}_{name}": value for name, value in found.items()}

    def finish(self, net: nn.Module, **figures: float) -> None:
        """Writes the weights and the result, whose ``figures`` are those of the trained network."""
        self.result = {
            "recipe": self.recipe, "seed": self.config.seed, "epochs": self.epoch, "steps": self.step,
            **figures, "seconds": round(self._clock(), 1),
        }  # fmt: skip
        if self.processes.first:
            from safetensors.torch import save

            self._still_ours()
            state = {name: t.detach().cpu().contiguous() for name, t in unwrap(net).state_dict().items()}
            files.write(self.out / WEIGHTS, save(state))
            files.write_json(self.out / RESULT, self.result)
            self.progress.line(f"finished: {progress.text({**figures, 'seconds': self._clock()})}")

    def draw(self, own: Callable[[], Mapping[str, Any]] | None = None) -> None:
        """Writes pictures as PNG, where matplotlib is installed: the training curves, of a classifier that was measured
        on test samples the confusion matrix, and the figures of ``own()`` by name.
        """
        if self.processes.first:
            pictures.write(
                self.out, self.history, self.confusion, self._classes, own or (lambda: {}), self.progress.line
            )

    # -- saving and continuing -----------------------------------------------------------------------------------

    def _prepare(self) -> None:
        def written() -> dict[str, Any]:
            begun = None if self.init_from is None else str(self.init_from)
            return {**self._settings(), INIT_FROM: begun}

        def described() -> dict[str, Any]:
            begun = {} if self.init_from is None else {INIT_FROM: trained.described(self.init_from)}
            return {**environment.describe(self.device), "machine": asdict(self.machine), **begun}

        self._still_ours = folder.claim(
            self.out, written(), resume=self.resume, overwrite=self.overwrite, held=self._closing
        )
        self._saved = self._read()
        if self.init_from is None:
            self.init_from = folder.begun_with(self.out)  # the run goes on: a new one has no config.toml by now
        folder.describe(self.out, written(), described)

    def _begin_with_weights(self) -> None:
        """Loads the weights of ``init_from`` into the network, if one was given."""
        if self.init_from is None:
            return
        assert self._parts is not None
        net = self._parts.get("net")
        if not isinstance(net, nn.Module):
            raise ConfigError("init_from: the recipe keeps no network as net=, so that there is nothing to load into")
        file, state = trained.weights(self.init_from)
        trained.must_be_of(self.recipe, net, file, state)
        trained.load_weights(net, file, state, f"the network of {self.recipe}")
        if self.processes.first:
            self.progress.line(f"begins with the weights of {file}")

    def _longer(self, saved: Mapping[str, Any]) -> bool:
        """Whether this run has more epochs than the one that was saved."""
        return bool(saved["config"]["epochs"] < self.config.epochs)

    def _settings(self) -> dict[str, Any]:
        return {"recipe": self.recipe, **asdict(self.config)}

    def _read(self) -> dict[str, Any] | None:
        """The checkpoint to go on from, if there is one."""
        path = self.out / CHECKPOINT
        if not self.resume or not path.exists():
            return None
        return checkpoint.load_own(path, self._settings(), self.processes.world)

    def _restore(self, saved: Mapping[str, Any]) -> None:
        for name in ("epoch", "position", "step", "history"):
            setattr(self, name, saved[name])
        self._seconds, self._begun = saved["seconds"], time.perf_counter()
        self._sums = {k: (total.to(self.device), n) for k, (total, n) in saved["sums"][self.processes.rank].items()}
        self._reported = dict(saved["reported"])
        self.scaler.load_state_dict(saved.get("scaler", self.scaler.state_dict()))
        checkpoint.set_random_state(saved["random"][self.processes.rank])
        if self.processes.first:
            files.write_table(self.out, self.history)  # epochs after the checkpoint will write their rows again
            if saved["threads"] != torch.get_num_threads():
                self.progress.line(
                    f"note: saved with {saved['threads']} threads, now {torch.get_num_threads()}: results may differ "
                    "by rounding"
                )
            if self._longer(saved):
                self.progress.line(
                    f"note: extended from {saved['config']['epochs']} to {self.config.epochs} epochs; schedules go on "
                    f"as in a run of {self.config.epochs}"
                )
            self.progress.line(
                f"{self.recipe}: goes on in epoch {self.epoch + 1} after {self.step} steps"
                if self.epoch < self.config.epochs
                else f"{self.recipe}: is finished after {self.epoch} epochs and {self.step} steps; to train on, give "
                f"--epochs N with more than {self.epoch}"
            )
        self._saved = None

    def _save(self) -> None:
        assert self._parts is not None
        self._saved_at = self.step
        sums = {name: (total.cpu(), n) for name, (total, n) in self._sums.items()}
        each = self.processes.gather((checkpoint.random_state(), sums))
        if not self.processes.first:
            return
        self._still_ours()
        checkpoint.save(
            self.out / CHECKPOINT,
            {
                "format": checkpoint.FORMAT, "recipe": self.recipe, "config": asdict(self.config),
                "world": self.processes.world, "threads": torch.get_num_threads(),
                "epoch": self.epoch, "position": self.position, "step": self.step, "history": self.history,
                "seconds": self._clock(), "reported": self._reported,
                "random": [r for r, _ in each], "sums": [s for _, s in each],
                "parts": {name: part.state_dict() for name, part in self._parts.items()},
                "scaler": self.scaler.state_dict(),
            },
        )  # fmt: skip

    def _end_epoch(self) -> None:
        self.progress.close()
        row = {"epoch": self.epoch + 1, **self._averages(), **self._reported, "seconds": round(self._clock(), 1)}
        self.history.append(row)
        self.epoch, self.position, self._sums, self._reported = self.epoch + 1, 0, {}, {}
        if self.processes.first:
            self._still_ours()
            files.write_table(self.out, self.history)
            self._events.write(row, self.step)
            self.progress.line(progress.text(row))
            if reason := self._computing.ungraphed():
                self.progress.line(f"note: no step ran in a graph: {reason}")
        if self.epoch == self.config.epochs:
            self._save()
        elif self._asked():
            self._stopped()

    def _asked(self) -> int:
        return self.processes.any(self._stop.signal)

    def _check(self) -> None:
        """Stops a run that was asked to stop while it measures: everything is saved by then, so it need not wait."""
        if self._interruptible and self._stop.signal:
            self._stopped(save=False)

    def _stopped(self, *, save: bool = True) -> None:
        number = self._asked()
        if save:
            self._save()
        raise Stopped(number, f"stopped and saved after {self.step} steps; go on with: --out {self.out} --resume")

    def _averages(self, *, alone: bool = False) -> dict[str, float]:
        if not self._sums:
            return {}
        totals = torch.stack([total for total, _ in self._sums.values()]).cpu()
        counts = torch.tensor([float(n) for _, n in self._sums.values()], dtype=totals.dtype)
        if not alone:
            totals, counts = self.processes.sum(torch.stack([totals, counts]))
        return dict(zip(self._sums, (totals / counts).tolist(), strict=True))

    def _clock(self) -> float:
        return self._seconds + time.perf_counter() - self._begun

    def _together(self, work: Callable[[], None]) -> None:
        """Does ``work`` in the first process; if it fails, all processes raise."""
        problem: UserError | None = None
        if self.processes.first:
            try:
                work()
            except UserError as raised:
                problem = raised
        for found in self.processes.gather(None if problem is None else (type(problem), str(problem))):
            if found is not None:
                raise problem or found[0](found[1])
