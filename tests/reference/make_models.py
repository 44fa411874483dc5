"""Makes models.npz beside it: outputs and gradients of transformers, for weights and inputs that both sides draw.

Those of Spikformer are from its authors' code (MIT), whose folder is the argument, with SpikingJelly's neuron for the
one of 2022 that it asks for; those of QKFormer and of Max-Former for CIFAR from SpikingJelly 2.0.0, because their
authors' code has no licence. It runs where make_golden.py does, in the peers' environment:

    peers/bin/python tests/reference/make_models.py folder-of-spikformer

Every case stores the model's output in training mode, averaged over T, and a summary of the gradient of the sum of its
squares (drawn.py).
"""

import importlib
import sys
import types
from importlib.metadata import version
from pathlib import Path

import drawn
import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent
T, B, CLASSES = 3, 2, 5
NEURON = {"tau": 2.0, "detach_reset": True}


def stand_in(name, **content):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__.update(content)


def authors(folder, kind):
    """Spikformer of the authors' code for a kind of data; what it imports from elsewhere is stood in for."""
    from spikingjelly.activation_based import neuron, surrogate

    def lif(tau=2.0, v_threshold=1.0, detach_reset=False, backend="cupy"):
        sigmoid = surrogate.Sigmoid(4.0)
        return neuron.LIFNode(tau, True, v_threshold, 0.0, sigmoid, detach_reset, step_mode="m")

    stand_in("spikingjelly.clock_driven", layer=None, surrogate=None)
    stand_in("spikingjelly.clock_driven.neuron", MultiStepLIFNode=lif)
    for name in ("timm", "timm.models", "einops", "einops.layers"):
        stand_in(name)
    trunc_normal = nn.init.trunc_normal_
    stand_in("timm.models.layers", to_2tuple=lambda x: (x, x), trunc_normal_=trunc_normal, DropPath=nn.Identity)
    stand_in("timm.models.registry", register_model=lambda build: build)
    stand_in("timm.models.vision_transformer", _cfg=dict)
    stand_in("einops.layers.torch", Rearrange=None)
    sys.modules.pop("model", None)
    sys.path.insert(0, str(Path(folder) / kind))
    model = importlib.import_module("model")
    sys.path.pop(0)
    return model.Spikformer


def as_published(model):
    """SpikingJelly's QKFormer with biases where the authors' has them: at the end of attention, not in embeddings."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and name.startswith("patch_embed"):
            module.bias = None
        if name.endswith("proj_conv_bn.0"):
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
    return model


def stages(model):
    """The parts of a hierarchical model in the order in which the data pass."""
    pairs = [(getattr(model, f"patch_embed{k}"), getattr(model, f"stage{k}")) for k in (1, 2, 3)]
    return [part for pair in pairs for part in pair] + [model.head]


def cases(folder):
    """Yields a name, the parts of the model, how it is run, and the channels and size of its input."""
    from spikingjelly.activation_based.model import maxformer, qkformer

    for kind, channels, size, heads, depth in (
        ("imagenet", 3, 64, 2, 2),
        ("cifar10", 3, 32, 2, 2),
        ("cifar10dvs", 2, 128, 4, 1),
    ):
        model = authors(folder, kind)(
            *(size, size, 16, channels, CLASSES, 16, heads, 4), norm_layer=nn.LayerNorm, depths=depth
        )
        model.double()
        yield f"spikformer {kind}", [model], lambda x, m=model: m.head(m.forward_features(x).mean(0)), channels, size
    options = {"embed_dims": 32, "num_classes": CLASSES, **NEURON}
    model = as_published(qkformer.QKFormer(num_heads=(2, 2, 2), depths=(1, 2, 2), **options)).double()
    yield "qkformer", stages(model), model, 3, 64
    model = maxformer.MaxFormer(depths=(1, 1, 2), cifar=True, **options).double()
    yield "maxformer cifar", stages(model), model, 3, 32


def main(folder):
    store = {"versions": np.array([f"spikingjelly {version('spikingjelly')}", f"torch {torch.__version__}"])}
    for name, parts, run, channels, size in cases(folder):
        found = drawn.places(parts)
        drawn.fill(found)
        y = run(drawn.images((T, B, channels, size, size)))
        y.square().sum().backward()
        store |= {f"{name}/y": y.detach().numpy(), f"{name}/gradients": drawn.summary(found).numpy()}
    np.savez_compressed(HERE / "models.npz", **store)


if __name__ == "__main__":
    main(sys.argv[1])
