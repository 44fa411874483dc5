"""A membrane that predicts a time series: what the Mackey-Glass equation does ``horizon`` samples later.

    spikeloom train regression

The series is the solution of ``dx/dt = 0.2 x(t - 17) / (1 + x(t - 17)^10) - 0.1 x(t)``, which is chaotic (Mackey and
Glass, Science 197, 1977), a sample for each unit of time, brought to mean 0 and deviation 1. The network sees one
sample a step; a membrane that never fires is the prediction. It is trained on windows of the first four fifths of the
series and measured on the rest. ``persistence_mse`` is the error of saying that nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl
from spikeloom import runs

WARM_UP = 20  # steps at the beginning of a window whose predictions do not count


@dataclass(frozen=True, kw_only=True)
class Config(runs.Config):
    """Settings of series and network."""

    epochs: int = 30
    batch_size: int = 32
    lr: float = 5e-3
    samples: int = runs.option(6000, "length of the series", minimum=1000)
    window: int = runs.option(100, "steps of a training window", minimum=WARM_UP + 1)
    horizon: int = runs.option(10, "samples ahead to predict", minimum=1)
    hidden: int = runs.option(128, "neurons of each hidden layer", minimum=1)


def mackey_glass(samples: int, *, delay: int = 17, per_unit: int = 10) -> Tensor:
    """The series ``[samples]`` in float64, by Heun's method with ``per_unit`` steps for a unit of time. It begins at
    x = 1.2, which is also its value before that; the first 300 units are left out.
    """
    lag, dt = delay * per_unit, 1.0 / per_unit
    x = [1.2] * (lag + 1)

    def slope(now: float, past: float) -> float:
        return 0.2 * past / (1.0 + past**10) - 0.1 * now

    for n in range(lag, lag + (300 + samples) * per_unit):
        first = slope(x[n], x[n - lag])
        second = slope(x[n] + dt * first, x[n - lag + 1])
        x.append(x[n] + 0.5 * dt * (first + second))
    return torch.tensor(x[lag + 300 * per_unit :: per_unit][:samples], dtype=torch.float64)


def data(config: Config, **loading: Any) -> sl.data.Loaders:
    """Windows ``[B, window, 1]``, whose targets are the same ``horizon`` samples later. The last fifth is the test."""
    series = mackey_glass(config.samples)
    cut = len(series) * 4 // 5
    series = ((series - series[:cut].mean()) / series[:cut].std()).float()
    train = windows(series[:cut], config, stride=config.window // 4)
    test = windows(series[cut:], config, stride=config.window - WARM_UP)  # each sample is predicted once
    return sl.data.loaders((train, test), batch_first=True, **loading)


def windows(series: Tensor, config: Config, *, stride: int) -> sl.data.Samples:
    """Windows of a series, and the values ``horizon`` samples later as targets."""
    span = config.window + config.horizon
    if len(series) < span:
        raise runs.ConfigError(f"a window and its horizon take {span} samples, a part of the series has {len(series)}")
    cut = series.unfold(0, span, max(stride, 1)).unsqueeze(-1)
    return sl.data.Samples(cut[:, : config.window].clone(), cut[:, config.horizon :].clone(), per_step=True)


def build(config: Config) -> sl.Network:
    """The network: ``[B, window, 1]`` to membranes ``[B, window, 1]``."""
    h = config.hidden
    return sl.Network(
        nn.Linear(1, h),
        sl.LIF(tau=nn.Parameter(torch.linspace(1.5, 12.0, h)), decay_input=False, reset="soft"),
        nn.Linear(h, h),
        sl.LIF(tau=nn.Parameter(torch.linspace(1.5, 12.0, h)), decay_input=False, reset="soft"),
        nn.Linear(h, 1),
        sl.LI(tau=4.0),
        batch_first=True,
    )


def measures(net: nn.Module, x: Tensor, y: Tensor, config: Config) -> dict[str, Tensor]:
    """Mean squared errors of each window, without the warm-up."""
    late = slice(WARM_UP, None)
    return {
        "mse": (net(x) - y)[:, late].square().mean((1, 2)),
        "persistence_mse": (x - y)[:, late].square().mean((1, 2)),
    }


def train(config: Config, run: runs.Run) -> None:
    """Trains for ``config.epochs`` epochs."""
    loaders = run.load(data)
    net = run.place(build(config))
    optimiser = torch.optim.Adam(net.parameters(), lr=config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.epochs * len(loaders.train))
    run.keep(net=net, optimiser=optimiser, schedule=schedule)
    fast = run.graphed(net)
    for _ in run.epochs():
        for x, y in run.steps(loaders.train):
            with run.autocast():
                predicted = fast(x)
            loss = F.mse_loss(predicted.float()[:, WARM_UP:], y[:, WARM_UP:])
            optimiser.zero_grad()
            run.scaler.scale(loss).backward()
            run.scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            run.scaler.step(optimiser)
            run.scaler.update()
            schedule.step()
            run.log(len(x), loss=loss)
        run.report(**run.measure(net, loaders.validation, measures, "validation"))
    run.finish(net, **run.measure(net, loaders.test, measures, "test"))
    run.draw(partial(pictures, runs.unwrap(net), loaders.test, run.device))


def pictures(net: nn.Module, test: sl.data.Loader, device: torch.device) -> dict[str, Any]:
    """The prediction and the truth of two test windows."""
    from spikeloom import plot

    x, y = next(iter(test))
    net.eval()
    with torch.no_grad():
        predicted = net(x.to(device)).cpu()
    figure, axes = plot.figure(min(2, len(x)))
    for k, ax in enumerate(axes):
        both = torch.cat([y[k], predicted[k]], dim=1)
        plot.traces(both, labels=("series", "predicted"), ylabel="x", ax=ax, title=f"test window {k + 1}")
        ax.axvspan(0, WARM_UP, color="0.92")
    return {"prediction": figure}
