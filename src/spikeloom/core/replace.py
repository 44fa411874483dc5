"""sl.replace: turns the activations of an ordinary model into neurons."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from .shortcuts import take_none

Factory = type[nn.Module] | Callable[..., nn.Module]


@dataclass
class Replacement:
    """What :func:`replace` did.

    ``replaced`` maps every path to its new module (a shared module is one new module under several paths).
    ``functional`` lists what looks like ``what`` but was left alone: calls such as ``F.relu`` in methods of a model, as
    ``"path (Class.forward, line n): code"``, and names of functions or modules that are no submodules, as ``"path
    (Class.attribute): value"``.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.ReLU())
    >>> found = sl.replace(net, torch.nn.ReLU, sl.IF)
    >>> list(found.replaced), found.functional
    (['1', '2'], [])
    """

    replaced: dict[str, nn.Module] = field(default_factory=dict)
    functional: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"replaced {len(self.replaced)}:"] + [f"  {p}: {m}" for p, m in self.replaced.items()]
        if self.functional:
            lines += ["not replaced (functional calls; make them modules first):"]
            lines += [f"  {where}" for where in self.functional]
        return "\n".join(lines)


def replace(net: nn.Module, what: type[nn.Module] | tuple[type[nn.Module], ...], by: Factory) -> Replacement:
    """Replaces every module of type ``what`` inside ``net``, in place, and returns what it did, not the model.

    Args:
        net: a model, or a Network around one.
        what: a module type or a tuple of them.
        by: a module class, or ``functools.partial(sl.LIF, tau=3.0)`` of one, called without arguments; or a factory
            ``(path, old) -> module``, for instance to choose a threshold per layer. It is not one neuron.

    A module shared by several paths becomes one new module (parameters shared; inside a Network each call
    of it has its own state). New modules take the training flag of the old ones and the device of the model.
    A function of torch that a module holds (``self.act = F.relu``, the activation of a transformer's layer) is replaced
    like ``nn.ReLU()``; a factory gets such a module as the old one. ``nn.TransformerEncoderLayer`` then runs the
    modules inside it in evaluation too, where torch would compute with the weights and the old activation. Functional
    activations (``F.relu(x)`` in ``forward``) cannot be replaced. The result lists them, and also activations given by
    name (``nn.RNN(nonlinearity="relu")``), modules in plain lists and the projection inside ``nn.MultiheadAttention``,
    which torch does not call.

    A ``net`` that is itself of type ``what`` raises ValueError; a ``by`` that is a module, takes other
    arguments or returns no module raises TypeError.

    >>> import torch
    >>> import spikeloom as sl
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> print(sl.replace(model, torch.nn.ReLU, sl.IF))
    replaced 1:
      1: IF(v_threshold=1, v_reset=0, reset='hard', detach_reset=False, strict=False, surrogate=ATan(scale=2))
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"replace: expected a module, got {type(net).__name__}")
    _check_factory(by)
    if isinstance(net, what):
        raise ValueError(
            f"the module itself is a {type(net).__name__}; replace cannot swap it in place, only its children"
        )
    whats = what if isinstance(what, tuple) else (what,)
    device = next((t.device for t in [*net.parameters(), *net.buffers()]), None)
    work = _Work(whats, by, device)
    work.children(net, "")
    for path, module in net.named_modules():
        take_none(module)
        work.report.functional += _functional_calls(path, module, set(work.names))
    return work.report


def _check_factory(by: object) -> None:
    expected = "replace: expected a class or a function of a path and a module, called once for each place"
    if isinstance(by, nn.Module):
        kind = type(by).__name__
        raise TypeError(
            f"{expected}; got one {kind}, which all places would share: give the class, {kind}, or "
            f"functools.partial({kind}, ...) with its arguments"
        )
    if not callable(by):
        raise TypeError(f"{expected}; got {type(by).__name__}")
    if _is_class(by):
        return
    try:
        signature = inspect.signature(by)
    except ValueError:  # of a function in C, which only its call can check
        return
    try:
        signature.bind("path", None)
    except TypeError:
        raise TypeError(f"{expected}; got one that takes {signature}: write lambda path, old: ...") from None


class _Work:
    """One call of :func:`replace`: its arguments, and what it has replaced so far."""

    def __init__(self, whats: tuple[type[nn.Module], ...], by: Factory, device: object) -> None:
        self.whats, self.by, self.device = whats, by, device
        self.report = Replacement()
        self.names: dict[str, type[nn.Module]] = {}  # function name to the module that computes the same
        for kind in whats:
            for name in (_snake(kind.__name__), kind.__name__.lower()):
                self.names |= {name: kind, f"{name}_": kind}
        self._done: dict[nn.Module, nn.Module] = {}
        self._seen: set[nn.Module] = set()

    def children(self, parent: nn.Module, prefix: str) -> None:
        """Replaces what is inside ``parent``."""
        first = parent not in self._seen
        self._seen.add(parent)
        for name, child in list(parent._modules.items()):
            path = f"{prefix}{name}"
            if child is None:
                continue
            if child in self._done.values():
                self.report.replaced[path] = child
            elif isinstance(child, self.whats) and isinstance(parent, nn.MultiheadAttention) and name == "out_proj":
                self._leave(parent, path, name, "torch reads its weights and does not call it")
            elif isinstance(child, self.whats):
                if child not in self._done:
                    self._done[child] = self._new(path, child)
                parent._modules[name] = self.report.replaced[path] = self._done[child]
            else:
                self.children(child, f"{path}.")
        if first and not _is_torchs(parent, besides=("transformer", "rnn")):
            self._attributes(parent, prefix)

    def _attributes(self, owner: nn.Module, prefix: str) -> None:
        """Replaces functions of torch that a module holds, and lists those that it cannot replace."""
        for name, value in list(owner.__dict__.items()):
            path = f"{prefix}{name}"
            if name.startswith("_"):
                continue
            function = value.func if isinstance(value, functools.partial) else value
            called = value if isinstance(value, str) else getattr(function, "__name__", None)
            kind = self.names.get(called) if isinstance(called, str) else None
            if kind is not None and any(
                callable(value) and value is getattr(home, str(called), None) for home in (F, torch)
            ):
                old = kind().train(owner.training)
                new = self._done[old] = self._new(path, old)
                setattr(owner, name, new)
                self.report.replaced[path] = new
            elif kind is not None:
                self._leave(owner, path, name, repr(value))
            elif isinstance(value, (list, tuple, dict)):
                values = value.values() if isinstance(value, dict) else value
                if any(isinstance(item, self.whats) for item in values):
                    self._leave(owner, path, name, f"{type(value).__name__} of modules; make it an nn.ModuleList")

    def _leave(self, owner: nn.Module, path: str, name: str, value: str) -> None:
        where = path.rpartition(".")[0] or "the model"
        self.report.functional.append(f"{where} ({type(owner).__name__}.{name}): {value}")

    def _new(self, path: str, old: nn.Module) -> nn.Module:
        new = _make(self.by, path, old).train(old.training)
        return new if self.device is None else new.to(self.device)  # type: ignore[call-overload]


def _make(by: Factory, path: str, old: nn.Module) -> nn.Module:
    new = by() if _is_class(by) else by(path, old)
    if not isinstance(new, nn.Module):
        raise TypeError(f"replace: expected the factory to give a module for {path!r}, got {type(new).__name__}")
    return new


def _is_class(by: object) -> bool:
    return isinstance(by, type) or (isinstance(by, functools.partial) and isinstance(by.func, type))


def _functional_calls(path: str, module: nn.Module, names: set[str]) -> list[str]:
    """The calls of functions with these names in a module's own methods; methods of torch.nn are left out."""
    cls = type(module)
    if _is_torchs(module):
        return []
    found = []
    for method, function in inspect.getmembers(cls, inspect.isfunction):
        if function.__module__.startswith("torch."):
            continue
        try:
            lines, start = inspect.getsourcelines(function)
            tree = ast.parse(textwrap.dedent("".join(lines)))
        except (OSError, TypeError, SyntaxError):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            f = node.func
            called = f.attr if isinstance(f, ast.Attribute) else f.id if isinstance(f, ast.Name) else ""
            is_module = isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) and f.value.id == "self"
            if called in names and not is_module:
                where = f"{cls.__name__}.{method}, line {start + node.lineno - 1}"
                found.append(f"{path or 'the model'} ({where}): {ast.unparse(node)}")
    return found


def _is_torchs(module: nn.Module, besides: tuple[str, ...] = ()) -> bool:
    name = type(module).__module__
    return name.startswith("torch.nn") and not name.endswith(besides)


def _snake(name: str) -> str:
    return "".join(
        f"_{c.lower()}" if c.isupper() and i and not name[i - 1].isupper() else c.lower() for i, c in enumerate(name)
    )
