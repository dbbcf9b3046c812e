"""Triton kernels and their plain PyTorch twins."""
