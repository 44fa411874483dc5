"""AutoAugment on tensors: pairs of operations found for CIFAR-10 (E. D. Cubuk et al., 2019, arXiv:1805.09501)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Each image draws one of these pairs. An operation stands with its probability and its strength from 0 to 9.
_CIFAR10 = """
Invert .1 0 Contrast .2 6 | Rotate .7 2 TranslateX .3 9 | Sharpness .8 1 Sharpness .9 3
ShearY .5 8 TranslateY .7 9 | AutoContrast .5 0 Equalize .9 0 | ShearY .2 7 Posterize .3 7
Color .4 3 Brightness .6 7 | Sharpness .3 9 Brightness .7 9 | Equalize .6 0 Equalize .5 0
Contrast .6 7 Sharpness .6 5 | Color .7 7 TranslateX .5 8 | Equalize .3 0 AutoContrast .4 0
TranslateY .4 3 Sharpness .2 6 | Brightness .9 6 Color .2 8 | Solarize .5 2 Invert .0 0
Equalize .2 0 AutoContrast .6 0 | Equalize .2 0 Equalize .6 0 | Color .9 9 Equalize .6 0
AutoContrast .8 0 Solarize .2 8 | Brightness .1 3 Color .7 0 | Solarize .4 5 AutoContrast .9 0
TranslateY .9 9 TranslateY .7 9 | AutoContrast .9 0 Solarize .8 3 | Equalize .8 0 Invert .1 0
TranslateY .7 9 AutoContrast .9 0
"""
_PAIRS = [pair.split() for line in _CIFAR10.strip().split("\n") for pair in line.split("|")]
_GREY = (0.299, 0.587, 0.114)


class AutoAugment(nn.Module):
    """Applies to each image ``uint8 [C, H, W]`` (C is 1 or 3) one of the 25 pairs for CIFAR-10, drawn at random.

    Strengths, from 0 to 9: shear up to 0.3, translation up to 45 % of a side, rotation up to 30 degrees, brightness,
    colour, contrast and sharpness by a factor of up to 1 +- 0.9 (the sign is drawn), posterising down to 4 bits,
    solarising above 255 to 0. What comes from outside the picture is ``fill``. Put it before ``ToFloat``.

    >>> import torch
    >>> import spikeloom as sl
    >>> _ = torch.manual_seed(0)
    >>> augment = sl.data.transforms.AutoAugment()
    >>> picture = torch.full((3, 8, 8), 250, dtype=torch.uint8)
    >>> seen = {int(augment(picture).max()) for _ in range(200)}
    >>> 5 in seen  # 255 - 250, by Invert or Solarize
    True
    """

    def __init__(self, fill: int = 128) -> None:
        super().__init__()
        self.fill = fill

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.uint8 or x.ndim != 3 or x.shape[0] not in (1, 3):
            raise ValueError(f"AutoAugment: expected uint8 [1 or 3, H, W], got {x.dtype} {list(x.shape)}; put it first")
        pair = _PAIRS[int(torch.randint(len(_PAIRS), ()))]
        for name, p, strength in (pair[:3], pair[3:]):
            if torch.rand(()) < float(p):
                sign = 1 if torch.rand(()) < 0.5 else -1
                x = operate(x, name, int(strength) / 9, sign=sign, fill=self.fill)
        return x


def operate(x: Tensor, name: str, strength: float, *, sign: int = 1, fill: int = 128) -> Tensor:
    """The image ``uint8 [C, H, W]`` after the operation ``name``; ``strength`` is from 0 to 1."""
    H, W = x.shape[-2:]
    s = sign * strength
    if name == "Rotate":
        angle = math.radians(30 * s)
        return _affine(x, ((math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))), (0, 0), fill)
    if name in ("ShearX", "ShearY"):
        m = ((1, 0.3 * s), (0, 1)) if name == "ShearX" else ((1, 0), (0.3 * s, 1))
        return _affine(x, m, (0, 0), fill)
    if name in ("TranslateX", "TranslateY"):
        shift = 150 / 331 * s
        return _affine(
            x, ((1, 0), (0, 1)), (round(shift * W), 0) if name == "TranslateX" else (0, round(shift * H)), fill
        )
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return _blend(x, _dull(x, name), 1 + 0.9 * s)
    if name == "Posterize":
        return x & ((0xFF << round(4 * strength)) & 0xFF)
    if name == "Solarize":
        return torch.where(x < 255 * (1 - strength), x, 255 - x)
    if name == "Invert":
        return 255 - x
    if name == "AutoContrast":
        return torch.stack([_stretched(channel) for channel in x])
    if name == "Equalize":
        return torch.stack([_equalized(channel) for channel in x])
    raise ValueError(f"AutoAugment: there is no operation {name!r}")


def _affine(x: Tensor, matrix: tuple[tuple[float, float], ...], shift: tuple[int, int], fill: int) -> Tensor:
    """Takes each pixel from the nearest one to where ``matrix`` (about the middle) and then ``shift`` (x, y) lead."""
    H, W = x.shape[-2:]
    row, column = torch.meshgrid(torch.arange(H) - (H - 1) / 2, torch.arange(W) - (W - 1) / 2, indexing="ij")
    (a, b), (c, d) = matrix
    left = (a * column + b * row + (W - 1) / 2).round().long() + shift[0]
    top = (c * column + d * row + (H - 1) / 2).round().long() + shift[1]
    inside = (left >= 0) & (left < W) & (top >= 0) & (top < H)
    moved = x[:, top.clamp(0, H - 1), left.clamp(0, W - 1)]
    return torch.where(inside, moved, torch.tensor(fill, dtype=x.dtype))


def _dull(x: Tensor, name: str) -> Tensor:
    """The image that an operation blends with: black, grey, its mean grey, or a smoothed copy."""
    if name == "Brightness":
        return torch.zeros_like(x)
    if name == "Sharpness":
        if min(x.shape[-2:]) < 3:
            return x
        kernel = torch.ones(3, 3) / 13
        kernel[1, 1] = 5 / 13
        smooth = x.clone()
        inner = F.conv2d(x.float().unsqueeze(1), kernel[None, None])[:, 0]
        smooth[:, 1:-1, 1:-1] = (inner + 0.5).floor().to(x.dtype)
        return smooth
    grey = x
    if len(x) == 3:
        weights = torch.tensor(_GREY).view(3, 1, 1)
        grey = ((x * weights).sum(0, keepdim=True) + 0.5).floor().clamp(max=255).to(x.dtype)
    if name == "Color":
        return grey.expand_as(x)
    return torch.full_like(x, int(grey.double().mean() + 0.5))


def _blend(x: Tensor, dull: Tensor, share: float) -> Tensor:
    """``dull + share (x - dull)``, cut to 0 and 255."""
    return (dull + share * (x.float() - dull.float())).clamp(0, 255).to(x.dtype)


def _stretched(channel: Tensor) -> Tensor:
    low, high = int(channel.min()), int(channel.max())
    if high <= low:
        return channel
    scale = 255 / (high - low)
    return ((channel.double() - low) * scale).clamp(0, 255).to(channel.dtype)


def _equalized(channel: Tensor) -> Tensor:
    """Makes all values about equally frequent, by one table of values."""
    counts = torch.bincount(channel.flatten().long(), minlength=256)
    used = counts[counts > 0]
    step = (int(counts.sum()) - int(used[-1])) // 255
    if step == 0:
        return channel
    before = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)[:-1]))
    table = ((before + step // 2) // step).clamp(max=255).to(channel.dtype)
    return table[channel.long()]
