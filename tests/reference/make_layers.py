"""Makes layers.npz beside it: outputs and gradients of SpikingJelly's layers over time, for random inputs.

It runs where make_golden.py does, in the peers' environment:

    peers/bin/python tests/reference/make_layers.py

Every case stores what the peer gave for a shared input, and the gradients of sum(g * outputs) with respect to the input
and to what the peer learns. Layers that draw random numbers store their masks.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
T, B, C, H, W = 5, 3, 4, 3, 2


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def varied(module):
    """Parameters and running statistics that are not those a layer begins with."""
    for i, (name, tensor) in enumerate([*module.named_parameters(), *module.named_buffers()]):
        if "num_batches" not in name:
            with torch.no_grad():
                tensor.copy_(1 + 0.3 * drawn(*tensor.shape, seed=100 + i).clamp(-2, 2))
    return module


def finish(store, name, x, y, module):
    g = drawn(*y.shape, seed=1)
    learned = dict(module.named_parameters())
    grads = torch.autograd.grad((g * y).sum(), [x, *learned.values()])
    store[f"{name}/y"], store[f"{name}/g"] = y.detach().numpy(), g.numpy()
    for key, grad in zip(["x", *learned], grads, strict=True):
        store[f"{name}/grad_{key}"] = grad.numpy()
    for key, value in module.state_dict().items():
        if "running" in key:
            store[f"{name}/after_{key}"] = value.numpy().copy()


def norms(store):
    from spikingjelly.activation_based import layer

    makes = {
        "tdBN": lambda: layer.ThresholdDependentBatchNorm2d(0.7, 0.5, C),
        "TEBN": lambda: layer.TemporalEffectiveBatchNorm2d(T, C),
        "BNTT": lambda: layer.BatchNormThroughTime2d(T, C, step_mode="m"),
        "NeuNorm": lambda: layer.NeuNorm(C, H, W, k=0.8, step_mode="m"),
    }
    for name, make in makes.items():
        module = make() if name == "tdBN" else varied(make())
        for key, value in module.state_dict().items():
            store[f"{name}/before_{key}"] = value.numpy().copy()
        x = (0.5 + drawn(T, B, C, H, W, seed=0)).requires_grad_()
        finish(store, name, x, module(x), module)
        if name != "NeuNorm":
            if name == "BNTT":
                module.reset()
            module.eval()
            store[f"{name}/evaluated"] = module(x).detach().numpy()


def weights(store):
    from spikingjelly.activation_based import layer

    torch.manual_seed(0)
    module = layer.Dropout(0.4, step_mode="m")
    x = (0.5 + drawn(T, B, C, H, W, seed=0)).requires_grad_()
    finish(store, "Dropout", x, module(x), module)
    store["Dropout/mask"] = module.mask.numpy().copy()
    module = varied(layer.DropConnectLinear(C, 6, p=0.4, invariant=True, activation=None, step_mode="m"))
    for key, value in module.state_dict().items():
        store[f"DropConnectLinear/before_{key}"] = value.numpy().copy()
    x = (0.5 + drawn(T, B, C, seed=0)).requires_grad_()
    finish(store, "DropConnectLinear", x, module(x), module)
    for key, dropped in (("weight", module.dropped_w), ("bias", module.dropped_b)):
        store[f"DropConnectLinear/mask_{key}"] = (dropped != 0).numpy().astype(np.uint8)
    store["DropConnectLinear/x"] = x.detach().numpy()
    cases = {
        "WSLinear": (layer.WSLinear(C, 6, step_mode="m"), (T, B, C)),
        "WSConv2d": (layer.WSConv2d(C, 4, 3, stride=2, padding=1, groups=2, step_mode="m"), (T, B, C, H, W)),
        "Voting": (layer.VotingLayer(3, step_mode="m"), (T, B, 6)),
        "SynapseFilter": (layer.SynapseFilter(tau=4.0, step_mode="m"), (T, B, C)),
        "SynapseFilter-learned": (layer.SynapseFilter(tau=4.0, learnable=True, step_mode="m"), (T, B, C)),
        "Delay": (layer.Delay(2, step_mode="m"), (T, B, C)),
    }
    for name, (module, shape) in cases.items():
        if name.startswith("WS"):
            for key, value in varied(module).state_dict().items():
                store[f"{name}/before_{key}"] = value.numpy().copy()
        x = (0.5 + drawn(*shape, seed=0)).requires_grad_()
        finish(store, name, x, module(x), module)
        store[f"{name}/x"] = x.detach().numpy()


def main():
    store = {"x": (0.5 + drawn(T, B, C, H, W, seed=0)).numpy()}
    norms(store)
    weights(store)
    np.savez_compressed(HERE / "layers.npz", version=version("spikingjelly"), torch=torch.__version__, **store)


if __name__ == "__main__":
    main()
