"""Files that are whole or as they were: written under another name, forced to the disk, then renamed."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .settings import UserError


class WriteError(UserError):
    """A file could not be written; what was there before is untouched."""


def write(path: Path, payload: bytes | memoryview | str) -> None:
    """Replaces a file by ``payload`` at once: afterwards it holds all of it, or is what it was."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            # Names of files need not be text; what JSON then holds are escapes that give them back.
            file.write(payload.encode(errors="backslashreplace") if isinstance(payload, str) else payload)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as problem:
        partial.unlink(missing_ok=True)
        kept = f"; {path.name} is as it was before" if path.exists() else ""
        raise WriteError(f"{path} could not be written: {problem.strerror or problem}{kept}") from problem


def write_json(path: Path, value: Any) -> None:
    """JSON, indented."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """``metrics.jsonl`` and ``metrics.csv``: a line for each row, a column for each name that any row has."""
    write(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    table = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(table, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(folder / "metrics.csv", table.getvalue())


def write_picture(path: Path, draw: Callable[[], Any]) -> None:
    """The matplotlib figure that ``draw`` makes, as PNG; nothing is shown, and the figure is freed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, image = draw(), io.BytesIO()
    figure.savefig(image, dpi=130, format="png")
    plt.close(figure)
    write(path, image.getbuffer())


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable, where folders can be synchronised."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
