"""Transforms of one sample, ``[C, H, W]`` (or any shape, where a transform says so). Compose them with
``nn.Sequential``, or pass any function of a tensor.

Random ones draw from torch's default generator. The loaders seed it for each sample by (seed, epoch, sample), so that
a sample differs between epochs but does not depend on the number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._constants import HasConstants
from .autoaugment import AutoAugment

__all__ = ["AutoAugment", "CropResized", "Cutout", "Normalize", "RandomCrop", "RandomFlip", "ToFloat"]


class ToFloat(HasConstants):
    """Turns ``uint8`` from 0 to 255 into ``float32`` from 0 to 1, in any shape, also a batch.

    >>> import torch
    >>> ToFloat()(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([0.0000, 0.2000, 1.0000])
    """

    batched = True  # one call on a batch gives the same as a call on each sample

    def __init__(self, top: float = 255.0) -> None:
        super().__init__()
        self.top = top

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.float32) / self.top


class Normalize(nn.Module):
    """``(x - mean) / std`` for each channel of ``[*, C, H, W]``.

    >>> import torch
    >>> import spikeloom as sl
    >>> normalize = sl.data.transforms.Normalize([0.5, 0.25], [0.25, 0.25])
    >>> normalize(torch.full((2, 1, 1), 0.75)).flatten()
    tensor([1., 2.])
    """

    batched = True
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"Normalize: needs a mean and a positive std for each channel, got {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 3 or x.shape[-3] != len(self.mean):
            raise ValueError(f"Normalize: expected [*, {len(self.mean)}, H, W], got {list(x.shape)}")
        return (x - self.mean) / self.std


class RandomCrop(nn.Module):
    """Pads ``[C, H, W]`` with ``padding`` zeros on each side, and cuts out a random window of the old size.

    >>> import torch
    >>> import spikeloom as sl
    >>> picture = sl.data.transforms.RandomCrop(1)(torch.ones(1, 3, 3))
    >>> picture.shape, picture.sum().item() in (4, 6, 9)  # rows and columns of zeros come in, one each at most
    (torch.Size([1, 3, 3]), True)
    """

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        p = self.padding
        top, left = torch.randint(2 * p + 1, (2,)).tolist()
        return F.pad(x, (p, p, p, p))[..., top : top + x.shape[-2], left : left + x.shape[-1]]


class RandomFlip(nn.Module):
    """Mirrors left and right with probability ``p``."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(-1) if torch.rand(()) < self.p else x


class Cutout(nn.Module):
    """Sets a square of ``size`` pixels a side around a random pixel to 0 (DeVries, Taylor, 2017, arXiv:1708.04552).

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.data.transforms.Cutout(1)(torch.ones(1, 4, 4)).sum()
    tensor(15.)
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        row, column = int(torch.randint(H, ())), int(torch.randint(W, ()))
        top, left = row - self.size // 2, column - self.size // 2
        x = x.clone()
        x[..., max(top, 0) : max(top + self.size, 0), max(left, 0) : max(left + self.size, 0)] = 0
        return x


class CropResized(nn.Module):
    """A window of ``[C, H, W]``, scaled to ``size x size``: a random one of 8 to 100 % of the area and of sides 3:4 to
    4:3 (C. Szegedy et al., 2015), or, if not ``random``, the middle 224/256 of the shorter side.

    >>> import torch
    >>> import spikeloom as sl
    >>> columns = torch.arange(16.0).expand(1, 16, 16)
    >>> sl.data.transforms.CropResized(14, random=False)(columns)[0, 0]  # 16 * 224 / 256 is 14
    tensor([ 1.,  2.,  3.,  4.,  5.,  6.,  7.,  8.,  9., 10., 11., 12., 13., 14.])
    """

    def __init__(self, size: int = 224, *, random: bool = True) -> None:
        super().__init__()
        self.size, self.random = size, random

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        h = w = max(round(min(H, W) * 224 / 256), 1)
        if self.random:
            for _ in range(10):
                area, ratio = (
                    H * W * (0.08 + 0.92 * torch.rand(())),
                    torch.exp((2 * torch.rand(()) - 1) * math.log(4 / 3)),
                )
                if (side_w := round(float((area * ratio).sqrt()))) <= W and (
                    side_h := round(float((area / ratio).sqrt()))
                ) <= H:
                    h, w = max(side_h, 1), max(side_w, 1)
                    break
            top, left = int(torch.randint(H - h + 1, ())), int(torch.randint(W - w + 1, ()))
        else:
            top, left = (H - h) // 2, (W - w) // 2
        cut = x[..., top : top + h, left : left + w].float().unsqueeze(0)
        scaled = nn.functional.interpolate(cut, (self.size, self.size), mode="bilinear", antialias=True)[0]
        return scaled.round().clamp(0, 255).to(x.dtype) if not x.is_floating_point() else scaled
