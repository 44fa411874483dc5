"""Shortcuts of torch's own: layers that compute with the weights of modules inside, without running these.

In evaluation without gradients ``nn.TransformerEncoderLayer`` computes its whole block at once, with ReLU or GELU by a
flag that was set when it was made, and ``nn.TransformerEncoder`` hands it nested tensors where padding is masked. What
has taken the place of one of the modules inside, a neuron say, would not run.
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
    """Has an encoder of torch run the modules inside it where its layers are not what they were made as."""
    layers: Any = module.layers if isinstance(module, nn.TransformerEncoder) else (module,)
    for layer in layers:
        if isinstance(layer, nn.TransformerEncoderLayer) and layer.activation_relu_or_gelu and not _as_made(layer):
            layer.activation_relu_or_gelu = 0
    if isinstance(module, nn.TransformerEncoder):
        module.use_nested_tensor = module.use_nested_tensor and all(
            getattr(layer, "activation_relu_or_gelu", 0) for layer in layers
        )


def never_nest(module: nn.Module) -> None:
    """Has an encoder of torch make no nested tensors: neurons take none, and layers that are hooked neither."""
    if isinstance(module, nn.TransformerEncoder) and module.use_nested_tensor:
        module.use_nested_tensor = False


def _as_made(layer: Any) -> bool:
    """Whether the block that torch computes at once is what the modules of an encoder layer compute."""
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
