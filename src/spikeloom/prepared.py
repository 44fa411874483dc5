"""prepared: a stream's steps with everything decided once: which kernels run, where in memory, from which weights.

A step of one sample computes for some tens of microseconds in each layer, and deciding what to run takes as long. A
prepared step gives what :meth:`spikeloom.Network.step` gives, with batch norms joined to neurons and bits as in whole
sequences. Between layers memory is used again by each step; outputs and states are new tensors.

A plan owns what it made of weights, and holds no address of memory that is not its own. Before each step it looks at
identity, address and version of every tensor, at the values of the neurons' numbers, at their signatures, at
classes, methods, hooks, options and modes, and at the steps of optimisers since: fused ones move no version. What is
written through ``.data``, NumPy or by another process moves nothing at all: a look at 32 values of each weight shows
most of it, and :meth:`spikeloom.Stream.refresh` is for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from ._hooks import for_all, has_hooks
from ._numbers import Declared
from ._tensors import METHODS, Methods, Numbers, Sample, optimisers, own_tensors, where
from .core import Network, Stream, TemporalModule
from .core.call import STEP, Call, Origin, activate, map_tensors
from .core.layers import layers_of, runs_layers
from .kernel import FUSED_NORMS, output_dtype, prepared_step
from .kernel.backend import chosen, debugging, is_watched, transformed
from .keys.code import is_fixed_class
from .neuron import Neuron
from .neuron.base import WORTH_BITS
from .nn import NormNeuron
from .spikes import SpikeTensor, convolution, from_bits, pack, pooling, products

_Step = Callable[[Any], Any]
_VIEWS = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_READ = (nn.Conv2d, nn.Linear, nn.MaxPool2d, *FUSED_NORMS, *_VIEWS)  # layers whose options a plan has read
_HOOKS = ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks")
_IN_VAIN = 3  # plans that were used once at most, one after the other, before a stream makes none for a while
_PATIENCE = 16  # steps that the first such while lasts


class _UnfitError(Exception):
    """A value is not of the kind that the plan was made for."""


class Steps:
    """The prepared steps of one stream."""

    def __init__(self) -> None:
        optimisers()
        self._plan: _Plan | None = None
        self._refused: Any = None  # the structure of a network that has no plan
        self._in_vain, self._waited, self._patience = 0, 0, _PATIENCE

    def __reduce__(self) -> Any:
        return Steps, ()  # a copy uses memory of its own

    def run(self, network: Network, x: Any, state: Any) -> tuple[Any, dict[str, Any]] | None:
        """``network.step(x, state=state)``, or None where that has to run."""
        if not _may_run(x) or network.training:
            return None
        plan = self._plan
        if plan is not None and plan.holds(network, x):
            return plan.step(x, state)
        structure = network.structure()
        if structure is self._refused or self._waits():
            return None
        if any(module.training or has_hooks(module) or _overridden(module) for module in structure[0]):
            return None
        if plan is not None:
            self._in_vain = 0 if plan.steps_run > 1 else self._in_vain + 1
        self._plan, plan = None, _Plan.of(network, x)
        if plan is None:
            self._refused = structure
            return None
        found = plan.begin(x, state)
        self._plan = None if found is None else plan
        return found

    def refresh(self) -> None:
        """Forgets what was made of weights."""
        self._plan = None

    def _waits(self) -> bool:
        """Whether plans were made in vain lately: where weights or sizes change in each step, they take time only."""
        if self._in_vain < _IN_VAIN:
            return False
        self._waited += 1
        if self._waited > self._patience:
            self._in_vain, self._waited, self._patience = 0, 0, 4 * self._patience
        return self._in_vain > 0


def _may_run(x: Any) -> bool:
    """Whether nothing is asked for that a prepared step does not have."""
    return (
        type(x) is Tensor
        and not torch.is_grad_enabled()
        and x.is_cpu
        and x.dtype == torch.float32
        and x.ndim > 0
        and x.shape[0] > 0
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._len_torch_dispatch_stack()
        and not transformed()
        and not (hooks._global_forward_hooks or hooks._global_forward_pre_hooks)
        and not is_watched()
        and chosen() in ("auto", "c")
        and not debugging()
    )


class _Plan:
    """How to run a step on inputs of one kind."""

    @staticmethod
    def of(network: Network, x: Tensor) -> _Plan | None:
        """A plan that has not begun, or None for a network that has none."""
        if not runs_layers(network.body) or type(network).step is not Network.step:
            return None
        modules, paths = network.structure()
        layers = list(layers_of(network.body))
        if {layer for layer in layers if isinstance(layer, TemporalModule)} != set(paths):  # some are inside of layers
            return None
        tensors = [t for m in modules for t in chain(m._parameters.values(), m._buffers.values()) if t is not None]
        if any(t.is_inference() for t in tensors):  # these count no changes
            return None
        if not all(layer.causal and type(layer).forward is TemporalModule.forward for layer in paths):
            return None
        return _Plan(network, x, layers)

    def __init__(self, network: Network, x: Tensor, layers: list[nn.Module]) -> None:
        modules, paths = network.structure()
        self.fuse, self.body, self.paths, self.layers = network.fuse, network.body, paths, layers
        self.packed = network.spikes == "packed"
        self._like = self._kind(network, x)
        self._modules = modules
        self._children = [(m._modules, list(m._modules.values())) for m in modules if m._modules]
        tables = [table for m in modules for table in (m._parameters, m._buffers)]
        self._tensors = [(d, name, *where(t)) for d in tables for name, t in d.items()]
        self._ids = frozenset(id(t) for d in tables for t in d.values())
        self._optimisers, self._optimised = optimisers(), optimisers().steps
        declared = [m for m in modules if isinstance(m, Declared)]
        self._numbers = Numbers([t for m in declared for t in m.own_numbers()])
        self._dicts = [m.__dict__ for m in modules]
        self._hooks = [own[name] for own in self._dicts for name in _HOOKS]
        self._before = [own["_forward_pre_hooks"] for own in self._dicts]  # with the hook that looks at rows
        self._rows = list(map(len, self._before))
        self._copied: list[Tensor] = []  # tensors of which a copy is used
        self._neurons = [(m, m.signature(), m._packed, m.is_binary) for m in modules if isinstance(m, Neuron)]
        self._kinds = list(map(type, modules))
        self._methods = [Methods(kind) for kind in {*self._kinds}]
        options = [(m.__dict__, [k for k in m.__dict__ if k[0] != "_"]) for m in modules if type(m) in _READ]
        self._options = [(d, names, [d[name] for name in names]) for d, names in options]
        self.keys: list[str] = []
        for layer in layers:
            if isinstance(layer, TemporalModule):  # one module called twice has two states
                n = sum(key.split("#")[0] == paths[layer] for key in self.keys)
                self.keys.append(f"{paths[layer]}#{n}" if n else paths[layer])
        self.steps_run = 0
        self._steps: list[_Step] = []
        self._kept: set[int] = set()  # addresses of what the next step uses again
        self._incoming: Any = None
        self._outgoing: dict[str, Any] = {}

    @staticmethod
    def _kind(network: Network, x: Tensor) -> tuple[Any, ...]:
        modes = torch.get_num_threads(), torch.is_inference_mode_enabled(), network.fuse, network.spikes
        return x.shape, x.stride(), id(network.body), *modes

    def holds(self, network: Network, x: Tensor) -> bool:
        """Whether all is still as it was when the plan was made."""
        if self._kind(network, x) != self._like:
            return False
        for table, name, tensor, address, version in self._tensors:
            if table.get(name) is not tensor:
                return False
            if tensor is not None and (tensor.data_ptr() != address or tensor._version != version):
                return False
        if any(self._hooks) or for_all() or list(map(len, self._before)) != self._rows:
            return False
        for own in self._dicts:
            if own["training"] or not own.keys().isdisjoint(METHODS):
                return False
        for neuron, signature, packed, binary in self._neurons:
            if neuron.signature() is not signature or (neuron._packed, neuron.is_binary) != (packed, binary):
                return False
        return (
            self._numbers.hold()
            and self._values.holds()
            and not self._was_stepped()
            and list(map(type, self._modules)) == self._kinds
            and all(list(now.values()) == then for now, then in self._children)
            and all(methods.same() for methods in self._methods)
            and all([now.get(name) for name in names] == then for now, names, then in self._options)
        )

    def _was_stepped(self) -> bool:
        now = self._optimisers.steps
        if now != self._optimised and self._optimisers.stepped(self._optimised, self._ids):
            return True
        self._optimised = now
        return False

    def takes(self, state: Any) -> bool:
        """Whether a state has this plan's keys; the modules look at the rest."""
        return state is None or (isinstance(state, dict) and state.keys() == set(self.keys))

    def step(self, x: Tensor, state: Any) -> tuple[Any, dict[str, Any]] | None:
        """The step, or None where the state is not this plan's."""
        if not self.takes(state):
            return None
        self._incoming, self._outgoing, value = state, {}, x
        try:
            with activate(self.call):
                for step in self._steps:
                    value = step(value)
        except _UnfitError:
            return None
        return self._finish(value)

    def begin(self, x: Tensor, state: Any) -> tuple[Any, dict[str, Any]] | None:
        """Makes the plan while it runs the first step; None as :meth:`step`."""
        if not self.takes(state):
            return None
        origin = Origin(self.body, STEP, (x.shape,))
        self.call = Call(1, x.shape[0], paths=self.paths, stepping=True, packed=self.packed, origin=origin)
        self._incoming, self._outgoing, value = state, {}, x
        keys, i = iter(self.keys), 0
        with activate(self.call):
            while i < len(self.layers):
                layer, norm = self.layers[i], None
                after = self.layers[i + 1] if self.fuse and i + 1 < len(self.layers) else None
                if type(layer) in FUSED_NORMS and isinstance(after, Neuron):
                    layer, norm = after, layer
                    i += 1
                self._last = i + 1 == len(self.layers)
                for step in self._steps_of(layer, norm, value, next(keys) if isinstance(layer, TemporalModule) else ""):
                    value = step(value)
                    # Of a layer of torch's its rows were looked at just now, and all inputs have the shape of this one.
                    self._steps.append(step.forward if isinstance(step, nn.Module) else step)
                i += 1
        self._values = Sample(self._copied)
        found = self._finish(value)
        self.call.check_tree(found[0], "output")
        return found

    def _finish(self, value: Any) -> tuple[Any, dict[str, Any]]:
        self.steps_run += 1
        return map_tensors(self._own, value), self._outgoing

    def _own(self, value: Tensor) -> Tensor:
        """A tensor that no later step changes."""
        if _address(value) not in self._kept:
            return value
        if isinstance(value, SpikeTensor):
            return SpikeTensor(value.bits.clone(), tuple(value.shape), value.stride(), value.dtype)
        return value.clone()

    def _keep(self, value: Tensor) -> Tensor:
        self._kept.add(_address(value))
        return value

    def _steps_of(self, layer: nn.Module, norm: nn.Module | None, value: Any, key: str) -> list[_Step]:
        """What runs a layer on values like this one, after a batch norm that it may absorb."""
        found: _Step | None = None
        if isinstance(layer, TemporalModule):
            if isinstance(layer, NormNeuron):
                found = self._neuron(layer.neuron, layer.bn, value, key)
            elif isinstance(layer, Neuron):
                found = self._neuron(layer, norm, value, key)
            if found is None:
                found = self._temporal(layer, key)
                return [found] if norm is None else [norm, found]
            return [found]
        if isinstance(value, Tensor) and _address(value) in self._kept:
            found = self._on_kept(layer, value)
        if found is None and is_fixed_class(type(layer)):
            return [layer]
        return [found or (lambda v: layer(map_tensors(self._own, v)))]  # somebody's layer may keep what it is given

    def _neuron(self, neuron: Neuron, norm: nn.Module | None, value: Any, key: str) -> _Step | None:
        """A kernel's step, or None where the neuron has a step of its own or no kernel."""
        made_by = type(neuron).step, type(neuron)._scan
        if made_by != (Neuron.step, Neuron._scan) or not isinstance(value, Tensor) or value.ndim < 1:
            return None
        unpacks = isinstance(value, SpikeTensor)
        x = value.unpack() if isinstance(value, SpikeTensor) else value
        packs, states = neuron._packs(), tuple(neuron.initial_state(x).values())
        if self._last and x.numel() < WORTH_BITS:
            packs = False
        made = prepared_step(neuron, x, states, norm, from_bits if packs else None)
        if made is None or made[0].dtype != output_dtype(x.dtype):
            return None
        (y, run), names, kind, stride = made, tuple(neuron._rest), (x.shape, x.dtype, x.device), x.stride()
        self._keep(y)
        self._copied += [] if norm is None else own_tensors(norm)
        later = packs and not isinstance(y, SpikeTensor)  # where a step is no whole bytes

        def step(x: Any) -> Any:
            if unpacks:
                x = x.unpack()
            if type(x) is not Tensor or (x.shape, x.dtype, x.device) != kind:
                raise _UnfitError
            if x.stride() != stride:
                x = torch.empty_strided(x.shape, stride, dtype=x.dtype).copy_(x)
            if self._incoming is None:
                state = neuron.initial_state(x)
            else:
                state = self._incoming[key]
                neuron.check_state(state, x)
            new = run(x, [state[name] for name in names])
            self._outgoing[key] = dict(zip(names, new, strict=True))
            return pack(y) if later else y

        return step

    def _temporal(self, layer: TemporalModule, key: str) -> _Step:
        def step(x: Any) -> Any:
            x, state = map_tensors(self._own, x), None
            if self._incoming is not None:
                state = self._incoming[key]
                layer.check_state(state, x)
            y, self._outgoing[key] = layer.step(x, state=state)
            return y

        return step

    def _on_kept(self, layer: Any, value: Tensor) -> _Step | None:
        """What computes from bits, or gives another view, of memory that stays where it is."""
        if type(layer) in _VIEWS:
            seen = layer(value)
            return (lambda _: seen) if _address(seen) in self._kept else None
        if not isinstance(value, SpikeTensor):
            return None
        made: tuple[Tensor, Callable[[], int]] | None = None
        if type(layer) is nn.Linear:
            made = products.prepared(value, layer.weight, layer.bias)
        elif type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            spread = (list(layer.stride), list(layer.padding), list(layer.dilation))
            made = convolution.prepared(value, layer.weight, layer.bias, *spread, groups=layer.groups)
        elif type(layer) is nn.MaxPool2d and not layer.return_indices:
            options = [layer.kernel_size, layer.stride, layer.padding, layer.dilation]
            made = pooling.prepared(value, *options, layer.ceil_mode)
        if made is None:
            return None
        y, compute = made
        self._keep(y)
        self._copied += own_tensors(layer)

        def step(_: Any) -> Tensor:
            compute()
            return y

        return step


def _overridden(module: nn.Module) -> bool:
    """Whether a module has a method of its own, which its class has not."""
    return not module.__dict__.keys().isdisjoint(METHODS)


def _address(x: Tensor) -> int:
    return (x.bits if isinstance(x, SpikeTensor) else x).untyped_storage().data_ptr()


Stream.prepared = Steps
