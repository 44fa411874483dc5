"""What some recipes cannot do: run in several processes, or in mixed precision. They say so before anything is run."""

from __future__ import annotations

from spikeloom import runs


def one_process(run: runs.Run) -> None:
    """Raises ConfigError in several processes, between which a recipe would exchange no gradients."""
    if run.processes.world > 1:
        raise runs.ConfigError(f"{run.recipe} runs in one process, got {run.processes.world}")


def whole_precision(run: runs.Run) -> None:
    """Raises ConfigError for mixed precision, of which a recipe would make nothing."""
    if run.config.amp != "off":
        raise runs.ConfigError(f"amp must be off for {run.recipe}, got {run.config.amp}", setting="amp")
