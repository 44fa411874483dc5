"""Modulated: a local rule whose changes wait for a reward (MSTDP and MSTDPET).

    MSTDP      dw[t] = r[t] zeta[t-1]
    MSTDPET    E[t] = E[t-1] exp(-1/tau_e) + zeta[t-1] / tau_e,    dw[t] = r[t] E[t]

``zeta[t]`` is what the rule alone would change at step t. As both are linear in zeta, the sum over a sequence is
``sum_s zeta[s] M[s]`` with the rewards after step s, ``M[s] = sum_{t > s} r[t] exp(-(t-s-1)/tau_e) / tau_e`` (MSTDP:
``M[s] = r[s+1]``). So the reward of a sample is a factor of what comes after the layer, and nothing of size
``[B, *weight]`` is made; only an eligibility that is carried past the end of a call has this size.

Florian, Reinforcement Learning Through Modulation of Spike-Timing-Dependent Synaptic Plasticity, Neural Computation 19,
2007.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._time import check_lengths, masked
from .local import LocalRule, State
from .traces import run


@dataclass(frozen=True)
class Modulated:
    """Reward-modulated plasticity: the changes of ``rule`` times the reward that follows them.

    Args:
        rule: a local rule, such as ``STDP(decay="exponential")``.
        tau_e: time constant of the eligibility trace in steps (MSTDPET); None is no trace (MSTDP): the reward of a step
            meets the change of the step before it alone.

    SpikingJelly's ``MSTDPLearner`` and ``MSTDPETLearner`` are these with ``STDP(decay="exponential", f_pre=lambda w: w,
    f_post=lambda w: w)``; its MSTDPET takes one sample, here there may be any number.

    >>> import torch
    >>> import spikeloom as sl
    >>> rule = sl.learn.Modulated(sl.learn.Hebb(), tau_e=2.0)
    >>> layer, spikes = torch.nn.Linear(1, 1), torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    >>> rule.sequence(layer, spikes, spikes, modulator=torch.tensor([0.0, 0.0, 1.0]))[0]  # exp(-1/2) / 2
    tensor([[0.3033]])
    """

    rule: LocalRule
    tau_e: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.rule, LocalRule):
            raise TypeError(
                f"learn.Modulated: rule must be a local rule such as STDP(), got {type(self.rule).__name__}"
            )
        if self.tau_e is not None and not 0 < self.tau_e < math.inf:
            raise ValueError(f"learn.Modulated: tau_e must be finite and above 0, got {self.tau_e}")

    def sequence(
        self,
        layer: nn.Module,
        pre: Tensor,
        post: Tensor,
        *,
        modulator: Tensor,
        state: State | None = None,
        lengths: Tensor | None = None,
        carry: bool = False,
    ) -> tuple[Tensor, State]:
        """The change by a sequence: ``(dw, state)``.

        Args:
            layer, pre, post, state, lengths: as of the rule.
            modulator: the reward of each step, ``[T]`` or ``[T, B]``.
            carry: whether changes that no reward of this call meets wait for the next one. Their eligibility,
                ``[B, *weight]``, is then part of the state. False forgets them.

        With ``carry``, a sequence in parts sums to the whole one. A state that was returned without it begins with no
        eligibility.
        """
        T, B = post.shape[:2]
        reward = torch.as_tensor(modulator).detach().to(device=post.device, dtype=torch.float64)
        if reward.shape not in ((T,), (T, B), (T, 1)):
            raise ValueError(f"learn.Modulated: modulator must be [{T}] or [{T}, {B}], got {list(reward.shape)}")
        reward = masked(reward.reshape(T, -1).expand(T, B).contiguous(), lengths)
        inner = None if state is None else state["rule"]
        if lengths is not None:
            lengths = check_lengths(lengths, T, B, device=reward.device)
        met, first = self._met(reward)
        dw, new = self.rule.sequence(layer, pre, post, state=inner, modulator=met, lengths=lengths)
        waiting = None if state is None else state.get("eligibility")
        if waiting is not None:
            if len(waiting) != B:
                raise ValueError(
                    f"learn.Modulated: the state holds the eligibility of {len(waiting)} samples, and there are {B}; "
                    "begin with state=None"
                )
            dw = dw + torch.einsum("b,b...->...", first.to(waiting), waiting).to(dw.dtype)
        found: State = {"rule": new}
        if carry:
            ends = torch.full((B,), T, device=reward.device) if lengths is None else lengths
            found["eligibility"] = self.rule.of_samples(
                layer, pre, post, self._left(T, ends), state=inner, lengths=lengths
            )
            if waiting is not None and self.tau_e is not None:
                kept = torch.exp(-ends.double() / self.tau_e).to(waiting)
                found["eligibility"] += waiting * kept.reshape(-1, *(1,) * (waiting.ndim - 1))
        return dw, found

    def step(
        self,
        layer: nn.Module,
        pre_t: Tensor,
        post_t: Tensor,
        *,
        modulator: Tensor | float,
        state: State | None = None,
    ) -> tuple[Tensor, State]:
        """The change by one step ``[B, *]``: ``(dw, state)``; ``modulator`` is a number, or ``[B]``. It carries."""
        reward = torch.as_tensor(modulator).unsqueeze(0)
        pre, post = pre_t.unsqueeze(0), post_t.unsqueeze(0)
        return self.sequence(layer, pre, post, modulator=reward, state=state, carry=True)

    def _met(self, reward: Tensor) -> tuple[Tensor, Tensor]:
        """``M[s]`` of each step ``[T, B]``, and the same of a change that was waiting when the call began, ``[B]``."""
        if self.tau_e is None:
            return torch.cat([reward[1:], torch.zeros_like(reward[:1])]), reward[0]
        found, _ = run(reward.flip(0), tau=self.tau_e, decay="exponential")
        later = found.flip(0)  # sum_{t >= s} r[t] exp(-(t-s)/tau_e)
        return torch.cat([later[1:], torch.zeros_like(later[:1])]) / self.tau_e, later[0]

    def _left(self, T: int, ends: Tensor) -> Tensor:
        """What is left of the change of each step when a sample ends, ``[T, B]``."""
        age = ends - 1 - torch.arange(T, device=ends.device).unsqueeze(1)
        if self.tau_e is None:
            return (age == 0).double()
        return torch.where(age >= 0, torch.exp(-age.clamp(min=0).double() / self.tau_e) / self.tau_e, 0.0)
