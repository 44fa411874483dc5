"""What models are made of: the base of all, places of neurons, convolutions with norm and neuron, heads, checks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from ..neuron import Dynamics
from ..nn import NormNeuron
from ..nn.factory import NeuronFactory as NeuronFactory
from ..nn.factory import checked, neuron_by


class Stage(NamedTuple):
    """A part of a model that ends in a feature map: the module, its channels, and input pixels per pixel of the map.

    >>> import spikeloom as sl
    >>> [(stage.channels, stage.stride) for stage in sl.models.create("csnn_8x8").stages]
    [(16, 2), (32, 4)]
    """

    module: nn.Module
    channels: int
    stride: int


class Built(NamedTuple):
    """How a model was created: its name, its arguments but for the neuron factory, and whether there was one."""

    name: str
    arguments: Mapping[str, Any]
    own_neuron: bool


class Divided(nn.Module):
    """Hands images ``[*, H, W]`` on whose height and width all strides together divide; others raise ValueError."""

    row_wise = True

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.model = "model"  # its name, which create gives

    def forward(self, x: Tensor) -> Tensor:
        size, s = x.shape[-2:], self.stride
        if any(n % s for n in size):
            H, W = (-(-int(n) // s) * s for n in size)
            raise ValueError(
                f"{self.model}: got images of {size[0]} x {size[1]}, its strides make {s} together, which must divide "
                f"both; pad or scale the images, to {H} x {W} for instance, or choose a stem of smaller stride"
            )
        return x

    def extra_repr(self) -> str:
        return f"stride={self.stride}"


class Model(nn.Sequential):
    """A network without time: layers and neurons in a row, of which the last, ``head``, gives classes.

    Rows ``[N, C, H, W]`` are samples or, inside a :class:`spikeloom.Network`, samples of all steps. ``features(x)`` is
    the last feature map ``[N, D, h, w]``, ``stages`` the parts that end in one, for necks and decoders. A network runs
    the layers one by one, as those of any ``nn.Sequential``.

    Args:
        layers: the layers by name; that which gives classes is ``head``.
        maps: channels and stride of the feature map in which each of the named layers ends.
        stride: what the height and width of an image must be multiples of; None is the largest stride of a map. Then a
            layer ``images``, which is the first, raises ValueError for others: a convolution would round their size
            up, a pool would leave out their last rows and columns, and a decoder would not find their size again. 1
            is for models that see to it otherwise.

    >>> import torch
    >>> import spikeloom as sl
    >>> stem, flat, head = torch.nn.Conv2d(1, 4, 2, stride=2), torch.nn.Flatten(), torch.nn.Linear(64, 10)
    >>> model = sl.models.Model({"stem": stem, "flat": flat, "head": head}, maps={"stem": (4, 2)})
    >>> sum(p.numel() for p in model.parameters()), model.stages[0].stride  # 4 * 4 + 4, and 640 + 10
    (670, 2)
    """

    in_order: ClassVar[bool] = True

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        *,
        maps: Mapping[str, tuple[int, int]] | None = None,
        stride: int | None = None,
    ) -> None:
        if stride is None:
            stride = max((s for _, s in (maps or {}).values()), default=1)
        super().__init__(OrderedDict({"images": Divided(stride), **layers} if stride > 1 else layers))
        self._maps = {} if maps is None else dict(maps)
        self.built: Built | None = None
        self.paper = ""  # for spikeloom.cite

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The parts that end in a feature map, from the input to the output."""
        return tuple(Stage(getattr(self, name), *rest) for name, rest in self._maps.items())

    def without_head(self) -> Model:
        """The same layers, not copies, but for the head."""
        model = Model({name: m for name, m in self.named_children() if name != "head"}, maps=self._maps)
        model.paper = self.paper
        return model

    def features(self, x: Tensor) -> Tensor:
        """The last feature map ``[N, D, h, w]`` of rows ``[N, C, H, W]``: all layers but the head."""
        for name, layer in self.named_children():
            if name != "head":
                x = layer(x)
        return x


class Neurons:
    """Makes the neurons of a model by the user's factory, and says at which path one was refused."""

    def __init__(self, model: str, factory: NeuronFactory | None, default: NeuronFactory, path: str = "") -> None:
        self._model, self._factory, self._default, self._path = model, factory, default, path
        self.make = checked(default if factory is None else factory, model)

    def at(self, path: object) -> Neurons:
        """The same below a path."""
        return Neurons(self._model, self._factory, self._default, f"{self._path}{path}.")

    def __call__(self, features: int, path: str, **place: Any) -> nn.Module:
        """The neuron at a path, for so many channels; ``place`` is what the paper sets there."""
        return neuron_by(self.make, f"{self._model}, {self._path}{path}", features, **place)

    def below(self, path: str) -> NeuronFactory:
        """A factory for a layer at a path that makes neurons itself, as attention does."""

        def made(features: int, **place: Any) -> nn.Module:
            return self(features, path, **place)

        return made


def norm_neuron(norm: nn.Module, neuron: nn.Module) -> nn.Module:
    """A batch norm and the neuron after it: one kernel where the neuron has one, for blocks with a forward."""
    if isinstance(neuron, Dynamics):
        return NormNeuron(norm, neuron)
    return nn.Sequential(OrderedDict(bn=norm, neuron=neuron))


def conv(in_channels: int, out_channels: int, size: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps height and width, but for its stride."""
    return nn.Conv2d(in_channels, out_channels, size, stride, size // 2, groups=groups, bias=False)


def pooled_head(channels: int, num_classes: int, *, size: int = 1) -> list[nn.Module]:
    """Average of ``size`` by ``size`` fields, flattened, and a linear layer unless there are no classes."""
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(size), nn.Flatten()]
    return layers + ([nn.Linear(channels * size**2, num_classes)] if num_classes else [])


def check_option(model: str, option: str, value: object, choices: Iterable[str]) -> None:
    """Raises ValueError unless an option has one of its values."""
    if value not in (known := tuple(choices)):
        raise ValueError(f"{model}: {option} must be {', '.join(known[:-1])} or {known[-1]}, got {value!r}")


def check_sizes(model: str, num_classes: int, in_channels: int) -> None:
    """Raises ValueError for a number of classes below 0 or of channels below 1."""
    if num_classes < 0:
        raise ValueError(f"{model}: num_classes must be at least 0 (0: no last layer), got {num_classes}")
    if in_channels < 1:
        raise ValueError(f"{model}: in_channels must be at least 1, got {in_channels}")
