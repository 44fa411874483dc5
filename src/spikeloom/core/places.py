"""Places: what there is to see in a network, and how a call comes to show what is wanted of it.

Temporal modules tell the call what they are given and give; what runs the layers of a Sequential tells of those that do
not run by themselves. The rest is told by hooks, which whoever joins layers is content with, and by methods in place of
those of temporal modules that another one runs. Both are there for the length of a call, and do nothing in others.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from .._hooks import Onlooker
from .call import Call, active
from .module import TemporalModule
from .recorder import GRADIENTS, SIDES, Asked, Recorder, Sink
from .tree import walk

_COMPILED = (
    "compiled code is not watched by taps, and records outputs and states of temporal modules alone; for other places "
    "run the module that it was made of"
)


class Tap(Sink, Protocol):
    """What looks at the calls of a thread."""

    def turn(self, modules: Iterable[nn.Module], *, again: bool) -> dict[nn.Module, Asked]: ...


_open = threading.local()  # as the running call: no ContextVar, which Dynamo cannot trace
_open.taps = ()
_watched: Counter[tuple[nn.Module, str]] = Counter()  # methods that stand in the way of others', for how many calls
_lock = threading.Lock()


def opened() -> tuple[Tap, ...]:
    """The taps of this thread."""
    found: tuple[Tap, ...] = getattr(_open, "taps", ())
    return found


def set_opened(taps: tuple[Tap, ...]) -> None:
    """Changes the taps of this thread."""
    _open.taps = taps


Places = dict[str, tuple[nn.Module, str, str, str]]
"""Module, its path and what of it, and which path a wildcard has to stand behind to fit it, by name."""


def places(net: nn.Module, *, gradients: bool = False) -> Places:
    """All places of a network by name. The layers of a neuron's equation are none: they may not run at all."""
    found: Places = {}
    seen: set[nn.Module] = set()
    for path, module, within in _modules(net):
        if path and module not in seen:
            seen.add(module)
            states: tuple[str, ...] = ()
            if isinstance(module, TemporalModule):
                states = (*module.recordable, *module.recordable_by_name)
            for name in ("output", *states, "input", *(GRADIENTS if gradients else ())):
                found[f"{path}.{name}"] = module, path, name, within
    return found


def match(net: nn.Module, patterns: tuple[str, ...], who: str, *, gradients: bool = False) -> dict[str, Any]:
    """The places, ``(module, path, what)``, that each pattern fits; raises where one fits none."""
    if isinstance(patterns, str):
        raise TypeError(f"{who} takes a tuple of names, got a string; write record=({patterns!r},)")
    if not isinstance(patterns, Iterable):
        raise TypeError(f"{who} takes a tuple of names, got {type(patterns).__name__}; () records nothing")
    there, found = places(net, gradients=gradients), {}
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"{who} takes names as '2.output', got {type(pattern).__name__}")
        if pattern in there:
            found[pattern] = [there[pattern][:3]]
        elif "*" in pattern:
            start = pattern.partition("*")[0]
            fits = (p for name, p in there.items() if start.startswith(p[3]) and fnmatchcase(name, pattern))
            found[pattern] = [p[:3] for p in fits if _is_meant(p[0], p[2], pattern)]
        if not found.get(pattern):
            raise ValueError(f"cannot {who} {pattern!r}{_why(there, pattern)}; {_listed(there, gradients)}")
    return found


def _is_meant(module: Any, what: str, pattern: str) -> bool:
    """Whether a wildcard that fits a place of a module is to have it, see :attr:`TemporalModule.recordable_by_name`."""
    return what not in getattr(module, "recordable_by_name", ()) or pattern.endswith(f".{what}")


def _why(there: Places, pattern: str) -> str:
    """Why what a pattern asks for cannot be had of a temporal module that is there."""
    path, _, name = pattern.rpartition(".")
    module = there[f"{path}.output"][0] if f"{path}.output" in there else None
    why = module.not_recordable(name) if isinstance(module, TemporalModule) else ""
    return f", for {type(module).__name__}: {why}" if why else ""


def _listed(there: Places, gradients: bool) -> str:
    timed = [name for name, (module, _, what, _) in there.items() if isinstance(module, TemporalModule) and _own(what)]
    others = dict.fromkeys(path for _, path, _, _ in there.values())
    sides = ", ".join((*SIDES, *GRADIENTS) if gradients else SIDES)
    return f"this network has {', '.join(timed) or 'no temporal module'}; and {sides} of {', '.join(others)}"


def _own(what: str) -> bool:
    return what == "output" or what not in (*SIDES, *GRADIENTS)


def named(net: nn.Module) -> dict[nn.Module, str]:
    """The path of every module; what only one around it runs, of an equation or not as a layer, goes by that one's."""
    found: dict[nn.Module, str] = {}
    for path, module in walk(net):
        found.setdefault(module, path)
        if hasattr(type(module), "dynamics"):
            alone = list(module.modules())
        elif isinstance(module, TemporalModule) and module.opaque:
            alone = [
                part
                for m in module.modules()
                if isinstance(m, TemporalModule) and m is not module
                for part in m.modules()
            ]
        else:
            continue
        for part in alone:
            found.setdefault(part, found[module])
    return found


def _modules(net: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Modules with their paths, and of temporal ones that another one runs alone its path and a dot."""
    equations: set[nn.Module] = set()
    within: dict[nn.Module, str] = {}
    for path, module in walk(net):
        if module in equations:
            continue
        if hasattr(type(module), "dynamics"):
            equations.update(m for m in module.modules() if m is not module)
        yield path, module, within.get(module, "")
        if isinstance(module, TemporalModule) and module.opaque:
            for m in module.modules():
                if m is not module and isinstance(m, TemporalModule):
                    within.setdefault(m, f"{path}." if path else "")


def recorder_of(
    network: Any, record: tuple[str, ...], *, batch_first: bool
) -> tuple[Recorder | None, Mapping[str, Any]]:
    """What collects the values of a call that begins, and the places of each pattern; None where nothing is wanted."""
    mine = opened()
    if record == () and not mine:
        return None, {}
    asked: dict[nn.Module, Asked] = {}
    found = match(network, record, "record")
    for pattern in found.values():
        for module, path, name in pattern:
            one = asked.setdefault(module, Asked(path))
            one.record = tuple(dict.fromkeys((*one.record, name)))
    if torch.compiler.is_compiling():
        _check_compiled(asked, mine)
    again = bool(mine) and torch._C._current_graph_task_id() != -1  # a backward pass computes the whole call once more
    for tap in mine:
        for module, wanted in tap.turn(network.structure()[0], again=again).items():
            asked.setdefault(module, Asked("")).sinks.append((tap, wanted.path, wanted.record))
    if not asked:
        return None, {}
    recorder = Recorder(asked, batch_first=batch_first)
    return recorder.again() if again else recorder, found


def check_seen(recorder: Recorder | None, found: Mapping[str, Any]) -> None:
    """Raises if nothing was seen for one of the patterns of ``record``."""
    seen = set() if recorder is None else recorder.seen
    never = [name for name, there in found.items() if not any((module, what) in seen for module, _, what in there)]
    if never:
        paths = sorted({path for name in never for _, path, _ in found[name]})
        raise ValueError(f"cannot record {paths}: this call did not run them")


@contextmanager
def looking(recorder: Recorder | None, call: Call) -> Iterator[None]:
    """While a call runs: what is wanted of modules that no Sequential's runner sees comes by hooks and methods."""
    if recorder is None:
        yield
        return
    recorder.begin(call)
    if torch.compiler.is_compiling():
        yield
        return
    plain = [module for module in recorder.names if not _is_timed(module)]
    handles: list[RemovableHandle] = []
    token = recorder.token = object()  # not the recorder: a checkpoint holds hooks, and the graph holds the checkpoint
    inner = [(m, name) for m in recorder.names if m not in plain for name in _inner_methods(m, call)]
    try:
        for module in plain:
            handles.append(module.register_forward_pre_hook(Onlooker(partial(_before, token)), with_kwargs=True))
            handles.append(module.register_forward_hook(Onlooker(partial(_after, token))))
        for module, name in inner:
            _watch(module, name, 1)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, name in inner:
            _watch(module, name, -1)


def _is_timed(module: nn.Module) -> bool:
    return isinstance(module, TemporalModule) and not module.transparent


def _check_compiled(asked: Mapping[nn.Module, Asked], taps: tuple[Tap, ...]) -> None:
    """Raises where compiled code would have to show more than outputs and states of temporal modules."""
    if taps or any(not _is_timed(module) or "input" in one.record for module, one in asked.items()):
        _refuse()


def _refuse() -> None:
    raise RuntimeError(_COMPILED)


# As by torch.compiler.disable, which would load all of Dynamo here: what is raised while code is traced is run again.
_refuse._torchdynamo_disable = True  # type: ignore[attr-defined]
_refuse._torchdynamo_disable_msg = _COMPILED  # type: ignore[attr-defined]


def _recorder_for(module: nn.Module, token: object = None) -> Recorder | None:
    """Who wants to know of a module that runs now; nobody where a hook of another call is asked, or others tell."""
    call = active()
    recorder = None if call is None else call.recorder
    if recorder is None or module in recorder.running or token not in (None, recorder.token):
        return None
    return recorder


def _before(token: object, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    recorder = _recorder_for(module, token)
    return None if recorder is None else (recorder.see_inputs(module, args), kwargs)


def _after(token: object, module: nn.Module, args: Any, output: Any) -> Any:
    recorder = _recorder_for(module, token)
    return None if recorder is None else recorder.see(module, "output", output)


def _inner_methods(module: nn.Module, call: Call) -> tuple[str, ...]:
    """The methods by which a temporal module may be run by another one around it.

    ``sequence`` only of one that the call does not know: what has a sequence of its own is not fused with a norm.
    """
    path = call.paths.get(module)
    if path is None:
        return "step", "recorded_step", "sequence"
    return ("step", "recorded_step") if any(path.startswith(f"{other}.") for other in call.paths.values()) else ()


def _watch(module: nn.Module, name: str, more: int) -> None:
    """Puts a method onto a module that tells what it is given and gives, for as long as a call wants it."""
    with _lock:
        _watched[module, name] += more
        if _watched[module, name] > 0:
            made = {"step": _watched_step, "recorded_step": _watched_recorded_step, "sequence": _watched_sequence}
            module.__dict__.setdefault(name, made[name](module))
        else:
            del _watched[module, name]
            module.__dict__.pop(name, None)


def _watched_step(module: Any) -> Callable[..., Any]:
    def step(*x_t: Any, state: Any = None) -> tuple[Any, Any]:
        recorder, own = _recorder_for(module), type(module).step
        if recorder is None:
            found: tuple[Any, Any] = own(module, *x_t, state=state)
            return found
        y, new, _ = _seen_step(recorder, module, x_t, state, ())
        return y, new

    return step


def _watched_recorded_step(module: Any) -> Callable[..., Any]:
    def recorded_step(*x_t: Any, state: Any = None, record: tuple[str, ...] = ()) -> tuple[Any, Any, dict[str, Any]]:
        recorder, own = _recorder_for(module), type(module).recorded_step
        if recorder is None:
            found: tuple[Any, Any, dict[str, Any]] = own(module, *x_t, state=state, record=record)
            return found
        return _seen_step(recorder, module, x_t, state, record)

    return recorded_step


def _seen_step(
    recorder: Recorder, module: Any, x_t: tuple[Any, ...], state: Any, record: tuple[str, ...]
) -> tuple[Any, Any, dict[str, Any]]:
    """A step of a module, of which the recorder is told, and what ``record`` names of it."""
    x_t, names = recorder.see_inputs(module, x_t), recorder.states(module)
    with recorder.unseen(module):
        both = tuple(dict.fromkeys((*record, *names)))
        y, new, recorded = type(module).recorded_step(module, *x_t, state=state, record=both)
    for name in names:
        recorder.see_state(module, name, recorded[name])
    return recorder.see(module, "output", y), new, {name: recorded[name] for name in record}


def _watched_sequence(module: Any) -> Callable[..., Any]:
    def sequence(*xs: Any, record: tuple[str, ...] = (), **options: Any) -> tuple[Any, ...]:
        recorder, own = _recorder_for(module), type(module).sequence
        if recorder is None:
            found: tuple[Any, ...] = own(module, *xs, record=record, **options)
            return found
        states = recorder.states(module)
        xs, both = recorder.see_inputs(module, xs), tuple(dict.fromkeys((*record, *states)))
        with recorder.unseen(module):
            y, new, *rest = own(module, *xs, record=both, **options)
        for name in states:
            recorder.see_state(module, name, rest[0][name])
        y = recorder.see(module, "output", y)
        return (y, new, {name: rest[0][name] for name in record}) if record else (y, new)

    return sequence
