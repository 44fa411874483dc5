"""A neuron layer, forward and backward: small, large, and a neuron that nobody wrote a kernel for.

Beside the peers stand JAX (``jit`` of ``lax.scan``, in an environment of its own) and the limit: a program that moves
the same bytes in the same order.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import spikeloom as sl

from .common import compare, must_match
from .limit import limit

_JAX = Path(__file__).parents[1] / ".peers-jax" / "bin" / "python"


def inputs(T: int, *shape: int) -> tuple[Tensor, Tensor]:
    """x ~ N(0.6, 1) and a random upstream gradient."""
    g = torch.Generator().manual_seed(0)
    x = 0.6 + torch.randn(T, *shape, generator=g)
    return x, torch.randn(T, *shape, generator=g)


def training(forward: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> tuple[Callable[[], Any], list[Tensor]]:
    """A function that runs forward and backward, and what it gave once: spikes and the gradient of x."""
    leaf = x.clone().requires_grad_()

    def run() -> Tensor:
        leaf.grad = None
        y = forward(leaf)
        y.backward(g)
        return y

    y = run().detach()
    assert leaf.grad is not None
    return run, [y, leaf.grad.clone()]


def peers() -> dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]:
    """Each peer's LIF, and ours with the same dynamics and surrogate."""
    found = {}
    try:
        from spikingjelly.activation_based import functional, neuron, surrogate

        node = neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(), step_mode="m")

        def spikingjelly(x: Tensor) -> Tensor:
            functional.reset_net(node)
            return node(x)

        lif = sl.LIF(tau=2.0)
        found["spikingjelly"] = (spikingjelly, lambda x: lif.sequence(x)[0])
    except ImportError:
        pass
    try:
        import snntorch

        leaky = snntorch.Leaky(beta=0.5, reset_mechanism="zero", reset_delay=False)

        def by_steps(x: Tensor) -> Tensor:
            mem, spikes = leaky.reset_mem(), []
            for x_t in x:
                spike, mem = leaky(x_t, mem)
                spikes.append(spike)
            return torch.stack(spikes)

        same = sl.LIF(tau=2.0, decay_input=False, strict=True)
        found["snntorch"] = (by_steps, lambda x: same.sequence(x)[0])
    except ImportError:
        pass
    return found


def layer(T: int, *shape: int) -> dict[str, Any]:
    """Our LIF against every peer's."""
    x, g = inputs(T, *shape)
    sides: dict[str, Callable[[], Any]] = {}
    for name, (theirs, ours) in peers().items():
        run_theirs, gave_theirs = training(theirs, x, g)
        run_ours, gave_ours = training(ours, x, g)
        must_match(name, gave_ours, gave_theirs)
        sides.setdefault("spikeloom", run_ours)
        sides[name] = run_theirs
    lif = sl.LIF(tau=2.0)
    run_lif, gave = training(lambda x: lif.sequence(x)[0], x, g)
    sides.setdefault("spikeloom", run_lif)
    sides["limit"], sides["copy of x"] = limit(x, g), lambda: x.clone()
    with in_jax(x, g, gave) as there:
        return {"spikes": float(gave[0].mean()), "sides": compare({**sides, **there})}


@contextlib.contextmanager
def in_jax(x: Tensor, g: Tensor, ours: list[Tensor]) -> Iterator[dict[str, Callable[[], float]]]:
    """The same layer in JAX, matched with what ours gave; nothing where its environment is missing."""
    if not _JAX.exists():
        yield {}
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "x.npy", x.numpy())
        np.save(folder / "g.npy", g.numpy())
        command = [str(_JAX), str(Path(__file__).with_name("jax_lif.py")), name]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            if child.stdout.readline() != "ready\n":
                raise SystemExit("jax did not start; nothing was timed")
            found = [torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("y", "gx")]
            must_match("jax", ours, found)
            send, receive = child.stdin, child.stdout

            def run() -> float:
                print(file=send, flush=True)
                return float(receive.readline())

            yield {"jax": run}
            child.stdin.close()


class TwoStates(sl.Neuron):
    """An adaptive neuron with two states and an exponential, defined here."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.numbers(tau=2.0, rho=nn.Parameter(torch.linspace(0.7, 0.98, features)))
        self.states(v=0.0, a=0.0)

    def dynamics(self, x: Tensor, v: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = v + (x * torch.exp(-a) - v) / self.tau
        s = self.fire(h - 1.0 - 0.3 * a)
        return s, self.reset_to_zero(h, s), a * self.rho + s * (1 - self.rho)

    def reset_to_zero(self, h: Tensor, s: Tensor) -> Tensor:
        """A method of the neuron is part of its equation."""
        return (1 - s) * h


def custom() -> dict[str, Any]:
    """The neuron above as a kernel, against itself in eager and against our LIF."""
    x, g = inputs(100, 64, 512)
    neuron, lif = TwoStates(512), sl.LIF(tau=2.0)

    def eager(x: Tensor) -> Tensor:
        with sl.backend("eager"):
            y: Tensor = neuron.sequence(x)[0]
        return y

    run_eager, gave_eager = training(eager, x, g)
    run_kernel, gave_kernel = training(lambda x: neuron.sequence(x)[0], x, g)
    must_match("eager", gave_kernel, gave_eager, tolerance=1e-4)
    run_lif, _ = training(lambda x: lif.sequence(x)[0], x, g)
    spikes = float(gave_kernel[0].mean())
    return {"spikes": spikes, "sides": compare({"spikeloom": run_kernel, "eager": run_eager, "LIF": run_lif})}


def main() -> dict[str, Any]:
    """All rows; memory is retained on all sides for the large layer."""
    rows = {"LIF, T=100, 64x512": layer(100, 64, 512), "LIF, T=8, 128x128": layer(8, 128, 128)}
    rows["two states, T=100, 64x512"] = custom()
    rows["LIF, T=16, 16x128x16x16"] = layer(16, 16, 128, 16, 16)
    rows["LIF, T=32, 32x4096"] = layer(32, 32, 4096)
    sl.retain_memory()
    rows["LIF, T=100, 64x512, memory retained"] = layer(100, 64, 512)
    rows["LIF, T=16, 16x128x16x16, memory retained"] = layer(16, 16, 128, 16, 16)
    sl.release_memory()
    return rows
