"""What recipes of online gradients share: a loss of each step, whose gradients add up."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

import spikeloom as sl


def learn(net: Any, x: Tensor, labels: Tensor, *, T: int, gain: float = 1.0, **options: Any) -> tuple[Tensor, Tensor]:
    """Adds the gradients of the mean cross entropy of the ``T`` steps to ``.grad``; returns it, and the sum of outputs.

    The scores of a step are its outputs times ``gain``; ``options`` are those of :func:`spikeloom.learn.online`.
    """
    B = len(labels)

    def loss(y: Tensor, t0: int) -> Tensor:
        classes = labels.expand(len(y), B).flatten()
        return F.cross_entropy(gain * y.flatten(0, 1), classes, reduction="sum") / (T * B)

    found = [(piece.loss, piece.output.sum(0)) for piece in sl.learn.online(net, x, loss, **options)]
    losses, outputs = zip(*found, strict=True)
    return sum(losses[1:], losses[0]), sum(outputs[1:], outputs[0])
