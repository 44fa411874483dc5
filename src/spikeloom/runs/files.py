"""Files that are whole or as they were: they are written under another name, forced to the disk, then renamed."""

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
    """Replaces a file by ``payload`` in one step: afterwards it holds the whole payload, or what it held before."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            # Names of files need not be valid text; JSON then holds escapes, from which they can be restored.
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
    """Writes a value as indented JSON.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import spikeloom as sl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sl.runs.write_json(Path(folder) / "result.json", {"accuracy": 0.97, "epochs": 4})
    ...     print((Path(folder) / "result.json").read_text().strip())
    {
      "accuracy": 0.97,
      "epochs": 4
    }
    """
    write(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``metrics.jsonl`` and ``metrics.csv``: a line for each row, a column for each name that any row has."""
    write(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    table = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(table, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(folder / "metrics.csv", table.getvalue())


def write_picture(path: Path, draw: Callable[[], Any]) -> None:
    """Writes the matplotlib figure that ``draw`` makes as PNG; nothing is shown, and the figure is freed.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import spikeloom as sl
    >>> history = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sl.runs.write_picture(Path(folder) / "curves.png", lambda: sl.plot.curves(history).figure)
    ...     (Path(folder) / "curves.png").read_bytes()[1:4]
    b'PNG'
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, image = draw(), io.BytesIO()
    figure.savefig(image, dpi=130, format="png")
    plt.close(figure)
    write(path, image.getbuffer())


def _sync_folder(folder: Path) -> None:
    """Forces a rename in a folder to the disk, where the system can do that."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
