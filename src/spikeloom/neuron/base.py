"""Dynamics: one step, purely; everything else derives from it. Neuron: dynamics that fire by a surrogate and reset.

``Dynamics`` is abstract and has two abstract kinds: ``Neuron``, which every neuron is, and ``Option``, a neuron around
a neuron. Classes that define ``dynamics`` are no bases of each other.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .._constants import HasConstants, kind
from .._numbers import Declared, Number, describe
from .._peers import of_reset
from .._tracing import exporting, known_while_tracing
from ..core import Late, Prepared, Repeated, Sequence, State, TemporalModule, UnfitError, active
from ..core.recording import plain_tensor
from ..kernel import (
    FUSED_NORMS,
    Found,
    Norm,
    Request,
    gives_spikes,
    is_one_constant,
    kernels_of,
    may_prepare,
    one_step,
    output_dtype,
    plain_value,
    prepared_step,
    program_text,
    scan,
    state_dtype,
    warn_of_no_gradient,
)
from ..spikes import SpikeTensor, from_bits, is_whole, pack
from ..surrogate import ATan, Surrogate
from .fires import may_fire

Reset = Literal["hard", "soft", "none"]
_RESETS = ("hard", "soft", "none")


class Dynamics(Declared, TemporalModule):
    """Base of what is defined by the equation of one time step: neurons, and options around them.

    ``self.numbers(...)`` declares what the equation reads, ``self.states(...)`` what it carries from step to step, and
    ``dynamics(x, *states)`` is the equation. Sequences, single steps, kernels, recordings and packed spikes derive from
    these. It is abstract: derive from :class:`Neuron`, or from :class:`spikeloom.options.Option`.

    The state is float64 for float64 input and float32 for any other; spikes have the dtype of the input.
    Numbers that are not learnable travel in checkpoints, and so do public attributes that are plain values, functions
    by name, and the surrogate: loading weights that were saved with others raises.

    >>> import spikeloom as sl
    >>> neuron = sl.options.Noisy(sl.LIF(tau=4.0), input=0.1)
    >>> isinstance(neuron, sl.Dynamics), type(neuron.core()).__name__, neuron.core().tau.item()
    (True, 'LIF', 4.0)
    """

    causal = True
    takes_repeated = True
    absorbs_late = True
    own_dtypes = True
    is_binary: bool = True
    """Whether the output is 0 or 1, so that it may be packed into bits."""
    nestable: ClassVar[bool] = True  # whether an option may stand around it
    _cut: tuple[str, ...] = ()  # states through which no gradient passes: nothing of earlier steps is kept for them
    without_u: str = ""
    """Why ``u`` cannot be recorded; empty where it can. A neuron whose code names no ``fire`` says so by itself."""
    paper: ClassVar[str] = ""
    """Who described the neuron, for :func:`spikeloom.cite`."""
    must_carry: ClassVar[bool] = True

    surrogate: Surrogate

    def __init__(self) -> None:
        super().__init__()
        self._packed = False
        self._rest: dict[str, str] = {}  # state -> the number that holds its value at rest

    def core(self) -> Neuron:
        """The neuron that fires: of options the innermost one, of a neuron itself."""
        raise NotImplementedError(f"{type(self).__name__} is neither a Neuron nor an Option")

    @property
    def packed(self) -> bool:
        """Whether sequences of spikes are handed on as a :class:`spikeloom.SpikeTensor`; set it to have that.

        ``sl.Network(..., spikes="packed")`` does so for all neurons whose output is binary.
        """
        return self._packed

    @packed.setter
    def packed(self, value: bool) -> None:
        if value and not self.is_binary:
            raise ValueError(f"{type(self).__name__}: its output is not 0 or 1, and cannot be packed into bits")
        self.__dict__["_packed"] = bool(value)  # which changes no equation

    def states(self, **at_rest: Number | str) -> None:
        """Declares the states, in dynamics' order, with their values at rest.

        A value is a number (float, Tensor, nn.Parameter) or the name of a declared number.
        """
        for name, value in at_rest.items():
            if not isinstance(value, str):
                self.numbers(**{f"{name}_rest": value})
                value = f"{name}_rest"
            elif value not in self._declared:
                raise ValueError(
                    f"{type(self).__name__}: state {name!r} rests at {value!r}, which is no declared number"
                )
            self._rest[name] = value
        self.recordable = tuple(self._rest)

    def dynamics(self, *x_and_states: Any, **none: Any) -> Any:
        """``(x, *states) -> (spike, *new states)``, all of the shape of the step ``[B, *]``."""
        raise NotImplementedError(f"{type(self).__name__} must define dynamics(self, x, *states)")

    def initial_state(self, *x_t: Tensor) -> dict[str, Tensor]:
        """The states at rest, ``{name: [B, *]}``."""
        return self._at_rest(x_t[0], self._rest)

    def _at_rest(self, x_t: Tensor, rest: dict[str, str], *, expanded: bool = False) -> dict[str, Tensor]:
        """``expanded``: constants may be one value, expanded, and those of which a device would have to be asked are
        themselves.
        """
        dtype, found = state_dtype(x_t.dtype), {}
        for name, number in rest.items():
            value = plain_value(self._buffers.get(number))
            if value is not None:
                one = torch.full((), value, dtype=dtype, device=x_t.device) if expanded else None
                found[name] = torch.full_like(x_t, value, dtype=dtype) if one is None else one.expand(x_t.shape)
            elif expanded and is_one_constant(self._buffers.get(number)):
                found[name] = self._buffers[number].expand(x_t.shape)  # type: ignore[union-attr]
            else:
                zero = torch.zeros_like(x_t, dtype=dtype)
                found[name] = zero + self.broadcast(number, zero.shape, dtype)
        return found

    def sequence(
        self,
        *xs: Tensor | Repeated,
        state: State = None,
        lengths: Tensor | None = None,
        record: tuple[str, ...] = (),
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, *]``: ``(spikes, state)``, and where ``record`` names states or ``u``, those too.

        Raises ValueError for empty or too small inputs, a state that does not fit, an unknown recording.
        """
        if len(xs) > 1:
            self._check_number(xs, "the state is a keyword, y, state = lif.sequence(x, state=state)")
        return self._sequence(xs, state, lengths, record, None)

    def absorb(self, previous: nn.Module | Late) -> Sequence | None:
        """A batch norm of torch.nn directly before the neuron joins its kernel."""
        late = isinstance(previous, Late)
        if not (late or type(previous) in FUSED_NORMS) or not self.still("absorb") or torch.compiler.is_compiling():
            return None

        norm: Norm = previous.norm if isinstance(previous, Late) else Norm.of(previous)

        def both(
            *xs: Tensor, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
        ) -> tuple[Any, ...]:
            return self._sequence(xs, state, lengths, record, norm)

        return both

    def _sequence(
        self,
        xs: tuple[Tensor | Repeated, ...],
        state: State,
        lengths: Tensor | None,
        record: tuple[str, ...],
        norm: Norm | None,
    ) -> tuple[Any, ...]:
        xs, once = tuple(map(_dense, xs)), isinstance(xs[0], Repeated)
        first = xs[0].x if isinstance(xs[0], Repeated) else xs[0]
        lead = 1 if once else 2
        if first.ndim < lead or 0 in first.shape[:lead]:
            raise ValueError(f"{type(self).__name__}: expected [T, B, *] with T > 0 and B > 0, got {list(first.shape)}")
        self.check_record(record)
        x_t, u, packs = first if once else first[0], self._marks(record), self._packs()
        names = (*self._rest, "u") if u else tuple(self._rest)
        request = Request.of(
            xs,
            self._start(state, x_t, u=u),
            lengths=lengths,
            record=tuple(names.index(n) for n in record),
            norm=norm,
            as_spikes=from_bits if packs else None,
            u=u,
        )
        y, final, recordings = self._scan(request)
        warn_of_no_gradient(self, request, y)
        y, new = self._as_bits(y, len(xs)) if packs else y, dict(zip(self._rest, final, strict=False))
        return (y, new, dict(zip(record, recordings, strict=True))) if record else (y, new)

    def _packs(self) -> bool:
        call = active()
        packs = self._packed or (call is not None and call.packed and self.is_binary and self.surrogate.spiking)
        if packs and torch.compiler.is_compiling():
            return call is not None and call.traced and not exporting() and is_whole()
        return packs

    def _scan(self, request: Request) -> Found:
        return scan(self, request)

    @known_while_tracing
    def _program_text(
        self, read: Any, repeated: tuple[bool, ...], record: tuple[int, ...], device: str, u: bool
    ) -> str:
        """:func:`spikeloom.kernel.program_text`, while Dynamo traces; a method, since only methods of a module may be
        called then before PyTorch 2.12.

        ``read`` is there for the guards on it: another neuron, option or mode may be another program.
        """
        return program_text(self, repeated, record, device, u=u)

    def step(self, *x_t: Tensor, state: State = None) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of ``[B, *]``: ``(spikes, state)``."""
        self._check_step(x_t)
        y, new = self._one_step(x_t, state, u=False)
        return y, dict(zip(self._rest, new, strict=True))

    def recorded_step(
        self, *x_t: Tensor, state: State = None, record: tuple[str, ...] = ()
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """:meth:`step`, and ``{name: [B, *]}`` of the names in ``record``."""
        u = self._marks(record)
        y, new = self._one_step(x_t, state, u=u)
        found = dict(zip((*self._rest, "u") if u else self._rest, new, strict=True))
        return y, {name: found[name] for name in self._rest}, {name: found[name] for name in record}

    def _one_step(self, x_t: tuple[Tensor, ...], state: State, *, u: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        x_t = tuple([x.unpack() if isinstance(x, SpikeTensor) else x for x in x_t])
        packs = not torch.compiler.is_compiling() and self._packs() and x_t[0].numel() >= WORTH_BITS
        start = self._start(state, x_t[0], u=u)
        request = Request.of_step(x_t, start, from_bits if packs else None, u=u)
        y, new = one_step(self, request)
        warn_of_no_gradient(self, request, y)
        return self._as_bits(y, len(x_t)) if packs else y, new

    def _as_bits(self, y: Tensor, inputs: int) -> SpikeTensor:
        """Outputs as bits, where no kernel has written any; a GPU is not waited for where the equation says enough."""
        return y if isinstance(y, SpikeTensor) else pack(y, check=y.is_cpu or not self._gives_spikes(inputs))

    def _gives_spikes(self, inputs: int) -> bool:
        """:func:`spikeloom.kernel.gives_spikes`, which Dynamo calls while it traces; what guards the neuron's program
        guards this, and PyTorch before 2.12 calls only methods of a module so.
        """
        return gives_spikes(self, inputs)

    _gives_spikes._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _marks(self, record: tuple[str, ...]) -> bool:
        """Whether what ``fire`` is given is to be recorded: ``u``, where no state has that name."""
        return "u" in record and "u" not in self._rest

    @property
    def recordable_by_name(self) -> tuple[str, ...]:  # type: ignore[override]
        """``u``, what ``fire`` was given, where :attr:`without_u` gives no reason against it."""
        return () if "u" in self._rest or self.without_u else ("u",)

    def not_recordable(self, name: str) -> str:
        """Why a name cannot be recorded, where there is more to say than what can be."""
        return self.without_u if name == "u" else ""

    may_prepare = staticmethod(may_prepare)

    def depends_on(self) -> Any:
        """All that the equation may read, as its signature compares it."""
        signature = self.signature()
        if signature.refused:
            raise UnfitError(signature.refused)
        if signature.watched and isinstance(reason := kernels_of(self), str):  # its code may read what nobody sees
            raise UnfitError(reason)
        return signature, self.packed, self.is_binary

    def prepared(self, x: Any, *, previous: nn.Module | None = None, last: bool = True) -> Prepared | None:
        """The kernel of one step, which a batch norm before the neuron joins; None where no kernel would run."""
        if not isinstance(x, Tensor) or x.ndim < 1 or not (previous is None or type(previous) in FUSED_NORMS):
            return None
        unpacks = isinstance(x, SpikeTensor)
        like = x.unpack() if isinstance(x, SpikeTensor) else x
        packs = self._packs() and not (last and like.numel() < WORTH_BITS)
        rest = tuple(self.initial_state(like).values())
        made = prepared_step(self, like, rest, previous, from_bits if packs else None)
        if made is None or made[0].dtype != output_dtype(like.dtype):
            return None
        (y, run), kind, strides = made, (like.shape, like.dtype, like.device), like.stride()
        packs = packs and not isinstance(y, SpikeTensor)  # where a step is no whole bytes

        def step(x: Any, state: State) -> tuple[Tensor, State]:
            x = x.unpack() if unpacks else x
            if type(x) is not Tensor or (x.shape, x.dtype, x.device) != kind:
                raise UnfitError
            if x.stride() != strides:
                x = torch.empty_strided(x.shape, strides, dtype=x.dtype).copy_(x)
            state = self.initial_state(x) if state is None else state
            new = run(x, [state[name] for name in self._rest])
            return (pack(y) if packs else y), dict(zip(self._rest, new, strict=True))

        reads = () if previous is None else (previous,)
        return Prepared(step, output=y, reads=reads, facts=lambda: (self.signature(), self.packed, self.is_binary))

    def check_state(self, state: State, *x_t: Tensor) -> None:
        """Raises ValueError unless ``state`` is ``{name: [B, *]}`` in the state's dtype, on the input's device."""
        who, names = type(self).__name__, list(self._rest)
        if not isinstance(state, dict) or set(state) != set(names):
            got = list(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"{who}: expected a state with {names}, got {got}")
        x, dtype = x_t[0], state_dtype(x_t[0].dtype)
        for name, value in state.items():
            if (value.shape, value.dtype, value.device) != (x.shape, dtype, x.device):
                raise ValueError(
                    f"{who}: the given state {name!r} is {list(value.shape)} {value.dtype} on {value.device}, but this "
                    f"input needs {list(x.shape)} {dtype} on {x.device}; start at rest (state=None, stream.reset()) "
                    "or convert it"
                )

    def check_inputs(self, xs: tuple[Any, ...]) -> None:
        """Raises TypeError where there are more inputs than ``dynamics`` has besides the states."""
        self._check_number(
            xs,
            "inside a network no state is passed, y = lif(x); the call hands it out, y, result = net(x, "
            'return_state=True), or records it, record=("1.v",)',
        )

    def _check_step(self, x_t: tuple[Any, ...]) -> None:
        if len(x_t) > 1:
            self._check_number(x_t, "the state is a keyword, y, state = lif.step(x_t, state=state)")

    def _check_number(self, xs: tuple[Any, ...], remedy: str) -> None:
        if torch.compiler.is_compiling():  # which cannot trace what follows
            return
        given = [p.kind for p in inspect.signature(self.core().dynamics).parameters.values()]
        inputs = len(given) - len(self.core()._rest)
        if inspect.Parameter.VAR_POSITIONAL not in given and len(xs) > inputs:
            takes = "one input" if inputs == 1 else f"{inputs} inputs"
            raise TypeError(f"{type(self).__name__} takes {takes}, got {len(xs)}: {remedy}")

    def constants(self) -> dict[str, Any]:
        """The constant numbers and the options that the forward pass depends on; checkpoints carry them."""
        functions = {name: repr(m) for name, m in self._modules.items() if _is_function(m)}
        own = {**self._attributes(), **functions, **Declared.constants(self)}
        return {"neuron": kind(self), "spiking": self.surrogate.spiking, **own}

    def _options(self) -> dict[str, Any]:
        """Public attributes that are plain values: what ``dynamics`` may depend on besides numbers."""
        plain = (bool, int, float, str, type(None))
        return {
            name: value
            for name, value in self.__dict__.items()
            if not name.startswith("_") and name != "training" and isinstance(value, plain)
        }

    def _start(self, state: State, x_t: Tensor, *, u: bool) -> tuple[Tensor, ...]:
        if not isinstance(x_t, Tensor):
            remedy = "; give torch.from_numpy(x)" if type(x_t).__name__ == "ndarray" else ""
            raise TypeError(f"{type(self).__name__}: expected a tensor, got {type(x_t).__name__}{remedy}")
        if state is not None:
            self.check_state(state, x_t)
        elif type(self).initial_state is Neuron.initial_state:
            state = self._at_rest(x_t, self._rest, expanded=True)
        else:
            state = self.initial_state(x_t)
        start = [state[name].detach() if name in self._cut else state[name] for name in self._rest]
        return (*start, torch.zeros_like(x_t, dtype=state_dtype(x_t.dtype))) if u else tuple(start)

    def extra_repr(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self._options().items() if name != "leak_to")
        return (describe(self) + options).lstrip(", ") + f", surrogate={self.surrogate!r}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class Neuron(Dynamics):
    """Base of neurons that are defined by the equation of one time step.

    A subclass calls ``super().__init__()``, declares its numbers and its states, and defines ``dynamics``::

        self.numbers(tau=2.0, rho=nn.Parameter(torch.ones(features)))   # float, Tensor or nn.Parameter
        self.states(v=0.0)                                              # in dynamics' order, values at rest
        def dynamics(self, x, v): ... return spike, v                   # pure, elementwise, [B, *]

    Inside ``dynamics`` every number is a tensor that broadcasts against the step: use ``torch.exp``, not
    ``math.exp``, and ``torch.where``, not ``if``. ``self.fire(u)`` is the step function with the surrogate
    gradient, ``self.reset_voltage(h, spike)`` the reset.

    Args:
        reset: ``"hard"`` sets v to ``v_reset``, ``"soft"`` subtracts ``v_threshold``, ``"none"`` does nothing.
        detach_reset: no gradient through the spike inside the reset.
        strict: fire at ``u > 0`` instead of ``u >= 0``.
        surrogate: a :class:`spikeloom.surrogate.Surrogate`; None is ``ATan(2)``.

    State and spikes have the dtypes, and checkpoints the constants, that :class:`Dynamics` describes.

    >>> import torch
    >>> import spikeloom as sl
    >>> class Adaptive(sl.Neuron):
    ...     def __init__(self, features):
    ...         super().__init__(surrogate=sl.surrogate.Sigmoid(4.0))
    ...         self.numbers(tau=3.0, rho=torch.nn.Parameter(torch.linspace(0.7, 0.98, features)))
    ...         self.states(v=0.0, a=0.0)
    ...     def dynamics(self, x, v, a):
    ...         v = v + (x * torch.exp(-a) - v) / self.tau
    ...         s = self.fire(v - 0.3 * a - 1.0)
    ...         return s, v - s, a * self.rho + s * (1 - self.rho)
    >>> sl.Network(torch.nn.Linear(3, 5), Adaptive(5))(torch.rand(8, 2, 3)).shape
    torch.Size([8, 2, 5])
    """

    not_carried: ClassVar[tuple[str, ...]] = ("detach_reset",)  # which is of the gradient alone
    which_u: ClassVar[int | None] = None
    """Which of several calls of ``fire`` in a step ``u`` is of, where the output is the result of none of them."""

    v_threshold: Tensor
    v_reset: Tensor

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "dynamics" in vars(cls) and "without_u" not in vars(cls):
            cls.without_u = "" if may_fire(cls) else "its dynamics never calls self.fire"

    def __init__(
        self,
        *,
        reset: Reset = "hard",
        detach_reset: bool = False,
        strict: bool = False,
        surrogate: Surrogate | None = None,
    ) -> None:
        super().__init__()
        if reset not in _RESETS:
            raise ValueError(
                f"{type(self).__name__}: reset must be one of {', '.join(_RESETS)}; got {reset!r}{of_reset(reset)}"
            )
        if surrogate is not None and not isinstance(surrogate, Surrogate):
            raise TypeError(
                f"{type(self).__name__}: surrogate must be an instance, such as sl.surrogate.ATan(2.0), got "
                f"{surrogate!r}"
            )
        self.reset, self.detach_reset, self.strict = reset, detach_reset, strict
        self.surrogate = ATan() if surrogate is None else surrogate

    def core(self) -> Neuron:
        """The neuron itself."""
        return self

    def fire(self, u: Tensor) -> Tensor:
        """Spikes where ``u`` (voltage minus threshold) is at least 0, with the surrogate gradient."""
        spikes: Tensor = self.surrogate(u, self.strict)
        return spikes

    def reset_voltage(self, h: Tensor, spike: Tensor) -> Tensor:
        """``h`` after the reset: ``(1-s) h + s v_reset``, ``h - s v_threshold`` or ``h``."""
        if self.reset == "none":
            return h
        if self.detach_reset:
            spike = spike.detach()
        if self.reset == "soft":
            return h - spike * self.v_threshold
        return (1 - spike) * h + spike * self.v_reset


WORTH_BITS = 8192
"""Values of a single step from which it is handed on as bits; for fewer, making bits takes longer than they save."""


def _dense(x: Tensor | Repeated) -> Tensor | Repeated:
    if isinstance(x, Repeated):
        return Repeated(x.x.unpack(), x.T) if isinstance(x.x, SpikeTensor) else x
    return x.unpack() if isinstance(x, SpikeTensor) else plain_tensor(x)


def _is_function(module: nn.Module | None) -> bool:
    """Whether a module of torch, as ``nn.Tanh()``, is a function in an equation: it has nothing of its own to save."""
    return not (module is None or isinstance(module, HasConstants) or module.state_dict())
