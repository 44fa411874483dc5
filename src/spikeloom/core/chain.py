"""chain: the prepared step of layers that run one after the other, as a network's ``nn.Sequential`` does.

Between layers memory is used again by each step; outputs and states are new tensors. Each layer is prepared on what
the one before it gives, in the first step:

- a temporal module answers :meth:`spikeloom.TemporalModule.prepared`, with the layer before it where it may absorb it;
- a layer without time that gives another view of memory gives that view once;
- a tensor of a class of its own, such as spikes of one bit, answers ``x.prepared(layer)``: how the layer computes from
  it where it lies;
- any other layer is called, and is given copies where it is not torch's own: it may keep what it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..keys.code import is_fixed_class
from .call import Call, activate
from .prepared import Kept, Prepared, UnfitError, prepare

_Step = Callable[[Any], Any]
_VIEWS = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class Chain(Prepared):
    """Layers and the keys of their states, "" for a layer without time.

    Args:
        layers: in the order in which they run.
        call: the call that runs while they do.
        fuse: whether a temporal module may absorb the layer before it.
        facts: as in :class:`Prepared`, for whoever has the layers.
    """

    def __init__(
        self, layers: list[tuple[nn.Module, str]], *, call: Call, fuse: bool, facts: Callable[[], Any]
    ) -> None:
        super().__init__(self._run, facts=facts)
        self._layers, self._call, self._fuse = layers, call, fuse
        self._keys = {key for _, key in layers if key}
        self._steps: list[_Step] = []
        self._kept = Kept()
        self._incoming: Any = None
        self._outgoing: dict[str, Any] = {}

    def _run(self, x: Any, state: Any) -> tuple[Any, dict[str, Any]]:
        if not (state is None or (isinstance(state, dict) and state.keys() == self._keys)):
            raise UnfitError
        self._incoming, self._outgoing = state, {}
        with activate(self._call):
            if self._steps:
                for step in self._steps:
                    x = step(x)
            else:
                x = self._begin(x)
                self._call.check_tree(x, "output")
        return self._kept.own(x), self._outgoing

    def _begin(self, x: Any) -> Any:
        """Prepares the layers while they run for the first time."""
        steps: list[_Step] = []
        i, n = 0, len(self._layers)
        while i < n:
            layer, key = self._layers[i]
            after, its_key = self._layers[i + 1] if self._fuse and i + 1 < n else (None, "")
            both = None
            if its_key and not key:
                both = prepare(after, x, previous=layer, last=i + 2 == n)
            if both is not None:
                i, step = i + 1, self._temporal(after, its_key, both)
            elif key:
                step = self._temporal(layer, key, prepare(layer, x, last=i + 1 == n))
            else:
                step = self._plain(layer, x)
            x = step(x)
            # Of a layer of torch's its rows were looked at just now, and all inputs have the shape of this one.
            steps.append(step.forward if isinstance(step, nn.Module) else step)
            i += 1
        self._steps = steps
        return x

    def _adopt(self, made: Prepared) -> Callable[..., Any]:
        self.parts += made.parts
        if made.output is not None:
            self._kept.add(made.output)
        return made.step

    def _temporal(self, layer: Any, key: str, made: Prepared | None) -> _Step:
        """A temporal module with its state; without a prepared step its own runs, which may keep what it is given."""
        if made is None:

            def run(x: Any, state: Any) -> Any:
                return layer.step(self._kept.own(x), state=state)
        else:
            run = self._adopt(made)

        def step(x: Any) -> Any:
            state = None if self._incoming is None else self._incoming[key]
            if state is not None:
                layer.check_state(state, x)
            y, self._outgoing[key] = run(x, state)
            return y

        return step

    def _plain(self, layer: nn.Module, x: Any) -> _Step:
        """A layer without time."""
        made: Prepared | None = None
        if isinstance(x, Tensor) and self._kept.holds(x):
            if type(layer) in _VIEWS:
                seen = layer(x)
                made = Prepared(lambda _: seen, reads=(layer,)) if self._kept.holds(seen) else None
            elif (answer := getattr(x, "prepared", None)) is not None:
                made = answer(layer)
        if made is not None:
            return self._adopt(made)
        if is_fixed_class(type(layer)):
            return layer
        return lambda value: layer(self._kept.own(value))
