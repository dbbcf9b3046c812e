"""Benchmarks: pytest-benchmark suites and the peers they stand beside."""
