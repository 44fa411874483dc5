"""Draws the returns of the recipes of reinforcement learning from their logs: python docs/reproductions/returns.py"""

import csv
from pathlib import Path

from matplotlib import pyplot as plt

HERE = Path(__file__).parent
GOALS = {"cartpole-a2c": 475.0, "cartpole-dqn": 475.0, "pendulum-ilc": -200.0}


def returns(file: Path) -> tuple[list[int], list[float]]:
    """Epochs, and the mean return of the episodes that ended in each; epochs without one are left out."""
    with file.open() as rows:
        known = [row for row in csv.DictReader(rows) if row["return"]]
    return [int(row["epoch"]) for row in known], [float(row["return"]) for row in known]


def main() -> None:
    """Writes reinforcement.png."""
    logs = {name: sorted(HERE.glob(f"{name}-*.csv")) for name in GOALS}
    shown = [name for name in GOALS if logs[name]]
    figure, axes = plt.subplots(1, len(shown), figsize=(10.0, 3.0), layout="constrained", squeeze=False)
    for ax, name in zip(axes[0], shown, strict=True):
        for file in logs[name]:
            ax.plot(*returns(file), label=f"seed {file.stem[-1]}")
        ax.axhline(GOALS[name], color="0.6", linestyle="--", linewidth=1.0)
        ax.set(xlabel="epoch", title=name)
        ax.legend(frameon=False, fontsize=9)
    axes[0, 0].set_ylabel("mean return in training")
    figure.savefig(HERE / "reinforcement.png", dpi=110)


if __name__ == "__main__":
    main()
