"""RepConv: its parts, its border, and the one convolution that it is in evaluation."""

import pytest
import torch
from torch import nn

import spikeloom as sl


def test_a_repconv_is_one_convolution():
    layer = sl.nn.RepConv(5, 7)
    sizes = {name: tuple(p.shape) for name, p in layer.named_parameters() if p.ndim > 1}
    assert sizes == {"into.weight": (5, 5, 1, 1), "depthwise.weight": (5, 1, 3, 3), "out.weight": (7, 5, 1, 1)}
    x = torch.randn(6, 5, 4, 3)
    for _ in range(3):
        layer(x)
    nn.init.uniform_(layer.norm.bias, -1, 1)
    nn.init.uniform_(layer.norm.weight, 0.5, 2)
    with pytest.raises(RuntimeError, match=r"RepConv\.fuse: it is in training mode"):
        layer.fuse()
    layer.eval()
    torch.testing.assert_close(layer.fuse()(x), layer(x), atol=1e-6, rtol=1e-5)
    zero = layer.fuse()(torch.zeros(1, 5, 4, 3))  # what stands at the border is what stands inside
    torch.testing.assert_close(zero, zero[:, :, :1, :1].expand_as(zero), atol=1e-6, rtol=1e-5)
