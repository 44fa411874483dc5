"""The networks of ``benchmarks.gpu``, each as it is written here and in SpikingJelly, and their training steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spikeloom as sl

from .gpu_bench import Bench, Row, Run, jelly_node


class Side:
    """How a framework writes layers without time, a batch norm with a neuron after it, and a network."""

    def __init__(self, node: Callable[[], nn.Module] | None = None) -> None:
        self.node = node

    def still(self, module: nn.Module) -> nn.Module:
        """A layer without time."""
        if self.node is None:
            return module
        from spikingjelly.activation_based import layer

        wrapped: nn.Module = layer.SeqToANNContainer(module)
        return wrapped

    def spike(self, norm: Any, v_threshold: float = 1.0) -> nn.Module:
        """A neuron after a batch norm, or alone."""
        if self.node is None:
            neuron = sl.LIF(tau=2.0, v_threshold=v_threshold)
            return neuron if norm is None else sl.nn.NormNeuron(norm, neuron)
        node: Any = self.node()
        node.v_threshold = v_threshold
        return node if norm is None else nn.Sequential(self.still(norm), node)

    def network(self, layers: list[nn.Module]) -> Callable[[Tensor], Tensor]:
        """From ``[T, B, *]`` to ``[T, B, *]``."""
        if self.node is None:
            return sl.Network(*layers)
        from spikingjelly.activation_based import functional

        net = nn.Sequential(*layers)

        class Reset(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = net

            def forward(self, x: Tensor) -> Tensor:
                functional.reset_net(self.net)
                y: Tensor = self.net(x)
                return y

        return Reset()


class Residual(nn.Module):
    """conv - bn - spike - conv - bn - spike, added to its input (SEW, ADD)."""

    def __init__(self, side: Side, channels: int) -> None:
        super().__init__()
        self.conv1 = side.still(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
        self.conv2 = side.still(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
        self.spike1, self.spike2 = (side.spike(nn.BatchNorm2d(channels)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.spike2(self.conv2(self.spike1(self.conv1(x))))
        return y + x


class Attention(nn.Module):
    """Spiking self-attention, without softmax, and an MLP; on ``[..., C, tokens]``. Zhou et al., Spikformer, 2023."""

    def __init__(self, side: Side, C: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.ModuleList(side.still(nn.Conv1d(C, C, 1, bias=False)) for _ in range(3))
        self.spikes = nn.ModuleList(side.spike(nn.BatchNorm1d(C)) for _ in range(3))
        self.attend = side.spike(None, v_threshold=0.5)
        self.out, self.out_spike = side.still(nn.Conv1d(C, C, 1, bias=False)), side.spike(nn.BatchNorm1d(C))
        self.wide, self.wide_spike = side.still(nn.Conv1d(C, 4 * C, 1, bias=False)), side.spike(nn.BatchNorm1d(4 * C))
        self.narrow, self.narrow_spike = side.still(nn.Conv1d(4 * C, C, 1, bias=False)), side.spike(nn.BatchNorm1d(C))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            spike(conv(x)).unflatten(-2, (self.heads, -1)) for conv, spike in zip(self.qkv, self.spikes, strict=True)
        )
        mixed = (v @ k.transpose(-1, -2)) @ q * 0.125  # heads x d x d first: without softmax the order is free
        x = x + self.out_spike(self.out(self.attend(mixed.flatten(-3, -2))))
        y: Tensor = x + self.narrow_spike(self.narrow(self.wide_spike(self.wide(x))))
        return y


class Mean(nn.Module):
    """The mean over all that follows the channels."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(tuple(range(-self.dims, 0)))


def convolutional(side: Side, rehearse: bool) -> list[nn.Module]:
    """A residual SNN on [*, 3, 32, 32]."""
    C, blocks = (8, 1) if rehearse else (128, 4)
    torch.manual_seed(0)
    return [side.still(nn.Conv2d(3, C, 3, padding=1, bias=False)), side.spike(nn.BatchNorm2d(C)),
            *(Residual(side, C) for _ in range(blocks)), side.still(Mean(2)), side.still(nn.Linear(C, 10))]  # fmt: skip


def transformer(side: Side, rehearse: bool) -> list[nn.Module]:
    """A spiking transformer on [*, 3, 32, 32], patches of 4 x 4."""
    C, blocks = (16, 1) if rehearse else (384, 4)
    torch.manual_seed(0)
    return [side.still(nn.Conv2d(3, C, 4, 4, bias=False)), side.still(nn.Flatten(2)), side.spike(nn.BatchNorm1d(C)),
            *(Attention(side, C, 2 if rehearse else 8) for _ in range(blocks)), side.still(Mean(1)),
            side.still(nn.Linear(C, 10))]  # fmt: skip


class Training:
    """A training step: Adam, cross entropy of the mean over time."""

    def __init__(
        self, bench: Bench, side: Side, build: Callable[[Side, bool], list[nn.Module]], **options: Any
    ) -> None:
        self.dtype: torch.dtype | None = options.get("dtype")
        channels_last, spikes = options.get("channels_last", False), options.get("spikes", "dense")
        T, B, size = (2, 2, 8) if bench.rehearse else (4, 64, 32)
        net: Any = side.network(build(side, bench.rehearse))
        if spikes != "dense":
            net.spikes = spikes
        x = bench.random(T * B, 3, size, size, seed=1).abs()
        self.net = net.to(bench.device)
        if channels_last:
            self.net = net.to(memory_format=torch.channels_last)
            x = x.contiguous(memory_format=torch.channels_last)
        self.call = sl.graphed(net) if options.get("graphed") else net
        self.x, self.device = x.unflatten(0, (T, B)), bench.device.type
        self.labels = torch.arange(B, device=bench.device) % 10
        self.optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, capturable=not bench.rehearse)

    def loss(self, dtype: torch.dtype | None) -> Tensor:
        """Of the one batch."""
        with torch.autocast(self.device, dtype) if dtype else nullcontext():
            return F.cross_entropy(self.call(self.x).float().mean(0), self.labels)

    def gradient(self, dtype: torch.dtype | None = None) -> Tensor:
        """Of all parameters, flat."""
        found = torch.autograd.grad(self.loss(dtype), list(self.net.parameters()))
        return torch.cat([g.contiguous().flatten().double() for g in found])

    def __call__(self) -> None:
        self.optimiser.zero_grad()
        self.loss(self.dtype).backward()
        self.optimiser.step()


def step(bench: Bench, build: Callable[[Side, bool], list[nn.Module]], dtype: torch.dtype | None) -> Row:
    """Training steps, T=4, batch 64, eager and captured, in both memory formats; gradients are compared first."""
    first = Training(bench, Side(), build, dtype=dtype)
    wanted, half = first.gradient(), first.gradient(dtype)

    def maker(name: str, side: Side, *, capture: bool = False, **options: Any) -> Callable[[], Run]:
        def make() -> Run:
            training = Training(bench, side, build, dtype=dtype, **options)
            cosine = float(F.cosine_similarity(wanted, training.gradient(), dim=0))
            if cosine < 0.97:
                raise ValueError(f"its gradient has a cosine of {cosine:.4f} with ours: it is not the same network")
            said = f"  {name}: the gradient has a cosine of {cosine:.4f} with ours in float32"
            if dtype is not None:  # states of others are in half precision too, and other neurons spike
                said += f", {float(F.cosine_similarity(half, training.gradient(dtype), dim=0)):.4f} in {str(dtype)[6:]}"
            print(said, flush=True)
            return bench.captured(training) if capture else training

        return make

    sides: dict[str, Callable[[], Run]] = {"spikeloom": lambda: first}
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("channels_last", {"channels_last": True}),
        ("captured", {"capture": True}),
        ("channels_last, captured", {"channels_last": True, "capture": True}),
    ]
    packed = [("packed, captured", {"spikes": "packed", "capture": True})]
    packed += [("packed, channels_last, captured", {**packed[0][1], "channels_last": True})]
    graphed = (
        [("channels_last, sl.graphed", {"channels_last": True, "graphed": True})] if hasattr(sl, "graphed") else []
    )
    for kind, options in [*kinds, *packed, *graphed]:
        name = f"spikeloom, {kind}"
        sides[name] = maker(name, Side(), **options)
    node = jelly_node(bench)
    if node is not None:
        for kind, options in [("", {}), *kinds]:
            name = f"spikingjelly, {kind}" if kind else "spikingjelly"
            sides[name] = maker(name, Side(node), **options)
    return bench.compare(sides, launches=True)


def stream(bench: Bench) -> Row:
    """A step of a stream: conv - bn - LIF - pool twice, two linear layers, 64 x 64, batch 1."""
    size, C = (8, 4) if bench.rehearse else (64, 32)
    x = bench.random(1, 2, size, size).abs()

    def layers(norm_and_neuron: Callable[[int], list[nn.Module]], neuron: Callable[[], nn.Module]) -> list[nn.Module]:
        torch.manual_seed(0)
        return [
            nn.Conv2d(2, C, 3, padding=1, bias=False), *norm_and_neuron(C), nn.MaxPool2d(2),
            nn.Conv2d(C, 2 * C, 3, padding=1, bias=False), *norm_and_neuron(2 * C), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(2 * C * (size // 4) ** 2, 128), neuron(), nn.Linear(128, 10),
        ]  # fmt: skip

    def ours() -> tuple[Any, Any]:
        body = layers(lambda n: [nn.BatchNorm2d(n), sl.LIF(tau=2.0)], lambda: sl.LIF(tau=2.0))
        net = sl.Network(*body).to(bench.device).eval()
        return net, net.stream()

    def by_hand() -> Run:
        """The network for one step, which writes the new states over the old."""
        net, _ = ours()
        with torch.inference_mode():
            states = net(x.unsqueeze(0), return_state=True)[1].state

        def run() -> Tensor:
            with torch.inference_mode():
                y, result = net(x.unsqueeze(0), state=states, return_state=True)
                for path, old in states.items():
                    for name, value in old.items():
                        value.copy_(result.state[path][name])
            return y

        return bench.captured(run)

    def frozen() -> Run:
        net, _ = ours()
        stream = net.stream(frozen=True)

        def run() -> Tensor:
            with torch.inference_mode():
                return stream(x)

        return run

    def eager() -> Run:
        _, stream = ours()

        def run() -> Tensor:
            with torch.inference_mode():
                return stream(x)

        return run

    sides: dict[str, Callable[[], Run]] = {
        "spikeloom, a stream": eager,
        "spikeloom, a frozen stream": frozen,
        "spikeloom, captured by hand": by_hand,
    }
    node = jelly_node(bench, step_mode="s")
    if node is not None:
        sides["spikingjelly"] = lambda: _jelly_stream(bench, node, layers, x, capture=False)
        sides["spikingjelly, captured"] = lambda: _jelly_stream(bench, node, layers, x, capture=True)
    return bench.compare(sides, launches=True)


def _jelly_stream(bench: Bench, node: Callable[[], nn.Module], layers: Any, x: Tensor, *, capture: bool) -> Run:
    net = nn.Sequential(*layers(lambda n: [nn.BatchNorm2d(n), node()], node)).to(bench.device).eval()
    nodes: list[Any] = [m for m in net if hasattr(m, "v_threshold")]

    def run() -> Tensor:
        with torch.no_grad():
            before = [n.v for n in nodes]
            y: Tensor = net(x)
            if capture:  # a replay reads its states where the recorded call did
                for n, v in zip(nodes, before, strict=True):
                    n.v = v.copy_(n.v)
            return y

    with torch.no_grad():
        net(x)
    return bench.captured(run) if capture else run
