"""DelaySchedule: narrows the bumps of learned delays over epochs."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from .._epochs import Epochs
from .learned_delay import _Delayed


class DelaySchedule(Epochs):
    """Narrows sigma of all learned delays of a module, from half the range of delays to ``end``, exponentially:
    ``start (end / start)^(epoch / (share epochs))`` with ``start = (max_delay + 1) / 2``, held afterwards.

    Args:
        target: a module, all of whose layers with learned delays are driven, or such layers.
        epochs: epochs of the training.
        share: the part of them over which sigma narrows.
        start: sigma of the first epoch in place of half the range, the same for all layers.
        end: sigma after that.

    Call ``step()`` once an epoch; setting sigma recompiles nothing. ``state_dict()`` holds the epoch. A target without
    learned delays, or with a learnable sigma, raises ValueError.

    >>> import spikeloom as sl
    >>> layer = sl.nn.LearnedDelay(3, max_delay=7)
    >>> schedule = sl.nn.DelaySchedule(layer, epochs=8)
    >>> for _ in range(3):
    ...     print(round(float(layer.sigma), 3))
    ...     schedule.step()
    4.0
    1.414
    0.5
    """

    def __init__(
        self,
        target: nn.Module | Iterable[_Delayed],
        *,
        epochs: int,
        share: float = 0.25,
        start: float | None = None,
        end: float = 0.5,
    ) -> None:
        found = target.modules() if isinstance(target, nn.Module) else target
        self.layers = [m for m in found if isinstance(m, _Delayed)]
        if not self.layers:
            raise ValueError(f"DelaySchedule: found no layer with learned delays in {type(target).__name__}")
        if any("sigma" in layer._parameters for layer in self.layers):
            raise ValueError("DelaySchedule: the sigma of a layer is learnable; a schedule would overwrite it")
        if epochs < 1 or not 0 < share <= 1 or not end > 0 or not (start is None or start > 0):
            raise ValueError(
                "DelaySchedule: expected epochs of at least 1, a share above 0 and at most 1, and a positive start and "
                f"end; got epochs={epochs}, share={share}, start={start}, end={end}"
            )
        self.epochs, self.share, self.start, self.end = epochs, share, start, end
        super().__init__()

    def value(self, epoch: int, max_delay: int) -> float:
        """Sigma at an epoch, counted from 0, of a layer with this ``max_delay``."""
        start = (max_delay + 1) / 2 if self.start is None else self.start
        return start * float((self.end / start) ** min(1.0, epoch / (self.share * self.epochs)))

    def _set(self) -> None:
        for layer in self.layers:
            layer.sigma = self.value(self.epoch, layer.max_delay)  # type: ignore[assignment]  # Declared accepts floats
