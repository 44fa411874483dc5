"""STDP: spike-timing-dependent plasticity by pairs and by triplets of spikes.

Bi and Poo, Synaptic Modifications in Cultured Hippocampal Neurons, Journal of Neuroscience 18, 1998; Morrison, Diesmann
and Gerstner, Phenomenological Models of Synaptic Plasticity Based on Spike Timing, Biological Cybernetics 98, 2008;
Pfister and Gerstner, Triplets of Spikes in a Model of Spike Timing-Dependent Plasticity, Journal of Neuroscience 26,
2006.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .._time import check_lengths
from .local import LocalRule, OfWeight, State, Term, factor_of, of_weight, prepared
from .pairings import BY_SYNAPSE, BySynapse, Pairs, as_linear, both_sides
from .products import check_linear_shapes, weight_of
from .traces import Decay, Pairing, check_pairing, check_tau, kept, run

Coincident = Literal["cancel", "potentiate", "depress", "ignore"]
_COINCIDENT = ("cancel", "potentiate", "depress", "ignore")


def soft_bound(low: float = 0.0, high: float = 1.0, *, power: float = 1.0) -> tuple[OfWeight, OfWeight]:
    """``(f_pre, f_post)`` with ``f_pre(w) = (w - low)^power`` and ``f_post(w) = (high - w)^power``.

    A weight near ``high`` is hardly potentiated, one near ``low`` hardly depressed; beyond a bound the factor is 0.
    ``power=0`` is a hard bound. Gütig et al., Journal of Neuroscience 23, 2003.

    >>> import torch
    >>> import spikeloom as sl
    >>> f_pre, f_post = sl.learn.soft_bound(0.0, 1.0, power=2.0)
    >>> f_pre(torch.tensor(0.5)), f_post(torch.tensor(0.9)).round(decimals=4)
    (tensor(0.2500), tensor(0.0100))
    """
    if not low < high or power < 0:
        raise ValueError(f"learn.soft_bound: needs low < high and power >= 0, got {low}, {high} and {power}")

    def factor(distance: Tensor) -> Tensor:
        return (distance > 0).to(distance.dtype) * distance.clamp(min=0) ** power

    return lambda w: factor(w - low), lambda w: factor(high - w)


@dataclass(frozen=True)
class STDP(LocalRule):
    """Pairs of spikes: ``dw = a_post f_post(w) sum tr_pre post - a_pre f_pre(w) sum pre tr_post``.

    Args:
        tau_pre, tau_post: time constants of the traces of the spikes before and after the layer, in steps.
        a_pre, a_post: sizes of depression (at a spike before the layer) and potentiation (at one after it).
        f_pre, f_post: functions of the weight that multiply these; None is 1 (additive STDP). SpikingJelly has
            ``lambda w: w`` unless it is told otherwise, SNNGrow ``lambda w: w.clamp(-1, 1)``; :func:`soft_bound` makes
            bounds.
        pairing: ``"all"`` pairs each spike with all earlier ones of the other side, ``"nearest"`` with the last one; a
            pair of these is for the traces of ``(pre, post)``. ``"presynaptic"`` (presynaptic centred) pairs each spike
            before the layer with the last and the next one after it; ``"reduced"`` (reduced symmetric) only spikes with
            no other of both sides between them. These two need a memory for each synapse, ``[B, *, N, M]``: they take
            ``nn.Linear`` alone, and go through the steps one by one.
        decay: ``"euler"``: a trace decays by ``1 - 1/tau`` a step, as in SpikingJelly's and SNNGrow's STDP;
            ``"exponential"``: by ``exp(-1/tau)``, as in SpikingJelly's MSTDP.
        coincident: what spikes of both sides in one step do. ``"cancel"``: both potentiation and depression, which
            cancel where sizes are equal (what SpikingJelly and SNNGrow do); ``"potentiate"``, ``"depress"``: this
            alone; ``"ignore"``: nothing.

    :meth:`sequence` and :meth:`step` give ``(dw, state)``. Layers are those that are linear in their weight:
    ``nn.Linear``, convolutions of 1 to 3 dimensions with stride, padding, dilation and groups, transposed ones,
    ``sl.nn.SparseLinear``. Others raise TypeError.

    >>> import torch
    >>> import spikeloom as sl
    >>> layer = torch.nn.Linear(1, 1, bias=False)
    >>> pre, post = torch.tensor([1.0, 0.0]).view(2, 1, 1), torch.tensor([0.0, 1.0]).view(2, 1, 1)
    >>> dw, state = sl.learn.STDP(tau_pre=2.0, tau_post=2.0).sequence(layer, pre, post)
    >>> dw  # post one step after pre
    tensor([[0.5000]])
    """

    tau_pre: float = 20.0
    tau_post: float = 20.0
    a_pre: float = 1.0
    a_post: float = 1.0
    f_pre: OfWeight | None = None
    f_post: OfWeight | None = None
    pairing: Pairing | tuple[Pairing, Pairing] | BySynapse = "all"
    decay: Decay = "euler"
    coincident: Coincident = "cancel"

    def __post_init__(self) -> None:
        check_tau("learn.STDP", self.decay, tau_pre=self.tau_pre, tau_post=self.tau_post)
        if self.pairing not in BY_SYNAPSE:
            check_pairing("learn.STDP", self.pairing)
        check_coincident("learn.STDP", self.coincident)

    def sequence(
        self,
        layer: nn.Module,
        pre: Tensor,
        post: Tensor,
        *,
        state: State | None = None,
        modulator: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """The change of ``layer.weight`` by a whole sequence, as :meth:`LocalRule.sequence`."""
        if self.pairing not in BY_SYNAPSE:
            return super().sequence(layer, pre, post, state=state, modulator=modulator, lengths=lengths)
        linear = as_linear(layer, "learn.STDP")
        weight, pre, post = prepared(layer, pre, post, lengths, "learn.STDP")
        if lengths is not None:
            lengths = check_lengths(lengths, *post.shape[:2], device=post.device)
        check_linear_shapes(linear, pre, post, "learn.STDP")
        keeps = kept(self.tau_pre, self.decay), kept(self.tau_post, self.decay)
        pairs = Pairs(self.pairing == "reduced", *keeps, *own_step(self.coincident))
        with torch.no_grad():
            factor = factor_of(modulator, post, "learn.STDP")
            up, down, new = both_sides(pairs, pre, post, factor, state, lengths)
            dw = self.a_post * of_weight(self.f_post, weight) * up - self.a_pre * of_weight(self.f_pre, weight) * down
        return dw.to(weight_of(layer).dtype), new

    def terms(
        self, weight: Tensor, pre: Tensor, post: Tensor, state: State | None, lengths: Tensor | None
    ) -> tuple[list[Term], State]:
        """Potentiation and depression."""
        if self.pairing in BY_SYNAPSE:
            raise TypeError(
                f"learn.STDP: pairing {self.pairing!r} is no sum of products, and has no eligibility that could be "
                "carried; give pairing='all' or 'nearest'"
            )
        before_pre, before_post = own_step(self.coincident)
        of_pre, of_post = check_pairing("learn.STDP", self.pairing)
        given = state or {"pre": None, "post": None}
        tr_pre, new_pre = run(
            pre, tau=self.tau_pre, decay=self.decay, pairing=of_pre, before=before_pre, state=given["pre"],
            lengths=lengths,
        )  # fmt: skip
        tr_post, new_post = run(
            post, tau=self.tau_post, decay=self.decay, pairing=of_post, before=before_post, state=given["post"],
            lengths=lengths,
        )  # fmt: skip
        up, down = of_weight(self.f_post, weight), of_weight(self.f_pre, weight)
        terms = [Term(self.a_post * up, tr_pre, post), Term(-self.a_pre * down, pre, tr_post)]
        return terms, {"pre": new_pre, "post": new_post}


@dataclass(frozen=True)
class TripletSTDP(LocalRule):
    """Triplets of spikes: at a spike after the layer ``+ r1 (a2_plus + a3_plus o2)``, before it ``- o1 (a2_minus +
    a3_minus r2)``.

    Args:
        tau_plus, tau_x: time constants of the traces r1 and r2 of the spikes before the layer, in steps.
        tau_minus, tau_y: those of o1 and o2 of the spikes after it.
        a2_plus, a3_plus, a2_minus, a3_minus: sizes of what pairs and triplets do.
        pairing, decay: as in :class:`STDP`, of all four traces; a pair is for those of ``(pre, post)``.
        coincident: as in :class:`STDP`, of r1 and o1. r2 and o2 are always those before the spikes of their step.

    With ``a3_plus = a3_minus = 0`` this is :class:`STDP`.

    >>> import torch
    >>> import spikeloom as sl
    >>> rule = sl.learn.TripletSTDP.visual_cortex(step_ms=0.5)
    >>> rule.tau_plus, rule.a3_plus
    (33.6, 0.0062)
    """

    tau_plus: float = 16.8
    tau_x: float = 101.0
    tau_minus: float = 33.7
    tau_y: float = 125.0
    a2_plus: float = 5e-10
    a3_plus: float = 6.2e-3
    a2_minus: float = 7e-3
    a3_minus: float = 2.3e-4
    pairing: Pairing | tuple[Pairing, Pairing] = "all"
    decay: Decay = "exponential"
    coincident: Coincident = "cancel"

    def __post_init__(self) -> None:
        who = "learn.TripletSTDP"
        taus = dict(tau_plus=self.tau_plus, tau_x=self.tau_x, tau_minus=self.tau_minus, tau_y=self.tau_y)
        check_tau(who, self.decay, **taus)
        check_pairing(who, self.pairing)
        check_coincident(who, self.coincident)

    @classmethod
    def visual_cortex(cls, *, step_ms: float = 1.0) -> TripletSTDP:
        """The authors' fit to data of visual cortex, with all spikes, for steps of ``step_ms`` milliseconds."""
        return cls(
            tau_plus=16.8 / step_ms, tau_x=101.0 / step_ms, tau_minus=33.7 / step_ms, tau_y=125.0 / step_ms
        )  # fmt: skip

    def terms(
        self, weight: Tensor, pre: Tensor, post: Tensor, state: State | None, lengths: Tensor | None
    ) -> tuple[list[Term], State]:
        """Potentiation and depression, by pairs and triplets in one product each."""
        before_pre, before_post = own_step(self.coincident)
        of_pre, of_post = check_pairing("learn.TripletSTDP", self.pairing)
        asked = {
            "r1": (pre, self.tau_plus, of_pre, before_pre),
            "r2": (pre, self.tau_x, of_pre, True),
            "o1": (post, self.tau_minus, of_post, before_post),
            "o2": (post, self.tau_y, of_post, True),
        }
        traces, new = {}, {}
        for name, (x, tau, pairing, before) in asked.items():
            traces[name], new[name] = run(
                x, tau=tau, decay=self.decay, pairing=pairing, before=before, lengths=lengths,
                state=None if state is None else state[name],
            )  # fmt: skip
        up = post * (self.a2_plus + self.a3_plus * traces["o2"])
        down = pre * (self.a2_minus + self.a3_minus * traces["r2"])
        return [Term(1.0, traces["r1"], up), Term(-1.0, down, traces["o1"])], new


def check_coincident(who: str, coincident: str) -> None:
    """Raises ValueError unless it is one of those that there are."""
    if coincident not in _COINCIDENT:
        raise ValueError(f"{who}: coincident must be one of {', '.join(_COINCIDENT)}; got {coincident!r}")


def own_step(coincident: Coincident) -> tuple[bool, bool]:
    """Whether the traces of pre and of post are those before the spikes of their own step."""
    return coincident in ("depress", "ignore"), coincident in ("potentiate", "ignore")
