"""``spikeloom data``: describes and converts files of events, and handles the data sets on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .. import data
from ..runs import ConfigError, UserError
from .about import summary

app = typer.Typer(
    no_args_is_help=True, help="Look into files of events, convert them; list, fetch and check data sets."
)
Root = Annotated[
    str | None, typer.Option("--data-root", help="Folder of the data sets (default: SPIKELOOM_DATA or data).")
]
Size = Annotated[str | None, typer.Option(help="Sensor HxW or channels, where the file does not say it.")]
Format = Annotated[str | None, typer.Option("--format", help="Format, where the content does not tell; see the error.")]
Index = Annotated[int | None, typer.Option(help="Which recording, of a file with several.")]
Columns = Annotated[str | None, typer.Option(help='Columns of text, such as "x y p t"; _ is none of these.')]
Unit = Annotated[str | None, typer.Option(help="Unit of the times of text and arrays: s, ms, us or ns.")]
Skip = Annotated[bool, typer.Option("--skip-damage", help="Leave out what is damaged, and say how much.")]


@app.command()
def info(
    file: Annotated[Path, typer.Argument(help="A file of events.")],
    plot: Annotated[
        Path | None, typer.Option(help="Write a picture of the events here (.png; .gif is animated).")
    ] = None,
    size: Size = None,
    format_: Format = None,
    index: Index = None,
    columns: Columns = None,
    unit: Unit = None,
    skip_damage: Skip = False,
) -> None:
    """Format, sensor, number of events, duration and rate of a file."""
    recording = _read(file, size, skip_damage, format=format_, index=index, columns=columns, unit=unit)
    for name, text in facts(recording).items():
        typer.echo(f"{name:<9} {text}")
    if plot is not None:
        _draw(recording, plot, file.name)
        typer.echo(f"{'picture':<9} {plot}")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A file of events.")],
    target: Annotated[Path, typer.Argument(help="The file to write; its suffix is the format.")],
    size: Size = None,
    format_: Format = None,
    index: Index = None,
    columns: Columns = None,
    unit: Unit = None,
    skip_damage: Skip = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the target.")] = False,
) -> None:
    """Write the events of a file in another format: .aedat (3.1), .dat, .raw (EVT 2), .npz, .h5, .txt, .bin (ATIS)."""
    if target.exists() and not overwrite:
        raise UserError(f"{target} is there already; --overwrite replaces it")
    recording = _read(source, size, skip_damage, format=format_, index=index, columns=columns, unit=unit)
    try:
        data.write_events(target, recording)
    except data.DataError as problem:
        raise UserError(str(problem).replace(", or format=", "")) from problem
    typer.echo(f"{target}: {len(recording):,} events, {target.stat().st_size:,} bytes")


@app.command("list")
def list_command(root: Root = None) -> None:
    """The data sets, and whether their files are there."""
    table = Table("name", "", "", box=None, header_style="bold")
    for name in data.SETS:
        table.add_row(name, "here" if data.available(name, root) else "", Text(summary(name)))
    Console().print(table)
    typer.echo(f"below {data.data_root(root).absolute()}")


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="A data set.")], root: Root = None) -> None:
    """Download a data set and unpack it, or say what to put where."""
    with _Bars() as bars:
        folder = data.fetch(name, root, progress=bars.told)
    for told in bars.names:
        if told.startswith("unpacking "):
            typer.echo(f"unpacked {told.removeprefix('unpacking ')}")
    count = sum(path.is_file() for path in folder.rglob("*"))
    typer.echo(f"{name}: {count:,} files in {folder}" if data.describe(name).downloads else f"{name}: {folder}")
    for download in data.describe(name).downloads:
        file = data.data_root(root) / name / download.name
        if file.is_file() and not (download.md5 or download.sha256):
            typer.echo(f"{file.name}: no checksum is published; its sha256 is {data.checksum(file)}")


@app.command()
def verify(name: Annotated[str, typer.Argument(help="A data set.")], root: Root = None) -> None:
    """Check the files of a data set: checksums of archives, numbers of samples."""
    with _Bars() as bars:
        problems = data.verify(name, root, progress=bars.told)
    if problems:
        raise UserError(f"data set {name}: " + "; ".join(problems))
    typer.echo(f"{name}: all files are there and as they should be")


def facts(recording: data.Recording) -> dict[str, str]:
    """The lines that :func:`info` prints, by their titles."""
    events = recording.events
    size = " x ".join(map(str, recording.size)) + (" channels" if len(recording.size) == 1 else "")
    where = " (extent of the events; the file does not say)" if recording.measured else ""
    rows = {"format": data.events.FORMATS[recording.format].title, "sensor": size + where, "events": f"{len(events):,}"}
    if len(events):
        t, on = events["t"], float(events["p"].mean())
        late = int((t[1:] < t[:-1]).sum())
        rows["on"] = f"{100 * on:.1f} %"
        rows["from"] = f"{int(t.min()):,} us"
        rows["duration"] = f"{recording.duration * 1e-6:.6f} s"
        rows["rate"] = f"{recording.rate:,.0f} events/s"
        rows["order"] = "by time" if not late else f"{late:,} events are earlier than the one before them"
    if recording.skipped:
        rows["damaged"] = f"{recording.skipped:,} bytes left out"
    return rows


def _read(file: Path, size: str | None, lenient: bool, **options: Any) -> data.Recording:
    if options["unit"] not in (None, "s", "ms", "us", "ns"):
        raise ConfigError(f"--unit is s, ms, us or ns; got {options['unit']!r}")
    try:
        return data.read_events(file, size=_sides(size), errors="skip" if lenient else "raise", **options)
    except data.DataError as problem:
        raise UserError(typed(str(problem))) from problem
    except ValueError as problem:  # an option that no file could have
        raise ConfigError(typed(str(problem).removeprefix("read_events: "))) from problem


def typed(message: str) -> str:
    """A message of :func:`spikeloom.data.read_events` with its arguments named as the options are typed."""
    message = message.replace('errors="skip"', "--skip-damage")
    message = re.sub(r"\b(columns|format|index|size|unit)=(?=\w|\")", r"--\1 ", message)
    return re.sub(r"\b(columns|format|index|size|unit)=|^(columns|index) (?=must)", _option, message)


def _option(found: re.Match[str]) -> str:
    return f"--{found[1]}" if found[1] else f"--{found[2]} "


def _sides(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise ConfigError(f"--size is HxW, such as 180x240, or a number of channels; got {text!r}")
    return tuple(int(p) for p in parts)


def _draw(recording: data.Recording, path: Path, title: str) -> None:
    from .. import plot

    try:
        if path.suffix.lower() == ".gif":
            plot.animate(recording).save(path, writer="pillow")
            return
        figure = plot.events(recording, title=title)[0].get_figure(root=True)
        assert figure is not None
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as problem:  # a folder that is not there, a suffix that is none of a picture
        raise UserError(f"--plot {path}: cannot be written: {problem}") from problem


class _Bars:
    """Shows a bar for each file that is downloaded, checked or unpacked; if stderr is no terminal, a line."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self._tasks: dict[str, object] = {}

    def __enter__(self) -> _Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @property
    def names(self) -> list[str]:
        """The names of the bars, in the order in which they began."""
        return list(self._tasks)

    def told(self, name: str, done: int, total: int | None) -> None:
        """Shows how far a file is; its arguments are those of ``data.Progress``."""
        if name not in self._tasks:
            if self._bars.disable:
                typer.echo(f"{name} ...", err=True)
            self._tasks[name] = self._bars.add_task(name, total=total)
        self._bars.update(self._tasks[name], completed=done, total=total)  # type: ignore[arg-type]
