"""Any network of ``spikeloom list models`` on CIFAR10-DVS: recordings as frames of counted events.

    spikeloom train cifar10-dvs
    spikeloom train cifar10-dvs --model sew_resnet_cifar10dvs --size 128 --T 16

The loop is that of the recipe dvs-gesture. The recordings are scaled to 48 pixels a side, and mirrored and shifted in
training. The set has no official split: the first hundred recordings of each class are for testing, as in TEBN (C. Duan
et al., 2022), and figures with another split do not compare. Of the others a tenth is held out and measured after each
epoch. The last epoch counts, and the test set is used once, after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from . import dvs_gesture
from .dvs_gesture import build, data, measures, scores, train

__all__ = ["Config", "build", "data", "measures", "scores", "train"]


@dataclass(frozen=True, kw_only=True)
class Config(dvs_gesture.Config):
    """Settings of frames and augmentation."""

    dataset: ClassVar[str] = "cifar10-dvs"

    batch_size: int = 32
    model: str = "spiking_vgg9_bn"
    T: int = 10
    size: int = 48
    by: str = "time"
    flip: bool = True
