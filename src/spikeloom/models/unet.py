"""A U-Net with spikes: maps of any model with stages, joined from coarse to fine.

    y = neuron(norm(conv(cat(upsample(y), map)))),  from the last map to the first;  membrane = LI(conv(y))

Ronneberger, Fischer and Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..neuron import LI, LIF
from .blocks import Model, NeuronFactory, Neurons, Stage, check_sizes, conv, norm_neuron
from .registry import Entry, Info, create, info, register

paper_neuron: NeuronFactory = functools.partial(LIF, tau=2.0, detach_reset=True)


class UNet(Model):
    """An encoder, a decoder that goes from its last map to its first, and a head: ``[N, C, H, W]`` to ``[N, classes,
    H, W]``. ``stages`` are those of the encoder; ``features`` is the last map of the decoder, of the height and width
    of the input.
    """

    encoder: Model
    decoder: nn.Sequential
    head: nn.Sequential

    def __init__(self, encoder: Model, decoder: nn.Sequential, head: nn.Sequential) -> None:
        super().__init__({"encoder": encoder, "decoder": decoder, "head": head})

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The parts of the encoder that end in a feature map."""
        return self.encoder.stages

    def features(self, x: Tensor) -> Tensor:
        """The decoder's last map, ``[N, D, H, W]``."""
        maps: dict[nn.Module, Tensor] = {}
        y = x
        for layer in self.encoder.children():
            y = maps[layer] = layer(y)
        *finer, y = (maps[stage.module] for stage in joined(self.stages))
        for block in self.decoder:
            if finer:
                skip = finer.pop()
                y = block(torch.cat((F.interpolate(y, skip.shape[2:]), skip), 1))
            else:
                y = block(F.interpolate(y, x.shape[2:]))
        return y

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.features(x))
        return y


def joined(stages: Sequence[Stage]) -> list[Stage]:
    """The last stage of each stride, from fine to coarse."""
    return list({stage.stride: stage for stage in stages}.values())


ENTRIES = {
    "spiking_unet": Entry(
        "spiking_unet",
        Info(
            paper="Ronneberger, Fischer and Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation, "
            "MICCAI 2015",
            parameters=13_492_290,
            input=(3, 128, 128),
            classes=2,
            T=None,
            neuron="in the encoder that of its paper, in the decoder LIF(tau=2.0, detach_reset=True)",
            bits="in the encoder its own; in the decoder, where the encoder's maps are spikes, all convolutions",
        ),
    )
}


@register(ENTRIES)
def build(
    name: str,
    *,
    num_classes: int = 2,
    in_channels: int = 3,
    neuron: NeuronFactory | None = None,
    encoder: str = "sew_resnet18",
    encoder_options: Mapping[str, Any] | None = None,
) -> Model:
    """A U-Net whose output is a membrane for each class and pixel, ``[N, num_classes, H, W]``; 0 classes leave out the
    last convolution and its leaky integrator.

    ``encoder`` is the name of a model that has stages, and ``encoder_options`` its options; where it has a ``stem``,
    that is ``"cifar"``, which keeps height and width, if nothing else is said. The decoder doubles the last map of the
    encoder, joins it with the map of that size, and so on up to the height and width of the input, with a convolution,
    a norm and a neuron each time. No paper's net is reproduced.
    """
    check_sizes(name, num_classes, in_channels)
    options = {"stem": "cifar"} if "stem" in info(encoder).options else {}
    whole = create(
        encoder,
        **{**options, **(encoder_options or {}), "num_classes": 0, "in_channels": in_channels, "neuron": neuron},
    )
    levels = joined(whole.stages)
    if not levels or levels[-1].stride == 1:
        raise ValueError(f"{name}: expected an encoder with stages of several sizes, {encoder} has none")
    neurons = Neurons(name, neuron, paper_neuron)
    decoder, channels = nn.Sequential(), levels[-1].channels
    skips = [level.channels for level in levels[-2::-1]] + ([0] if levels[0].stride > 1 else [])
    for k, skip in enumerate(skips):
        out = skip or channels
        spike = norm_neuron(nn.BatchNorm2d(out), neurons(out, f"decoder.{k}.1"))
        decoder.append(nn.Sequential(conv(channels + skip, out), spike))
        channels = out
    head = [nn.Conv2d(channels, num_classes, 1), LI(tau=2.0)] if num_classes else []
    return UNet(whole.without_head(), decoder, nn.Sequential(*head))
