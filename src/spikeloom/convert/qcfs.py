"""QCFS: the activation that trains a network for conversion.

    y = scale clamp(floor(x levels / scale + 1/2) / levels, 0, 1)

Bu et al., Optimal ANN-SNN Conversion for High-accuracy and Ultra-low-latency Spiking Neural Networks, ICLR 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class QCFS(nn.Module):
    """Quantised, clipped ReLU with a learned scale: ``y = scale clamp(floor(x levels / scale + 1/2) / levels, 0, 1)``.

    What an integrate-and-fire neuron with the threshold ``scale``, which begins at half of it, gives on average in
    ``levels`` steps of a constant input. Train a network with it in place of ``nn.ReLU``, and convert it with
    :class:`Rate`, which takes ``scale`` as the threshold.

    Args:
        levels: steps of the quantisation.
        scale: the first value of the learned scale.

    The gradient passes straight through the rounding: that of y by x is 1 from 0 to ``scale`` and 0 beyond; that by
    ``scale`` is ``y/scale - x/scale`` there and 1 above. Input and output have any shape.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.convert.QCFS(4, scale=2.0)(torch.tensor([-1.0, 0.2, 0.3, 1.2, 5.0])).detach()
    tensor([0.0000, 0.0000, 0.5000, 1.0000, 2.0000])
    """

    def __init__(self, levels: int = 8, *, scale: float = 8.0) -> None:
        super().__init__()
        if levels < 1 or not scale > 0:
            raise ValueError(f"QCFS: levels must be at least 1 and scale above 0, got {levels} and {scale}")
        self.levels = levels
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        """The quantised activation."""
        level = (x / self.scale).clamp(0, 1) * self.levels
        level = level + (torch.floor(level + 0.5) - level).detach()
        return self.scale * level / self.levels

    def extra_repr(self) -> str:
        return f"levels={self.levels}, scale={float(self.scale):.4g}"
