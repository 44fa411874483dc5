"""Neurons with a state whose steps are computed at once: ParallelLIF with a reset, AssociativeLeaky with a matrix.

    ParallelLIF:      h = charge(x, v), s = [h >= v_threshold], v = reset(h, s), found as a fixed point over all steps
    AssociativeLeaky: S[t] = S[t-1] diag(a[t]) + v[t] k[t]^T with v, k linear in x and a = sigmoid(linear in x)

Yarga and Wood, Accelerating spiking neural networks with parallelizable leaky integrate-and-fire neurons, Neuromorphic
Computing and Engineering 5, 2025 (time-parallel leaky neurons); Yang et al., Gated linear attention transformers with
hardware-efficient training, ICML 2024 (matrix states).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._time import check_lengths, masked
from ..core import State, TemporalModule
from ..core.recording import without_gradient
from ..kernel import full_precision, output_dtype, state_dtype
from ..neuron import IF, LIF, Leaky, Neuron
from ..surrogate import Surrogate


def linear_scan(a: Tensor, b: Tensor) -> Tensor:
    """``h[t] = a[t] h[t-1] + b[t]`` with ``h[-1] = 0``, over dimension 0, in log2(T) passes."""
    T, k = b.shape[0], 1
    while k < T:
        b = torch.cat([b[:k], b[k:] + a[k:] * b[:-k]])
        a = torch.cat([a[:k], a[k:] * a[:-k]])
        k *= 2
    return b


class _Through(torch.autograd.Function):
    """Returns ``h`` and adds its gradient over time, where ``h[t]`` depends on ``h[t-1]`` by the factor ``a[t]``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, a: Tensor) -> Tensor:
        return h.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (a,) = ctx.saved_tensors
        later = torch.cat([a[1:], torch.zeros_like(a[:1])])
        return linear_scan(later.flip(0), grad.flip(0)).flip(0), None


class ParallelLIF(TemporalModule):
    """A LIF with its reset, all steps at once: the spikes are found as a fixed point, ``s = [h(s) >= v_threshold]``.

    For given spikes the voltages of all steps are a linear recurrence, which a scan solves in log2(T) passes. These
    voltages give new spikes, and so on until no spike changes. Each step depends on earlier ones alone, so after
    iteration k the first k steps are right: the search takes T iterations at most, and mostly far fewer. The last
    iterations then apply the neuron's own equation to all steps until no bit changes, so that the result equals that of
    the sequential neuron exactly. Its gradient is that of the sequential neuron too, computed by one scan backwards.

    Args:
        neuron: :class:`spikeloom.IF`, :class:`spikeloom.LIF` or a :class:`spikeloom.Leaky` that resets at once.

    Input and output are ``[T, B, *]``; the states are the neuron's. ``sequence(x, record=("iterations",))`` also
    returns how many iterations it took, as ``[T, B]`` with the same number everywhere. On a CPU the kernel of the
    neuron itself is faster. Use this on devices that have no such kernel, for long sequences of few neurons.

    >>> import torch
    >>> import spikeloom as sl
    >>> x = torch.rand(50, 2, 3)
    >>> neuron = sl.nn.ParallelLIF(sl.LIF(v_threshold=0.4))
    >>> y, _, recorded = neuron.sequence(x, record=("iterations",))
    >>> torch.equal(y, sl.LIF(v_threshold=0.4).sequence(x)[0]), int(recorded["iterations"][0, 0]) < 50
    (True, True)
    """

    paper = "Yarga and Wood, Accelerating SNNs with Parallelizable LIF Neurons, Neuromorph. Comput. Eng. 5, 2025"
    opaque = True
    recordable_by_name = ("u", "iterations")
    not_carried = ("iterations",)  # modules that older versions pickled have this attribute

    def __init__(self, neuron: Neuron) -> None:
        super().__init__()
        if type(neuron) not in (IF, LIF, Leaky):
            raise TypeError(f"ParallelLIF: expected sl.IF, sl.LIF or sl.Leaky, got {type(neuron).__name__}")
        if isinstance(neuron, Leaky) and neuron.reset_delay and neuron.reset != "none":
            raise ValueError("ParallelLIF: expected a Leaky that resets at once, give it reset_delay=False")
        self.neuron = neuron
        self.recordable = neuron.recordable

    def initial_state(self, *x_t: Any) -> State:
        """The neuron's state at rest."""
        return self.neuron.initial_state(*x_t)

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, *]``: ``(spikes, state)``, and recordings of ``v``, ``u`` or ``iterations``."""
        self.check_record(record)
        x = masked(xs[0], lengths)
        T, B = x.shape[:2]
        start = self.initial_state(x[0]) if state is None else state
        neuron = self.neuron.bind(x.shape[1:], state_dtype(x.dtype))
        v0, wide = start["v"].unsqueeze(0), x.to(state_dtype(x.dtype))
        with full_precision(x.device):
            with torch.no_grad():
                h, iterations = _solve(neuron, wide, v0)
                slope = _slope(neuron, h)
            before = torch.cat([v0, _reset(neuron, h)[:-1]])  # carries gradients to the neuron's numbers only
            factor = _decay(neuron, h).detach() * torch.cat([torch.zeros_like(v0), slope[:-1]])
            h = _Through.apply(_charge(neuron, wide, before), factor)  # type: ignore[no-untyped-call]
            u = h - neuron.v_threshold
            spikes = neuron.fire(u)
            v = neuron.reset_voltage(h, spikes)
        last = v[-1]
        if lengths is not None:
            ends = check_lengths(lengths, T, B, device=x.device) - 1
            last = v[ends, torch.arange(B, device=x.device)]
        y = masked(spikes.to(output_dtype(x.dtype)), lengths)
        if not record:
            return y, {"v": last}
        number = torch.full((T, B), iterations, device=x.device)
        recorded = {name: without_gradient(masked(r, lengths), _NO_GRADIENT) for name, r in {"v": v, "u": u}.items()}
        recorded["iterations"] = number
        return y, {"v": last}, {name: recorded[name] for name in record}


_NO_GRADIENT = (
    "ParallelLIF computes all steps at once, and gives no gradient with regard to what it recorded; take the neuron "
    'inside it, and run the forward pass in `with sl.backend("eager"):`'
)


def _solve(neuron: Neuron, x: Tensor, v0: Tensor) -> tuple[Tensor, int]:
    """The voltages before firing, ``[T, B, *]``, and the number of iterations that it took to find them."""
    zero, T, iterations = torch.zeros_like(x), x.shape[0], 0
    rest = _charge(neuron, x, zero)
    decay = _decay(neuron, x)
    spikes = zero
    for _ in range(T):
        iterations += 1
        kept = torch.cat([v0, neuron.reset_voltage(zero, spikes)[:-1]])  # the voltage after the reset is kept + left h
        left = (neuron.reset_voltage(torch.ones_like(x), spikes) - neuron.reset_voltage(zero, spikes))[:-1]
        h = linear_scan(torch.cat([torch.zeros_like(v0), decay[1:] * left]), rest + decay * kept)
        new = neuron.fire(h - neuron.v_threshold)
        if torch.equal(new, spikes):
            break
        spikes = new
    for _ in range(T):  # until no bit changes
        exact = _charge(neuron, x, torch.cat([v0, _reset(neuron, h)[:-1]]))
        if torch.equal(exact, h):
            break
        h = exact
        iterations += 1
    return h, iterations


def _charge(neuron: Neuron, x: Tensor, v: Tensor) -> Tensor:
    """The voltage before firing."""
    if isinstance(neuron, LIF):
        return neuron.charge(x, v)
    return neuron.beta * v + x if isinstance(neuron, Leaky) else v + x


def _slope(neuron: Neuron, h: Tensor) -> Tensor:
    """The derivative of :func:`_reset` by h."""
    if neuron.reset == "none":
        return torch.ones_like(h)
    u, surrogate = h - neuron.v_threshold, neuron.surrogate
    by_spike = 0.0 if neuron.detach_reset else surrogate.derivative(u, surrogate.scale)
    if neuron.reset == "soft":
        return torch.ones_like(h) - neuron.v_threshold * by_spike
    return (1 - neuron.fire(u)) + (neuron.v_reset - h) * by_spike


def _decay(neuron: Neuron, like: Tensor) -> Tensor:
    """The factor by which the voltage enters the next step's."""
    zero = torch.zeros_like(like)
    return _charge(neuron, zero, torch.ones_like(like)) - _charge(neuron, zero, zero)


def _reset(neuron: Neuron, h: Tensor) -> Tensor:
    """The voltage after firing and reset."""
    return neuron.reset_voltage(h, neuron.fire(h - neuron.v_threshold))


class _Decaying(Neuron):
    """``v = a v + x`` with a decay for each step, and no reset."""

    def __init__(self, v_threshold: float, strict: bool, surrogate: Surrogate | None) -> None:
        super().__init__(reset="none", strict=strict, surrogate=surrogate)
        self.numbers(v_threshold=v_threshold)
        self.states(v=0.0)

    def dynamics(self, x: Tensor, a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        v = a * v + x
        return self.fire(v - self.v_threshold), v


class AssociativeLeaky(TemporalModule):
    """Spikes of a matrix whose decay depends on the input: ``S[t] = S[t-1] diag(a[t]) + v[t] k[t]^T``.

    Args:
        in_features: size of the input.
        d_value, d_key: rows and columns of S; v has ``d_value`` values, k and a have ``d_key``.
        query: multiply the spikes of S by a matrix ``Q[t]``, ``[d_key, d_value]``, that is linear in the input.
        v_threshold, strict, surrogate: how ``[S >= v_threshold]`` spikes, see :class:`spikeloom.Neuron`.

    The input is ``[T, B, in_features]``; the output is ``[T, B, d_value d_value]`` with a query, else the spikes ``[T,
    B, d_value d_key]``. The state ``v`` is S, ``[B, d_value, d_key]``, zeros at rest. Products are computed for all
    steps at once, and the recurrence runs in one kernel where there is one. snnTorch's ``AssociativeLeaky`` divides by
    products of decays, which rounding destroys after some dozen steps.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.Network(sl.nn.AssociativeLeaky(3, d_value=4, d_key=5))(torch.rand(6, 2, 3)).shape
    torch.Size([6, 2, 16])
    """

    paper = "Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, ICML 2024"
    opaque = True

    def __init__(
        self,
        in_features: int,
        *,
        d_value: int,
        d_key: int,
        query: bool = True,
        v_threshold: float = 1.0,
        strict: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("in_features", in_features), ("d_value", d_value), ("d_key", d_key)):
            if value < 1:
                raise ValueError(f"AssociativeLeaky: {name} must be at least 1, got {value}")
        self.in_features, self.d_value, self.d_key = in_features, d_value, d_key
        self.to_v, self.to_k = nn.Linear(in_features, d_value), nn.Linear(in_features, d_key)
        self.to_alpha = nn.Linear(in_features, d_key)
        self.to_q = nn.Linear(in_features, d_key * d_value) if query else None
        self.neuron = _Decaying(v_threshold, strict, surrogate)
        self.recordable = self.neuron.recordable

    @property
    def recordable_by_name(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the neuron."""
        return self.neuron.recordable_by_name

    def initial_state(self, *x_t: Any) -> State:
        """A matrix of zeros."""
        x = x_t[0]
        return self.neuron.initial_state(x.new_zeros(x.shape[0], self.d_value, self.d_key))

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, in_features]``: ``(y, state)``."""
        self.check_record(record)
        x = xs[0]
        if x.ndim != 3 or x.shape[2] != self.in_features:
            raise ValueError(f"AssociativeLeaky: expected [T, B, {self.in_features}], got {list(x.shape)}")
        x = masked(x, lengths)
        written = self.to_v(x).unsqueeze(3) * self.to_k(x).unsqueeze(2)
        decay = torch.sigmoid(self.to_alpha(x)).unsqueeze(2).expand_as(written)
        spikes, *rest = self.neuron.sequence(written, decay, state=state, lengths=lengths, record=record)
        y = spikes if self.to_q is None else spikes @ self.to_q(x).unflatten(2, (self.d_key, self.d_value))
        return masked(y.flatten(2).to(output_dtype(x.dtype)), lengths), *rest

    def extra_repr(self) -> str:
        return f"{self.in_features}, d_value={self.d_value}, d_key={self.d_key}"
