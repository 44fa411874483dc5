"""Makes convert.npz beside it: what SpikingJelly's RateCodingRecipe makes of a small CNN.

It runs where make_golden.py does, in the peers' environment:

    peers/bin/python tests/reference/make_convert.py

For each mode: the thresholds that it finds, the spikes that each neuron sends in T steps, and the mean output. It is
no "Max": there the largest activation is the threshold itself, and rounding decides whether its neuron fires.
"""

import copy
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from spikingjelly.activation_based import ann2snn, functional, neuron
from torch import nn

T = 20


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8),
            nn.ReLU(), nn.Flatten(), nn.Linear(128, 20), nn.ReLU(), nn.Linear(20, 10),
        )  # fmt: skip

    def forward(self, x):
        return self.network(x)


def main():
    torch.manual_seed(0)
    net, out = Net(), {}
    for _ in range(10):
        net(torch.randn(32, 1, 14, 14))
    net.double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    x = torch.rand(8, 1, 14, 14, dtype=torch.float64)
    out |= {f"weights/{name}": value.numpy() for name, value in net.state_dict().items()}
    out["x"], out["ann"] = x.numpy(), net(x).detach().numpy()
    for name, options in {
        "ratio": {"mode": 0.93},
        "robust": {"mode": "99.9%"},
        "channel": {"mode": 0.93, "channel_wise": True},
        "half": {"mode": "99.9%", "channel_wise": True, "half_threshold": True},
    }.items():
        recipe = ann2snn.RateCodingRecipe(dataloader=[(x, torch.zeros(8))], **options)
        snn = ann2snn.FXConverter(recipe=recipe, device="cpu").convert(copy.deepcopy(net))
        neurons = [m for m in snn.modules() if isinstance(m, (neuron.IFNode, neuron.HalfThresholdIFNode))]
        scales = [m.scale for path, m in snn.named_modules() if path.endswith("scaler1")]
        counts = [0.0] * len(neurons)

        def count(module, given, spikes, counts=counts, neurons=neurons):
            counts[neurons.index(module)] += spikes.detach().numpy()

        for m in neurons:
            m.register_forward_hook(count)
        functional.reset_net(snn)
        total = 0
        for _ in range(T):
            total = total + snn(x)
        out[f"{name}/output"] = (total / T).detach().numpy()
        for i, (scale, sent) in enumerate(zip(scales, counts, strict=True)):
            out[f"{name}/threshold{i}"], out[f"{name}/count{i}"] = scale.double().numpy(), sent.astype(np.int16)
    batches = [(x[i : i + 2], torch.zeros(2)) for i in (0, 2, 4, 6)]
    recipe = ann2snn.LocalThresholdBalancingRecipe(dataloader=batches)
    snn = ann2snn.FXConverter(recipe=recipe, device="cpu").convert(copy.deepcopy(net))
    scales = [m.scale for path, m in snn.named_modules() if path.endswith("scaler1")]
    out |= {f"balanced/threshold{i}": scale.double().numpy() for i, scale in enumerate(scales)}
    out["versions"] = np.array([f"spikingjelly {version('spikingjelly')}", f"torch {torch.__version__}"])
    np.savez_compressed(Path(__file__).parent / "convert.npz", **out)


if __name__ == "__main__":
    main()
