"""Network: runs plain layers over time by folding it into the batch."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .._hooks import transformed
from .._time import check_lengths
from .arguments import check_arguments
from .call import (
    BATCH_FIRST,
    REPEATED,
    STEP,
    TIME_FIRST,
    Call,
    Layout,
    Origin,
    Result,
    State,
    activate,
    active,
    map_tensors,
    plain,
)
from .chain import Chain
from .joining import Norms, promising
from .layers import has_prefix, layers_of, run_layers, run_prefix, runs_layers
from .module import TemporalModule, check_causal, sequence_size
from .paths import temporal_paths
from .places import check_seen, looking, recorder_of
from .prepared import Prepared
from .promise import Waiting
from .replace import Replacement
from .stream import Stream
from .watch import all_inside
from .weights import check_something_was_loaded, in_body


class static:  # noqa: N801  # a marker that reads like a function at the call
    """Marks a positional argument of a Network that has no time dimension: it is passed on as it is.

    >>> import torch
    >>> import spikeloom as sl
    >>> class Scaled(torch.nn.Module):
    ...     def forward(self, x, gain):
    ...         return x * gain
    >>> sl.Network(Scaled())(torch.ones(2, 1, 3), sl.static(torch.tensor(5.0)))[1]
    tensor([[5., 5., 5.]])
    """

    def __init__(self, value: Any) -> None:
        self.value = value


class Network(TemporalModule):
    """Runs a model of plain layers and temporal modules on sequences.

    Args:
        modules: one module, or several that run one after another (``nn.Sequential``; an ``OrderedDict`` too).
        batch_first: take and give ``[B, T, *]`` instead of ``[T, B, *]``.
        static_prefix: compute the layers before the first temporal module once, not T times, when the input
            is the same at every step (see below).
        fuse: compute a batch norm and the neuron after it in one kernel where possible (see below).
        spikes: ``"packed"`` hands the spikes of neurons on as a :class:`spikeloom.SpikeTensor` of one bit each, which
            is what autograd then saves. Neurons whose output is not binary stay dense, and so do small single steps and
            what ``torch.compile`` traces without ``fullgraph=True``; a compiled network's outputs are dense.

    ``y = net(x)`` runs ``x`` ``[T, B, *]`` from rest. Plain layers see ``[T*B, *]``, temporal modules
    ``[T, B, *]``. Nothing is kept between calls, so there is nothing to reset.

    * ``net(image, repeat=T)`` presents ``[B, *]`` at each of T steps (direct coding).
    * ``y, result = net(x, return_state=True, state=previous)`` carries the state on.
    * ``y, result = net(x, record=("2.v", "0.input"))`` also gives values at places: ``<path>.input`` and
      ``<path>.output`` of any module, ``<path>.<state>`` of temporal ones and ``<path>.u``, what ``fire`` of a neuron
      was given, with wildcards.
    * ``net(x, lengths=n)`` runs a ragged batch: only valid steps are computed, outputs past them are 0.
    * Keyword arguments and ``sl.static(...)`` reach the model as they are; pytrees go in and out.

    Where the model is an ``nn.Sequential`` (of Sequentials) and the input does not change over time (``repeat``, or one
    step expanded whose gradients nobody asks for), the leading layers that treat rows one by one run once on ``[B,
    *]``; batch norm's running variance then counts B samples, if there is more than one value per channel.
    A batch norm directly before a neuron there becomes part of the neuron's kernel, if neither has hooks and no hooks
    are registered for all modules. In a model with a forward of its own so does a batch norm of at least 131,072 values
    whose output is given to neurons alone: until somebody needs that, it is not computed. Smaller ones are joined by
    :class:`spikeloom.nn.NormNeuron`. ``fuse=False`` has every norm run by itself.

    What is returned, and what one step returns:

    ==========================================  =======================================================
    ``net(x)``                                  ``y``
    ``net(x, return_state=True)``               ``(y, Result)``; ``Result.record`` is empty
    ``net(x, record=names)``                    ``(y, Result)`` with both
    ``net.step(x_t)``                           ``(y_t, state)``
    ``net.step(x_t, record=names)``             ``(y_t, state, {name: [B, *]})``
    ``net.sequence(x)``                         ``(y, state)``, time first whatever ``batch_first`` says
    ``net.sequence(x, record=names)``           ``(y, state, {name: [T, B, *]})``
    ``net.stream()(x_t)``                       ``y_t``; its state is ``stream.state``
    inside another network's call               ``y``: the network is transparent there
    ==========================================  =======================================================

    A wildcard (``"*.v"``, ``"block.*"``) fits every module; temporal modules that another one runs alone (the neuron in
    :class:`spikeloom.nn.Recurrent`) only where the wildcard stands behind the path of that one. A value between a norm
    and the neuron that it joins is in the graph only where they run one after the other: they do so in that call. To
    look on without that, and over many calls, there is :func:`spikeloom.taps`.

    Raises TypeError for modules that mix rows of a batch (``nn.LSTM`` without ``batch_first=True``, ...), and when it
    runs ValueError for layers of torch.nn that are given rows without batch dimension (``nn.LSTM`` on ``[T, B, F]``).
    Functions in a forward of your own are not looked at.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Linear(4, 3), sl.LIF())
    >>> net(torch.rand(10, 2, 4)).shape
    torch.Size([10, 2, 3])
    """

    transparent = True
    not_carried = ("batch_first", "static_prefix", "fuse", "spikes")

    def constants(self) -> dict[str, Any]:
        """Those of a subclass; a network has none, whatever it is given to remember (``net.epoch = 3``)."""
        return {} if type(self) is Network else super().constants()

    def __init__(
        self,
        *modules: nn.Module,
        batch_first: bool = False,
        static_prefix: bool = True,
        fuse: bool = True,
        spikes: Literal["dense", "packed"] = "dense",
    ) -> None:
        super().__init__()
        if spikes not in ("dense", "packed"):
            raise ValueError(f"Network: spikes must be dense or packed, got {spikes!r}")
        if not modules:
            raise TypeError("Network needs at least one module")
        for given in modules:
            if not isinstance(given, (nn.Module, OrderedDict)):
                raise TypeError(f"Network takes modules, such as nn.Linear(4, 3), sl.LIF(); got {_described(given)}")
        if len(modules) > 1 or isinstance(modules[0], (OrderedDict, TemporalModule)):
            self.body: nn.Module = nn.Sequential(*modules)
        else:
            self.body = modules[0]
        self.batch_first = batch_first
        self.static_prefix = static_prefix
        self.fuse = fuse
        self.spikes = spikes
        self._structure: tuple[list[nn.Module], dict[TemporalModule, str], Norms] | None = None
        self._paths()

    def forward(
        self,
        *args: Any,
        state: Mapping[str, State] | None = None,
        lengths: Tensor | None = None,
        repeat: int | None = None,
        record: tuple[str, ...] = (),
        return_state: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Runs the network; the class says what is returned in which case."""
        if active() is not None:
            if state is not None or lengths is not None or repeat is not None or record or return_state:
                raise TypeError("options of a Network inside another network's call: give them to the outer call")
            return self.body(*args, **kwargs)
        layout = REPEATED if repeat is not None else BATCH_FIRST if self.batch_first else TIME_FIRST
        y, call = self._run(args, kwargs, layout, state=state, lengths=lengths, repeat=repeat, record=record)
        if self.batch_first:
            y = map_tensors(_swap, y)
        return (y, Result(call.outgoing, call.recorded())) if return_state or record else y

    def sequence(
        self, *xs: Any, state: State = None, lengths: Tensor | None = None, record: tuple[str, ...] = ()
    ) -> tuple[Any, ...]:
        """As a temporal module: ``[T, B, *]`` in and out whatever ``batch_first`` says."""
        y, call = self._run(xs, {}, TIME_FIRST, state=state, lengths=lengths, repeat=None, record=record)
        return (y, call.outgoing, call.recorded()) if record else (y, call.outgoing)

    def step(self, *x_t: Any, state: State = None, record: tuple[str, ...] = (), **kwargs: Any) -> tuple[Any, ...]:
        """One step on ``[B, *]``: ``(y_t, state)``, and the recordings where ``record`` names some.

        Other keyword arguments reach the model.
        """
        paths = self._paths()
        _check_causal(paths, "run step by step")
        if kwargs and not torch.compiler.is_compiling():
            check_arguments("Network.step", "state, record", self.body, kwargs)
        given = tuple(x for x in x_t if not isinstance(x, static))
        _, B = sequence_size(given, "Network.step", STEP)
        origin = Origin(self.body, STEP, _shapes(given))
        recorder, wanted = recorder_of(self, record, batch_first=False)
        packed = self.spikes == "packed"
        call = Call(1, B, paths=paths, incoming=state, recorder=recorder, stepping=True, packed=packed, origin=origin)
        with activate(call), looking(recorder, call):
            y = self.body(*(x.value if isinstance(x, static) else x for x in x_t), **kwargs)
        call.check_all_used()
        call.check_tree(y, "output")
        check_seen(recorder, wanted)
        return (y, call.outgoing, call.recorded()) if record else (y, call.outgoing)

    def prepared(self, x: Any, *, previous: nn.Module | None = None, last: bool = True) -> Prepared | None:
        """The prepared steps of its layers; None where the body is no ``nn.Sequential``, or a layer hides others."""
        if previous is not None or not isinstance(x, Tensor) or not runs_layers(self.body):
            return None
        paths, layers, keys, seen = self._paths(), list(layers_of(self.body)), [], Counter[str]()
        if {layer for layer in layers if isinstance(layer, TemporalModule)} != set(paths):
            return None
        if not all(m.causal and type(m).forward is TemporalModule.forward for m in paths):
            return None
        for layer in layers:
            path = paths[layer] if isinstance(layer, TemporalModule) else ""
            keys.append(f"{path}#{seen[path]}" if path and seen[path] else path)
            seen[path] += 1
        origin, packed = Origin(self.body, STEP, (x.shape,)), self.spikes == "packed"
        call = Call(1, x.shape[0], paths=paths, stepping=True, packed=packed, origin=origin)
        chain = list(zip(layers, keys, strict=True))
        return Chain(chain, call=call, fuse=self.fuse, facts=lambda: (self.fuse, self.spikes))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's. Keys of the model inside are understood too, with and without ``body.``.

        Weights that say nothing of the constants of neurons, as those of an ordinary model, load with a warning. Raises
        RuntimeError, whatever ``strict`` says, where no tensor of the network is among the weights.
        """
        found = super().load_state_dict(state_dict, strict, assign)
        check_something_was_loaded(type(self).__name__, state_dict, self.state_dict(), found.missing_keys)
        return found

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        in_body(state_dict, prefix, self.body.state_dict())
        super()._load_from_state_dict(state_dict, prefix, *args)

    def temporal_modules(self) -> dict[TemporalModule, str]:
        """The temporal modules inside, with their paths: the names that states and recordings go by."""
        return dict(self._paths())

    def check_state(self, state: State, *x_t: Any) -> None:
        """The modules inside check their own states when they run."""

    def stream(self, *, training: bool = False, frozen: bool = False) -> Stream:
        """A :class:`Stream` that runs this network one step at a time and keeps the state.

        ``training`` lets a batch norm in training mode run, ``frozen`` promises that nothing changes. Raises
        ValueError, with the path, if a module inside is not causal.
        """
        return Stream(self, training=training, frozen=frozen)

    def check_causal(self, what: str) -> None:
        """Raises ValueError, with the path, if a module inside is not causal and the network is to do ``what``."""
        _check_causal(self._paths(), what)

    def _run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        layout: Layout,
        *,
        state: Mapping[str, State] | None,
        lengths: Tensor | None,
        repeat: int | None,
        record: tuple[str, ...],
    ) -> tuple[Any, Call]:
        paths = self._paths()
        if kwargs and not torch.compiler.is_compiling():
            check_arguments("Network", "state, lengths, repeat, record, return_state", self.body, kwargs)
        if state is not None:
            _check_causal(paths, "continue from a state")
            if not isinstance(state, Mapping):
                raise TypeError(f"state takes states by the names of modules, as result.state; got {_kind(state)}")
        sequences = tuple(a for a in args if not isinstance(a, static))
        origin = Origin(self.body, layout, _shapes(sequences))
        T, B = sequence_size(sequences, "Network", layout)
        if repeat is not None:
            T = _check_repeat(repeat)
        if layout is BATCH_FIRST:
            args = tuple(a if isinstance(a, static) else map_tensors(_swap, a) for a in args)
        if lengths is not None:
            lengths = check_lengths(lengths, T, B)
            lengths = None if bool((lengths == T).all()) else lengths.to(_device(sequences))
        recorder, wanted = recorder_of(self, record, batch_first=layout is BATCH_FIRST)
        call = Call(
            T,
            B,
            paths=paths,
            incoming=state,
            lengths=lengths,
            recorder=recorder,
            packed=self.spikes == "packed",
            fuse=self.fuse,
            waiting=self._waiting(lengths),
            origin=origin,
        )
        with activate(call), looking(recorder, call), promising(call):
            y = self._body(call, args, kwargs, repeat)
        call.check_all_used()
        check_seen(recorder, wanted)
        y = call.unfold_tree(y, "output")
        return map_tensors(plain, y) if call.traced else y, call

    def _body(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], repeat: int | None) -> Any:
        layered = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and runs_layers(self.body)
        if layered and self.static_prefix and call.lengths is None and has_prefix(self.body, call):
            x = args[0]
            once = x if repeat is not None else x[0] if call.T > 1 and _still(x) else None
            if once is not None:
                return run_prefix(self.body, once, call)
        if repeat is not None:
            T = call.T
            args = tuple(a if isinstance(a, static) else map_tensors(lambda t: t.expand(T, *t.shape), a) for a in args)
        inputs = tuple(a.value if isinstance(a, static) else call.fold_tree(a) for a in args)
        return run_layers(self.body, inputs[0], call) if layered else self.body(*inputs, **kwargs)

    def structure(self) -> tuple[list[nn.Module], dict[TemporalModule, str], Norms]:
        """All modules inside, the temporal ones with their paths, and batch norms that may wait for neurons; the same
        object until the structure changes.
        """
        modules = all_inside(self.body)
        plan = self._structure
        if (
            plan is None
            or len(plan[0]) != len(modules)
            or any(a is not b for a, b in zip(plan[0], modules, strict=True))
        ):
            plan = self._structure = (modules, temporal_paths(self.body), Norms(self.body))
        return plan

    def _paths(self) -> dict[TemporalModule, str]:
        return temporal_paths(self.body) if torch.compiler.is_compiling() else self.structure()[1]

    def _waiting(self, lengths: Tensor | None) -> Waiting | None:
        if torch.compiler.is_compiling() or not self.fuse or lengths is not None:
            return None
        return None if self._structure is None else self._structure[2].of_call()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_structure": None}

    def extra_repr(self) -> str:
        options = {"batch_first=True": self.batch_first, "spikes='packed'": self.spikes == "packed"}
        return ", ".join(name for name, given in options.items() if given)


def _check_causal(paths: Mapping[TemporalModule, str], what: str) -> None:
    for module, path in paths.items():
        check_causal(module, path, what)


def _kind(state: object) -> str:
    return f"a {type(state).__name__}" + (", pass its .state" if isinstance(state, Result) else "")


def _swap(x: Tensor) -> Tensor:
    return x.transpose(0, 1)


def _device(tree: Any) -> torch.device:
    device: torch.device = next(x for x in pytree.tree_leaves(tree) if isinstance(x, Tensor)).device
    return device


def _still(x: Tensor) -> bool:
    """Whether ``x`` is one step seen T times, and nobody asks for the gradient or tangent of each of them."""
    asked = x.requires_grad and torch.is_grad_enabled()
    return x.stride(0) == 0 and not asked and not transformed()


def _check_repeat(repeat: int) -> int:
    if isinstance(repeat, (bool, str)) or repeat < 1:
        raise ValueError(f"repeat must be a number of steps of at least 1, got {repeat!r}")
    return repeat


def _described(given: object) -> str:
    if isinstance(given, type):
        return f"the class {given.__name__}; construct it, {given.__name__}(...)"
    if isinstance(given, (list, tuple)):
        return f"a {type(given).__name__}; write Network(*modules)"
    if isinstance(given, Replacement):
        return "what sl.replace did; it changes the model in place: write sl.replace(model, ...), then Network(model)"
    return f"{type(given).__name__} {given!r:.60}"


def _shapes(tree: tuple[Any, ...]) -> tuple[torch.Size, ...]:
    leaves = tree if all(type(x) is Tensor for x in tree) else pytree.tree_leaves(tree)
    return tuple(x.shape for x in leaves if isinstance(x, Tensor))
