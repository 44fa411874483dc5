"""Training loops worth copying: plain PyTorch, one file each. ``spikeloom list recipes`` names them.

A recipe is a module with a ``Config``, ``data(config, **loading)``, ``build(config)``, ``measures(net, x, y, config)``,
``train(config, run)`` and, if it classifies, ``scores(net, x, config)``.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from .. import runs

__all__ = ["NAMES", "get"]

NAMES = {
    "digits": "a convolutional SNN on scikit-learn's handwritten digits; half a minute, no download",
    "mnist-mlp": "one layer of LIF neurons on Poisson-coded MNIST: the field's first example",
    "fashion-csnn": "a convolutional SNN on Fashion-MNIST",
    "fashion-online": "Fashion-MNIST learned step by step, by OTTT or SLTT: memory does not grow with T",
    "cifar10": "any network of sl.models on CIFAR-10 or other small images",
    "dvs-gesture": "any network of sl.models on DVS128 Gesture, an event camera before eleven gestures",
    "cifar10-dvs": "any network of sl.models on CIFAR10-DVS, pictures moved before an event camera",
    "mnist-latency": "one spike per pixel in, the first spike out decides: MNIST in first-spike coding",
    "mnist-sparse": "MNIST through sparse layers, with spikes of one bit each",
    "regression": "a membrane that predicts a chaotic time series (Mackey-Glass)",
    "autoencoder": "MNIST through a bottleneck of spikes, and back",
    "braille": "Braille letters felt by a tactile sensor, as ON and OFF spikes",
    "braille-eprop": "Braille letters by e-prop: recurrent adaptive neurons, gradients forward in time",
    "fsdd": "spoken digits through a cochlea",
    "shd": "spoken digits that came as spikes, by a net that learns delays",
    "shd-eventprop": "spoken digits that came as spikes, by spike times: EventProp with delays",
    "ann2snn-mnist": "an ordinary CNN trained on MNIST, and converted into spiking ones",
    "ann2snn-cifar10": "an ordinary ResNet-20 trained on CIFAR-10, and converted into spiking ones",
    "ann2snn-vit": "a small vision transformer trained on images, and converted by messages",
    "hybrid-mnist": "an ordinary CNN trained, converted, and trained on as a spiking one at two steps",
    "population": "MNIST read out by populations of neurons, in a few steps",
    "diehl-cook": "MNIST without labels: neurons compete, learn by STDP, and are named afterwards",
    "mnist-tempotron": "MNIST by single spikes and ten tempotrons: the highest peak names the digit",
    "yin-yang": "points of the yin-yang figure by spike times, with the gradients of EventProp",
    "cartpole-dqn": "a pole on a cart, by the values that spiking neurons give to its actions",
    "cartpole-a2c": "a pole on a cart, by an actor and a critic of spiking neurons",
    "pendulum-ilc": "a pendulum swung up by a population of spiking neurons that feed each other",
}
"""Names of the recipes, each with what it trains."""


def get(name: str) -> ModuleType:
    """The module of a recipe.

    >>> import spikeloom as sl
    >>> recipe = sl.recipes.get("digits")
    >>> recipe.Config(epochs=2).epochs, recipe.__name__
    (2, 'spikeloom.recipes.digits')
    """
    if name not in NAMES:
        raise runs.ConfigError(f"there is no recipe {runs.settings.shown(name)}; there are {', '.join(NAMES)}")
    return importlib.import_module(f".{name.replace('-', '_')}", __name__)
