"""formats: gradients of images lie in memory as the images do."""

from __future__ import annotations

import torch
from torch import Tensor

from .._hooks import transformed

_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def keep_format(x: Tensor) -> None:
    """Has the gradient of ``x``, the output of a layer, lie with its channels last, as ``x`` does; others are left.

    Torch derives a mean over the pixels by a gradient in the other format. The sum with the gradient of a residual
    branch has the format of the first of both, so that each layer before it would copy it again; here it is copied
    once.
    """
    if x.ndim in _LAST and x.is_contiguous(memory_format=_LAST[x.ndim]) and not transformed():
        x.register_hook(_with_channels_last)


def _with_channels_last(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=_LAST[gradient.ndim])
