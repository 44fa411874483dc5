"""Kernels printed in C, for CPUs."""
