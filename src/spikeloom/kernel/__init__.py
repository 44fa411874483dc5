"""How a neuron's steps are run: as a PyTorch loop, or by kernels generated from its equation."""

from .backend import Backend, BackendError, backend, plain_value, watching
from .dtypes import output_dtype, state_dtype
from .norm import KINDS as FUSED_NORMS
from .scan import full_precision, one_step, prepared_step, scan, scan_eager, source

__all__ = [
    "FUSED_NORMS",
    "Backend",
    "BackendError",
    "backend",
    "full_precision",
    "one_step",
    "output_dtype",
    "plain_value",
    "prepared_step",
    "scan",
    "scan_eager",
    "source",
    "state_dtype",
    "watching",
]
