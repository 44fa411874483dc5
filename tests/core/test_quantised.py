"""Networks whose layers torch.ao.quantization replaces or fuses: it takes the hooks of a layer along."""

import copy

import pytest
import torch
from torch import nn
from torch.ao.quantization import fuse_modules, quantize_dynamic

import spikeloom as sl

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, torch.quantize_per_channel"),
    pytest.mark.skipif(torch.backends.quantized.engine == "none", reason="this build of torch quantises nothing"),
]


@pytest.mark.parametrize("spikes", ["dense", "packed"])
def test_a_quantised_network_is_a_network_of_quantised_layers(spikes):
    layers = nn.Linear(8, 16), sl.LIF(v_threshold=0.1), nn.Linear(16, 3)
    net = sl.Network(*copy.deepcopy(layers), spikes=spikes).eval()
    plain = [quantize_dynamic(nn.Sequential(layer), {nn.Linear})[0] for layer in layers]
    wanted, x = sl.Network(*plain, spikes=spikes).eval(), torch.randn(5, 4, 8)
    quantised = quantize_dynamic(net, {nn.Linear}).eval()  # new layers are in training mode
    assert not isinstance(quantised.body[0], nn.Linear)
    y = quantised(x)
    assert torch.equal(y, wanted(x))
    assert y.any()
    assert not torch.equal(y, net(x))
    with torch.inference_mode():  # torch scales the inputs of each call by their range, that of a step in a stream
        stream, other = quantised.stream(), wanted.stream()
        assert torch.equal(torch.stack([stream(x_t) for x_t in x]), torch.stack([other(x_t) for x_t in x]))
        assert stream.prepared


def test_a_fused_network_is_the_network():
    net = sl.Network(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), sl.LIF(v_threshold=0.1)).eval()
    net.body[1].running_var.fill_(3.0)
    fused, x = fuse_modules(net, [["body.0", "body.1", "body.2"]]).eval(), torch.rand(3, 2, 1, 6, 6)
    assert isinstance(fused.body[1], nn.Identity)
    y = fused(x)
    assert y.any()
    torch.testing.assert_close(y, net(x))
    with torch.inference_mode():
        stream = fused.stream()
        torch.testing.assert_close(torch.stack([stream(x_t) for x_t in x]), y)
        assert stream.prepared
