"""Modules inside a body, by the paths under which states, recordings and errors name them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from .module import TemporalModule

_WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The named children; the name is empty where the child is the content of a wrapper (compile, DDP, FSDP...)."""
    for name, child in module._modules.items():
        if child is not None:
            yield ("" if _is_wrapped(module, name) else name), child


def walk(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """``named_modules(remove_duplicate=False)`` with wrappers left out of the names."""
    yield prefix, module
    for name, child in children(module):
        yield from walk(child, ".".join(filter(None, (prefix, name))))


def _is_wrapped(parent: nn.Module, name: str) -> bool:
    if isinstance(parent, TemporalModule) and parent.transparent:
        return name == "body"
    container = isinstance(parent, (nn.Sequential, nn.ModuleDict, nn.ModuleList))  # users choose the names in these
    return name in _WRAPPERS and not container and type(parent).__module__.startswith("torch.")
