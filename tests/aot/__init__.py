"""Kernels compiled for every architecture, without a GPU."""
