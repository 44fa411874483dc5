"""Waiting: a layer that fires when all of its input is there.

n = clamp(floor(T X / v_threshold + 1/2), 0, T) with X = x[0] + ... + x[T-1];  y[t] = v_threshold / T [t < n]
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from .._numbers import POSITIVE, Declared, Number
from .._time import wide
from ..core import State, TemporalModule
from ..spikes import SpikeTensor


class Waiting(Declared, TemporalModule):
    """Waits for the sum of its input, and then fires so often that its outputs add up to the quantised ReLU of it.

    Args:
        v_threshold: the largest sum; one value, one per channel or one per neuron.

    In T steps it sends ``n = clamp(floor(T X / v_threshold + 1/2), 0, T)`` spikes, each worth ``v_threshold / T``;
    X is the sum of all inputs. It is not causal: on hardware each layer takes T steps after the one before it. It has
    no state and no gradient. Input and output are ``[T, B, *]``.

    >>> import torch
    >>> import spikeloom as sl
    >>> x = torch.tensor([[0.2], [0.0], [0.35], [0.0]])
    >>> sl.convert.Waiting(v_threshold=1.0).sequence(x)[0].flatten()
    tensor([0.2500, 0.2500, 0.0000, 0.0000])
    """

    causal = False
    alphabet = "binary, graded"
    limits: ClassVar = {"v_threshold": POSITIVE}
    v_threshold: Tensor

    def __init__(self, *, v_threshold: Number = 1.0) -> None:
        super().__init__()
        self.numbers(v_threshold=v_threshold)

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, *]``."""
        self.check_record(record)
        x = xs[0].unpack() if isinstance(xs[0], SpikeTensor) else xs[0]
        if lengths is not None:
            raise ValueError("Waiting: fires after all T steps of a batch, so that it takes no lengths")
        T = x.shape[0]
        total = x.sum(0, dtype=wide(x.dtype))
        theta = self.broadcast("v_threshold", total.shape, total.dtype)
        n = torch.floor(T * total / theta + 0.5).clamp(0, T)
        steps = torch.arange(T, device=x.device, dtype=total.dtype).view(-1, *(1,) * total.ndim)
        y = (steps < n).to(x.dtype) * (theta / T).to(x.dtype)
        return (y, None, {}) if record else (y, None)
