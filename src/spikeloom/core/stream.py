"""Stream: a network in deployment, one step at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .call import State, detach

if TYPE_CHECKING:
    from .network import Network


class Stream:
    """Runs a network step by step and keeps its state.

    ``y_t = stream(x_t)`` takes and gives ``[B, *]``. ``stream.state`` is the state (None at rest; it may be
    set), ``stream.reset()`` returns to rest, ``stream.detach()`` cuts it from the graph. Feeding a sequence to a
    stream gives what the network gives for the whole sequence (in ``eval`` mode). A step of another batch size,
    dtype or device than the running state raises ValueError.

    >>> import torch
    >>> import spikeloom as sl
    >>> stream = sl.Network(sl.LIF(tau=2.0, decay_input=False)).stream()
    >>> [int(stream(torch.tensor([[0.6]]))) for _ in range(4)]
    [0, 0, 1, 0]
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.state: State = None

    def __call__(self, *x_t: Any, **kwargs: Any) -> Any:
        y, self.state = self.network.step(*x_t, state=self.state, **kwargs)
        return y

    def reset(self) -> None:
        """Returns to rest."""
        self.state = None

    def detach(self) -> None:
        """Cuts the state from the graph of earlier steps."""
        self.state = detach(self.state)
