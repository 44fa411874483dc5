"""Names of the temporal modules inside a body, and the modules that must not be there."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from .module import TemporalModule

_WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Named children; the name is empty where the child is the content of a wrapper (compile, DDP, FSDP...)."""
    for name, child in module._modules.items():
        if child is not None:
            yield ("" if _is_wrapped(module, name) else name), child


def walk(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """``named_modules(remove_duplicate=False)`` with wrappers left out of the names."""
    yield prefix, module
    for name, child in children(module):
        yield from walk(child, ".".join(filter(None, (prefix, name))))


def temporal_paths(body: nn.Module) -> dict[TemporalModule, str]:
    """The first path of every temporal module of ``body``, networks left out (they are transparent).

    Raises TypeError if the body holds a module that mixes rows of its batch.
    """
    found: dict[TemporalModule, str] = {}
    owners: dict[str, nn.Module] = {}
    hidden: set[nn.Module] = set()
    for path, module in walk(body):
        refuse(module, path)
        if isinstance(module, TemporalModule) and module.opaque:
            hidden.update(m for m in module.modules() if m is not module)
        if module in hidden or not isinstance(module, TemporalModule) or module.transparent or module in found:
            continue
        if owners.setdefault(path, module) is not module:
            raise ValueError(f"two temporal modules have the path {path!r}; rename one of them")
        found[module] = path
    return found


def refuse(module: nn.Module, path: str) -> None:
    """Raises TypeError for a module whose dimension 0 is not a batch of independent rows."""
    remedy = None
    if isinstance(module, nn.DataParallel):
        remedy = "use DistributedDataParallel around the network"
    elif isinstance(
        module, (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
    ):
        attention = getattr(module, "self_attn", module)
        if not attention.batch_first:
            remedy = "construct it with batch_first=True"
    elif isinstance(module, nn.Transformer) and not module.batch_first:
        remedy = "construct it with batch_first=True"
    elif isinstance(module, nn.Flatten) and module.start_dim == 0:
        remedy = "use nn.Flatten(start_dim=1)"
    elif isinstance(module, nn.Unflatten) and module.dim == 0:
        remedy = "unflatten dimension 1 or later"
    elif isinstance(module, (nn.Softmax, nn.LogSoftmax, nn.Softmin)) and module.dim in (0, None):
        remedy = f"use nn.{type(module).__name__}(dim=1) or a later dimension"
    if remedy is not None:
        raise TypeError(
            f"{type(module).__name__} at {path or 'the top'!r} cannot run inside a Network: its dimension 0 is not a "
            f"batch of independent rows, and time is folded into the batch there; {remedy}"
        )


def _is_wrapped(parent: nn.Module, name: str) -> bool:
    if isinstance(parent, TemporalModule) and parent.transparent:
        return name == "body"
    container = isinstance(parent, (nn.Sequential, nn.ModuleDict, nn.ModuleList))  # the user chose their names
    return name in _WRAPPERS and not container and type(parent).__module__.startswith("torch.")
