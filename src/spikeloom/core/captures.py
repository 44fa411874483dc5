"""captures: the recordings of one module's calls, one for each kind of call, and when each may be replayed.

A kind of call is all that decides what runs besides the module itself: structure and plain values of the arguments;
shape, strides, dtype, device and requires_grad of each tensor among them; gradient and inference mode, autocast, the
default dtype, torch's settings of precision and determinism, the backend of neurons, which modules train and which
parameters are learned. Another kind has another recording. What :class:`spikeloom.core.unchanged.Unchanged` compares
holds for all kinds: where it has changed, all recordings go. Where somebody has to see the module run (hooks, taps,
``explain``, a tracer), it runs.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._hooks import transformed
from .._numbers import is_plain_float
from ..keys.code import is_plain
from .call import active
from .places import opened
from .prepared import UnfitError
from .rehearsal import Undo
from .replay import RECORDERS, Recorder, RecordError
from .unchanged import Unchanged

logger = logging.getLogger("spikeloom")

AFTER = 3
"""A kind of call is recorded at its third call: the two before it show that it comes often, and compile kernels."""
LIMIT = 8
"""Recordings of one module; the one that was not used for longest makes room for another."""
_COUNTED = 64  # kinds whose calls are counted; all counts begin anew where there are more
_PATIENCE = 8  # calls that pass after the module changed before it is looked at again; twice as many the next time
_LONGEST = 1024

AMBIENT: list[Callable[[], Any]] = []
"""Each gives a part of the kind that is known elsewhere, or None where calls have to run."""

_Made = TypeVar("_Made")


class Arguments:
    """The arguments of a call: its tensors, and what puts others in their places."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._kwargs = kwargs
        self._alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
        if self._alone:  # as nearly always
            self.tensors, self.others = [args[0]], []
            return
        leaves, self._spec = pytree.tree_flatten((args, kwargs))
        self.tensors = [x for x in leaves if isinstance(x, Tensor)]
        self.others = [x for x in leaves if not isinstance(x, Tensor)]
        self._at = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]
        self._leaves = leaves

    def refused(self) -> str:
        """Why these arguments are in no recording."""
        for x in self.tensors:
            if type(x) not in (Tensor, nn.Parameter):
                return f"an argument is a {type(x).__name__}, of which only plain tensors are recorded"
            if x.layout is not torch.strided:
                return f"an argument has the layout {x.layout}"
        for x in self.others:
            if not is_plain(x):
                return f"an argument is a {type(x).__name__}; tensors and plain values are recorded"
        return ""

    def kind(self) -> tuple[Any, ...]:
        """What of them decides what runs."""
        if self._alone:
            return _described(self.tensors[0])
        plain = tuple([(type(x), x) for x in self.others])
        return str(self._spec), plain, tuple([_described(x) for x in self.tensors])

    def has(self, name: str) -> bool:
        """Whether there is such a keyword argument that is not None."""
        return self._kwargs.get(name) is not None

    def filled(self, tensors: list[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with these tensors in the places of their own."""
        if self._alone:
            return (tensors[0],), {}
        leaves = list(self._leaves)
        for i, x in zip(self._at, tensors, strict=True):
            leaves[i] = x
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return args, kwargs


Make = Callable[[Recorder, Unchanged, Arguments], _Made]
"""Records a call, with what records and what the module was; raises UnfitError with the reason against it."""


class Captures(Generic[_Made]):
    """The recordings of one module; ``after`` and ``limit``: see ``AFTER`` and ``LIMIT``."""

    def __init__(self, module: nn.Module, *, after: int = AFTER, limit: int = LIMIT) -> None:
        self._module, self._after, self._limit = module, after, limit
        self._recorder: Recorder | None = None
        self._unchanged: Unchanged | None = None
        self._wait, self._patience, self._unfit = 0, _PATIENCE, ""
        self._used = False
        self._said: set[str] = set()
        self.reason = ""
        """Why :meth:`find` gave nothing the last time."""
        self._suits: torch.device | None = None  # the device on which all of the module is
        self.clear()

    def clear(self) -> None:
        """Forgets all recordings."""
        self._made: OrderedDict[Any, _Made] = OrderedDict()
        self._seen: dict[Any, int] = {}
        self._refused: dict[Any, str] = {}
        self._unchanged = None

    def __len__(self) -> int:
        return len(self._made)

    def find(self, given: Arguments, make: Make[_Made], *, now: bool = False, extra: Any = None) -> _Made | None:
        """The recording of such a call, which ``make`` makes where it came often enough, or ``now``.

        ``extra``: what else decides on the kind.
        """
        self.reason = _has_to_run(given)
        if self.reason or not self._is_known(now):
            return None
        unchanged = self._unchanged
        assert unchanged is not None
        self.reason = unchanged.has_hooks() or self._wrong_device(unchanged, given)
        if self.reason:
            return None
        assert self._recorder is not None
        kind = (given.kind(), extra, _surroundings(self._recorder.device.type), unchanged.mode())
        made = self._made.get(kind)
        if made is not None:
            self._made.move_to_end(kind)
            self._used = True
            return made
        self.reason = self._refused.get(kind, "")
        if self.reason or not (now or self._comes_often(kind)):
            return None
        return self._record(kind, lambda recorder: make(recorder, unchanged, given))

    def _is_known(self, now: bool) -> bool:
        """Whether the module is as it was or, if not, was looked at anew."""
        if self._unchanged is not None:
            if self._unchanged.hold():
                return True
            self._unfit = f"{self._unchanged.changed()} changed since the call before"
            self.clear()
            if self._used:
                self._wait, self._patience, self._used = 0, _PATIENCE, False
            else:
                self._wait_for_a_while()
        if self._wait > 0 and not now:
            self._wait -= 1
            self.reason = self._unfit
            return False
        try:
            self._unchanged, self._suits = Unchanged(self._module), None
        except UnfitError as reason:
            self.reason = self._unfit = str(reason)
            self._say(self.reason)
            self._wait_for_a_while()
            return False
        return True

    def _say(self, reason: str) -> None:
        """Logs a reason that lasts, once."""
        if reason not in self._said:
            self._said.add(reason)
            logger.warning("%s runs ungraphed: %s", type(self._module).__name__, reason)

    def _wait_for_a_while(self) -> None:
        """A look at a module takes time, which is in vain where the module changes at every call."""
        self._wait, self._patience = self._patience, min(2 * self._patience, _LONGEST)

    def _comes_often(self, kind: Any) -> bool:
        if len(self._seen) >= _COUNTED and kind not in self._seen:
            self._seen.clear()
        count = self._seen[kind] = self._seen.get(kind, 0) + 1
        self.reason = f"call {count} of its kind; number {self._after} is recorded"
        return count >= self._after

    def _wrong_device(self, unchanged: Unchanged, given: Arguments) -> str:
        """Why there is nothing to record with; finds what does."""
        if not given.tensors:
            return "no argument is a tensor"
        device = given.tensors[0].device
        if device.type not in RECORDERS:
            return f"the input is on {device}; steps are recorded on {', '.join(RECORDERS)}"
        for x in given.tensors:
            if x.device != device:
                return f"arguments are on {device} and on {x.device}"
        if self._suits != device:
            for path, tensor in unchanged.named_tensors():
                if tensor.device != device and not is_plain_float(tensor):
                    return f"{path} is on {tensor.device}, the input on {device}"
            self._suits = device
        if self._recorder is None or self._recorder.device != device:
            self._made.clear()
            self._recorder = RECORDERS[device.type](device)
        return ""

    def _record(self, kind: Any, make: Callable[[Recorder], _Made]) -> _Made | None:
        recorder, unchanged = self._recorder, self._unchanged
        assert recorder is not None
        assert unchanged is not None
        while len(self._made) >= self._limit:
            self._made.popitem(last=False)
        undo = Undo(recorder, unchanged)
        try:
            made = make(recorder)
            undo.check()
        except (UnfitError, RecordError, torch.OutOfMemoryError) as reason:
            self.reason = self._refused[kind] = str(reason)
            self._say(self.reason)
            return None
        finally:
            undo.restore()
        self._made[kind] = made
        self.reason = ""
        return made


def check_outputs(leaves: list[Any]) -> None:
    """Raises UnfitError for what is neither a tensor, or made of tensors as spikes are, nor a plain value."""
    for y in leaves:
        if not (type(y) in (Tensor, nn.Parameter) or hasattr(y, "__tensor_flatten__") or is_plain(y)):
            raise UnfitError(f"an output is a {type(y).__name__}; tensors and plain values are recorded")


def without_cache(kind: str) -> AbstractContextManager[Any]:
    """Autocast as it is, but with casts of weights that belong to the recording alone."""
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), cache_enabled=False)


def without_autocast(kind: str) -> AbstractContextManager[Any]:
    """No autocast, in which backward passes usually run."""
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


class Fixed:
    """Memory that inputs of one kind are copied to."""

    def __init__(self, x: Tensor) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self._base = _distinct(x.detach()).clone()
            self.tensor = self._base.expand(x.shape) if self._base.shape != x.shape else self._base
        self.tensor.requires_grad_(x.requires_grad)

    def take(self, x: Tensor) -> None:
        """Copies the values of an input."""
        with torch.no_grad():
            self._base.copy_(_distinct(x.detach()))


def _distinct(x: Tensor) -> Tensor:
    """One of the equal values along dimensions of stride 0."""
    for d, stride in enumerate(x.stride()):
        if stride == 0 and x.shape[d] > 1:
            x = x.narrow(d, 0, 1)
    return x


def _described(x: Tensor) -> tuple[Any, ...]:
    strides = tuple([s if n > 1 else 0 for s, n in zip(x.stride(), x.shape, strict=True)])
    return x.shape, strides, x.dtype, x.device, x.requires_grad


def _has_to_run(given: Arguments) -> str:
    """Why a call runs whatever was recorded."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or transformed():
        return "something traces or transforms the call"
    if active() is not None:
        return "it is part of another network's call"
    if opened():
        return "taps look on"
    if torch.is_anomaly_enabled():
        return "anomaly detection looks on"
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        return "it is part of a graph that is being captured"
    if any(ask() is None for ask in AMBIENT):
        return "explain() or SPIKELOOM_DEBUG looks on"
    return given.refused()


def _surroundings(kind: str) -> tuple[Any, ...]:
    """The modes and settings in which a call runs."""
    autocast = [
        (k, torch.get_autocast_dtype(k)) for k in (kind, "cpu") if torch.is_autocast_enabled(k)
    ]  # asked of kinds that have it, as those do on which anything is recorded
    cudnn: Any = torch.backends.cudnn
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        tuple(autocast),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.conv.fp32_precision),
        torch.backends.cuda.matmul.fp32_precision,
        tuple([ask() for ask in AMBIENT]),
    )
