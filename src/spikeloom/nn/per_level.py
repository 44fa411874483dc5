"""per_level: what makes fractions of the whole numbers that a neuron fires."""

from __future__ import annotations

from torch import Tensor, nn


class PerLevel(nn.Module):
    """Counts of a neuron that fires whole numbers, divided by the most that it fires."""

    row_wise = True

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, counts: Tensor) -> Tensor:
        return counts / self.levels

    def extra_repr(self) -> str:
        return str(self.levels)


def per_level(neuron: nn.Module) -> list[nn.Module]:
    """The division for a neuron with ``levels``, such as ``ILIF``; nothing for others."""
    levels = getattr(neuron, "levels", None)
    return [PerLevel(levels)] if isinstance(levels, int) else []
