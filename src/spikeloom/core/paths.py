"""Names of the temporal modules inside a body."""

from __future__ import annotations

from torch import nn

from .module import TemporalModule
from .rows import refuse, watch
from .shortcuts import never_nest, take_none
from .tree import walk


def temporal_paths(body: nn.Module) -> dict[TemporalModule, str]:
    """The first path of every temporal module of ``body``, networks left out (they are transparent).

    Raises TypeError if the body holds a module that mixes rows of its batch. Modules whose inputs decide this get a
    hook that checks them.
    """
    found: dict[TemporalModule, str] = {}
    owners: dict[str, nn.Module] = {}
    hidden: set[nn.Module] = set()
    equations: set[nn.Module] = set()  # layers inside equations see one step at a time, so their rows are not checked
    for path, module in walk(body):
        refuse(module, path)
        if hasattr(type(module), "dynamics"):
            equations.update(module.modules())
        if module not in equations:
            watch(module)
        take_none(module)
        never_nest(module)
        if isinstance(module, TemporalModule) and module.opaque:
            hidden.update(m for m in module.modules() if m is not module)
        if module in hidden or not isinstance(module, TemporalModule) or module.transparent or module in found:
            continue
        if owners.setdefault(path, module) is not module:
            raise ValueError(f"two temporal modules have the path {path!r}; rename one of them")
        found[module] = path
    return found
