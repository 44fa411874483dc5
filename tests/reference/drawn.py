"""What both sides of a comparison of models draw, by NumPy's frozen generator: weights, inputs, directions.

Neither weights nor gradients of a model are kept in a file: both sides draw the weights, and a gradient is compared by
its norm and by eight projections.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

LEARNED = (nn.Conv1d, nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
SEED, DIRECTIONS = 24, 8


class Place(NamedTuple):
    """A parameter, which of the equal parts of it, and around what it is drawn how wide."""

    parameter: Tensor
    part: int
    of: int
    middle: float
    width: float


def places(parts):
    """Weights and biases, first of convolutions and linear layers, then of norms, in the order of registration.

    A layer whose path has ``qkv`` or ``qk_`` in it does the work of three or two, one after the other.
    """
    named = [pair for part in parts for pair in part.named_modules()]
    found = []
    for kinds in (LEARNED, NORMS):
        for path, module in named:
            if isinstance(module, kinds):
                of = 3 if "qkv" in path else 2 if "qk_" in path else 1
                norm = kinds is NORMS
                width = 0.7 if norm else 2 * module.weight[0].numel() ** -0.5
                weight, bias = (module.weight, 3.0 * norm, width), (module.bias, 0.3 * norm, 0.7 if norm else 0.3)
                for part in range(of):
                    found += [Place(p, part, of, *how) for p, *how in (weight, bias) if p is not None]
    return found


def fill(found):
    """Draws all weights and biases, so that neurons fire."""
    draw = np.random.RandomState(SEED)
    with torch.no_grad():
        for place in found:
            chunk = place.parameter.chunk(place.of)[place.part]
            chunk.copy_(torch.from_numpy(place.middle + place.width * draw.standard_normal(chunk.shape)))


def images(shape):
    """An input of normal numbers."""
    return torch.from_numpy(np.random.RandomState(SEED + 1).standard_normal(shape))


def summary(found):
    """Norm of each gradient, and its projections on directions: ``[places, 1 + DIRECTIONS]``."""
    draw, rows = np.random.RandomState(SEED + 2), []
    for place in found:
        grad = place.parameter.grad.chunk(place.of)[place.part].reshape(-1)
        directions = torch.from_numpy(draw.standard_normal((DIRECTIONS, grad.numel())))
        rows.append(torch.cat([grad.norm()[None], directions @ grad]))
    return torch.stack(rows)
