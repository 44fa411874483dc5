"""What calibration notes of activations: histograms by channel, of a size that does not grow with the images."""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 2048
"""Bins of a channel's histogram: quantiles are exact to a thousandth of the largest value."""
_TINY = 2.0**-30


def by_channel(values: Tensor, dim: int) -> Tensor:
    """The values ``[channels, n]`` of a batch whose channels are dimension ``dim``, or none where that is 0."""
    return values.reshape(1, -1) if dim == 0 else values.movedim(dim, 0).flatten(1)


class Histogram:
    """The distribution of the absolute values of an activation in each channel.

    The range of a channel is a power of two, doubled whenever a larger value comes: two bins then become one.

    Args:
        channels: how many there are.
    """

    def __init__(self, channels: int) -> None:
        self.counts = torch.zeros(channels, BINS, dtype=torch.float64)
        self.range = torch.full((channels,), _TINY, dtype=torch.float64)
        self.max = torch.zeros(channels, dtype=torch.float64)
        self.zeros = torch.zeros(channels, dtype=torch.float64)
        self.low, self.high = float("inf"), float("-inf")
        self.sum, self.number = torch.zeros(channels, dtype=torch.float64), 0

    def add(self, values: Tensor, dim: int) -> None:
        """Counts the values of a batch whose channels are dimension ``dim``; all are one channel where that is 0."""
        rows = by_channel(values.detach().double().cpu(), dim)
        self.low, self.high = min(self.low, float(rows.min())), max(self.high, float(rows.max()))
        self.sum, self.number = self.sum + rows.sum(1), self.number + rows.shape[1]
        rows = rows.abs()
        if not bool(rows.isfinite().all()):
            raise ValueError("an activation of the calibration data is infinite or no number")
        self.max = torch.maximum(self.max, rows.amax(1))
        while bool((small := self.max > self.range).any()):
            halved = self.counts.view(-1, BINS // 2, 2).sum(2)
            halved = torch.cat([halved, torch.zeros_like(halved)], 1)
            self.counts = torch.where(small[:, None], halved, self.counts)
            self.range = torch.where(small, self.range * 2, self.range)
        bins = (rows / self.range[:, None] * BINS).long().clamp_(max=BINS - 1)
        bins += torch.arange(len(rows))[:, None] * BINS
        self.counts += torch.bincount(bins.flatten(), minlength=self.counts.numel()).view_as(self.counts)
        self.zeros += (rows == 0).sum(1)

    def mean(self) -> Tensor:
        """The mean of each channel."""
        return self.sum / max(self.number, 1)

    def whole(self) -> Histogram:
        """The histogram of all channels together."""
        found = Histogram(1)
        largest = self.range.max()
        for counts, width in zip(self.counts, self.range, strict=True):
            times = int((largest / width).item())
            merged = counts.view(-1, min(times, BINS)).sum(1)
            found.counts[0, : len(merged)] += merged
        found.range[0], found.max[0], found.zeros[0] = largest, self.max.max(), self.zeros.sum()
        found.low, found.high = self.low, self.high
        return found

    def quantile(self, q: float) -> Tensor:
        """The q-quantile of each channel, zeros among the values, as ``torch.quantile`` but for the width of a bin."""
        if q >= 1:
            return self.max.clone()
        rank = q * (self.counts.sum(1) - 1)
        low = self._ranked(rank.floor())
        return low + (self._ranked(rank.ceil()) - low) * (rank - rank.floor())

    def _ranked(self, rank: Tensor) -> Tensor:
        """The value of each channel that has so many smaller ones; exact for zeros and the largest."""
        wanted, cumulated = rank[:, None], self.counts.cumsum(1)
        at = (cumulated <= wanted).sum(1, keepdim=True).clamp(max=BINS - 1)
        inside = self.counts.gather(1, at)
        within = (wanted - cumulated.gather(1, at) + inside + 0.5) / inside.clamp(min=1)
        found = ((at + within) * self.range[:, None] / BINS).squeeze(1)
        found = torch.where(rank >= self.counts.sum(1) - 1, self.max, torch.minimum(found, self.max))
        return torch.where(rank < self.zeros, 0.0, found)

    def centres(self) -> Tensor:
        """The value that each bin stands for, ``[channels, bins]``."""
        return (torch.arange(BINS, dtype=torch.float64) + 0.5) * self.range[:, None] / BINS

    def least_error(self, T: int, v_init: float, *, grid: int = 60) -> Tensor:
        """The threshold of each channel that T steps of a constant input lose the least by, in the mean square.

        The best of ``grid`` equal fractions of the channel's maximum.
        """
        a = self.centres()
        best = torch.full_like(self.max, float("inf"))
        found = self.max.clone()
        for i in range(1, grid + 1):
            theta = (self.max * i / grid).clamp(min=_TINY)[:, None]
            level = torch.floor(T * a / theta + v_init).clamp(0, T)
            error = (self.counts * (level * theta / T - a) ** 2).sum(1)
            better = error < best
            best, found = torch.where(better, error, best), torch.where(better, theta.squeeze(1), found)
        return torch.where(self.max > 0, found, 0.0)
