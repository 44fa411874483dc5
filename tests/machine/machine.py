"""Anything that a user can do to a network between two calls, and a comparison of the next call with the plain loop.

A sequence is a list of ``(name, seed)``: changes from ``CHANGES`` and calls from ``CALLS``. After each call the result
is compared with that of a copy which was made before it and runs as the PyTorch loop: dense, nothing joined, nothing
prepared. Weights, inputs and numbers begin as small multiples of 1/64, so that most sums are exact in any order; where
an optimiser has made others, a spike may turn within a hair of its threshold, which the copy tells.

``python machine.py < sequences`` runs sequences, one JSON list a line, in a process of its own, where kernels come from
the cache on disk.
"""

from __future__ import annotations

import copy
import json
import pickle
import random
import sys
import threading
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules import module as torch_module

import spikeloom as sl

sys.path.append(str(Path(__file__).parents[1]))
import samples
from recorder import recording
from spikeloom.kernel import waiting

T, B = 4, 2
NEAR = 1e-4
"""How near to its threshold a spike may turn with the order of additions."""

GAIN = 1.0
TABLE = {"shift": 0.0}


def helper(x: Tensor) -> Tensor:
    return x


class Scale:
    def __init__(self) -> None:
        self.k = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.k


class Mine(sl.Neuron):
    """A neuron of somebody's, which reads all that one may read."""

    weight = 1.0

    def __init__(self) -> None:
        super().__init__(surrogate=sl.surrogate.Sigmoid(2.0))
        self.numbers(th=0.5, decay=0.5)
        self.states(v=0.0)
        self._private = 1.0
        self.row = [1.0]
        self.scale = Scale()

    def charge(self, x: Tensor) -> Tensor:
        return self.scale(helper(x)) * GAIN * self.weight * self._private * self.row[0] + TABLE["shift"]

    def dynamics(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        v = v * self.decay + self.charge(x) * (1.0 if self.training else 1.25)
        s = self.fire(v - self.th)
        return s, v - s * 0.5


class Other(Mine):
    def charge(self, x: Tensor) -> Tensor:
        return 0.5 * super().charge(x) + 0.25


class OtherLIF(sl.LIF):
    def dynamics(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        s, v = super().dynamics(0.5 * x, v)
        return s, v


def _linear() -> list[nn.Module]:
    return [
        nn.Linear(8, 16),
        sl.LIF(v_threshold=0.25),
        nn.Linear(16, 8),
        sl.Leaky(beta=0.5, v_threshold=0.25),
        nn.Linear(8, 3),
        sl.LI(),
    ]


def _mine() -> list[nn.Module]:
    return [nn.Linear(8, 8), Mine(), nn.Linear(8, 3), sl.LIF(v_threshold=0.25)]


def _images() -> list[nn.Module]:
    return [
        nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), sl.LIF(v_threshold=0.25),
        nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8, 8), nn.BatchNorm1d(8), Mine(), nn.Linear(8, 3),
    ]  # fmt: skip


class Block(nn.Module):
    """A block with a forward of its own, in which batch norms may wait for neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fires = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), sl.LIF(v_threshold=0.25)
        self.looks = "nowhere"

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        if self.looks == "before":
            y = y + 0.25
        elif self.looks == "in place":
            y += x
        elif self.looks == "aside":
            x = x + y.relu()
        return self.fires(y) + x


class HalfNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x)


def _blocks() -> list[nn.Module]:
    return [
        nn.Unflatten(1, (2, 2, 2)), Block(), nn.Sequential(Block(), nn.BatchNorm2d(2)), sl.LIF(v_threshold=0.25),
        nn.Flatten(), nn.Linear(8, 3),
    ]  # fmt: skip


def _sparse() -> list[nn.Module]:
    return [
        sl.nn.SparseLinear(8, 64, fan_in=2),
        sl.IF(v_threshold=0.25),
        sl.nn.SparseLinear(64, 8, density=0.04),
        sl.LIF(v_threshold=0.125),
    ]


def _options() -> list[nn.Module]:
    inner = sl.options.Adaptive(sl.IF(v_threshold=0.25), beta=0.25, rho=0.5)
    return [
        nn.Linear(8, 8),
        sl.options.Refractory(inner, steps=1),
        sl.nn.Recurrent(sl.LIF(v_threshold=0.25), nn.Linear(8, 8)),
        nn.Linear(8, 3),
    ]


def _channels() -> list[nn.Module]:
    learned = nn.Parameter(torch.linspace(2.0, 4.0, 8))
    return [
        nn.Linear(8, 8),
        sl.LIF(tau=learned, v_threshold=torch.full((8,), 0.25)),
        nn.Linear(8, 8),
        sl.PLIF(v_threshold=0.25),
    ]


def _sample(draw: random.Random) -> list[nn.Module]:
    """Any neuron or option that computes by arithmetic and comparisons."""
    suited = [s for s in samples.IN_ONE_STEP.values() if s.exact and not s.random and s.causal and s.step == (3, 8)]
    return [nn.Linear(8, 8), draw.choice(suited).make(), nn.Linear(8, 3)]


NETWORKS: dict[str, Callable[[], list[nn.Module]]] = {
    "linear": _linear, "mine": _mine, "images": _images, "blocks": _blocks, "sparse": _sparse, "options": _options,
    "channels": _channels,
}  # fmt: skip


KINDS = sorted([*NETWORKS, "sample"])


class Runner:
    """One network and what was done to it."""

    def __init__(self, kind: str, seed: int) -> None:
        self.log: list[tuple[str, int]] = []
        self.compared = self.near = 0
        self._undo: list[Callable[[], None]] = []
        self.random = random.Random(seed)
        self.torch = torch.Generator().manual_seed(seed)
        spikes = self.random.choice(["dense", "packed"])
        layers = _sample(self.random) if kind == "sample" else NETWORKS[kind]()
        self.net = sl.Network(*layers, spikes=spikes)
        before, waiting.WORTH = waiting.WORTH, 0  # these networks are small
        self.later(lambda: setattr(waiting, "WORTH", before))
        with torch.no_grad():
            for p in self.net.parameters():
                p.copy_(self.coarse(p.shape) if p.ndim > 1 or p.numel() != 8 else p)
        self.still_norms()
        self.dtype = torch.float32
        self.stream: Any = None
        self.alone: dict[str, sl.Stream] = {}
        self.fast: Any = None
        self.replayed: Any = None
        self.hooks: list[Any] = []
        self.taps: sl.core.Taps | None = None
        self.marked: sl.core.Taps | None = None

    # -- random things

    def coarse(self, shape: Any) -> Tensor:
        """Multiples of 1/64 between -1/2 and 1."""
        return torch.randint(-32, 65, tuple(shape), generator=self.torch) / 64

    def x(self) -> Tensor:
        return self.coarse((T, B, 8)).to(self.dtype)

    def modules(self, kind: Any) -> list[Any]:
        return [m for m in self.net.modules() if isinstance(m, kind)]

    def still_norms(self) -> None:
        """Statistics of a batch are no small multiples of anything, and gradients through them cancel."""
        for norm in self.modules((nn.BatchNorm1d, nn.BatchNorm2d)):
            norm.eval()

    def one(self, kind: Any) -> Any:
        """One module of a kind, or None."""
        found = self.modules(kind)
        return self.random.choice(found) if found else None

    def later(self, undo: Callable[[], None]) -> None:
        self._undo.append(undo)

    def do(self, name: str, seed: int) -> None:
        """A change or a call."""
        self.log.append((name, seed))
        self.random.seed(seed)
        self.torch.manual_seed(seed)
        (CHANGES[name] if name in CHANGES else CALLS[name])(self)

    def close(self) -> None:
        """Puts back what is not the network's own."""
        while self._undo:
            self._undo.pop()()

    # -- the comparison

    def plain(self) -> tuple[sl.Network, list[float]]:
        """A copy that runs as the loop, and where it notes how near its voltages come to thresholds."""
        net = copy.deepcopy(self.net)
        net.fuse = net.static_prefix = False
        net.spikes = "dense"
        nearest: list[float] = []

        def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            nearest.append(float(inputs[0].detach().abs().min()))

        for m in net.modules():
            if isinstance(m, sl.surrogate.Surrogate):
                m.register_forward_pre_hook(note)
        return net, nearest

    def compare(self, run: Callable[[Any], Any], *, gradients: bool = False) -> None:
        """``run(network)`` on the network and on the copy."""
        net, nearest = self.plain()
        for n in (self.net, net):
            n.zero_grad()
        with sl.backend("eager"):
            wanted = run(net)
        found = run(self.net)
        self.check(found, wanted, nearest)
        if gradients and not (nearest and min(nearest) < NEAR):
            for (name, p), q in zip(self.net.named_parameters(), net.parameters(), strict=True):
                same(f"gradient of {name}", p.grad, q.grad, 1e-3)

    def check(self, found: Any, wanted: Any, nearest: list[float]) -> None:
        self.compared += 1
        if nearest and min(nearest) < NEAR and not equal(found, wanted):
            self.near += 1
            return
        same("output", found, wanted, 1e-4)


def equal(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and torch.allclose(dense(found), dense(wanted), rtol=1e-4, atol=1e-4)


def dense(y: Tensor) -> Tensor:
    return (y.unpack() if isinstance(y, sl.SpikeTensor) else y).detach()


def same(what: str, found: Tensor | None, wanted: Tensor | None, tolerance: float) -> None:
    if found is None or wanted is None:  # no gradient is one of zeros
        other = found if wanted is None else wanted
        assert other is None or not other.any(), f"{what}: {found} for {wanted}"
        return
    assert found.dtype == wanted.dtype, f"{what}: {found.dtype} for {wanted.dtype}"
    torch.testing.assert_close(
        dense(found), dense(wanted), rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda m: f"{what}: {m}"
    )


# -- changes: name -> what it does


def numbers(run: Runner) -> list[tuple[Any, str]]:
    """The numbers in the network that may be written to, with their modules."""
    found = [(m, name) for m in run.modules((sl.Neuron, sl.surrogate.Surrogate)) for name in m._declared]
    return [(m, n) for m, n in found if n not in ("scale", "steps", "rho", "w") and not n.endswith("_rest")]


def a_number(run: Runner) -> tuple[Any, str, float]:
    m, name = run.random.choice(numbers(run))
    value = run.random.choice([0.125, 0.25, 0.5, 0.75])
    return m, name, 1.0 + value if name.startswith("tau") else value


def assign(run: Runner) -> None:
    m, name, value = a_number(run)
    setattr(m, name, value)


def in_place(run: Runner) -> None:
    m, name, value = a_number(run)
    with torch.no_grad():
        getattr(m, name).fill_(value)


def by_data(run: Runner) -> None:
    m, name, value = a_number(run)
    getattr(m, name).data.fill_(value)


def by_numpy(run: Runner) -> None:
    m, name, value = a_number(run)
    getattr(m, name).detach().numpy()[...] = value


def new_data(run: Runner) -> None:
    m, name, value = a_number(run)
    number = getattr(m, name)
    number.data = torch.full_like(number, value)


def learnable(run: Runner) -> None:
    m, name, value = a_number(run)
    setattr(m, name, nn.Parameter(torch.tensor(value, dtype=run.dtype)))


def optimise(run: Runner, make: Callable[[Any], torch.optim.Optimizer]) -> None:
    parameters = [p for p in run.net.parameters() if p.requires_grad]
    if not parameters:
        return
    for p in parameters:
        p.grad = run.coarse(p.shape).to(p.dtype)
    make(parameters).step()
    clamp(run)


def clamp(run: Runner) -> None:
    """Keeps learnable numbers where equations are defined."""
    with torch.no_grad():
        for m, name in numbers(run):
            if isinstance(getattr(m, name), nn.Parameter):
                getattr(m, name).clamp_(1.125 if name.startswith("tau") else 0.125, 8.0)


def weights(run: Runner) -> list[nn.Parameter]:
    return [p for m in run.modules((nn.Linear, nn.Conv2d, sl.nn.SparseLinear)) for p in m.parameters()]


def unseen(run: Runner) -> None:
    """After a write to weights that nobody can see: what the docstring of streams asks for."""
    if run.stream is not None:
        run.stream.refresh()


def weight_data(run: Runner) -> None:
    p = run.random.choice(weights(run))
    p.data.copy_(run.coarse(p.shape))
    unseen(run)


def weight_numpy(run: Runner) -> None:
    p = run.random.choice(weights(run))
    p.detach().numpy()[...] = run.coarse(p.shape).numpy()
    unseen(run)


def weight_new_data(run: Runner) -> None:
    p = run.random.choice(weights(run))
    p.data = run.coarse(p.shape).to(p.dtype)


def weight_copy(run: Runner) -> None:
    p = run.random.choice(weights(run))
    with torch.no_grad():
        p.copy_(run.coarse(p.shape))


def weight_new(run: Runner) -> None:
    layer = run.one((nn.Linear, nn.Conv2d))
    if layer is not None:
        layer.weight = nn.Parameter(run.coarse(layer.weight.shape).to(layer.weight.dtype))


def vector(run: Runner) -> None:
    ps = weights(run)
    nn.utils.vector_to_parameters(run.coarse((sum(p.numel() for p in ps),)).to(run.dtype), ps)


def through_half(run: Runner) -> None:
    layer = run.one((nn.Linear, nn.Conv2d))
    if layer is not None:
        layer.half()
        layer.weight.data.mul_(0.5)
        layer.to(run.dtype)


def resparse(run: Runner) -> None:
    layer = run.one(sl.nn.SparseLinear)
    if layer is None:
        return
    fresh = layer.synapses.clone()
    fresh[0] = 1 if fresh[0] == 0 else 0
    if fresh.unique().numel() != len(fresh):
        return
    how = run.random.choice(["new", "copy", "data"])
    fresh = fresh.sort().values
    if how == "new":
        layer.synapses = fresh
    elif how == "copy":
        layer.synapses.copy_(fresh)
    else:
        layer.synapses.data.copy_(fresh)


def tie(run: Runner) -> None:
    layers = [m for m in run.modules(nn.Linear) if m.weight.shape == (8, 8)]
    if len(layers) > 1:
        layers[0].weight = layers[1].weight


def option(run: Runner) -> None:
    m = run.one(sl.LIF)
    if m is not None:
        name, value = run.random.choice(
            [("reset", "soft"), ("reset", "hard"), ("reset", "none"), ("strict", True), ("detach_reset", True)]
        )
        setattr(m, name, value)


def surrogate(run: Runner) -> None:
    m = run.one((sl.LIF, sl.IF, Mine))
    if m is not None and not m.packed:
        m.surrogate = run.random.choice(
            [sl.surrogate.Sigmoid(2.0), sl.surrogate.ATan(3.0), sl.surrogate.Sigmoid(2.0, spiking=False)]
        )


def mine_attribute(run: Runner) -> None:
    m = run.one(Mine)
    if m is None:
        return
    value = run.random.choice([0.5, 0.75, 1.0])
    how = run.random.choice(["_private", "weight", "row", "dict", "scale", "new scale"])
    if how == "row":
        m.row[0] = value
    elif how == "dict":
        m.__dict__["_private"] = value
    elif how == "scale":
        m.scale.k = value
    elif how == "new scale":
        m.scale = Scale()
    else:
        setattr(m, how, value)


def mine_world(run: Runner) -> None:
    """What a notebook does between two cells: globals, helpers, classes."""
    global GAIN, helper
    value = run.random.choice([0.5, 0.75, 1.25])
    how = run.random.choice(["global", "table", "helper", "code", "class", "method"])
    if how == "global":
        before, GAIN = GAIN, value
        run.later(lambda: globals().update(GAIN=before))
    elif how == "table":
        TABLE["shift"], before = value - 0.5, TABLE["shift"]
        run.later(lambda: TABLE.update(shift=before))
    elif how == "helper":
        before = helper
        helper = eval(f"lambda x: x * {value}")
        run.later(lambda: globals().update(helper=before))
    elif how == "code":
        function, before = helper, helper.__code__
        function.__code__ = eval(f"lambda x: x * {value}").__code__
        run.later(lambda: setattr(function, "__code__", before))
    elif how == "class":
        before, Mine.weight = Mine.weight, value
        run.later(lambda: setattr(Mine, "weight", before))
    else:
        before = Mine.charge
        Mine.charge = lambda self, x: x * value
        run.later(lambda: setattr(Mine, "charge", before))


def own_method(run: Runner) -> None:
    m = run.one(Mine)
    if m is not None:
        value = run.random.choice([0.5, 0.75])
        m.charge = types.MethodType(eval(f"lambda self, x: x * {value}"), m)
        m.charge = eval(f"lambda x: x * {value}")  # one that a copy may keep


def change_class(run: Runner) -> None:
    m = run.one((Mine, sl.LIF))
    if type(m) in (Mine, Other):
        m.__class__ = Other if type(m) is Mine else Mine
    elif type(m) in (sl.LIF, OtherLIF):
        m.__class__ = OtherLIF if type(m) is sl.LIF else sl.LIF


def mode(run: Runner) -> None:
    run.net.train(run.random.choice([True, False]))
    run.still_norms()


def one_mode(run: Runner) -> None:
    m = run.one(sl.Dynamics)
    m.train(not m.training)


def network_options(run: Runner) -> None:
    run.net.fuse = run.random.choice([True, False])
    run.net.static_prefix = run.random.choice([True, False])
    run.net.spikes = run.random.choice(["dense", "packed"])


def pack_one(run: Runner) -> None:
    m = run.one((sl.LIF, sl.IF))
    if m is not None and m.surrogate.spiking:
        m.packed = not m.packed


def threads(run: Runner) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(run.random.choice([1, 2]))
    run.later(lambda: torch.set_num_threads(before))


def norm_statistics(run: Runner) -> None:
    norm = run.one((nn.BatchNorm1d, nn.BatchNorm2d))
    if norm is not None:
        tensor = run.random.choice([norm.running_mean, norm.weight, norm.bias])
        with torch.no_grad():
            tensor.copy_(run.coarse(tensor.shape))


def looks(run: Runner) -> None:
    """The forward of a block begins to look at its norm, or ends to: what was noted of it is no longer so."""
    block = run.one(Block)
    if block is not None:
        block.looks = run.random.choice(["nowhere", "before", "in place", "aside"])


def norm_class(run: Runner) -> None:
    """A norm becomes one of somebody's own, which does not wait, or one of torch's again."""
    norm = run.one(nn.BatchNorm2d)
    if norm is not None:
        norm.__class__ = nn.BatchNorm2d if type(norm) is HalfNorm else HalfNorm


def few_values(run: Runner) -> None:
    """Norms of few values wait too from now on, or not."""
    before = waiting.WORTH
    waiting.WORTH = run.random.choice([0, 1 << 17])
    run.later(lambda: setattr(waiting, "WORTH", before))


def norm_options(run: Runner) -> None:
    norm = run.one((nn.BatchNorm1d, nn.BatchNorm2d))
    if norm is not None:
        norm.eps, norm.momentum = run.random.choice([1e-5, 0.125, 0.5]), run.random.choice([None, 0.25])


def dtype(run: Runner) -> None:
    run.dtype = run.random.choice([torch.float32, torch.float64])
    run.net.to(run.dtype)
    run.stream = None


def default_dtype(run: Runner) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(run.random.choice([torch.float64, torch.float32]))
    run.later(lambda: torch.set_default_dtype(before))


def meta(run: Runner) -> None:
    """To the meta device and back, as big models are loaded."""
    values = {k: v.clone() for k, v in run.net.state_dict().items()}
    run.net.to("meta")
    run.net.to_empty(device="cpu")
    run.net.load_state_dict(values)


def hook(run: Runner) -> None:
    kind = run.random.choice([nn.Linear, sl.Neuron, sl.surrogate.Surrogate, nn.BatchNorm2d, nn.Flatten])
    m = run.one(kind)
    if m is not None:
        run.hooks.append(m.register_forward_hook(halve if kind is not sl.surrogate.Surrogate else identity))


def tapped(run: Runner) -> None:
    """Somebody looks on from now on, or no longer."""
    if run.taps is not None:
        run.taps.__exit__()
        run.taps = None
        return
    pattern = run.random.choice(["*.input", "*.output", "*.grad_*", "*"])
    run.taps = taps = sl.taps(run.net, pattern, keep=torch.is_tensor)
    taps.__enter__()
    run.later(taps.__exit__)


def marked(run: Runner) -> None:
    """What neurons' fire is given is recorded from now on, or no longer: kernels that write it are others."""
    if run.marked is not None:
        run.marked.__exit__()
        run.marked = None
    elif us(run):
        run.marked = taps = sl.taps(run.net, *us(run), keep=torch.is_tensor)
        taps.__enter__()
        run.later(taps.__exit__)


def us(run: Runner) -> tuple[str, ...]:
    """The places of u that there are now."""
    there = run.net.temporal_modules().items()
    return tuple(f"{path}.u" for module, path in there if "u" in module.recordable_by_name)


def halve(module: nn.Module, inputs: Any, output: Any) -> Any:
    return output * 0.5 if isinstance(output, Tensor) else output


def identity(module: nn.Module, inputs: Any, output: Any) -> Any:
    return output * 1.0


def unhook(run: Runner) -> None:
    """All hooks go, those of layers that were copied meanwhile too."""
    run.hooks.clear()
    for m in run.net.modules():
        m._forward_hooks.clear()


def global_hook(run: Runner) -> None:
    handle = torch_module.register_module_forward_hook(halve_linear)
    run.later(handle.remove)


def halve_linear(module: nn.Module, inputs: Any, output: Any) -> Any:
    return output * 0.5 if isinstance(module, nn.Linear) else None


def load(run: Runner) -> None:
    state = {k: v.clone() for k, v in run.net.state_dict().items()}
    for k, v in state.items():
        if k.endswith(("weight", "bias")) and v.is_floating_point():
            state[k] = run.coarse(v.shape).to(v.dtype)
    run.net.load_state_dict(state, assign=run.random.choice([True, False]))


def copied(run: Runner) -> None:
    run.net, run.stream = copy.deepcopy(run.net), None


def pickled(run: Runner) -> None:
    try:
        text = pickle.dumps(run.net)
    except (AttributeError, TypeError, pickle.PicklingError):  # a method of the instance's own
        return
    run.net, run.stream = pickle.loads(text), None


def replaced(run: Runner) -> None:
    body = run.net.body
    for i, m in enumerate(body):
        if type(m) is nn.Linear and run.random.random() < 0.5:
            fresh = nn.Linear(m.in_features, m.out_features, dtype=run.dtype)
            with torch.no_grad():
                fresh.weight.copy_(run.coarse(fresh.weight.shape))
                fresh.bias.copy_(run.coarse(fresh.bias.shape))
            body[i] = fresh
            return


def inserted(run: Runner) -> None:
    run.net.body.append(nn.Identity())


OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.125),
    "SGD foreach": lambda p: torch.optim.SGD(p, 0.125, momentum=0.5, foreach=True),
    "SGD fused": lambda p: torch.optim.SGD(p, 0.125, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, 0.125),
    "Adam foreach": lambda p: torch.optim.Adam(p, 0.125, foreach=True),
    "Adam fused": lambda p: torch.optim.Adam(p, 0.125, fused=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, 0.125, fused=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.125),
    "Adagrad fused": lambda p: torch.optim.Adagrad(p, 0.125, fused=True),
    "Adadelta": lambda p: torch.optim.Adadelta(p, 0.5),
    "Adamax": lambda p: torch.optim.Adamax(p, 0.125),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.125),
    "RAdam": lambda p: torch.optim.RAdam(p, 0.125),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.125),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.125),
    "ASGD": lambda p: torch.optim.ASGD(p, 0.125),
}
CHANGES: dict[str, Callable[[Runner], None]] = {
    f.__name__: f
    for f in (
        assign,
        in_place,
        by_data,
        by_numpy,
        new_data,
        learnable,
        weight_data,
        weight_numpy,
        weight_new_data,
        weight_copy,
        weight_new,
        vector,
        through_half,
        resparse,
        tie,
        option,
        surrogate,
        mine_attribute,
        mine_world,
        own_method,
        change_class,
        mode,
        one_mode,
        network_options,
        pack_one,
        threads,
        norm_statistics,
        norm_options,
        norm_class,
        looks,
        few_values,
        dtype,
        default_dtype,
        meta,
        hook,
        unhook,
        global_hook,
        tapped,
        marked,
        load,
        copied,
        pickled,
        replaced,
        inserted,
    )
}
CHANGES.update({f"optimiser {n}": lambda run, make=make: optimise(run, make) for n, make in OPTIMISERS.items()})


# -- calls


def sequence(run: Runner) -> None:
    x = run.x()
    with torch.no_grad():
        run.compare(lambda net: net(x))


def recorded(run: Runner) -> None:
    """What neurons' fire is given."""
    x, names = run.x(), us(run)
    if names:
        with torch.no_grad():
            run.compare(lambda net: torch.cat([u.flatten() for u in net(x, record=names)[1].record.values()]))


def inference(run: Runner) -> None:
    x = run.x()
    with torch.inference_mode():
        run.compare(lambda net: net(x))


def backward(run: Runner) -> None:
    x = run.x()

    def step(net: sl.Network) -> Tensor:
        y = net(x)
        if y.requires_grad:
            y.square().sum().backward()
        return y

    run.compare(step, gradients=True)


def graphed(run: Runner) -> None:
    """Calls that are recorded and replayed, by a stand-in for graphs of a GPU that lives on."""
    if computes_from_bits(run):
        return
    if run.fast is None or run.fast.module is not run.net:
        run.fast = sl.graphed(run.net, after=1)
    x = run.x()

    def step(net: sl.Network) -> Tensor:
        if net is run.net:
            run.fast(x)  # twice, so that what was recorded is replayed
        y = run.fast(x) if net is run.net else net(x)
        if y.requires_grad:
            y.square().sum().backward()
        return y

    with recording(), torch.set_grad_enabled(run.random.choice([True, False])):
        run.compare(step, gradients=torch.is_grad_enabled())


def repeated(run: Runner) -> None:
    x = run.x()[0]
    with torch.no_grad():
        run.compare(lambda net: net(x, repeat=T))


def ragged(run: Runner) -> None:
    if run.net.training and run.modules(sl.options.MPBN):  # whose statistics are those of all samples
        return
    x, lengths = run.x(), torch.tensor([T, run.random.randint(1, T)])
    with torch.no_grad():
        run.compare(lambda net: net(x, lengths=lengths))


def split(run: Runner) -> None:
    x = run.x()

    def halves(net: sl.Network) -> Tensor:
        a, result = net(x[:2], return_state=True)
        return torch.cat([dense(a), dense(net(x[2:], state=result.state))])

    with torch.no_grad():
        run.compare(halves)


def streamed(run: Runner) -> None:
    """Steps of a stream that lives on, from the state in which it is."""
    if run.stream is None or run.stream.module is not run.net:
        run.stream = run.net.stream()
    steps(run, run.stream, "")


def replayed(run: Runner) -> None:
    """Steps of a stream that are recorded and replayed, by a stand-in for graphs of a GPU."""
    if computes_from_bits(run):
        return
    if run.replayed is None or run.replayed.module is not run.net:
        run.replayed = run.net.stream()
    with recording():
        steps(run, run.replayed, "")
        steps(run, run.replayed, "")


def computes_from_bits(run: Runner) -> bool:
    """Whether C computes from bits on a CPU, which the stand-in does not record."""
    return run.net.spikes == "packed" or any(m.packed for m in run.modules(sl.Dynamics))


def alone(run: Runner) -> None:
    """Steps of a stream of one neuron by itself, which lives on."""
    inside = {part for m in run.modules(sl.options.Option) for part in m.modules() if part is not m}
    found = [(path, m) for path, m in run.net.named_modules() if isinstance(m, sl.Dynamics) and m not in inside]
    path, m = run.random.choice(found)
    if path not in run.alone or run.alone[path].module is not m:
        run.alone[path] = sl.Stream(m)
    steps(run, run.alone[path], path)


def steps(run: Runner, stream: sl.Stream, path: str) -> None:
    """Compares steps of a stream with those of the same module of the plain copy."""
    if run.random.random() < 0.5:
        stream.reset()
    x = run.x()
    net, nearest = run.plain()
    module: Any = net.get_submodule(path)
    state = copy.deepcopy(stream.state)
    inference_mode = run.random.choice([torch.no_grad, torch.inference_mode])
    for x_t in x:
        try:
            with inference_mode():
                found = stream(x_t)
        except ValueError:  # a layer came or went, or the dtype changed, so that this state is another network's
            stream.reset()
            return
        with torch.no_grad(), sl.backend("eager"):
            wanted, state = module.step(x_t, state=state)
        run.check(found, wanted, nearest)
        if nearest and min(nearest) < NEAR:  # from here on states may differ
            stream.reset()
            return


def functional(run: Runner) -> None:
    x = run.x()
    m, name = run.random.choice(numbers(run))
    path = next(k for k, v in run.net.named_modules() if v is m)
    with torch.no_grad():
        value = getattr(m, name).detach() * 0.5 + 0.75
        run.compare(lambda net: functional_call(net, {f"{path}.{name}": value}, (x,)))


def in_threads(run: Runner) -> None:
    x, found = run.x(), {}

    def call(i: int) -> None:
        with torch.no_grad():
            found[i] = run.net(x)

    def both(net: sl.Network) -> Tensor:
        if net is not run.net:
            return net(x)
        workers = [threading.Thread(target=call, args=(i,)) for i in range(2)]
        for w in workers:
            w.start()
        for w in workers:
            w.join()
        same("two threads", found[0], found[1], 0.0)
        return found[0]

    with torch.no_grad():
        run.compare(both)


CALLS: dict[str, Callable[[Runner], None]] = {
    f.__name__: f
    for f in (
        sequence, inference, recorded, backward, graphed, repeated, ragged, split, streamed, replayed, alone,
        functional, in_threads,
    )
}  # fmt: skip


def replay(kind: str, seed: int, log: list[tuple[str, int]]) -> Runner:
    """Runs a sequence again."""
    runner = Runner(kind, seed)
    try:
        for name, number in log:
            runner.do(name, number)
    finally:
        runner.close()
    return runner


def draw(seed: int) -> tuple[str, int, list[tuple[str, int]]]:
    """A sequence without hypothesis: for runs of ten thousands."""
    r = random.Random(seed)
    log: list[tuple[str, int]] = []
    for _ in range(r.randint(3, 7)):
        log.append((r.choice(sorted(CALLS)), r.randrange(1000)))
        for _ in range(r.randint(1, 2)):
            log.append((r.choice(sorted(CHANGES)), r.randrange(1000)))
    log.append((r.choice(sorted(CALLS)), r.randrange(1000)))
    return r.choice(KINDS), r.randrange(1000), log


def main() -> None:
    """Sequences from standard input, or ``--draw FIRST N`` ones of its own; ends with the number of comparisons."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    compared = near = failed = 0
    if "--draw" in sys.argv:
        first, n = map(int, sys.argv[-2:])
        sequences = (draw(first + i) for i in range(n))
    else:
        sequences = (tuple(json.loads(line)) for line in sys.stdin if line.strip())  # type: ignore[assignment]
    for kind, seed, log in sequences:
        try:
            runner = replay(kind, seed, log)
        except Exception as error:
            failed += 1
            print("FAILED", json.dumps([kind, seed, log]), type(error).__name__, str(error)[:300], flush=True)
        else:
            compared, near = compared + runner.compared, near + runner.near
    print(f"{compared} compared, {near} near a threshold, {failed} failed")


if __name__ == "__main__":
    main()
