"""A LIF layer in JAX, in an environment of its own: ``jit`` of ``lax.scan``, forward and backward.

It is started by ``neuron_layer`` with a folder in which ``x.npy`` and ``g.npy`` lie. It writes the spikes and the
gradient of x there, says that it is ready, and then runs once for every line that it is sent, answering with the
milliseconds that this took. Needs jax and NumPy alone.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@jax.custom_vjp
def fire(u: Any) -> Any:
    """1 where u >= 0."""
    return (u >= 0).astype(u.dtype)


def _fire_forward(u: Any) -> tuple[Any, Any]:
    return fire(u), u


def _fire_backward(u: Any, g: Any) -> tuple[Any]:
    """The derivative of the arctangent: alpha / 2 / (1 + (pi alpha u / 2)^2) with alpha = 2."""
    return (g / (1 + (jnp.pi * u) ** 2),)


fire.defvjp(_fire_forward, _fire_backward)


def layer(x: Any) -> Any:
    """Spikes of h = v + (x - v) / 2, s = h >= 1, v = (1 - s) h."""

    def step(v: Any, x_t: Any) -> tuple[Any, Any]:
        h = v + (x_t - v) / 2.0
        s = fire(h - 1.0)
        return (1 - s) * h, s

    return lax.scan(step, jnp.zeros_like(x[0]), x)[1]


@jax.jit
def both(x: Any, g: Any) -> tuple[Any, Any]:
    """Spikes and the gradient of x."""
    y, pull = jax.vjp(layer, x)
    return y, pull(g)[0]


def main() -> None:
    """Runs once for every line of the standard input."""
    folder = Path(sys.argv[1])
    x, g = (jnp.asarray(np.load(folder / f"{name}.npy")) for name in ("x", "g"))
    y, gx = both(x, g)
    np.save(folder / "y.npy", np.asarray(y))
    np.save(folder / "gx.npy", np.asarray(gx))
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        jax.block_until_ready(both(x, g))
        print((time.perf_counter() - start) * 1e3, flush=True)


if __name__ == "__main__":
    main()
