"""Kernels printed in Triton, for GPUs."""
