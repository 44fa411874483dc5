"""A stand-in for CUDA graphs on a CPU: it records operators with their tensors, and runs them again where they lie.

As a graph does, recording computes nothing that lasts, a replay writes all results anew (and fills them with NaN
before, so that nobody reads what an earlier replay has left), and what waits for the device or makes a tensor of
Python's numbers raises. Kernels in C are no operators and would not be recorded: use ``sl.backend("eager")``.
"""

import contextlib

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from spikeloom.core import replay

_WAITING = {  # operators that copy to the host, or from it
    "aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::item", "aten::lift_fresh",
    "aten::_to_copy.to_host",
}  # fmt: skip


def _is_number(x):
    """Numbers of neurons, which would be on the host if there were a device."""
    return isinstance(x, torch.Tensor) and x.dtype == torch.float64 and x.ndim == 0


def _has_wrappers(types):
    return any(kind not in (torch.Tensor, torch.nn.Parameter) for kind in types)


class _Refuse(TorchDispatchMode):
    """Raises where an operator waits for the device."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if _has_wrappers(types):
            return NotImplemented
        name = operator._schema.name
        if name in _WAITING and not _is_number(args[0]):
            raise replay.RecordError(f"{name} waits for the device")
        return operator(*args, **(kwargs or {}))


class _Record(_Refuse):
    def __init__(self):
        super().__init__()
        self.calls = []  # operator, arguments, results that are memory of this recording
        self.made = {}  # by the address of a storage: tensors that were made here
        self.written = {}  # the same of others, with what they held

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if _has_wrappers(types):  # spikes of one bit say by which operators they are computed with
            return NotImplemented
        kwargs = kwargs or {}
        arguments = [*zip(operator._schema.arguments, args, strict=False)]
        arguments += [(a, kwargs[a.name]) for a in operator._schema.arguments if a.name in kwargs]
        for about, value in arguments:
            if about.alias_info is not None and about.alias_info.is_write:
                for x in pytree.tree_leaves(value):
                    if isinstance(x, torch.Tensor) and _address(x) not in self.made:
                        self.written.setdefault(_address(x), (x, x.clone()))
        results = super().__torch_dispatch__(operator, types, args, kwargs)
        given = {_address(x) for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        fresh = [
            x if isinstance(x, torch.Tensor) and _address(x) not in given else None for x in pytree.tree_leaves(results)
        ]
        self.made.update({_address(x): x for x in fresh if x is not None})
        self.calls.append((operator, args, kwargs, fresh))
        return results


def _address(x):
    return x.untyped_storage().data_ptr()


class StandIn:
    """Records on the CPU. ``replays`` counts, ``begun`` counts recordings."""

    count = 0  # of recordings, by all of them

    def __init__(self, device):
        self.device, self.replays = device, 0
        self._all = []

    def warm(self, run, *, checked):
        with _Refuse() if checked else contextlib.nullcontext():
            return run()

    def record(self, run):
        StandIn.count += 1
        with _Record() as recorded:
            found = run()
        with torch.no_grad():
            for x, before in recorded.written.values():
                x.data.copy_(before)  # by data: no version moves, as none does in a graph
        _poison(recorded)
        self._all.append(recorded)

        def launch():
            self.replays += 1
            _poison(recorded)
            with torch.no_grad():
                for operator, args, kwargs, fresh in recorded.calls:
                    results = pytree.tree_leaves(operator(*args, **kwargs))
                    for memory, result in zip(fresh, results, strict=True):
                        if memory is not None:
                            memory.data.copy_(result)

        return found, launch

    def enter(self):
        pass

    def random_state(self):
        return torch.get_rng_state()

    def set_random_state(self, state):
        torch.set_rng_state(state)


def _poison(recorded):
    with torch.no_grad():
        for x in recorded.made.values():
            if x.is_floating_point():
                x.data.fill_(float("nan"))


@contextlib.contextmanager
def recording():
    """Within it, calls of what ``sl.graphed`` gives, and steps of streams, are recorded on the CPU, as the loop."""
    import spikeloom as sl

    replay.RECORDERS["cpu"] = StandIn
    try:
        with sl.backend("eager"):
            yield
    finally:
        del replay.RECORDERS["cpu"]
