"""RepConv: a convolution that is trained as a chain of small ones, and is a single one in evaluation.

Yao et al., Spike-driven Transformer V2, ICLR 2024; Ding et al., RepVGG, CVPR 2021.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .norm_neuron import NormNeuron


class RepConv(nn.Module):
    """A 3x3 convolution in four linear parts, re-parametrised: ``y = bn_2(W_2 * dw(pad(bn_1(W_1 * x))))``.

    ``W_1`` is a 1x1 convolution, ``dw`` a depthwise 3x3 one, ``W_2`` a 1x1 one, all without bias. The border that
    ``pad`` adds holds what a zero of the input becomes, ``bias - running_mean weight / sqrt(running_var + eps)`` of
    ``bn_1``, so that in eval mode the whole is a convolution with zero padding. The border is that of the running
    statistics in training too, after this batch has moved them, and no gradient passes through it.

    Args:
        in_channels, out_channels: as in ``nn.Conv2d``.

    The input is ``[rows, in_channels, H, W]``, the output ``[rows, out_channels, H, W]``; ValueError is raised for
    others.

    Yao et al., Spike-driven Transformer V2, ICLR 2024.

    >>> import torch
    >>> import spikeloom as sl
    >>> layer = sl.nn.RepConv(4, 8).eval()
    >>> x = torch.rand(2, 4, 5, 5)
    >>> layer.fuse(), torch.allclose(layer.fuse()(x), layer(x), atol=1e-6)
    (Conv2d(4, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)), True)
    """

    paper = "Yao et al., Spike-driven Transformer V2, ICLR 2024"

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.into = nn.Conv2d(in_channels, in_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(in_channels)
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, groups=in_channels, bias=False)
        self.out = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.out_norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[rows, in_channels, H, W]`` to ``[rows, out_channels, H, W]``."""
        if x.ndim != 4 or x.shape[1] != self.into.in_channels:
            raise ValueError(f"RepConv: expected [rows, {self.into.in_channels}, H, W], got {list(x.shape)}")
        y = self.norm(self.into(x))
        frame = F.pad(y.new_zeros(y.shape[2:]), (1, 1, 1, 1), value=1.0)
        _, of_zero = _affine(self.norm)
        padded = F.pad(y, (1, 1, 1, 1)) + frame * of_zero.to(y.dtype).view(-1, 1, 1)
        z: Tensor = self.out_norm(self.out(self.depthwise(padded)))
        return z

    def fuse(self) -> nn.Conv2d:
        """The ``nn.Conv2d`` that computes the same in eval mode; raises RuntimeError in training mode."""
        check_evaluation(self)
        into, depthwise, out = (layer.weight.detach().double() for layer in (self.into, self.depthwise, self.out))
        (scale, shift), (out_scale, out_shift) = _affine(self.norm, double=True), _affine(self.out_norm, double=True)
        mixed = out_scale.view(-1, 1) * out[:, :, 0, 0]
        weight = torch.einsum("oc,cxy,ci->oixy", mixed, depthwise[:, 0], scale.view(-1, 1) * into[:, :, 0, 0])
        bias = mixed @ (depthwise.sum((1, 2, 3)) * shift) + out_shift
        fused = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, device="meta")
        like = self.into.weight
        fused.weight = nn.Parameter(weight.to(like.dtype), like.requires_grad)
        fused.bias = nn.Parameter(bias.to(like.dtype), like.requires_grad)
        return fused.eval()


def _affine(norm: nn.BatchNorm2d, *, double: bool = False) -> tuple[Tensor, Tensor]:
    """What a batch norm multiplies by and adds in eval mode, without gradient."""
    values = [norm.weight.detach(), norm.bias.detach(), norm.running_mean, norm.running_var]
    weight, bias, mean, var = (t.double() if double else t for t in values if t is not None)
    scale = weight / torch.sqrt(var + norm.eps)
    return scale, bias - mean * scale


def check_evaluation(module: nn.Module) -> None:
    """Raises RuntimeError where a module that is to be fused, or a part of it, is in training mode."""
    path = next((name for name, part in module.named_modules() if part.training), None)
    if path is not None:
        where = f"its part {path!r}" if path else "it"
        raise RuntimeError(
            f"{type(module).__name__}.fuse: {where} is in training mode, where batch norms take the statistics of each "
            "batch and are no part of a convolution; call .eval() first"
        )


def folded(branch: nn.Sequential) -> nn.Sequential:
    """The layers of a branch in eval mode with each batch norm in the convolution before it, RepConvs as one."""
    layers: list[nn.Module] = []
    for layer in branch:
        norm = layer.bn if isinstance(layer, NormNeuron) else layer
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            conv = layers.pop()
            assert isinstance(conv, (nn.Conv1d, nn.Conv2d))
            layers.append(fuse_conv_bn_eval(conv, norm))
            layers += [layer.neuron] if isinstance(layer, NormNeuron) else []
        else:
            layers.append(layer.fuse() if isinstance(layer, RepConv) else layer)
    return nn.Sequential(*layers).eval()
