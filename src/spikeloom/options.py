"""What goes around a neuron: each option is a neuron around a neuron, and one kernel comes of both.

>>> import torch
>>> import spikeloom as sl
>>> neuron = sl.options.Refractory(sl.options.Adaptive(sl.LIF(tau=4.0), beta=0.3), steps=2)
>>> sl.Network(torch.nn.Linear(3, 5), neuron)(torch.rand(8, 2, 3)).shape
torch.Size([8, 2, 5])
"""

from .neuron import MPBN, SLTT, Adaptive, Graded, HalfThreshold, Noisy, Option, Refractory, StateQuant

__all__ = ["MPBN", "SLTT", "Adaptive", "Graded", "HalfThreshold", "Noisy", "Option", "Refractory", "StateQuant"]
