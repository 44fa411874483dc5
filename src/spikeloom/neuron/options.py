"""Options that any neuron may have: each is a neuron around a neuron, and one kernel comes of both.

    Refractory:    after a spike, steps steps without input, output or change
    Graded:        y = factor s
    Adaptive:      fires at v_threshold + beta a;  a = rho a + s
    HalfThreshold: v = v_threshold / 2 at rest
    StateQuant:    states to the nearest of 2^bits levels from low to high
    SLTT:          no gradient from step to step

Bellec et al., Long short-term memory and learning-to-learn in networks of spiking neurons, NeurIPS 2018 (Adaptive);
Bu et al., Optimal ANN-SNN Conversion, ICLR 2022 (HalfThreshold); Meng et al., Towards Memory- and Time-Efficient
Backpropagation for Training SNNs, ICCV 2023 (SLTT).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._numbers import Number, describe
from ..kernel import state_dtype
from ..surrogate import Surrogate
from .base import Dynamics, Neuron


class Option(Dynamics):
    """Base of options: a neuron around another one, whose equation it calls.

    A subclass declares its own numbers and states as every neuron does, and defines ``dynamics(x, *states)`` with
    ``self.neuron.dynamics``; the states of the inner neuron come first, then its own. Options may be nested.

    Args:
        neuron: the inner neuron. Its numbers are ``option.neuron.tau`` and so on.

    One step of the whole is one equation, in which the inner neuron is never called: hooks on it do not run, those on
    the outermost option do.
    """

    opaque = True
    neuron: Dynamics

    @property
    def causal(self) -> bool:  # type: ignore[override]
        """Whether the inner neuron is causal."""
        return self.neuron.causal

    def __init__(self, neuron: Dynamics) -> None:
        super().__init__()
        if not isinstance(neuron, Dynamics):
            raise TypeError(f"{type(self).__name__}: expected a neuron such as sl.LIF(), got {type(neuron).__name__}")
        if not neuron.nestable:
            raise TypeError(f"{type(self).__name__}: {type(neuron).__name__} must be the outermost option")
        self.neuron = neuron
        self._rest = dict.fromkeys(neuron._rest, "")
        self._cut = neuron._cut
        self.recordable = tuple(self._rest)

    @property
    def surrogate(self) -> Surrogate:  # type: ignore[override]
        """The surrogate of the inner neuron."""
        return self.neuron.surrogate

    @property
    def is_binary(self) -> bool:  # type: ignore[override]
        """Whether the output is 0 or 1."""
        return self.neuron.is_binary

    @property
    def without_u(self) -> str:  # type: ignore[override]
        """Why ``u`` cannot be recorded, of the inner neuron."""
        return self.neuron.without_u

    def core(self) -> Neuron:
        """The innermost neuron."""
        return self.neuron.core()

    def states(self, **at_rest: Number | str) -> None:
        """Declares the option's own states, which follow those of the inner neuron."""
        taken = self._rest.keys() & at_rest.keys()
        if taken:
            raise ValueError(f"{type(self).__name__}: the inner neuron has a state {sorted(taken)[0]!r} already")
        super().states(**at_rest)

    def inner_states(self, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The states among ``states`` that are the inner neuron's."""
        return states[: len(self.neuron._rest)]

    def initial_state(self, *x_t: Tensor) -> dict[str, Tensor]:
        """The states at rest, ``{name: [B, *]}``."""
        own = {name: number for name, number in self._rest.items() if number}
        return {**self.neuron.initial_state(*x_t), **self._at_rest(x_t[0], own)}

    def extra_repr(self) -> str:
        own = describe(self) + "".join(f", {name}={value!r}" for name, value in self._options().items())
        return f"{self.neuron!r}" + (f", {own.lstrip(', ')}" if own else "")


def shifted(neuron: Dynamics, by: Callable[[Tensor], Tensor]) -> Dynamics:
    """Inside ``dynamics``: ``neuron`` whose ``fire(u)`` is ``fire(by(u))``."""
    view = object.__new__(type(neuron))
    view.__dict__.update(neuron.__dict__)
    inner = view.__dict__.get("neuron")
    if inner is None:
        fire = neuron.fire
        view.__dict__["fire"] = lambda u: fire(by(u))
        view.__dict__.pop("dynamics", None)  # what notes the steps of the other view; this one fires once
    else:
        view.__dict__["neuron"] = shifted(inner, by)
    return view


def moved(neuron: Dynamics, by: Callable[[Tensor], Tensor], who: str, *x_and_states: Tensor) -> Any:
    """Inside ``dynamics``: a step of ``neuron`` with ``fire(by(u))`` for ``fire(u)``; raises unless it fires once."""
    calls = 0

    def once(u: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return by(u) if calls == 1 else u

    found = shifted(neuron, once).dynamics(*x_and_states)
    if calls != 1:
        what = "fires twice in a step (a late reset, or spikes of both signs)" if calls else "never calls self.fire"
        raise ValueError(
            f"{who}: moves the threshold of neurons with one threshold, but the inner neuron {what}; take "
            "sl.Leaky(reset_delay=False), sl.LIF() or another one"
        )
    return found


class Refractory(Option):
    """A refractory period: for ``steps`` steps after a spike the neuron takes no input, does not change and is silent.

    Args:
        neuron: any neuron.
        steps: length of the period, at least 0; a number like all others (one value, per channel, per neuron).

    The state ``wait`` counts the steps that are left. Gradients pass through the steps in which the neuron takes part.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.options.Refractory(sl.IF(), steps=2).sequence(torch.ones(7, 1))[0].flatten()
    tensor([1., 0., 0., 1., 0., 0., 1.])
    """

    paper = "Gerstner, Kistler, Naud and Paninski, Neuronal Dynamics, 2014, chapter 1"
    limits: ClassVar = {"steps": (0.0, math.inf)}
    steps: Tensor

    def __init__(self, neuron: Dynamics, *, steps: Number) -> None:
        super().__init__(neuron)
        self.numbers(steps=steps)
        self.states(wait=0.0)

    def dynamics(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        before, wait = self.inner_states(states), states[-1]
        spike, *new = self.neuron.dynamics(x, *before)
        awake = wait <= 0
        spike = torch.where(awake, spike, torch.zeros_like(spike))
        kept = tuple(torch.where(awake, n, old) for n, old in zip(new, before, strict=True))
        fired = (spike != 0).to(wait.dtype)
        return spike, *kept, torch.where(awake, fired * self.steps, wait - 1)


class Graded(Option):
    """Graded spikes: the output is ``factor s``, and the reset works on s.

    Args:
        neuron: any neuron.
        factor: a float, tensor or parameter; one value, one per channel or one per neuron.

    snnTorch calls it ``graded_spikes_factor``.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.options.Graded(sl.IF(), factor=0.5).sequence(torch.tensor([[0.6], [0.6]]))[0].flatten()
    tensor([0.0000, 0.5000])
    """

    paper = "Eshraghian et al., Training Spiking Neural Networks Using Lessons From Deep Learning, Proc. IEEE 2023"
    factor: Tensor
    is_binary = False

    def __init__(self, neuron: Dynamics, *, factor: Number = 1.0) -> None:
        super().__init__(neuron)
        self.numbers(factor=factor)

    def dynamics(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        spike, *new = self.neuron.dynamics(x, *states)
        return spike * self.factor, *new


class Adaptive(Option):
    """An adaptive threshold: fires at ``v_threshold + beta a``; ``a = rho a + s``. The reset uses v_threshold alone.

    Args:
        neuron: one that fires once a step.
        beta: what each past spike adds to the threshold.
        rho: decay of a per step, from 0 to 1.

    The state ``a`` rests at 0. Around a Leaky with a reset at once this is :class:`ALIF`.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.options.Adaptive(sl.IF(), beta=0.5, rho=0.9).sequence(torch.ones(6, 1))[0].flatten()
    tensor([1., 0., 1., 0., 1., 0.])
    """

    paper = "Bellec et al., Long Short-Term Memory and Learning-to-Learn in Networks of Spiking Neurons, NeurIPS 2018"
    limits: ClassVar = {"rho": (0.0, 1.0)}
    beta: Tensor
    rho: Tensor

    def __init__(self, neuron: Dynamics, *, beta: Number = 0.2, rho: Number = 0.97) -> None:
        super().__init__(neuron)
        self.numbers(beta=beta, rho=rho)
        self.states(a=0.0)

    def dynamics(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        a = states[-1]
        before = self.inner_states(states)
        spike, *new = moved(self.neuron, lambda u: u - self.beta * a, "Adaptive", x, *before)
        return spike, *new, self.rho * a + spike


class HalfThreshold(Option):
    """The voltage begins at ``fraction v_threshold``: a soft-reset IF then rounds, one that begins at 0 rounds down.

    Args:
        neuron: one with ``v_threshold`` and a state ``v``.
        fraction: of the threshold.

    SpikingJelly's ``HalfThresholdIFNode`` is ``HalfThreshold(IF(reset="soft"))``.

    >>> import torch
    >>> import spikeloom as sl
    >>> neuron = sl.options.HalfThreshold(sl.IF(reset="soft"))
    >>> [neuron.sequence(torch.full((4, 1), x))[0].sum().item() for x in (0.12, 0.13, 0.37, 0.38)]
    [0.0, 1.0, 1.0, 2.0]
    """

    paper = "Bu et al., Optimal ANN-SNN Conversion for High-accuracy and Ultra-low-latency SNNs, ICLR 2022"
    fraction: Tensor

    def __init__(self, neuron: Dynamics, *, fraction: Number = 0.5) -> None:
        super().__init__(neuron)
        for name, there in (("v_threshold", self.core()._declared), ("v", self._rest)):
            if name not in there:
                raise TypeError(f"HalfThreshold: {type(self.core()).__name__} has no {name}")
        self.numbers(fraction=fraction)

    def initial_state(self, *x_t: Tensor) -> dict[str, Tensor]:
        """The inner neuron's states at rest, with another ``v``."""
        found, x = super().initial_state(*x_t), x_t[0]
        dtype = state_dtype(x.dtype)
        threshold = self.core().broadcast("v_threshold", x.shape, dtype)
        return {**found, "v": torch.zeros_like(found["v"]) + self.broadcast("fraction", x.shape, dtype) * threshold}

    def dynamics(self, x: Tensor, *states: Tensor) -> Any:
        return self.neuron.dynamics(x, *states)


class StateQuant(Option):
    """States of few bits: after each step every state is moved to the nearest of ``2^bits`` levels from low to high.

    Args:
        neuron: any neuron.
        bits: at least 1.
        low, high: the first and the last level; states beyond them become these.

    The gradient passes straight through from low to high and is 0 beyond. Halves go to the level with an even number.
    snnTorch's ``state_quant(b, threshold=t, lower_limit=l, upper_limit=u)`` is ``bits=b, low=-t(1+l), high=t(1+u)``.

    >>> import torch
    >>> import spikeloom as sl
    >>> neuron = sl.options.StateQuant(sl.LIF(tau=2.0), bits=2, low=-1.0, high=2.0)
    >>> neuron.sequence(torch.tensor([[1.3], [1.3]]), record=("v",))[2]["v"].flatten()
    tensor([1., 0.])
    """

    paper = "Eshraghian et al., Navigating Local Minima in Quantized Spiking Neural Networks, AICAS 2022"
    low: Tensor
    high: Tensor

    def __init__(self, neuron: Dynamics, *, bits: int = 8, low: Number = -1.0, high: Number = 1.2) -> None:
        super().__init__(neuron)
        if bits < 1:
            raise ValueError(f"StateQuant: bits must be at least 1, got {bits}")
        if isinstance(low, (int, float)) and isinstance(high, (int, float)) and not low < high:
            raise ValueError(f"StateQuant: high must be larger than low, got low={low} and high={high}")
        self.numbers(low=low, high=high)
        self.bits = bits

    def dynamics(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        spike, *new = self.neuron.dynamics(x, *states)
        width = (self.high - self.low) / (2**self.bits - 1)
        found = []
        for state in new:
            clipped = torch.minimum(torch.maximum(state, self.low), self.high)
            level = self.low + torch.round((clipped - self.low) / width) * width
            found.append(level.detach() + (clipped - clipped.detach()))
        return spike, *found


class SLTT(Option):
    """Spatial learning through time: the same forward, but no gradient passes from one step to the next.

    Args:
        neuron: any neuron.

    Nothing needs to be kept for a gradient over time: with a loss at every step memory does not grow with T when the
    network is run step by step. With :class:`spikeloom.nn.OTTT` around the layer after it this is OTTT.

    >>> import torch
    >>> import spikeloom as sl
    >>> x = torch.full((3, 1), 0.5, requires_grad=True)
    >>> y, _ = sl.options.SLTT(sl.LIF(tau=2.0)).sequence(x)
    >>> all(torch.autograd.grad(y[t].sum(), x, retain_graph=True)[0].nonzero()[:, 0].tolist() == [t] for t in range(3))
    True
    """

    paper = "Meng et al., Towards Memory- and Time-Efficient Backpropagation for Training SNNs, ICCV 2023"

    def __init__(self, neuron: Dynamics) -> None:
        super().__init__(neuron)
        self._cut = tuple(neuron._rest)

    def dynamics(self, x: Tensor, *states: Tensor) -> Any:
        return self.neuron.dynamics(x, *(state.detach() for state in states))
