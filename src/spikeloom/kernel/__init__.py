"""How a neuron's steps are run: as a PyTorch loop, or by kernels generated from its equation."""

from .backend import Backend, BackendError, backend, watching
from .scan import full_precision, one_step, output_dtype, scan, state_dtype

__all__ = [
    "Backend",
    "BackendError",
    "backend",
    "full_precision",
    "one_step",
    "output_dtype",
    "scan",
    "state_dtype",
    "watching",
]
