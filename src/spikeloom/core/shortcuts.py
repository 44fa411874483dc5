"""Shortcuts of torch's own: layers that compute with the weights of modules inside, without running these.

In evaluation without gradients ``nn.TransformerEncoderLayer`` computes its whole block at once, with ReLU or GELU as a
flag from its construction says, and ``nn.TransformerEncoder`` passes it nested tensors where padding is masked. A
module that has replaced one of those inside, such as a neuron, would then not run.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn import functional

from .module import TemporalModule

_MADE_OF = {
    "self_attn": nn.MultiheadAttention,
    "linear1": nn.Linear,
    "linear2": nn.Linear,
    "norm1": nn.LayerNorm,
    "norm2": nn.LayerNorm,
    "dropout": nn.Dropout,
    "dropout1": nn.Dropout,
    "dropout2": nn.Dropout,
}
_METHODS = ("forward", "_sa_block", "_ff_block")


def take_none(module: nn.Module) -> None:
    """Makes an encoder of torch run the modules inside its layers where these are no longer as constructed."""
    layers: Any = module.layers if isinstance(module, nn.TransformerEncoder) else (module,)
    for layer in layers:
        if isinstance(layer, nn.TransformerEncoderLayer) and layer.activation_relu_or_gelu and not _as_made(layer):
            layer.activation_relu_or_gelu = 0
    if isinstance(module, nn.TransformerEncoder):
        module.use_nested_tensor = module.use_nested_tensor and all(
            getattr(layer, "activation_relu_or_gelu", 0) for layer in layers
        )


def never_nest(module: nn.Module) -> None:
    """Stops an encoder of torch from making nested tensors, which neither neurons nor layers with hooks take."""
    if isinstance(module, nn.TransformerEncoder) and module.use_nested_tensor:
        module.use_nested_tensor = False


def _as_made(layer: Any) -> bool:
    """Whether the modules of an encoder layer still compute what torch's block computes at once."""
    if any(getattr(type(layer), name) is not getattr(nn.TransformerEncoderLayer, name) for name in _METHODS):
        return False
    if any(type(getattr(layer, name)) is not kind for name, kind in _MADE_OF.items()):
        return False
    if any(isinstance(part, TemporalModule) for part in layer.modules()):
        return False
    activation = layer.activation
    if layer.activation_relu_or_gelu == 1:
        return activation is functional.relu or type(activation) is nn.ReLU
    exact = type(activation) is nn.GELU and activation.approximate == "none"
    return activation is functional.gelu or exact
