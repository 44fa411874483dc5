"""sl.replace: turns the activations of an ordinary model into neurons."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

Factory = type[nn.Module] | Callable[..., nn.Module]


@dataclass
class Replacement:
    """What :func:`replace` did.

    ``replaced``: path -> new module, for every path (a shared module is one new module under several paths).
    ``functional``: calls such as ``F.relu`` in ``forward`` code that look like ``what`` and were left alone,
    as ``"path (Class.forward, line n): code"``.
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
    """Replaces every module of type ``what`` inside ``net``, in place.

    Args:
        net: a model, wrapped in a Network or not.
        what: a module type or a tuple of them.
        by: a module class (or ``functools.partial`` of one), called without arguments; or a factory
            ``(path, old) -> module``, for instance to choose a threshold per layer.

    A module shared by several paths becomes one new module (parameters shared; inside a Network each call
    of it has its own state). New modules take the training flag of the old ones and the device of the model.
    Functional activations (``F.relu(x)``) cannot be replaced; they are listed in the result.

    Raises ValueError if ``net`` itself is of type ``what`` and TypeError if ``by`` does not give a module.

    >>> import torch
    >>> import spikeloom as sl
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> print(sl.replace(model, torch.nn.ReLU, sl.IF))
    replaced 1:
      1: IF(v_threshold=1, v_reset=0, reset='hard', detach_reset=False, strict=False, surrogate=ATan(scale=2))
    """
    if isinstance(net, what):
        raise ValueError(
            f"the module itself is a {type(net).__name__}; replace cannot swap it in place, only its children"
        )
    report = Replacement()
    done: dict[nn.Module, nn.Module] = {}
    device = next((t.device for t in [*net.parameters(), *net.buffers()]), None)
    _replace_children(net, "", what, by, done, report, device)
    whats = what if isinstance(what, tuple) else (what,)
    names = {_snake(t.__name__) for t in whats} | {t.__name__.lower() for t in whats}
    names |= {f"{n}_" for n in names}
    for path, module in net.named_modules():
        report.functional += _functional_calls(path, module, names)
    return report


def _replace_children(
    parent: nn.Module,
    prefix: str,
    what: type[nn.Module] | tuple[type[nn.Module], ...],
    by: Factory,
    done: dict[nn.Module, nn.Module],
    report: Replacement,
    device: object,
) -> None:
    for name, child in list(parent._modules.items()):
        path = f"{prefix}{name}"
        if child is None:
            continue
        if isinstance(child, what):
            if child not in done:
                new = _make(by, path, child)
                new.train(child.training)
                done[child] = new if device is None else new.to(device)  # type: ignore[call-overload]
            parent._modules[name] = report.replaced[path] = done[child]
        elif child not in report.replaced.values():
            _replace_children(child, f"{path}.", what, by, done, report, device)


def _make(by: Factory, path: str, old: nn.Module) -> nn.Module:
    made_of_class = isinstance(by, type) or (isinstance(by, functools.partial) and isinstance(by.func, type))
    new = by() if made_of_class else by(path, old)
    if not isinstance(new, nn.Module):
        raise TypeError(f"replace: expected the factory to give a module for {path!r}, got {type(new).__name__}")
    return new


def _functional_calls(path: str, module: nn.Module, names: set[str]) -> list[str]:
    """Calls of functions with such names in a module's own ``forward``; those of torch.nn are not looked into."""
    cls = type(module)
    if cls.__module__.startswith("torch.nn"):
        return []
    try:
        lines, start = inspect.getsourcelines(cls.forward)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return []
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        f = node.func
        called = f.attr if isinstance(f, ast.Attribute) else f.id if isinstance(f, ast.Name) else ""
        is_module = isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) and f.value.id == "self"
        if called in names and not is_module:
            where = f"{cls.__name__}.forward, line {start + node.lineno - 1}"
            found.append(f"{path or 'the model'} ({where}): {ast.unparse(node)}")
    return found


def _snake(name: str) -> str:
    return "".join(
        f"_{c.lower()}" if c.isupper() and i and not name[i - 1].isupper() else c.lower() for i, c in enumerate(name)
    )
