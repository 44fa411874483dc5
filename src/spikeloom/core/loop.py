"""Loop: any module, step by step, inside a network. Slow and exact."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .call import Call, State, activate, active
from .module import TemporalModule, check_steps, run_steps
from .paths import temporal_paths


class Loop(TemporalModule):
    """Calls ``module`` once per step, so that layers inside it may feed back into each other.

    Neurons inside ``module`` are called like layers, on ``[B, *]``. For feedback, let ``module`` be a
    :class:`TemporalModule` whose state is what comes back:

    >>> import torch
    >>> import spikeloom as sl
    >>> class Feedback(sl.TemporalModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.up, self.back = torch.nn.Linear(3, 5), torch.nn.Linear(5, 5)
    ...         self.neuron = sl.LIF()
    ...     def initial_state(self, x_t):
    ...         return x_t.new_zeros(x_t.shape[0], 5)
    ...     def step(self, x_t, state=None):
    ...         last = self.initial_state(x_t) if state is None else state
    ...         y = self.neuron(self.up(x_t) + self.back(last))
    ...         return y, y
    >>> net = sl.Network(sl.Loop(Feedback()), torch.nn.Linear(5, 2))
    >>> net(torch.rand(6, 4, 3)).shape
    torch.Size([6, 4, 2])

    The state is a dictionary with the state of each temporal module inside, by path.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        temporal_paths(module)  # refuses what cannot run inside a network
        check_steps(self)

    def check_state(self, state: State, *x_t: Any) -> None:
        """The modules inside check their own states when they run."""

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """``module`` at each step of ``[T, B, *]``: ``(y, state)``."""
        self.check_record(record)
        check_steps(self)
        outer = active()
        paths = outer.paths if outer is not None and self in outer.paths else temporal_paths(self.module)
        origin, recorder = (None, None) if outer is None else (outer.origin, outer.recorder)

        def step(x_t: tuple[Any, ...], incoming: State) -> tuple[Any, State]:
            B = pytree.tree_leaves(x_t)[0].shape[0]
            call = Call(1, B, paths=paths, incoming=incoming, stepping=True, recorder=recorder, origin=origin)
            with activate(call):
                y = self.module(*x_t)
            call.check_all_used()
            call.check_tree(y, f"output of {type(self.module).__name__} in a Loop")
            return y, call.outgoing

        return run_steps(step, xs, state, lengths)
