"""The commands of ``spikeloom`` in one application."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..runs import versions
from . import about, convert, data, evaluate, train

app = typer.Typer(
    name="spikeloom",
    help="Train, evaluate and look into spiking neural networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Train, evaluate and look into spiking neural networks."""
    if version:
        typer.echo(versions()["spikeloom"])
        raise typer.Exit


app.add_typer(typer.Typer(cls=train.Recipes, no_args_is_help=True, callback=train.explain), name="train")

app.add_typer(data.app, name="data")


@app.command("eval", help=evaluate.HELP)
def evaluate_command(
    run: Annotated[Path, typer.Argument(help="A run folder, or a checkpoint or weights file in one.")],
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    out: Annotated[Path | None, typer.Option(help="Folder for figures and picture (default: the run's).")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")] = "auto",
    data_root: Annotated[str | None, typer.Option(help="Folder of the data sets (default: as in training).")] = None,
    workers: Annotated[int, typer.Option(help="Processes that load data.", min=0, max=1024)] = 0,
) -> None:
    """What a trained network does on a split; the help is HELP."""
    evaluate.evaluate(run, split=split, out=out, device=device, data_root=data_root, workers=workers)


@app.command("convert", help=convert.HELP)
def convert_command(
    run: Annotated[
        Path, typer.Argument(help="A run folder, a checkpoint or weights file in one, or any with --model.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Of a file outside a run: the recipe of its network, or a config file naming it.")
    ] = None,
    method: Annotated[str, typer.Option(help="rate, balanced, calibrated, delta, exact or few-spikes.")] = "rate",
    T: Annotated[int, typer.Option("--T", help="Steps.", min=1, max=65536)] = 32,
    out: Annotated[Path | None, typer.Option(help="Folder (default: that of the run with the method behind).")] = None,
    calibration: Annotated[int, typer.Option(help="Training samples by which thresholds are found.", min=1)] = 500,
    threshold: Annotated[str | None, typer.Option(help="channel, layer or mse.")] = None,
    quantile: Annotated[float | None, typer.Option(help="Of the activations, from 0 to 1.")] = None,
    levels: Annotated[int | None, typer.Option(help="Of messages (delta) or of the quantisation (exact).")] = None,
    delay: Annotated[int | None, typer.Option(help="Steps that the mean leaves out (rate).")] = None,
    v_init: Annotated[float | None, typer.Option(help="First voltage, in thresholds (rate).")] = None,
    mode: Annotated[str | None, typer.Option(help="settle or two_phase (exact).")] = None,
    K: Annotated[int | None, typer.Option("--K", help="Spikes within a step (few-spikes).")] = None,
    rounds: Annotated[int | None, typer.Option(help="How often layers are gone through (calibrated).")] = None,
    weights: Annotated[bool | None, typer.Option(help="Whether weights are corrected too (calibrated).")] = None,
    voltages: Annotated[bool | None, typer.Option(help="Whether first voltages are corrected (calibrated).")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")] = "auto",
    data_root: Annotated[str | None, typer.Option(help="Folder of the data sets (default: as in training).")] = None,
    workers: Annotated[int, typer.Option(help="Processes that load data.", min=0, max=1024)] = 0,
) -> None:
    """What becomes of a trained ordinary network; the help is HELP."""
    options = {"threshold": threshold, "quantile": quantile, "levels": levels, "delay": delay, "v_init": v_init}
    options |= {"mode": mode, "K": K, "rounds": rounds, "weights": weights, "voltages": voltages}
    convert.convert(
        run,
        model=model,
        method=method,
        T=T,
        out=out,
        calibration=calibration,
        options=options,
        device=device,
        data_root=data_root,
        workers=workers,
    )


@app.command()
def info(
    clear_cache: Annotated[
        bool, typer.Option("--clear-cache", help="Remove the compiled kernels on the disk.")
    ] = False,
) -> None:
    """Versions, devices, compiler, kernel cache and data: what to add to a question or a bug report."""
    about.info(clear_cache=clear_cache)


@app.command("list")
def list_command(
    what: Annotated[str, typer.Argument(help="recipes, neurons, surrogates, data or models; all without it.")] = "all",
) -> None:
    """Names that the other commands and the package know."""
    about.names(what)
