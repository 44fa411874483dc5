"""Pictures of training: its curves, and which classes are mistaken for which."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from torch import Tensor

from .given import kind, number, values_of
from .look import BLUE, INK, LINES, RED, UPWARDS, axes_or_new, round_ticks, styled

_MARKERS = ("o", "s", "^", "D", "v")


@styled
def curves(history: Sequence[Mapping[str, float]], *, ax: Axes | None = None, title: str = "") -> Axes:
    """Loss and accuracies over epochs, a mark for each epoch; each row of ``history`` has ``epoch``, ``loss`` and any
    number of ``*accuracy``, of which ``accuracy`` alone is that on training samples.

    Where a row lacks an accuracy, its curve has a gap.

    >>> import spikeloom as sl
    >>> history = [{"epoch": 1, "loss": 0.5, "test_accuracy": 0.9}, {"epoch": 2, "loss": 0.25, "test_accuracy": 0.95}]
    >>> ax = sl.plot.curves(history)
    >>> ax.lines[0].get_ydata().tolist(), [text.get_text() for text in ax.get_legend().get_texts()]
    ([0.5, 0.25], ['training loss', 'test accuracy'])
    """
    if not isinstance(history, Sequence) or not all(isinstance(row, Mapping) for row in history):
        raise TypeError(f"plot.curves: expected a list of rows, figures by name, got {kind(history)}")
    if len(history) == 0:
        raise ValueError("plot.curves: expected a row for each of one or more epochs, got none")
    for place, row in enumerate(history):
        missing = [key for key in ("epoch", "loss") if key not in row]
        if missing:
            raise ValueError(
                f"plot.curves: row {place} has no {missing[0]!r}, it has {', '.join(map(str, row)) or 'nothing'}"
            )
    ax = axes_or_new(ax)

    def course(name: str) -> list[float]:
        return [number(row.get(name, math.nan), "plot.curves", name) for row in history]

    epochs = course("epoch")
    dense = {"markersize": 4.5, "markevery": max(len(epochs) // 40, 1)}
    loss = course("loss")
    ax.plot(epochs, loss, color=INK, label="training loss", marker="o", **dense)  # type: ignore[arg-type]
    ax.set(xlabel="epoch", ylabel="loss")
    if not any(value < 0 for value in loss):
        ax.set_ylim(0, None)
    first, last = min(epochs), max(epochs)
    ax.set_xlim(first - max(0.02 * (last - first), 0.25), last + max(0.02 * (last - first), 0.25))
    round_ticks(ax.xaxis, 10)
    lines = list(ax.get_lines())
    shares = list(dict.fromkeys(key for row in history for key in row if str(key).endswith("accuracy")))
    if shares:
        right = ax.twinx()
        right.spines["right"].set_visible(True)
        others = iter([RED, *LINES[3:]] * len(shares))
        for k, name in enumerate(shares):
            training = name in ("accuracy", "training_accuracy", "train_accuracy")
            right.plot(
                epochs,
                [100 * share for share in course(name)],
                color=BLUE if training else next(others),
                marker=_MARKERS[(k + 1) % len(_MARKERS)],
                label="training accuracy" if training else name.replace("_", " "),
                **dense,  # type: ignore[arg-type]
            )
        right.set_ylabel("accuracy (%)")
        right.set_ylim(None, min(right.get_ylim()[1], 101.5))
        lines += right.get_lines()
    names = [str(line.get_label()) for line in lines]
    ax.legend(lines, names, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=4, borderpad=0.2, columnspacing=1.5)
    ax.set_title(title, pad=24)
    return ax


@styled
def confusion(counts: Tensor, classes: Sequence[Any], *, ax: Axes | None = None, title: str = "") -> Axes:
    """Confusion matrix of counts ``[classes, classes]``, drawn as shares of each row, which is one true class.

    Up to 30 classes, each count but 0 is written into its field.
    """
    n, values = len(classes), values_of(counts, "plot.confusion").double()
    if n == 0 or values.shape != (n, n):
        raise ValueError(f"plot.confusion: expected counts [{n}, {n}] for {n} classes, got {list(values.shape)}")
    if not bool(((values >= 0) & (values == values.floor()) & values.isfinite()).all()):
        raise ValueError(
            "plot.confusion: expected counts, which are whole and not negative; shares are drawn from them"
        )
    side = min(0.42 * n, 14.0)
    ax = axes_or_new(ax, width=max(side + 2.2, 4.2), height=max(side + 1.0, 2.6))
    shares = values / values.sum(1, keepdim=True).clamp(min=1)
    image = ax.imshow(100 * shares.numpy(), cmap=UPWARDS, vmin=0, vmax=100)
    ax.figure.colorbar(image, ax=ax, label="of the true class (%)", pad=0.03, aspect=30)
    if n <= 30:
        for i, j in values.nonzero().tolist():
            colour = "white" if shares[i, j] > 0.5 else INK if i == j else RED
            ax.text(j, i, f"{int(values[i, j])}", ha="center", va="center", fontsize="small", color=colour)
    names = [str(name) for name in classes]
    shown = range(0, n, max(n // 40, 1))  # more names than 40 would lie on each other
    ax.set_xticks(shown, [names[k] for k in shown], rotation=90 if max(map(len, names)) > 2 else 0)
    ax.set_yticks(shown, [names[k] for k in shown])
    ax.tick_params(length=0)
    ax.set(xlabel="predicted", ylabel="true")
    ax.set_title(title)
    return ax
