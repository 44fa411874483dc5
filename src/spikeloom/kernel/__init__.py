"""How a neuron's steps are run."""

from .scan import full_precision, one_step, output_dtype, scan, state_dtype

__all__ = ["full_precision", "one_step", "output_dtype", "scan", "state_dtype"]
