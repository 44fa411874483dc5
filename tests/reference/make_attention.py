"""Makes attention.npz beside it: outputs and gradients of SpikingJelly's layers of attention, for random inputs.

It runs where make_golden.py does, in the peers' environment:

    peers/bin/python tests/reference/make_attention.py

Every case stores what the peer learns, a shared input, what the peer gave for it in training mode, and the gradients of
sum(g * outputs) with respect to the input and to the weights. The neurons have the surrogate ATan(2).
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
T, B, C, H, W, HEADS = 3, 2, 8, 2, 3, 2


def varied(module):
    """Weights with which neurons fire."""
    for i, (name, p) in enumerate(module.named_parameters()):
        drawn = torch.randn(*p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype)
        with torch.no_grad():
            p.copy_(drawn if p.ndim > 1 else 0.3 * drawn + (1.5 if "weight" in name else 1.3))
    return module


def main():
    from spikingjelly.activation_based import layer, surrogate

    given = {"surrogate_function": surrogate.ATan(2.0)}
    cases = {
        "spiking": layer.SpikingSelfAttention(C, HEADS, **given),
        "token": layer.TokenQKAttention(C, HEADS, **given),
        "channel": layer.ChannelQKAttention(C, HEADS, **given),
        "driven": layer.SpikeDrivenSelfAttention(C, HEADS, **given),
    }
    store = {"versions": np.array([f"spikingjelly {version('spikingjelly')}", f"torch {torch.__version__}"])}
    draw = torch.Generator().manual_seed(7)
    for name, module in cases.items():
        varied(module.double()).train()
        shape = (T, B, C, H, W) if name == "driven" else (T, B, C, H * W)
        x = torch.randn(*shape, generator=draw, dtype=torch.float64)
        x = (2 * x if name == "driven" else (x > 0).double()).requires_grad_()
        y = module(x)
        g = torch.randn(*y.shape, generator=draw, dtype=torch.float64)
        learned = dict(module.named_parameters())
        grads = torch.autograd.grad((g * y).sum(), [x, *learned.values()])
        store |= {f"{name}/x": x.detach().numpy(), f"{name}/y": y.detach().numpy(), f"{name}/g": g.numpy()}
        for key, value in learned.items():
            store[f"{name}/weight/{key}"] = value.detach().numpy()
        for key, grad in zip(["x", *learned], grads, strict=True):
            store[f"{name}/grad/{key}"] = grad.numpy()
    np.savez_compressed(HERE / "attention.npz", **store)


if __name__ == "__main__":
    main()
