"""weights: a network's state dictionary, and those of ordinary models and of networks in other clothes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

_BODY = "body."


def in_body(state: dict[str, Any], prefix: str, own: Iterable[str]) -> None:
    """Renames, in place, the keys of the model inside a network to those of the network.

    ``own``: the keys of the network's body, without ``body.``. Nothing is done where the state has keys of the network
    already, or none of the body's.
    """
    known = set(own)
    given = [key.removeprefix(prefix) for key in state if key.startswith(prefix)]
    if any(key.startswith(_BODY) and key.removeprefix(_BODY) in known for key in given):
        return
    for key in [key for key in given if key in known]:
        state[f"{prefix}{_BODY}{key}"] = state.pop(prefix + key)


def check_something_was_loaded(
    who: str, given: Mapping[str, Any], wanted: Mapping[str, Any], missing: Iterable[str]
) -> None:
    """Raises RuntimeError where a state dictionary was given and no tensor of the network was in it.

    With ``strict=False`` torch would say so in its result alone, and training would go on from noise.
    """
    tensors = {name for name, value in wanted.items() if isinstance(value, Tensor) and not _is_constants(name)}
    if given and tensors and tensors <= set(missing):
        raise RuntimeError(
            f"{who}: none of the {len(tensors)} tensors of the network is in the given weights; they have "
            f"{_some(given)}, the network {_some(tensors)}. Rename the keys, or load into the part that they belong to"
        )


def _is_constants(name: str) -> bool:
    return name.rsplit(".", 1)[-1] == "_extra_state"


def _some(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
