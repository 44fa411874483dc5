"""Makes temporal_attention.npz beside it: outputs and gradients of SpikingJelly's attention over steps and channels.

It runs where make_golden.py does, in the peers' environment:

    peers/bin/python tests/reference/make_temporal_attention.py

Every case stores the input, the peer's weights, what it gave, and the gradients of sum(g * y) with respect to the input
and to the weights.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from spikingjelly.activation_based import layer

HERE = Path(__file__).parent
T, B, C, H, W = 6, 2, 4, 3, 4
IMAGES, ROWS = (T, B, C, H, W), (T, B, C)
USES = {"t": "use_temporal", "c": "use_channel", "s": "use_spatial"}


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention(dims, kernel_size=3):
    return layer.MultiDimensionalAttention(
        T, C, reduction_t=2, reduction_c=2, kernel_size=kernel_size, **{use: d in dims for d, use in USES.items()}
    )


CASES = {
    "TA of images": (lambda: layer.TemporalWiseAttention(T, reduction=2), IMAGES),
    "TA of rows": (lambda: layer.TemporalWiseAttention(T, reduction=3, dimension=2), ROWS),
    "MA tcs": (lambda: attention("tcs"), IMAGES),
    "MA s7": (lambda: attention("s", 7), IMAGES),
    "MA cs": (lambda: attention("cs"), IMAGES),
    "MA c": (lambda: attention("c"), IMAGES),
}


def main():
    store = {}
    for number, (name, (make, shape)) in enumerate(CASES.items()):
        module = make()
        for i, parameter in enumerate(module.parameters()):
            with torch.no_grad():
                parameter.copy_(0.3 + 0.5 * drawn(*parameter.shape, seed=100 + i))  # not all ReLUs are silent
        x = (0.5 + drawn(*shape, seed=number)).requires_grad_()
        y, g = module(x), drawn(*shape, seed=50 + number)
        weights = dict(module.named_parameters())
        grads = torch.autograd.grad((g * y).sum(), [x, *weights.values()])
        store |= {f"{name}/x": x, f"{name}/y": y, f"{name}/g": g}
        store |= {f"{name}/weight_{key}": weight for key, weight in weights.items()}
        store |= {f"{name}/grad_{key}": grad for key, grad in zip(["x", *weights], grads, strict=True)}
    arrays = {key: value.detach().numpy() for key, value in store.items()}
    np.savez_compressed(
        HERE / "temporal_attention.npz", version=version("spikingjelly"), torch=torch.__version__, **arrays
    )


if __name__ == "__main__":
    main()
