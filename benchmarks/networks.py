"""Training steps of SEW-ResNet-18 and Spikformer-4-256 on 3x32x32, T=4, batch 16, against SpikingJelly's own models.

The SEW-ResNet has SpikingJelly's weights, and rates and gradients are compared before anything is timed. Its Spikformer
pools before the neuron, ours as the authors do behind it: there the parameters alone must agree, within 1 %. Saved is
what autograd keeps of a step, counted by storage.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl

from .common import compare

T, B, CLASSES = 4, 16, 10
Side = tuple[nn.Module, Callable[[Tensor], Tensor]]


def batch() -> tuple[Tensor, Tensor]:
    """A still image for each label."""
    g = torch.Generator().manual_seed(1)
    return torch.rand(B, 3, 32, 32, generator=g), torch.randint(CLASSES, (B,), generator=g)


def loss(forward: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Mean outputs, and their cross entropy."""
    images, labels = batch()
    scores = forward(images.to(dtype)).mean(0)
    return scores, F.cross_entropy(scores, labels)


def step(net: nn.Module, forward: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """A step of Adam."""
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)

    def run() -> None:
        optimiser.zero_grad()
        loss(forward)[1].backward()
        optimiser.step()

    return run


def saved(net: nn.Module, forward: Callable[[Tensor], Tensor]) -> float:
    """MiB that autograd keeps of a step, besides parameters and the batch."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in (*net.parameters(), *net.buffers())}

    def keep(t: Tensor) -> Tensor:
        plain = t.bits if isinstance(t, sl.SpikeTensor) else t
        if plain.untyped_storage().data_ptr() not in own:
            kept[plain.untyped_storage().data_ptr()] = plain.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        _, total = loss(forward)
        size = sum(kept.values())
    del total
    return size / 2**20


def ours(make: Callable[[], nn.Module]) -> dict[str, Side]:
    """Our sides, each with a model of its own."""
    sides: dict[str, Side] = {}
    for label, spikes in (("spikeloom, spikes of one bit", "packed"), ("spikeloom", "dense")):
        net = sl.Network(make(), spikes=spikes)  # type: ignore[arg-type]
        sides[label] = (net, functools.partial(net, repeat=T))
    return sides


def jelly(net: nn.Module) -> Side:
    """SpikingJelly's side: the whole sequence at once, and a reset before each batch."""
    from spikingjelly.activation_based import functional

    functional.set_step_mode(net, "m")

    def forward(x: Tensor) -> Tensor:
        functional.reset_net(net)
        y: Tensor = net(x.unsqueeze(0).repeat(T, 1, 1, 1, 1))
        return y

    return net, forward


def sew() -> dict[str, Side]:
    """SEW-ResNet-18 with a 3x3 stem and IF neurons, all with SpikingJelly's weights."""
    from spikingjelly.activation_based import layer, neuron, surrogate
    from spikingjelly.activation_based.model import sew_resnet

    torch.manual_seed(0)
    options = {"surrogate_function": surrogate.ATan(), "detach_reset": True}
    theirs = sew_resnet.sew_resnet18(cnf="ADD", spiking_neuron=neuron.IFNode, num_classes=CLASSES, **options)
    theirs.conv1, theirs.maxpool = layer.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    state = copy.deepcopy(theirs.state_dict())

    def converted() -> sl.models.Converted:
        return sl.models.convert("sew_resnet18", state, num_classes=CLASSES, stem="cifar")

    sides, keys = {**ours(lambda: converted().model.train()), "spikingjelly": jelly(theirs)}, converted().keys
    wanted, found = gradients(*sides["spikingjelly"])
    for name in list(sides)[:2]:
        scores, own = gradients(*sides[name])
        own = {path.removeprefix("body."): g for path, g in own.items()}
        g, h = (torch.cat([grads[k].flatten() for k in ks]) for grads, ks in ((own, own), (found, map(keys.get, own))))
        off, cosine = float((scores - wanted).abs().max() / wanted.abs().max()), float(F.cosine_similarity(g, h, 0))
        if off > 1e-9 or cosine < 1 - 1e-9:
            raise SystemExit(f"{name}: outputs differ by {off:.1e}, gradients have a cosine of {cosine:.4f}; not timed")
        print(f"{name}: outputs differ by {off:.1e}, gradients have a cosine of {cosine:.5f}", flush=True)
    return sides


def gradients(net: nn.Module, forward: Callable[[Tensor], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs, and the gradients of all parameters by name, in float64: in float32 a spike that turns by the order of
    additions turns others.
    """
    names, parameters = zip(*net.double().named_parameters(), strict=True)
    scores, total = loss(forward, torch.float64)
    found = dict(zip(names, torch.autograd.grad(total, parameters), strict=True))
    net.float()
    return scores.detach(), found


def spikformer() -> dict[str, Side]:
    """Spikformer-4-256 for CIFAR."""
    from spikingjelly.activation_based.model.spikformer import Spikformer

    theirs = Spikformer(
        T=T, img_size_h=32, img_size_w=32, patch_size=4, num_classes=CLASSES, embed_dims=256, num_heads=8, depths=4
    )
    make = functools.partial(sl.models.create, "spikformer_cifar_4_256", num_classes=CLASSES)
    sides = {**ours(make), "spikingjelly": jelly(theirs)}
    counts = [sum(p.numel() for p in net.parameters()) for net, _ in sides.values()]
    if max(counts) > 1.01 * min(counts):
        raise SystemExit(f"parameters differ by more than 1 %: {counts}; nothing was timed")
    return sides


def main() -> dict[str, Any]:
    """Both networks; memory retained on all sides."""
    try:
        import spikingjelly  # noqa: F401
    except ImportError:
        print("networks: skipped, SpikingJelly is not installed", flush=True)
        return {}
    sl.retain_memory()
    rows = {}
    for name, made in (("SEW-ResNet-18", sew), ("Spikformer-4-256", spikformer)):
        sides = made()
        labels = {side: f"{side}: saves {saved(*both):.0f} MiB" for side, both in sides.items()}
        steps = {labels[side]: step(*both) for side, both in sides.items()}
        rows[f"training step, {name}, T={T}, batch {B}, 3x32x32"] = {"sides": compare(steps, seconds=45.0)}
    sl.release_memory()
    return rows
