"""Batch norms that join the layer before them, and factors that move into the layers behind them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from .temporal import AFFINE, Once
from .vocabulary import LIKE
from .working import Working

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def fold_norms(work: Working) -> tuple[list[str], dict[str, str]]:
    """Folds batch norms into the convolutions and linear layers before them, until nothing folds.

    Returns the paths that were folded, and those that were not with the reason. It is done where layer and norm are
    called once and nothing else uses the layer's output or parameters.
    """
    folded: list[str] = []
    left: dict[str, str] = {}
    again = True
    while again:
        again, left = False, {}
        for node in list(work.graph.nodes):
            if node.op != "call_module" or type(work.at(node)) not in _NORMS:
                continue
            reason = _reason(work, node)
            if reason:
                left[str(node.target)] = reason
                continue
            before = node.args[0]
            assert isinstance(before, fx.Node)
            _fold(work.at(before), work.at(node))
            folded.append(str(node.target))
            work.remove(node, before)
            again = True
    work.finish()
    return folded, left


def _reason(work: Working, node: fx.Node) -> str:
    """Why a batch norm cannot join what is before it; empty where it can."""
    norm, before = work.at(node), node.args[0] if node.args else None
    if getattr(norm, "running_mean", None) is None:
        return "it has no running statistics"
    if not isinstance(before, fx.Node) or before.op != "call_module" or type(work.at(before)) not in AFFINE:
        return "there is no layer before it"
    calls, layer = work.calls(), work.at(before)
    if calls[id(norm)] > 1 or calls[id(layer)] > 1:
        return "it is called more than once" if calls[id(norm)] > 1 else f"{before.target!r} is called more than once"
    if len(before.users) > 1:
        return f"the output of {before.target!r} has {len(before.users)} users"
    if not work.owns(layer):
        return f"another module has the weights of {before.target!r}"
    if isinstance(layer, nn.Linear) and len(before.meta["shape"]) != 2:
        return f"dimension 1 of the output of {before.target!r} is not its features"
    return ""


def _fold(layer: Any, norm: Any) -> None:
    """``norm(layer(x))`` as ``layer(x)``, in float64 and rounded once."""
    mean, var = norm.running_mean.double(), norm.running_var.double()
    factor = (var + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.detach().double()
    bias = -mean if layer.bias is None else layer.bias.detach().double() - mean
    bias = bias * factor + (0 if norm.bias is None else norm.bias.detach().double())
    weight = layer.weight.detach()
    scaled: Tensor = _by_output(layer, weight.double(), factor).to(weight.dtype)
    needs = layer.weight.requires_grad
    layer.weight = nn.Parameter(scaled, requires_grad=needs)
    layer.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=needs)


def _by_output(layer: Any, weight: Tensor, factor: Tensor) -> Tensor:
    """A weight with the rows of each output channel multiplied."""
    if not isinstance(layer, _TRANSPOSED):
        return weight * factor.view(-1, *(1,) * (weight.ndim - 1))
    each = weight.unflatten(0, (layer.groups, -1))  # [groups, in, out, *]
    scaled: Tensor = (each * factor.view(layer.groups, 1, -1, *(1,) * (weight.ndim - 2))).flatten(0, 1)
    return scaled


def by_output(layer: Any, factor: Tensor) -> None:
    """Multiplies a layer's output by a factor for each of its channels."""
    with torch.no_grad():
        factor = factor.to(layer.weight.device, torch.float64)
        scaled = {"weight": _by_output(layer, layer.weight.double(), factor)}
        if layer.bias is not None:
            scaled["bias"] = layer.bias.double() * factor
        for name, value in scaled.items():
            old = getattr(layer, name)
            setattr(layer, name, nn.Parameter(value.to(old.dtype), requires_grad=old.requires_grad))


def by_input(layer: Any, factor: Tensor) -> None:
    """Multiplies the columns of a layer's weight by a factor for each input channel, one value or one for each."""
    with torch.no_grad():
        weight = layer.weight.double()
        factor = factor.to(weight.device, torch.float64)
        if factor.numel() == 1:
            scaled = weight * factor.flatten()
        elif isinstance(layer, nn.Linear):
            scaled = weight * factor
        elif isinstance(layer, _TRANSPOSED):
            scaled = weight * factor.view(-1, *(1,) * (weight.ndim - 1))
        else:
            groups = weight.unflatten(0, (layer.groups, -1))  # [groups, out, in, *]
            scaled = (groups * factor.view(layer.groups, 1, -1, *(1,) * (weight.ndim - 2))).flatten(0, 1)
        layer.weight = nn.Parameter(scaled.to(layer.weight.dtype), requires_grad=layer.weight.requires_grad)


def consumers(work: Working, node: fx.Node, factor: Tensor, dim: int) -> list[tuple[nn.Module, Tensor]] | str:
    """The layers into whose weights a factor of a node's output may move, with it as each of them needs it.

    The factor is one value, or one for each entry of dimension ``dim`` of the output. A reason where there is a way
    from the node to something else than a convolution or a linear layer.
    """
    found: list[tuple[nn.Module, Tensor]] = []
    for user in node.users:
        operation = user.meta.get("operation")
        if user.op == "output":
            return "it is an output of the model"
        if operation is None:
            return "what is behind it is computed by difference"
        if operation.group == "affine" and user.op == "call_module" and type(work.at(user)) in (*AFFINE, Once):
            layer = work.at(user)
            if work.calls()[id(layer)] > 1 or not work.owns(layer):
                return f"{user.target!r} has other calls or shares its weights"
            linear = (layer._function == "linear") if isinstance(layer, Once) else isinstance(layer, nn.Linear)
            wanted = len(node.meta["shape"]) - 1 if linear else 1
            if factor.numel() > 1 and dim != wanted:
                return f"{user.target!r} sees channels in dimension {wanted}, not in {dim}"
            found.append((layer, factor))
            continue
        passed = _passed(operation.name, node, user, factor, dim)
        if passed is None:
            return f"{operation.name}{_in(user.meta['where'])} stands between it and a layer"
        further = consumers(work, user, *passed)
        if isinstance(further, str):
            return further
        found += further
    return found


_KEEPS = (
    "maxpool",
    "avgpool",
    "avg_pool",
    "adaptiveavgpool",
    "adaptive_avg_pool",
    "mean",
    "pad",
    "zeropad",
    "upsample",
)


def _passed(name: str, node: fx.Node, user: fx.Node, factor: Tensor, dim: int) -> tuple[Tensor, int] | None:
    """The factor behind an operation and its dimension there; None where it does not commute."""
    before, after = node.meta["shape"], user.meta["shape"]
    if after is None or len(node.users) == 0 or (name in LIKE and user.args[0] is not node):
        return None
    if factor.numel() == 1 and user.meta["operation"].group in ("linear", "maxpool") and name != "addition":
        return factor, dim
    sides: Any = user.kwargs.get("pad", (*user.args, ())[1]) if name.startswith("pad") else ()
    if len(sides) > 2 * (len(before) - 2):
        return None  # which moves channels
    if name.startswith(_KEEPS) and dim == 1 and len(before) == len(after) and before[1] == after[1]:
        return factor, dim
    flat = len(after) == 2 and before[0] == after[0] and before[1:].numel() == after[1]
    if name in ("flatten", "reshape", "view") and flat:
        each = factor.view(-1, *(1,) * (len(before) - 1 - dim))
        return each.expand(before[1:]).flatten(), 1
    return None


def _in(where: str) -> str:
    return f" ({where})" if where else ""
