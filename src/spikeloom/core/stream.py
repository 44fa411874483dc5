"""Stream: a network in deployment, one step at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from .call import State, detach

if TYPE_CHECKING:
    from .network import Network


class Stream:
    """Runs a network step by step and keeps its state.

    Call :meth:`refresh` after writing to weights through ``.data``, through NumPy or from another process: nobody can
    see that. Everything else is seen by the next step (optimisers, ``load_state_dict``, in-place operations, new
    tensors, numbers of neurons, options, modes, layers).

    ``y_t = stream(x_t)`` takes and gives ``[B, *]``. ``stream.state`` is the state (None at rest; it may be
    set), ``stream.reset()`` returns to rest, ``stream.detach()`` cuts it from the graph. Feeding a sequence to a
    stream gives what the network gives for the whole sequence (in ``eval`` mode). A step of another batch size,
    dtype or device than the running state raises ValueError.

    Where the body is an ``nn.Sequential``, in ``eval`` mode, on a CPU and without gradients, steps are prepared: what
    runs where in memory is decided once, and what layers of bits read of their weights is copied.

    >>> import torch
    >>> import spikeloom as sl
    >>> stream = sl.Network(sl.LIF(tau=2.0, decay_input=False)).stream()
    >>> [int(stream(torch.tensor([[0.6]]))) for _ in range(4)]
    [0, 0, 1, 0]
    """

    prepared: ClassVar[Callable[[], Any] | None] = None
    """Makes what runs steps faster where it can; see :mod:`spikeloom.prepared`."""

    def __init__(self, network: Network) -> None:
        network.check_causal("be streamed")
        self.network = network
        self.state: State = None
        self._steps = None if Stream.prepared is None else Stream.prepared()

    def __call__(self, *x_t: Any, **kwargs: Any) -> Any:
        if self._steps is not None and len(x_t) == 1 and not kwargs:
            found = self._steps.run(self.network, x_t[0], self.state)
            if found is not None:
                y, self.state = found
                return y
        y, self.state = self.network.step(*x_t, state=self.state, **kwargs)
        return y

    def reset(self) -> None:
        """Returns to rest."""
        self.state = None

    def refresh(self) -> None:
        """Reads all weights again at the next step."""
        if self._steps is not None:
            self._steps.refresh()

    def detach(self) -> None:
        """Cuts the state from the graph of earlier steps."""
        self.state = detach(self.state)
