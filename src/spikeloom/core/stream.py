"""Stream: a temporal module in deployment, one step at a time."""

from __future__ import annotations

import warnings
from typing import Any

from .call import State, autocasts, detach, in_dtypes_of
from .module import TemporalModule
from .steps import Steps


class Stream:
    """Runs a network, or any other temporal module, step by step and keeps its state.

    Call :meth:`refresh` after writing to weights through ``.data``, through NumPy or from another process: nobody can
    see that. Everything else is seen by the next step (optimisers, ``load_state_dict``, in-place operations, new
    tensors, numbers of neurons, options, modes, layers).

    ``y_t = stream(x_t)`` takes and gives ``[B, *]``. ``stream.state`` is the state (None at rest; it may be
    set), ``stream.reset()`` returns to rest, ``stream.detach()`` cuts it from the graph. Feeding a sequence to a
    stream gives what the module gives for the whole sequence (in ``eval`` mode). A step of another batch size,
    dtype or device than the running state raises ValueError, and so does a module that is not causal.

    In ``eval`` mode, on a CPU and without gradients, steps of a neuron and of a network whose body is an
    ``nn.Sequential`` are prepared: what runs where in memory is decided once, and what layers of bits read of their
    weights is copied. ``stream.prepared`` tells whether the last step was one.

    >>> import torch
    >>> import spikeloom as sl
    >>> stream = sl.Stream(sl.LIF(tau=2.0, decay_input=False))  # the same as sl.Network(...).stream()
    >>> [int(stream(torch.tensor([[0.6]]))) for _ in range(4)]
    [0, 0, 1, 0]
    """

    def __init__(self, module: TemporalModule) -> None:
        module = getattr(module, "_orig_mod", module)  # what torch.compile gives has the step of what it was given
        if not isinstance(module, TemporalModule):
            raise TypeError(
                f"Stream: expected a network or another temporal module, got {type(module).__name__}; wrap plain "
                "layers, sl.Stream(sl.Network(model))"
            )
        module.check_causal("be streamed")
        self.module = module
        self.state: State = None
        self.prepared = False
        self._steps = Steps()

    def __call__(self, *x_t: Any, **kwargs: Any) -> Any:
        found = self._steps.run(self.module, x_t[0], self.state) if len(x_t) == 1 and not kwargs else None
        self.prepared = found is not None
        if found is not None:
            y, self.state = found
            return y
        before = self.state
        if before is not None:
            self.module.check_state(before, *x_t)
        y, new = self.module.step(*x_t, state=before, **kwargs)
        if autocasts(x_t):
            new = in_dtypes_of(self.module.initial_state(*x_t) if before is None else before, new)
        self.state = new
        return y

    @property
    def network(self) -> TemporalModule:
        """The older name of ``module``."""
        warnings.warn("Stream.network is called Stream.module now", DeprecationWarning, stacklevel=2)
        return self.module

    def reset(self) -> None:
        """Returns to rest."""
        self.state = None

    def refresh(self) -> None:
        """Reads all weights again at the next step."""
        self._steps.refresh()

    def detach(self) -> None:
        """Cuts the state from the graph of earlier steps."""
        self.state = detach(self.state)
