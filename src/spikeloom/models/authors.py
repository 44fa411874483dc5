"""Weights of the authors' own code, for the models here.

Names differ, but both sides have the same layers in the same order. What is matched is that order, with kinds and
shapes of all layers; a difference anywhere raises. Layers of equal shapes could still change places: it raises where
numbers in the names go down, as in a file whose keys were sorted, and where queries, keys and values are not met by
their like. Where all names are those of the model, they are what is matched.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .blocks import Model
from .registry import FILES, create

DEAD: dict[str, tuple[str, ...]] = {
    "spikformer": ("block.*.norm?.*", "norm.*", "pos_embed*"),
    "sdt1": ("block.*.talking_heads.*",),
}
"""Patterns of the keys that the authors' code of a family has and never uses, by the family's file."""
STAGES = ("patch_embed1.", "stage1.", "patch_embed2.", "stage2.", "patch_embed3.", "stage3.")
ORDER: dict[str, tuple[str, ...]] = {"qkformer": STAGES, "maxformer": STAGES}
"""How keys of the authors' code of a family begin, in the order in which the data pass, where it registers another."""

_COUNTER, _CONSTANTS = "num_batches_tracked", "_extra_state"
_ATTENTION = re.compile(r"(?:^|[._])([qkv])(?=[._]|$)")


class Converted(NamedTuple):
    """The model with the weights, in ``eval`` mode; the authors' key of each of its own; the keys left out.

    >>> import torch
    >>> import spikeloom as sl
    >>> theirs = {k: v for k, v in sl.models.create("csnn_8x8").state_dict().items() if "_extra_state" not in k}
    >>> theirs = {f"module.{k}": v for k, v in theirs.items()} | {"teacher.weight": torch.ones(2)}
    >>> found = sl.models.convert("csnn_8x8", theirs, drop=["teacher.*"])
    >>> found.keys["stage1.0.weight"], found.dropped
    ('module.stage1.0.weight', ('teacher.weight',))
    """

    model: Model
    keys: dict[str, str]
    dropped: tuple[str, ...]


class _Layer(NamedTuple):
    path: str
    tensors: dict[str, Tensor]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of its tensors, without ones at the end: a linear layer may be a convolution of one pixel."""
        return {leaf: _trimmed(t) for leaf, t in sorted(self.tensors.items()) if leaf != _COUNTER}

    def __str__(self) -> str:
        return f"{self.path} ({', '.join(f'{leaf} {list(shape)}' for leaf, shape in self.shapes.items())})"


def convert(name: str, weights: Mapping[str, Tensor], *, drop: Sequence[str] = (), **arguments: Any) -> Converted:
    """A model with weights that were trained with its authors' code, or with any that has the same layers in order.

    Args:
        name: the model.
        weights: the authors' ``state_dict``. Their names are free, their order is that of registration, as PyTorch
            saves it, or one that is known of the model. Where a file has it under a key, give
            ``torch.load(file, weights_only=True)["model"]``.
        drop: patterns of keys to leave out, as ``"*.talking_heads"``: parameters that the authors' forward never uses.
            Those that are known of a model are left out without it; ``dropped`` of the result lists all.
        arguments: options of :func:`create`.

    Layers that have weights are matched in order, and so are the numbers that neurons learn, which is right where they
    mean the same: ``w`` of a PLIF with ``1/tau = sigmoid(w)``. Constants of neurons are in no ``state_dict`` of others;
    the model has its own. Raises ValueError at the first layer whose tensors or shapes differ, and for keys in another
    order than that of registration, as those of a ``safetensors`` file are.

    ::

        found = sl.models.convert("sew_resnet18", torch.load("sew18_checkpoint_319.pth", weights_only=True)["model"])
        found.model, found.keys["head.2.weight"], found.dropped  # ..., "fc.weight", ()

    >>> import torch
    >>> import spikeloom as sl
    >>> theirs = {k: v for k, v in sl.models.create("csnn_8x8").state_dict().items() if "_extra_state" not in k}
    >>> mine = sl.models.convert("csnn_8x8", {f"module.{k}": v for k, v in theirs.items()}).model
    >>> all(torch.equal(p, theirs[k]) for k, p in mine.named_parameters())
    True
    """
    wrong = next((key for key, value in weights.items() if not isinstance(value, Tensor)), None)
    if wrong is not None:
        raise ValueError(
            f"convert {name}: expected tensors by name, got {type(weights[wrong]).__name__} at {wrong!r}; give the "
            f"state_dict that the file holds, weights[{wrong!r}] perhaps"
        )
    model = create(name, **arguments)
    never = DEAD.get(FILES[name], ())
    patterns = (*never, *(f"*.{pattern}" for pattern in never), *drop)  # wrappers may stand before the names
    dropped = tuple(key for key in weights if any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns))
    state = model.state_dict()
    own = _layers({key: value for key, value in state.items() if not key.endswith(_CONSTANTS)})
    passed = [key for key in _passed(weights, ORDER.get(FILES[name], ())) if key not in dropped]
    if state.keys() >= (names := set(passed)):
        passed = [key for key in state if key in names]
    elif down := _going_down(key for key in weights if key in names):
        raise ValueError(
            f"convert {name}: {down[1]!r} comes after {down[0]!r}, so that the keys are not in the order of "
            "registration, by which layers are matched; give the state_dict as PyTorch saved it, or one in the order "
            "of the authors' own, {key: weights[key] for key in their_model.state_dict()}"
        )
    theirs = _layers({key: weights[key] for key in passed})
    keys = {}
    for kind in (True, False):
        for mine, other in _pairs(name, _of(kind, own), _of(kind, theirs)):
            for leaf, value in mine.tensors.items():
                if leaf in other.tensors:  # a norm of an old version counts no batches
                    state[_key(mine, leaf)] = other.tensors[leaf].reshape(value.shape)
                    keys[_key(mine, leaf)] = _key(other, leaf)
    model.load_state_dict(state)
    return Converted(model.eval(), keys, dropped)


def _passed(weights: Mapping[str, Tensor], beginnings: Sequence[str]) -> list[str]:
    """The keys in the order in which the data pass; others are last, where a head is. Wrappers may stand before."""

    def place(key: str) -> int:
        return next((k for k, beginning in enumerate(beginnings) if f".{beginning}" in f".{key}"), len(beginnings))

    return sorted(weights, key=place)


def _going_down(keys: Iterable[str]) -> tuple[str, str] | None:
    """Two keys of which the second has the smaller number of those at one place, as ``conv.12`` and ``conv.4``."""
    last: dict[str, tuple[int, str]] = {}
    for key in keys:
        at = ""
        for part in key.split(".")[:-1]:
            if part.isdecimal():
                number, before = last.get(at, (0, ""))
                if int(part) < number:
                    return before, key
                last[at] = int(part), key
            at += f"{part}."
    return None


def _layers(weights: Mapping[str, Tensor]) -> list[_Layer]:
    """The modules that own tensors, in order."""
    found: dict[str, _Layer] = {}
    for key, value in weights.items():
        path, _, leaf = key.rpartition(".")
        found.setdefault(path, _Layer(path, {})).tensors[leaf] = value
    return list(found.values())


def _of(weighted: bool, layers: list[_Layer]) -> list[_Layer]:
    """Those that have weights, or those that have other numbers: neurons."""
    return [layer for layer in layers if ("weight" in layer.tensors) == weighted]


def _pairs(name: str, own: list[_Layer], theirs: list[_Layer]) -> list[tuple[_Layer, _Layer]]:
    for k in range(max(len(own), len(theirs))):
        mine = own[k] if k < len(own) else None
        other = theirs[k] if k < len(theirs) else None
        if mine is None or other is None or mine.shapes != other.shapes or _swapped(mine, other):
            raise ValueError(
                f"convert {name}: {k} layers fit, then the model has {mine or 'no more'}, the weights have "
                f"{other or 'no more'}; give the options of the model that the weights are of, or leave out with "
                "drop=(pattern, ...) what the authors' forward does not use"
            )
    return list(zip(own, theirs, strict=True))


def _swapped(mine: _Layer, other: _Layer) -> bool:
    """Whether one is a query, a key or a value by its name, and the other another of these: their shapes are equal."""
    roles = [_ATTENTION.findall(layer.path)[-1:] for layer in (mine, other)]
    return all(roles) and roles[0] != roles[1]


def _key(layer: _Layer, leaf: str) -> str:
    return f"{layer.path}.{leaf}" if layer.path else leaf


def _trimmed(tensor: Tensor) -> tuple[int, ...]:
    shape = list(tensor.shape)
    while shape and shape[-1] == 1:
        shape.pop()
    return tuple(shape)
