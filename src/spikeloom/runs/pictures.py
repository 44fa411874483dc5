"""The pictures of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from .._extras import install
from . import files


def write(
    out: Path,
    history: Sequence[Mapping[str, float]],
    counts: Tensor | None,
    classes: Sequence[str],
    own: Callable[[], Mapping[str, Any]],
    tell: Callable[[str], None],
) -> None:
    """Writes curves, the confusion matrix of test samples if there are counts, and the figures of ``own()`` by name;
    says which, or what has to be installed for pictures.
    """
    names = ["curves"]
    try:
        files.write_picture(out / "curves.png", partial(_curves, history))
        if counts is not None and counts.sum() > 0:
            names.append("confusion-test")
            files.write_picture(out / "confusion-test.png", partial(confusion, counts, classes, "test"))
        for name, figure in own().items():
            names.append(name)
            files.write_picture(out / f"{name}.png", partial(_same, figure))
    except ModuleNotFoundError as missing:
        tell(f"no pictures: they need {missing.name}; {install('plot')}")
        return
    tell(f"pictures in {out}/: {', '.join(f'{name}.png' for name in names)}")


def confusion(counts: Tensor, classes: Sequence[str], split: str) -> Any:
    """A figure of which class was taken for which in a split, with the share that is right.

    >>> import torch
    >>> import spikeloom as sl
    >>> figure = sl.runs.confusion_picture(torch.tensor([[3, 1], [0, 4]]), ["a", "b"], "test")
    >>> figure.axes[0].get_title(loc="left")
    '87.50 % of 8 test samples'
    """
    from .. import plot

    total = int(counts.sum())
    right = int(counts.diagonal().sum())
    title = f"{100 * right / max(total, 1):.2f} % of {total:,} {split} samples"
    return plot.confusion(counts, classes, title=title).figure


def _curves(history: Sequence[Mapping[str, float]]) -> Any:
    from .. import plot

    return plot.curves(history).figure


def _same(figure: Any) -> Any:
    return figure
