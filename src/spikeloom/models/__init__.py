"""Published networks in plain PyTorch, exact to the parameter: ``sl.Network(sl.models.create(name))``.

A model is an ordinary module of plain layers and neurons, without time: it has no T, no reset and no mean over time.
"""

from .authors import Converted, convert
from .blocks import Model, Stage
from .files import load, save
from .registry import Figure, Info, create, info, names

__all__ = ["Converted", "Figure", "Info", "Model", "Stage", "convert", "create", "info", "load", "names", "save"]
