"""How a neuron's steps are run: as a PyTorch loop, or by kernels generated from its equation."""

from .backend import Backend, BackendError, backend, is_one_constant, may_prepare, plain_value, watching
from .compiled import kernels_of
from .dtypes import output_dtype, state_dtype
from .gradient import warn_of_no_gradient
from .loop import full_precision, scan_eager
from .norm import KINDS as FUSED_NORMS
from .norm import Norm
from .op import program_text
from .request import Found, Request
from .scan import gives_spikes, one_step, prepared_step, scan, source
from .targets import target_for
from .waiting import called

__all__ = [
    "FUSED_NORMS",
    "Backend",
    "BackendError",
    "Found",
    "Norm",
    "Request",
    "backend",
    "called",
    "full_precision",
    "gives_spikes",
    "is_one_constant",
    "kernels_of",
    "may_prepare",
    "one_step",
    "output_dtype",
    "plain_value",
    "prepared_step",
    "program_text",
    "scan",
    "scan_eager",
    "source",
    "state_dtype",
    "target_for",
    "warn_of_no_gradient",
    "watching",
]
