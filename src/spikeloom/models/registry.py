"""Models by name: what there is, what is known of each, and how one is built.

A name leads to a file by a table, so that nothing is imported before it is asked for; the file registers the names with
their sizes, facts and builder.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from .blocks import Built, Divided, Model
from .stored import Stored, described, own, state

_RESNETS = (18, 34, 50, 101, 152)
_VGGS = (5, 9, 11, 13, 16, 19)
FILES: dict[str, str] = {
    **dict.fromkeys(("csnn_8x8", "csnn_28x28"), "small"),
    **{f"spiking_resnet{n}": "resnet" for n in _RESNETS},
    **{f"sew_resnet{n}": "resnet" for n in _RESNETS},
    **dict.fromkeys(("sew_resnext50_32x4d", "sew_resnext101_32x8d"), "resnet"),
    **dict.fromkeys(("sew_wide_resnet50_2", "sew_wide_resnet101_2"), "resnet"),
    **dict.fromkeys(("sew_resnet_cifar10dvs", "sew_resnet_dvsgesture"), "sew_events"),
    **{f"ms_resnet{n}": "ms_resnet" for n in (18, 34, 104)},
    **{f"spiking_vgg{n}{norm}": "vgg" for n in _VGGS for norm in ("", "_bn")},
    "ottt_vgg": "ottt_vgg",
    **{f"sdt1_{size}": "sdt1" for size in ("8_384", "6_512", "8_512", "10_512", "8_768")},
    **{f"sdt1_{data}": "sdt1" for data in ("cifar10_2_512", "cifar10dvs", "dvsgesture")},
    **{f"sdt2_{size}": "sdt2" for size in ("8_384", "8_512", "8_768")},
    **{f"sdt3_{size}": "sdt3" for size in "tsml"},
    **dict.fromkeys(("masnn_dvsgesture", "att_ms_resnet18"), "attention"),
    "delay_shd": "delay_shd",
    "spiking_unet": "unet",
    **{f"plif_{data}": "plif" for data in ("mnist", "fashion", "nmnist", "cifar10", "cifar10dvs", "dvsgesture")},
    **{f"spikformer_{size}": "spikformer" for size in ("8_384", "6_512", "8_512", "10_512", "8_768")},
    **{f"spikformer_cifar_{size}": "spikformer" for size in ("4_256", "4_384", "2_384")},
    "spikformer_cifar10dvs": "spikformer",
    **{f"qkformer_{size}": "qkformer" for size in ("10_384", "10_512", "10_768")},
    **{f"qkformer_{data}": "qkformer" for data in ("cifar10_4_384", "cifar10dvs", "dvsgesture")},
    **{f"maxformer_10_{dim}": "maxformer" for dim in (384, 512, 768)},
    **{f"maxformer_{data}": "maxformer" for data in ("cifar", "cifar10dvs", "dvsgesture")},
    "max_resnet18": "max_resnet",
}
"""The file that has each name."""


@dataclass(frozen=True)
class Figure:
    """A published top-1 accuracy in percent, and who says so.

    >>> import spikeloom as sl
    >>> for figure in sl.models.info("max_resnet18").figures:
    ...     print(figure)
    CIFAR10 97.17 (paper, T = 4)
    CIFAR100 83.06 (paper, T = 4)
    """

    task: str
    accuracy: float
    kind: Literal["paper", "readme", "log", "secondary", "issue"]
    """The authors' paper, readme or log of training, a table in another paper, or a user's report in an issue."""
    note: str = ""

    def __str__(self) -> str:
        return f"{self.task} {self.accuracy:.2f} ({', '.join(filter(None, (self.kind, self.note)))})"


@dataclass(frozen=True)
class Info:
    """What is known of a model as it is built by default.

    >>> import spikeloom as sl
    >>> info = sl.models.info("csnn_8x8")
    >>> info.parameters, info.input, info.classes, sum(p.numel() for p in sl.models.create("csnn_8x8").parameters())
    (13690, (1, 8, 8), 10, 13690)
    """

    paper: str
    parameters: int
    """The number of parameters, those of learnable neurons among them."""
    input: tuple[int, ...]
    """The shape of a step: channels, height and width, or channels alone."""
    classes: int
    T: int | None
    """The number of steps that the authors ran; None where there is no single one."""
    neuron: str
    """The neuron that is built by default."""
    bits: str
    """Which convolutions and linear layers are given spikes of one bit in a network with ``spikes="packed"``."""
    reference: str = ""
    """Where the authors' own code is."""
    figures: tuple[Figure, ...] = ()
    name: str = ""
    structure: str = ""
    """What the model is made of, and what its own options mean."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The arguments of :func:`create`, with their defaults."""
    weights: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The trained weights that come with the package, with what is known of each: data set, accuracy and the like."""


@dataclass(frozen=True)
class Entry:
    """A line of a family's table: what its builder is given first, defaults of its own, and facts."""

    size: Any
    info: Info
    defaults: Mapping[str, Any] = field(default_factory=dict)


Builder = Callable[..., Model]
_REGISTERED: dict[str, tuple[Entry, Builder]] = {}


def register(entries: Mapping[str, Entry]) -> Callable[[Builder], Builder]:
    """Makes names of a function ``build(size, *, num_classes, in_channels, neuron, ...)``, whose options are closed."""

    def registered(build: Builder) -> Builder:
        first, *options = inspect.signature(build).parameters.values()
        if any(option.kind is not option.KEYWORD_ONLY for option in options):
            raise TypeError(f"{build.__name__}: all arguments of a builder after {first.name} must be keyword-only")
        _REGISTERED.update((name, (entry, build)) for name, entry in entries.items())
        return build

    return registered


def create(name: str, /, *, weights: str | None = None, **arguments: Any) -> Model:
    """Builds a model by its name, with random weights or with trained ones.

    Args:
        name: one of :func:`names`.
        weights: the name of trained weights that come with the package, one of ``info(name).weights``, which has their
            data set, split, seed and accuracy; the model is then in ``eval`` mode. None is random weights.
        arguments: options of the model, which ``info(name).options`` lists with their defaults. All models have
            ``num_classes`` (0 leaves out the last linear layer: the output is what it would have been given),
            ``in_channels`` and ``neuron``.

    ``neuron`` is a function that is called for each place and returns a neuron: ``neuron=functools.partial(sl.PLIF,
    tau=2.0)``, ``neuron=lambda **place: sl.LIF(tau=4.0, **place)``. It is given what the paper sets at that place, and
    ``features``, the number of channels there, if it has an argument of that name. None is the paper's neuron.

    The model knows no time: ``sl.Network(model)`` runs it on ``[T, B, C, H, W]`` and gives ``[T, B, num_classes]``, and
    ``net(image, repeat=T)`` shows an image at all steps. Raises ValueError for unknown names and TypeError for unknown
    options, with those that are nearest; ValueError for options that are not those of the weights, but for
    ``num_classes=0``, which leaves the last layer out; and RuntimeError for neurons that are not those of the weights.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(sl.models.create("sew_resnet18", num_classes=10, stem="cifar"))
    >>> net(torch.rand(2, 3, 16, 16), repeat=4).shape
    torch.Size([4, 2, 10])
    """
    entry, build = _find(name)
    options = _options(entry, build)
    for given in arguments:
        if given not in options:
            raise TypeError(
                f"model {name} has no option {given!r}{_nearest(given, options)}; it has {', '.join(options)}"
            )
    trained = None if weights is None else _trained(name, weights, options, arguments)
    if trained is not None:
        arguments = {**trained[1].arguments, **arguments}
    model = build(entry.size, **{**entry.defaults, **arguments})
    with_own = arguments.pop("neuron", None) is not None
    model.built, model.paper = Built(name, arguments, with_own), entry.info.paper
    if isinstance(images := getattr(model, "images", None), Divided):
        images.model = name
    if trained is not None:
        found, expected = state(*trained), model.state_dict()
        headless = arguments.get("num_classes") == 0
        model.load_state_dict({path: found[path] for path in expected} if headless else found)
        model.eval()
    return model


def _trained(name: str, weights: str, options: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[Path, Stored]:
    """The folder of weights that come with the package, and its description, which must fit the arguments given."""
    there = own(name)
    if weights not in there:
        some = f"there are {', '.join(there)}" if there else "none come with the package"
        raise ValueError(f"model {name} has no weights {weights!r}; {some}")
    found = described(there[weights])
    of = {**options, **found.arguments}
    for option, value in given.items():
        if option != "neuron" and value != of[option] and (option, value) != ("num_classes", 0):
            raise ValueError(
                f"model {name}: the weights {weights!r} are for {option}={of[option]!r}, got {value!r}; leave it out, "
                "or create the model without weights"
            )
    return there[weights], found


def names(pattern: str = "*") -> list[str]:
    """The names that fit a pattern with wildcards, in alphabetical order with numbers by size.

    >>> import spikeloom as sl
    >>> sl.models.names("ms_*")
    ['ms_resnet18', 'ms_resnet34', 'ms_resnet104']
    """
    return [name for name in FILES if fnmatch.fnmatchcase(name, pattern)]


def info(name: str) -> Info:
    """What is known of a model: paper, parameters, input, steps, neuron, published figures, options.

    >>> import spikeloom as sl
    >>> sl.models.info("sew_resnet18").parameters
    11689512
    """
    entry, build = _find(name)
    weights = {known: described(folder).facts for known, folder in own(name).items()}
    structure = inspect.getdoc(build) or ""
    return replace(entry.info, name=name, structure=structure, options=_options(entry, build), weights=weights)


def _find(name: str) -> tuple[Entry, Builder]:
    if not isinstance(name, str) or name not in FILES:
        raise ValueError(f"there is no model {name!r}{_nearest(name, FILES)}; sl.models.names() lists all")
    if name not in _REGISTERED:
        importlib.import_module(f".{FILES[name]}", __package__)
    return _REGISTERED[name]


def _options(entry: Entry, build: Builder) -> dict[str, Any]:
    _, *options = inspect.signature(build).parameters.values()
    return {option.name: entry.defaults.get(option.name, option.default) for option in options}


def _nearest(name: object, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(str(name), known, n=3)
    return f"; the nearest are {', '.join(near)}" if near else ""
