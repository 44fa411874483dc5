"""SparseLinear: a linear layer with some of its synapses only."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import active
from ..kernel.backend import chosen, transformed
from .synapses import Places, available, times

SPARSE = 0.06
"""Synapses per pair of neurons. Up to this density a CPU sums over synapses, forward and backward."""


class SparseLinear(nn.Module):
    """``y = W x + b`` where W has values at given places only. Values and gradients exist for these synapses alone.

    Args:
        in_features, out_features: as in ``nn.Linear``.
        mask: boolean ``[out_features, in_features]``, True where there is a synapse.
        density: share of synapses that exist, drawn at random, above 0 and at most 1.
        fan_in: number of synapses of each output, drawn at random.
        seed: seed of the random connections; the same seed gives the same ones everywhere.
        bias: whether there is a bias.

    Exactly one of mask, density and fan_in is given. ``weight`` is a vector with one value per synapse, row by row;
    each begins uniform in +-1/sqrt(fan-in of its output). The buffer ``synapses`` holds their places, so that a
    checkpoint brings its connections along. The input is ``[*, in_features]``, the output ``[*, out_features]``.

    On a CPU and up to a density of 6 %, products and gradients are sums over the synapses (second derivatives need
    ``sl.backend("eager")``). Otherwise the layer multiplies by the dense matrix with zeros, and reads packed spikes as
    bits.

    A mask of another shape, or a density or fan-in out of range, raises ValueError.

    >>> import torch
    >>> import spikeloom as sl
    >>> layer = sl.nn.SparseLinear(100, 10, fan_in=5)
    >>> layer(torch.rand(3, 100)).shape, layer.weight.shape, layer.mask.sum(1).unique()
    (torch.Size([3, 10]), torch.Size([50]), tensor([5]))
    """

    row_wise = True
    synapses: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        mask: Tensor | None = None,
        density: float | None = None,
        fan_in: int | None = None,
        seed: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if sum(option is not None for option in (mask, density, fan_in)) != 1:
            raise ValueError("SparseLinear: give one of mask, density and fan_in")
        self.in_features, self.out_features = in_features, out_features
        self._places: tuple[Tensor, tuple[int, int], Places] | None = None
        if mask is None:
            mask = _random(in_features, out_features, density, fan_in, seed)
        elif mask.shape != (out_features, in_features):
            raise ValueError(
                f"SparseLinear: mask must be [out_features, in_features] = {[out_features, in_features]}, got "
                f"{list(mask.shape)}"
            )
        mask = mask.bool()
        self.register_buffer("synapses", mask.flatten().nonzero().squeeze(1))
        fans = mask.sum(1)
        bound = fans.clamp(min=1).rsqrt().repeat_interleave(fans)
        self.weight = nn.Parameter((2 * torch.rand(len(bound), device=mask.device) - 1) * bound)
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        if self.bias is not None:
            nn.init.uniform_(self.bias, -((in_features) ** -0.5), in_features**-0.5)

    @property
    def mask(self) -> Tensor:
        """Boolean ``[out_features, in_features]``, True where there is a synapse."""
        there = torch.zeros(self.out_features * self.in_features, dtype=torch.bool, device=self.synapses.device)
        there[self.synapses] = True
        return there.view(self.out_features, self.in_features)

    @property
    def density(self) -> float:
        """The number of synapses per pair of neurons."""
        return len(self.synapses) / (self.in_features * self.out_features)

    def dense_weight(self) -> Tensor:
        """W with zeros where there is no synapse, ``[out_features, in_features]``, with gradient."""
        whole = self.weight.new_zeros(self.out_features * self.in_features)
        return whole.index_put((self.synapses,), self.weight).view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[*, in_features]`` to ``[*, out_features]``."""
        if x.shape[-1] != self.in_features:
            raise ValueError(f"SparseLinear: expected [*, {self.in_features}], got {list(x.shape)}")
        if x.ndim < 2 and active() is not None:
            raise ValueError(
                f"SparseLinear: expected [N, {self.in_features}], got {list(x.shape)}: inside a Network dimension 0 "
                "holds all samples and steps; pass repeat=T for a still input, or add the batch dimension"
            )
        if not self._sparsely(x):
            return F.linear(x, self.dense_weight(), self.bias)
        y = times(x.reshape(-1, self.in_features), self.weight, self._places_now())
        y = y.reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def _places_now(self) -> Places:
        """The places of the synapses as the kernels take them, computed again only when the synapses have changed."""
        kept, shape = self._places, (self.out_features, self.in_features)
        if kept is None or kept[1] != shape or not torch.equal(kept[0], self.synapses):
            kept = self._places = self.synapses.clone(), shape, Places.of(self.synapses, *shape)
        return kept[2]

    def _sparsely(self, x: Tensor) -> bool:
        return (
            not torch.compiler.is_compiling()
            and self.density <= SPARSE
            and available(x, self.weight)
            and type(self.weight) is nn.Parameter
            and chosen() != "eager"
            and not torch.is_autocast_enabled("cpu")
            and not transformed()
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_places": None}

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {len(self.synapses)} synapses ({100 * self.density:.3g} %)"


def _random(inputs: int, outputs: int, density: float | None, fan_in: int | None, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    if density is not None:
        if not 0 < density <= 1:
            raise ValueError(f"SparseLinear: density must be above 0 and at most 1, got {density}")
        return torch.rand(outputs, inputs, generator=g) < density
    assert fan_in is not None
    if not 1 <= fan_in <= inputs:
        raise ValueError(f"SparseLinear: fan_in must be from 1 to in_features = {inputs}, got {fan_in}")
    mask = torch.zeros(outputs, inputs, dtype=torch.bool)
    return mask.scatter(1, torch.rand(outputs, inputs, generator=g).argsort(1)[:, :fan_in], True)
