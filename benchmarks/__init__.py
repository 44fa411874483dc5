"""Benchmarks against the peers. ``benchmarks/README.md`` says how to run and read them."""
