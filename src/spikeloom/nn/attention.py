"""Attention between spikes: SpikingSelfAttention, QKAttention, SpikeDrivenSelfAttention.

    SpikingSelfAttention:      y = neuron_0.5(0.125 v k^T q)
    QKAttention:               y = neuron_0.5(sum of q) * k
    SpikeDrivenSelfAttention:  y = q * neuron_0.5(sum of k * v),  or the products above

q, k and v are spikes of heads, ``[rows, h, d, N]``, with N tokens of C = h d channels; channel ``c`` is number
``c % d`` of head ``c // d``. There is no softmax. All are plain modules on the rows of a :class:`spikeloom.Network`:
they know no time, and the neurons inside them have their states as neurons anywhere.

Zhou et al., Spikformer, ICLR 2023; Zhou et al., QKFormer, NeurIPS 2024; Yao et al., Spike-driven Transformer, NeurIPS
2023, V2, ICLR 2024, V3, IEEE TPAMI 2025.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._constants import HasConstants
from ..core import TemporalModule
from ..neuron import ILIF, LIF, Dynamics
from .attention_products import products, total
from .factory import NeuronFactory, checked, neuron_by
from .norm_neuron import NormNeuron
from .per_level import per_level
from .reparametrised import RepConv, check_evaluation, folded

_THRESHOLD = 0.5  # of the neurons on products of spikes, in all papers


class _Attention(HasConstants):
    """What the kinds share: heads, how branches are made, checks of the input, fusion."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim < 1 or dim % heads:
            raise ValueError(
                f"{type(self).__name__}: dim must be a multiple of heads, got dim={dim} and heads={heads}; each head "
                "has dim / heads channels"
            )
        self.dim, self.heads = dim, heads

    def _neuron(self, neuron: NeuronFactory, place: str, features: int, **numbers: float) -> TemporalModule:
        where = f"{type(self).__name__}: the neuron of {place!r}"
        made = neuron_by(checked(neuron, where), where, features, **numbers)
        if not isinstance(made, TemporalModule):
            raise TypeError(f"{where}: expected one such as sl.LIF(), got {type(made).__name__}")
        return made

    def _branch(self, neuron: NeuronFactory, place: str, sizes: tuple[int, int], *, bias: bool) -> nn.Sequential:
        """A 1x1 convolution of tokens, a batch norm and a neuron."""
        fires = self._neuron(neuron, place, sizes[1])
        return nn.Sequential(nn.Conv1d(*sizes, 1, bias=bias), *_joined(nn.BatchNorm1d(sizes[1]), fires))

    def _heads(self, x: Tensor) -> Tensor:
        """``[rows, C, N]`` as ``[rows, h, d, N]``."""
        heads: Tensor = x.unflatten(1, (self.heads, -1))
        return heads

    def _check(self, x: Tensor, layout: str) -> None:
        """Raises ValueError unless x is ``[rows, dim, N]``, ``[rows, dim, H, W]`` or, for ``*``, any of these."""
        sizes = {"N": (3,), "H, W": (4,)}.get(layout, range(3, x.ndim + 1))
        if x.ndim not in sizes or x.shape[1] != self.dim:
            remedy = "; x.flatten(2) makes tokens of images" if layout == "N" and x.ndim > 3 else ""
            raise ValueError(
                f"{type(self).__name__}: expected [rows, {self.dim}, {layout}], channels first, got "
                f"{list(x.shape)}{remedy}"
            )

    def fuse(self) -> _Attention:
        """A copy for evaluation, with every batch norm in the convolution before it and RepConvs as one convolution.

        Raises RuntimeError in training mode.
        """
        check_evaluation(self)
        made = copy.deepcopy(self)
        for name, branch in self.named_children():
            if isinstance(branch, nn.Sequential):
                setattr(made, name, folded(copy.deepcopy(branch)))
        return made

    def extra_repr(self) -> str:
        return f"{self.dim}, heads={self.heads}"


class SpikingSelfAttention(_Attention):
    """Self-attention of spikes without softmax: ``y = proj(neuron_0.5(scale v k^T q))``.

    ``q, k, v = neuron(bn(W x))``, and ``proj`` is a 1x1 convolution, a batch norm and a neuron too.

    Args:
        dim: channels C of the input and the output.
        heads: number of heads h, a divisor of dim; each has d = C / h channels.
        neuron: makes a neuron for each place, called as ``neuron()``, and ``neuron(v_threshold=0.5)`` for the one on
            the products; a signature with ``features`` gets the number of channels. None is the papers':
            ``LIF(tau=2.0, detach_reset=True)``.
        scale: what the products are multiplied by; 0.125 whatever d is, as in the papers.
        bias: whether the convolutions of q, k and v have a bias, and that of the projection.
        gives: ``"spikes"``, or ``"currents"``: the projection ends in its norm, for models that add currents.

    The input is tokens ``[rows, C, N]``, channels first (``x.flatten(2)`` of images), the output is of the same
    shape. Where d is less than N, ``(v k^T) q`` is computed, else ``v (k^T q)``: of spikes both are whole numbers,
    which float32 holds exactly up to 2^24 (TF32, where it is switched on, up to N = 2048), so that they are equal to
    the bit. Under autocast, and in networks of a smaller dtype, the products are float32 (float16 on a GPU while
    ``N d`` is at most 2048), since bfloat16 is exact to 256 only. For the backward pass q, k and v are kept, packed
    ones as bits, and nothing that is made of them.

    Raises ValueError for other shapes and for a dim that heads do not divide, TypeError for a factory that does not
    take what it is given.

    Zhou et al., Spikformer: When Spiking Neural Network Meets Transformer, ICLR 2023.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Conv1d(3, 32, 1), sl.LIF(), sl.nn.SpikingSelfAttention(32, 4))
    >>> net(torch.rand(5, 2, 3, 49)).shape
    torch.Size([5, 2, 32, 49])
    """

    paper = "Zhou et al., Spikformer: When Spiking Neural Network Meets Transformer, ICLR 2023"

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        neuron: NeuronFactory | None = None,
        scale: float = 0.125,
        bias: tuple[bool, bool] = (False, True),
        gives: Literal["spikes", "currents"] = "spikes",
    ) -> None:
        super().__init__(dim, heads)
        if gives not in ("spikes", "currents"):
            raise ValueError(f"SpikingSelfAttention: gives must be spikes or currents, got {gives!r}")
        neuron = _lif if neuron is None else neuron
        self.scale = scale
        self.q, self.k, self.v = (self._branch(neuron, place, (dim, dim), bias=bias[0]) for place in "qkv")
        self.attention = self._neuron(neuron, "attention", dim, v_threshold=_THRESHOLD)
        if gives == "spikes":
            self.proj = self._branch(neuron, "proj", (dim, dim), bias=bias[1])
        else:
            self.proj = nn.Sequential(nn.Conv1d(dim, dim, 1, bias=bias[1]), nn.BatchNorm1d(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens ``[rows, C, N]`` to spikes or currents of the same shape."""
        self._check(x, "N")
        q, k, v = (self._heads(branch(x)) for branch in (self.q, self.k, self.v))
        y = products(q, k, v, binary=_binary(self)).flatten(1, 2)
        given: Tensor = self.proj(self.attention(y * self.scale).to(q.dtype))
        return given


class QKAttention(_Attention):
    """Attention that is linear in the number of tokens: ``y = proj(neuron_0.5(sum of q) * k)``.

    ``q, k = neuron(bn(W x))``. The sum is over the d channels of a head, so that each head keeps a token or does not,
    or over the N tokens, so that a channel is kept or not; ``proj`` is a 1x1 convolution, a batch norm and a neuron.

    Args:
        over: ``"token"``: the sum over d is a mask of tokens; ``"channel"``: the sum over N is a mask of channels.
        others: see :class:`SpikingSelfAttention`.

    Input and output are ``[rows, C, N]``. Packed spikes stay bits: sums are counted, and the mask is an AND.

    Zhou et al., QKFormer: Hierarchical Spiking Transformer using Q-K Attention, NeurIPS 2024.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(sl.nn.QKAttention(32, 4, over="channel"))
    >>> net(torch.rand(5, 2, 32, 49)).shape
    torch.Size([5, 2, 32, 49])
    """

    paper = "Zhou et al., QKFormer: Hierarchical Spiking Transformer using Q-K Attention, NeurIPS 2024"

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        over: Literal["token", "channel"] = "token",
        neuron: NeuronFactory | None = None,
        bias: tuple[bool, bool] = (False, True),
    ) -> None:
        super().__init__(dim, heads)
        if over not in ("token", "channel"):
            raise ValueError(f"QKAttention: over must be token or channel, got {over!r}")
        neuron = _lif if neuron is None else neuron
        self.over = over
        self.q, self.k = (self._branch(neuron, place, (dim, dim), bias=bias[0]) for place in "qk")
        masks = heads if over == "token" else dim
        self.attention = self._neuron(neuron, "attention", masks, v_threshold=_THRESHOLD)
        self.proj = self._branch(neuron, "proj", (dim, dim), bias=bias[1])

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens ``[rows, C, N]`` to spikes of the same shape."""
        self._check(x, "N")
        q, k = self.q(x), self.k(x)
        if self.over == "token":
            mask = self.attention(total(self._heads(q), 2).squeeze(2)).unsqueeze(2)
            kept = (mask.to(k.dtype) * self._heads(k)).flatten(1, 2)
        else:
            kept = self.attention(total(q, 2)).to(k.dtype) * k
        spikes: Tensor = self.proj(kept)
        return spikes

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, over={self.over!r}"


class SpikeDrivenSelfAttention(_Attention):
    """Self-attention of the spike-driven transformers, which takes currents and returns currents.

    With ``s = neuron(x)`` and ``q, k, v = neuron(bn(W s))``, and ``bn(W ...)`` last::

        version 1:  y = q * neuron_0.5(sum over tokens of k * v)
        version 2:  y = neuron_0.5(0.125 v k^T q), and the convolutions are RepConvs
        version 3:  y = neuron(2 / sqrt(C/h) v k^T q), with 4 C channels of v

    Args:
        dim, heads, neuron: see :class:`SpikingSelfAttention`. The default neuron of version 3 is ``ILIF()``.
        version: 1, 2 or 3.
        dvs: of version 1: a 3x3 max pool of stride 1 on k, on v, on their product and on the result. The last two are
            over neighbouring channels of a head and neighbouring tokens, as the authors have it.

    Input and output are ``[rows, C, H, W]``; without 3x3 windows (versions 1 and 3) also ``[rows, C, N]``. The shortcut
    is the user's, ``x + attention(x)``: it adds currents, so that what layers are given stays spikes. In version 3,
    where neurons have ``levels``, as ILIF has, their counts are divided by these. The heads of version 1 have no effect
    without dvs. ``talking_heads`` and ``attn_lif`` of the authors' code, which it never uses, are left out.

    Raises ValueError for other shapes and versions.

    Yao et al., Spike-driven Transformer, NeurIPS 2023; V2, ICLR 2024; V3, IEEE TPAMI 2025.

    >>> import torch
    >>> import spikeloom as sl
    >>> class Block(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.attention = sl.nn.SpikeDrivenSelfAttention(16, 4, version=2)
    ...     def forward(self, x):
    ...         return x + self.attention(x)
    >>> sl.Network(Block())(torch.rand(4, 2, 16, 7, 7)).shape
    torch.Size([4, 2, 16, 7, 7])
    """

    papers: ClassVar[dict[int, str]] = {
        1: "Yao et al., Spike-driven Transformer, NeurIPS 2023",
        2: "Yao et al., Spike-driven Transformer V2, ICLR 2024",
        3: "Yao et al., Scaling Spike-driven Transformer with Efficient Spike Firing Approximation Training, "
        "IEEE TPAMI 2025",
    }

    @property
    def paper(self) -> str:
        """That of the version."""
        return self.papers[self.version]

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        version: Literal[1, 2, 3] = 1,
        neuron: NeuronFactory | None = None,
        dvs: bool = False,
    ) -> None:
        super().__init__(dim, heads)
        if version not in (1, 2, 3):
            raise ValueError(f"SpikeDrivenSelfAttention: version must be 1, 2 or 3, got {version!r}")
        if dvs and version != 1:
            raise ValueError(f"SpikeDrivenSelfAttention: dvs is an option of version 1, got version={version}")
        if neuron is None:
            neuron = ILIF if version == 3 else _lif
        self.version, self.dvs = version, dvs
        self.scale = 2 * (dim / heads) ** -0.5 if version == 3 else 0.125
        inner = 4 * dim if version == 3 else dim
        self.first = _unit(self._neuron(neuron, "first", dim), version)
        self.q, self.k = (self._of_spikes(neuron, place, dim) for place in "qk")
        self.v = self._of_spikes(neuron, "v", inner)
        masks = {} if version == 3 else {"v_threshold": _THRESHOLD}
        self.attention = _unit(self._neuron(neuron, "attention", inner, **masks), version)
        if version == 2:
            self.proj = nn.Sequential(RepConv(dim, dim), nn.BatchNorm2d(dim))
        else:
            self.proj = nn.Sequential(nn.Conv1d(inner, dim, 1, bias=version == 1), nn.BatchNorm1d(dim))

    def _of_spikes(self, neuron: NeuronFactory, place: str, features: int) -> nn.Sequential:
        if self.version == 2:
            joined = _joined(nn.BatchNorm2d(features), self._neuron(neuron, place, features))
            return nn.Sequential(RepConv(self.dim, features), *joined)
        fires = self._neuron(neuron, place, features)
        conv, joined = nn.Conv1d(self.dim, features, 1, bias=False), _joined(nn.BatchNorm1d(features), fires)
        return nn.Sequential(conv, *joined, *_levels(fires, self.version))

    def forward(self, x: Tensor) -> Tensor:
        """Maps currents ``[rows, C, H, W]`` to currents of the same shape."""
        self._check(x, "H, W" if self.version == 2 or self.dvs else "*")
        s = self.first(x)
        s = s if self.version == 2 else s.flatten(2)
        q, k, v = (branch(s) for branch in (self.q, self.k, self.v))
        if self.version == 1:
            y = self._by_mask(q, k, v, x.shape[2:])
        else:
            q, k, v = (self._heads(one.flatten(2)) for one in (q, k, v))
            y = products(q, k, v, binary=_binary(self)).flatten(1, 2)
            y = self.attention(y * self.scale).to(q.dtype)
        y = y.unflatten(2, x.shape[2:]) if self.version == 2 else y
        currents: Tensor = self.proj(y)
        return currents.view(x.shape)

    def _by_mask(self, q: Tensor, k: Tensor, v: Tensor, space: torch.Size) -> Tensor:
        """``q * neuron(sum over tokens of k * v)``, of spikes ``[rows, C, N]``."""
        if self.dvs:
            k, v = (_pooled(one.unflatten(2, space)).flatten(2) for one in (k, v))
        both = self._pooled_heads(k * v)
        return self._pooled_heads(q * self.attention(total(both, 2)).to(q.dtype))

    def _pooled_heads(self, x: Tensor) -> Tensor:
        return _pooled(self._heads(x)).flatten(1, 2) if self.dvs else x

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, version={self.version}{', dvs=True' if self.dvs else ''}"


def _pooled(images: Tensor) -> Tensor:
    return F.max_pool2d(images, 3, 1, 1)


def _lif(**place: Any) -> LIF:
    """The neuron of the papers."""
    return LIF(tau=2.0, detach_reset=True, **place)


def _joined(norm: nn.Module, neuron: TemporalModule) -> list[nn.Module]:
    """A norm and its neuron, in one kernel where the neuron has one."""
    return [NormNeuron(norm, neuron)] if isinstance(neuron, Dynamics) else [norm, neuron]


def _binary(module: nn.Module) -> bool:
    """Whether all neurons of a module are known to give 0 and 1."""
    neurons = (m for m in module.modules() if isinstance(m, TemporalModule) and not isinstance(m, NormNeuron))
    return all(getattr(neuron, "is_binary", False) for neuron in neurons)


def _levels(neuron: TemporalModule, version: int) -> list[nn.Module]:
    return per_level(neuron) if version == 3 else []


def _unit(neuron: TemporalModule, version: int) -> nn.Module:
    """A neuron, and a division after it where it counts."""
    after = _levels(neuron, version)
    return nn.Sequential(neuron, *after) if after else neuron
