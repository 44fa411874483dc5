"""Modules that converted networks need besides neurons: what adds up over time, and what is added once.

Total, sum:   X[t] = x[0] + ... + x[t]                  Change, sum:   y[t] = z[t] - z[t-1]
Total, mean:  X[t] = (x[0] + ... + x[t]) / (t + 1)      Change, mean:  y[t] = (t + 1) z[t] - t z[t-1]
Once:         y[t] = W x[t] + b [t = 0]
First:        y[t] = [t = 0]
Pool:         y[t] = max X[t] - max X[t-1] over each window, with X[t] = x[0] + ... + x[t]
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._time import wide
from ..core import State, TemporalModule
from ..spikes import SpikeTensor, pack

Coding = Literal["mean", "sum", "step"]


class _Running(TemporalModule):
    """What Total and Change share: how many steps there were, by sample."""

    def __init__(self, *, coding: Coding = "sum") -> None:
        super().__init__()
        if coding not in ("mean", "sum"):
            raise ValueError(f"{type(self).__name__}: coding must be mean or sum, got {coding!r}")
        self.coding = coding

    def initial_state(self, *x_t: Any) -> State:
        """Zeros of the step's shape, at least float32, and the number of steps so far, by sample."""
        x = _dense(x_t[0])
        kind = wide(x.dtype) if x.is_floating_point() else x.dtype
        return {"sum": torch.zeros_like(x, dtype=kind), "steps": x.new_zeros(x.shape[0], dtype=wide(x.dtype))}

    def _weights(self, steps: Tensor, like: Tensor) -> Tensor:
        """By what the value of a step is multiplied in its sum: 1, or the number of steps."""
        return _over(steps, like) if self.coding == "mean" else torch.ones_like(_over(steps, like))


class Total(_Running):
    """The value that a coded signal has up to each step: ``x[0] + ... + x[t]``, or its mean over ``t + 1`` steps.

    Args:
        coding: ``"sum"`` or ``"mean"``.

    Input and output are ``[T, B, *]``, of one dtype: what is no floating number (a mask, an index) is given as it is
    where values are means, and added up, or joined by or, where they are sums. The states are ``sum``, as a step, and
    ``steps`` ``[B]``.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.convert.Total().sequence(torch.tensor([[1.0], [2.0], [3.0]]))[0].flatten()
    tensor([1., 3., 6.])
    """

    def step(self, *x_t: Any, state: State = None) -> tuple[Any, State]:
        """One step of ``[B, *]``."""
        x = _dense(x_t[0])
        state = self.initial_state(x) if state is None else state
        total, steps = state["sum"] + x, state["steps"] + 1
        return self._values(x, total, steps), {"sum": total, "steps": steps}

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, *]``, without a loop."""
        if lengths is not None or record:
            return super().sequence(*xs, state=state, lengths=lengths, record=record)
        x = _dense(xs[0])
        state = self.initial_state(x[0]) if state is None else state
        kind = state["sum"].dtype  # torch adds up booleans as numbers
        total = (x.cumsum(0, dtype=kind if x.is_floating_point() else None) + state["sum"]).to(kind)
        steps = _counted(state["steps"], len(x))
        return self._values(x, total, steps), {"sum": total[-1], "steps": steps[-1]}

    def _values(self, x: Tensor, total: Tensor, steps: Tensor) -> Tensor:
        if x.is_floating_point():
            return (total / self._weights(steps, total)).to(x.dtype)
        return x if self.coding == "mean" else total


class Change(_Running):
    """What has to be sent so that a signal has the values ``z``: the inverse of :class:`Total`.

    Args:
        coding: ``"sum"`` or ``"mean"``.

    Input and output are ``[T, B, *]``. The states are ``sum``, what was sent so far, and ``steps`` ``[B]``. Raises
    TypeError for values that are no floating numbers, as a mask, of which there are no changes to send.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.convert.Change().sequence(torch.tensor([[1.0], [3.0], [6.0]]))[0].flatten()
    tensor([1., 2., 3.])
    """

    def step(self, *x_t: Any, state: State = None) -> tuple[Any, State]:
        """One step of ``[B, *]``."""
        z = self._checked(x_t[0])
        state = self.initial_state(z) if state is None else state
        steps = state["steps"] + 1
        total = z.to(state["sum"].dtype) * self._weights(steps, z)
        return (total - state["sum"]).to(z.dtype), {"sum": total, "steps": steps}

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, *]``, without a loop."""
        if lengths is not None or record:
            return super().sequence(*xs, state=state, lengths=lengths, record=record)
        z = self._checked(xs[0])
        state = self.initial_state(z[0]) if state is None else state
        steps = _counted(state["steps"], len(z))
        total = z.to(state["sum"].dtype) * self._weights(steps, z)
        changes = torch.cat([total[:1] - state["sum"], total[1:] - total[:-1]])
        return changes.to(z.dtype), {"sum": total[-1], "steps": steps[-1]}

    @staticmethod
    def _checked(x: Any) -> Tensor:
        z = _dense(x)
        if not z.is_floating_point():
            raise TypeError(
                f"Change: the changes of {z.dtype} values cannot be sent; make what computes them and what uses them "
                "one module with a rule"
            )
        return z


class Difference(nn.Sequential):
    """Any function on a coded signal, exact at every step: ``Total``, the function, ``Change``.

    Args:
        function: a module that treats samples one by one; it sees the value that the signal has so far.
        coding: ``"sum"`` or ``"mean"``.

    The sum (or mean) of the outputs up to any step is the function of the sum (mean) of the inputs, however the input
    is spread over time. It is dense arithmetic at each step. It belongs into a Network.

    >>> import torch
    >>> import spikeloom as sl
    >>> x = torch.rand(5, 2, 8)
    >>> y = sl.Network(sl.convert.Difference(torch.nn.GELU()))(x)
    >>> torch.allclose(y.sum(0), torch.nn.functional.gelu(x.sum(0)), atol=1e-6)
    True
    """

    def __init__(self, function: nn.Module, *, coding: Coding = "sum") -> None:
        super().__init__(Total(coding=coding), function, Change(coding=coding))


class First(TemporalModule):
    """1 at the first step of a sequence and 0 at the others, ``[T, B, 1, ...]`` with the dimensions of the input.

    A constant is multiplied by it where the coded value is a sum, so that it is added once.

    >>> import torch
    >>> import spikeloom as sl
    >>> sl.convert.First().sequence(torch.rand(3, 1, 4))[0].flatten()
    tensor([1., 0., 0.])
    """

    def initial_state(self, *x_t: Any) -> State:
        """Whether a step was run, by sample."""
        x = _dense(x_t[0])
        return {"begun": x.new_zeros(x.shape[0])}

    def step(self, *x_t: Any, state: State = None) -> tuple[Any, State]:
        """One step of ``[B, *]``."""
        x = _dense(x_t[0])
        begun = self.initial_state(x)["begun"] if state is None else state["begun"]
        return _over(1 - begun, x), {"begun": torch.ones_like(begun)}


class Once(First):
    """A layer with a bias that is added at the first step alone: ``y[t] = W x[t] + b [t = 0]``.

    Args:
        layer: ``nn.Linear`` or a convolution of torch.nn, with its parameters, which keep their names.

    The sum over time of the outputs is then the layer of the sum of the inputs.

    >>> import torch
    >>> import spikeloom as sl
    >>> layer, x = torch.nn.Linear(3, 2), torch.rand(4, 5, 3)
    >>> y, _ = sl.convert.Once(layer).sequence(x)
    >>> torch.allclose(y.sum(0), layer(x.sum(0)), atol=1e-6)
    True
    """

    opaque = True

    def __init__(self, layer: Any) -> None:
        super().__init__()
        if type(layer) not in _FUNCTIONS:
            raise TypeError(f"Once: expected one of {', '.join(k.__name__ for k in _FUNCTIONS)}, got {layer!r:.60}")
        self.weight: Tensor = layer.weight
        self.bias: Tensor | None = layer.bias
        self._function = _FUNCTIONS[type(layer)]
        self._options = {name: getattr(layer, name) for name in _OPTIONS if hasattr(layer, name)}
        self._border: tuple[Any, str] | None = None
        if self._function == "linear":
            self._options = {}
        elif self._function.startswith("conv_transpose"):
            self._options["output_padding"] = layer.output_padding
            if layer.padding_mode != "zeros":
                raise TypeError(f"Once: {layer!r} has a padding mode, which its forward does not allow")
        elif layer.padding_mode != "zeros":
            self._border = tuple(layer._reversed_padding_repeated_twice), str(layer.padding_mode)
            self._options["padding"] = 0

    def _without_bias(self, x: Tensor) -> Tensor:
        if self._border is not None:
            x = functional.pad(x, self._border[0], mode=self._border[1])
        y: Tensor = getattr(functional, self._function)(x, self.weight, None, **self._options)
        return y

    def _bias(self, like: Tensor) -> Tensor:
        bias = self.bias
        assert bias is not None
        return bias if self._function == "linear" else bias.view(-1, *(1,) * (like.ndim - 2))

    def step(self, *x_t: Any, state: State = None) -> tuple[Any, State]:
        """One step of ``[B, *]``."""
        first, state = super().step(x_t[0], state=state)
        y = self._without_bias(_dense(x_t[0]))
        return (y if self.bias is None else y + self._bias(y) * _over(first.flatten(), y)), state

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, *]`` in one call of the layer."""
        if lengths is not None or record:
            return super().sequence(*xs, state=state, lengths=lengths, record=record)
        x = _dense(xs[0])
        begun = self.initial_state(x[0])["begun"] if state is None else state["begun"]
        y = self._without_bias(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        if self.bias is not None:
            first = y[:1] + self._bias(y[0]) * _over(1 - begun, y[0])
            y = torch.cat([first, y[1:]])
        return y, {"begun": torch.ones_like(begun)}

    def extra_repr(self) -> str:
        return f"{self._function}, weight={tuple(self.weight.size())}, bias={self.bias is not None}"


class Pool(TemporalModule):
    """Max pooling of spike trains: of each window, the spikes of the input that has sent the most so far.

    Args:
        kernel_size, stride, padding, dilation, ceil_mode: as those of ``nn.MaxPool2d``.
        dims: 1, 2 or 3 dimensions of space.

    It sends ``max X[t] - max X[t-1]``, where X is what each input has sent, so that what it has sent is at each step
    the largest of these sums. Where spikes are 0 and 1 its output is too: it is the gate of Rueckauer et al. where
    the last winner stays among inputs with equal sums. (With any other choice inputs of about the same rate would
    pass spikes in turn, more than each of them has.) Input and output are ``[T, B, C, *]``; the state ``sum``, at least
    float32, is X. Rueckauer et al., Conversion of continuous-valued deep networks to efficient event-driven networks,
    Frontiers in Neuroscience 11, 2017.

    >>> import torch
    >>> import spikeloom as sl
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]).view(3, 1, 1, 2)
    >>> sl.convert.Pool(2, dims=1).sequence(x)[0].flatten()
    tensor([1., 0., 1.])
    """

    paper = "Rueckauer et al., Conversion of Continuous-Valued Deep Networks, Frontiers in Neuroscience 11, 2017"

    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] | None = None,
        padding: int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        *,
        ceil_mode: bool = False,
        dims: int = 2,
    ) -> None:
        super().__init__()
        if dims not in (1, 2, 3):
            raise ValueError(f"Pool: dims must be 1, 2 or 3, got {dims}")
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.ceil_mode, self.dims = ceil_mode, dims

    def initial_state(self, *x_t: Any) -> State:
        """Nothing sent yet."""
        x = _dense(x_t[0])
        return {"sum": torch.zeros_like(x, dtype=wide(x.dtype))}

    def _largest(self, total: Tensor) -> Tensor:
        """The largest total of each window of ``[B, C, *]``."""
        pool = getattr(functional, f"max_pool{self.dims}d")
        options = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        found: Tensor = pool(total, self.kernel_size, **options, ceil_mode=self.ceil_mode)
        return found

    def step(self, *x_t: Any, state: State = None) -> tuple[Any, State]:
        """One step of ``[B, C, *]``."""
        x = _dense(x_t[0])
        before = self.initial_state(x)["sum"] if state is None else state["sum"]
        total = before + x
        return _like(x_t[0], (self._largest(total) - self._largest(before)).to(x.dtype)), {"sum": total}

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """All steps of ``[T, B, C, *]``, without a loop."""
        if lengths is not None or record:
            return super().sequence(*xs, state=state, lengths=lengths, record=record)
        x = _dense(xs[0])
        before = self.initial_state(x[0])["sum"] if state is None else state["sum"]
        total = torch.cat([before.unsqueeze(0), x.to(before.dtype)]).cumsum(0)
        largest = self._largest(total.flatten(0, 1)).unflatten(0, total.shape[:2])
        return _like(xs[0], largest.diff(dim=0).to(x.dtype)), {"sum": total[-1]}


_FUNCTIONS: dict[type[nn.Module], str] = {
    nn.Linear: "linear",
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv_transpose1d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d",
}
_OPTIONS = ("stride", "padding", "dilation", "groups")
AFFINE = tuple(_FUNCTIONS)
"""The layers that :class:`Once` takes."""


def _dense(x: Any) -> Tensor:
    return x.unpack() if isinstance(x, SpikeTensor) else x


def _like(x: Any, y: Tensor) -> Tensor:
    return pack(y) if isinstance(x, SpikeTensor) else y


def _over(per_sample: Tensor, like: Tensor) -> Tensor:
    """``[.., B]`` with dimensions of size 1 behind, as many as ``like`` has."""
    return per_sample.reshape(*per_sample.shape, *(1,) * (like.ndim - per_sample.ndim))


def _counted(steps: Tensor, T: int) -> Tensor:
    """The numbers ``[T, B]`` of the next T steps."""
    return steps + torch.arange(1, T + 1, dtype=steps.dtype, device=steps.device).unsqueeze(1)
