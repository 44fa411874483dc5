"""DECOLLE: blocks that each learn from a random readout of their own, and pass no error on.

Kaiser, Mostafa and Neftci, Synaptic Plasticity Dynamics for Deep Continuous Local Learning (DECOLLE), Frontiers in
Neuroscience 14, 2020.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class DECOLLE(nn.Module):
    """Blocks with local losses: each is given the output of the one before without its gradient, and is read out by
    fixed random weights.

    Args:
        blocks: pairs of a module, such as ``nn.Sequential(nn.Linear(4, 8), sl.LIF())``, and the number of values of its
            output for one sample.
        classes: outputs of each readout.
        gain: readout weights are uniform within ``gain / sqrt(features)``.

    It is the body of a network: ``sl.Network(DECOLLE(...))`` gives ``[T, B, blocks, classes]``. The loss is a sum over
    blocks, so that it takes a target for all of them; the last block is the one to decide by. In pieces with
    eligibilities (:func:`online`) the gradient of a block of one layer and its neurons is exactly that of its own loss,
    forward in time. :func:`decolle_activity` is the paper's regulariser.

    >>> import torch
    >>> import spikeloom as sl
    >>> first, second = (torch.nn.Sequential(torch.nn.Linear(n, 8), sl.LIF()) for n in (4, 8))
    >>> net = sl.Network(sl.learn.DECOLLE([(first, 8), (second, 8)], classes=3))
    >>> net(torch.rand(6, 2, 4)).shape
    torch.Size([6, 2, 2, 3])
    """

    paper = "Kaiser, Mostafa and Neftci, Synaptic Plasticity Dynamics for Deep Continuous Local Learning, 2020"

    def __init__(self, blocks: Iterable[tuple[nn.Module, int]], *, classes: int, gain: float = 1.0) -> None:
        super().__init__()
        pairs = list(blocks)
        if not pairs:
            raise ValueError("DECOLLE: there are no blocks")
        self.blocks = nn.ModuleList(block for block, _ in pairs)
        self.readouts = nn.ModuleList(nn.Linear(features, classes, bias=False) for _, features in pairs)
        for (_, features), readout in zip(pairs, self.readouts, strict=True):
            assert isinstance(readout, nn.Linear)
            nn.init.uniform_(readout.weight, -gain * features**-0.5, gain * features**-0.5)
            readout.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """The readouts of all blocks, ``[rows, blocks, classes]``."""
        found = []
        for block, readout in zip(self.blocks, self.readouts, strict=True):
            x = block(x.detach())
            found.append(readout(x.flatten(1)))
        return torch.stack(found, 1)


def decolle_activity(u: Tensor, *, high: float = 1e-2, low: float = 6e-5) -> Tensor:
    """What keeps the neurons of a block from being always active, and the block from being silent.

    ``sum_t (high < [u + 0.01]+ > + low [0.1 - < sigmoid(u) >]+)``, where u is the voltage less the threshold, < > the
    mean over samples and neurons, and []+ the positive part. It is the form of the authors' code; the paper's equation
    has u in place of sigmoid(u).

    Args:
        u: voltages less thresholds ``[K, B, *]``, recorded as ``<path>.u``.
        high, low: strengths; the defaults are the ratio in the authors' code, for a factor of their own.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.learn.decolle_activity(torch.full((2, 1, 1), 0.99))  # two steps of 0.01 (0.99 + 0.01)
    tensor(0.0200)
    >>> first = torch.nn.Sequential(torch.nn.Linear(4, 8), sl.LIF())
    >>> net = sl.Network(sl.learn.DECOLLE([(first, 8)], classes=3))
    >>> def loss(y, t0, record):
    ...     return y.square().sum() + sl.learn.decolle_activity(record["blocks.0.1.u"])
    >>> options = {"steps": 5, "method": "eligibility", "record": ("blocks.0.1.u",)}
    >>> for piece in sl.learn.online(net, torch.rand(20, 2, 4), loss, **options):
    ...     pass
    """
    if u.ndim < 3:
        raise ValueError(f"learn.decolle_activity: expected u [K, B, *], got {list(u.shape)}")
    rows = u.flatten(1)
    return (high * (rows + 0.01).relu().mean(1) + low * (0.1 - rows.sigmoid().mean(1)).relu()).sum()
