"""Makes driven.npz beside it: outputs and gradients of the Spike-driven Transformer, of MA-SNN and of MS-ResNet with
attention, for weights and inputs that both sides draw.

They are from the authors' own code, whose folders are the arguments: Spike-Driven-Transformer (Apache-2.0) and MA-SNN
(MIT). The code of versions 2 and 3 of the transformer and of the net of delays has no licence, and is not used. It runs
where make_golden.py does, in the peers' environment with einops:

    peers/bin/python tests/reference/make_driven.py Spike-Driven-Transformer MA-SNN

Every case stores the output in training mode, averaged over T as the authors have it, a summary of the gradient of the
sum of its squares (drawn.py), and the output in evaluation mode afterwards.
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
# what the authors of MA-SNN compute in torch's layers of three dimensions
drawn.LEARNED += (nn.Conv3d,)
drawn.NORMS += (nn.BatchNorm3d,)


def stand_in(name, **content):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__.update(content)


def imported(folder, name):
    """A module of a folder, which is imported anew with what it imports from there."""
    for known in [known for known in sys.modules if known.split(".")[0] in ("module", "model", "models")]:
        del sys.modules[known]
    sys.path.insert(0, str(folder))
    found = importlib.import_module(name)
    sys.path.pop(0)
    return found


class Step(torch.autograd.Function):
    """The spikes that are given, with the derivative of a rectangle; theirs has float32 in it."""

    @staticmethod
    def forward(ctx, u, half_width, spikes):
        ctx.save_for_backward((u.abs() < half_width).to(u.dtype) / (2 * half_width))
        return spikes.to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None, None


def transformer(folder, **options):
    """The authors' transformer, without the convolution that it never uses; its framework of 2022 is stood in for."""
    from spikingjelly.activation_based import neuron, surrogate

    def lif(tau=2.0, v_threshold=1.0, detach_reset=False, backend="cupy"):
        sigmoid = surrogate.Sigmoid(4.0)
        return neuron.LIFNode(tau, True, v_threshold, 0.0, sigmoid, detach_reset, step_mode="m")

    stand_in("spikingjelly.clock_driven")
    stand_in("spikingjelly.clock_driven.neuron", MultiStepLIFNode=lif, MultiStepParametricLIFNode=None)
    for name in ("timm", "timm.models"):
        stand_in(name)
    truncated = nn.init.trunc_normal_
    stand_in("timm.models.layers", to_2tuple=lambda x: (x, x), trunc_normal_=truncated, DropPath=nn.Identity)
    stand_in("timm.models.registry", register_model=lambda build: build)
    stand_in("timm.models.vision_transformer", _cfg=dict)
    model = imported(folder, "model.spikeformer").SpikeDrivenTransformer(
        num_classes=CLASSES, embed_dims=16, num_heads=2, depths=2, T=T, **options
    )
    for block in model.block:
        block.attn.talking_heads = nn.Identity()
    return model.double(), lambda x: model(x.transpose(0, 1))[0]


def masnn(folder, steps):
    """The authors' layers as their net for DVS128 Gesture has them, of fewer channels."""
    stand_in("utils")
    stand_in("utils.util", torch=torch, nn=nn)
    layers = imported(folder / "MA_SNN", "module.LIF_Module")
    shared = {
        "T": steps,
        "spikeActFun": lambda u: Step.apply(u, 0.25, u >= 0),
        "useBatchNorm": True,
        "track_running_stats": True,
        "t_ratio": 2,
        "pa_dict": {"alpha": 0.3, "beta": 0.0, "Vreset": 0.0, "Vthres": 0.3},
    }
    parts, channels = [], 2
    for out, pool in ((8, 1), (8, 2), (16, 2)):
        of_space = {"kernel_size": (3, 3), "pooling_kernel_size": pool, "attention": "TCSA", "c_ratio": 4}
        parts.append(layers.ConvAttLIF(inputSize=channels, hiddenSize=out, **of_space, **shared))
        channels = out
    features = channels * 4
    for out in (12, CLASSES):
        parts.append(layers.AttLIF(inputSize=features, hiddenSize=out, attention="TA", **shared))
        features = out
    parts = nn.ModuleList(parts).double()
    ordered = []  # steps before channels before places, as they are run
    for part in parts:
        at = part.attention
        scores = [getattr(at, name) for name in ("ta", "ca", "sa") if hasattr(at, name)]
        ordered += [part.conv2d if hasattr(part, "conv2d") else part.linear, part.BNLayer, *scores]

    def run(x):
        y = x.transpose(0, 1)
        for k, part in enumerate(parts):
            y = part(y if k != 3 else y.flatten(2))
        return y.mean(1)

    return ordered, parts, run


def ms_resnet(folder):
    """The authors' stem, a block in each of two stages, and head; their dropout, which draws, is left out."""
    code = imported(folder / "Att_Res_SNN", "models.resnet_2")
    code.time_window = T
    code.act_fun = lambda v: Step.apply(v - 0.5, 0.5, v > 0.5)

    class Small(code.ResNet_origin):
        def __init__(self):
            super().__init__(code.BasicBlock, [1, 1, 1, 1], CLASSES)
            self.conv4_x = self.conv5_x = nn.Identity()
            self.fc = nn.Linear(128, CLASSES)
            self.dropout = nn.Identity()

    model = Small().double()
    return model, lambda x: model(x[0])


def stored(name, parts, model, run, x):
    found = drawn.places(parts)
    drawn.fill(found)
    y = run(x)
    y.square().sum().backward()
    results = {"y": y.detach(), "gradients": drawn.summary(found)}
    model.eval()
    for module in model.modules():
        if hasattr(module, "reset") and hasattr(module, "step_mode"):
            module.reset()
    results["evaluated"] = run(x).detach()
    return {f"{name}/{key}": value.numpy() for key, value in results.items()}


def main(sdt, ma):
    torch.set_default_dtype(torch.float64)  # the code of MA-SNN makes tensors of its own
    store = {"versions": np.array([f"spikingjelly {version('spikingjelly')}", f"torch {torch.__version__}"])}
    for name, channels, size, options in (
        ("sdt1", 3, 32, {"pooling_stat": "1111"}),
        ("sdt1 cifar", 3, 16, {"pooling_stat": "0011"}),
        ("sdt1 dvs", 2, 32, {"pooling_stat": "0111", "dvs_mode": True}),
    ):
        model, run = transformer(Path(sdt), in_channels=channels, **options)
        x = drawn.images((T, B, channels, size, size))
        store |= stored(name, [model], model, run, x)
    ordered, parts, run = masnn(Path(ma), 4)
    store |= stored("masnn", ordered, parts, run, drawn.images((4, B, 2, 8, 8)))
    model, run = ms_resnet(Path(ma))
    store |= stored("att_ms_resnet", [model], model, run, drawn.images((1, B, 3, 16, 16)))
    np.savez_compressed(HERE / "driven.npz", **store)


if __name__ == "__main__":
    main(*sys.argv[1:])
