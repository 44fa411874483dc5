"""Voting: the outputs of a population of neurons for each class, averaged."""

from __future__ import annotations

from torch import Tensor

from .._constants import HasConstants
from ..core import active


class Voting(HasConstants):
    """The mean of each group of ``size`` neighbouring features: ``y_c = 1/size sum_i x_(c size + i)``.

    Args:
        size: number of neurons that vote for a class.

    The input is ``[*, classes size]``, the output ``[*, classes]``; another number of features raises ValueError. For
    counts over time see :func:`spikeloom.decode.population`.

    Fang et al., Incorporating Learnable Membrane Time Constant to Enhance Learning of SNNs, ICCV 2021.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.nn.Voting(2)(torch.tensor([[1.0, 0.0, 1.0, 1.0]]))
    tensor([[0.5000, 1.0000]])
    """

    row_wise = True

    def __init__(self, size: int = 10) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"Voting: size must be at least 1, got {size}")
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[*, classes size]`` to ``[*, classes]``."""
        if x.shape[-1] % self.size or x.shape[-1] == 0:
            raise ValueError(f"Voting: {x.shape[-1]} features cannot be divided into groups of {self.size}")
        if x.ndim < 2 and active() is not None:
            raise ValueError(
                f"Voting: expected [N, classes * {self.size}], got {list(x.shape)}: inside a Network dimension 0 holds "
                "all samples and steps; pass repeat=T for a still input, or add the batch dimension"
            )
        y: Tensor = x.unflatten(-1, (-1, self.size)).mean(-1)
        return y

    def extra_repr(self) -> str:
        return f"{self.size}"
