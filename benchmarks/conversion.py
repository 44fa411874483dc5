"""A converted CNN: 50 steps of rate coding on 100 MNIST-sized images, against SpikingJelly's RateCodingRecipe.

Both have the same weights and the same thresholds, which are those that the recipe finds; before anything is timed, the
number of spikes of every neuron has to be equal in float64. The network is that of SpikingJelly's example.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import spikeloom as sl

from .common import compare

T, B = 50, 100


def network() -> nn.Module:
    """The CNN, with statistics of its batch norms; its weights are random."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels in (1, 32, 32):
        layers += [nn.Conv2d(channels, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.AvgPool2d(2)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 10))
    for _ in range(20):
        net(torch.rand(B, 1, 28, 28))
    return net.eval()


SITES = ("2", "6", "10")


def theirs(net: nn.Module, x: Tensor) -> tuple[nn.Module, dict[str, Tensor], list[nn.Module]]:
    """SpikingJelly's network, the thresholds at our sites, and its neurons."""
    from spikingjelly.activation_based import ann2snn, neuron

    recipe = ann2snn.RateCodingRecipe(dataloader=[(x, None)], mode="99.9%")
    snn = ann2snn.FXConverter(recipe=recipe, device="cpu").convert(copy.deepcopy(net))
    scales = [m.scale for path, m in snn.named_modules() if path.endswith("scaler1")]
    neurons = [m for m in snn.modules() if isinstance(m, neuron.IFNode)]
    return snn, dict(zip(SITES, scales, strict=True)), neurons


def must_match(net: nn.Module, x: Tensor) -> None:
    """Stops unless all neurons send as many spikes."""
    from spikingjelly.activation_based import functional

    jelly, thresholds, neurons = theirs(net, x)
    counts: dict[Any, Tensor] = {}
    for module in neurons:
        module.register_forward_hook(lambda m, _, s: counts.__setitem__(m, counts.get(m, 0) + s.detach()))
    functional.reset_net(jelly)
    with torch.no_grad():
        for _ in range(T):
            jelly(x)
    ours = sl.convert.convert(net, sl.convert.Rate(threshold=thresholds, v_init=0.0), example=x)
    sent = ours.sent([x], T, SITES)
    for path, module in zip(SITES, neurons, strict=True):
        off = int((sent[path].sum(0) != counts[module]).sum())
        if off:
            raise SystemExit(f"the spikes of {off} neurons at {path!r} differ; nothing was timed")


def main() -> dict[str, Any]:
    """Times both sides in float32."""
    net, x = network(), torch.rand(B, 1, 28, 28)
    must_match(copy.deepcopy(net).double(), x[:10].double())  # of more the spikes of 50 steps are gigabytes
    from spikingjelly.activation_based import functional

    jelly, thresholds, _ = theirs(net, x)

    def peer() -> Tensor:
        functional.reset_net(jelly)
        total: Any = 0
        for _ in range(T):
            total = total + jelly(x)
        y: Tensor = total / T
        return y

    sides: dict[str, Callable[[], Tensor]] = {}
    for name, spikes in (("spikeloom, spikes of one bit", "packed"), ("spikeloom", "dense")):
        method = sl.convert.Rate(threshold=thresholds, v_init=0.0)
        result = sl.convert.convert(net, method, example=x, spikes=spikes)  # type: ignore[arg-type]
        sides[name] = lambda result=result: result(x, T=T)  # type: ignore[misc]
    delta = sl.convert.convert(net, sl.convert.Delta(), example=x)
    sides["spikeloom, messages in 4 steps"] = lambda: delta(x, T=4)
    sides["spikingjelly"] = peer
    with torch.inference_mode():
        measured = compare(sides, seconds=20.0)
        sent = sl.convert.convert(net, sl.convert.Rate(threshold=thresholds, v_init=0.0), example=x).sent(
            [x[:10]], T, SITES
        )
    rate = sum(float(s.double().sum()) for s in sent.values()) / sum(s.numel() for s in sent.values())
    return {f"a converted CNN, T = {T}, {B} images": {"spikes": rate, "sides": measured}}
